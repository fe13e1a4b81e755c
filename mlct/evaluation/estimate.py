"""A metric's value on a holdout, or the difference of two, with its standard error and bounds.

Methods, chosen by the metric:

- ROC AUC: DeLong, DeLong & Clarke-Pearson 1988 by mid-ranks in O(n log n) (Sun & Xu 2014); with
  clusters the sums of placements over clusters, Obuchowski 1997;
- a mean over rows: the variance of the mean (of the differences), cluster-robust with clusters;
- everything else: a bootstrap of whole clusters (or rows).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlct.errors import SpecError
from mlct.evaluation.holdout import FEW, Holdout
from mlct.evaluation.metric import Floats, Metric, mean_of, ranked

REPLICATES = 2000

_DENSE = 8_000_000  # numbers in a table of counts per cluster and threshold: 64 MB


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """`lower` and `upper` are one-sided bounds; `p_value` is two-sided, of the value zero."""

    value: float
    lower: float
    upper: float
    standard_error: float
    p_value: float
    method: str
    seed: int | None


def estimates(
    rows: Holdout,
    metric: Metric,
    scores: Sequence[Floats],
    *,
    paired: bool,
    confidence: float,
    seed: int,
    replicates: int = REPLICATES,
) -> list[Estimate]:
    """The metric of each score; when paired, how much better each after the first is than it."""
    if isinstance(confidence, bool) or not 0.5 <= confidence < 1:
        raise SpecError(f"confidence is {confidence!r}", expected="a number from 0.5 to below 1")
    if metric.name != "roc_auc" and metric.per_row is None:
        return _bootstrapped(rows, metric, scores, paired, confidence, seed, replicates)
    auc = metric.name == "roc_auc"
    parts = [placements(rows, s) if auc else _contributions(rows, metric, s) for s in scores]
    if paired:
        first, centre = parts[0]
        parts = [(metric.sign * (v - first), effect - centre) for v, effect in parts[1:]]
    pair = "paired " if paired else ""
    noun = "DeLong" if auc else "differences" if paired else "mean"
    robust = "" if rows.codes is None else "clustered " if auc else "cluster-robust "
    error = _two_class_error if auc else _mean_error
    return [
        _reached(rows, value, error(rows, effect), confidence, f"{robust}{pair}{noun}", None)
        for value, effect in parts
    ]


def placements(rows: Holdout, score: Floats) -> tuple[float, Floats]:
    """ROC AUC and what each row adds to it, centred: its placement among the other class.

    A positive's placement is the share of negatives ranked behind it, a negative's the share of
    positives ranked before it; ties count one half. One sort serves both classes.
    """
    order = np.argsort(score)
    rising = score[order]
    positive, mass = rows.y_true[order] == 1, rows.mass[order]
    last = np.append(np.flatnonzero(rising[1:] != rising[:-1]), len(rising) - 1)
    one = np.cumsum(np.where(positive, mass, 0.0))[last]
    zero = np.cumsum(np.where(positive, 0.0, mass))[last]
    positives, negatives = one[-1], zero[-1]
    behind = (zero - np.diff(zero, prepend=0.0) / 2) / negatives
    before = 1 - (one - np.diff(one, prepend=0.0) / 2) / positives
    value = float(np.diff(one, prepend=0.0) @ behind / positives)
    runs = np.diff(last, prepend=-1)
    effect = np.empty(rows.rows)
    effect[order] = mass * np.where(
        positive,
        np.repeat((behind - value) / positives, runs),
        np.repeat((before - value) / negatives, runs),
    )
    return value, effect


def _contributions(rows: Holdout, metric: Metric, score: Floats) -> tuple[float, Floats]:
    """A mean and what each row adds to it, centred."""
    assert metric.per_row is not None
    each, share = metric.per_row(rows.y_true, score), rows.mass / rows.mass.sum()
    value = float(share @ each)
    return value, share * (each - value)


def _two_class_error(rows: Holdout, effect: Floats) -> float:
    """Standard error of an AUC from its placements, which may be correlated within clusters."""
    positive = rows.y_true == 1
    if rows.codes is None:
        one, zero = effect[positive], effect[~positive]
        return _root(_variance(one, len(one)) + _variance(zero, len(zero)))
    one = rows.sums(np.where(positive, effect, 0.0))
    zero = rows.sums(np.where(positive, 0.0, effect))
    with_one = len(np.unique(rows.codes[positive]))
    with_zero = len(np.unique(rows.codes[~positive]))
    cross = 2 * float(one @ zero) * rows.units / (rows.units - 1)
    return _root(_variance(one, with_one) + _variance(zero, with_zero) + cross)


def _mean_error(rows: Holdout, effect: Floats) -> float:
    return _root(_variance(rows.sums(effect), rows.units))


def _variance(sums: Floats, units: int) -> float:
    return float(sums @ sums) * units / (units - 1) if units > 1 else float("nan")


def _root(variance: float) -> float:
    """NaN stays NaN: a class seen in one unit only has no known error."""
    return float(np.sqrt(max(variance, 0.0))) if np.isfinite(variance) else float("nan")


def _reached(
    rows: Holdout, value: float, error: float, confidence: float, method: str, seed: int | None
) -> Estimate:
    """Bounds a quantile of standard errors away."""
    reach = rows.quantile(confidence) * error
    p_value = rows.two_sided(value / error) if error != 0 else float(value == 0)
    return Estimate(
        value=value,
        lower=value - reach,
        upper=value + reach,
        standard_error=error,
        p_value=p_value,
        method=method,
        seed=seed,
    )


def _bootstrapped(
    rows: Holdout,
    metric: Metric,
    scores: Sequence[Floats],
    paired: bool,
    confidence: float,
    seed: int,
    replicates: int,
) -> list[Estimate]:
    values = np.array([metric.function(rows.y_true, score, rows.weights) for score in scores])
    grouped = rows.grouped(seed)
    prepared = [prepare(grouped, metric, score) for score in scores]
    draws = np.concatenate(
        [
            np.stack([evaluate(counts) for evaluate in prepared])
            for counts in grouped.resamples(replicates, seed, width=rows.rows)
        ],
        axis=1,
    )
    if paired:
        values = metric.sign * (values[1:] - values[0])
        draws = metric.sign * (draws[1:] - draws[0])
    unit = "rows" if rows.codes is None else "clusters"
    if grouped is not rows:
        unit = f"rows in {grouped.units:,} random groups"
    method = f"{'paired ' * paired}bootstrap of {unit}"
    return [
        _from_draws(grouped, metric, float(value), drawn, paired, confidence, method, seed)
        for value, drawn in zip(values, draws, strict=True)
    ]


def _from_draws(
    rows: Holdout,
    metric: Metric,
    value: float,
    draws: Floats,
    paired: bool,
    confidence: float,
    method: str,
    seed: int,
) -> Estimate:
    """Bounds from replicates, each moved outward by the metric's estimated bias.

    Differences on 30 units or more take percentiles, widened for the sample size (Hesterberg
    2015); otherwise the replicates' standard error and the t distribution. Undefined replicates
    (a class not drawn) are left out.
    """
    draws = draws[np.isfinite(draws)]
    if len(draws) < 2:
        return _reached(rows, value, float("nan"), confidence, method, seed)
    widen = float(np.sqrt(rows.units / (rows.units - 1)))
    found = _reached(rows, value, float(draws.std(ddof=1)) * widen, confidence, method, seed)
    lower, upper, p_value = found.lower, found.upper, found.p_value
    if percentile := paired and rows.units >= FEW:
        from scipy.special import ndtr

        tail = float(ndtr(-widen * rows.quantile(confidence)))
        lower, upper = (float(bound) for bound in np.quantile(draws, [tail, 1 - tail]))
        beyond = 1 + min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
        p_value = min(1.0, 2 * int(beyond) / (len(draws) + 1))
    bias = float(draws.mean()) - value
    return Estimate(
        value=value,
        lower=max(lower - 2 * max(bias, 0.0), -np.inf if paired else metric.lowest),
        upper=upper + 2 * max(-bias, 0.0),
        standard_error=found.standard_error,
        p_value=p_value,
        method=f"{method}, {'percentile' if percentile else 't'}",
        seed=seed,
    )


def prepare(rows: Holdout, metric: Metric, score: Floats) -> Callable[[Floats], Floats]:
    """A function from counts (b, units) of resampled units to the metric's values (b,)."""
    y, mass = rows.y_true, rows.mass
    codes = np.arange(rows.rows) if rows.codes is None else rows.codes
    sums = metric.sums or (None if metric.per_row is None else mean_of(metric.per_row))
    if sums is not None:
        each = np.column_stack([sums.columns(y, score), np.ones(rows.rows)]) * mass[:, None]
        totals = rows.sums(each)
        return lambda counts: sums.value(counts @ totals)
    if (curve := metric.curve) is None:
        return lambda counts: np.array(
            [metric.function(y, score, count[codes] * mass) for count in counts]
        )
    order, ends = ranked(y, score)
    codes, mass, positive = codes[order], mass[order], y[order] == 1
    if rows.units * len(ends) <= _DENSE and rows.units < rows.rows // 50:
        true, false = (
            _table(codes, np.where(side, mass, 0.0), ends, rows.units)
            for side in (positive, ~positive)
        )
        return lambda counts: curve(counts @ true, counts @ false)
    ones = np.flatnonzero(positive)
    until = np.searchsorted(ones, ends, side="right")  # positives up to each threshold

    def from_rows(counts: Floats) -> Floats:
        drawn = counts[:, codes]
        drawn *= mass
        true = np.zeros((len(drawn), len(ones) + 1))
        np.cumsum(drawn[:, ones], axis=1, out=true[:, 1:])
        true = true[:, until]
        return curve(true, np.cumsum(drawn, axis=1, out=drawn)[:, ends] - true)

    return from_rows


def _table(codes: Any, mass: Floats, ends: Any, units: int) -> Floats:
    """Mass of each unit's rows down to each threshold, (units, thresholds)."""
    step = np.searchsorted(ends, np.arange(len(codes)))
    each = np.bincount(codes * len(ends) + step, mass, units * len(ends))
    return np.cumsum(each.reshape(units, len(ends)), axis=1)
