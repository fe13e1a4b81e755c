"""The prediction log with the labels that were known at an instant, joined by prediction id.

What cannot be joined is left out, counted under a name of `COUNTS`, and never guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mlct.data.window import as_utc, clusters, duration
from mlct.errors import DataError, SpecError
from mlct.evaluation.metric import Floats

Micros = npt.NDArray[np.int64]

COUNTS: Mapping[str, str] = {
    "predictions": "rows of the prediction log",
    "without_id": "predictions without an id or a time, left out",
    "repeated": "further rows of one id with the same content, left out",
    "conflicting": "rows of an id that was predicted differently, all left out",
    "future": "predictions dated later than as_of, left out",
    "unscored": "kept predictions whose score is missing, NaN or infinite; they join no metric",
    "labels": "rows of the label table",
    "empty_labels": "labels without an id, a value or a time, left out",
    "later_labels": "labels that were not known at as_of, left out",
    "unknown_labels": "labels of no prediction in the log, left out",
    "early_labels": "labels dated before their prediction by more than the skew, left out",
    "repeated_labels": "further labels of one id with the same value, left out",
    "corrected_labels": "ids whose label a later one replaced",
    "conflicting_labels": "ids with two values at one time, left unlabelled",
    "labelled": "kept predictions with a label",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LogColumns:
    """Which column is what in the prediction log and in the label table.

    `id` is in both. `score` is one column, or of several classes one column each (or a list
    column). `cluster` names what varies together; without it, clusters are spans of time.
    """

    id: str = "prediction_id"
    time: str = "predicted_at"
    score: str | tuple[str, ...] = "score"
    cluster: str | None = None
    label: str = "label"
    label_time: str = "label_time"

    def __post_init__(self) -> None:
        score = tuple(self.score) if isinstance(self.score, list) else self.score
        object.__setattr__(self, "score", score)
        names = [*self.scores, *(getattr(self, f.name) for f in fields(self) if f.name != "score")]
        given = [n for n in names if n is not None]
        if not all(isinstance(n, str) and n for n in given) or len(set(given)) < len(given):
            raise SpecError(f"LogColumns names {given}", expected="distinct column names")

    @property
    def scores(self) -> tuple[str, ...]:
        return (self.score,) if isinstance(self.score, str) else self.score


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Joined:
    """Predictions in the order of their time and id, with what was known of them at `as_of`.

    `table` (n rows) are the predictions as logged; `time` and `labelled_at` microseconds since the
    epoch; `score` (n,) or (n, classes), NaN where unusable; `label` (n,), NaN where there is none.
    `counts` are those of `COUNTS`.
    """

    table: pa.Table
    time: Micros
    score: Floats
    label: Floats
    labelled_at: Micros
    counts: Mapping[str, int]
    columns: LogColumns
    as_of: datetime

    def window(self, start: datetime, end: datetime) -> slice:
        """The rows of `[start, end)`. Raises DataError for an empty or reversed window."""
        if as_utc(start) >= as_utc(end):
            raise DataError(f"the window [{start}, {end}) holds no time", expected="start < end")
        first, last = np.searchsorted(self.time, [micros(start), micros(end)])
        return slice(int(first), int(last))

    @property
    def scored(self) -> npt.NDArray[np.bool_]:
        """Rows (n,) whose score is finite, in every class."""
        return _usable(self.score)

    def units(self, cluster: str | None) -> Any:
        """Cluster of each row (n,): the log's column, spans of `cluster`, or None if neither."""
        if self.columns.cluster is not None:
            return self.table[self.columns.cluster].to_numpy()
        if cluster is None:
            return None
        return clusters(pa.array(self.time, pa.timestamp("us")), cluster)


