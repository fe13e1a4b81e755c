"""A classifier's metric without labels: confidence-based performance estimation (CBPE).

Scores are calibrated on labelled reference rows by isotonic regression, tied scores as one; a row
with calibrated probability p then counts p times as a positive and 1 - p times as a negative
(of several classes, each class against the rest, together 1). That holds while the labels depend
on the score as they did in the reference: under covariate shift that the score reflects, not under
concept drift, which it cannot see.

Isotonic regression flatters ranks (it is the convex hull of the ROC curve), the more the fewer the
reference rows: 0.014 of AUC at 500. The same estimate is made on the reference, where the truth is
known, and the difference is taken off.

The interval is for the value that the labels will show. Its variance is that of labels drawn from
the calibrated probabilities, times the design effect of the window's clusters (the correlation of
residuals within a cluster is measured on the reference, in the metric's own direction), and that
of the calibration, over the reference's rows or clusters. Both use the metric's slope in each
label, by differences of a standard deviation's length (the delta method).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mlct.errors import EvaluationError, SpecError
from mlct.evaluation.holdout import check_score, holdout
from mlct.evaluation.metric import METRICS, Floats, Indices, Metric, mean_of
from mlct.evaluation.metric import metric as find_metric
from mlct.monitoring.performance.calibration import Calibration, calibrate, shares
from mlct.monitoring.performance.cluster import cluster_sizes, correlation
from mlct.monitoring.performance.result import LEAST_ROWS, Performance, unknown

ASSUMPTION = (
    "labels depend on the score as they did in the reference: an estimate cannot see concept drift"
)
METHOD = "CBPE, isotonic"
_STEPS = 400  # thresholds of a curve at which its slope is taken

Slope = Callable[[Floats], Floats]


def cbpe(
    reference_labels: Any,
    reference_scores: Any,
    scores: Any,
    *,
    metric: str | Metric = "roc_auc",
    reference_clusters: Any = None,
    clusters: Any = None,
    confidence: float = 0.95,
) -> Performance:
    """Estimate a classifier's metric on rows (n,) or (n, classes) without labels.

    The reference are labelled rows that the model was not trained on; clusters name what varies
    together. The bounds are one-sided, each at `confidence`, for the value that labels will show.
    Fewer than 20 rows are "unknown". Raises EvaluationError for input that cannot be trusted, and
    SpecError for a metric that cannot be estimated so. To estimate many windows, `calibrate` once.

    >>> y, s = [0, 1] * 50, [0.25, 0.75] * 50
    >>> cbpe(y, s, [0.25, 0.75] * 20, metric="accuracy").value
    1.0
    """
    known = calibrate(reference_labels, reference_scores, clusters=reference_clusters)
    return estimate(known, scores, metric=metric, clusters=clusters, confidence=confidence)


def estimate(
    calibration: Calibration,
    scores: Any,
    *,
    metric: str | Metric = "roc_auc",
    clusters: Any = None,
    confidence: float = 0.95,
) -> Performance:
    """`cbpe` with a calibration that is made already."""
    metric = find_metric(metric)
    if not isinstance(confidence, int | float) or not 0.5 <= confidence < 1:
        raise SpecError(f"confidence is {confidence!r}", expected="a number from 0.5 to below 1")
    if not np.ndim(scores):
        raise EvaluationError(f"the scores are {scores!r}", expected="one a row, (n,)")
    length = np.shape(scores)[0]
    if length < LEAST_ROWS:
        reason = f"insufficient data: {length} rows, {LEAST_ROWS} are wanted"
        return unknown(metric.name, reason, rows=length, assumption=ASSUMPTION, method=METHOD)
    sizes = None if clusters is None else cluster_sizes(clusters, length)
    window = holdout(np.zeros(length))
    score = check_score("the window", scores, window)
    _check(metric, calibration, score)

    blocks = calibration.blocks(score)
    raw = calibration.raw(blocks)
    p = shares(raw)
    value, slope = _expected(metric, score, p)
    known = _reference(calibration, metric)
    value -= known.optimism
    if not np.isfinite(value):
        return unknown(metric.name, f"{metric.name} is not defined on this window", rows=length)
    g = slope(score)
    mean = np.einsum("ij,ij->i", p, g)
    unsure = calibration.unsure(blocks)
    drawn = np.einsum("ij,ij->", unsure, g**2) - (np.einsum("ij,ij->i", unsure, g) ** 2).sum()
    learned = _learned(calibration, _pulls(calibration, blocks, raw, g, mean), known)
    reference = calibration.rows
    freedom = None if reference.clusters is None else float(reference.clusters - 1)
    effect = 1.0
    if sizes is not None:
        effect += correlation(reference, known.off) * (float(sizes @ sizes) / length - 1)
    error = float(np.sqrt(max(float(drawn) * effect + learned, 0.0)))
    reach = reference.quantile(confidence, freedom or float(reference.rows)) * error
    outside = _outside(calibration, score)
    clustered = "independent rows" if sizes is None else f"clusters, design effect {effect:.2f}"
    return Performance(
        kind="estimated",
        metric=metric.name,
        value=value,
        lower=value - reach,
        upper=value + reach,
        standard_error=error,
        freedom=freedom,
        confidence=confidence,
        rows=length,
        clusters=None if sizes is None else len(sizes),
        method=f"{METHOD}, {clustered}",
        assumption=ASSUMPTION,
        reason=f"estimated from {length} scores and {reference.rows} labelled reference rows"
        + f"; {outside:.1%} of the scores are beyond the reference's" * (outside > 0),
    )


def _check(metric: Metric, calibration: Calibration, score: Floats) -> None:
    if metric.task not in ("binary", "any"):
        raise SpecError(
            f"{metric.name} cannot be estimated from class probabilities",
            expected="a metric of classes",
            fix="for a regression use fit_loss_model",
        )
    if metric.function is METRICS["ece"].function or not (
        metric.per_row or metric.sums or metric.curve
    ):
        raise SpecError(
            f"{metric.name} cannot be estimated without labels",
            expected="a metric that is a mean, a function of sums, or of a curve",
            fix="scores are calibrated for the estimate, so that a calibration error would be zero",
        )
    columns = score.shape[1] if score.ndim == 2 else 2
    if columns != calibration.classes or (score.ndim != calibration.score.ndim):
        raise EvaluationError(
            f"the window's scores have shape {score.shape}",
            expected=f"that of the reference, {calibration.score.shape}, but for the rows",
        )
    if score.ndim == 2 and not metric.multiclass:
        raise EvaluationError(f"{metric.name} is not defined on several classes")
    if metric.probability and (score.min() < 0 or score.max() > 1):
        raise EvaluationError(
            f"{metric.name} got scores from {score.min():g} to {score.max():g}",
            expected="probabilities, between 0 and 1",
        )


def _expected(metric: Metric, score: Floats, p: Floats) -> tuple[float, Slope]:
    """The metric when rows count by their probabilities, and its slope in a row's label."""
    if metric.curve is not None:
        return _expected_curve(metric, score, p)
    sums = metric.sums or mean_of(metric.per_row)  # type: ignore[arg-type]  # one of them is given

    def columns(of: Floats) -> Floats:
        """What each label of each row adds to each sum: (rows, classes, sums)."""
        labels = (np.full(len(of), float(c)) for c in range(p.shape[1]))
        return np.stack([np.column_stack(list(sums.columns(y, of))) for y in labels], axis=1)

    each = columns(score)
    total = np.einsum("ij,ijk->k", p, each)
    spread = np.einsum("ij,ijk->k", p, each**2) - (np.einsum("ij,ijk->ik", p, each) ** 2).sum(0)
    step = np.sqrt(np.maximum(spread, 0)) + 1e-6 * len(score)
    del each

    def at(totals: Floats) -> Floats:
        mass = np.full((*totals.shape[:-1], 1), float(len(score)))
        return sums.value(np.concatenate([totals, mass], axis=-1))

    rise = _rise(at, total, step)
    return float(at(total)), lambda of: columns(of) @ rise


