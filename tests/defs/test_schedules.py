"""Which windows are due: the newest, those left out, those whose labels have matured."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

import mlct


def due(world: Any, now: str) -> list[str]:
    schedule = world.defs.resolve_schedule_def("late_monitoring_schedule")
    at = datetime.fromisoformat(now).replace(tzinfo=UTC)
    with dg.build_schedule_context(
        instance=world.instance,
        scheduled_execution_time=at,
        resources=world.defs.resources,
        repository_def=world.defs.get_repository_def(),
    ) as context:
        return [r.partition_key for r in schedule.evaluate_tick(context).run_requests]


@pytest.fixture
def since_january(live):
    live.declare(monitoring=mlct.MonitoringPolicy(start="2024-01-01"))
    return live


def test_before_the_first_window_has_ended_nothing_is_due(since_january):
    assert due(since_january, "2024-01-07") == []


def test_what_was_left_out_is_caught_up_with(since_january):
    weeks = ["2024-01-01", "2024-01-08", "2024-01-15", "2024-01-22", "2024-01-29"]
    assert due(since_january, "2024-02-05") == weeks[-4:]
    since_january.monitor("2024-01-22")
    assert due(since_january, "2024-02-05") == [weeks[1], weeks[2], weeks[4]]


def test_the_newest_window_is_measured_anew_each_day_as_labels_come(since_january):
    for day in ("2024-01-08", "2024-01-15", "2024-01-22", "2024-01-29"):
        since_january.monitor(day)
    assert due(since_january, "2024-02-06") == due(since_january, "2024-02-07") == ["2024-01-29"]


def test_a_window_is_due_once_its_labels_have_matured(since_january):
    windows = replace(since_january.spec.windows, label_delay="10d")
    since_january.declare(windows=windows)
    since_january.monitor("2024-01-29", as_of="2024-02-05")
    assert "2024-01-29" not in due(since_january, "2024-02-12")
    assert "2024-01-29" in due(since_january, "2024-03-11")
    since_january.monitor("2024-01-29")
    assert "2024-01-29" not in due(since_january, "2024-03-11")


def test_a_calendar_that_is_over_is_not_measured_for_ever(since_january):
    for day in ("2024-01-08", "2024-01-15", "2024-01-22", "2024-01-29"):
        since_january.monitor(day)
    policy = replace(since_january.spec.monitoring, end="2024-02-05")
    since_january.declare(monitoring=policy)
    assert due(since_january, "2024-02-07") == ["2024-01-29"]
    assert due(since_january, "2024-03-07") == []


def test_a_tick_that_is_repeated_asks_for_the_same_runs(since_january):
    schedule = since_january.defs.resolve_schedule_def("late_monitoring_schedule")
    at = datetime(2024, 2, 5, tzinfo=UTC)
    keys = []
    for _ in range(2):
        with dg.build_schedule_context(
            instance=since_january.instance,
            scheduled_execution_time=at,
            resources=since_january.defs.resources,
            repository_def=since_january.defs.get_repository_def(),
        ) as context:
            keys.append({r.run_key for r in schedule.evaluate_tick(context).run_requests})
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("every", "first", "last"),
    [
        ("hour", "2024-01-01-00:00", "2024-01-31-23:00"),
        ("day", "2024-01-01", "2024-01-31"),
        ("week", "2024-01-01", "2024-01-22"),
        ("month", "2024-01-01", "2024-01-01"),
    ],
)
def test_windows_are_calendar_stretches_up_to_the_end(spec, every, first, last):
    from mlct.defs.assets.windows import bounds_of, windows_of

    policy = mlct.MonitoringPolicy(every=every, start="2024-01-01", end="2024-02-01")
    declared = replace(spec, monitoring=policy)
    keys = windows_of(declared).get_partition_keys()
    assert (keys[0], keys[-1]) == (first, last)
    with dg.build_asset_context(partition_key=keys[0]) as context:
        start, end = bounds_of(declared, context)
    assert start == datetime(2024, 1, 1, tzinfo=UTC)
    assert end - start <= policy.step * 1.1


@pytest.mark.parametrize(
    ("start", "end", "chosen", "told"),
    [
        (
            "2024-01-01",
            "2024-02-01",
            "2024-01-10",
            "'2024-01-10' begins no window that has ended. Expected one of \u2026, 2024-01-15, "
            "2024-01-22 (weeks from 2024-01-01). Choose 2024-01-08 in the launchpad",
        ),
        ("2024-01-01", "2024-02-01", "2024-01-29", "or pass `--partition 2024-01-22`"),
        ("2024-01-01", "2024-02-01", "soon", "'soon' begins no window"),
        ("2024-01-01", "2024-02-01", None, "the run is for no window. Expected one of"),
        ("2999-01-07", None, "2999-01-07", "weeks from 2999-01-07. Wait for the end of the first"),
    ],
)
def test_a_run_for_no_window_says_which_there_are(spec, start, end, chosen, told):
    from mlct.defs.assets.windows import bounds_of

    policy = mlct.MonitoringPolicy(start=start, end=end)
    declared = replace(spec, monitoring=policy)
    with (
        dg.build_asset_context(partition_key=chosen) as context,
        pytest.raises(dg.Failure) as failed,
    ):
        bounds_of(declared, context)
    assert failed.value.description.startswith("DataError: ")
    assert told in failed.value.description


def test_a_running_week_is_refused_before_a_row_is_scored(live, why):
    done = live.run("late_monitoring", partition_key=None, tags={"dagster/partition": "2024-01-03"})
    assert "'2024-01-03' begins no window that has ended" in why(done)
    assert live.records("serving") == []
