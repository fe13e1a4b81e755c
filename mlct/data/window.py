"""Half-open time windows, label maturity and the cut into training rows and holdout rows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from mlct.errors import DataError, SpecError

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def duration(text: str, *, field: str = "duration") -> timedelta:
    """`"30d"`, `"12h"`, `"90m"` as a timedelta. Raises SpecError on anything else."""
    match = re.fullmatch(r"(\d+)([smhdw])", text) if isinstance(text, str) else None
    if not match:
        raise SpecError(
            f"{field} is {text!r}", expected="a whole number and a unit, such as '30d' or '12h'"
        )
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Which column is what. Every other column, less `exclude`, is a feature.

    `label_time` is when a label became known; without it a label counts as known `label_delay`
    after `time`.
    """

    id: str
    time: str
    label: str
    label_time: str | None = None
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [self.id, self.time, self.label] + [n for n in [self.label_time] if n]
        for name in names:
            if not isinstance(name, str) or not name:
                raise SpecError(f"Columns has {name!r} as a column", expected="a column's name")
        if len(set(names)) < len(names):
            raise SpecError(f"Columns names one column twice: {names}", expected="distinct columns")
        object.__setattr__(self, "exclude", tuple(self.exclude))

    @property
    def special(self) -> tuple[str, ...]:
        """Columns that must be there and are never features."""
        return tuple(n for n in (self.id, self.time, self.label, self.label_time) if n)

    def features(self, schema: pa.Schema) -> tuple[str, ...]:
        """The feature names of a schema, in its order."""
        return tuple(n for n in schema.names if n not in self.special and n not in self.exclude)


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """Lengths of the training and holdout windows, the label delay and the cluster unit."""

    train: str
    holdout: str
    label_delay: str = "0d"
    cluster: str = "1d"

    def __post_init__(self) -> None:
        for name in ("train", "holdout", "label_delay", "cluster"):
            length = duration(getattr(self, name), field=f"Windows.{name}")
            if not length and name != "label_delay":
                raise SpecError(f"Windows.{name} is zero", expected="a positive duration")

    def bounds(self, as_of: datetime) -> tuple[datetime, datetime, datetime]:
        """`(train start, holdout start, holdout end)`: windows are `[start, end)`.

        The holdout ends `label_delay` before `as_of`: later labels have not had their time.
        """
        end = as_of - duration(self.label_delay)
        middle = end - duration(self.holdout)
        return middle - duration(self.train), middle, end


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """Training and holdout rows known at `as_of`, with counts of what was left out and why."""

    train: pa.Table
    holdout: pa.Table
    as_of: datetime
    train_start: datetime
    holdout_start: datetime
    holdout_end: datetime
    counts: Mapping[str, Mapping[str, int]]


def instants(schema: pa.Schema, columns: Columns) -> pa.DataType:
    """Type of the time column, once all named columns are found. Raises DataError."""
    missing = [n for n in columns.special if n not in schema.names]
    if missing:
        raise DataError(
            f"the features have no column {', '.join(map(repr, missing))}; they have "
            + ", ".join(schema.names),
            expected="the columns that the spec's Columns names",
            fix="Rename the column at its source, or correct ModelSpec.columns",
            missing=missing,
        )
    for name in (columns.time, columns.label_time):
        if name and not pa.types.is_timestamp(schema.field(name).type):
            raise DataError(
                f"column {name!r} is of type {schema.field(name).type}",
                expected="a timestamp",
                fix="Cast it in the feature asset",
                column=name,
            )
    return schema.field(columns.time).type


def scalar(instant: datetime, kind: pa.DataType) -> pa.Scalar:
    """An instant in the type of a time column."""
    # A column without a time zone holds UTC; comparing needs the column's own type.
    utc = instant.astimezone(UTC)
    return pa.scalar(utc if kind.tz else utc.replace(tzinfo=None), type=kind)


