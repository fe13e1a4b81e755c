"""Signals reach mlct, a breach takes the version out, and its target was looked at before."""

import json
import threading
from datetime import UTC, datetime, timedelta

import pytest

import mlct
from mlct.adapters.rollback import take_back
from mlct.adapters.signals import stored_signals
from mlct.data import snapshot
from mlct.errors import DataError, RegistryError, RollbackRefused
from mlct.monitoring.breach import KEEP
from mlct.release import slot as slots
from mlct.release.incident import incidents
from mlct.release.ledger import statement

POLICY = mlct.RollbackPolicy(
    signals=[mlct.Signal("error_rate", max=0.05, min_samples=200, breaches=2, of=3)]
)


def report(world, value=0.4, samples=500, *, ago=1.0, **how):
    """A window that ended `ago` microseconds before now."""
    end = world.home.ledger.clock() - timedelta(microseconds=ago)
    says = {"model": "late", "name": "error_rate", "window_end": end} | how
    return mlct.report_signal(value=value, samples=samples, home=world.home, **says)


def kept(world):
    return stored_signals(world.home, "late", "production", POLICY)["error_rate"]


def back(world):
    world.declare(rollback=POLICY)
    return mlct.roll_back_on_breach(world.spec, home=world.home)


def by_hand(world, **how):
    says = {"model": "late", "slot": "production", "reason": "bad", "actor": "test"}
    return take_back(world.home, **(says | how))


def live(world):
    return slots.live(world.home.ledger, "late", "production").version


def test_a_reported_breach_rolls_back_at_once_and_tells_the_whole_story(succeeded):
    assert back(succeeded) is None
    report(succeeded, ago=2)
    assert back(succeeded) is None
    report(succeeded)
    says = back(succeeded).predicate
    assert (says["version"], says["from"]) == (1, 2)
    assert live(succeeded) == succeeded.home.registry.alias("late", "production") == 1
    assert says["checked"]["smoke_rows"] == 32
    (found,) = incidents(succeeded.home.ledger, "late")
    assert not found.pages
    whats = [s["what"] for s in found.timeline]
    assert whats[0] == "the breach was reported"
    assert whats[1].startswith("decided: error_rate: 2 of the last 3 windows breached (> 0.05")
    assert whats[2:] == [
        "version 1 was looked at and is fit",
        "slot 'production' moved to version 1, 2 quarantined",
        "MLflow's alias followed",
    ]
    times = [s["at"] for s in found.timeline]
    assert times == sorted(times)


def test_a_version_that_came_by_rollback_is_left_to_people(succeeded):
    for ago in (2, 1):
        report(succeeded, ago=ago)
    assert back(succeeded) is not None
    for ago in (2, 1):
        report(succeeded, ago=ago)
    for _ in range(2):
        assert back(succeeded) is None
    assert live(succeeded) == 1
    held = [i for i in incidents(succeeded.home.ledger, "late") if i.kind == "breach"]
    assert [(i.pages, i.severity) for i in held] == [(True, "high")]


