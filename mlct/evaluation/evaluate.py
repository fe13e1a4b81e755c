"""Challenger, champion and baselines on one frozen holdout, as one record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, isnan, nan
from typing import Any

import numpy as np

from mlct.errors import EvaluationError
from mlct.evaluation.business import bound
from mlct.evaluation.compare import Comparison, Measure, compare_on, measure_on
from mlct.evaluation.guardrail.calibration import ece_by_chance
from mlct.evaluation.guardrail.gap import Gap, group_gap_on, rates
from mlct.evaluation.guardrail.slices import SliceTable, slices_on
from mlct.evaluation.holdout import Holdout, check_metric, check_score, holdout
from mlct.evaluation.leakage import Suspect
from mlct.evaluation.metric import METRICS, Floats, Metric
from mlct.evaluation.metric import metric as find_metric
from mlct.evaluation.policy import (
    GatePolicy,
    GroupGap,
    Limit,
    NonInferiority,
    Ratio,
    ReplaceWhenStale,
    SliceRegression,
)
from mlct.evaluation.record import FORMAT, Evaluation, plain
from mlct.evaluation.selection import level, shared

__all__ = ["FORMAT", "MODELS", "TASKS", "Evaluation", "evaluate", "plain"]

MODELS = ("challenger", "champion", "baseline", "no_change")
TASKS = ("binary", "multiclass", "regression", "quantile")


def evaluate(
    y_true: Any,
    scores: Mapping[str, Any],
    *,
    policy: GatePolicy,
    task: str = "binary",
    clusters: Any = None,
    weights: Any = None,
    groups: Mapping[str, Any] | None = None,
    frame: Mapping[str, Any] | None = None,
    measured: Mapping[str, Mapping[str, float | Measure]] | None = None,
    champion_problem: str | None = None,
    champion_age_days: float | None = None,
    holdout_digest: str | None = None,
    holdout_start: str | None = None,
    holdout_end: str | None = None,
    label_delay_days: float = 0.0,
    looks: int | None = None,
    selected_among: int = 1,
    selected_on: str | None = None,
    duplicates: int | None = None,
    suspects: Sequence[Suspect] = (),
    unit: str = "cluster",
    seed: int = 0,
) -> Evaluation:
    """Score the models in `scores` by all that the policy asks for.

    `scores` maps "challenger" (required), "champion", "baseline" and "no_change" (see
    `baseline.no_change`) to arrays (rows,), for several classes (rows, classes); `groups` the
    columns in `policy.columns`, `frame` those of its business metrics, to arrays (rows,);
    `measured` a limit's name to the models' values (`{"latency_p99_ms": {"challenger": 3.1}}`).
    `champion_problem` says why a champion that exists has no scores. `looks` counts the decisions
    on this holdout, this one included: the bounds are tightened for it. The other facts are
    `Evaluation`'s. Raises EvaluationError for input that cannot be trusted.
    """
    _check(task, scores, champion_problem, looks, selected_among)
    rows = holdout(y_true, clusters=clusters, weights=weights)
    classes = task in ("binary", "multiclass")
    unscored = _unscored(scores)
    champion_problem = unscored.get("champion", champion_problem)
    checked = {
        name: check_score(name, scores[name], rows)
        for name in MODELS
        if name in scores and name not in unscored
    }
    count = max((score.shape[1] for score in checked.values() if score.ndim == 2), default=2)
    single = classes and np.ptp(rows.y_true) == 0 and rows.y_true[0] in range(count)
    found = _Found(metrics={"challenger": {}})
    if not single and "challenger" in checked:
        found = _found(rows, checked, policy, task, groups or {}, frame, looks, seed)
    measures = {n: {m: _measure(n, v) for m, v in of.items()} for n, of in (measured or {}).items()}
    if computed := sorted(set(found.measures) & set(measures)):
        raise EvaluationError(
            f"{computed[0]} is measured from outside", expected="mlct to compute it"
        )
    challenger, champion = checked.get("challenger"), checked.get("champion")
    return Evaluation(
        task=task,
        rows=rows.rows,
        clusters=rows.clusters,
        unit=unit,
        positives=int((rows.y_true == 1).sum()) if task == "binary" else None,
        champion="scored" if champion is not None else champion_problem or "none",
        metrics=found.metrics,
        comparisons=found.comparisons,
        measures={**measures, **found.measures},
        gaps=found.gaps,
        confidence=level(policy.primaries[0].confidence, looks),
        seed=seed,
        slices=found.slices,
        holdout_digest=holdout_digest,
        holdout_start=holdout_start,
        holdout_end=holdout_end,
        label_delay_days=label_delay_days,
        looks=looks,
        selected_among=selected_among,
        selected_on=selected_on,
        champion_age_days=champion_age_days,
        duplicates=duplicates,
        suspects=tuple(suspects),
        identical=challenger is not None
        and champion is not None
        and bool(np.array_equal(challenger, champion)),
        constant=tuple(
            name
            for name in ("challenger", "champion")
            if name in checked and np.ptp(checked[name], axis=0).max() == 0
        ),
        unscored=unscored,
        single_class=bool(single),
        by_chance=found.by_chance,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """What the scores tell; by default nothing."""

    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    measures: Mapping[str, Mapping[str, Measure]] = field(default_factory=dict)
    gaps: tuple[Gap, ...] = ()
    slices: tuple[SliceTable, ...] = ()
    by_chance: Mapping[str, float] = field(default_factory=dict)


def _found(
    rows: Holdout,
    scores: Mapping[str, Floats],
    policy: GatePolicy,
    task: str,
    groups: Mapping[str, Any],
    frame: Mapping[str, Any] | None,
    looks: int | None,
    seed: int,
) -> _Found:
    wanted = {m.name: m for m in (*_usual(task), *(bound(m, frame) for m in _of_policy(policy)))}
    for metric in wanted.values():
        check_metric(metric, rows, scores)
    gaps = [rule for rule in policy.guardrails if isinstance(rule, GroupGap)]
    slices = [rule for rule in policy.guardrails if isinstance(rule, SliceRegression)]
    paired = {name: scores[name] for name in ("challenger", "champion") if name in scores}
    return _Found(
        metrics={
            name: {
                m.name: float(m.function(rows.y_true, score, rows.weights)) for m in wanted.values()
            }
            for name, score in scores.items()
        },
        comparisons=_comparisons(rows, scores, policy, wanted, task, looks, seed),
        measures=_limited(rows, scores["challenger"], policy, wanted, looks, seed),
        gaps=tuple(
            group_gap_on(
                rows,
                scores["challenger"],
                groups,
                replace(rule, confidence=level(rule.confidence, looks)),
                min_group=policy.min_group,
                seed=seed,
            )
            for rule in gaps
            if set(rule.columns) <= set(groups)
        ),
        slices=tuple(
            slices_on(
                rows,
                paired,
                {column: groups[column] for column in rule.columns},
                wanted[rule.of_metric.name],
                margin=rule.margin,
                min_group=policy.min_group,
                confidence=rule.confidence,
                seed=seed,
            )
            for rule in slices
            if set(rule.columns) <= set(groups) and len(paired) == 2
        ),
        by_chance={"ece": ece_by_chance(scores["challenger"], rows.weights)}
        if task == "binary"
        else {},
    )


def _check(
    task: str, scores: Mapping[str, Any], problem: str | None, looks: int | None, among: int
) -> None:
    if task not in TASKS:
        raise EvaluationError(f"task is {task!r}", expected=", ".join(TASKS))
    if "challenger" not in scores or set(scores) - set(MODELS):
        raise EvaluationError(
            f"scores are of {', '.join(sorted(scores)) or 'no model'}",
            expected="challenger, and optionally champion, baseline and no_change",
        )
    if problem is not None and "champion" in scores:
        raise EvaluationError(
            f"the champion has scores and a problem ({problem})", expected="one of them"
        )
    if problem in ("", "none", "scored"):
        raise EvaluationError(
            f"champion_problem is {problem!r}",
            expected="why the champion cannot be scored, or None where there is no champion",
        )
    for name, count in (("looks", looks), ("selected_among", among)):
        if count is not None and (isinstance(count, bool) or count < 1):
            raise EvaluationError(f"{name} is {count!r}", expected="a whole number from 1")


def _unscored(scores: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with a model's scores that its owner, not the caller, has to mend."""
    found = {}
    for name in ("challenger", "champion"):
        try:
            array = np.asarray(scores.get(name, ()), dtype=np.float64)
        except (TypeError, ValueError):
            continue  # no numbers at all: `check_score` says so
        if bad := int((~np.isfinite(array)).sum()):
            found[name] = f"{bad:,} of its {array.size:,} scores are NaN or infinite"
    return found


