"""Snapshots: one content, one digest; old versions stay; damage is named."""

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlct.adapters.object_store import ObjectStore
from mlct.data import snapshot
from mlct.data.digest import canonical
from mlct.errors import DataError, SnapshotCorrupted, SnapshotMissing

ROWS = pa.table(
    {
        "n": pa.array([3, 1, None, 2, 5, 4, 7]),
        "x": pa.array([0.5, 3.25, None, -0.0, 1e300, 2.5, 1.0]),
        "s": pa.array(["a", "b", None, "", "é", "a", "🛩"]),
        "t": pa.array([datetime(2013, 1, day, tzinfo=UTC) for day in range(1, 8)]),
    }
)


@pytest.fixture
def store(tmp_path):
    return ObjectStore(str(tmp_path / "store"))


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(snapshot, "ROWS_PER_PART", 3)


def digest(store, data):
    return snapshot.write(store, data).digest


def rows(store, *digests):
    return snapshot.read(store, *digests).to_table()


def chunked(table, sizes):
    """The same rows in other batches, empty ones among them."""
    batches, start = [], 0
    for size in [*sizes, table.num_rows]:
        batches += table.slice(start, size).combine_chunks().to_batches() or []
        batches.append(pa.RecordBatch.from_pylist([], schema=table.schema))
        start += size
    return pa.Table.from_batches(batches, schema=table.schema)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 4), max_size=6), st.integers(1, 8))
def test_equal_rows_have_equal_digests_whatever_their_chunking(tmp_path_factory, sizes, part):
    store = ObjectStore(str(tmp_path_factory.getbasetemp() / "chunking"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "ROWS_PER_PART", part)
        other = snapshot.write(store, chunked(ROWS, sizes))
        assert other == snapshot.write(store, ROWS)
        assert len(other.parts) == -(-ROWS.num_rows // part)
        assert rows(store, other.digest).equals(ROWS)


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(pa.Table.to_pandas, id="DataFrame"),
        pytest.param(ds.dataset, id="Dataset"),
        pytest.param(pa.Table.to_reader, id="RecordBatchReader"),
        pytest.param(lambda t: t.replace_schema_metadata({"by": "me"}), id="metadata"),
    ],
)
def test_the_library_that_rows_come_from_does_not_count(store, form):
    table = ROWS.select(["x", "s"])
    assert digest(store, form(table)) == digest(store, table)


def test_lazy_files_and_the_rows_in_them_have_one_digest(store, tmp_path):
    pq.write_table(ROWS, tmp_path / "rows.parquet", row_group_size=2, compression="gzip")
    assert digest(store, ds.dataset(tmp_path / "rows.parquet")) == digest(store, ROWS)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(ROWS.slice(1), id="a row less"),
        pytest.param(ROWS.take([1, 0, 2, 3, 4, 5, 6]), id="order"),
        pytest.param(ROWS.select(["x", "n", "s", "t"]), id="columns' order"),
        pytest.param(ROWS.rename_columns(["n", "x", "s", "u"]), id="name"),
        pytest.param(ROWS.set_column(0, "n", ROWS["n"].cast("int32")), id="type"),
        pytest.param(ROWS.set_column(3, "t", ROWS["t"].cast("timestamp[us]")), id="zone"),
        pytest.param(ROWS.set_column(0, "n", pc.fill_null(ROWS["n"], 0)), id="null or 0"),
        pytest.param(ROWS.set_column(1, "x", pc.abs(ROWS["x"])), id="-0.0 or 0.0"),
        pytest.param(ROWS.set_column(1, "x", pc.fill_null(ROWS["x"], math.nan)), id="null or NaN"),
    ],
)
def test_any_other_rows_have_another_digest(store, other):
    assert digest(store, other) != digest(store, ROWS)


