"""Windows: half-open, only matured labels, nothing of the future, and one order of rows."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlct.adapters.object_store import ObjectStore
from mlct.data import snapshot
from mlct.data.window import (
    Columns,
    Windows,
    clusters,
    cut,
    data_end,
    duration,
    latest,
    parse_instant,
    selection_cut,
)
from mlct.errors import DataError, SpecError

COLUMNS = Columns(id="id", time="at", label="late", label_time="known")
WINDOWS = Windows(train="2d", holdout="1d", label_delay="6h", cluster="1d")
AS_OF = datetime(2013, 3, 10, 12, tzinfo=UTC)
TRAIN, HOLDOUT, END = WINDOWS.bounds(AS_OF)
HOUR = timedelta(hours=1)
quick = settings(deadline=None, max_examples=40)


def table(rows, kind=None):
    """Rows of `(at, late, known)`; ids by place, one feature."""
    kind = kind or pa.timestamp("us", "UTC")
    at, late, known = zip(*rows, strict=True) if rows else ((), (), ())
    naive = not kind.tz

    def times(values):
        return pa.array([v and v.replace(tzinfo=None if naive else UTC) for v in values], kind)

    return pa.table(
        {
            "id": [f"r{n:04}" for n in range(len(rows))],
            "at": times(at),
            "late": pa.array(late, pa.int8()),
            "known": times(known),
            "x": pa.array(range(len(rows)), pa.int64()),
        }
    )


def hourly(first=TRAIN - 5 * HOUR, hours=90, known=HOUR):
    return [(first + n * HOUR, n % 2, first + n * HOUR + known) for n in range(hours)]


def split(data, **words):
    return cut(ds.dataset(data), COLUMNS, WINDOWS, as_of=AS_OF, **words)


def digests(store, found):
    return [snapshot.write(store, part).digest for part in (found.train, found.holdout)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ObjectStore(str(tmp_path_factory.mktemp("windows")))


def test_bounds_are_half_open_and_meet():
    found = split(table(hourly()))
    assert (found.train_start, found.holdout_start, found.holdout_end) == (TRAIN, HOLDOUT, END)
    assert AS_OF - timedelta(hours=6) == END
    train, holdout = found.train["at"].to_pylist(), found.holdout["at"].to_pylist()
    assert (train[0], train[-1]) == (TRAIN, HOLDOUT - HOUR)
    assert (holdout[0], holdout[-1]) == (HOLDOUT, END - HOUR)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York", "+05:30"])
def test_the_unit_and_zone_of_the_column_do_not_move_the_bounds(unit, zone):
    found = split(table(hourly(), pa.timestamp(unit, zone)))
    assert found.counts == split(table(hourly())).counts
    assert found.train["x"].equals(split(table(hourly())).train["x"])
    assert found.holdout.schema.field("at").type == pa.timestamp(unit, zone)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_bounds_between_two_ticks_of_the_column_are_not_rounded(unit):
    as_of = AS_OF + timedelta(microseconds=500)
    first, second = END, END + timedelta(seconds=1)
    rows = [*hourly(), (first, 1, first), (second, 1, second)]
    found = cut(ds.dataset(table(rows, pa.timestamp(unit))), COLUMNS, WINDOWS, as_of=as_of)
    assert first.replace(tzinfo=None) in found.holdout["at"].to_pylist()
    assert second.replace(tzinfo=None) not in found.holdout["at"].to_pylist()
    assert TRAIN.replace(tzinfo=None) not in found.train["at"].to_pylist()


@pytest.mark.parametrize(
    "as_of", [AS_OF, AS_OF.replace(tzinfo=None), AS_OF.astimezone(ZoneInfo("Asia/Tokyo"))]
)
def test_an_instant_is_the_same_in_every_zone(as_of):
    found = cut(ds.dataset(table(hourly())), COLUMNS, WINDOWS, as_of=as_of)
    assert found.as_of == AS_OF
    assert found.train.equals(split(table(hourly())).train)


@pytest.mark.parametrize(
    ("late", "known", "counted"),
    [
        (1, AS_OF - HOUR, "matured"),
        (1, AS_OF, "matured"),
        (1, AS_OF + timedelta(microseconds=1), "pending"),
        (None, AS_OF - HOUR, "unlabelled"),
        (1, None, "unlabelled"),
        (None, None, "unlabelled"),
    ],
)
def test_a_row_counts_once_its_label_is_known(late, known, counted):
    found = split(table([*hourly(), (HOLDOUT, late, known)]))
    before = split(table(hourly())).counts["holdout"]
    more = {name: n - before[name] for name, n in found.counts["holdout"].items()}
    assert more == dict.fromkeys(before, 0) | {"rows": 1, counted: 1}
    assert ("r0090" in found.holdout["id"].to_pylist()) == (counted == "matured")


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
def test_a_label_that_is_not_a_number_is_no_label(kind):
    data = table(hourly())
    label = np.where(np.arange(90) % 3, 1.0, np.nan).astype(kind.to_pandas_dtype())
    found = split(data.set_column(2, "late", pa.array(label, from_pandas=False)))
    assert pc.all(pc.is_finite(pc.cast(found.train["late"], pa.float64()))).as_py()
    assert found.counts["train"]["unlabelled"] == 16


def test_without_a_label_time_the_delay_decides():
    columns = Columns(id="id", time="at", label="late")
    found = cut(ds.dataset(table(hourly(known=99 * HOUR))), columns, WINDOWS, as_of=AS_OF)
    assert found.counts["holdout"] == {"rows": 24, "matured": 24, "pending": 0, "unlabelled": 0}


INSTANTS = st.integers(-10, 90).map(lambda n: TRAIN + n * HOUR)
ROWS = st.lists(
    st.tuples(
        INSTANTS, st.sampled_from([0, 1, None]), st.one_of(st.none(), INSTANTS)
    ),
    max_size=30,
)  # fmt: skip
SURE = [(TRAIN, 0, TRAIN), (HOLDOUT, 1, HOLDOUT)]


@quick
@given(ROWS)
def test_counts_add_up_and_the_parts_are_what_they_say(rows):
    found = split(table([*SURE, *rows]))
    for name, part, start, end in (
        ("train", found.train, TRAIN, HOLDOUT),
        ("holdout", found.holdout, HOLDOUT, END),
    ):
        counts = found.counts[name]
        assert counts["rows"] == counts["matured"] + counts["pending"] + counts["unlabelled"]
        assert counts["rows"] == sum(start <= at < end for at, *_ in [*SURE, *rows])
        assert counts["matured"] == part.num_rows
        assert all(start <= at < end for at in part["at"].to_pylist())
        assert part["late"].null_count == 0
        assert all(known <= AS_OF for known in part["known"].to_pylist())


@quick
@given(ROWS, st.randoms(use_true_random=False), st.integers(1, 7))
def test_the_order_and_partitioning_of_the_source_do_not_count(store, rows, chance, size):
    data = table([*SURE, *rows])
    data = data.append_column("kind", pa.array([str(n % 3) for n in range(data.num_rows)]))
    order = chance.sample(range(data.num_rows), data.num_rows)
    # Each piece codes its strings by itself, as pandas would.
    moved = data.take(order).set_column(5, "kind", data["kind"].take(order).dictionary_encode())
    pieces = [moved.slice(n, size) for n in range(0, moved.num_rows, size)]
    digests_ = [snapshot.write(store, piece).digest for piece in pieces]
    stored = cut(snapshot.read(store, *digests_), COLUMNS, WINDOWS, as_of=AS_OF)
    assert digests(store, stored) == digests(store, split(moved)) == digests(store, split(data))


def in_the_future(row):
    at, _, known = row
    return at >= END or (known is not None and known > AS_OF)


@quick
@given(ROWS, st.data())
def test_nothing_of_the_future_reaches_a_row(store, rows, data):
    """Any change after the holdout's end, or to a label not yet known, changes nothing."""
    rows = [*SURE, *rows]
    later = INSTANTS.filter(lambda at: at >= END)
    unknown = INSTANTS.filter(lambda at: at > AS_OF)
    changed = [
        row
        if not in_the_future(row)
        else data.draw(st.tuples(later, st.sampled_from([0, 1, None]), st.none() | INSTANTS))
        if row[0] >= END
        else (row[0], data.draw(st.sampled_from([0, 1, None])), data.draw(unknown))
        for row in rows
    ]
    before, after = table(rows), table(changed)
    for n, row in enumerate(rows):
        if in_the_future(row):
            after = replaced(after, n, data.draw(st.integers(100, 999)))
    before, after = (coded(t) for t in (before, after))
    assert digests(store, split(before)) == digests(store, split(after))


