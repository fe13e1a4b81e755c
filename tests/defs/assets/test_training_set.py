"""What a model learns from: the cut, its counts, its contract, and errors that people can read."""

import logging
import re
from dataclasses import replace
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import mlct
from mlct.data import snapshot
from mlct.data.window import Windows


def cut(world: Any, as_of: str | None = None, **words: Any) -> Any:
    config = {"ops": {"late__training_set": {"config": {"as_of": as_of}}}} if as_of else {}
    return world.materialize("training_set", config=config, **words)


@pytest.fixture
def fed(world, trips) -> Any:
    world.feed(trips())
    return world


def test_as_of_replays_history_to_the_same_digest(fed, trips, made):
    then = made(cut(fed, "2024-02-08T00:00:00Z"), "training_set")
    fed.feed(pa.concat_tables([trips(), trips(10, first=40)]))
    later = made(cut(fed), "training_set")
    again = made(cut(fed, "2024-02-08T00:00:00Z"), "training_set")
    for name in ("train_digest", "holdout_digest"):
        assert again[name] == then[name] != later[name]
    assert again["as_of"] == 1707350400.0  # 8 February, as Dagster shows times


def test_as_of_is_the_end_of_data_that_lies_in_the_past(fed, made):
    shown = made(cut(fed), "training_set")
    assert shown["as_of"] == 1707525360.0  # the last trip ended at 00:36 on 10 February
    assert shown["holdout"].endswith("2024-02-09 22:36) UTC")  # two hours of label delay before


def test_rows_and_label_maturity_are_shown(fed, made):
    shown = made(cut(fed, "2024-02-05T00:00:00Z"), "training_set")
    # 5 February less two hours of label delay and twelve days of holdout; data from 1 January on.
    assert (shown["train_rows"], shown["holdout_rows"]) == (23 * 60 - 5, 12 * 60)
    assert {r["window"]: r["matured"] for r in shown["label_maturity"]} == {
        "train": 1375,
        "holdout": 720,
    }


def test_labels_that_are_not_known_yet_wait(world, trips, made):
    rows = trips()
    nulls = pa.array([None] * 60, rows["ended_at"].type)
    rows = rows.set_column(
        2, "ended_at", pa.chunked_array([rows["ended_at"].combine_chunks()[:-60], nulls])
    )
    world.feed(rows)
    shown = made(cut(world, "2024-02-10T00:00:00Z"), "training_set")
    (holdout,) = [row for row in shown["label_maturity"] if row["window"] == "holdout"]
    assert holdout["unlabelled"] == 55
    assert holdout["matured"] == holdout["rows"] - 55 == shown["holdout_rows"]


def test_an_instant_that_is_none_is_refused(fed, why):
    done = cut(fed, "next Tuesday")
    assert not done.success
    assert "'next Tuesday' is not a time" in why(done)


def renamed(rows: pa.Table) -> pa.Table:
    return rows.rename_columns(["delayed" if n == "late" else n for n in rows.column_names])


def mistyped(rows: pa.Table) -> pa.Table:
    text = pc.cast(rows["started_at"], pa.string())
    return rows.set_column(1, "started_at", text)


def unlabelled(rows: pa.Table) -> pa.Table:
    return rows.set_column(3, "late", pa.nulls(rows.num_rows, pa.int8()))


BAD = {
    "renamed column": (renamed, "no column 'late'; they have .*delayed.*Rename the column"),
    "wrong type": (mistyped, "column 'started_at' is of type string.*Expected a timestamp"),
    "all-null label": (unlabelled, "the train window .* none has a label"),
    "no rows": (lambda rows: rows.slice(0, 0), "column 'ended_at' holds no time at all"),
    "short history": (lambda rows: rows.slice(38 * 60), "the train window .* has no rows"),
}


@pytest.mark.parametrize(("spoil", "told"), BAD.values(), ids=BAD)
def test_what_is_wrong_with_the_data_is_in_the_runs_failure(world, trips, why, spoil, told):
    world.feed(spoil(trips()))
    done = world.retrain()
    assert not done.success
    assert re.search(told, why(done), re.DOTALL), why(done)
    assert world.records("training") == []


def test_an_empty_window_is_in_the_runs_failure(fed, why):
    done = cut(fed, "2026-01-01T00:00:00Z")
    assert not done.success
    assert "window [2025-" in why(done)
    assert "the features run from 2024-01-01 00:00 to 2024-02-09" in why(done)


