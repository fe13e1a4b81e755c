"""The windows of `m/predictions` and `m/monitoring` as Dagster partitions."""

import warnings
from collections.abc import Sequence
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
    """`[start, end)` of the window that a run is for, in UTC.

    For none that has ended it fails the run: `dg.Failure`, as its text is what Dagster shows first.
    """
    windows = windows_of(spec)
    ended = windows.get_partition_keys()
    chosen = run.partition_key if run.has_partition_key else ""
    if chosen not in ended:
        error = _no_window(spec, chosen, ended)
        raise dg.Failure(f"{type(error).__name__}: {error}", allow_retries=False) from error
    window = windows.time_window_for_partition_key(chosen)
    return as_utc(window.start), as_utc(window.end)


def _no_window(spec: ModelSpec, chosen: str, ended: Sequence[str]) -> DataError:
    found = f"{chosen!r} begins no window that has ended" if chosen else "the run is for no window"
    windows = f"{spec.monitoring.every}s from {spec.monitoring.start}"
    if not ended:
        return DataError(
            found,
            expected=f"one that has ended, of {windows}",
            fix="Wait for the end of the first, or set MonitoringPolicy.start to an earlier day",
        )
    # Keys are dates: as text they are in order of time.
    near = max((name for name in ended if chosen and name <= chosen), default=ended[-1])
    newest = "\u2026, " * (len(ended) > 2) + ", ".join(ended[-2:])
    return DataError(
        found,
        expected=f"one of {newest} ({windows})",
        fix=f"Choose {near} in the launchpad, or pass `--partition {near}`",
    )


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