def _usual(task: str) -> list[Metric]:
    if task == "multiclass":
        return [metric for metric in METRICS.values() if metric.multiclass]
    return [metric for metric in METRICS.values() if metric.task == task]


def _of_policy(policy: GatePolicy) -> list[Metric]:
    """The metrics that the policy's rules name; measured values are not among them."""
    found: list[Metric] = [rule.of_metric for rule in policy.primaries]
    if policy.stale_rule is not None:
        found.append(policy.stale_rule.of_metric)
    for rule in policy.guardrails:
        if isinstance(rule, GroupGap):
            found += rates(rule)
        elif not isinstance(rule, Ratio) and (not isinstance(rule, Limit) or rule.is_metric):
            found.append(rule.of_metric)
    return found


def _comparisons(
    rows: Holdout,
    scores: Mapping[str, Floats],
    policy: GatePolicy,
    wanted: Mapping[str, Metric],
    task: str,
    looks: int | None,
    seed: int,
) -> tuple[Comparison, ...]:
    """Every pair, metric and confidence that a rule needs, once."""
    primaries = policy.primaries
    needed: list[tuple[str, Metric, float]] = []
    rules: list[NonInferiority | ReplaceWhenStale] = [
        rule for rule in policy.guardrails if isinstance(rule, NonInferiority)
    ]
    rules += [policy.stale_rule] if policy.stale_rule is not None else []
    for primary in primaries:
        metric, own = wanted[primary.of_metric.name], level(primary.confidence, looks)
        for sharing in range(len(primaries), 0, -1):  # the levels that Holm's steps may ask for
            needed.append(("champion", metric, shared(own, sharing)))
        needed.append(("baseline", metric, own))
    for rule in rules:
        metric = wanted[rule.of_metric.name]
        needed.append(("champion", metric, level(rule.confidence, looks)))
    usual = find_metric(no_change_metric(task))
    needed.append(("no_change", usual, level(primaries[0].confidence, looks)))
    found: dict[Any, Comparison] = {}
    for against, metric, confidence in needed:
        key = (metric.name, against, confidence)
        if against in scores and key not in found:
            two = {"challenger": scores["challenger"], against: scores[against]}
            found[key] = compare_on(
                rows, two, champion=against, metric=metric, confidence=confidence, seed=seed
            )["challenger"]
    return tuple(found.values())


