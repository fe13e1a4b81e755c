"""What must not get worse while the primary metric gets better: latency, gaps between groups."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from mlct.errors import EvaluationError
from mlct.evaluation.compare import Measure, measure_on
from mlct.evaluation.estimate import REPLICATES, prepare
from mlct.evaluation.holdout import Holdout, check_metric, check_score, holdout
from mlct.evaluation.metric import Floats, Metric
from mlct.evaluation.metric import metric as find_metric


def latency(
    predict_one: Callable[[Any], Any],
    rows: Iterable[Any],
    *,
    repeats: int = 3,
    warm_up: int = 20,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, float]:
    """Milliseconds to score one row: `latency_p50_ms`, `latency_p95_ms`, `latency_p99_ms`.

    `predict_one` is called with each of `rows`, `repeats` times after `warm_up` calls that do not
    count; a row counts with its fastest call (the machine's noise only adds), the percentiles are
    over rows. Give some hundred rows for a p99. `clock` returns seconds.
    """
    rows = list(rows)
    if not rows or repeats < 1:
        raise EvaluationError(
            f"latency was asked for on {len(rows)} rows, {repeats} times",
            expected="at least one row, once",
        )
    for index in range(warm_up):
        predict_one(rows[index % len(rows)])
    seconds = np.full(len(rows), np.inf)
    for _ in range(repeats):
        for index, row in enumerate(rows):
            start = clock()
            predict_one(row)
            seconds[index] = min(seconds[index], clock() - start)
    p50, p95, p99 = (float(p) for p in np.percentile(seconds * 1000, [50, 95, 99]))
    return {"latency_p50_ms": p50, "latency_p95_ms": p95, "latency_p99_ms": p99}


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """The largest difference of a metric between two groups, with one-sided bounds.

    `groups` holds the value of each judged group, `too_small` names the others. `value` is NaN
    when fewer than two groups can be judged.
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


def group_gap(
    y_true: Any,
    score: Any,
    groups: Any,
    metric: str | Metric,
    *,
    by: str = "group",
    min_group: int = 100,
    clusters: Any = None,
    weights: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Gap:
    """How far apart a metric is between groups: the maximum less the minimum.

    `groups` (rows,) names each row's group; groups with fewer than `min_group` rows in the
    metric's denominator (recall: positives) are not judged. The largest gap of noisy groups is
    biased upward, so its bounds come from all pairs of groups: `upper` is the largest of the
    pairs' upper bounds (the pair that is truly furthest apart is among them, so it holds at
    `confidence`), `lower` the largest of their lower bounds, Bonferroni-corrected.
    """
    rows = holdout(y_true, clusters=clusters, weights=weights)
    checked = check_score("the model", score, rows)
    return gap_on(
        rows,
        checked,
        groups,
        find_metric(metric),
        by=by,
        min_group=min_group,
        confidence=confidence,
        seed=seed,
    )


def gap_on(
    rows: Holdout,
    score: Floats,
    groups: Any,
    metric: Metric,
    *,
    by: str,
    min_group: int,
    confidence: float,
    seed: int,
) -> Gap:
    """`group_gap` on rows and scores that are checked already."""
    check_metric(metric, rows, {"the model": score})
    unit = "rows" if rows.codes is None else "clusters"
    names, of_row = _groups(by, groups, rows.rows)
    rows = rows.grouped(seed)
    codes = np.arange(rows.rows) if rows.codes is None else rows.codes
    values: dict[str, float] = {}
    parts, seen, too_small = [], [], []
    for index, name in enumerate(names):
        mine = of_row == index
        y, s = rows.y_true[mine], score[mine]
        counts = np.ones(len(y), dtype=bool) if metric.support is None else metric.support(y, s)
        if counts.sum() < max(min_group, 1):
            too_small.append(name)
            continue
        part = Holdout(
            y_true=y,
            codes=codes[mine],
            clusters=rows.units,
            weights=None if rows.weights is None else rows.weights[mine],
        )
        values[name] = metric.function(y, s, part.weights)
        parts.append(prepare(part, metric, s))
        seen.append(len(np.unique(part.codes[counts])))  # type: ignore[index]  # set above
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
            np.array(list(values.values())), draws, np.array(seen), rows.units, confidence
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
    )


def _largest_difference(
    values: Floats, draws: Floats, seen: Any, units: int, confidence: float
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
    with np.errstate(invalid="ignore"):
        upper = difference + stdtrit(freedom, confidence) * error
        lower = difference - stdtrit(freedom, 1 - (1 - confidence) / len(difference)) * error
    # A group seen in one cluster only tells nothing about its error: NaN, so nothing passes.
    upper, lower = np.where(freedom > 0, upper, np.nan), np.where(freedom > 0, lower, 0.0)
    return float(difference.max()), float(max(lower.max(), 0.0)), float(upper.max())


def _covariance(draws: Floats) -> Floats:
    """Of the groups (groups, b) over the replicates in which both are defined."""
    known = np.isfinite(draws)
    centred = np.where(known, draws - np.nanmean(draws, axis=1, keepdims=True), 0.0)
    both = known.astype(np.float64) @ known.T
    return centred @ centred.T / np.maximum(both - 1, 1)


def _groups(by: str, groups: Any, rows: int) -> tuple[list[str], Any]:
    array = np.asarray(groups)
    if array.shape != (rows,):
        raise EvaluationError(
            f"the groups {by!r} have shape {array.shape}", expected=f"one group a row, ({rows},)"
        )
    names, of_row = np.unique(array.astype(str), return_inverse=True)
    return names.tolist(), of_row.reshape(-1)


def calibration(
    y_true: Any,
    score: Any,
    *,
    clusters: Any = None,
    weights: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Measure:
    """Expected calibration error over 15 equal-mass bins, with one-sided bounds."""
    rows = holdout(y_true, clusters=clusters, weights=weights)
    checked = check_score("the model", score, rows)
    return measure_on(rows, checked, metric=find_metric("ece"), confidence=confidence, seed=seed)
