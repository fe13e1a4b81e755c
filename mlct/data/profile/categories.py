"""Counts of categories: exact for those of the reference, a fair sample of the rest."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlct.errors import DataError

#: So many categories of the reference are counted one by one, and so many that it never had.
KNOWN = 10_000
NEW = 1_000
#: Of a longer text its first bytes and its hash are kept.
LONGEST = 64

_FREQUENT = 100
_ALL = 2**64
_PRIME = 0x9E3779B97F4A7C15

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The categories that are counted one by one.

    All of the reference's when they are `KNOWN` or fewer; else those whose hash is below `limit`
    (a random sample of categories, complete below it) and the most frequent ones.
    """

    values: tuple[str, ...]
    limit: int = _ALL

    @cached_property
    def array(self) -> pa.Array:
        return pa.array(self.values, pa.string())

    @cached_property
    def hashes(self) -> Array:
        return hashes(self.array)

    def same(self, other: "Vocabulary") -> bool:
        return self is other or (self.limit == other.limit and self.values == other.values)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Categories:
    """Counts of a text column.

    `counts` are those of the vocabulary, `rest` the rows of all other values. Of these `new` has
    the rows of each whose hash is below `limit`: all that are below the vocabulary's limit, or the
    `NEW` with the least hashes. So below `limit` every category is known with its exact count,
    whatever was merged.
    """

    vocabulary: Vocabulary
    counts: Array
    rest: int
    new: dict[str, int] = field(default_factory=dict)
    limit: int = _ALL

    def merge(self, other: "Categories") -> "Categories":
        """Both windows' rows. Raises DataError when the vocabularies differ."""
        if not self.vocabulary.same(other.vocabulary):
            raise DataError("two counts have different categories")
        new = Counter(self.new)
        new.update(other.new)
        kept, limit = _least(new, NEW, min(self.limit, other.limit))
        return Categories(
            vocabulary=self.vocabulary,
            counts=self.counts + other.counts,
            rest=self.rest + other.rest,
            new=kept,
            limit=limit,
        )

    def new_below(self, limit: int) -> dict[str, int]:
        """Rows of each value of `new` whose hash is below `limit`."""
        return self.new if limit >= self.limit else _least(self.new, len(self.new), limit)[0]

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "of": "categories",
            "values": list(self.vocabulary.values),
            "sampled_below": f"{self.vocabulary.limit:x}",
            "counts": self.counts.tolist(),
            "rest": self.rest,
            "new": self.new,
            "limit": f"{self.limit:x}",
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Categories":
        """What `plain` gave."""
        return cls(
            vocabulary=Vocabulary(tuple(plain["values"]), int(plain["sampled_below"], 16)),
            counts=np.array(plain["counts"], np.int64),
            rest=plain["rest"],
            new=plain["new"],
            limit=int(plain["limit"], 16),
        )


def hashes(texts: pa.Array) -> Array:
    """A 64-bit hash of each text (no nulls), the same on every machine."""
    found = [_hashes(texts.slice(at, 16_384)) for at in range(0, len(texts), 16_384)]
    return np.concatenate(found) if found else np.empty(0, np.uint64)


def _hashes(texts: pa.Array) -> Array:
    offsets = np.frombuffer(texts.buffers()[1], np.int32, len(texts) + 1, texts.offset * 4)
    offsets = offsets.astype(np.int64)
    first, data = offsets[0], texts.buffers()[2]
    lengths = np.diff(offsets)
    state = lengths.astype(np.uint64)
    held = lengths > 0
    if held.any():
        octets = np.frombuffer(data, np.uint8, offsets[-1] - first, first)
        place = np.arange(len(octets)) - np.repeat(offsets[:-1] - first, lengths)
        powers = np.cumprod(np.full(int(lengths.max()), _PRIME, np.uint64))
        products = (octets.astype(np.uint64) + np.uint64(1)) * powers[place]
        state[held] += np.add.reduceat(products, (offsets[:-1] - first)[held])
    # The last steps of SplitMix64 (Steele, Lea and Flood 2014).
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _least(counts: dict[str, int], size: int, limit: int) -> tuple[dict[str, int], int]:
    """The `size` categories with the least hashes, all below `limit`, and the limit that they set.

    Sorted by name: equal counts have equal bytes.
    """
    names = sorted(counts)
    codes = hashes(pa.array(names, pa.string()))
    if len(names) > size:
        limit = min(limit, int(np.partition(codes, size)[size]))
    kept = codes < np.uint64(limit) if limit < _ALL else np.ones(len(names), bool)
    return {n: counts[n] for n, k in zip(names, kept, strict=True) if k}, limit