def as_utc(instant: datetime) -> datetime:
    """An aware UTC datetime; naive ones are taken as UTC."""
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def parse_instant(text: str) -> datetime:
    """ISO 8601 text as an aware UTC datetime. Raises DataError."""
    try:
        return as_utc(datetime.fromisoformat(text))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{text!r} is not a time", expected="ISO 8601, such as 2013-04-01T00:00:00Z"
        ) from error


def data_end(data: ds.Dataset, columns: Columns, windows: Windows) -> datetime:
    """The last instant that the data speaks of: its newest known label."""
    instants(data.schema, columns)
    name = columns.label_time or columns.time
    newest = pc.max(data.to_table(columns=[name])[name]).as_py()
    if newest is None:
        raise DataError(
            f"column {name!r} holds no time at all",
            expected="at least one row with a known label",
            fix="Materialise the feature asset for the window wanted",
        )
    late = timedelta(0) if columns.label_time else duration(windows.label_delay)
    return as_utc(newest) + late


def cut(data: ds.Dataset, columns: Columns, windows: Windows, *, as_of: datetime) -> Cut:
    """Cut `data` at `as_of` into training rows and holdout rows whose labels had matured by then.

    Rows are ordered by time and id, so that equal rows give equal digests however the source was
    partitioned. Raises DataError for missing or mistyped columns and for an empty window.
    """
    kind = instants(data.schema, columns)
    as_of = as_utc(as_of)
    train_start, holdout_start, holdout_end = windows.bounds(as_of)
    time = ds.field(columns.time)
    rows = data.to_table(
        filter=(time >= scalar(train_start, kind)) & (time < scalar(holdout_end, kind))
    ).sort_by([(columns.time, "ascending"), (columns.id, "ascending")])

    label = rows[columns.label]
    known = pc.is_valid(label)
    if pa.types.is_floating(label.type):
        known = pc.and_(known, pc.invert(pc.fill_null(pc.is_nan(label), True)))
    if columns.label_time:
        instant = rows[columns.label_time]
        in_time = pc.fill_null(pc.less_equal(instant, scalar(as_of, instant.type)), False)
        ever = pc.and_(known, pc.is_valid(instant))
    else:
        # The window already ends label_delay before as_of.
        in_time = ever = known
    mature = pc.and_(ever, in_time)
    held = pc.greater_equal(rows[columns.time], scalar(holdout_start, kind))

    def part(
        mask: Any, name: str, start: datetime, end: datetime
    ) -> tuple[pa.Table, dict[str, int]]:
        keep = rows.filter(pc.and_(mask, mature)).combine_chunks()
        total = pc.sum(mask).as_py() or 0
        labelled = pc.sum(pc.and_(mask, ever)).as_py() or 0
        counts = {
            "rows": total,
            "matured": keep.num_rows,
            "pending": labelled - keep.num_rows,
            "unlabelled": total - labelled,
        }
        if not keep.num_rows:
            raise DataError(
                f"the {name} window [{start:%Y-%m-%d %H:%M}, {end:%Y-%m-%d %H:%M}) UTC has {total} "
                f"rows, of which none has a label known at {as_of:%Y-%m-%d %H:%M}",
                expected="at least one matured row",
                fix="Materialise the features of that window, or choose another as_of",
                window=name,
                **counts,
            )
        return keep, counts

    train, train_counts = part(pc.invert(held), "train", train_start, holdout_start)
    holdout, holdout_counts = part(held, "holdout", holdout_start, holdout_end)
    return Cut(
        train=train,
        holdout=holdout,
        as_of=as_of,
        train_start=train_start,
        holdout_start=holdout_start,
        holdout_end=holdout_end,
        counts={"train": train_counts, "holdout": holdout_counts},
    )


def clusters(times: pa.ChunkedArray | pa.Array, unit: str) -> Any:
    """Cluster number of each row: whole `unit`s since the epoch (numpy int64, shape (n,))."""
    micros = pc.cast(pc.cast(times, pa.timestamp("us", tz=times.type.tz)), pa.int64())
    return micros.to_numpy() // int(duration(unit).total_seconds() * 1_000_000)