def replaced(data, row, value):
    x = data["x"].to_pylist()
    x[row] = value
    return data.set_column(4, "x", pa.array(x, pa.int64()))


def coded(data):
    """With a dictionary of all values, the future's among them."""
    return data.append_column("code", data["x"].cast(pa.string()).dictionary_encode())


def test_a_renamed_column_is_named_with_what_is_there():
    data = table(hourly()).rename_columns(["id", "at", "is_late", "known", "x"])
    with pytest.raises(DataError, match="no column 'late'; they have id, at, is_late") as found:
        split(data)
    assert found.value.missing == ["late"]
    assert "correct ModelSpec.columns" in str(found.value)


def test_an_excluded_column_that_is_not_there_is_named():
    """Misspelt, it would let the model learn from what must be left out."""
    columns = Columns(id="id", time="at", label="late", exclude=("knwon",))
    with pytest.raises(DataError, match="no column 'knwon'"):
        cut(ds.dataset(table(hourly())), columns, WINDOWS, as_of=AS_OF)


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("at", pa.array(range(90)), "column 'at' is of type int64. Expected a timestamp"),
        ("at", pa.array(["2013-01-01"] * 90), "column 'at' is of type string"),
        ("known", pa.array(range(90), pa.date32()), "'known' is of type date32"),
        ("id", pa.array([[n] for n in range(90)]), "column 'id' is of type list"),
    ],
    ids=["number", "text", "date", "list"],
)
def test_a_column_of_the_wrong_type_is_named(column, values, says):
    data = table(hourly())
    place = data.column_names.index(column)
    with pytest.raises(DataError, match=says):
        split(data.set_column(place, column, values))