def _expected_curve(metric: Metric, score: Floats, p: Floats) -> tuple[float, Slope]:
    if score.ndim == 1:
        value, slope = _expected_side(metric, score, p[:, 1])
        return value, lambda of: np.column_stack([np.zeros(len(of)), slope(of)])
    sides = [_expected_side(metric, s, q) for s, q in zip(score.T, p.T, strict=True)]
    mean = float(np.mean([value for value, _ in sides]))
    return mean, lambda of: np.column_stack(
        [slope(s) / len(sides) for (_, slope), s in zip(sides, of.T, strict=True)]
    )


def _expected_side(metric: Metric, score: Floats, p: Floats) -> tuple[float, Slope]:
    """Of one class against the rest: exact value, slope between some hundred thresholds."""
    curve = metric.curve
    assert curve is not None
    order = np.argsort(-score)
    falling, true = score[order], p[order]
    ends = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(score) - 1)
    spread = np.cumsum(true * (1 - true))[ends]
    true = np.cumsum(true)[ends]
    value = float(curve(true, ends + 1.0 - true))

    # Equal steps in positives and in rows, so that the top of the curve keeps its detail.
    along = (true / max(true[-1], 1e-12) + (ends + 1) / len(score)) * (_STEPS / 2)
    last = np.append(np.flatnonzero(np.diff(np.ceil(along))), len(ends) - 1)
    mass = np.diff(true[last], prepend=0.0)
    step = np.sqrt(np.maximum(np.diff(spread[last], prepend=0.0), 0)) + 1e-3

    def at(held: Floats) -> Floats:
        above = np.cumsum(held, axis=-1)
        return curve(above, ends[last] + 1.0 - above)

    rise, limits = _rise(at, mass, step), -falling[ends[last]]
    return value, lambda of: rise[np.minimum(np.searchsorted(limits, -of), len(rise) - 1)]


