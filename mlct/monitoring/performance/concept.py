"""Concept drift: the truth against what was expected, window by window and for ever.

`gap` asks whether a window's realised value is where the estimate without labels said it would be.
The estimate assumes that labels depend on scores as before, so a gap that chance does not explain
denies just that.

`loss_sequence` watches losses one after the other and may be looked at after each. It bets against
"the mean loss is not above the reference's": a stake grows by the factor 1 + f (x / m - 1) with
each loss x in [0, 1], where m is the largest mean that is allowed and f the share that is put in.
While the mean of each loss given those before it is at most m, the stake is a non-negative
supermartingale, so that it ever reaches 1 / alpha with a probability of at most alpha (Ville 1939),
whatever the distribution. A part of the first stake is kept back for each later start, the k-th of
them 1 / (k (k + 1)), so that a long good time does not hide a change (the idea of Shin, Ramdas and
Rinaldo 2022); shares f are mixed. The largest m that is denied is a confidence sequence
(Waudby-Smith and Ramdas 2024): with probability 1 - alpha the mean loss was at some time above it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlct.errors import DataError, EvaluationError, SpecError
from mlct.evaluation.compare import measure_on
from mlct.evaluation.holdout import Holdout, holdout
from mlct.evaluation.metric import Floats, Metric
from mlct.monitoring.performance.result import LEAST_ROWS, Performance

_SHARES = np.array([0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.5, 0.7, 0.9])
_EVERY = (250, 5)  # independent rows, or clusters, between two starts
_ROUNDS = 25  # of bisection
_MEAN = Metric("mean", lambda y, s, w=None: float(np.average(y, weights=w)), per_row=lambda y, s: y)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """Realised less estimated, on one window; `drifted` at level `alpha`, beyond `margin`.

    `lower` and `upper` are one-sided bounds, each at 1 - alpha / 2; all None where either value is
    unknown.
    """

    metric: str
    value: float | None
    lower: float | None
    upper: float | None
    alpha: float
    drifted: bool
    reason: str


def gap(
    estimated: Performance, realised: Performance, *, alpha: float = 0.05, margin: float = 0.0
) -> Gap:
    """Compare a window's realised value with the estimate on the same rows (`labelled_only`).

    The estimate's standard error is that of the difference. Raises DataError for two windows or
    two metrics.
    """
    _check(alpha, margin)
    of = [(p.metric, p.start, p.end) for p in (estimated, realised)]
    if of[0] != of[1]:
        raise DataError(f"a gap between {of[0]} and {of[1]}", expected="one metric and one window")
    error, name = estimated.standard_error, estimated.metric
    if estimated.value is None or realised.value is None or error is None:
        which = estimated if estimated.value is None else realised
        reason = f"{name} is not {'estimated' if which is estimated else 'known'}: {which.reason}"
        return Gap(
            metric=name,
            value=None,
            lower=None,
            upper=None,
            alpha=alpha,
            drifted=False,
            reason=reason,
        )
    from scipy.special import ndtri, stdtrit

    level = 1 - alpha / 2
    reach = stdtrit(estimated.freedom, level) if estimated.freedom else ndtri(level)
    value = realised.value - estimated.value
    lower, upper = value - float(reach) * error, value + float(reach) * error
    drifted = bool(lower > margin or upper < -margin)
    return Gap(
        metric=name,
        value=value,
        lower=lower,
        upper=upper,
        alpha=alpha,
        drifted=drifted,
        reason=f"{name} was {realised.value:.4g}, {estimated.value:.4g} was expected of these "
        f"scores; the gap {value:+.4g} [{lower:+.4g}, {upper:+.4g}] is "
        + ("more than chance" if drifted else "within chance")
        + f" and a margin of {margin:g}" * bool(margin),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSequence:
    """What a sequence of losses has shown so far, at level `alpha` for all looks together.

    `units` are the losses, or clusters of them; `alarm` is the number of the unit, from 0, with
    which the mean was first shown to be above `allowed`. `lower` is the confidence sequence: at
    some time the mean was above it. Losses are clipped to `bounds`, so are their means.
    """

    units: int
    alarm: int | None
    reference: float
    allowed: float
    lower: float
    bounds: tuple[float, float]
    alpha: float
    reason: str

    @property
    def drifted(self) -> bool:
        return self.alarm is not None


def loss_sequence(
    reference: Any,
    current: Any,
    *,
    reference_clusters: Any = None,
    clusters: Any = None,
    alpha: float = 0.05,
    margin: float = 0.0,
    bounds: tuple[float, float] | None = None,
    every: int | None = None,
) -> LossSequence:
    """Has the mean loss, at any time, risen above the reference's by more than `margin`?

    `reference` (m,) and `current` (n,) are losses in time order: of rows, or with clusters (both or
    neither) their means per cluster, which count as one each. Give residuals for the bias of a
    regression, and their negatives for the other side, each at half of alpha; losses less expected
    losses to leave out what covariate shift explains. Half of `alpha` is for the reference's mean,
    half for the sequence. `bounds` clip the losses, by default from 1.5 standard deviations below
    the reference's mean to 4 above, within its range. Raises EvaluationError.
    """
    _check(alpha, margin)
    if (clusters is None) != (reference_clusters is None):
        raise SpecError("clusters are given for one side only", expected="for both, or neither")
    before = _units("the reference", reference, reference_clusters)
    after = _units("the losses", current, clusters)
    if len(before) < LEAST_ROWS:
        raise EvaluationError(
            f"the reference has {len(before)} losses or clusters", expected=f"at least {LEAST_ROWS}"
        )
    if bounds is None:
        mean, spread = float(before.mean()), float(before.std())
        least, most = float(before.min()), float(before.max())
        bounds = (max(least, mean - 1.5 * spread), min(most, mean + 4 * spread))
    low, high = bounds
    if not low < high:
        raise EvaluationError(
            f"the losses of the reference lie between {low:g} and {high:g}",
            expected="losses that differ, or bounds=(low, high) within which they may lie",
        )
    known = holdout((np.clip(before, low, high) - low) / (high - low))
    level, limit = _highest(known, alpha / 2, margin / (high - low))
    allowed, x = low + limit * (high - low), (np.clip(after, low, high) - low) / (high - low)
    every = every or _EVERY[clusters is not None]
    alarm, lower = None, low
    if len(x) and limit < 1:
        told = _stake(x, limit, every) >= np.log(2 / alpha)
        alarm = int(told.argmax()) if told.any() else None
        lower = low + _denied(x, every, np.log(2 / alpha)) * (high - low)
    unit = "row" if clusters is None else "cluster"
    said = "not shown to be" if alarm is None else f"at {unit} {alarm} shown to be"
    return LossSequence(
        units=len(x),
        alarm=alarm,
        reference=low + level * (high - low),
        allowed=allowed,
        lower=lower,
        bounds=(low, high),
        alpha=alpha,
        reason=f"over {len(x)} {unit}s the mean loss is {said} above {allowed:.4g}, the "
        f"reference's {low + level * (high - low):.4g} with its error"
        + f" and a margin of {margin:g}"
        * bool(margin),
    )


def _highest(known: Holdout, alpha: float, margin: float) -> tuple[float, float]:
    """The reference's mean, and the largest mean that it allows."""
    zeros = np.zeros(known.rows)
    found = measure_on(known, zeros, metric=_MEAN, confidence=1 - alpha, seed=0)
    assert found.upper is not None
    return found.value, min(max(found.upper, 1e-9) + margin, 1.0)


