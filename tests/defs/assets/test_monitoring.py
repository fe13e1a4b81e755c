"""How the newest rows differ from those that the champion learned from."""

from typing import Any

import dagster as dg
import pytest

WARN = dg.AssetCheckSeverity.WARN


def monitor(world: Any) -> Any:
    done = world.run("late_monitoring")
    assert done.success
    return done


def test_without_a_champion_there_is_nothing_to_compare_with(trained, check, made):
    done = monitor(trained)
    found = check(done, "feature_drift")
    assert found.passed
    assert "No champion yet" in found.description
    assert "skipped" in made(done, "monitoring")


def test_rows_like_the_old_ones_do_not_breach(live, check, made):
    done = monitor(live)
    assert check(done, "feature_drift").passed
    shown = made(done, "monitoring")
    assert shown["max_psi"] < 0.25
    assert shown["rows"] == 12 * 60
    assert {row["feature"] for row in shown["stability"]} == {"distance", "load", "stops", "kind"}


def test_rows_that_moved_are_a_warning_that_names_the_feature(live, trips, check):
    live.feed(drifted(trips))
    done = monitor(live)
    found = check(done, "feature_drift")
    assert (found.passed, found.severity) == (False, WARN)
    assert found.description.startswith("1 of 4 features above PSI 0.25: distance moved: PSI")
    assert "importance 100%" in found.description


def drifted(trips: Any, shift: float = 3.0) -> Any:
    """The forty days, and twelve more in which every trip is longer."""
    import pyarrow as pa

    return pa.concat_tables([trips(), trips(12, first=40, shift=shift)])


def test_the_worst_feature_comes_first_also_when_another_did_not_move_at_all(
    live, made, monkeypatch
):
    from mlct.defs.assets import monitoring

    found = {"load": 0.0, "distance": 0.2, "stops": 0.1, "kind": float("inf")}
    monkeypatch.setattr(monitoring, "population_stability", lambda *_: found)
    shown = made(monitor(live), "monitoring")
    order = [row["feature"] for row in shown["stability"]]
    assert order == ["kind", "distance", "stops", "load"]


def test_a_feature_that_is_gone_counts_as_moved(live, trips, check):
    live.feed(trips().drop_columns(["stops"]))
    found = check(monitor(live), "feature_drift")
    assert not found.passed
    assert "stops moved" in found.description


def test_labels_are_not_needed(live, trips, check):
    import pyarrow as pa

    rows = trips()
    live.feed(rows.set_column(3, "late", pa.nulls(rows.num_rows, pa.int8())))
    assert check(monitor(live), "feature_drift").passed


def test_a_window_that_was_seen_is_not_counted_twice(live, trips):
    from mlct.defs.resources import MlctHome

    for rows in (trips(), trips(), drifted(trips)):
        live.feed(rows)
        monitor(live)
    _, document = MlctHome(root=str(live.root)).handed("late", "monitoring")
    assert [w["breached"] for w in document["windows"]] == [False, True]


def test_features_without_rows_are_named(live, trips, why):
    live.feed(trips().slice(0, 0))
    done = live.run("late_monitoring")
    assert not done.success
    assert "the features have no rows" in why(done)


def test_features_that_lack_a_column_of_the_spec_are_named(live, trips, why):
    live.feed(trips().drop_columns(["started_at"]))
    done = live.run("late_monitoring")
    assert not done.success
    assert "no column 'started_at'" in why(done)


@pytest.mark.parametrize("fixture", ["trained", "live"])
def test_monitoring_writes_nothing_to_the_ledger(request, fixture):
    world = request.getfixturevalue(fixture)
    before = world.home.ledger.verify()
    monitor(world)
    assert world.home.ledger.verify() == before
