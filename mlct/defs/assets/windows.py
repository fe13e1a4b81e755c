"""The windows of `m/predictions` and `m/monitoring` as Dagster partitions."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from mlct.data.window import as_utc, duration
from mlct.spec import ModelSpec


def windows_of(spec: ModelSpec) -> dg.TimeWindowPartitionsDefinition:
    """Hours, days, weeks or months (UTC), as `ModelSpec.monitoring` says."""
    policy = spec.monitoring
    start = datetime.fromisoformat(policy.start).replace(tzinfo=UTC)
    bounds: dict[str, Any] = {"start_date": start, "timezone": "UTC"}
    if policy.end is not None:
        bounds["end_date"] = datetime.fromisoformat(policy.end).replace(tzinfo=UTC)
    if policy.every == "hour":
        return dg.HourlyPartitionsDefinition(**bounds)
    if policy.every == "day":
        return dg.DailyPartitionsDefinition(**bounds)
    if policy.every == "month":
        return dg.MonthlyPartitionsDefinition(**bounds)
    return dg.WeeklyPartitionsDefinition(day_offset=policy.first_weekday, **bounds)


def bounds_of(spec: ModelSpec, partition: str) -> tuple[datetime, datetime]:
    """`[start, end)` of a window, in UTC."""
    window = windows_of(spec).time_window_for_partition_key(partition)
    return as_utc(window.start), as_utc(window.end)


def freshness(spec: ModelSpec) -> dg.FreshnessPolicy:
    """Late after a window and a half, a failure after two and the label delay."""
    step = spec.monitoring.step
    wait = max(step / 2, timedelta(hours=1))
    late = duration(spec.windows.label_delay)
    return dg.FreshnessPolicy.time_window(
        warn_window=step + wait, fail_window=2 * step + wait + late
    )
