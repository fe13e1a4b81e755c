"""Any asset's rows come back as written, as the type that is asked for, or not at all."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

import mlct
from mlct.adapters.home import Home
from mlct.data import snapshot
from mlct.errors import DataError, SnapshotCorrupted, SnapshotMissing

ROWS = pa.table({"n": [1, 2, 3], "city": ["Oslo", None, "Rome"]})
DAYS = dg.DailyPartitionsDefinition(start_date="2024-01-01", end_date="2024-01-04")
FIRST, SECOND, THIRD = DAYS.get_partition_keys()


@pytest.fixture
def place(tmp_path) -> Iterator[SimpleNamespace]:
    """A home, an instance, and `run(*assets)`: materialise them there."""
    home = Home(root=str(tmp_path / "home"))
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with dg.DagsterInstance.ephemeral() as instance:

        def run(*assets: Any, **words: Any) -> dg.ExecuteInProcessResult:
            resources = mlct.build_resources(home)
            words |= {"resources": resources, "run_config": quiet, "instance": instance}
            return dg.materialize(list(assets), **words)

        yield SimpleNamespace(home=home, run=run, instance=instance)


def source(rows: Any, **words: Any) -> dg.AssetsDefinition:
    @dg.asset(name="source", io_manager_key="snapshots", **words)
    def made() -> Any:
        return rows

    return made


def reader(annotation: Any, seen: list[Any], **words: Any) -> dg.AssetsDefinition:
    def reads(source) -> None:
        seen.append(source)

    reads.__annotations__["source"] = annotation
    return dg.asset(**words)(reads)


def read(place: Any, rows: Any, annotation: Any) -> Any:
    seen: list[Any] = []
    place.run(source(rows), reader(annotation, seen))
    return seen[0]


WRITTEN = {
    "frame": ROWS.to_pandas(),
    "table": ROWS,
    "dataset": ds.dataset(ROWS),
    "reader": ROWS.to_reader(),
}


@pytest.mark.parametrize("rows", WRITTEN.values(), ids=WRITTEN)
def test_what_is_written_comes_back_as_a_table(place, rows):
    assert read(place, rows, pa.Table).to_pylist() == ROWS.to_pylist()


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        (pd.DataFrame, pd.DataFrame),
        (pa.Table, pa.Table),
        (pa.Table | None, pa.Table),
        (ds.Dataset, ds.Dataset),
        (Any, ds.Dataset),
    ],
)
def test_the_annotation_chooses_the_type(place, annotation, kind):
    assert isinstance(read(place, ROWS, annotation), kind)


def test_a_dataset_is_lazy(place):
    found = read(place, pa.table({"n": range(10_000)}), ds.Dataset)
    assert found.to_table(filter=ds.field("n") >= 9_998)["n"].to_pylist() == [9_998, 9_999]


def test_a_type_that_nobody_can_make_is_refused_with_what_can_be(place):
    with pytest.raises(DataError, match=r"cannot be loaded as .*dict.*pyarrow\.Table"):
        read(place, ROWS, dict)


def test_a_named_index_is_kept_as_a_column(place):
    frame = ROWS.to_pandas().set_index("city")
    assert set(read(place, frame, pa.Table).column_names) == {"n", "city"}


@pytest.mark.parametrize("rows", [None, [1, 2], "rows"])
def test_what_is_not_rows_is_refused(place, rows):
    with pytest.raises(DataError, match="Expected"):
        place.run(source(rows))


def test_the_data_version_is_the_digest_and_rows_and_schema_are_shown(place):
    place.run(source(ROWS))
    event = place.instance.get_latest_materialization_event(dg.AssetKey("source"))
    shown = event.asset_materialization.metadata
    digest = shown["digest"].value
    assert event.asset_materialization.tags["dagster/data_version"] == digest
    assert shown["dagster/row_count"].value == 3
    columns = shown["dagster/column_schema"].schema.columns
    assert [(c.name, c.type) for c in columns] == [("n", "int64"), ("city", "string")]
    assert snapshot.read(place.home.store, digest).to_table().to_pylist() == ROWS.to_pylist()


def test_equal_rows_have_equal_versions_and_old_ones_stay_readable(place):
    def version(rows: Any) -> str:
        place.run(source(rows))
        event = place.instance.get_latest_materialization_event(dg.AssetKey("source"))
        return event.asset_materialization.tags["dagster/data_version"]

    first, other, again = version(ROWS), version(ROWS.slice(1)), version(ROWS.to_pandas())
    assert first == again != other
    assert snapshot.read(place.home.store, other).count_rows() == 2


@dg.asset(name="source", io_manager_key="snapshots", partitions_def=DAYS)
def daily(context: dg.AssetExecutionContext) -> pa.Table:
    return pa.table({"day": [context.partition_key]})


def days(table: pa.Table) -> list[str]:
    return sorted(table["day"].to_pylist())


def test_each_partition_has_its_own_snapshot(place):
    seen: list[Any] = []
    assets = daily, reader(pa.Table, seen, partitions_def=DAYS)
    for key in (FIRST, SECOND):
        place.run(*assets, partition_key=key)
    assert list(map(days, seen)) == [[FIRST], [SECOND]]


def test_several_partitions_come_as_one(place):
    for key in DAYS.get_partition_keys():
        place.run(daily, partition_key=key)
    seen: list[Any] = []
    everything = reader(pd.DataFrame, seen)
    place.run(daily, everything, selection=[everything])
    assert sorted(seen[0]["day"]) == [FIRST, SECOND, THIRD]


def test_a_missing_partition_is_named(place):
    place.run(daily, partition_key=FIRST)
    everything = reader(pa.Table, [])
    with pytest.raises(SnapshotMissing, match=f"source.*{SECOND}, {THIRD}.*Materialise") as missing:
        place.run(daily, everything, selection=[everything])
    assert missing.value.partitions == [SECOND, THIRD]


def test_missing_partitions_are_skipped_where_the_input_allows_it(place):
    allowed = {"source": dg.AssetIn(metadata={"allow_missing_partitions": True})}
    seen: list[Any] = []
    everything = reader(pa.Table, seen, ins=allowed)
    with pytest.raises(SnapshotMissing):  # not one is there
        place.run(daily, everything, selection=[everything])
    place.run(daily, partition_key=SECOND)
    place.run(daily, everything, selection=[everything])
    assert days(seen[0]) == [SECOND]


def test_an_asset_that_was_never_made_is_named(place):
    alone = reader(pa.Table, [])
    with pytest.raises(SnapshotMissing, match=r"source has no snapshot.*Materialise source"):
        place.run(source(ROWS), alone, selection=[alone])


@pytest.mark.filterwarnings("ignore:.*allow_nonexistent_upstream_partitions")
def test_a_partition_may_look_back_and_the_first_one_sees_nothing(place):
    before = dg.TimeWindowPartitionMapping(
        start_offset=-1, end_offset=-1, allow_nonexistent_upstream_partitions=True
    )
    seen: list[Any] = []
    ins = {"source": dg.AssetIn(partition_mapping=before)}
    lagged = reader(pa.Table | None, seen, ins=ins, partitions_def=DAYS)
    for key in (FIRST, SECOND):
        place.run(daily, lagged, partition_key=key)
    assert seen[0] is None
    assert days(seen[1]) == [FIRST]


def test_partitions_whose_columns_changed_are_read_with_both(place):
    @dg.asset(name="source", io_manager_key="snapshots", partitions_def=DAYS)
    def changing(context: dg.AssetExecutionContext) -> pa.Table:
        return pa.table({"n": [1]} if context.partition_key == FIRST else {"n": [2], "m": ["x"]})

    for key in DAYS.get_partition_keys():
        place.run(changing, partition_key=key)
    seen: list[Any] = []
    everything = reader(pa.Table, seen)
    place.run(changing, everything, selection=[everything])
    assert sorted(seen[0]["m"].to_pylist(), key=str) == [None, "x", "x"]


def test_a_corrupted_snapshot_is_refused_with_its_path_and_what_to_do(place):
    made = source(ROWS)
    place.run(made)
    (digest,) = place.home.store.refs("assets/source").values()
    (part,) = snapshot.find(place.home.store, digest).parts
    _, path = place.home.store.open(part)
    with open(path, "r+b") as file:
        file.seek(4)
        file.write(b"\0\0\0\0")
    alone = reader(pa.Table, [])
    with pytest.raises(SnapshotCorrupted, match=f"{path} hashes to .* restore it") as corrupted:
        place.run(made, alone, selection=[alone])
    assert corrupted.value.digest == part


FED = {
    "frame": lambda rows: rows.to_pandas(),
    "frame with an index": lambda rows: rows.to_pandas().set_index("trip_id"),
    "table": lambda rows: rows,
}


@pytest.mark.parametrize("shape", FED.values(), ids=FED)
def test_features_may_come_from_another_io_manager(world, trips, shape, tmp_path):
    @dg.asset(name="trips")
    def pickled() -> Any:
        return shape(trips())

    elsewhere = {"io_manager": dg.FilesystemIOManager(base_dir=str(tmp_path / "pickles"))}
    own = dg.Definitions(
        assets=[pickled],
        jobs=[dg.define_asset_job("pickle", [pickled], executor_def=dg.in_process_executor)],
        resources=mlct.build_resources(world.home) | elsewhere,
    )
    defs = dg.Definitions.merge(own, mlct.build_definitions(world.spec))
    assert world.run("pickle", defs=defs).success
    cut = world.materialize("training_set", defs=defs)
    assert cut.success
    assert world.records("contract")[-1]["passed"]


def test_partitions_of_another_io_manager_come_as_one(world, trips, tmp_path):
    weeks = dg.StaticPartitionsDefinition(["0", "10", "20", "30", "never"])

    @dg.asset(name="trips", partitions_def=weeks)
    def pickled(context: dg.AssetExecutionContext) -> Any:
        return trips(10, first=int(context.partition_key)).to_pandas()

    elsewhere = {"io_manager": dg.FilesystemIOManager(base_dir=str(tmp_path / "pickles"))}
    own = dg.Definitions(
        assets=[pickled],
        jobs=[dg.define_asset_job("pickle", [pickled], executor_def=dg.in_process_executor)],
        resources=mlct.build_resources(world.home) | elsewhere,
    )
    defs = dg.Definitions.merge(own, mlct.build_definitions(world.spec))
    for key in weeks.get_partition_keys()[:-1]:
        assert world.run("pickle", defs=defs, partition_key=key).success
    assert world.materialize("training_set", defs=defs).success