def _rise(at: Callable[[Floats], Floats], total: Floats, step: Floats) -> Floats:
    """Slope of `at` in each of `total`, over two steps."""
    moves = np.diag(step)
    rise: Floats = (at(total + moves) - at(total - moves)) / (2 * step)
    return rise


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Reference:
    """The same estimate on the reference itself, where the truth is known.

    `optimism` is how much more it says than the labels do; `pull` how a row's label moves it
    through the levels, summed over each step; `off` (rows,) how each row's label moved it.
    """

    optimism: float
    pull: tuple[Floats, ...]
    off: Floats


@lru_cache(maxsize=8)
def _reference(calibration: Calibration, metric: Metric) -> _Reference:
    score, truth = calibration.score, calibration.rows.y_true
    raw = calibration.raw(list(calibration.block))
    p = shares(raw)
    value, slope = _expected(metric, score, p)
    g = slope(score)
    mean = np.einsum("ij,ij->i", p, g)
    return _Reference(
        optimism=value - metric(truth, score),
        pull=_pulls(calibration, list(calibration.block), raw, g, mean),
        off=np.take_along_axis(g, truth.astype(np.intp)[:, None], 1)[:, 0] - mean,
    )


def _pulls(
    calibration: Calibration, blocks: list[Indices], raw: Floats, g: Floats, mean: Floats
) -> tuple[Floats, ...]:
    """How far the value moves with each step's level, class by class."""
    if raw.shape[1] == 1:
        each = [g[:, 1] - g[:, 0]]
    else:
        scale = np.maximum(raw.sum(axis=1), 1e-12)
        each = [(column - mean) / scale for column in g.T]
    return tuple(
        np.bincount(block, pull, len(level)).astype(np.float64, copy=False)
        for block, pull, level in zip(blocks, each, calibration.levels, strict=True)
    )


def _learned(calibration: Calibration, pull: tuple[Floats, ...], known: _Reference) -> float:
    """Variance of the value from the labels of the reference's rows or clusters.

    They set the levels, and they tell the optimism.
    """
    rows, total = calibration.rows, known.off.copy()
    several = len(calibration.levels) > 1
    for c, (here, there, block, level) in enumerate(
        zip(pull, known.pull, calibration.block, calibration.levels, strict=True)
    ):
        truth = (rows.y_true == c) * 1.0 if several else rows.y_true
        weight = (here - there) / np.bincount(block, minlength=len(level))
        total += (truth - level[block]) * weight[block]
    sums = rows.sums(total)
    return float(sums @ sums) * rows.units / (rows.units - 1)


def _outside(calibration: Calibration, score: Floats) -> float:
    low, high = calibration.score.min(axis=0), calibration.score.max(axis=0)
    beyond = (score < low) | (score > high)
    return float(np.mean(beyond if beyond.ndim == 1 else beyond.any(axis=1)))