@pytest.mark.parametrize(
    "nothing", [pa.nulls(90), pa.nulls(90, pa.int8()), pa.array([float("nan")] * 90)]
)
def test_an_all_null_label_is_named(nothing):
    says = "train window .* has 48 rows, of which none has a label 'late'.*: 48 have none"
    with pytest.raises(DataError, match=says) as found:
        split(table(hourly()).set_column(2, "late", nothing))
    assert (found.value.window, found.value.rows, found.value.unlabelled) == ("train", 48, 48)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            [],
            r"train window \[2013-03-07 06:00, 2013-03-09 06:00\) UTC has no rows; the features "
            "have none at all",
        ),
        (
            hourly(TRAIN, 48),
            r"holdout window \[2013-03-09 06:00, 2013-03-10 06:00\) UTC has no rows; the features "
            "run from 2013-03-07 06:00 to 2013-03-09 05:00",
        ),
        (hourly(HOLDOUT, 24), "train window .* has no rows; .* shorten Windows.holdout"),
        (hourly(known=99 * HOUR), "train window .*: 0 have none, 48 get theirs later"),
    ],
    ids=["no rows", "no holdout", "no train", "pending"],
)
def test_an_empty_window_is_named(rows, says):
    with pytest.raises(DataError, match=says):
        split(table(rows))


def test_the_parts_hold_plain_columns_in_the_order_of_the_source():
    data = coded(table(hourly()))
    found = split(data.set_column(0, "id", data["id"].dictionary_encode()))
    assert found.train.schema.types == [*data.schema.types[:5], pa.string()]
    assert found.train.column_names == data.column_names


def test_features_are_all_other_columns_in_order():
    columns = Columns(id="id", time="at", label="late", exclude="known")
    assert columns.features(table([]).schema) == ("x",)
    assert columns.special == ("id", "at", "late")
    assert COLUMNS.special == ("id", "at", "late", "known")


@pytest.mark.parametrize("known", [HOUR, timedelta(microseconds=1)])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_the_data_end_with_their_newest_known_label(known, zone):
    data = table(hourly(TRAIN, 10, known), pa.timestamp("us", zone))
    assert data_end(ds.dataset(data), COLUMNS, WINDOWS) == TRAIN + 9 * HOUR + known
    columns = Columns(id="id", time="at", label="late")
    assert data_end(ds.dataset(data), columns, WINDOWS) == TRAIN + 15 * HOUR


def test_data_without_any_label_have_no_end():
    with pytest.raises(DataError, match="'known' holds no time at all"):
        data_end(ds.dataset(table([(TRAIN, None, None)])), COLUMNS, WINDOWS)


def test_the_latest_instant_is_rounded_up_to_microseconds():
    times = pa.chunked_array([pa.array([1, 1_000_000_001, None], pa.timestamp("ns", "Asia/Tokyo"))])
    found = latest(times)
    assert found == datetime(1970, 1, 1, 0, 0, 1, 1, tzinfo=UTC)
    assert type(found) is datetime
    assert latest(times.slice(2)) is None


