"""May people be asked to approve this challenger? A policy, an evaluation, three verdicts.

PASS: everything required is shown. FAIL: something required is shown not to hold, or was not
measured. INCONCLUSIVE: the holdout does not decide; the champion stays. A number that is not
finite never passes.
"""

from dataclasses import replace

from mlct.evaluation.decision import (
    FAIL,
    INCONCLUSIVE,
    NOT_JUDGED,
    NOT_NEEDED,
    PASS,
    GateDecision,
    RuleOutcome,
    finite,
    number,
)
from mlct.evaluation.evaluate import Evaluation, no_change_metric
from mlct.evaluation.evidence import evidence, judgeable
from mlct.evaluation.outlook import units_needed
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
from mlct.evaluation.reason import Judge, directed
from mlct.evaluation.selection import level, shared

__all__ = [
    "GateDecision",
    "GatePolicy",
    "GroupGap",
    "Guardrail",
    "Limit",
    "NonInferiority",
    "Ratio",
    "ReplaceWhenStale",
    "RuleOutcome",
    "SliceRegression",
    "Superiority",
    "decide",
    "units_needed",
]

_ORDER = (FAIL, INCONCLUSIVE, NOT_JUDGED, PASS, NOT_NEEDED)
_BEST = (PASS, INCONCLUSIVE, FAIL)


def decide(evaluation: Evaluation, policy: GatePolicy) -> GateDecision:
    """Judge every rule of the policy: any FAIL fails, else any INCONCLUSIVE is inconclusive.

    One primary rule is enough, or the staleness rule where the champion is old enough. Wherever
    there is a baseline the challenger must beat it too. Without a champion that and the absolute
    guardrails decide; a champion that cannot be scored leaves the verdict INCONCLUSIVE at best.
    """
    judge = Judge(evaluation=evaluation, policy=policy)
    rules = [*evidence(evaluation, policy), *_champion(judge)]
    if judgeable(evaluation):
        rules += [*_promoting(judge), *_baselines(judge)]
        rules += [judge.guardrail(rule) for rule in policy.guardrails]
    outcomes = {rule.outcome for rule in rules}
    verdict = FAIL if FAIL in outcomes else INCONCLUSIVE if INCONCLUSIVE in outcomes else PASS
    reasons = tuple(
        rule.reason
        for told in _ORDER
        for rule in rules
        if rule.outcome == told and not (rule.rule == "evidence" and told == PASS)
    )
    return GateDecision(verdict=verdict, reasons=reasons, rules=tuple(rules))


def _champion(judge: Judge) -> list[RuleOutcome]:
    """A row of its own when there is no champion to compare with."""
    state = judge.evaluation.champion
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


def _promoting(judge: Judge) -> list[RuleOutcome]:
    """The primary rules and the staleness rule: the best of them counts."""
    rules = [*_holm(judge), *_stale(judge)]
    compared = [rule for rule in rules if rule.outcome in _BEST and rule.value is not None]
    if not compared:
        return rules
    best = min(compared, key=lambda rule: _BEST.index(rule.outcome))
    return [
        replace(
            rule,
            outcome=NOT_NEEDED,
            reason=f"{rule.reason}; not needed, as {best.name} ({_said(best.rule)}) decides",
        )
        if rule in compared and rule.outcome != best.outcome
        else rule
        for rule in rules
    ]


def _holm(judge: Judge) -> list[RuleOutcome]:
    """Holm 1979: what wins at the level of all that are left makes room for the others."""
    left = list(judge.policy.primaries)
    own = level(left[0].confidence, judge.evaluation.looks)
    found: dict[str, RuleOutcome] = {}
    while left:
        confidence = shared(own, len(left))
        judged = {rule.name: judge.paired(rule, confidence) for rule in left}
        found |= judged
        kept = [rule for rule in left if judged[rule.name].outcome != PASS]
        if len(kept) == len(left):
            break
        left = kept
    return [found[rule.name] for rule in judge.policy.primaries]


def _stale(judge: Judge) -> list[RuleOutcome]:
    rule, age = judge.policy.stale_rule, judge.evaluation.champion_age_days
    if rule is None or judge.evaluation.champion != "scored":
        return []
    if age is not None and age > rule.days:
        return [judge.paired(rule, level(rule.confidence, judge.evaluation.looks))]
    known = "of unknown age" if age is None else f"{age:.3g} days old"
    return [
        RuleOutcome(
            name=rule.name,
            rule=rule.kind,
            outcome=NOT_JUDGED,
            observed=known,
            required=f"older than {rule.after}",
            reason=f"the champion is {known}: only beyond {rule.after} would not being worse "
            f"on {rule.name} be enough to replace it",
        )
    ]


def _baselines(judge: Judge) -> list[RuleOutcome]:
    """What cannot beat the baseline is not worth a champion's place."""
    told = ("is better", "is worse", "is undecided")
    found = []
    for rule in judge.policy.primaries:
        compared = judge.evaluation.comparison(
            rule.name,
            champion="baseline",
            confidence=level(rule.confidence, judge.evaluation.looks),
        )
        required = "better than the baseline"
        if compared is None and judge.evaluation.champion == "scored":
            continue
        if compared is None or not finite(compared.delta, compared.lower, compared.upper):
            found.append(judge.missing(rule.name, "baseline", required, 0.0, compared is not None))
            continue
        subject = f"{directed(rule)} against the baseline"
        found.append(judge.compared("baseline", subject, compared, 0.0, required, told))
    if "no_change" in judge.evaluation.metrics:
        found.append(_no_change(judge, told))
    return found


def _no_change(judge: Judge, told: tuple[str, str, str]) -> RuleOutcome:
    metric = no_change_metric(judge.evaluation.task)
    required = "better than repeating the last known label"
    own = level(judge.policy.primaries[0].confidence, judge.evaluation.looks)
    found = judge.evaluation.comparison(metric, champion="no_change", confidence=own)
    if found is None or not finite(found.delta, found.lower, found.upper):
        return judge.missing(metric, "no_change", required, 0.0, found is not None)
    value = judge.evaluation.metrics["no_change"][metric]
    subject = f"{metric} against repeating the last known label ({number(value)})"
    return judge.compared("no_change", subject, found, 0.0, required, told)


def _said(rule: str) -> str:
    return "the staleness rule" if rule == ReplaceWhenStale.kind else rule
