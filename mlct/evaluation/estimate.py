"""A metric's value, or the difference of two, with its standard error and bounds.

Methods, chosen by the metric:

- ROC AUC: DeLong, DeLong & Clarke-Pearson 1988 by mid-ranks in O(n log n) (Sun & Xu 2014); with
  clusters the sums of placements over clusters, Obuchowski 1997; of several classes, the mean of
  the placements of each class against the rest;
- a mean over rows: the variance of the mean (of the differences), cluster-robust with clusters;
- everything else: a bootstrap of whole clusters (or rows), percentile or BCa (Efron 1987, its
  acceleration from leaving out each cluster). A replicate is a product of how often each cluster
  was drawn and what it adds, on many rows at some thousand thresholds of a curve.

Few or unequal clusters: each cluster's sum is divided by the root of one less its share of the
rows, and t takes the degrees of freedom of such a variance (Bell & McCaffrey 2002, one mean for
each class). With equal clusters that is Obuchowski's variance and t with a degree less than there
are clusters; with clusters of one row, DeLong's. Without it one cluster in ten nine times the size
of the others doubles the false alarms (`benchmarks/gate_simulation.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlct.errors import SpecError
from mlct.evaluation.holdout import FEW, Holdout
from mlct.evaluation.metric import METRICS, Floats, Metric, one_vs_rest
from mlct.evaluation.replicate import down_to, prepare

REPLICATES = 2000
BEYOND = 10
"""A bound with fewer replicates beyond it cannot be placed by them alone."""
INTERVALS = ("percentile", "bca")


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
    interval: str = "percentile",
) -> list[Estimate]:
    """The metric of each score; when paired, how much better each after the first is than it."""
    if not isinstance(confidence, int | float) or not 0.5 <= confidence < 1:
        raise SpecError(f"confidence is {confidence!r}", expected="a number from 0.5 to below 1")
    if interval not in INTERVALS:
        raise SpecError(f"interval is {interval!r}", expected=f"one of {', '.join(INTERVALS)}")
    for name, given, least in (("replicates", replicates, 2), ("seed", seed, 0)):
        if not isinstance(given, int | np.integer) or given < least:
            raise SpecError(f"{name} is {given!r}", expected=f"a whole number from {least}")
    auc = metric.function is METRICS["roc_auc"].function
    if not auc and metric.per_row is None:
        draw = _Bootstrap(
            rows=rows,
            grouped=rows.grouped(seed),
            metric=metric,
            paired=paired,
            confidence=confidence,
            seed=seed,
            replicates=replicates,
            interval=interval,
        )
        return [_without_spread(found) for found in draw.estimates(scores)]
    pair = "paired " if paired else ""
    noun = "DeLong" if auc else "differences" if paired else "mean"
    clustered = "clustered " if auc else "cluster-robust "
    known = f"{clustered}{pair}{noun}"
    if rows.codes is None:
        known = f"{pair}{noun} of independent rows"
    influences = (placements(rows, s) if auc else _contributions(rows, metric, s) for s in scores)
    spread = _two_class_spread if auc and scores[0].ndim == 1 else _mean_spread
    first, centre = next(influences) if paired else (0.0, None)
    found = []
    for value, effect in influences:
        if centre is not None:
            value = _better(metric, value - first)
            effect -= centre
        error, freedom = spread(rows, effect)
        method = known + _of_t(rows, freedom)
        reached = _reached(rows, value, error, freedom, confidence, method, None)
        found.append(_without_spread(reached))
    return found


def _without_spread(found: Estimate) -> Estimate:
    """Rows that all say the same tell nothing of how rows differ, unless it is "no difference"."""
    if not found.standard_error <= 1e-12 * abs(found.value) or found.value == 0:
        return found
    return replace(found, method=f"{found.method}, without any spread: the error is not known")


def _better(metric: Metric, difference: Any) -> Any:
    """Positive is better; no difference is 0.0, never -0.0."""
    return metric.sign * difference + 0.0


def placements(rows: Holdout, score: Floats) -> tuple[float, Floats]:
    """ROC AUC and what each row adds to it, centred: its placement among the other class.

    A positive's placement is the share of negatives ranked behind it, a negative's the share of
    positives ranked before it; ties count one half. One sort serves both classes. Of scores (rows,
    classes): the means over the classes, each against the rest.
    """
    if score.ndim == 2:
        classes = one_vs_rest(rows.y_true, score)
        parts = [placements(replace(rows, y_true=y), one) for y, one in classes]
        values, effects = zip(*parts, strict=True)
        return float(np.mean(values)), np.mean(effects, axis=0)
    order = np.argsort(score)
    last = _ends(score[order])
    positive = rows.y_true[order] == 1
    behind, half, negatives = _middles(rows, order, ~positive, last)
    del half  # of a million rows each array is megabytes: what has served goes
    before, half, positives = _middles(rows, order, positive, last)
    value = float(2 * (half @ behind) / (positives * negatives))
    del half
    runs = last
    runs[1:] = np.diff(last)
    runs[0] += 1
    behind /= negatives
    behind -= value
    behind /= positives
    found = np.repeat(behind, runs)
    del behind
    before /= -positives
    before += 1 - value
    before /= negatives
    np.copyto(found, np.repeat(before, runs), where=~positive)
    del before, runs, last
    effect = np.empty(rows.rows)
    effect[order] = found
    return value, effect if rows.weights is None else effect * rows.weights


def _ends(ordered: Floats) -> Any:
    """The last position of each run of equal values."""
    return np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)


def _middles(rows: Holdout, order: Any, side: Any, last: Any) -> tuple[Floats, Floats, float]:
    """Running mass of one side to the middle of each tied run, half the run's, and all of it."""
    total = down_to(side, None if rows.weights is None else rows.weights[order], last)
    whole = float(total[-1])
    half = total.copy()
    half[1:] -= total[:-1]
    half /= 2
    total -= half
    return total, half, whole


