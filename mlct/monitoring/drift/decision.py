"""When is a distance drift? Tests of a least effect, many columns at once, clustered rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import special

#: Population stability index up to which a column counts as unchanged.
TAU = 0.02
#: Change of the share of missing values, and share of unseen categories, that do not matter.
MISSING = 0.01
UNSEEN = 0.001
#: Rows a bin, on either side, below which nothing is said.
ROWS_PER_BIN = 20

# Past windows that are needed before their spread says anything.
_WINDOWS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """How much more an undisturbed column moves than independent rows would make it.

    The stability index over (1/n + 1/m) is taken as `scale` times a chi-square of `freedom`
    degrees (of all the bins' when None), the squared deviate of the missing share as `missing`
    times one of one degree; `unseen` is the share of unseen categories that is usual.
    """

    scale: float = 1.0
    freedom: float | None = None
    missing: float = 1.0
    unseen: float = 0.0


def least_effect(psi: float, *, bins: int, n: int, m: int, tau: float, spread: Spread) -> float:
    """P-value of H0: the populations' stability index is `tau` or less.

    psi / (1/n + 1/m) is non-central chi-square of bins - 1 degrees and non-centrality
    tau / (1/n + 1/m); both over the spread's scale for clustered rows.
    """
    if bins < 2:
        return 1.0
    unit = (1 / n + 1 / m) * spread.scale
    return _noncentral(psi / unit, spread.freedom or bins - 1, tau / unit)


@lru_cache(maxsize=1024)  # columns of one window ask the same
def least_index(p: float, *, bins: int, n: int, m: int, tau: float, spread: Spread) -> float:
    """The stability index whose p-value by `least_effect` is `p`; infinite for a single bin."""
    if bins < 2:
        return math.inf
    unit = (1 / n + 1 / m) * spread.scale
    freedom, shift = spread.freedom or bins - 1, tau / unit
    low, high = 0.0, 2 * (freedom + shift) + 50
    while _noncentral(high, freedom, shift) > p:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _noncentral(middle, freedom, shift) > p else (low, middle)
    return high * unit


def _noncentral(x: float, freedom: float, shift: float) -> float:
    """Upper tail of the non-central chi-square."""
    if not math.isfinite(x):
        return 0.0
    if shift > 1e4:  # as close, and the series gets slow: Sankaran (1963)
        h = 1 - 2 * (freedom + shift) * (freedom + 3 * shift) / (3 * (freedom + 2 * shift) ** 2)
        s = (freedom + 2 * shift) / (freedom + shift) ** 2
        mean = 1 + h * (h - 1) * s - h * (h - 1) * (2 - h) * (1 - 3 * h) * s * s / 2
        deviation = h * math.sqrt(2 * s) * (1 + (h - 1) * (1 - 3 * h) * s / 2)
        return float(special.ndtr((mean - (x / (freedom + shift)) ** h) / deviation))
    return float(min(1.0, max(0.0, 1 - special.chndtr(x, freedom, shift))))


def missing_moved(a: int, n: int, b: int, m: int, spread: Spread) -> float:
    """P-value of H0: the share of missing rows (a of n, b of m) changed by `MISSING` or less."""
    return float(min(1.0, 2 * special.ndtr(-_deviate(a, n, b, m, MISSING, spread.missing))))


def _deviate(a: int, n: int, b: int, m: int, margin: float, scale: float) -> float:
    # One row more on each side keeps the variance of a share of none above zero.
    p, q = (a + 1) / (n + 2), (b + 1) / (m + 2)
    error = math.sqrt((p * (1 - p) / n + q * (1 - q) / m) * scale)
    return (abs(a / n - b / m) - margin) / error


def unseen_moved(fresh: int, m: int, once: int, n: int, spread: Spread) -> float:
    """P-value of H0: `fresh` of `m` rows hold categories that the reference lacked by chance.

    Of n reference rows, `once` hold a category that no other row has; the chance that another row's
    is new is about once / n (Good 1953), at most (once + 2 sqrt(once + 1) + 1) / n.
    """
    if not m or not n:
        return 1.0
    share = max((once + 2 * math.sqrt(once + 1) + 1) / n, spread.unseen, UNSEEN)
    if fresh == 0 or share >= 1:
        return 1.0
    return float(special.bdtrc(fresh - 1, m, share))


def benjamini_hochberg(p: Mapping[str, float], alpha: float) -> float:
    """The p-value up to which to reject, for a false discovery rate of `alpha`.

    Without drift anywhere that is the chance of any alarm (Benjamini and Hochberg 1995; valid when
    columns depend positively, Benjamini and Yekutieli 2001).
    """
    ordered = sorted(p.values())
    passed = [i for i, value in enumerate(ordered, 1) if value <= alpha * i / len(ordered)]
    return alpha * max(passed, default=1) / max(len(ordered), 1)


def spread_of(
    indices: Sequence[tuple[float, int]], deviates: Sequence[float], unseen: Sequence[float]
) -> Spread:
    """The spread that past windows show.

    `indices` are `(psi / (1/n + 1/m), bins)` of each, `deviates` the deviates of the missing share,
    `unseen` the shares of unseen categories. The first two moments of the indices give scale and
    degrees (Satterthwaite): rows that share a day move few bins far rather than all a little.
    """
    if len(deviates) < _WINDOWS:
        return Spread()
    missing = max(1.0, float(np.mean(np.square(deviates))))
    usual = float(np.mean(unseen) + 2 * np.std(unseen)) if len(unseen) else 0.0
    held = [(value, bins) for value, bins in indices if bins > 1 and math.isfinite(value)]
    if len(held) < _WINDOWS:
        return Spread(missing=missing, unseen=usual)
    values: Any = np.array([v for v, _ in held])
    degrees = float(np.mean([b - 1 for _, b in held]))
    mean, variance = float(values.mean()), float(values.var(ddof=1))
    if mean <= degrees:
        return Spread(missing=missing, unseen=usual)
    freedom = min(degrees, max(1.0, 2 * mean**2 / variance if variance else degrees))
    return Spread(scale=mean / freedom, freedom=freedom, missing=missing, unseen=usual)