def _counted(array: pa.Array) -> tuple[pa.Array, Array]:
    """Distinct values of an array, shortened, and the rows of each; some may have none."""
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    indices = array.indices
    if indices.null_count:
        indices = indices.drop_null()
    dtype = np.dtype(str(indices.type))
    codes = np.frombuffer(
        indices.buffers()[1], dtype, len(indices), indices.offset * dtype.itemsize
    )
    texts = array.dictionary.cast(pa.string())
    counts = np.bincount(codes, minlength=len(texts))
    if texts.null_count:  # a null may stand in the dictionary too
        counts = counts[np.flatnonzero(pc.is_valid(texts).to_numpy(zero_copy_only=False))]
        texts = texts.drop_null()
    return _shortened(texts), counts


def _shortened(texts: pa.Array) -> pa.Array:
    longest = pc.max(pc.binary_length(texts)).as_py() or 0
    if longest <= LONGEST:
        return texts
    codes = hashes(texts)
    return pa.array(
        [
            t if len(t.encode()) <= LONGEST else f"{t[: LONGEST // 4]}…{code:016x}"
            for t, code in zip(texts.to_pylist(), codes.tolist(), strict=True)
        ],
        pa.string(),
    )


def _rows(array: pa.Array) -> Iterator[tuple[str, int]]:
    texts, counts = _counted(array)
    held = np.flatnonzero(counts)
    return zip(texts.take(pa.array(held)).to_pylist(), counts[held].tolist(), strict=True)


def choose_vocabulary(arrays: Iterable[pa.Array]) -> Vocabulary:
    """The categories of a column that are worth counting, in memory that does not grow with it.

    While there are too many, the sample keeps those with the least hashes, and the frequent ones
    are found by Misra and Gries (1982): no category of more than 1 row in `KNOWN` is lost.
    """
    frequent: Counter[str] = Counter()
    sample: dict[str, int] = {}
    limit, seen = _ALL, False
    for array in arrays:
        seen = True
        for name, rows in _rows(array):
            frequent[name] += rows
        sample = (
            dict.fromkeys([*sample, *frequent], 1)
            if limit == _ALL
            else _joined(sample, frequent, limit)
        )
        if len(sample) > KNOWN:
            sample, limit = _least(sample, KNOWN, limit)
        if len(frequent) > 4 * KNOWN:
            least = frequent.most_common(KNOWN + 1)[-1][1]
            frequent = Counter({n: c - least for n, c in frequent.items() if c > least})
    if not seen or limit == _ALL:
        return Vocabulary(tuple(sorted(sample)))
    top = sorted(frequent, key=lambda n: (-frequent[n], n))[:_FREQUENT]
    return Vocabulary(tuple(sorted({*sample, *top})), limit)


def _joined(sample: dict[str, int], names: Iterable[str], limit: int) -> dict[str, int]:
    fresh = [n for n in names if n not in sample]
    return sample | _least(dict.fromkeys(fresh, 1), len(fresh), limit)[0]


class CategoryCounter:
    """Counts arrays on a given vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.counts = np.zeros(len(vocabulary.values) + 1, np.int64)
        self.new: Counter[str] = Counter()
        self.limit = vocabulary.limit
        self._dictionary: pa.Array | None = None
        self._codes: Array = np.empty(0, np.int64)

    def add(self, array: pa.Array) -> None:
        """Count an array (which holds a value)."""
        texts, counts = _counted(array)
        codes = self._coded(texts)
        last = len(self.vocabulary.values)
        self.counts += np.bincount(codes, counts, minlength=last + 1).astype(np.int64)
        other = np.flatnonzero((codes == last) & (counts > 0))
        if not len(other):
            return
        names = texts.take(pa.array(other))
        if self.limit < _ALL:
            below = np.flatnonzero(hashes(names) < np.uint64(self.limit))
            names, other = names.take(pa.array(below)), other[below]
        for name, rows in zip(names.to_pylist(), counts[other].tolist(), strict=True):
            self.new[name] += rows
        if len(self.new) > NEW:
            kept, self.limit = _least(self.new, NEW, self.limit)
            self.new = Counter(kept)

    def _coded(self, texts: pa.Array) -> Array:
        # Row groups often share a dictionary, and looking it up costs more than counting.
        if self._dictionary is None or not self._dictionary.equals(texts):
            last = len(self.vocabulary.values)
            found = pc.fill_null(pc.index_in(texts, self.vocabulary.array), last)
            self._dictionary, self._codes = (
                texts,
                np.frombuffer(found.buffers()[1], np.int32, len(found), found.offset * 4),
            )
        return self._codes

    def done(self) -> Categories:
        """What was counted."""
        kept, limit = _least(self.new, NEW, self.limit)
        return Categories(
            vocabulary=self.vocabulary,
            counts=self.counts[:-1],
            rest=int(self.counts[-1]),
            new=kept,
            limit=limit,
        )