def _contributions(rows: Holdout, metric: Metric, score: Floats) -> tuple[float, Floats]:
    """A mean and what each row adds to it, centred."""
    assert metric.per_row is not None
    each, share = metric.per_row(rows.y_true, score), rows.mass / rows.mass.sum()
    value = float(share @ each)
    return value, share * (each - value)


def _two_class_spread(rows: Holdout, effect: Floats) -> tuple[float, float]:
    """Standard error and degrees of freedom of an AUC from its placements."""
    total = np.zeros(rows.units)
    share = np.zeros(rows.units)
    variance = float(effect @ effect)
    for side in (rows.y_true == 1, rows.y_true != 1):
        held = rows.shares(side * 1.0 if rows.weights is None else side * rows.weights)
        mine = effect * side
        # How much of the variance is this class's, were the rows independent.
        weight = float(mine @ mine) / variance if variance > 0 else 0.5
        total += _leveraged(rows.sums(mine), held)
        held *= weight
        share += held
        del held, mine
    return _root(float(total @ total)), _freedom(share)


def _mean_spread(rows: Holdout, effect: Floats) -> tuple[float, float]:
    """Standard error and degrees of freedom of a mean from its centred parts."""
    share = rows.shares(rows.mass)
    total = _leveraged(rows.sums(effect), share)
    return _root(float(total @ total)), _freedom(share)


def _leveraged(sums: Floats, share: Floats) -> Floats:
    """Sums around a common mean, as wide as around the true one; NaN where a unit is all."""
    room = 1 - share
    room[room < 1e-12] = np.nan
    found: Floats = np.divide(sums, np.sqrt(room, out=room), out=room)
    return found


def _freedom(share: Floats) -> float:
    """Degrees of freedom of the variance of a mean, from the units' shares of the rows."""
    with np.errstate(invalid="ignore", divide="ignore"):
        both = share * share
        both /= 1 - share
        freedom = 1 / (share @ share + both.sum() ** 2 - both @ both)
    return float(freedom) if np.isfinite(freedom) else 1.0


def _root(variance: float) -> float:
    """NaN stays NaN: a class seen in one unit only has no known error."""
    return float(np.sqrt(variance)) if np.isfinite(variance) else float("nan")


def _reached(
    rows: Holdout,
    value: float,
    error: float,
    freedom: float,
    confidence: float,
    method: str,
    seed: int | None,
) -> Estimate:
    """Bounds a quantile of standard errors away."""
    reach = rows.quantile(confidence, freedom) * error
    p_value = rows.two_sided(value / error, freedom) if error != 0 else float(value == 0)
    return Estimate(
        value=value,
        lower=value - reach,
        upper=value + reach,
        standard_error=error,
        p_value=p_value,
        method=method,
        seed=seed,
    )


