"""Half-open time windows, label maturity and the cut into training rows and holdout rows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from mlct.data.snapshot import plain_rows
from mlct.errors import DataError, SpecError

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_CENTURY = timedelta(days=36_525)
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def duration(text: str, *, field: str = "duration") -> timedelta:
    """`"30d"`, `"12h"`, `"90m"` as a timedelta. Raises SpecError on anything else."""
    match = re.fullmatch(r"(\d{1,8})([smhdw])", text) if isinstance(text, str) else None
    length = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None
    # Times that are counted in nanoseconds reach back to 1677 only.
    if length is None or length > _CENTURY:
        raise SpecError(
            f"{field} is {text!r}",
            expected="a whole number and a unit, such as '30d' or '12h', up to a century",
            field=field,
        )
    return length


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Which column is what. Every other column, less `exclude`, is a feature.

    `label_time` is when a label became known; without it a label counts as known `label_delay`
    after `time`. `id` is unique: it decides the order of rows of one time.
    """

    id: str
    time: str
    label: str
    label_time: str | None = None
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        exclude = (self.exclude,) if isinstance(self.exclude, str) else self.exclude
        if not isinstance(exclude, list | tuple):
            raise SpecError(f"Columns.exclude is {exclude!r}", expected="a tuple of names")
        object.__setattr__(self, "exclude", tuple(exclude))
        names = [*self.special, *self.exclude]
        for name in names:
            if not isinstance(name, str) or not name:
                raise SpecError(f"Columns has {name!r} as a column", expected="a column's name")
        if len(set(names)) < len(names):
            raise SpecError(f"Columns names one column twice: {names}", expected="distinct columns")

    @property
    def special(self) -> tuple[str, ...]:
        """Columns that must be there and are never features."""
        known = () if self.label_time is None else (self.label_time,)
        return (self.id, self.time, self.label, *known)

    def features(self, schema: pa.Schema) -> tuple[str, ...]:
        """The feature names of a schema, in its order."""
        return tuple(n for n in schema.names if n not in self.special and n not in self.exclude)


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """Lengths of the training and holdout windows, the label delay and the cluster unit.

    `selection` is the last part of the training window, on which one of several candidates is
    chosen; without candidates it is not used.
    """

    train: str
    holdout: str
    label_delay: str = "0d"
    cluster: str = "1d"
    selection: str | None = None

    def __post_init__(self) -> None:
        optional = ("selection",) if self.selection is not None else ()
        for name in ("train", "holdout", "label_delay", "cluster", *optional):
            length = duration(getattr(self, name), field=f"Windows.{name}")
            if not length and name != "label_delay":
                raise SpecError(f"Windows.{name} is zero", expected="a positive duration")
        if self.selection is not None and duration(self.selection) >= duration(self.train):
            raise SpecError(
                f"Windows.selection is {self.selection!r}, of a training window of {self.train!r}",
                expected="a shorter one: what is left of it fits the candidates",
                field="selection",
            )

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
    # Also the excluded ones: misspelt, a column that must not be learned from would be.
    missing = [n for n in (*columns.special, *columns.exclude) if n not in schema.names]
    if missing:
        raise DataError(
            f"the features have no column {', '.join(map(repr, missing))}; they have "
            + ", ".join(schema.names),
            expected="the columns that the spec's Columns names",
            fix="Rename the column at its source, or correct ModelSpec.columns",
            missing=missing,
        )
    if pa.types.is_nested(schema.field(columns.id).type):
        raise DataError(
            f"column {columns.id!r} is of type {schema.field(columns.id).type}",
            expected="an id that can be ordered, such as a string or a number",
            fix="Turn it into one in the feature asset",
            column=columns.id,
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
    """An instant that compares with a time column of type `kind`."""
    # A column without a time zone holds UTC. Microseconds, whatever the column counts in: in a
    # coarser unit the instant would move.
    utc = instant.astimezone(UTC)
    return pa.scalar(utc if kind.tz else utc.replace(tzinfo=None), pa.timestamp("us", kind.tz))


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


def latest(times: pa.ChunkedArray) -> datetime | None:
    """The last instant of a time column as aware UTC, rounded up to microseconds."""
    last = pc.ceil_temporal(pc.max(times), unit="microsecond")
    found = pc.cast(last, pa.timestamp("us", times.type.tz)).as_py()
    return None if found is None else as_utc(found)


def data_end(data: "ds.Dataset", columns: Columns, windows: Windows) -> datetime:
    """The last instant that the data speaks of: its newest known label."""
    instants(data.schema, columns)
    name = columns.label_time or columns.time
    newest = latest(data.to_table(columns=[name])[name])
    if newest is None:
        raise DataError(
            f"column {name!r} holds no time at all",
            expected="at least one row with a known label",
            fix="Materialise the feature asset for the window wanted",
        )
    late = timedelta(0) if columns.label_time else duration(windows.label_delay)
    return newest + late


def labelled(label: pa.ChunkedArray) -> Any:
    """Which rows have a label: not null, nor NaN."""
    known = pc.is_valid(label)
    if pa.types.is_floating(label.type):
        known = pc.and_(known, pc.invert(pc.fill_null(pc.is_nan(label), True)))
    return known


def cut(data: "ds.Dataset", columns: Columns, windows: Windows, *, as_of: datetime) -> Cut:
    """Cut `data` at `as_of` into training rows and holdout rows whose labels had matured by then.

    Rows are ordered by time and id, so that equal rows give equal digests however the source was
    partitioned. Raises DataError for missing or mistyped columns and for an empty window.
    """
    kind = instants(data.schema, columns)
    as_of = as_utc(as_of)
    train_start, holdout_start, holdout_end = windows.bounds(as_of)
    time = pc.field(columns.time)
    rows = data.to_table(
        filter=(time >= scalar(train_start, kind)) & (time < scalar(holdout_end, kind))
    )
    # As plain rows: a dictionary would keep values of rows that are left out.
    rows = plain_rows(rows).sort_by([(columns.time, "ascending"), (columns.id, "ascending")])

    known = labelled(rows[columns.label])
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
        ever_known = pc.sum(pc.and_(mask, ever)).as_py() or 0
        counts = {
            "rows": total,
            "matured": keep.num_rows,
            "pending": ever_known - keep.num_rows,
            "unlabelled": total - ever_known,
        }
        window = f"the {name} window [{start:%Y-%m-%d %H:%M}, {end:%Y-%m-%d %H:%M}) UTC has"
        if not total:
            raise DataError(
                f"{window} no rows; {_span(data, columns)}",
                expected="at least one matured row",
                fix="Load older rows, shorten Windows.holdout, or choose another as_of"
                if name == "train"
                else "Load the rows of that window, or choose another as_of",
                window=name,
                **counts,
            )
        if not keep.num_rows:
            raise DataError(
                f"{window} {total} rows, of which none has a label {columns.label!r} known at "
                f"{as_of:%Y-%m-%d %H:%M}: {counts['unlabelled']} have none, "
                f"{counts['pending']} get theirs later",
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


def _span(data: "ds.Dataset", columns: Columns) -> str:
    """From when to when the features run."""
    times = data.to_table(columns=[columns.time])[columns.time]
    seconds = pc.cast(times, pa.timestamp("s", times.type.tz), safe=False)
    first, last = pc.min_max(seconds).as_py().values()
    if first is None:
        return "the features have none at all"
    return f"the features run from {as_utc(first):%Y-%m-%d %H:%M} to {as_utc(last):%Y-%m-%d %H:%M}"


def selection_cut(
    train: pa.Table, columns: Columns, windows: Windows, *, end: datetime
) -> tuple[pa.Table, pa.Table]:
    """Training rows as `(rows to fit candidates on, rows to choose one on)`.

    The last `Windows.selection` before `end`, where the training window ends, is for choosing; the
    rest, as far as its labels were known when that part began, is for fitting. Raises DataError
    where either is empty.
    """
    if windows.selection is None:
        raise SpecError("Windows.selection is None", expected="a duration", field="selection")
    start = end - duration(windows.selection)
    time = train[columns.time]
    late = pc.greater_equal(time, scalar(start, time.type))
    if columns.label_time:
        instant = train[columns.label_time]
        known = pc.less_equal(instant, scalar(start, instant.type))
    else:
        known = pc.less(time, scalar(start - duration(windows.label_delay), time.type))
    early = train.filter(pc.and_(pc.invert(late), known)).combine_chunks()
    chosen_on = train.filter(late).combine_chunks()
    for name, rows in (("before", early), ("in", chosen_on)):
        if not rows.num_rows:
            raise DataError(
                f"no training row with a known label lies {name} the selection window "
                f"[{start:%Y-%m-%d %H:%M}, {end:%Y-%m-%d %H:%M}) UTC",
                expected="rows to fit the candidates on, and rows to choose one on",
                fix="Change Windows.selection, or widen Windows.train",
            )
    return early, chosen_on


def clusters(times: pa.ChunkedArray | pa.Array, unit: str) -> Any:
    """Cluster number of each row: whole `unit`s since the epoch (numpy int64, shape (n,))."""
    # In the column's own unit: nothing is rounded.
    length = int(duration(unit).total_seconds()) * _PER_SECOND[times.type.unit]
    return pc.cast(times, pa.int64()).to_numpy() // length
