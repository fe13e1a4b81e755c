"""The windows of `m/predictions` and `m/monitoring` as Dagster partitions."""

import warnings
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from mlct.data.window import as_utc, duration
from mlct.errors import DataError
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


def bounds_of(spec: ModelSpec, run: dg.AssetExecutionContext) -> tuple[datetime, datetime]:
    """`[start, end)` of the window that a run is for, in UTC. Raises DataError for none."""
    if not run.has_partition_key:
        raise DataError(
            "the run is for no window",
            expected="a partition: the date at which a window begins",
            fix="Choose one in the launchpad, or pass `--partition 2024-01-01`",
        )
    window = windows_of(spec).time_window_for_partition_key(run.partition_key)
    return as_utc(window.start), as_utc(window.end)


def window_check(
    spec: ModelSpec, asset: dg.AssetKey, name: str, description: str
) -> dg.AssetCheckSpec:
    """A check whose verdicts are told by window."""
    with warnings.catch_warnings(action="ignore", category=dg.PreviewWarning):
        return dg.AssetCheckSpec(
            name, asset=asset, description=description, partitions_def=windows_of(spec)
        )


def freshness(spec: ModelSpec) -> dg.FreshnessPolicy:
    """Late after a window and a half, a failure after two and the label delay."""
    step = spec.monitoring.step
    wait = max(step / 2, timedelta(hours=1))
    late = duration(spec.windows.label_delay)
    return dg.FreshnessPolicy.time_window(
        warn_window=step + wait, fail_window=2 * step + wait + late
    )