def test_of_many_that_see_one_breach_one_moves_the_slot(succeeded):
    for ago in (2, 1):
        report(succeeded, ago=ago)
    succeeded.declare(rollback=POLICY)
    together, found = threading.Barrier(4), []

    def act():
        together.wait()
        found.append(mlct.roll_back_on_breach(succeeded.spec, home=succeeded.home))

    threads = [threading.Thread(target=act) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([f for f in found if f is not None]) == 1
    assert len(succeeded.records("rollback")) == len(incidents(succeeded.home.ledger, "late")) == 1


def test_a_rollback_that_cannot_be_done_pages_where_nobody_watches(live):
    for ago in (2, 1):
        report(live, ago=ago)
    for _ in range(2):
        with pytest.raises(RollbackRefused, match="no earlier approved version"):
            back(live)
    (found,) = incidents(live.home.ledger, "late")
    assert (found.pages, found.severity) == (True, "high")
    with pytest.raises(RollbackRefused):
        by_hand(live)
    assert len(incidents(live.home.ledger, "late")) == 1


def test_a_rollback_works_while_mlflow_is_down(succeeded, monkeypatch):
    from mlct.adapters.mlflow_registry import MlflowRegistry

    def down(*_):
        raise RegistryError("MLflow is down")

    for name in ("alias", "set_alias", "standing", "artifact"):
        monkeypatch.setattr(MlflowRegistry, name, down)
    with pytest.raises(RegistryError, match="Do not repeat the rollback, which is done"):
        by_hand(succeeded)
    assert live(succeeded) == 1
    (found,) = incidents(succeeded.home.ledger, "late")
    assert not found.pages
    assert found.timeline[-1]["what"].startswith("MLflow's alias is behind")
    monkeypatch.undo()
    assert succeeded.mlct("reconcile", "late")[0] == 0
    assert succeeded.home.registry.alias("late", "production") == 1


def training(world, version):
    return next(t for t in world.records("training") if t["version"] == version)


def restate(world, version, **changes):
    """A later training statement of the same bytes that says something else."""
    says = training(world, version) | changes
    subjects = {"artifact": says["artifact"]}
    world.home.ledger.append(statement("training", subjects, says), actor="test")


def unfit(world, match):
    with pytest.raises(RollbackRefused, match=match):
        by_hand(world)
    assert live(world) == 2


def path_of(world, digest):
    return world.root / "store" / "objects" / digest[:2] / digest


def test_a_target_that_scores_its_smoke_rows_otherwise_is_unfit(succeeded):
    store = succeeded.home.store
    told = json.loads(store.get(training(succeeded, 1)["smoke"]))
    first = float.fromhex(told["scores"][0])
    told["scores"][0] = (first + 2**-53).hex()
    restate(succeeded, 1, smoke=store.put(json.dumps(told).encode()))
    unfit(succeeded, "version 1 is unfit: 1 of 32 smoke rows score otherwise than at training")


def test_a_target_of_other_feature_code_is_unfit(succeeded):
    restate(succeeded, 2, feature_version="2")
    unfit(succeeded, "late@1 was trained with feature code ''. Expected '2'")
    assert by_hand(succeeded, feature_version="").predicate["version"] == 1


def test_a_target_that_misses_a_column_of_now_is_unfit(succeeded, trips):
    succeeded.feed(trips().drop_columns(["distance"]))
    unfit(succeeded, "version 1 is unfit: no column distance")


def test_a_target_whose_column_has_another_type_now_is_unfit(succeeded, trips):
    rows = trips()
    place = rows.schema.get_field_index("distance")
    succeeded.feed(rows.set_column(place, "distance", rows["distance"].cast("string")))
    unfit(succeeded, "version 1 is unfit: distance is string, the model learned a number")


def test_features_that_are_gone_are_no_fault_of_the_target(succeeded):
    path_of(succeeded, succeeded.home.store.ref("assets/trips/@")).unlink()
    assert by_hand(succeeded).predicate["version"] == 1


def test_a_target_without_smoke_rows_is_judged_on_the_rest_and_the_record_says_so(succeeded):
    says = training(succeeded, 1)
    del says["smoke"], says["trusted_types"], says["feature_version"], says["threshold"]
    succeeded.home.ledger.append(
        statement("training", {"artifact": says["artifact"]}, says), actor="test"
    )
    checked = by_hand(succeeded).predicate["checked"]
    assert checked["smoke_rows"] == 0
    assert (checked["features"], checked["threshold"]) == (4, None)


def test_threshold_and_feature_code_are_of_the_version_and_make_another_one(trained):
    trained.declare(threshold=0.3, feature_version="7")
    assert trained.retrain().success
    assert trained.retrain().success  # the same again
    assert trained.versions() == 2
    says = training(trained, 2)
    assert (says["threshold"], says["feature_version"]) == (0.3, "7")
    assert says["artifact"] == training(trained, 1)["artifact"]


def test_smoke_rows_are_evenly_taken_training_rows(trained):
    store = trained.home.store
    told = json.loads(store.get(training(trained, 1)["smoke"]))
    table = snapshot.read(store, told["rows"]).to_table()
    assert table.column_names == ["distance", "load", "stops", "kind"]
    assert (table.num_rows, len(told["scores"])) == (32, 32)


def test_the_same_window_again_replaces_what_was_said_of_it(succeeded):
    end = succeeded.home.ledger.clock()
    assert report(succeeded, window_end=end)
    assert not report(succeeded, window_end=end)
    assert report(succeeded, 0.01, window_end=end)
    assert [w.value for w in kept(succeeded)] == [0.01]


def test_windows_come_late_and_out_of_order_and_only_the_last_are_kept(succeeded):
    end = succeeded.home.ledger.clock()
    for number in [*range(2, KEEP + 2), 1]:
        report(succeeded, window_end=end - timedelta(seconds=KEEP + 2 - number))
    assert not report(succeeded, window_end=end - timedelta(days=1))
    ends = [w.end for w in kept(succeeded)]
    assert len(ends) == KEEP
    assert ends == sorted(ends)
    assert ends[0] == end - timedelta(seconds=KEEP)


def test_reports_from_several_threads_are_all_kept(succeeded):
    end = succeeded.home.ledger.clock()
    threads = [
        threading.Thread(
            target=report, args=(succeeded,), kwargs={"window_end": end - timedelta(seconds=n)}
        )
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept(succeeded)) == 8


def test_what_could_not_be_measured_is_kept_as_missing(succeeded):
    report(succeeded, float("nan"))
    report(succeeded, None, 0)
    assert {w.value for w in kept(succeeded)} == {None}


def test_a_report_writes_no_row_of_the_ledger(succeeded):
    before = succeeded.home.ledger.verify()
    report(succeeded)
    assert succeeded.home.ledger.verify() == before


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"window_end": datetime(2999, 1, 1, tzinfo=UTC)}, "ends at 2999"),
        ({"window_start": datetime(2999, 1, 1, tzinfo=UTC)}, "start before end"),
        ({"samples": -1}, "-1 samples"),
        ({"name": "../up"}, "letters, digits"),
        ({"slot": "empty"}, "nothing is live in 'empty'"),
        ({"slot": "../../approved", "version": 1}, "names"),
        ({"slot": "..", "version": 1}, "names"),
        ({"model": "late/signals", "version": 1}, "names"),
    ],
    ids=["future", "start", "samples", "name", "slot", "up", "dots", "down"],
)
def test_what_is_no_report_is_refused(succeeded, how, said):
    with pytest.raises(DataError, match=said):
        report(succeeded, **how)


