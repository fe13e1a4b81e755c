"""May people be asked to approve this challenger? A policy, an evaluation, three verdicts.

PASS: everything required is shown. FAIL: something required is shown not to hold, or was not
measured. INCONCLUSIVE: the holdout does not decide; the champion stays. A number that is not
finite never passes.
"""

from dataclasses import dataclass
from math import ceil, inf, isfinite
from typing import Any

from mlct.evaluation.compare import Comparison
from mlct.evaluation.evaluate import Evaluation, plain
from mlct.evaluation.policy import (
    GatePolicy,
    GroupGap,
    Guardrail,
    Limit,
    NonInferiority,
    Superiority,
)

__all__ = [
    "GateDecision",
    "GatePolicy",
    "GroupGap",
    "Guardrail",
    "Limit",
    "NonInferiority",
    "RuleOutcome",
    "Superiority",
    "decide",
]

PASS, FAIL, INCONCLUSIVE, NOT_JUDGED = "PASS", "FAIL", "INCONCLUSIVE", "NOT JUDGED"
POWER = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleOutcome:
    """What one rule asked for, what was observed, and the outcome with its sentence.

    `outcome` is PASS, FAIL, INCONCLUSIVE or NOT JUDGED (needs a champion). `observed` and
    `required` are texts for a table; `value`, `lower`, `upper` and `bound` their numbers. `needed`
    is how many rows or clusters would decide, where that can be said.
    """

    name: str
    rule: str
    outcome: str
    observed: str
    required: str
    reason: str
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    bound: float | None = None
    needed: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GateDecision:
    """The verdict, with one sentence per rule in `reasons`: what stands in the way comes first."""

    verdict: str
    reasons: tuple[str, ...]
    rules: tuple[RuleOutcome, ...]

    @property
    def sentence(self) -> str:
        """The verdict and what decided it, in one line."""
        if self.verdict != PASS:
            told = [rule.reason for rule in self.rules if rule.outcome == self.verdict]
            return f"{self.verdict}: {'; '.join(told)}"
        lead = [rule for rule in self.rules if rule.rule in ("champion", "baseline")]
        first = [rule for rule in self.rules if rule.rule == "superiority"]
        told = [rule.reason for rule in (first if first[0].outcome == PASS else lead)]
        held = sum(rule.rule in _GUARDRAILS and rule.outcome == PASS for rule in self.rules)
        return f"{PASS}: {'; '.join(told)}" + f"; guardrails held: {held}" * bool(held)

    def to_dict(self) -> dict[str, Any]:
        """The decision as plain JSON values; numbers that are not finite become null."""
        values: dict[str, Any] = plain(self)
        return {"format": "mlct.gate_decision/v1"} | values

    def to_markdown(self) -> str:
        """The verdict's sentence, then a table of the rules."""
        lines = [
            self.sentence,
            "",
            "| rule | on | observed | required | outcome |",
            "| --- | --- | --- | --- | --- |",
            *(
                f"| {r.rule} | {r.name} | {r.observed} | {r.required} | {r.outcome} |"
                for r in self.rules
            ),
        ]
        return "\n".join(lines) + "\n"


_GUARDRAILS = (NonInferiority.kind, Limit.kind, GroupGap.kind)


