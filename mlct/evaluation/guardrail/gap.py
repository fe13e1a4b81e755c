"""How far apart a metric is between groups: of a column, or of the intersections of several.

Fairness criteria are gaps too: demographic parity of the share called positive, equal opportunity
of the recall, equalised odds of recall and false positive rate, the larger of the two (Hardt,
Price & Srebro 2016).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mlct.evaluation.estimate import REPLICATES
from mlct.evaluation.holdout import (
    Holdout,
    check_metric,
    check_score,
    holdout,
    numbered,
    ordered,
)
from mlct.evaluation.metric import Floats, Metric, Sums, with_threshold
from mlct.evaluation.metric import metric as find_metric
from mlct.evaluation.replicate import prepare
from mlct.evaluation.rule import FAIRNESS, GroupGap


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """The largest difference of a metric between two groups, with one-sided bounds.

    `groups` holds the value of each judged group, `too_small` names the others. `value` is NaN
    when fewer than two groups can be judged; then `times` as many rows as there are would do,
    where that is known.
    """

    metric: str
    by: str
    value: float
    lower: float
    upper: float
    groups: Mapping[str, float]
    too_small: tuple[str, ...]
    confidence: float
    method: str
    times: float | None = field(default=None, metadata={"later": True})


def group_gap(
    y_true: Any,
    score: Any,
    groups: Any,
    metric: str | Metric,
    *,
    by: str = "group",
    threshold: float | None = None,
    min_group: int = 100,
    clusters: Any = None,
    weights: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Gap:
    """How far apart a metric is between groups: the maximum less the minimum.

    `metric` may also be a fairness criterion (`demographic_parity`, `equal_opportunity`,
    `equalised_odds`). `groups` (rows,) names each row's group, or maps several columns to arrays:
    then the groups are their intersections. Groups with fewer than `min_group` rows in the
    metric's denominator (recall: positives) are not judged. The largest gap of noisy groups is
    biased upward, so its bounds come from all pairs of groups: `upper` is the largest of the
    pairs' upper bounds (the pair that is truly furthest apart is among them, so it holds at
    `confidence`), `lower` the largest of their lower bounds, Bonferroni-corrected.
    """
    rows = holdout(y_true, clusters=clusters, weights=weights)
    checked = check_score("the model", score, rows)
    columns = groups if isinstance(groups, Mapping) else {by: groups}
    rule = GroupGap(metric, by=tuple(columns), max=0.0, confidence=confidence, threshold=threshold)
    return group_gap_on(rows, checked, columns, rule, min_group=min_group, seed=seed)


def group_gap_on(
    rows: Holdout,
    score: Floats,
    columns: Mapping[str, Any],
    rule: GroupGap,
    *,
    min_group: int,
    seed: int,
) -> Gap:
    """The gap that a rule asks for, on rows and scores that are checked already.

    A criterion of two rates has the larger gap of the two: the upper bound is the larger of their
    upper bounds, the lower one the larger of their lower ones, corrected for two.
    """
    by = " x ".join(rule.columns)
    groups = _crossed([(name, columns[name]) for name in rule.columns], rows.rows)
    parts = rates(rule)
    found = [
        _gap_on(
            rows,
            score,
            groups,
            part,
            by=by,
            min_group=min_group,
            confidence=rule.confidence,
            seed=seed,
            families=len(parts),
        )
        for part in parts
    ]
    # A rate that no two groups have is no comfort: NaN, so that nothing passes.
    unknown = [gap for gap in found if not np.isfinite(gap.value)]
    widest = unknown[0] if unknown else max(found, key=lambda gap: gap.value)
    if len(found) == 1:
        return replace(widest, metric=rule.measure)
    return replace(
        widest,
        metric=rule.measure,
        lower=float(np.max([gap.lower for gap in found])),
        upper=float(np.max([gap.upper for gap in found])),
        too_small=_left_out(found),
        method=f"{widest.method}, the larger gap: {widest.metric}",
    )


def _left_out(found: list[Gap]) -> tuple[str, ...]:
    """The groups without enough rows, with the rate where it is not so for all of them."""
    always = set.intersection(*(set(gap.too_small) for gap in found))
    some = [f"{name} ({g.metric})" for g in found for name in g.too_small if name not in always]
    return (*sorted(always), *some)


def rates(rule: GroupGap) -> tuple[Metric, ...]:
    """The metrics whose gaps a rule limits: one, or the two of equalised odds."""
    if rule.metric not in FAIRNESS:
        return (rule.of_metric,)
    cut = 0.5 if rule.threshold is None else rule.threshold
    recall = find_metric(with_threshold("recall", cut))
    if rule.metric == "demographic_parity":
        return (_called("selection_rate", cut, None),)
    if rule.metric == "equal_opportunity":
        return (recall,)
    return (recall, _called("false_positive_rate", cut, 0))


def _called(name: str, threshold: float, of_class: int | None) -> Metric:
    """The share of rows called positive, of all rows or of one class."""

    def counts(y_true: Floats, score: Floats) -> Any:
        return np.ones(len(y_true), dtype=bool) if of_class is None else y_true == of_class

    def columns(y_true: Floats, score: Floats) -> list[Floats]:
        mine = counts(y_true, score)
        return [(mine & (score >= threshold)).astype(np.float64), mine.astype(np.float64)]

    def value(total: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            rate: Floats = total[..., 0] / total[..., 1]
        return rate

    def function(y_true: Floats, score: Floats, weights: Floats | None = None) -> float:
        mass = np.ones(len(y_true)) if weights is None else weights
        return float(value(np.array([mass @ column for column in columns(y_true, score)])))

    return Metric(
        f"{name}@{threshold:g}",
        function,
        sums=Sums(columns, value),
        support=counts,
        task="binary",
    )


def _crossed(columns: list[tuple[str, Any]], rows: int) -> tuple[list[str], Any]:
    """`(names in order, number of each row's group)`: the values of a column, or `AA / EWR`."""
    found = [numbered(name, values, rows) for name, values in columns]
    if len(found) == 1:
        return found[0]
    codes = np.zeros(rows, dtype=np.intp)
    for names, of_row in found:
        codes = codes * len(names) + of_row
    _, first, of_row = np.unique(codes, return_index=True, return_inverse=True)
    crossed = [" / ".join(names[own[row]] for names, own in found) for row in first]
    return ordered(np.array(crossed), of_row)


def _gap_on(
    rows: Holdout,
    score: Floats,
    groups: tuple[list[str], Any],
    metric: Metric,
    *,
    by: str,
    min_group: int,
    confidence: float,
    seed: int,
    families: int = 1,
) -> Gap:
    """The gap of one metric between groups, `(names, number of each row's group)`.

    `lower` is corrected for `families` gaps of which the largest will be taken.
    """
    check_metric(metric, rows, {"the model": score})
    unit = "rows" if rows.codes is None else "clusters"
    names, of_row = groups
    rows = rows.grouped(seed)
    codes = np.arange(rows.rows) if rows.codes is None else rows.codes
    values: dict[str, float] = {}
    parts, seen, too_small, sizes = [], [], [], []
    for index, name in enumerate(names):
        mine = of_row == index
        y, s = rows.y_true[mine], score[mine]
        counts = np.ones(len(y), dtype=bool) if metric.support is None else metric.support(y, s)
        sizes.append(int(counts.sum()))
        if sizes[-1] < max(min_group, 1):
            too_small.append(name)
            continue
        within = codes[mine]
        part = Holdout(
            y_true=y,
            codes=within,
            clusters=rows.units,
            weights=None if rows.weights is None else rows.weights[mine],
        )
        values[name] = float(metric.function(y, s, part.weights))
        parts.append(prepare(part, metric, s))
        seen.append(len(np.unique(within[counts])))
    value = lower = upper = float("nan")
    if len(parts) >= 2:
        draws = np.concatenate(
            [
                np.stack([part(drawn) for part in parts])
                for drawn in rows.resamples(REPLICATES, seed, width=rows.rows)
            ],
            axis=1,
        )
        value, lower, upper = _largest_difference(
            np.array(list(values.values())), draws, np.array(seen), rows.units, confidence, families
        )
    return Gap(
        metric=metric.name,
        by=by,
        value=value,
        lower=lower,
        upper=upper,
        groups=values,
        too_small=tuple(too_small),
        confidence=confidence,
        method=f"all pairs, bootstrap of {unit}",
        times=_times(sizes, max(min_group, 1)),
    )


def _times(sizes: list[int], least: int) -> float | None:
    """How many times the rows it takes until two groups have `least`; None where they have."""
    second = sorted(sizes)[-2] if len(sizes) > 1 else 0
    return least / second if 0 < second < least else None


def _largest_difference(
    values: Floats, draws: Floats, seen: Any, units: int, confidence: float, families: int
) -> tuple[float, float, float]:
    """Value and bounds from the groups' replicates (groups, b); t by the clusters of a pair."""
    from scipy.special import stdtrit

    spread = _covariance(draws) * units / (units - 1)
    own = np.diag(spread)
    errors = np.sqrt(np.maximum(own[:, None] + own - 2 * spread, 0))
    freedom = np.minimum(seen[:, None], seen) - 1.0
    pairs = ~np.eye(len(values), dtype=bool)
    difference = (values[:, None] - values)[pairs]
    error, freedom = errors[pairs], freedom[pairs]
    least = (1 - confidence) / (len(difference) * families)
    with np.errstate(invalid="ignore"):
        upper = difference + stdtrit(freedom, confidence) * error
        lower = difference - stdtrit(freedom, 1 - least) * error
    # A group seen in one cluster only tells nothing about its error: NaN, so nothing passes.
    upper, lower = np.where(freedom > 0, upper, np.nan), np.where(freedom > 0, lower, 0.0)
    return float(difference.max()), float(max(lower.max(), 0.0)), float(upper.max())


def _covariance(draws: Floats) -> Floats:
    """Of the groups (groups, b) over the replicates in which both are defined."""
    known = np.isfinite(draws)
    draws = np.where(known, draws, 0.0)
    means = draws.sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1)
    centred = np.where(known, draws - means, 0.0)
    both = known.astype(np.float64) @ known.T
    return centred @ centred.T / np.maximum(both - 1, 1)