def no_change_metric(task: str) -> str:
    """What the last known label is judged by: it is a label, not a probability."""
    return "accuracy" if task in ("binary", "multiclass") else "mae"


def _limited(
    rows: Holdout,
    challenger: Floats,
    policy: GatePolicy,
    wanted: Mapping[str, Metric],
    looks: int | None,
    seed: int,
) -> dict[str, dict[str, Measure]]:
    return {
        rule.name: {
            "challenger": measure_on(
                rows,
                challenger,
                metric=wanted[rule.of_metric.name],
                confidence=level(rule.confidence, looks),
                seed=seed,
            )
        }
        for rule in policy.guardrails
        if isinstance(rule, Limit) and rule.is_metric
    }


def _measure(name: str, value: float | Measure) -> Measure:
    # What is not finite was not measured, and no record can hold infinity.
    if isinstance(value, Measure):
        # At a known confidence a bound that is NaN could not be told, and the record keeps that.
        untold = value.confidence is not None
        ends = [end for end in (value.lower, value.upper) if end is not None]
        known = isfinite(value.value) and all(isfinite(e) or (untold and isnan(e)) for e in ends)
        return value if known else Measure(value=nan)
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise EvaluationError(f"{name} was measured as {value!r}", expected="a number or a Measure")
    return Measure(value=float(value) if isfinite(value) else nan)
