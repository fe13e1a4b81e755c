"""The stability index alone, with missing values as a bin of their own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mlct.data.profile import Column, profile
from mlct.data.profile.categories import Categories
from mlct.data.profile.numbers import Numbers
from mlct.monitoring.drift.statistics import Array, smoothed, stability

_TOP = 49


def population_stability(
    reference: pa.Table, current: pa.Table, columns: Sequence[str]
) -> dict[str, float]:
    """Population stability index (PSI) of each column, a symmetric divergence of binned shares.

    Numbers fall into 10 reference quantiles, where a value that spans several has a bin of its own;
    strings into the 49 most frequent reference values and the rest; missing values have a bin of
    their own. Shares are smoothed by half a count. A column that is missing or of another kind is
    infinite. For a decision that knows the size of the window, ask `drift`.
    """
    held = [n for n in columns if n in reference.column_names]
    old = profile(reference.select(held))
    new = profile(
        current.select([n for n in held if n in current.column_names]), edges_from=old.coarse()
    )
    return {name: _index(old.columns.get(name), new.columns.get(name)) for name in columns}


def _index(old: Column | None, new: Column | None) -> float:
    if old is None or new is None or "other" in (old.kind, new.kind):
        return float("inf")
    if len({old.kind, new.kind} - {"missing"}) > 1:
        return float("inf")
    top: Array = np.empty(0, np.int64)
    for column in (old, new):
        if isinstance(column.values, Categories):
            top = np.argsort(-column.values.counts, kind="stable")[:_TOP]
            break
    return stability(*smoothed(_counts(old, new, top), _counts(new, old, top)))


def _counts(column: Column, other: Column, top: Array) -> Any:
    """Rows of each bin, the missing last."""
    values, like = column.values, other.values
    if isinstance(values, Numbers):
        # A column without a value on one side has one bin.
        bins = values.bins if isinstance(like, Numbers) else np.array([values.counts.sum()])
    elif isinstance(values, Categories) and isinstance(like, Categories):
        total = int(values.counts.sum()) + values.rest
        bins = np.append(values.counts[top], total - values.counts[top].sum())
    elif like is None:
        bins = np.array([column.rows - column.nulls])
    else:
        size = len(like.bins) if isinstance(like, Numbers) else len(top) + 1
        bins = np.zeros(size, np.int64)
    return np.append(bins, column.missing)
