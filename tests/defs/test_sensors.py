"""The drift sensor: asks once for each cause, says why, and why not."""

import json
from typing import Any

import dagster as dg
import pytest

import mlct


@pytest.fixture
def instance_of_its_own(live):
    """Runs of other tests must not look like runs under way."""
    with dg.DagsterInstance.ephemeral() as instance:
        live.instance = instance
        yield instance


def tick(world: Any) -> Any:
    """What the daemon would get from the sensor now."""
    sensor = world.defs.resolve_sensor_def("late_retrain_on_drift")
    with dg.build_sensor_context(
        instance=world.instance, resources=world.defs.resources, definitions=world.defs
    ) as context:
        return sensor.evaluate_tick(context)


@pytest.fixture
def drifted(live, trips, instance_of_its_own):
    """Two weeks in which every trip is longer; the second was monitored."""
    import pyarrow as pa

    live.feed(pa.concat_tables([trips(), trips(14, first=40, shift=3.0)]))
    assert live.monitor().success
    return live


def test_before_the_first_champion_it_waits(trained):
    asked = tick(trained)
    assert not asked.run_requests
    assert "No champion yet" in asked.skip_message


def test_before_the_first_window_it_waits(live):
    assert "No window was monitored yet: run late_monitoring" in tick(live).skip_message


def test_without_drift_it_says_what_it_saw(live):
    live.monitor()
    asked = tick(live)
    assert not asked.run_requests
    assert asked.skip_message.startswith("0 of the last 1 windows breached")


def test_drift_asks_for_a_retrain_and_says_why(drifted):
    (request,) = tick(drifted).run_requests
    assert request.tags["mlct/reason"].startswith(
        "100% of importance moved: 1 of 4 columns: distance"
    )
    assert request.tags["mlct/cause"].startswith("drift:")
    assert request.run_key == f"late:{request.tags['mlct/cause']}"
    # What a promotion recognises automation by.
    assert request.tags["dagster/sensor_name"] == "late_retrain_on_drift"


def test_the_same_cause_has_the_same_run_key(drifted):
    """Dagster launches a run key once; a restarted daemon asks anew and gets the same."""
    first, second = (tick(drifted).run_requests[0] for _ in range(2))
    assert first.run_key == second.run_key
    assert drifted.monitor().success  # the same window again
    assert tick(drifted).run_requests[0].run_key == first.run_key


def test_while_a_retrain_is_under_way_it_waits(drifted):
    job = drifted.defs.resolve_job_def("late_retrain")
    run = drifted.instance.create_run_for_job(job, status=dg.DagsterRunStatus.NOT_STARTED)
    asked = tick(drifted)
    assert not asked.run_requests
    assert asked.skip_message.startswith("late_retrain is under way; then: 100% of importance")
    drifted.instance.report_run_canceled(run)
    assert tick(drifted).run_requests


def test_the_reason_ends_on_the_run_the_version_and_the_ledger(drifted, boosted):
    (request,) = tick(drifted).run_requests
    drifted.declare(estimator=boosted)
    done = drifted.retrain(tags=request.tags)
    assert done.success
    assert done.dagster_run.tags["mlct/reason"] == request.tags["mlct/reason"]
    version = drifted.home.registry.client.get_model_version("late", "2")
    assert version.tags["mlct.reason"] == request.tags["mlct/reason"]
    assert drifted.records("training")[-1]["cause"] == request.tags["mlct/cause"]


def test_after_a_retrain_it_cools_down(drifted, boosted):
    drifted.declare(
        estimator=boosted,
        retrain=mlct.RetrainPolicy(cooldown="30d", schedule="@weekly", on=["drift"]),
    )
    drifted.retrain(tags=tick(drifted).run_requests[0].tags)
    asked = tick(drifted)
    assert not asked.run_requests
    assert asked.skip_message.startswith("cool-down until 2024-03-")


def test_windows_of_an_earlier_champion_do_not_count(live, boosted):
    assert live.monitor().success
    live.declare(estimator=boosted)
    assert live.retrain().success
    live.approve(2)
    assert live.promote(2).success
    assert "Version 2 is live; none of its windows" in tick(live).skip_message


def test_a_tick_reads_only_what_is_stored(drifted):
    drifted.rows = None  # the features are not touched
    assert tick(drifted).run_requests


def test_the_sensor_may_only_retrain(world):
    (sensor,) = [s for s in world.defs.sensors if s.name == "late_retrain_on_drift"]
    assert [target.job_name for target in sensor.targets] == ["late_retrain"]


