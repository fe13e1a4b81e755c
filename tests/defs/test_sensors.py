"""The drift sensor: asks once for each cause, says why, and why not."""

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
    """Twelve days in which every trip is longer were monitored."""
    import pyarrow as pa

    live.feed(pa.concat_tables([trips(), trips(12, first=40, shift=3.0)]))
    assert live.run("late_monitoring").success
    return live


def test_before_the_first_champion_it_waits(trained):
    asked = tick(trained)
    assert not asked.run_requests
    assert "No champion yet" in asked.skip_message


def test_before_the_first_window_it_waits(live):
    assert "No window was monitored yet: run late_monitoring" in tick(live).skip_message


def test_without_drift_it_says_what_it_saw(live):
    live.run("late_monitoring")
    asked = tick(live)
    assert not asked.run_requests
    assert asked.skip_message.startswith("0 of the last 1 windows breached")


def test_drift_asks_for_a_retrain_and_says_why(drifted):
    (request,) = tick(drifted).run_requests
    assert request.tags["mlct/reason"].startswith("1 of 4 features above PSI 0.25: distance moved")
    assert request.tags["mlct/cause"].startswith("drift:")
    assert request.run_key == f"late:{request.tags['mlct/cause']}"
    # What a promotion recognises automation by.
    assert request.tags["dagster/sensor_name"] == "late_retrain_on_drift"


def test_the_same_cause_has_the_same_run_key(drifted):
    """Dagster launches a run key once; a restarted daemon asks anew and gets the same."""
    first, second = (tick(drifted).run_requests[0] for _ in range(2))
    assert first.run_key == second.run_key
    assert drifted.run("late_monitoring").success  # the same window again
    assert tick(drifted).run_requests[0].run_key == first.run_key


def test_while_a_retrain_is_under_way_it_waits(drifted):
    job = drifted.defs.resolve_job_def("late_retrain")
    run = drifted.instance.create_run_for_job(job, status=dg.DagsterRunStatus.NOT_STARTED)
    asked = tick(drifted)
    assert not asked.run_requests
    assert asked.skip_message.startswith("late_retrain is under way; then: 1 of 4 features")
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
        estimator=boosted, retrain=mlct.RetrainPolicy(cooldown="30d", schedule="@weekly")
    )
    drifted.retrain(tags=tick(drifted).run_requests[0].tags)
    asked = tick(drifted)
    assert not asked.run_requests
    assert asked.skip_message.startswith("cool-down until 2024-03-")


def test_windows_of_an_earlier_champion_do_not_count(live, boosted):
    assert live.run("late_monitoring").success
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
