"""Where the bins of a numeric column begin."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mlct.data.profile.source import floats

#: Bins of the population stability index, and equally full bins of the fine histogram.
BINS = 10
KNOTS = 1000
#: Edges are chosen from so many values at most; what is counted on them is counted exactly.
SAMPLE = 2**22

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Edges:
    """Where bins begin: bin i holds `knots[i - 1] <= x < knots[i]`, the first and last are open.

    `coarse` are the indices of the knots that part the bins of the stability index; `origin` is
    what moments are taken about; without `detailed` there are only the coarse knots.
    """

    knots: Array
    coarse: Array
    origin: float
    detailed: bool

    def same(self, other: "Edges") -> bool:
        """Whether counts on both can be added."""
        return (
            self.detailed == other.detailed
            and self.origin == other.origin
            and np.array_equal(self.knots, other.knots)
            and np.array_equal(self.coarse, other.coarse)
        )


def choose_edges(arrays: Iterable[pa.Array], rows: int) -> Edges:
    """Edges from the finite values of a column of `rows` rows (or fewer).

    Of few distinct values each has a bin of its own; of many, the bins are equally full, and those
    of a value that fills several end just above it.
    """
    share = SAMPLE / max(rows, 1)
    random = np.random.default_rng(0)
    held = []
    for array in arrays:
        values = floats(array)
        values = values[np.isfinite(values)]
        if share < 1:
            values = values[random.random(len(values)) < share]
        held.append(values)
    values = np.concatenate(held).astype(np.float64) if held else np.empty(0)
    del held
    values.sort()
    values += 0.0  # -0.0 is 0.0
    n = len(values)
    if not n:
        none = np.empty(0)
        return Edges(knots=none, coarse=none.astype(np.int64), origin=0.0, detailed=True)

    def at(shares: Array) -> Array:
        return values[np.floor(shares * (n - 1)).astype(np.int64)]

    deciles, heavy = _with_heavy(at(np.linspace(0, 1, BINS + 1)))
    bins = np.unique(np.concatenate([deciles[1:-1], heavy]))
    distinct = values[np.concatenate([[True], values[1:] > values[:-1]])]
    if len(distinct) <= KNOTS // 2:
        fine, above = distinct, _just_above(distinct)
    else:
        tails = np.array([1e-5, 1e-4, 1 - 1e-4, 1 - 1e-5])
        fine, above = _with_heavy(
            at(np.sort(np.concatenate([np.linspace(0, 1, KNOTS + 1), tails])))
        )
        above = np.concatenate([above, _just_above(values[-1:])])
    knots = np.unique(np.concatenate([fine, above, bins]))
    knots = knots[np.isfinite(knots)]
    middle = float(at(np.array([0.5]))[0])
    return Edges(
        knots=knots,
        coarse=np.searchsorted(knots, bins[np.isfinite(bins)]),
        origin=middle,
        detailed=True,
    )


def _with_heavy(quantiles: Array) -> tuple[Array, Array]:
    """Quantiles, and the ends of the values that span several: else a constant that grows, or a
    flag that comes up, would stay in its bin."""
    values, times = np.unique(quantiles, return_counts=True)
    return quantiles, _just_above(values[times > 1])


def _just_above(values: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.nextafter(values, np.inf)
