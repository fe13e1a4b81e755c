"""People are told when something waits for their approval, and only then."""

from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from sensors import approvals


@pytest.fixture
def tell(instance, monkeypatch):
    """What the sensor says after a run of a job in a world."""

    def told(world: Any, job: str, **words: Any) -> str:
        # The sensor is the flight model's: for the test that model has the world's name.
        spec = replace(approvals.flight_delay, name=world.spec.name)
        monkeypatch.setattr(approvals, "flight_delay", spec)
        done = world.run(job, **words)
        with dg.build_run_status_sensor_context(
            sensor_name="approval_wanted",
            dagster_instance=instance,
            dagster_run=done.dagster_run,
            dagster_event=done.get_run_success_event(),
            resources={"mlct": world.defs.resources["mlct"]},
        ) as context:
            return approvals.approval_wanted(context).skip_message

    return told


def test_a_version_that_passed_waits_for_approval(trained, tell):
    assert tell(trained, "late_retrain") == "late@1 waits for approval"


def test_what_is_live_waits_for_nobody(live, tell):
    assert tell(live, "late_retrain").startswith("nothing to approve: ")


def test_other_jobs_are_none_of_its_business(trained, tell):
    week = {"partition_key": "2024-01-29"}
    assert tell(trained, "late_monitoring", **week) == "not a retrain"


def test_it_can_tell_but_launch_nothing():
    assert list(approvals.approval_wanted.targets) == []
