"""Population stability between the rows a model was trained on and newer ones."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlct.data.snapshot import stored_type
from mlct.training.fit import column_kind

_TOP = 49


def population_stability(
    reference: pa.Table, current: pa.Table, columns: Sequence[str], *, bins: int = 10
) -> dict[str, float]:
    """Population stability index (PSI) of each column, a symmetric divergence of binned shares.

    Numbers fall into `bins` reference quantiles, where a value that spans several has a bin of its
    own; strings into the 49 most frequent reference values and the rest; missing values have a bin
    of their own. Over the B bins that hold a row, shares are smoothed by half a count
    ((c + 0.5) / (n + 0.5 B)), so that a bin empty on one side is finite; without drift the index is
    about (B - 1)(1/n + 1/m) (Yurdakul 2018). A column that is missing or of another kind is
    infinite.
    """
    return {name: _index(reference, current, name, bins) for name in columns}


def _index(reference: pa.Table, current: pa.Table, name: str, bins: int) -> float:
    if name not in reference.column_names or name not in current.column_names:
        return float("inf")
    old, new = reference[name], current[name]
    kinds = {column_kind(old.type), column_kind(new.type)} - {"missing"}
    if len(kinds) > 1 or None in kinds:
        return float("inf")
    old, new = (pc.cast(c, stored_type(c.type)) for c in (old, new))
    counts = _categories(old, new) if kinds == {"category"} else _quantiles(old, new, bins)
    held = counts[0] + counts[1] > 0
    a, b = ((c[held] + 0.5) / (c.sum() + 0.5 * held.sum()) for c in counts)
    return float(np.sum((b - a) * np.log(b / a)))


def _categories(old: pa.ChunkedArray, new: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    old, new = pc.cast(old, pa.string()), pc.cast(new, pa.string())
    table = pa.table(pc.value_counts(old.drop_null()).flatten(), names=["value", "n"])
    top = table.sort_by([("n", "descending"), ("value", "ascending")])["value"].slice(0, _TOP)

    def count(column: pa.ChunkedArray) -> np.ndarray:
        code = pc.index_in(column, top.combine_chunks())
        code = pc.if_else(pc.is_null(column), len(top) + 1, pc.fill_null(code, len(top)))
        return np.bincount(code.to_numpy(), minlength=len(top) + 2)

    return count(old), count(new)


def _quantiles(
    old: pa.ChunkedArray, new: pa.ChunkedArray, bins: int
) -> tuple[np.ndarray, np.ndarray]:
    a, b = (pc.cast(c, pa.float64(), safe=False).to_numpy() for c in (old, new))
    edges = _edges(a[~np.isnan(a)], bins)

    def count(values: np.ndarray) -> np.ndarray:
        missing = np.isnan(values)
        code = np.where(missing, len(edges) + 1, np.searchsorted(edges, values, side="right"))
        return np.bincount(code, minlength=len(edges) + 2)

    return count(a), count(b)


def _edges(known: np.ndarray, bins: int) -> np.ndarray:
    """Where bins begin: the inner quantiles, and just above each value that spans several."""
    if not len(known):
        return np.array([])
    # Of the values themselves: between two infinities there is nothing.
    quantiles = np.quantile(known, np.linspace(0, 1, bins + 1), method="lower")
    values, times = np.unique(quantiles, return_counts=True)
    # Else a constant that grows, or a flag that comes up, would stay in its bin.
    above = np.nextafter(values[times > 1], np.inf)
    return np.unique(np.concatenate([quantiles[1:-1], above]))
