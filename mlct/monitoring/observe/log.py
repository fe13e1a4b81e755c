"""The prediction log: what was said of which row, by which version; and the labels of its rows."""

from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlct.data.snapshot import plain_rows
from mlct.data.window import Columns, Windows, as_utc, duration, instants, labelled, scalar
from mlct.errors import DataError
from mlct.monitoring.performance import LogColumns
from mlct.training import fit

LOG = LogColumns()

_TIME = pa.timestamp("us", tz="UTC")


def predict(
    model: fit.Model,
    rows: pa.Table,
    known: pa.Table | None,
    *,
    columns: Columns,
    version: int,
    artifact: str,
) -> pa.Table:
    """The log of a window's rows: `prediction_id`, `predicted_at` (the row's time), `score` (a
    list of one a class where there are more than two), `version`, `artifact`.

    What `known`, the log so far, says of a row stays: only rows that it lacks are scored. Raises
    DataError for rows that the model cannot score.
    """
    rows = plain_rows(rows)
    if known is not None and known.num_rows:
        try:
            ids = pc.cast(known[LOG.id], rows.schema.field(columns.id).type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise _unlike(known, error) from error
        rows = rows.filter(pc.invert(pc.is_in(rows[columns.id], ids.combine_chunks())))
        if not rows.num_rows:
            return known
    score = model.score(rows)
    values = pa.array(score.reshape(-1), pa.float64())
    if score.ndim == 2:
        values = pa.ListArray.from_arrays(np.arange(len(score) + 1) * score.shape[1], values)
    added = pa.table(
        {
            LOG.id: rows[columns.id],
            LOG.time: rows[columns.time].cast(_TIME, safe=False),
            LOG.score: values,
            "version": pa.array(np.full(rows.num_rows, version), pa.int32()),
            "artifact": pa.array([artifact] * rows.num_rows, pa.string()),
        }
    )
    if known is None or not known.num_rows:
        return added
    try:
        return pa.concat_tables([known, added.cast(known.schema)])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise _unlike(known, error) from error


def _unlike(known: pa.Table, error: Exception) -> DataError:
    return DataError(
        f"the window's log has the columns {known.schema.names} of other types: {error}",
        expected="ids and scores of one kind in one window",
        fix="Score the window under a new model name, or mend the ids in the feature asset",
    )


def empty_log(rows: pa.Schema, columns: Columns) -> pa.Table:
    """A log without predictions."""
    kind = rows.field(columns.id).type
    fields = {LOG.id: kind, LOG.time: _TIME, LOG.score: pa.float64()}
    return pa.schema(fields | {"version": pa.int32(), "artifact": pa.string()}).empty_table()


def labels_of(model: fit.Model, rows: pa.Table, columns: Columns, windows: Windows) -> pa.Table:
    """The labels of a feature table: `prediction_id`, `label` as the model counts, `label_time`.

    Without a label time a label counts as known `Windows.label_delay` after the row's time. Of a
    class that the model never saw, and of a quantity that is no number, the label is null.
    """
    rows = rows.filter(labelled(rows[columns.label]))
    if columns.label_time:
        at: Any = rows[columns.label_time].cast(_TIME, safe=False)
    else:
        delay = pa.scalar(duration(windows.label_delay), pa.duration("us"))
        at = pc.add(rows[columns.time].cast(_TIME, safe=False), delay)
    strange = _strange(model, rows[columns.label])
    truth = np.zeros(rows.num_rows)
    if not strange.all():
        truth[~strange] = model.truth(rows.filter(pa.array(~strange)))
    return pa.table(
        {
            LOG.id: rows[columns.id],
            LOG.label: pa.array(truth, mask=strange),
            LOG.label_time: at,
        }
    )


def _strange(model: fit.Model, label: pa.ChunkedArray) -> Any:
    """Which labels (n,) the model cannot count: one of them must not hide what the others say."""
    if model.task == "regression":
        return np.full(len(label), fit.column_kind(label.type) != "number")
    values, code = np.unique(label.to_numpy(), return_inverse=True)
    return np.array([v not in model.classes for v in values.tolist()], dtype=bool)[code]


def served_by(log: pa.Table) -> int | None:
    """The version that scored most rows of a log; None for an empty one."""
    if not log.num_rows:
        return None
    counts = pc.value_counts(log["version"]).to_pylist()
    return int(max(counts, key=lambda c: (c["counts"], c["values"]))["values"])


def within(rows: Any, columns: Columns, start: datetime, end: datetime) -> pa.Table:
    """The rows of a dataset in `[start, end)`. Raises DataError for columns that are missing."""
    kind = instants(rows.schema, columns)
    time = pc.field(columns.time)
    inside = (time >= scalar(as_utc(start), kind)) & (time < scalar(as_utc(end), kind))
    return rows.to_table(filter=inside)
