"""The prediction log: what was said of which row, by which version; and the labels of its rows."""

from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlct.data.window import Columns, Windows, as_utc, duration, instants, scalar
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
    if known is not None and known.num_rows:
        fresh = pc.invert(pc.is_in(rows[columns.id], known[LOG.id].combine_chunks()))
        rows = rows.filter(fresh)
        if not rows.num_rows:
            return known
    score = model.score(rows)
    several = pa.list_(pa.float64())
    values = pa.array(list(score), several) if score.ndim == 2 else pa.array(score, pa.float64())
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
        raise DataError(
            f"the window's log has the columns {known.schema.names} of other types: {error}",
            expected="ids and scores of one kind in one window",
            fix="Score the window under a new model name, or mend the ids in the feature asset",
        ) from error


def empty_log(rows: pa.Schema, columns: Columns) -> pa.Table:
    """A log without predictions."""
    kind = rows.field(columns.id).type
    fields = {LOG.id: kind, LOG.time: _TIME, LOG.score: pa.float64()}
    return pa.schema(fields | {"version": pa.int32(), "artifact": pa.string()}).empty_table()


def labels_of(model: fit.Model, rows: pa.Table, columns: Columns, windows: Windows) -> pa.Table:
    """The labels of a feature table: `prediction_id`, `label` as the model counts, `label_time`.

    Without a label time a label counts as known `Windows.label_delay` after the row's time. Labels
    of a class that the model never saw raise DataError.
    """
    label = rows[columns.label]
    known = pc.is_valid(label)
    if pa.types.is_floating(label.type):
        known = pc.and_(known, pc.invert(pc.fill_null(pc.is_nan(label), True)))
    rows = rows.filter(known)
    if columns.label_time:
        at: Any = rows[columns.label_time].cast(_TIME, safe=False)
    else:
        delay = pa.scalar(duration(windows.label_delay), pa.duration("us"))
        at = pc.add(rows[columns.time].cast(_TIME, safe=False), delay)
    truth = model.truth(rows) if rows.num_rows else np.zeros(0)
    return pa.table(
        {
            LOG.id: rows[columns.id],
            LOG.label: pa.array(np.asarray(truth, dtype=np.float64)),
            LOG.label_time: at,
        }
    )


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
