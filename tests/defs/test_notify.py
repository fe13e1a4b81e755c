"""The sensor that tells people, and the checks of the alert budget and of what did not arrive."""

import json
import time
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from mlct.defs.sensors import notify_on_incident
from mlct.errors import NotifyError
from mlct.release.incident import close_incident, open_incident, step


class Channel:
    name, tags = "test#1", frozenset({"page"})

    def __init__(self) -> None:
        self.fails, self.got = list[NotifyError](), list[str]()

    def takes(self, event: Any) -> bool:
        return True

    def send(self, event: Any) -> None:
        if self.fails:
            raise self.fails.pop()
        self.got.append(str(event))


@pytest.fixture
def channel():
    return Channel()


@pytest.fixture
def tick(world, channel):
    """`tick(cursor)`: `(skip message, cursor)` of one tick."""
    sensor = notify_on_incident(world.spec, channels=lambda home: [channel])

    def run(cursor: str | None = None) -> tuple[str, str]:
        with dg.build_sensor_context(
            instance=world.instance, resources=world.defs.resources, cursor=cursor
        ) as context:
            done = sensor.evaluate_tick(context)
        assert not done.run_requests
        return done.skip_message, done.cursor

    return run


def opened(world: Any, episode: str, *, pages: bool = True) -> Any:
    ledger = world.home.ledger
    return open_incident(
        ledger,
        model="late",
        slot="production",
        kind="rollback",
        episode=episode,
        summary="it is bad",
        timeline=[step(ledger, "seen")],
        severity="high",
        pages=pages,
        actor="test",
    )


def test_an_incident_is_told_once_and_its_end_too(world, tick, channel):
    record = opened(world, "1")
    said, cursor = tick()
    assert said == "1 told: test#1: trigger mlct/late/production/rollback/1"
    assert tick(cursor)[0] == "Nothing to tell."
    close_incident(world.home.ledger, record, summary="mended", actor="test")
    cursor = tick(tick(cursor)[1])[1]
    assert channel.got == [f"{a} mlct/late/production/rollback/1" for a in ("trigger", "resolve")]
    assert tick(cursor)[0] == f"Everything up to statement {json.loads(cursor)['head']} was told."
    assert tick(None)[0] == "Nothing to tell."  # without a cursor nothing is told twice


def test_a_failure_is_remembered_in_the_cursor(world, tick, channel):
    opened(world, "1")
    channel.fails = [NotifyError("down")]
    said, cursor = tick()
    assert said.startswith("1 waiting: test#1: trigger")
    assert "again in 10 s" in said
    assert "again after" in tick(cursor)[0]
    assert channel.got == []
    assert tick(None)[0].startswith("1 told")


def test_what_is_given_up_is_said(world, tick, channel):
    opened(world, "1")
    channel.fails = [NotifyError("answered 400", final=True)]
    assert tick()[0].startswith("1 given up: test#1: trigger")


def test_a_tick_with_nothing_to_tell_costs_milliseconds(world, tick):
    for number in range(30):
        opened(world, str(number))
    cursor = tick(tick()[1])[1]
    began = time.perf_counter()
    for _ in range(20):
        assert tick(cursor)[0].startswith("Everything")
    assert time.perf_counter() - began < 20 * 0.1


def test_another_channel_is_told_too(world, tick, channel):
    opened(world, "1")
    cursor = tick(tick()[1])[1]
    channel.name = "test#2"
    assert tick(cursor)[0].startswith("1 told: test#2")


def test_without_a_channel_it_says_what_to_set(world):
    sensor = world.defs.resolve_sensor_def("late_notify")
    with dg.build_sensor_context(
        instance=world.instance, resources=world.defs.resources, definitions=world.defs
    ) as context:
        assert "set MLCT_PAGERDUTY_KEY" in sensor.evaluate_tick(context).skip_message


def paging(world: Any) -> dict[str, Any]:
    selection = dg.AssetSelection.checks(
        *(
            dg.AssetCheckKey(dg.AssetKey(["late", "champion"]), name)
            for name in ("alert_budget", "incidents_told")
        )
    )
    job = dg.define_asset_job("checks", selection, executor_def=dg.in_process_executor)
    result = world.run("checks", defs=dg.Definitions.merge(world.defs, dg.Definitions(jobs=[job])))
    assert result.success
    return {c.check_name: c for c in result.get_asset_check_evaluations()}


def test_more_than_two_pages_a_shift_are_a_finding(world):
    for count, (passed, severity) in enumerate(
        [(True, "WARN"), (True, "WARN"), (False, "WARN"), (False, "ERROR")], 1
    ):
        opened(world, str(count))
        opened(world, f"quiet {count}", pages=False)
        opened(world, str(count))
        found = paging(world)["alert_budget"]
        assert (found.passed, found.severity.value) == (passed, severity)
    assert found.description.startswith("4 pages in the last 12 hours")


def test_a_refused_page_turns_a_check_red(world, tick, channel):
    assert paging(world)["incidents_told"].passed
    opened(world, "1")
    channel.fails = [NotifyError("answered 400", final=True)]
    tick()
    found = paging(world)["incidents_told"]
    assert not found.passed
    assert "test#1 refused trigger mlct/late/production/rollback/1" in found.description


def test_the_daily_monitoring_looks_at_both(world):
    job = world.defs.resolve_job_def("late_monitoring")
    assert "late_paging" in {node.name for node in job.nodes}


def test_routes_that_cannot_be_read_turn_the_check_red(world):
    world.home = replace(world.home, notify="no such file")
    world.declare()
    found = paging(world)["incidents_told"]
    assert not found.passed
    assert "MLCT_NOTIFY names no routes" in found.description