def _stake(x: Floats, limit: float, every: int) -> Floats:
    """Logarithm of what is won against a mean of `limit`, after each loss."""
    starts = np.arange(0, len(x), every)
    number = np.arange(1, len(starts) + 1)
    held, block = -np.log(number * (number + 1.0)), np.arange(len(x)) // every
    total = np.full(len(x), -np.inf)
    for share in _SHARES:
        won = np.cumsum(np.log1p(share * (x / limit - 1)))
        begun = np.append(0.0, won)[starts]
        total = np.logaddexp(total, won + np.logaddexp.accumulate(held - begun)[block])
    found: Floats = total - np.log(len(_SHARES))
    return found


def _denied(x: Floats, every: int, level: float) -> float:
    """The largest mean against which `level` was won at some time; 0 if none."""
    low, high = 0.0, float(x.max())
    if not high:
        return low
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        if _stake(x, middle, every).max() >= level:
            low = middle
        else:
            high = middle
    return low


def _units(what: str, losses: Any, clusters: Any) -> Floats:
    """Losses, or the mean of each cluster in order of its first row."""
    try:
        x = np.asarray(losses, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EvaluationError(f"{what} cannot be read as numbers", expected="numbers") from error
    if x.ndim != 1 or not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).sum())
        raise EvaluationError(
            f"{what} have shape {x.shape}, {bad} values are NaN or infinite",
            expected="finite losses, shape (rows,)",
        )
    if clusters is None:
        return x
    names = np.asarray(clusters)
    if names.shape != x.shape:
        raise EvaluationError(f"the clusters have shape {names.shape}", expected=f"{x.shape}")
    _, first, code = np.unique(names, return_index=True, return_inverse=True)
    means: Floats = np.bincount(code, x) / np.bincount(code)
    return means[np.argsort(first)]


def _check(alpha: float, margin: float) -> None:
    if not 0 < alpha < 1 or not margin >= 0:
        raise SpecError(
            f"alpha is {alpha!r} and margin {margin!r}", expected="0 < alpha < 1, margin >= 0"
        )
