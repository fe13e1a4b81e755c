"""The outcome of one rule, and its sentence: what was seen, against what was asked."""

from dataclasses import dataclass
from math import ceil, inf

from mlct.evaluation.compare import Comparison, Measure
from mlct.evaluation.decision import (
    FAIL,
    INCONCLUSIVE,
    NOT_JUDGED,
    PASS,
    RuleOutcome,
    finite,
    number,
    percent,
    signed,
)
from mlct.evaluation.outlook import POWER, by, units_needed
from mlct.evaluation.policy import (
    GatePolicy,
    GroupGap,
    Guardrail,
    Limit,
    NonInferiority,
    Ratio,
    ReplaceWhenStale,
    SliceRegression,
    Superiority,
)
from mlct.evaluation.record import Evaluation
from mlct.evaluation.selection import afresh, level

_SLACK = 1e-12  # confidences are computed: they may differ in the last digit


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """Holds one evaluation against one policy, a rule at a time."""

    evaluation: Evaluation
    policy: GatePolicy

    def guardrail(self, rule: Guardrail) -> RuleOutcome:
        """What must not get worse."""
        if isinstance(rule, NonInferiority):
            return self.paired(rule, level(rule.confidence, self.evaluation.looks))
        if isinstance(rule, SliceRegression):
            return self.slices(rule)
        if isinstance(rule, GroupGap):
            return self.gap(rule)
        return self.ratio(rule) if isinstance(rule, Ratio) else self.limit(rule)

    def paired(
        self, rule: Superiority | NonInferiority | ReplaceWhenStale, confidence: float
    ) -> RuleOutcome:
        """Superiority or non-inferiority to the champion."""
        if isinstance(rule, Superiority):
            bound, required = rule.min_effect, f"more than {signed(rule.min_effect)}"
            target = f"the required {signed(bound)}"
            told = (f"beats {target}", f"does not reach {target}", f"leaves {target} undecided")
        else:
            bound, required = -rule.margin, f"worse by less than {number(rule.margin)}"
            target = f"the margin {signed(bound)}"
            told = (f"stays within {target}", f"falls below {target}", f"leaves {target} undecided")
        if self.evaluation.champion != "scored":
            return self.not_judged(rule.name, rule.kind, required, bound)
        found = self.evaluation.comparison(rule.name, confidence=confidence)
        if found is None or not finite(found.delta, found.lower, found.upper):
            return self.missing(rule.name, rule.kind, required, bound, found is not None)
        subject = directed(rule)
        if isinstance(rule, ReplaceWhenStale):
            subject = (
                f"the champion is {self.evaluation.champion_age_days:.3g} days old, more than "
                f"{rule.after}, so not being worse is enough: {subject}"
            )
        return self.compared(rule.kind, subject, found, bound, required, told)

    def limit(self, rule: Limit) -> RuleOutcome:
        """A metric or measured value of the challenger, on its whole interval."""
        confidence = rule.confidence
        if rule.is_metric:
            confidence = level(confidence, self.evaluation.looks)
        found = self.evaluation.measures.get(rule.name, {}).get("challenger")
        least = -inf if rule.min is None else rule.min
        most = inf if rule.max is None else rule.max
        return self._inside(rule, rule.name, found, (least, most), confidence)

    def ratio(self, rule: Ratio) -> RuleOutcome:
        """A measured value as a multiple of the champion's."""
        name = f"{rule.name} against the champion's"
        if self.evaluation.champion != "scored":
            return self.not_judged(rule.name, rule.kind, f"<= {number(rule.max)}", rule.max)
        found = self.evaluation.measures.get(rule.measure, {}).get("challenger")
        if found is None:
            each = self.evaluation.measures.get(rule.metric, {})
            ours, theirs = each.get("challenger"), each.get("champion")
            if ours is not None and theirs is not None and theirs.value > 0:
                found = Measure(value=ours.value / theirs.value)
        return self._inside(rule, name, found, (-inf, rule.max), rule.confidence)

    def _inside(
        self,
        rule: Limit | Ratio,
        name: str,
        found: Measure | None,
        limits: tuple[float, float],
        confidence: float,
    ) -> RuleOutcome:
        (least, most), times = limits, " times" * isinstance(rule, Ratio)
        sides = ((">=", least), ("<=", most))
        required = " and ".join(f"{s} {number(x)}{times}" for s, x in sides if abs(x) < inf)
        bound = most if most < inf else least
        if found is None or not finite(found.value):
            return self.missing(rule.name, rule.kind, required, bound, found is not None)
        low = found.value if found.lower is None else found.lower
        high = found.value if found.upper is None else found.upper
        own, why = found.confidence or confidence, ""
        if own < confidence - _SLACK:
            why = f"was measured at {percent(own)}, the rule asks for {percent(confidence)}"
        elif not finite(low, high):
            why = f"has no bound at {percent(own)} ({found.method})"
        if why:
            return self.missing(rule.name, rule.kind, required, bound, True, why)
        needed: int | None = None
        when: str | None = None
        if least <= low and high <= most:
            outcome, said = PASS, f"is inside the limit {required}"
        elif high < least or low > most:
            outcome, said = FAIL, f"is outside the limit {required}"
        else:
            outcome, said = INCONCLUSIVE, f"leaves the limit {required} undecided"
            room = min(found.value - least, most - found.value)
            if isinstance(rule, Ratio) or not rule.is_metric:
                said += "; it is measured on a fixed number of rows, more of them do not help"
            elif found.standard_error:
                needed, when, outlook = self._room(found.standard_error, confidence, room)
                said += outlook
        if chance := self.evaluation.by_chance.get(rule.name):
            said += f"; a perfect model would show about {number(chance)} here by chance"
        spread = "" if low == high else f"{number(low)} to {number(high)}"
        shown = spread and f" ({percent(own)} bounds {spread})"
        value = f"{number(found.value)}{times}"
        return RuleOutcome(
            name=rule.name,
            rule=rule.kind,
            outcome=outcome,
            observed=value + (spread and f" [{spread}]"),
            required=required,
            reason=f"{name} {value}{shown} {said}",
            value=found.value,
            lower=found.lower,
            upper=found.upper,
            bound=bound,
            needed=needed,
            ready=when,
        )

    def gap(self, rule: GroupGap) -> RuleOutcome:
        """The largest difference between two groups, on its whole interval."""
        from scipy.special import ndtri

        required = f"<= {number(rule.max)}"
        confidence = level(rule.confidence, self.evaluation.looks)
        for found in self.evaluation.gaps:
            if (f"{found.metric} by {found.by}", found.confidence) == (rule.name, confidence):
                break
        else:
            return self.missing(rule.name, rule.kind, required, rule.max, False)
        low, high, groups = found.lower, found.upper, found.groups
        left_out = f"; too small to judge: {', '.join(found.too_small)}" * bool(found.too_small)
        spread = f"{number(low)} to {number(high)}"
        needed, when, outlook = None, None, ""
        if len(groups) < 2:
            outcome = INCONCLUSIVE
            said = (
                f"cannot be judged: {len(groups)} of {len(groups) + len(found.too_small)} groups "
                f"have the {self.policy.min_group:,} rows it takes"
            )
            if found.times is not None:
                needed = ceil(found.times * self._units)
                when, clause = by(needed, self._units, self.evaluation)
                outlook = f"; about {needed:,} {self._noun} would have them{clause}"
        else:
            allowed = f"the allowed {number(rule.max)}"
            if finite(found.value, high) and high <= rule.max:
                outcome, told = PASS, f"stays within {allowed}"
            elif low > rule.max:
                outcome, told = FAIL, f"exceeds {allowed}"
            else:
                outcome, told = INCONCLUSIVE, f"leaves {allowed} undecided"
                if finite(found.value, high):
                    # The bounds' reach stands for an error: one of t is a little wider.
                    error = (high - found.value) / float(ndtri(confidence))
                    needed, when, outlook = self._room(error, confidence, rule.max - found.value)
                else:
                    outlook = "; the error of a group is not known: it is seen in one cluster only"
            top, bottom = max(groups, key=groups.__getitem__), min(groups, key=groups.__getitem__)
            said = (
                f"{number(found.value)} ({percent(confidence)} bounds {spread}; {top} "
                f"{number(groups[top])}, {bottom} {number(groups[bottom])}) {told}"
            )
        return RuleOutcome(
            name=rule.name,
            rule=rule.kind,
            outcome=outcome,
            observed=f"{number(found.value)} [{spread}]" if len(groups) >= 2 else "too few groups",
            required=required,
            reason=f"gap of {rule.name} {said}{left_out}{outlook}",
            value=found.value,
            lower=low,
            upper=high,
            bound=rule.max,
            needed=needed,
            ready=when,
        )

    def slices(self, rule: SliceRegression) -> RuleOutcome:
        """Slices in which the challenger is shown to be worse than the champion."""
        worse = f"worse by more than {number(rule.margin)}"
        required = f"no slice {worse}"
        if self.evaluation.champion != "scored":
            return self.not_judged(rule.name, rule.kind, required, -rule.margin)
        wanted = (rule.of_metric.name, rule.columns, rule.margin)
        for found in self.evaluation.slices:
            if (found.metric, found.by, found.margin) == wanted:
                break
        else:
            return self.missing(rule.name, rule.kind, required, -rule.margin, False)
        worst, count = found.worst, len(found.slices)
        left_out = f"; too small to judge: {', '.join(found.too_small)}" * bool(found.too_small)
        bad = found.regressions(rule.fdr)
        if worst is None:
            outcome, observed = INCONCLUSIVE, "no slice"
            said = f"no slice has the {self.policy.min_group:,} rows it takes to judge it"
        elif bad:
            outcome, observed = FAIL, f"{len(bad)} of {count}"
            named = "; ".join(f"{s.name} {signed(s.delta)}, {s.rows:,} rows" for s in bad)
            said = f"{worse} in {len(bad)} of {count} slices: {named}"
        else:
            outcome, observed = PASS, f"0 of {count}"
            said = (
                f"shown to be {worse} in none of {count} slices; the most doubtful is "
                f"{worst.name} {signed(worst.delta)}, adjusted p {number(worst.adjusted)}"
            )
        return RuleOutcome(
            name=rule.name,
            rule=rule.kind,
            outcome=outcome,
            observed=observed,
            required=required,
            reason=f"{rule.name}: {said}{left_out}",
            value=None if worst is None else worst.delta,
            lower=None if worst is None else worst.lower,
            upper=None if worst is None else worst.upper,
            bound=-rule.margin,
        )

    def compared(
        self,
        kind: str,
        subject: str,
        found: Comparison,
        bound: float,
        required: str,
        told: tuple[str, str, str],
    ) -> RuleOutcome:
        """A comparison against a bound; `told` are the words for won, lost and undecided."""
        low, high = signed(found.lower), signed(found.upper)
        needed, when, outlook = None, None, ""
        if found.lower > bound:
            outcome, said, shown = PASS, told[0], f"lower bound {low}"
        elif found.upper < bound:
            outcome, said, shown = FAIL, told[1], f"upper bound {high}"
        else:
            outcome, said, shown = INCONCLUSIVE, told[2], f"bounds {low} to {high}"
            needed, when, outlook = self._outlook(found, bound)
        independent = "independent " * (found.clusters is None)
        same = ", the models score these rows identically" * bool(found.lower == found.upper == 0)
        return RuleOutcome(
            name=found.metric,
            rule=kind,
            outcome=outcome,
            observed=f"{signed(found.delta)} [{low} to {high}]",
            required=required,
            reason=f"{subject} {signed(found.delta)} ({percent(found.confidence)} {shown}) {said}: "
            f"{self._units:,} {independent}{self._noun}, {found.method}{same}{outlook}",
            value=found.delta,
            lower=found.lower,
            upper=found.upper,
            bound=bound,
            needed=needed,
            ready=when,
        )

    def missing(
        self,
        name: str,
        kind: str,
        required: str,
        bound: float | None,
        measured: bool,
        why: str = "",
    ) -> RuleOutcome:
        """What the policy needs and nobody measured, or not as it needs it: `why`."""
        what = why or ("is not a finite number" if measured else "was not measured")
        return RuleOutcome(
            name=name,
            rule=kind,
            outcome=FAIL if self.policy.on_missing == "fail" else INCONCLUSIVE,
            observed=why or ("not finite" if measured else "missing"),
            required=required,
            reason=f"{name} {what}, and the policy requires it to be {required}",
            bound=bound,
        )

    def not_judged(self, name: str, kind: str, required: str, bound: float) -> RuleOutcome:
        """What needs a champion where there is none."""
        return RuleOutcome(
            name=name,
            rule=kind,
            outcome=NOT_JUDGED,
            observed="no champion to compare",
            required=required,
            reason=f"{name} is not judged for {kind.replace('_', '-')}: that needs a champion",
            bound=bound,
        )

    def _outlook(self, found: Comparison, bound: float) -> tuple[int | None, str | None, str]:
        """How many rows or clusters would decide a comparison, and when."""
        if not found.standard_error > 0:
            return None, None, ""
        if found.delta > bound:
            distance = found.delta - bound
            needed, when, clause = self._needed(found.standard_error, found.confidence, distance)
            said = (
                f"; if the observed value is real, about {needed:,} {self._noun} would show it "
                f"with power {POWER:g}{clause}"
            )
            return needed, when, said
        effect = bound + max(abs(bound), found.standard_error)
        distance = effect - bound
        needed, when, clause = self._needed(found.standard_error, found.confidence, distance)
        said = (
            f"; the observed effect is not enough, so more {self._noun} alone are not expected to "
            f"help: a true effect of {signed(effect)} would take about {needed:,} {self._noun} to "
            f"show with power {POWER:g}{clause}"
        )
        return needed, when, said

    def _room(
        self, error: float, confidence: float, room: float
    ) -> tuple[int | None, str | None, str]:
        """How much more would show that what lies `room` inside its limit, or outside, does so."""
        if room == 0 or error == 0:
            return None, None, f"; on the limit itself, more {self._noun} are not expected to help"
        needed, when, clause = self._needed(error, confidence, abs(room))
        side = "inside" if room > 0 else "outside"
        said = (
            f"; if the observed value is real, about {needed:,} {self._noun} would show that it "
            f"is {side} with power {POWER:g}{clause}"
        )
        return needed, when, said

    def _needed(
        self, error: float, confidence: float, distance: float
    ) -> tuple[int, str | None, str]:
        # A longer holdout is another one: the first decision on it has the widest level.
        confidence = afresh(confidence, self.evaluation.looks)
        needed = units_needed(self._units, error, distance, confidence)
        return needed, *by(needed, self._units, self.evaluation)

    @property
    def _units(self) -> int:
        return self.evaluation.clusters or self.evaluation.rows

    @property
    def _noun(self) -> str:
        return f"{self.evaluation.unit}s" if self.evaluation.clusters else "rows"


def directed(rule: Superiority | NonInferiority | ReplaceWhenStale) -> str:
    """The metric's name, as an improvement where smaller is better."""
    found = rule.of_metric
    return found.name if found.bigger_is_better else f"{found.name} improvement"
