"""Population stability between the rows a model was trained on and newer ones."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_TOP = 49


def population_stability(
    reference: pa.Table, current: pa.Table, columns: Sequence[str], *, bins: int = 10
) -> dict[str, float]:
    """Population stability index (PSI) of each column, a symmetric divergence of binned shares.

    Numbers fall into `bins` reference quantiles, strings into the 49 most frequent reference values
    and the rest; missing values have a bin of their own. Shares are smoothed by half a count
    ((c + 0.5) / (n + 0.5 B)), so that an empty bin is finite; without drift the index is about
    (B - 1)(1/n + 1/m) (Yurdakul 2018). A column that is missing or of another kind is infinite.
    """
    return {name: _index(reference, current, name, bins) for name in columns}


def _index(reference: pa.Table, current: pa.Table, name: str, bins: int) -> float:
    if name not in current.column_names:
        return float("inf")
    old, new = reference[name], current[name]
    text = _is_text(old.type)
    if text != _is_text(new.type) and not pa.types.is_null(new.type):
        return float("inf")
    counts = _categories(old, new) if text else _quantiles(old, new, bins)
    a, b = ((c + 0.5) / (c.sum() + 0.5 * len(c)) for c in counts)
    return float(np.sum((b - a) * np.log(b / a)))


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value))


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
    a, b = (pc.cast(c, pa.float64()).to_numpy() for c in (old, new))
    known = a[~np.isnan(a)]
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    # Ties give equal edges; merged, the realised number of bins counts.
    edges = np.unique(np.quantile(known, inner)) if len(known) else np.array([])

    def count(values: np.ndarray) -> np.ndarray:
        missing = np.isnan(values)
        code = np.where(missing, len(edges) + 1, np.searchsorted(edges, values, side="right"))
        return np.bincount(code, minlength=len(edges) + 2)

    return count(a), count(b)