def test_features_that_were_never_made_are_named(world, why):
    done = world.retrain()
    assert not done.success
    assert "trips has no snapshot" in why(done)


def test_a_missing_file_is_named(fed, why):
    (digest,) = fed.home.store.refs("assets/trips").values()
    (part,) = snapshot.find(fed.home.store, digest).parts
    (fed.root / "store" / "objects" / part[:2] / part).unlink()
    done = fed.retrain()
    assert not done.success
    assert "SnapshotMissing" in why(done)
    assert part in why(done)
    assert "Restore it from a backup" in why(done)


def test_a_passing_contract_is_a_statement_about_that_digest(fed, made, check):
    done = cut(fed)
    (said,) = fed.records("contract")
    (record,) = fed.home.ledger.records(kind="contract")
    subjects = {s["name"]: s["digest"]["sha256"] for s in record.statement["subject"]}
    shown = made(done, "training_set")
    assert said["passed"]
    assert subjects["train"] == shown["train_digest"]
    assert subjects["holdout"] == shown["holdout_digest"]
    assert check(done, "contract").passed
    assert said["training_set"] == subjects["training_set"]


def test_known_rows_are_not_judged_twice(fed, check):
    cut(fed)
    again = check(cut(fed), "contract")
    assert "recorded earlier" in again.description
    assert len(fed.records("contract")) == 1


def too_many_stops(rows: pa.Table) -> pa.Table:
    stops = pc.if_else(pc.equal(rows["stops"], 7), 70, rows["stops"])
    return rows.set_column(rows.column_names.index("stops"), "stops", stops)


@pytest.fixture
def broken(world, trips) -> Any:
    """Rows that break the contract."""
    world.feed(too_many_stops(trips()))
    return world


def test_a_broken_contract_fails_the_run_before_anything_is_trained(broken, check, why):
    done = broken.retrain()
    assert not done.success
    assert "contract" in why(done)
    assert not check(done, "contract").passed
    assert broken.records("training") == []
    assert not broken.records("contract")[-1]["passed"]


def test_each_violation_shows_column_rule_observed_value_and_count(broken, check):
    found = check(broken.retrain(), "contract")
    (violation,) = [row.data for row in found.metadata["violations"].records]
    assert violation["column"] == "stops"
    assert violation["rule"] == "expect_column_values_to_be_between"
    assert "70" in violation["observed"]
    judged = broken.rows["stops"].slice(177, 37 * 60)  # 37 days that end three rows early
    assert int(violation["count"]) == pc.sum(pc.equal(judged, 70)).as_py()
    assert "max_value=50" in violation["expected"]
    assert found.metadata["failed"].value == 1


def test_the_contract_speaks_of_training_rows_only(world, trips):
    rows = trips()
    spoilt = too_many_stops(rows.slice(0, 60))  # a day before the training window
    world.declare(windows=Windows(train="20d", holdout="12d", label_delay="2h", cluster="1d"))
    world.feed(pa.concat_tables([spoilt, rows.slice(60)]))
    assert cut(world).success


def test_the_contract_cannot_be_deselected(broken):
    asset = dg.AssetKey(["late", "training_set"])
    with pytest.raises(dg.DagsterInvalidSubsetError):
        broken.defs.resolve_job_def("late_retrain").get_subset(
            asset_selection={asset}, asset_check_selection=set()
        )


def test_times_without_a_zone_are_utc(world, trips):
    rows = trips()
    for number, name in ((1, "started_at"), (2, "ended_at")):
        rows = rows.set_column(number, name, pc.cast(rows[name], pa.timestamp("us")))
    world.feed(rows)
    assert world.retrain().success


def test_a_label_without_a_time_counts_as_known_after_the_delay(world, trips, made):
    columns = mlct.Columns(id="trip_id", time="started_at", label="late")
    world.declare(replace(world.spec, columns=columns))
    world.feed(trips().drop_columns(["ended_at"]))
    shown = made(cut(world), "training_set")
    assert shown["holdout_rows"] == 12 * 60


@pytest.mark.parametrize(("train", "warns"), [("900d", True), ("25d", False)])
def test_a_training_window_that_the_data_does_not_fill_is_told(fed, train, warns):
    fed.declare(windows=replace(fed.spec.windows, train=train))
    done = cut(fed)
    assert done.success
    told = [
        e.user_message for e in fed.instance.all_logs(done.run_id) if e.level == logging.WARNING
    ]
    wanted = "Windows.train is 900d: the data has 27d of them, from 2024-01-01 on"
    assert [wanted in t for t in told] == [True] * warns