@pytest.mark.parametrize(
    "form",
    [
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
    ids=str,
)
def test_how_strings_are_held_in_memory_does_not_count(store, form):
    other = ROWS.set_column(2, "s", ROWS["s"].cast(form))
    assert digest(store, other) == digest(store, ROWS)
    assert snapshot.write(store, other).schema.field("s").type == pa.string()


def test_a_dictionary_does_not_tell_of_rows_that_are_not_there(store):
    all_rows = pa.table({"s": pa.array(["z", "x", "x"]).dictionary_encode()})
    assert digest(store, all_rows.slice(1)) == digest(store, pa.table({"s": ["x", "x"]}))


NESTED = pa.table(
    {
        "list": pa.array([[1, None], [], None]),
        "large": pa.array([["a"], [], None], pa.large_list(pa.large_string())),
        "coded": pa.array([["a"], ["b"], None], pa.list_(pa.string())),
        "struct": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}]),
        "map": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())),
        "pair": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int64(), 2)),
        "decimal": pa.array([Decimal("1.20"), None, Decimal("-3.00")]),
        "date": pa.array([date(2013, 1, 1), None, date(1969, 1, 1)]),
        "ns": pa.array([1, None, -1], pa.timestamp("ns", "Asia/Tokyo")),
        "s": pa.array([1, None, -1], pa.timestamp("s")),
        "bytes": pa.array([b"\0", None, b""], pa.large_binary()),
        "nothing": pa.nulls(3),
    }
)


def test_nested_and_rare_types_come_back_as_they_were(store):
    back = rows(store, digest(store, NESTED))
    assert back.to_pylist() == NESTED.to_pylist()
    exact = [n for n in NESTED.column_names if n not in ("large", "bytes")]
    assert back.select(exact).schema == NESTED.select(exact).schema


def test_metadata_of_a_field_is_no_data(store):
    noted = pa.field("n", pa.int64(), metadata={"PARQUET:field_id": "7"})
    table = ROWS.select(["n"])
    assert digest(store, table.cast(pa.schema([noted]))) == digest(store, table)


def test_a_named_index_is_a_column_and_a_nameless_one_is_not(store):
    frame = pd.DataFrame({"x": [1.0, 2.0]}, index=[7, 8])
    assert rows(store, digest(store, frame)).column_names == ["x"]
    assert rows(store, digest(store, frame.rename_axis("id"))).column_names == ["id", "x"]
    levels = frame.set_index([pd.Index([1, 2], name="day"), pd.Index(["a", "b"])])
    assert rows(store, digest(store, levels)).column_names == ["day", "x"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([1, 2], "builtins.list"),
        (None, "NoneType"),
        (pd.Series([1]), "Series"),
        (pd.DataFrame({"a": [1, "x"]}), "column a"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "Duplicate column names"),
        (pd.DataFrame({"a": [1]}, index=pd.Index([1], name="a")), "already exists"),
        (pa.table([[1], [2]], names=["a", "a"]), "two columns 'a'"),
        (pa.table({"a": pa.nulls(1, pa.month_day_nano_interval())}), "month_day_nano_interval"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_cannot_be_stored_is_named(store, data, says):
    with pytest.raises(DataError, match=says):
        snapshot.write(store, data)


def test_no_rows_are_a_snapshot_too(store):
    empty = snapshot.write(store, ROWS.slice(0, 0))
    assert (empty.rows, empty.bytes, empty.parts) == (0, 0, ())
    back = snapshot.read(store, empty.digest)
    assert back.schema == ROWS.schema
    assert back.to_table(columns=["s"], filter=ds.field("n") > 1).num_rows == 0


@pytest.mark.usefixtures("small_parts")
def test_reading_is_lazy_and_takes_only_the_columns_and_rows_asked_for(store):
    back = snapshot.read(store, digest(store, ROWS))
    assert isinstance(back, ds.Dataset)
    assert len(list(back.get_fragments())) == 3
    found = back.to_table(columns=["s"], filter=ds.field("n") > 4)
    assert found.to_pydict() == {"s": ["é", "🛩"]}


@pytest.mark.usefixtures("small_parts")
def test_equal_parts_are_stored_once_and_read_each_time(store):
    table = pa.table({"n": [1, 2, 3] * 3})
    written = snapshot.write(store, table)
    assert len(written.parts) == 3
    assert len(set(written.parts)) == 1
    assert rows(store, written.digest).equals(table)


def test_partitions_are_read_as_one_with_their_types_unified(store):
    parts = [
        pa.table({"n": pa.array([1], pa.int32()), "t": pa.array([1], pa.timestamp("ms"))}),
        pa.table({"n": [2.5], "t": pa.array([1], pa.timestamp("ns"))}),
        pa.table({"n": pa.nulls(1), "s": pa.array(["x"]).dictionary_encode()}),
        pa.table({"s": pa.array(["y"], pa.large_string())}),
    ]
    both = rows(store, *(digest(store, part) for part in parts))
    assert both["n"].to_pylist() == [1.0, 2.5, None, None]
    assert both["s"].to_pylist() == [None, None, "x", "y"]
    assert both.schema.field("t").type == pa.timestamp("ns")


@pytest.mark.parametrize("other", [["x"], [datetime(2013, 1, 1)], [[1]]])  # noqa: DTZ001
def test_partitions_of_different_kinds_do_not_fit_together(store, other):
    digests = [digest(store, pa.table({"n": column})) for column in ([1], other)]
    with pytest.raises(DataError, match=f"{digests[0][:12]}.*Field n has incompatible types"):
        snapshot.read(store, *digests)


def test_no_snapshot_at_all_cannot_be_read(store):
    with pytest.raises(DataError, match="no snapshot was asked for"):
        snapshot.read(store)


def test_an_old_version_stays_readable_by_its_digest(store):
    old = digest(store, ROWS)
    for version in range(3):
        store.set_ref("flights", digest(store, ROWS.slice(version + 1)))
    assert rows(store, old).equals(ROWS)
    assert snapshot.find(store, old).rows == ROWS.num_rows


def test_nothing_that_is_stored_ever_changes(store):
    snapshot.write(store, ROWS)
    before = files(store)
    snapshot.write(store, ROWS.slice(1))
    snapshot.write(store, ROWS)
    assert before.items() <= files(store).items()


def files(store):
    found = Path(store.root).rglob("*")
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in found if p.is_file()}


def flip(data):
    return data[:20] + bytes([data[20] ^ 1]) + data[21:]


@pytest.mark.parametrize("which", ["part", "manifest"])
@pytest.mark.parametrize(
    "damage",
    [flip, lambda data: data[:-5], lambda data: b"", lambda data: data + b"\n"],
    ids=["a bit", "truncated", "emptied", "appended"],
)
def test_damage_is_found_before_a_row_is_read(store, which, damage):
    written = snapshot.write(store, ROWS)
    snapshot.read(store, written.digest)
    name = written.digest if which == "manifest" else written.parts[0]
    path = Path(store.root, "objects", name[:2], name)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SnapshotCorrupted, match="restore it from a backup") as found:
        snapshot.read(store, written.digest)
    assert (found.value.path, found.value.digest) == (str(path), name)
    assert str(path) in str(found.value)


