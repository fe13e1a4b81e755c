"""What is live, window by window: its predictions, how the rows moved, how well it does."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import mlct
from mlct.adapters.signals import stored_signals
from mlct.defs.assets.monitoring import windows_kept
from mlct.defs.assets.monitoring.display import CHECKS
from mlct.defs.resources import MlctHome
from mlct.monitoring.breach import decide_rollback

WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR
PROMISED = {  # more than the stump can keep
    "apiVersion": "openslo/v1",
    "kind": "SLO",
    "metadata": {
        "name": "late-auc",
        "annotations": {"mlct.dev/class": "product", "mlct.dev/sustained": "3/5"},
    },
    "spec": {
        "service": "transit",
        "indicator": {
            "metadata": {"name": "roc-auc"},
            "spec": {"thresholdMetric": {"metricSource": {"spec": {"metric": "roc_auc"}}}},
        },
        "timeWindow": [{"duration": "28d", "isRolling": True}],
        "budgetingMethod": "Timeslices",
        "objectives": [
            {
                "op": "gte",
                "value": 0.95,
                "target": 0.9,
                "timeSliceTarget": 1,
                "timeSliceWindow": "1d",
            }
        ],
    },
}


def monitor(world: Any, *words: Any, **more: Any) -> Any:
    done = world.monitor(*words, **more)
    assert done.success
    return done


def unique() -> Any:
    from great_expectations import ExpectationSuite
    from great_expectations.expectations import ExpectColumnValuesToBeUnique

    return ExpectationSuite("trips", [ExpectColumnValuesToBeUnique(column="trip_id")])


def kept(world: Any) -> list[dict[str, Any]]:
    return windows_kept(MlctHome(root=str(world.root)), world.spec)


def detail(world: Any, place: int = -1) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.home.store.get(kept(world)[place]["detail"]))
    return found


def drifted(trips: Any, shift: float = 3.0) -> Any:
    """The forty days, and a fortnight more in which every trip is longer."""
    return pa.concat_tables([trips(), trips(14, first=40, shift=shift)])


def test_without_a_champion_there_is_nothing_to_compare_with(trained, check, made):
    done = monitor(trained)
    assert "No champion yet" in check(done, "feature_drift").description
    assert check(done, "scored").description.endswith("no version is live yet: nobody predicts")
    assert "skipped" in made(done, "monitoring")


def test_every_signal_is_a_check_with_its_numbers(live, check, made):
    done = monitor(live, "2024-02-02")
    found = {n: check(done, n) for n in CHECKS}
    assert [n for n, c in found.items() if not c.passed] == []
    value = found["realised_performance"].metadata
    assert value["lower"].value < value["roc_auc"].value < value["upper"].value
    assert found["feature_drift"].metadata["psi distance"].value < 0.25
    assert found["estimated_performance"].metadata["roc_auc"].value == pytest.approx(
        value["roc_auc"].value, abs=0.1
    )
    gap = found["estimated_performance"].metadata["realised less estimated"].value
    assert gap == pytest.approx(0, abs=0.1)
    assert found["labels"].metadata["labelled"].value == 1
    shown = made(done, "monitoring")
    assert shown["rows"] == 7 * 60
    assert {r["column"] for r in shown["drift"]} == {"score", "distance", "load", "stops", "kind"}
    for picture in ("drift_map", "performance_over_time", "distributions"):
        assert shown[picture].startswith(f"![{picture}](data:image/png;base64,iVBOR")


def test_rows_that_moved_are_a_warning_that_names_the_feature(live, trips, check):
    live.feed(drifted(trips))
    first = monitor(live, "2024-02-13")
    found = check(first, "feature_drift")
    assert found.passed
    assert found.description.startswith(
        "moved in this window, not yet in 2 of 3: 1 of 4 columns: distance moved"
    )
    assert check(first, "score_drift").passed
    done = monitor(live)
    found = check(done, "feature_drift")
    assert (found.passed, found.severity) == (False, WARN)
    assert found.description.startswith(
        "100% of importance moved in 2 of 3 windows: distance moved"
    )
    assert "threshold" in found.description
    assert not check(done, "score_drift").passed
    assert kept(live)[-1]["max_psi"] > 0.25


def test_a_fixed_rule_says_how_often_it_is_wrong(live, trips, check):
    live.declare(monitoring=mlct.MonitoringPolicy(fixed_psi=0.2))
    live.feed(drifted(trips))
    found = check(monitor(live), "feature_drift")
    assert not found.passed
    assert "without any drift this rule fires in" in found.description
    assert 0 < found.metadata["false alarm rate"].value < 1


@pytest.mark.parametrize("choice", ["trailing", "season"])
def test_a_reference_of_earlier_windows_lets_what_moved_settle(live, trips, check, made, choice):
    live.declare(monitoring=mlct.MonitoringPolicy(reference=choice, windows=1))
    live.feed(pa.concat_tables([trips(), trips(21, first=40, shift=3.0)]))
    done = [monitor(live, day) for day in ("2024-02-13", "2024-02-20", "2024-02-27")]
    assert made(done[0], "monitoring")["compared_with"].endswith("window is known yet")
    assert made(done[1], "monitoring")["compared_with"] == f"1 {choice} windows"
    found = [detail(live, i)["columns"]["distance"]["status"] for i in range(3)]
    assert found == ["drifted", "ok", "ok"]


def test_a_feature_that_is_gone_is_told_although_nothing_can_be_scored(live, trips, check):
    live.feed(trips().drop_columns(["stops"]))
    done = monitor(live)
    assert (check(done, "scored").passed, check(done, "scored").severity) == (False, ERROR)
    assert "no column stops" in check(done, "scored").description
    found = check(done, "feature_drift")
    assert not found.passed
    assert "stops is missing" in found.description
    assert "out of plan: stops is missing" in kept(live)[-1]["signals"][0]["refused"]
    assert not kept(live)[-1]["signals"][0]["breached"], "training again would not mend it"


def test_a_planned_change_is_no_reason_to_refuse(live, trips):
    live.declare(monitoring=mlct.MonitoringPolicy(planned=["stops"]))
    live.feed(trips().drop_columns(["stops"]))
    monitor(live)
    found = kept(live)[-1]["signals"][0]["refused"]
    assert found.startswith("its contract failed (stops"), "it was not changed with the plan"
    live.declare(monitoring=live.spec.monitoring, contract=unique)
    monitor(live)
    assert kept(live)[-1]["signals"][0]["refused"] == ""


def test_without_labels_performance_is_unknown_and_estimated_all_the_same(live, trips, check):
    rows = trips()
    live.feed(rows.set_column(3, "late", pa.nulls(rows.num_rows, pa.int8())))
    done = monitor(live)
    assert "roc_auc is unknown" in check(done, "realised_performance").description
    assert check(done, "estimated_performance").metadata["roc_auc"].value > 0.5


def test_before_its_labels_have_matured_a_window_is_unknown_until_when(live, check):
    done = monitor(live, "2024-02-02", as_of="2024-02-03T00:00")
    said = check(done, "realised_performance").description
    assert said.startswith("roc_auc is unknown until 2024-02-05 02:00 UTC")
    assert kept(live)[-1]["until"].startswith("2024-02-05T02:00")
    monitor(live, "2024-02-02")  # the backfill of this partition, once they have
    (window,) = kept(live)
    assert window["until"] is None
    assert window["values"]["roc_auc"][0] > 0.5


def test_labels_that_were_not_there_yet_do_not_change_what_was_served(live, trips):
    rows = trips()
    monitor(live, "2024-02-02")
    before = detail(live)
    half = pc.less(rows["load"], 0.5).combine_chunks()
    live.feed(rows.set_column(3, "late", pc.if_else(half, rows["late"], None)))
    monitor(live, "2024-02-02")
    after = detail(live)
    assert before["performances"][0]["labelled"] > after["performances"][0]["labelled"]
    assert len(kept(live)) == 1


def test_a_row_is_scored_once_and_stays_with_its_version(live, boosted, trips):
    monitor(live, "2024-02-02")
    live.declare(estimator=boosted)
    assert live.retrain().success
    live.approve(2)
    assert live.promote(2).success
    monitor(live, "2024-02-02")
    assert [w["champion"] for w in kept(live)] == [1]
    live.feed(pa.concat_tables([trips(), trips(14, first=40)]))
    monitor(live, "2024-02-13")
    assert [w["champion"] for w in kept(live)] == [1, 2]


def test_rows_that_it_learned_from_say_nothing_of_how_it_does(live, check):
    done = monitor(live, "2024-01-10")
    assert "version 1 learned from rows up to" in check(done, "realised_performance").description
    assert kept(live)[-1]["values"]["roc_auc"][0] is None


def test_a_window_that_was_seen_is_not_counted_twice(live, trips):
    days = ("2024-02-02", "2024-02-02", "2024-02-13", "2024-02-13")
    live.feed(drifted(trips))
    for day in days:
        monitor(live, day)

    def breached() -> list[list[bool]]:
        return [[s["breached"] for s in w["signals"] if s["signal"] == "drift"] for w in kept(live)]

    assert breached() == [[False], [False]]
    monitor(live, "2024-02-20")
    assert breached() == [[False], [False], [True]]


def test_windows_measured_out_of_order_are_kept_in_order(live):
    for day in ("2024-02-02", "2024-01-25", "2024-02-02"):
        monitor(live, day)
    ends = [w["end"] for w in kept(live)]
    assert ends == sorted(ends)
    assert len(ends) == 2


def test_a_window_that_another_run_wrote_over_is_found_again(live):
    """Two runs of a backfill, on two machines, may both read before either writes."""
    monitor(live, "2024-01-18")
    mlct_home = MlctHome(root=str(live.root))
    before = mlct_home.handed("late", "monitoring")[1]
    monitor(live, "2024-01-25")
    mlct_home.hand_on("late", "monitoring", "slow", before)
    assert len(kept(live)) == 1
    monitor(live, "2024-02-02")
    assert [w["start"][:10] for w in kept(live)] == ["2024-01-15", "2024-01-22", "2024-01-29"]


def test_another_calendar_begins_anew(live, check):
    live.declare(slos=PROMISED)
    monitor(live, "2024-01-30")
    live.declare(monitoring=mlct.MonitoringPolicy(start="2020-01-01"))
    done = monitor(live, "2024-02-02")
    assert "overlap" not in check(done, "objectives").description
    assert [w["start"][:10] for w in kept(live)] == ["2024-01-31"]


def test_a_run_for_no_window_says_so(live, why):
    done = live.run("late_monitoring")
    assert not done.success
    assert "the run is for no window" in why(done)


def test_labels_that_the_version_never_saw_are_a_warning(live, trips, check):
    rows = trips()
    late = [7 if i % 50 == 0 else v for i, v in enumerate(rows["late"].to_pylist())]
    live.feed(rows.set_column(3, "late", pa.array(late)))
    done = monitor(live, "2024-02-02")
    assert "unseen classes" in check(done, "labels").description
    assert not check(done, "labels").passed
    assert check(done, "realised_performance").metadata["roc_auc"].value > 0.5


def test_a_window_that_breaks_the_contract_is_not_learned_from(live, trips, check):
    """By its rules on values, on rows that have labels. Those on tables are of training sets."""
    monitor(live, "2024-02-02")
    assert kept(live)[-1]["signals"][0]["refused"] == ""
    rows = trips()
    third = pa.array(np.arange(rows.num_rows) % 3 == 0)
    places = [rows.column_names.index(n) for n in ("stops", "late")]
    rows = rows.set_column(places[0], "stops", pc.if_else(third, 99, rows["stops"]))
    live.feed(rows)
    done = monitor(live, "2024-02-02")
    found = check(done, "contract")
    assert (found.passed, found.severity) == (False, WARN)
    assert "stops expect_column_values_to_be_between saw 99" in found.description
    assert all("its contract failed (stops" in s["refused"] for s in kept(live)[-1]["signals"])
    unknown = pc.if_else(third, float("nan"), rows["late"].cast(pa.float64()))
    live.feed(rows.set_column(places[1], "late", unknown))
    assert check(monitor(live, "2024-02-02"), "contract").passed, "no label, nothing to learn"


def test_ids_of_another_kind_are_told_and_stop_no_later_window(live, trips, check, why):
    monitor(live, "2024-01-25")
    rows = trips()
    live.feed(rows.set_column(0, "trip_id", pa.array(range(rows.num_rows))))
    assert check(monitor(live, "2024-02-02"), "scored").passed
    done = live.monitor("2024-01-25")
    assert "ids and scores of one kind" in check(done, "scored").description
    assert "ids are int64" in why(done) or "ids are" in why(done)


def test_a_window_that_the_store_lost_is_measured_anew(live, why):
    monitor(live, "2024-01-25")
    lost = [detail(live)["joined"], kept(live)[0]["detail"]]
    for path in live.root.rglob("*"):
        if path.name in lost:
            path.unlink()
    done = live.monitor("2024-02-02")
    assert "there is no object" in why(done)
    monitor(live, "2024-01-25")
    monitor(live, "2024-02-02")
    assert len(kept(live)) == 2


def test_of_a_long_history_only_the_last_windows_are_read(live, monkeypatch):
    from mlct.defs.assets import monitoring

    for day in ("2024-01-18", "2024-01-25"):
        monitor(live, day)
    (oldest,) = [
        d for n, d in live.home.store.refs("documents/late/monitoring/").items() if "01-15" in n
    ]
    for path in live.root.rglob(oldest):
        path.unlink()
    monkeypatch.setattr(monitoring, "KEEP", 2)
    monitor(live, "2024-02-02")
    assert [w["start"][:10] for w in kept(live)] == ["2024-01-22", "2024-01-29"]


def test_a_window_without_rows_is_stale_and_nothing_else(live, trips, check):
    live.feed(trips().slice(0, 0))
    done = monitor(live)
    assert check(done, "staleness").description == "the window has no rows"
    assert check(done, "feature_drift").passed
    assert not any(s["breached"] for s in kept(live)[-1]["signals"])


def test_one_row_is_too_few_for_anything(live, trips, check):
    live.feed(trips().slice(0, 1))
    done = monitor(live, "2024-01-01")
    assert "insufficient" in detail(live)["columns"]["distance"]["status"]
    assert check(done, "feature_drift").passed


def test_a_feature_that_is_all_null_is_named(live, trips, check):
    rows = trips()
    place = rows.column_names.index("distance")
    live.feed(rows.set_column(place, "distance", pa.nulls(rows.num_rows, pa.float64())))
    found = check(monitor(live, "2024-02-02"), "feature_drift")
    assert not found.passed
    assert "distance moved: missing 100.0%" in found.description


def test_features_that_lack_a_column_of_the_spec_are_named(live, trips, why):
    live.feed(trips().drop_columns(["started_at"]))
    done = live.monitor()
    assert not done.success
    assert "no column 'started_at'" in why(done)


def test_objectives_that_are_missed_open_an_incident_and_close_it_when_met(live, check):
    live.declare(slos=PROMISED)
    done = monitor(live, "2024-02-02")
    found = check(done, "objectives")
    assert (found.passed, found.severity) == (False, ERROR)
    assert found.metadata["late-auc: budget spent"].value > 1
    estimated = check(done, "estimated_performance")
    assert not estimated.passed, "as the estimate says too"
    assert "(at least 0.95 is wanted)" in estimated.description
    (opened,) = live.records("incident")
    assert (opened["kind"], opened["episode"]) == ("slo", "late-auc")
    assert not opened["pages"], "history wakes nobody"
    monitor(live, "2024-02-02")
    assert len(live.records("incident")) == 1
    met = json.loads(json.dumps(PROMISED).replace("0.95", "0.5"))
    live.declare(slos=met)
    assert check(monitor(live, "2024-02-02"), "objectives").passed
    assert [r["event"] for r in live.records("incident")] == ["opened", "closed"]


def test_an_objective_that_a_window_breaches_may_take_the_version_out(live):
    policy = mlct.RollbackPolicy(signals=[mlct.Signal("slo_breaches", max=0)])

    def decided() -> Any:
        told = stored_signals(live.home, "late", "production", policy)
        return decide_rollback(policy, told, version=1, since=datetime(2024, 1, 1, tzinfo=UTC))

    live.declare(slos=PROMISED)
    monitor(live, "2024-02-02")
    assert decided().roll_back
    assert kept(live)[-1]["values"]["slo_breaches"] == [1, 60], "labels of the newest day"
    assert not stored_signals(live.home, "late", "eu", policy)["slo_breaches"], "other rows"
    monitor(live, "2024-02-09", as_of="2024-02-05T01:00")
    assert kept(live)[-1]["values"]["slo_breaches"][0] is None
    assert decided().roll_back, "a window whose labels are not there yet hides none before it"
    live.declare(slos=json.loads(json.dumps(PROMISED).replace("0.95", "0.5")))
    monitor(live, "2024-02-09")
    assert not decided().roll_back
    slow = json.loads(json.dumps(PROMISED).replace('"product"', '"infrastructure"'))
    live.declare(slos=slow, risk_tier="low")
    monitor(live, "2024-02-09")
    assert not decided().roll_back


def test_a_page_is_sent_while_the_window_is_recent(live, trips):
    """The same rows as if they were of these weeks."""
    live.declare(slos=PROMISED)
    rows = trips()
    now = live.home.ledger.clock()
    offset = pa.scalar(now - pc.max(rows["started_at"]).as_py().replace(tzinfo=UTC))
    for name in ("started_at", "ended_at"):
        moved = pc.add(rows[name], offset).cast(rows[name].type, safe=False)
        rows = rows.set_column(rows.column_names.index(name), name, moved)
    live.feed(rows)
    monitor(live, f"{now - timedelta(days=8):%Y-%m-%d}")
    assert [r["pages"] for r in live.records("incident")] == [True]


def test_functions_of_the_product_are_measured_and_can_be_promised(live, check):
    def flagged(predictions: Any, labels: Any, context: Any) -> float:
        return float(pc.mean(pc.greater(predictions["score"], 0.5)).as_py())

    text = json.dumps(PROMISED).replace('"roc_auc"', '"flagged"').replace("roc-auc", "flagged")
    live.declare(
        monitoring=mlct.MonitoringPolicy(behaviour={"flagged": flagged}),
        slos=json.loads(text.replace("0.95", "0.0")),
    )
    done = monitor(live, "2024-02-02")
    assert 0 <= check(done, "behaviour").metadata["flagged"].value <= 1
    assert check(done, "objectives").passed
    assert "flagged" in check(done, "objectives").description


def test_a_function_that_fails_takes_nothing_else_away(live, check):
    def broken(predictions: Any, labels: Any, context: Any) -> float:
        raise ZeroDivisionError("no rides")

    live.declare(monitoring=mlct.MonitoringPolicy(behaviour={"broken": broken}))
    done = monitor(live, "2024-02-02")
    assert "no rides" in check(done, "behaviour").description
    assert not check(done, "behaviour").passed
    assert check(done, "realised_performance").passed


def test_what_others_report_judges_an_objective_of_infrastructure(live, check):
    slow = {
        "apiVersion": "openslo/v1",
        "kind": "SLO",
        "metadata": {
            "name": "in-time",
            "annotations": {"mlct.dev/class": "infrastructure", "mlct.dev/window": "1d"},
        },
        "spec": {
            "service": "transit",
            "indicator": {
                "metadata": {"name": "in-time"},
                "spec": {
                    "ratioMetric": {
                        "counter": True,
                        "good": {"metricSource": {"spec": {"metric": "in_time"}}},
                        "total": {"metricSource": {"spec": {"metric": "all"}}},
                    }
                },
            },
            "timeWindow": [{"duration": "28d", "isRolling": True}],
            "budgetingMethod": "Occurrences",
            "objectives": [{"target": 0.9}],
        },
    }
    live.declare(slos=[slow])
    name = live.spec.slos[0].metric
    for day in range(1, 5):
        mlct.report_signal(
            model="late",
            name=name,
            value=0.5,
            samples=1000,
            window_start=datetime(2024, 2, day, tzinfo=UTC),
            window_end=datetime(2024, 2, day + 1, tzinfo=UTC),
            home=live.home,
        )
    found = check(monitor(live, "2024-02-02"), "objectives")
    assert (found.passed, found.severity) == (False, WARN), "infrastructure pages nobody here"
    store = live.home.store  # the reporter went on: what it said of this window is gone there
    store.set_ref(f"documents/late/signals/production/{name}", store.put(b'{"windows":[]}'))
    assert (
        "nothing was measured" not in check(monitor(live, "2024-02-02"), "objectives").description
    )


def test_the_timeline_marks_when_the_ledger_says_that_the_slot_moved(live, monkeypatch):
    from mlct.defs.assets import monitoring
    from mlct.monitoring import plot

    drawn: list[Any] = []
    whole = plot.timeline
    monkeypatch.setattr(
        plot, "timeline", lambda *a, **w: drawn.append(w["moves"]) or whole(*a, **w)
    )
    (move,) = monitoring._moves(live.home, live.spec)
    (record,) = live.home.ledger.records(kind="promotion", model="late")
    assert move == (datetime.fromisoformat(record.recorded_at), "version 1")
    told = [
        (datetime(2024, 2, day, 12, tzinfo=UTC), words)
        for day, words in ((1, "version 1"), (3, "rollback to 1"), (8, "version 2"))
    ]
    monkeypatch.setattr(monitoring, "_moves", lambda *_: told)
    monitor(live, "2024-02-02")
    assert drawn == [told[:2]], "that of the 8th is after the window"


def test_history_that_is_measured_afterwards_marks_where_versions_change(
    live, boosted, trips, monkeypatch
):
    from mlct.monitoring import plot

    drawn: list[Any] = []
    whole = plot.timeline
    monkeypatch.setattr(
        plot, "timeline", lambda *a, **w: drawn.append(w["moves"]) or whole(*a, **w)
    )
    monitor(live, "2024-02-02")
    live.declare(estimator=boosted)
    assert live.retrain().success
    live.approve(2)
    assert live.promote(2).success
    live.feed(pa.concat_tables([trips(), trips(14, first=40)]))
    monitor(live, "2024-02-13")
    assert drawn == [[], [(datetime(2024, 2, 12, tzinfo=UTC), "version 2")]]


def test_the_bias_and_the_gap_of_a_regression_are_numbers_of_its_checks():
    from mlct.defs.assets.monitoring import display
    from tests.monitoring import test_observe as observed

    world = "regression", *observed.made("regression")
    seen = observed.look(world, observed.rows(60, 7, "regression"), 60)
    assert "residual_bias" in display._realised(seen).metadata
    assert "realised less estimated" in display._estimated(seen).metadata


@pytest.mark.parametrize("name", ["predictions", "monitoring"])
def test_a_window_that_nobody_measures_is_late(live, name):
    definitions = mlct.build_definitions(live.spec)
    asset = definitions.get_assets_def(dg.AssetKey(["late", name]))
    (policy,) = (s.freshness_policy for s in asset.specs)
    assert policy is not None
    assert policy.fail_window.to_timedelta() > policy.warn_window.to_timedelta() > timedelta(days=7)


@pytest.mark.parametrize("fixture", ["trained", "live"])
def test_a_quiet_window_writes_nothing_to_the_ledger(request, fixture):
    world = request.getfixturevalue(fixture)
    before = world.home.ledger.verify()
    monitor(world, "2024-02-02")
    assert world.home.ledger.verify() == before
