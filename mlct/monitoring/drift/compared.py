"""What two profiles of one column say of each other, before anything is decided."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlct.data.profile import Column
from mlct.data.profile.categories import Categories
from mlct.data.profile.numbers import Numbers
from mlct.monitoring.drift.decision import ROWS_PER_BIN
from mlct.monitoring.drift.statistics import (
    Array,
    chi_square,
    jensen_shannon,
    kolmogorov_smirnov,
    smoothed,
    stability,
    wasserstein,
)

#: Categories that have a bin of their own, and what they must have to get it: rows in the
#: reference, and rows expected in the window.
TOP, REFERENCE_ROWS, EXPECTED_ROWS = 49, 20, 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Distances of one column; None where they have no meaning or cannot be known.

    `n` and `m` are the rows that hold a value in the reference and in the window, `bins` those of
    the stability index that hold a row. `fresh` of `sampled` window rows hold a category that the
    reference's `known` rows lack; `once` of those hold one that no other row has. `pooled` says
    that the window is too small to tell the reference's frequent categories apart.
    """

    psi: float
    jensen_shannon: float
    chi_square: float
    chi_square_p: float
    bins: int
    n: int
    m: int
    ks: float | None = None
    ks_error: float | None = None
    wasserstein: float | None = None
    wasserstein_error: float | None = None
    fresh: int = 0
    sampled: int = 0
    once: int = 0
    known: int = 0
    pooled: bool = False
    new_values: tuple[str, ...] = ()

    @property
    def enough(self) -> bool:
        """Whether there are rows enough for the stability index to mean anything."""
        enough = min(self.n, self.m) >= ROWS_PER_BIN * max(self.bins, 2)
        return enough and not self.pooled


def comparable(reference: Column, current: Column) -> bool:
    """Whether both were profiled on the same edges."""
    a, b = reference.values, current.values
    if isinstance(a, Numbers) and isinstance(b, Numbers):
        return a.edges.same(b.edges)
    if isinstance(a, Categories) and isinstance(b, Categories):
        return a.vocabulary.same(b.vocabulary)
    return True


def compared(reference: Column, current: Column) -> Compared | None:
    """The distances of two comparable columns; None where either has no values to compare."""
    a, b = reference.values, current.values
    if isinstance(a, Numbers) and isinstance(b, Numbers):
        return _numbers(a, b) if a.counts.any() and b.counts.any() else None
    if isinstance(a, Categories) and isinstance(b, Categories):
        n, m = (reference.rows - reference.nulls, current.rows - current.nulls)
        return _categories(a, b) if n and m else None
    return None


def _numbers(a: Numbers, b: Numbers) -> Compared:
    ks, ks_error = kolmogorov_smirnov(a, b)
    far, far_error = _in_deviations(wasserstein(a, b), a.variance)
    return Compared(
        **_binned(a.bins, b.bins),
        ks=ks,
        ks_error=ks_error,
        wasserstein=far,
        wasserstein_error=far_error,
    )


def _binned(a: Array, b: Array) -> dict[str, Any]:
    p, q = smoothed(a, b)
    statistic, p_value = chi_square(a, b)
    return {
        "psi": stability(p, q),
        "jensen_shannon": jensen_shannon(a / a.sum(), b / b.sum()),
        "chi_square": statistic,
        "chi_square_p": p_value,
        "bins": len(p),
        "n": int(a.sum()),
        "m": int(b.sum()),
    }


def _in_deviations(
    found: tuple[float, float] | None, variance: float | None
) -> tuple[float | None, float | None]:
    """Over the reference's standard deviation; a constant that moves is infinitely far."""
    if found is None or variance is None:
        return None, None
    if variance == 0:
        return (math.inf if found[0] > 0 else 0.0), 0.0
    return found[0] / math.sqrt(variance), found[1] / math.sqrt(variance)


def groups(a: Categories, b: Categories) -> tuple[Array, Array]:
    """Rows of the categories that have a bin of their own, and of all others together.

    Which those are is asked of the reference alone: choosing by what the window holds finds drift
    where none is.
    """
    n, m = int(a.counts.sum()) + a.rest, int(b.counts.sum()) + b.rest
    size = max(0, min(TOP, m // ROWS_PER_BIN - 1))
    top = np.argsort(-a.counts, kind="stable")[:size]
    top = top[(a.counts[top] >= REFERENCE_ROWS) & (a.counts[top] * (m / n) >= EXPECTED_ROWS)]
    first, second = (np.append(c.counts[top], 0) for c in (a, b))
    first[-1], second[-1] = n - first.sum(), m - second.sum()
    return first, second


def _categories(a: Categories, b: Categories) -> Compared:
    limit = min(a.limit, b.limit)
    inside = np.ones(len(a.counts), bool)
    if limit < 2**64:  # else all are
        inside = a.vocabulary.hashes < np.uint64(limit)
    old, new = a.new_below(limit), b.new_below(limit)
    unseen = inside & (a.counts == 0) & (b.counts > 0)
    fresh = {name: rows for name, rows in new.items() if name not in old}
    fresh |= {a.vocabulary.values[i]: int(b.counts[i]) for i in np.flatnonzero(unseen)}
    first, second = groups(a, b)
    frequent = int((a.counts >= REFERENCE_ROWS).sum())
    return Compared(
        **_binned(first, second),
        pooled=len(first) == 1
        and frequent + (a.counts.sum() + a.rest > a.counts.max(initial=0)) > 1,
        fresh=sum(fresh.values()),
        sampled=int(b.counts[inside].sum()) + sum(new.values()),
        once=int((a.counts[inside] == 1).sum()) + sum(r == 1 for r in old.values()),
        known=int(a.counts[inside].sum()) + sum(old.values()),
        new_values=tuple(sorted(fresh, key=lambda name: (-fresh[name], name))[:5]),
    )