def join_labels(
    predictions: pa.Table,
    labels: pa.Table,
    *,
    as_of: datetime,
    columns: LogColumns | None = None,
    skew: str = "5m",
) -> Joined:
    """Join predictions with the labels known at `as_of`; naive times are UTC.

    Of several labels of one id the latest counts, a correction; it is dated by when its value was
    first told. Two clocks may differ by `skew`. Raises DataError for missing and mistyped columns.
    """
    columns, counts = columns or LogColumns(), dict.fromkeys(COUNTS, 0)
    _check(predictions, labels, columns)
    now, off = micros(as_of), round(duration(skew, field="skew").total_seconds() * 1e6)
    counts |= {"predictions": predictions.num_rows, "labels": labels.num_rows}

    present = pc.and_(pc.is_valid(predictions[columns.id]), pc.is_valid(predictions[columns.time]))
    rows = predictions.filter(present)
    counts["without_id"] = predictions.num_rows - rows.num_rows
    past = _micros(rows[columns.time]) <= now + off
    counts["future"] = int((~past).sum())
    rows = _distinct(rows.filter(pa.array(past)), columns, counts)
    keys = pa.table({"time": _micros(rows[columns.time]), "id": _ids(rows[columns.id])})
    rows = rows.take(pc.sort_indices(keys, [("time", "ascending"), ("id", "ascending")]))
    time, score = _micros(rows[columns.time]), _scores(rows, columns)
    counts["unscored"] = int((~_usable(score)).sum())

    label, labelled_at = _labels(rows[columns.id], time, labels, columns, now, off, counts)
    counts["labelled"] = int((~np.isnan(label)).sum())
    return Joined(
        table=rows,
        time=time,
        score=score,
        label=label,
        labelled_at=labelled_at,
        counts=counts,
        columns=columns,
        as_of=as_utc(as_of),
    )


def micros(instant: datetime) -> int:
    """Microseconds since the epoch; naive times are UTC."""
    return int(np.datetime64(as_utc(instant).replace(tzinfo=None), "us").astype(np.int64))


def _check(predictions: pa.Table, labels: pa.Table, columns: LogColumns) -> None:
    cluster = [columns.cluster] if columns.cluster else []
    for what, table, names in (
        ("prediction log", predictions, [columns.id, columns.time, *columns.scores, *cluster]),
        ("label table", labels, [columns.id, columns.label, columns.label_time]),
    ):
        if not isinstance(table, pa.Table):
            raise DataError(f"the {what} is a {type(table).__name__}", expected="a pyarrow Table")
        if missing := [name for name in names if name not in table.column_names]:
            raise DataError(
                f"the {what} has no column {', '.join(missing)}; it has "
                + (", ".join(table.column_names) or "none"),
                expected="the columns that LogColumns names",
                fix="Pass columns=LogColumns(...)",
                missing=missing,
            )
    for table, name, right, expected in (
        (predictions, columns.time, pa.types.is_timestamp, "a timestamp"),
        (labels, columns.label_time, pa.types.is_timestamp, "a timestamp"),
        (labels, columns.label, _is_number, "numbers: 0 and 1, classes from 0, or quantities"),
        *((predictions, name, _is_score, "numbers") for name in columns.scores),
    ):
        if not right(kind := table.schema.field(name).type):
            raise DataError(f"column {name!r} is of type {kind}", expected=expected, column=name)
    kinds = [_plain(table.schema.field(columns.id).type) for table in (predictions, labels)]
    if kinds[0] != kinds[1] and not pa.types.is_null(kinds[1]):
        raise DataError(
            f"ids are {kinds[0]} in the prediction log and {kinds[1]} in the label table",
            expected="ids of one kind",
            fix="Cast one of them where the table is made",
        )


def _is_number(kind: pa.DataType) -> bool:
    t = pa.types
    return any(f(kind) for f in (t.is_integer, t.is_floating, t.is_boolean, t.is_null))