def decide(evaluation: Evaluation, policy: GatePolicy) -> GateDecision:
    """Judge every rule of the policy: any FAIL fails, else any INCONCLUSIVE is inconclusive.

    Wherever there is a baseline the challenger must beat it on the primary metric. Without a
    champion that and the absolute guardrails decide; a champion that cannot be scored leaves the
    verdict INCONCLUSIVE at best.
    """
    judge = _Judge(evaluation=evaluation, policy=policy)
    rules = [*judge.evidence(), *judge.champion(), judge.paired(policy.primary)]
    rules += judge.baseline()
    for rule in policy.guardrails:
        if isinstance(rule, NonInferiority):
            rules.append(judge.paired(rule))
        else:
            rules.append(judge.gap(rule) if isinstance(rule, GroupGap) else judge.limit(rule))
    outcomes = {rule.outcome for rule in rules}
    verdict = FAIL if FAIL in outcomes else INCONCLUSIVE if INCONCLUSIVE in outcomes else PASS
    reasons = tuple(
        rule.reason
        for level in (FAIL, INCONCLUSIVE, NOT_JUDGED, PASS)
        for rule in rules
        if rule.outcome == level and not (rule.rule == "evidence" and level == PASS)
    )
    return GateDecision(verdict=verdict, reasons=reasons, rules=tuple(rules))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judge:
    evaluation: Evaluation
    policy: GatePolicy

    def evidence(self) -> list[RuleOutcome]:
        """Is there enough to judge at all?"""
        seen, policy = self.evaluation, self.policy
        sizes = (
            ("rows", seen.rows, policy.min_rows),
            (f"{seen.unit}s", seen.clusters, policy.min_clusters),
            ("positives", seen.positives, policy.min_positives),
        )
        return [
            RuleOutcome(
                name=name,
                rule="evidence",
                outcome=PASS if size >= least else INCONCLUSIVE,
                observed=f"{size:,}",
                required=f">= {least:,}",
                reason=f"the holdout has {size:,} {name}, at least {least:,} are required",
                value=size,
                bound=least,
                needed=None if size >= least else least,
            )
            for name, size, least in sizes
            if size is not None
        ]

    def champion(self) -> list[RuleOutcome]:
        """A row of its own when there is no champion to compare with."""
        state = self.evaluation.champion
        if state == "scored":
            return []
        none = state == "none"
        return [
            RuleOutcome(
                name="champion",
                rule="champion",
                outcome=NOT_JUDGED if none else INCONCLUSIVE,
                observed=state,
                required="scored on the same holdout",
                reason="no champion yet: judged against the baseline and the absolute limits only"
                if none
                else f"the champion cannot be scored on this holdout: {state}",
            )
        ]

    def paired(self, rule: Superiority | NonInferiority) -> RuleOutcome:
        """Superiority or non-inferiority to the champion."""
        if isinstance(rule, Superiority):
            bound, required = rule.min_effect, f"more than {_signed(rule.min_effect)}"
            target = f"the required {_signed(bound)}"
            told = (f"beats {target}", f"does not reach {target}", f"leaves {target} undecided")
        else:
            bound, required = -rule.margin, f"worse by less than {_number(rule.margin)}"
            target = f"the margin {_signed(bound)}"
            told = (f"stays within {target}", f"falls below {target}", f"leaves {target} undecided")
        if self.evaluation.champion != "scored":
            return RuleOutcome(
                name=rule.name,
                rule=rule.kind,
                outcome=NOT_JUDGED,
                observed="no champion to compare",
                required=required,
                reason=f"{rule.name} is not judged for {rule.kind.replace('_', '-')}: "
                "that needs a champion",
                bound=bound,
            )
        found = self.evaluation.comparison(rule.name, confidence=rule.confidence)
        if found is None or not _finite(found.delta, found.lower, found.upper):
            return self._missing(rule.name, rule.kind, required, bound, found is not None)
        return self._compared(rule.kind, _directed(rule), found, bound, required, told)

    def baseline(self) -> list[RuleOutcome]:
        """What cannot beat the baseline is not worth a champion's place."""
        rule = self.policy.primary
        found = self.evaluation.comparison(
            rule.name, champion="baseline", confidence=rule.confidence
        )
        required = "better than the baseline"
        if found is None and self.evaluation.champion == "scored":
            return []
        if found is None or not _finite(found.delta, found.lower, found.upper):
            return [self._missing(rule.name, "baseline", required, 0.0, found is not None)]
        told = (
            "is better",
            "is worse",
            "is undecided",
        )
        subject = f"{_directed(rule)} against the baseline"
        return [self._compared("baseline", subject, found, 0.0, required, told)]

    def limit(self, rule: Limit) -> RuleOutcome:
        """A metric or measured value of the challenger, on its whole interval."""
        sides = ((">=", rule.min), ("<=", rule.max))
        required = " and ".join(f"{sign} {_number(x)}" for sign, x in sides if x is not None)
        bound = rule.max if rule.max is not None else rule.min
        found = self.evaluation.measures.get(rule.name, {}).get("challenger")
        if found is None:
            return self._missing(rule.name, rule.kind, required, bound, False)
        low = found.value if found.lower is None else found.lower
        high = found.value if found.upper is None else found.upper
        if not _finite(found.value, low, high):
            return self._missing(rule.name, rule.kind, required, bound, True)
        least = -inf if rule.min is None else rule.min
        most = inf if rule.max is None else rule.max
        if least <= low and high <= most:
            outcome, said = PASS, f"is inside the limit {required}"
        elif high < least or low > most:
            outcome, said = FAIL, f"is outside the limit {required}"
        else:
            outcome, said = INCONCLUSIVE, f"leaves the limit {required} undecided"
        spread = "" if low == high else f"{_number(low)} to {_number(high)}"
        shown = spread and f" ({_level(rule.confidence)} bounds {spread})"
        return RuleOutcome(
            name=rule.name,
            rule=rule.kind,
            outcome=outcome,
            observed=_number(found.value) + (spread and f" [{spread}]"),
            required=required,
            reason=f"{rule.name} {_number(found.value)}{shown} {said}",
            value=found.value,
            lower=found.lower,
            upper=found.upper,
            bound=bound,
        )

    def gap(self, rule: GroupGap) -> RuleOutcome:
        """The largest difference between two groups, on its whole interval."""
        required = f"<= {_number(rule.max)}"
        for found in self.evaluation.gaps:
            if (f"{found.metric} by {found.by}", found.confidence) == (rule.name, rule.confidence):
                break
        else:
            return self._missing(rule.name, rule.kind, required, rule.max, False)
        low, high, groups = found.lower, found.upper, found.groups
        left_out = f"; too small to judge: {', '.join(found.too_small)}" * bool(found.too_small)
        spread = f"{_number(low)} to {_number(high)}"
        if len(groups) < 2:
            outcome = INCONCLUSIVE
            said = (
                f"cannot be judged: {len(groups)} of {len(groups) + len(found.too_small)} groups "
                f"have the {self.policy.min_group:,} rows it takes"
            )
        else:
            if _finite(found.value, high) and high <= rule.max:
                outcome, verb = PASS, "stays within"
            elif low > rule.max:
                outcome, verb = FAIL, "exceeds"
            else:
                outcome, verb = INCONCLUSIVE, "leaves undecided"
            top, bottom = max(groups, key=groups.__getitem__), min(groups, key=groups.__getitem__)
            said = (
                f"{_number(found.value)} ({_level(rule.confidence)} bounds {spread}; {top} "
                f"{_number(groups[top])}, {bottom} {_number(groups[bottom])}) {verb} the allowed "
                f"{_number(rule.max)}"
            )
        return RuleOutcome(
            name=rule.name,
            rule=rule.kind,
            outcome=outcome,
            observed=f"{_number(found.value)} [{spread}]" if len(groups) >= 2 else "too few groups",
            required=required,
            reason=f"gap of {rule.name} {said}{left_out}",
            value=found.value,
            lower=low,
            upper=high,
            bound=rule.max,
        )

    def _compared(
        self,
        kind: str,
        subject: str,
        found: Comparison,
        bound: float,
        required: str,
        told: tuple[str, str, str],
    ) -> RuleOutcome:
        low, high = _signed(found.lower), _signed(found.upper)
        needed, outlook = None, ""
        if found.lower > bound:
            outcome, said, shown = PASS, told[0], f"lower bound {low}"
        elif found.upper < bound:
            outcome, said, shown = FAIL, told[1], f"upper bound {high}"
        else:
            outcome, said, shown = INCONCLUSIVE, told[2], f"bounds {low} to {high}"
            needed, outlook = self._outlook(found, bound)
        same = ", the models score these rows identically" * (found.lower == found.upper == 0)
        return RuleOutcome(
            name=found.metric,
            rule=kind,
            outcome=outcome,
            observed=f"{_signed(found.delta)} [{low} to {high}]",
            required=required,
            reason=f"{subject} {_signed(found.delta)} ({_level(found.confidence)} {shown}) {said}: "
            f"{self._size(found)}, {found.method}{same}{outlook}",
            value=found.delta,
            lower=found.lower,
            upper=found.upper,
            bound=bound,
            needed=needed,
        )

    def _outlook(self, found: Comparison, bound: float) -> tuple[int | None, str]:
        """How many rows or clusters would decide with power 0.8, at the observed variance."""
        if found.standard_error <= 0:
            return None, ""
        noun = "rows" if found.clusters is None else f"{self.evaluation.unit}s"
        if found.delta > bound:
            needed = units_needed(found, found.delta - bound)
            return needed, (
                f"; if the observed effect is real, about {needed:,} {noun} would show it with "
                f"power {POWER:g}"
            )
        effect = bound + max(abs(bound), found.standard_error)
        needed = units_needed(found, effect - bound)
        return needed, (
            f"; the observed effect is not enough, so more {noun} alone are not expected to help: "
            f"a true effect of {_signed(effect)} would take about {needed:,} {noun} to show with "
            f"power {POWER:g}"
        )

    def _missing(
        self, name: str, kind: str, required: str, bound: float | None, measured: bool
    ) -> RuleOutcome:
        what = "is not a finite number" if measured else "was not measured"
        return RuleOutcome(
            name=name,
            rule=kind,
            outcome=FAIL if self.policy.on_missing == "fail" else INCONCLUSIVE,
            observed="not finite" if measured else "missing",
            required=required,
            reason=f"{name} {what}, and the policy requires it to be {required}",
            bound=bound,
        )

    def _size(self, found: Comparison) -> str:
        if found.clusters is None:
            return f"{found.rows:,} independent rows"
        return f"{found.clusters:,} {self.evaluation.unit}s"


def units_needed(found: Comparison, distance: float) -> int:
    """Rows or clusters for the lower bound to clear `distance` with power 0.8.

    The standard error falls with the square root of their number; at least one more than now.
    """
    from scipy.special import ndtri

    size = found.rows if found.clusters is None else found.clusters
    reach = float(ndtri(found.confidence) + ndtri(POWER)) * found.standard_error
    return max(size + 1, ceil(size * (reach / distance) ** 2))


def _directed(rule: Superiority | NonInferiority) -> str:
    found = rule.of_metric
    return found.name if found.bigger_is_better else f"{found.name} improvement"


def _finite(*values: float) -> bool:
    return all(isfinite(value) for value in values)


def _level(confidence: float) -> str:
    return f"{confidence * 100:g} %"


def _number(value: float) -> str:
    if not isfinite(value):
        return "unknown"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _signed(value: float) -> str:
    return f"{value:+,.0f}" if abs(value) >= 1000 else f"{value:+.3g}"