def _of_t(rows: Holdout, freedom: float) -> str:
    """Says that few units, or fewer than meet the eye, decide how far the bounds reach."""
    if freedom + 1 >= FEW:
        return ""
    return ", t" if round(freedom) == rows.units - 1 else f", t as of {freedom + 1:.0f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bootstrap:
    """One question asked of resampled units; `grouped` are the rows in the units that are drawn."""

    rows: Holdout
    grouped: Holdout
    metric: Metric
    paired: bool
    confidence: float
    seed: int
    replicates: int
    interval: str

    def estimates(self, scores: Sequence[Floats]) -> list[Estimate]:
        """Each score's value, or when paired the differences from the first."""
        found = (self._drawn(score) for score in scores)
        first = next(found) if self.paired else None
        return [self._estimate(first, other) for other in found]

    def _drawn(self, score: Floats) -> "_Drawn":
        """One score's value, replicates and jackknife; only one table of counts lives at a time."""
        metric, units = self.metric, self.grouped.units
        value = metric.function(self.rows.y_true, score, self.rows.weights)
        evaluate = prepare(self.grouped, metric, score)
        chunks = self.grouped.resamples(self.replicates, self.seed, width=self.rows.rows)
        draws = np.concatenate([evaluate(counts) for counts in chunks])
        left_out = np.empty(0)
        if self.interval == "bca":
            left_out = np.concatenate([evaluate(counts) for counts in _each_left_out(units)])
        return _Drawn(value, draws, left_out, self._freedom(score))

    def _freedom(self, score: Floats) -> float:
        """Of the rows that make up the metric's denominator."""
        mass = self.grouped.mass
        if self.metric.support is not None:
            mass = mass * self.metric.support(self.rows.y_true, score)
        return _freedom(self.grouped.shares(mass)) if mass.any() else 1.0

    def _estimate(self, first: "_Drawn | None", other: "_Drawn") -> Estimate:
        """Bounds from replicates; undefined ones (a class not drawn) are left out.

        Differences on 30 units or more take percentiles, widened for the sample size (Hesterberg
        2015), or BCa; otherwise the replicates' standard error and the t distribution. But for
        BCa, which does so itself, bounds move outward by the estimated bias. Where a confidence
        is so high that fewer than ten replicates lie beyond a bound, it is the outer of that and t.
        """
        found = other if first is None else _better_drawn(self.metric, first, other)
        value, rows = float(found.value), self.grouped
        draws = found.draws[np.isfinite(found.draws)]
        unit = "independent rows" if self.rows.codes is None else "clusters"
        if rows is not self.rows:
            unit += f" in {rows.units:,} random groups"
        method = f"{'paired ' * self.paired}bootstrap of {unit}"
        known = (self.confidence, method, self.seed)
        if len(draws) < 2:
            return _reached(rows, value, float("nan"), found.freedom, *known)
        widen = float(np.sqrt((found.freedom + 1) / found.freedom))
        error = float(draws.std(ddof=1)) * widen
        by_t = _reached(rows, value, error, found.freedom, *known)
        if found.freedom + 1 < FEW or not (self.paired or self.interval == "bca"):
            few = _of_t(rows, found.freedom) or ", t"
            return self._moved(replace(by_t, method=method + few), draws)
        tail = rows.quantile(self.confidence, found.freedom) * widen
        if self.interval == "bca":
            by_bca = _corrected(by_t, draws, found.left_out, tail)
            return self._outer(replace(by_bca, method=f"{method}, BCa"), by_t, draws)
        from scipy.special import ndtr

        lower, upper = (float(b) for b in np.quantile(draws, ndtr([-tail, tail])))
        beyond = 1 + min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
        p_value = min(1.0, 2 * int(beyond) / (len(draws) + 1))
        method = f"{method}, percentile"
        by_percentile = replace(by_t, lower=lower, upper=upper, p_value=p_value, method=method)
        return self._moved(self._outer(by_percentile, by_t, draws), draws)

    def _outer(self, found: Estimate, by_t: Estimate, draws: Floats) -> Estimate:
        if (1 - self.confidence) * len(draws) >= BEYOND:
            return found
        return replace(
            found,
            lower=min(found.lower, by_t.lower),
            upper=max(found.upper, by_t.upper),
            p_value=max(found.p_value, by_t.p_value),
            method=f"{found.method}, or t where wider",
        )

    def _moved(self, found: Estimate, draws: Floats) -> Estimate:
        bias = float(draws.mean()) - found.value
        least = -np.inf if self.paired else self.metric.lowest
        return replace(
            found,
            lower=max(found.lower - 2 * max(bias, 0.0), least),
            upper=found.upper + 2 * max(-bias, 0.0),
        )


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A value, its replicates, its values without each unit, and its degrees of freedom."""

    value: float
    draws: Floats
    left_out: Floats
    freedom: float


def _better_drawn(metric: Metric, first: _Drawn, other: _Drawn) -> _Drawn:
    return _Drawn(
        _better(metric, other.value - first.value),
        _better(metric, other.draws - first.draws),
        _better(metric, other.left_out - first.left_out),
        min(other.freedom, first.freedom),
    )


def _each_left_out(units: int) -> Iterator[Floats]:
    """Chunks (b, units) of counts, each row without one unit."""
    for start in range(0, units, 256):
        counts = np.ones((min(256, units - start), units))
        counts[np.arange(len(counts)), start + np.arange(len(counts))] = 0.0
        yield counts


def _corrected(found: Estimate, draws: Floats, left_out: Floats, tail: float) -> Estimate:
    """Bias-corrected and accelerated bounds `tail` normal deviates away, and their p-value."""
    from scipy.special import ndtr, ndtri

    pull = np.nanmean(left_out) - left_out[np.isfinite(left_out)]
    spread = float((pull**2).sum())
    acceleration = float((pull**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0

    def deviate(point: float) -> float:
        below = np.count_nonzero(draws < point) + np.count_nonzero(draws == point) / 2
        return float(ndtri(np.clip(below, 0.5, len(draws) - 0.5) / len(draws)))

    bias = deviate(found.value)

    def level(z: float) -> float:
        return float(ndtr(bias + (bias + z) / (1 - acceleration * (bias + z))))

    lower, upper = (float(b) for b in np.quantile(draws, [level(-tail), level(tail)]))
    away = deviate(0.0) - bias
    zero = float(ndtr(away / (1 + acceleration * away) - bias))
    p_value = min(1.0, 2 * min(zero, 1 - zero))
    return replace(found, lower=lower, upper=upper, p_value=p_value)