@pytest.mark.parametrize("which", ["part", "manifest"])
def test_a_missing_file_is_named_with_what_to_do(store, which):
    written = snapshot.write(store, ROWS)
    name = written.digest if which == "manifest" else written.parts[0]
    path = Path(store.root, "objects", name[:2], name)
    path.unlink()
    with pytest.raises(SnapshotMissing, match="materialise the asset again") as found:
        snapshot.read(store, written.digest)
    assert str(path) in str(found.value)


def test_materialising_again_mends_what_was_truncated_or_lost(store):
    written = snapshot.write(store, ROWS)
    for name, damage in zip((*written.parts, written.digest), (b"", b"x"), strict=True):
        Path(store.root, "objects", name[:2], name).write_bytes(damage)
    assert snapshot.write(store, ROWS) == written
    assert rows(store, written.digest).equals(ROWS)


@pytest.mark.parametrize(
    "other", [b"[1]", b"PAR1\xff", b"", canonical({"format": "mlct.snapshot/v2", "parts": []})]
)
def test_an_object_that_is_no_snapshot_is_refused(store, other):
    name = store.put(other)
    with pytest.raises(SnapshotCorrupted, match=r"mlct\.snapshot/v1.*Pass the digest of a snap"):
        snapshot.find(store, name)


def test_a_snapshot_of_the_first_release_can_be_read():
    """Golden: a manifest and its part, as version 0.1.0 wrote them."""
    golden = ObjectStore(str(Path(__file__).parent / "golden" / "store"))
    back = rows(golden, golden.ref("rows"))
    assert back.to_pydict() == {"n": [1, None], "s": ["a", "é"]}
