"""Distances between two histograms on the same edges, exact or with a bound on the error."""

from typing import Any

import numpy as np
from scipy import special

from mlct.data.profile.numbers import Numbers

Array = np.ndarray[Any, np.dtype[Any]]


def stability(p: Array, q: Array) -> float:
    """Population stability index of two arrays of shares (bins,): the sum of (q - p) ln(q / p).

    Symmetric. A bin that is empty in both adds nothing; one that is empty in one makes it infinite.
    """
    held = (p > 0) | (q > 0)
    p, q = p[held], q[held]
    with np.errstate(divide="ignore"):
        return float(np.sum((q - p) * (np.log(q) - np.log(p))))


def smoothed(a: Array, b: Array) -> tuple[Array, Array]:
    """Shares of two arrays of counts over the bins that hold a row, each with half a count more.

    ((c + 0.5) / (n + 0.5 B)): a bin that is empty on one side stays finite, and without drift the
    index is about (B - 1)(1/n + 1/m) on average (Yurdakul 2018).
    """
    held = (a > 0) | (b > 0)
    p, q = ((c[held] + 0.5) / (c.sum() + 0.5 * held.sum()) for c in (a, b))
    return p, q


def jensen_shannon(p: Array, q: Array) -> float:
    """Jensen-Shannon distance of shares, base 2: 0 for equal, 1 for disjoint."""
    middle = (p + q) / 2
    divergence = special.rel_entr(p, middle).sum() + special.rel_entr(q, middle).sum()
    return float(np.sqrt(max(divergence, 0.0) / 2 / np.log(2)))


def chi_square(a: Array, b: Array) -> tuple[float, float]:
    """Two-sample chi-square of counts (bins,), and its p-value.

    Two-sample: the reference is a sample too, and taking it for exact finds drift where none is.
    """
    held = (a > 0) | (b > 0)
    a, b = a[held].astype(float), b[held].astype(float)
    n, m = a.sum(), b.sum()
    if len(a) < 2 or not n or not m:
        return 0.0, 1.0
    statistic = float((((a * np.sqrt(m / n) - b * np.sqrt(n / m)) ** 2) / (a + b)).sum())
    return statistic, float(special.chdtrc(len(a) - 1, statistic))


def kolmogorov_smirnov(a: Numbers, b: Numbers) -> tuple[float, float]:
    """Largest distance of two distribution functions at the edges, and how much it may miss.

    Within a bin it could only be larger where both have values there; a bin one double wide has no
    inside. So it is exact for a reference of up to 500 distinct values.
    """
    f, g = (np.concatenate([[0.0], np.cumsum(c)]) / c.sum() for c in (a.counts, b.counts))
    found = float(np.abs(f - g).max())
    inside = np.maximum(f[1:] - g[:-1], g[1:] - f[:-1])
    knots = a.edges.knots
    if len(knots) > 1:
        points = np.nextafter(knots[:-1], np.inf) == knots[1:]
        inside[1:-1][points] = 0
    if not len(knots):
        inside[:] = 1
    return found, max(0.0, float(inside.max()) - found)


def wasserstein(a: Numbers, b: Numbers) -> tuple[float, float] | None:
    """Wasserstein-1 distance of the finite values, in their unit, and how much it may miss.

    Exact in every bin where one distribution function stays above the other, by the bin's sum;
    elsewhere the two areas cancel in part. None for coarse profiles, and where sums overflow.
    """
    if a.sums is None or b.sums is None or not a.finite or not b.finite:
        return None
    tails = [(s.below, s.above) for s in (a, b)]
    if any(t is None for pair in tails for t in pair):
        return None
    low = high = 0.0
    for one, other in zip(*tails, strict=True):
        assert one is not None
        assert other is not None
        x, y = float(one) / a.finite, float(other) / b.finite
        low, high = low + abs(x - y), high + x + y
    if len(a.edges.knots) < 2:
        return (low, high - low) if len(a.edges.knots) else None
    (f, inside_f), (g, inside_g) = _finite_shares(a), _finite_shares(b)
    with np.errstate(over="ignore"):
        width = np.diff(a.edges.knots)
    # Of the bin's width: the areas below the two functions.
    area_f, area_g = f[1:] - inside_f, g[1:] - inside_g
    difference = np.abs(area_f - area_g)
    crossing = (f[:-1] < g[1:]) & (g[:-1] < f[1:])
    most = np.minimum.reduce(
        [
            np.maximum(f[1:] - g[:-1], g[1:] - f[:-1]),
            area_f - f[:-1] + area_g - g[:-1] + np.abs(f[:-1] - g[:-1]),
            f[1:] - area_f + g[1:] - area_g + np.abs(f[1:] - g[1:]),
        ]
    )
    most = np.where(crossing, np.maximum(most, difference), difference)
    with np.errstate(invalid="ignore", over="ignore"):
        low, high = low + float(width @ difference), high + float(width @ most)
    return (low, high - low) if np.isfinite(high) else None


def _finite_shares(numbers: Numbers) -> tuple[Array, Array]:
    """Distribution function of the finite values at the knots, and each inner bin's sum of
    distances from its left edge over its width, both over the number of values."""
    counts = numbers.counts.copy()
    counts[0] -= numbers.negative
    counts[-1] -= numbers.positive
    return np.cumsum(counts)[:-1] / numbers.finite, numbers.inside / numbers.finite