def test_a_scheduled_retrain_says_so(world):
    world.declare(retrain=mlct.RetrainPolicy(schedule="0 6 3 * *"))
    schedule = world.defs.resolve_schedule_def("late_retrain_schedule")
    with dg.build_schedule_context(instance=world.instance) as context:
        (request,) = schedule.evaluate_tick(context).run_requests
    assert request.tags["mlct/cause"] == "schedule"
    assert request.tags["mlct/reason"] == "schedule 0 6 3 * *"


def launched(world: Any, request: Any, status: dg.DagsterRunStatus) -> Any:
    """A run for a request that stands so."""
    job = world.defs.resolve_job_def("late_retrain")
    return world.instance.create_run_for_job(job, status=status, tags=request.tags)


def test_a_failed_run_is_asked_for_again_a_bounded_number_of_times(drifted):
    keys = []
    for _ in range(3):
        (request,) = tick(drifted).run_requests
        keys.append(request.run_key)
        launched(drifted, request, dg.DagsterRunStatus.FAILURE)
    assert keys == [keys[0], f"{keys[0]}#2", f"{keys[0]}#3"]
    asked = tick(drifted)
    assert not asked.run_requests
    assert asked.skip_message.startswith("its retrain failed 3 times: 100% of importance")
    assert "an incident" in asked.skip_message
    (opened,) = drifted.records("incident")
    assert (opened["kind"], opened["pages"]) == ("retrain", False)
    tick(drifted)
    assert len(drifted.records("incident")) == 1


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED])
def test_what_was_done_or_cancelled_is_not_asked_for_again(drifted, status):
    (request,) = tick(drifted).run_requests
    launched(drifted, request, status)
    assert "retrained for already" in tick(drifted).skip_message


def test_the_whole_cause_travels_to_the_run_the_version_and_the_ledger(drifted, boosted):
    (request,) = tick(drifted).run_requests
    cause = json.loads(request.tags["mlct/trigger"])
    assert (cause["signal"], cause["attempt"]) == ("drift", 1)
    assert cause["windows"] == [cause["cause"].partition(":")[2]]
    drifted.declare(estimator=boosted)
    assert drifted.retrain(tags=request.tags).success
    version = drifted.home.registry.client.get_model_version("late", "2")
    assert json.loads(version.tags["mlct.trigger"]) == cause
    assert drifted.records("training")[-1]["trigger"] == cause


def test_drift_only_warns_unless_the_policy_names_it(drifted):
    drifted.declare(retrain=mlct.RetrainPolicy())
    asked = tick(drifted)
    assert not asked.run_requests
    assert "drift only warns (it is not in RetrainPolicy.on): 100% of" in asked.skip_message


def test_a_stored_window_holds_its_signals(drifted):
    from mlct.defs.sensors.retrain import _results

    said = {"signal": "realised", "breached": True, "reason": "r", "columns": ["auc"]}
    quiet = {"signal": "drift", "breached": False, "reason": "quiet", "columns": []}
    signals = [s | {"refused": ""} for s in (quiet, said)]
    drift, realised = _results({"key": "k", "end": "2024-01-02", "signals": signals})
    assert (drift.signal, drift.breached) == ("drift", False)
    assert (realised.signal, realised.columns, realised.key) == ("realised", ("auc",), "k")


def test_retrains_that_the_gate_refuses_are_counted_up_to_the_last_that_passed(drifted):
    from mlct.defs.sensors.retrain import _refused
    from mlct.release.ledger import statement

    ledger, subjects = drifted.home.ledger, {"artifact": "0" * 64}
    trainings = []

    def judged(version, verdict, cause="drift:x"):
        says = {"model": "late", "version": version, "slot": "production", "verdict": verdict}
        ledger.append(statement("gate", subjects, says), actor="test")
        trainings.insert(0, {"version": version, "cause": cause})
        return _refused(ledger, drifted.spec, trainings)

    assert judged(11, "FAIL") == 1
    assert judged(12, "INCONCLUSIVE") == 2
    assert judged(13, "FAIL", cause="schedule") == 2
    assert judged(14, "PASS") == 0
    assert judged(15, "FAIL") == 1
    assert judged(15, "PASS") == 0


def test_a_tick_backs_off_when_the_gate_keeps_refusing(drifted, monkeypatch):
    from mlct.defs.sensors import retrain

    monkeypatch.setattr(retrain, "_refused", lambda *_: 3)
    (request,) = tick(drifted).run_requests  # nothing was retrained yet: nothing to wait for
    assert "did not pass the gate" in json.loads(request.tags["mlct/trigger"])["incident"]
