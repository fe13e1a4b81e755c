"""Histograms and moments of a numeric column, merged by exact addition."""

import base64
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from mlct.data.profile.edges import Array, Edges
from mlct.data.profile.source import floats
from mlct.errors import DataError

_SORTED = 65_536  # rows that are sorted at once: 0.5 MB, which fits the cache
_COMPARED = 65_536
_DOT = 8_192  # below it OpenBLAS starts no threads
_ONES = np.ones(_DOT)
# Sums within a bin are kept in two integers, of units 2^-20 and 2^-52 of the bin's width.
_HIGH, _LOW = 2.0**20, 2.0**32

Exact = Fraction | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Numbers:
    """Counts of a numeric column. Infinities count in the outer bins, NaN in none.

    `counts` (bins,) and, when detailed, `sums` (2, bins): the sum of `x - left edge` of each inner
    bin as two integers. `below` and `above` are the summed distances of the finite values beyond
    the outermost knots, `total` and `squares` the sums of `x - origin` and its square: exact
    fractions, None where they are beyond a double. `low` and `high` are the extreme finite values.
    """

    edges: Edges
    counts: Array
    sums: Array | None
    below: Exact
    above: Exact
    total: Exact
    squares: Exact
    finite: int
    nan: int
    negative: int
    positive: int
    zeros: int
    low: float | None
    high: float | None

    @property
    def mean(self) -> float | None:
        """Of the finite values; None without any."""
        if not self.finite or self.total is None:
            return None
        return float(Fraction(self.edges.origin) + self.total / self.finite)

    @property
    def variance(self) -> float | None:
        """Of the finite values, divided by their number; None without any."""
        if not self.finite or self.total is None or self.squares is None:
            return None
        mean = self.total / self.finite
        try:
            return max(0.0, float(self.squares / self.finite - mean * mean))
        except OverflowError:
            return None

    @property
    def bins(self) -> Array:
        """Counts of the stability index's bins."""
        starts = np.concatenate([[0], self.edges.coarse + 1])
        return np.add.reduceat(self.counts, starts)

    @property
    def inside(self) -> Array:
        """Sum of `x - left edge` over the bin's width, of each inner bin (detailed only)."""
        assert self.sums is not None
        return (self.sums[0] + self.sums[1] / _LOW)[1:-1] / _HIGH

    def merge(self, other: "Numbers") -> "Numbers":
        """Both windows' values. Raises DataError when the edges differ."""
        if not self.edges.same(other.edges):
            raise DataError("two histograms have different edges")
        lows = [v for v in (self.low, other.low) if v is not None]
        highs = [v for v in (self.high, other.high) if v is not None]
        return Numbers(
            edges=self.edges,
            counts=self.counts + other.counts,
            sums=None if self.sums is None or other.sums is None else self.sums + other.sums,
            below=_add(self.below, other.below),
            above=_add(self.above, other.above),
            total=_add(self.total, other.total),
            squares=_add(self.squares, other.squares),
            finite=self.finite + other.finite,
            nan=self.nan + other.nan,
            negative=self.negative + other.negative,
            positive=self.positive + other.positive,
            zeros=self.zeros + other.zeros,
            low=min(lows, default=None),
            high=max(highs, default=None),
        )

    def coarse(self) -> "Numbers":
        """On the bins of the stability index alone."""
        knots = self.edges.knots[self.edges.coarse]
        edges = replace(self.edges, knots=knots, coarse=np.arange(len(knots)), detailed=False)
        zero = Fraction(0)
        return replace(self, edges=edges, counts=self.bins, sums=None, below=zero, above=zero)

    def plain(self) -> dict[str, Any]:
        """As JSON; arrays as base64 of little-endian bytes."""
        return {
            "of": "numbers",
            "knots": _packed(self.edges.knots, "<f8"),
            "coarse": self.edges.coarse.tolist(),
            "origin": self.edges.origin,
            "detailed": self.edges.detailed,
            "counts": _packed(self.counts, "<i8"),
            "sums": None if self.sums is None else _packed(self.sums, "<i8"),
            **{n: _written(getattr(self, n)) for n in _EXACT},
            **{n: getattr(self, n) for n in _COUNTS + _ENDS},
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Numbers":
        """What `plain` gave."""
        edges = Edges(
            knots=_unpacked(plain["knots"], "<f8"),
            coarse=np.array(plain["coarse"], np.int64),
            origin=float(plain["origin"]),
            detailed=plain["detailed"],
        )
        sums = plain["sums"]
        exact: dict[str, Any] = {n: _read(plain[n]) for n in _EXACT}
        ends: dict[str, Any] = {n: None if plain[n] is None else float(plain[n]) for n in _ENDS}
        return cls(
            edges=edges,
            counts=_unpacked(plain["counts"], "<i8"),
            sums=None if sums is None else _unpacked(sums, "<i8").reshape(2, -1),
            **exact,
            **ends,
            **{n: plain[n] for n in _COUNTS},
        )


_EXACT = ("below", "above", "total", "squares")
_COUNTS = ("finite", "nan", "negative", "positive", "zeros")
_ENDS = ("low", "high")


def _add(a: Exact, b: Exact) -> Exact:
    return None if a is None or b is None else a + b


def _exact(value: Any) -> Exact:
    return Fraction(float(value)) if np.isfinite(value) else None


def _written(value: Exact) -> str | None:
    """A sum of doubles, whose denominator is a power of two."""
    if value is None:
        return None
    return f"{value.numerator:x}/{value.denominator.bit_length() - 1}"


def _read(text: str | None) -> Exact:
    if text is None:
        return None
    numerator, _, power = text.partition("/")
    return Fraction(int(numerator, 16), 2 ** int(power))


def _packed(values: Array, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode()


def _unpacked(text: str, dtype: str) -> Array:
    return np.frombuffer(base64.b64decode(text), dtype).astype(dtype[1:])


class NumberCounter:
    """Counts arrays on given edges, block by block."""

    def __init__(self, edges: Edges) -> None:
        self.edges = edges
        self.counts = np.zeros(len(edges.knots) + 1, np.int64)
        self.within = np.zeros(len(edges.knots) + 1)
        self.total = self.squares = self.low_tail = self.high_tail = 0.0
        self.finite = self.nan = self.negative = self.positive = self.zeros = 0
        self.low, self.high = np.inf, -np.inf
        self._knots = {8: edges.knots, 4: _rounded_up(edges.knots)}
        # The first finite value, zero, the first above it, +inf, NaN: as they sort.
        self._marks = {
            size: np.array(
                [np.finfo(kind).min, 0, np.finfo(kind).smallest_subnormal, np.inf, np.nan], kind
            )
            for size, kind in ((8, np.float64), (4, np.float32))
        }
        self._below = np.empty(_COMPARED, bool)

    def add(self, array: pa.Array) -> None:
        """Count an array (which holds a value)."""
        values = floats(array)
        size = _SORTED if self.edges.detailed else _COMPARED
        count = self._sorted if self.edges.detailed else self._compared
        with np.errstate(over="ignore", invalid="ignore"):
            for at in range(0, len(values), size):
                count(values[at : at + size])

    def _sorted(self, block: Array) -> None:
        """Sorting a block that fits the cache is cheaper than finding each value's bin."""
        block = np.sort(block)
        size = block.dtype.itemsize
        first, zero, above, last, end = block.searchsorted(self._marks[size]).tolist()
        self.nan += len(block) - end
        self.negative += first
        self.positive += end - last
        self.counts[0] += first
        self.counts[-1] += end - last
        if first == last:
            return
        finite = block[first:last]
        self.finite += len(finite)
        self.zeros += above - zero
        self.low = min(self.low, float(finite[0]))
        self.high = max(self.high, float(finite[-1]))
        moved = finite - np.float64(self.edges.origin)
        starts = np.zeros(len(self.counts) + 1, np.int64)
        starts[1:-1] = finite.searchsorted(self._knots[size])
        starts[-1] = len(finite)
        counts = np.diff(starts)
        held = np.flatnonzero(counts)
        sums = np.add.reduceat(moved, starts[held])
        self.counts += counts
        self.within[held] += sums
        self.total += float(sums.sum())
        self.squares += _dot(moved, moved)

    def _compared(self, block: Array) -> None:
        """For few bins: as many comparisons as edges."""
        low, high = float(np.minimum.reduce(block)), float(np.maximum.reduce(block))
        known = None
        if not (np.isfinite(low) and np.isfinite(high)):  # NaN is either
            known = np.isfinite(block)
            low, high = float(np.fmin.reduce(block)), float(np.fmax.reduce(block))
            if not (np.isfinite(low) and np.isfinite(high)):
                self._compared_finite(block, known)
                return
            self.nan += len(block) - int(np.count_nonzero(known))
        rows, size = len(block), block.dtype.itemsize
        below = self._below[:rows]
        self.low, self.high = min(self.low, low), max(self.high, high)
        if low <= 0 <= high:
            np.equal(block, 0, out=below)
            self.zeros += int(np.count_nonzero(below))
        under = 0
        for i, knot in enumerate(self._knots[size]):
            np.less(block, knot, out=below)
            count = int(np.count_nonzero(below))
            self.counts[i] += count - under
            under = count
        moved = block - np.float64(self.edges.origin)
        if known is not None:
            np.copyto(moved, 0, where=~known)
            rows = int(np.count_nonzero(known))
        self.finite += rows
        self.counts[-1] += rows - under
        self.total += _dot(moved, None)
        self.squares += _dot(moved, moved)

    def _compared_finite(self, block: Array, known: Array) -> None:
        negative, positive = int((block == -np.inf).sum()), int((block == np.inf).sum())
        self.negative += negative
        self.positive += positive
        self.counts[0] += negative
        self.counts[-1] += positive
        finite = block[known]
        self.nan += len(block) - len(finite) - negative - positive
        if len(finite):
            self._compared(finite)

    def done(self) -> Numbers:
        """What was counted."""
        sums, below, above = None, 0.0, 0.0
        knots = self.edges.knots
        if self.edges.detailed:
            sums = np.zeros((2, len(self.counts)), np.int64)
        if self.edges.detailed and len(knots):
            inner = self.counts[1:-1]
            with np.errstate(all="ignore"):
                left = knots - self.edges.origin
                width = np.diff(knots)
                share = (self.within[1:-1] - inner * left[:-1]) / width * _HIGH
                share = np.where(np.isfinite(share), np.clip(share, 0, inner * _HIGH), 0)
                below = (self.counts[0] - self.negative) * left[0] - self.within[0]
                above = self.within[-1] - (self.counts[-1] - self.positive) * left[-1]
            assert sums is not None
            sums[0, 1:-1] = np.floor(share)
            sums[1, 1:-1] = np.rint((share - np.floor(share)) * _LOW)
        return Numbers(
            edges=self.edges,
            counts=self.counts,
            sums=sums,
            below=_exact(max(below, 0.0)),
            above=_exact(max(above, 0.0)),
            total=_exact(self.total),
            squares=_exact(self.squares),
            finite=self.finite,
            nan=self.nan,
            negative=self.negative,
            positive=self.positive,
            zeros=self.zeros,
            low=self.low if self.finite else None,
            high=self.high if self.finite else None,
        )


def _dot(values: Array, weights: Array | None) -> float:
    """Their scalar product; without weights, the sum."""
    total = 0.0
    for at in range(0, len(values), _DOT):
        part = values[at : at + _DOT]
        total += np.dot(part, _ONES[: len(part)] if weights is None else weights[at : at + _DOT])
    return float(total)


def _rounded_up(knots: Array) -> Array:
    """The least float32 not below each knot: `x >= knot` is the same question for a float32."""
    with np.errstate(over="ignore"):
        near = knots.astype(np.float32)
        above = np.nextafter(near, np.float32(np.inf))
    return np.where(near < knots, above, near)