def test_the_drift_that_monitoring_stored_is_a_signal_too(succeeded):
    """And so are its metrics, by their names."""
    assert succeeded.monitor("2024-02-02").success
    signals = [mlct.Signal("max_psi", max=1.0), mlct.Signal("roc_auc", min=0.5)]
    policy = mlct.RollbackPolicy(signals=signals)
    stored = stored_signals(succeeded.home, "late", "production", policy)
    for name in ("max_psi", "roc_auc"):
        (found,) = stored[name]
        assert (found.version, found.samples) == (2, 420)
        assert found.value is not None


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_signal_whose_document_is_damaged_begins_anew_and_stops_no_other(
    succeeded, caplog, damage
):
    report(succeeded, 0.0, name="null_rate")
    for ago in (2, 1):
        report(succeeded, ago=ago)
    store = succeeded.home.store
    digest = store.ref("documents/late/signals/production/null_rate")
    path = succeeded.root / "store" / "objects" / digest[:2] / digest
    path.unlink() if damage == "gone" else path.write_bytes(b"{}")
    both = [mlct.Signal("null_rate", max=0.5), *POLICY.signals]
    succeeded.declare(rollback=mlct.RollbackPolicy(signals=both))
    assert mlct.roll_back_on_breach(succeeded.spec, home=succeeded.home).predicate["version"] == 1
    assert "signals/production/null_rate begins anew" in caplog.text
    assert report(succeeded, 0.0, name="null_rate")
    found = stored_signals(
        succeeded.home, "late", "production", mlct.RollbackPolicy(signals=both[:1])
    )
    assert len(found["null_rate"]) == 1