def _is_score(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    return _is_number(kind.value_type if lists else kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    """Ids compare by content: whatever their width and encoding."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.large_string()
    return pa.int64() if pa.types.is_integer(kind) else kind


def _ids(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(column, _plain(column.type))


def _micros(column: pa.ChunkedArray) -> Micros:
    kind = pa.timestamp("us", column.type.tz)
    found: Micros = pc.cast(pc.cast(column, kind, safe=False), pa.int64()).to_numpy()
    return found


def _numbers(column: pa.ChunkedArray | pa.Array) -> Floats:
    found: Floats = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return found


def _scores(rows: pa.Table, columns: LogColumns) -> Floats:
    if len(columns.scores) > 1:
        return np.column_stack([_floats(rows[name]) for name in columns.scores])
    column = rows[columns.scores[0]]
    if _is_number(column.type):
        return _floats(column)
    length = pc.list_value_length(column)
    width = pc.max(length).as_py() or 0
    whole = pc.fill_null(pc.equal(length, width), False).to_numpy()
    found = np.full((len(rows), max(width, 1)), np.nan)
    kept = column.filter(pa.array(whole))
    found[whole] = _floats(pc.list_flatten(kept)).reshape(-1, max(width, 1))
    return found


def _usable(score: Floats) -> npt.NDArray[np.bool_]:
    finite: npt.NDArray[np.bool_] = np.isfinite(score)
    return finite if score.ndim == 1 else np.logical_and.reduce(finite, axis=1)


def _floats(column: Any) -> Floats:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return _numbers(pc.cast(column, pa.int8()) if pa.types.is_boolean(column.type) else column)


def _codes(column: pa.ChunkedArray) -> Any:
    """A number for each distinct id."""
    encoded = _ids(column).combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False)


def _distinct(rows: pa.Table, columns: LogColumns, counts: dict[str, int]) -> pa.Table:
    """One row an id, none where rows of one id differ."""
    code = _codes(rows[columns.id])
    order = np.argsort(code, kind="stable")
    again = np.flatnonzero(np.diff(code[order], prepend=-1) == 0)
    if not len(again):
        return rows
    content = np.column_stack([_micros(rows[columns.time]), _scores(rows, columns)])[order]
    before = content[again - 1]
    same = ((content[again] == before) | (np.isnan(content[again]) & np.isnan(before))).all(axis=1)
    torn = np.isin(code, code[order][again[~same]])
    repeated = np.zeros(len(code), dtype=bool)
    repeated[order[again]] = True
    counts["conflicting"] = int(torn.sum())
    counts["repeated"] = int((repeated & ~torn).sum())
    return rows.filter(pa.array(~(repeated | torn)))


def _labels(
    ids: pa.ChunkedArray,
    time: Micros,
    labels: pa.Table,
    columns: LogColumns,
    now: int,
    off: int,
    counts: dict[str, int],
) -> tuple[Floats, Micros]:
    """The label (n,) of each prediction and when it was known."""
    value, at = np.full(len(time), np.nan), np.zeros(len(time), dtype=np.int64)
    told = labels.select([columns.id, columns.label, columns.label_time])
    usable = pc.and_(pc.is_valid(told[columns.id]), pc.is_valid(told[columns.label_time]))
    usable = usable.to_numpy() & _usable(_floats(told[columns.label]))
    counts["empty_labels"] = int((~usable).sum())
    told = told.filter(pa.array(usable))
    known = _micros(told[columns.label_time]) <= now
    counts["later_labels"] = int((~known).sum())
    told = told.filter(pa.array(known))
    if not told.num_rows:
        return value, at

    place = pc.index_in(_ids(told[columns.id]), value_set=_ids(ids).combine_chunks())
    found = pc.is_valid(place).to_numpy()
    counts["unknown_labels"] = int((~found).sum())
    row = pc.fill_null(place, 0).to_numpy()[found].astype(np.intp)
    y, when = _floats(told[columns.label])[found], _micros(told[columns.label_time])[found]
    in_order = when >= time[row] - off
    counts["early_labels"] = int((~in_order).sum())
    row, y, when = row[in_order], y[in_order], when[in_order]

    order = np.lexsort((y, when, row))
    row, y, when = row[order], y[order], when[order]
    last = np.flatnonzero(np.diff(row, append=-1) != 0)
    value[row[last]] = y[last]
    newest = np.zeros(len(time), dtype=np.int64)
    newest[row[last]] = when[last]
    other = y != value[row]
    torn = np.unique(row[other & (when == newest[row])])
    corrected = np.setdiff1d(row[other], torn)
    counts["conflicting_labels"], counts["corrected_labels"] = len(torn), len(corrected)
    counts["repeated_labels"] = int((~other).sum()) - len(last)
    at[:] = np.iinfo(np.int64).max
    np.minimum.at(at, row[~other], when[~other])
    value[torn] = np.nan
    at[np.isnan(value)] = 0
    return value, at