@quick
@given(
    st.integers(-(2**50), 2**50),
    st.sampled_from(["s", "ms", "us", "ns"]),
    st.sampled_from(["1s", "90m", "1d", "2w"]),
)
def test_clusters_are_whole_units_since_the_epoch(ticks, unit, length):
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    found = clusters(pa.array([ticks], pa.timestamp(unit, "UTC")), length)
    assert found.tolist() == [ticks // (per_second * int(duration(length).total_seconds()))]
    assert found.dtype == np.int64


def test_a_day_is_one_cluster_and_the_next_day_another():
    midnight = datetime(2013, 1, 2, tzinfo=UTC)
    times = [midnight - timedelta(microseconds=1), midnight, midnight + timedelta(hours=23.9)]
    found = clusters(pa.chunked_array([pa.array(times)]), "1d")
    assert (found - found[0]).tolist() == [0, 1, 1]


@pytest.mark.parametrize("text", ["30d", "12h", "90m", "1s", "0d", "52w"])
def test_a_duration_reads_as_it_is_written(text):
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[text[-1]]
    assert duration(text).total_seconds() == int(text[:-1]) * unit


@pytest.mark.parametrize(
    "text",
    ["", "d", "1", "1.5d", "-1d", "1 d", "1D", "1y", "d1", 5, None, "9" * 30 + "d", "36526d"],
)
def test_anything_else_is_no_duration(text):
    with pytest.raises(SpecError, match=r"Windows\.train is .*'30d' or '12h'"):
        duration(text, field="Windows.train")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"train": "0d"}, "Windows.train is zero"),
        ({"holdout": "0h"}, "Windows.holdout is zero"),
        ({"cluster": "0s"}, "Windows.cluster is zero"),
        ({"label_delay": "later"}, "Windows.label_delay is 'later'"),
    ],
)
def test_a_wrong_window_is_named(wrong, says):
    with pytest.raises(SpecError, match=says):
        Windows(**{"train": "1d", "holdout": "1d"} | wrong)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"id": ""}, "'' as a column"),
        ({"time": None}, "None as a column"),
        ({"label": 3}, "3 as a column"),
        ({"label_time": ""}, "'' as a column"),
        ({"label": "i"}, "one column twice"),
        ({"label_time": "t"}, "one column twice"),
        ({"exclude": ("l",)}, "one column twice"),
        ({"exclude": (3,)}, "3 as a column"),
        ({"exclude": None}, "Columns.exclude is None"),
    ],
)
def test_wrong_columns_are_named(wrong, says):
    with pytest.raises(SpecError, match=says):
        Columns(**{"id": "i", "time": "t", "label": "l"} | wrong)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2013-04-01", datetime(2013, 4, 1, tzinfo=UTC)),
        ("2013-04-01T02:00:00+02:00", datetime(2013, 4, 1, tzinfo=UTC)),
        ("2013-04-01T00:00:00Z", datetime(2013, 4, 1, tzinfo=UTC)),
        ("2013-04-01 00:00:00.000001", datetime(2013, 4, 1, 0, 0, 0, 1, tzinfo=UTC)),
    ],
)
def test_an_instant_reads_as_utc(text, wanted):
    assert parse_instant(text) == wanted
    assert parse_instant(text).tzinfo is UTC


@pytest.mark.parametrize("text", ["", "yesterday", "2013-13-01", "1364774400", None])
def test_anything_else_is_no_instant(text):
    with pytest.raises(DataError, match="is not a time"):
        parse_instant(text)


CHOOSING = Windows(train="2d", holdout="1d", label_delay="6h", cluster="1d", selection="12h")


@quick
@given(known=st.integers(0, 20))
def test_candidates_learn_only_labels_known_when_the_selection_window_began(known):
    train, start = table(hourly(TRAIN, 48, known * HOUR)), HOLDOUT - 12 * HOUR
    early, late = selection_cut(train, COLUMNS, CHOOSING, end=HOLDOUT)
    assert late["at"].to_pylist() == [start + n * HOUR for n in range(12)]
    # Known at the very start is in time; a row of the start itself is for choosing.
    assert early["at"].to_pylist()[0] == TRAIN
    assert early["at"].to_pylist()[-1] == start - max(known, 1) * HOUR


def test_without_a_label_time_the_delay_keeps_candidates_from_late_labels():
    named = Columns(id="id", time="at", label="late")
    early, _ = selection_cut(table(hourly(TRAIN, 48)), named, CHOOSING, end=HOLDOUT)
    assert early["at"].to_pylist()[-1] == HOLDOUT - (12 + 6 + 1) * HOUR


@pytest.mark.parametrize(("selection", "where"), [("1h", "in"), ("47h", "before")])
def test_a_selection_window_without_rows_on_either_side_is_refused(selection, where):
    windows = Windows(train="2d", holdout="1d", selection=selection)
    rows = table(hourly(TRAIN + 2 * HOUR, 40))
    with pytest.raises(DataError, match=f"lies {where} the selection window"):
        selection_cut(rows, COLUMNS, windows, end=HOLDOUT)


@pytest.mark.parametrize("selection", ["2d", "48h", "3d", "0d", "long", 3])
def test_a_selection_window_must_be_part_of_the_training_window(selection):
    with pytest.raises(SpecError, match="selection"):
        Windows(train="2d", holdout="1d", selection=selection)
