"""Schedules of a model."""

import dagster as dg

from mlct.data.window import parse_instant
from mlct.defs.assets.monitoring import windows_kept
from mlct.defs.assets.windows import windows_of
from mlct.defs.names import CAUSE_TAG, REASON_TAG, SCHEDULE
from mlct.defs.resources import MlctHome
from mlct.release.ledger import instant
from mlct.spec import ModelSpec

#: So many windows that nobody measured are caught up with at a time; older ones by a backfill.
CATCH_UP = 4


def schedules(
    spec: ModelSpec, *, default_status: dg.DefaultScheduleStatus = dg.DefaultScheduleStatus.STOPPED
) -> list[dg.ScheduleDefinition]:
    """Monitoring, the drill, and retraining where `RetrainPolicy.schedule` is set."""
    made: list[dg.ScheduleDefinition] = [
        _monitoring(spec, default_status),
        dg.ScheduleDefinition(
            name=f"{spec.name}_rollback_drill_schedule",
            job_name=f"{spec.name}_rollback_drill",
            cron_schedule=spec.rollback.drill,
            default_status=default_status,
        ),
    ]
    if spec.retrain.schedule:
        made.append(
            dg.ScheduleDefinition(
                name=f"{spec.name}_retrain_schedule",
                job_name=f"{spec.name}_retrain",
                cron_schedule=spec.retrain.schedule,
                tags={CAUSE_TAG: SCHEDULE, REASON_TAG: f"schedule {spec.retrain.schedule}"},
                default_status=default_status,
            )
        )
    return made


def _monitoring(spec: ModelSpec, default_status: dg.DefaultScheduleStatus) -> dg.ScheduleDefinition:
    """The newest window that has ended, each day (each hour for hours) anew as labels come; those
    that were left out, and those whose labels have matured since."""
    partitions = windows_of(spec)

    @dg.schedule(
        name=f"{spec.name}_monitoring_schedule",
        job_name=f"{spec.name}_monitoring",
        cron_schedule="5 * * * *" if spec.monitoring.every == "hour" else "@daily",
        default_status=default_status,
        description="Measures the newest window that has ended, windows that were left out, and "
        "those whose labels have matured since.",
    )
    def schedule(
        context: dg.ScheduleEvaluationContext, mlct: MlctHome
    ) -> list[dg.RunRequest] | dg.SkipReason:
        now = context.scheduled_execution_time
        ended = partitions.get_partition_keys(current_time=now)
        if not ended:
            return dg.SkipReason(f"No window has ended since {spec.monitoring.start}.")
        known = {parse_instant(w["start"]): w for w in windows_kept(mlct, spec)}
        starts = {p: partitions.time_window_for_partition_key(p).start for p in ended}
        due = [p for p in ended[-CATCH_UP:] if starts[p] not in known]
        # Until the next has ended: a calendar that is over is not measured for ever.
        if now - partitions.time_window_for_partition_key(ended[-1]).end <= spec.monitoring.step:
            due.append(ended[-1])
        matured = [
            p
            for p in ended
            if (until := known.get(starts[p], {}).get("until")) and until <= instant(now)
        ]
        tick = instant(now)
        if not due and not matured:
            return dg.SkipReason(f"Every window up to {ended[-1]} is measured.")
        return [
            dg.RunRequest(partition_key=p, run_key=f"{spec.name}:{p}:{tick}")
            for p in sorted({*due, *matured}, key=ended.index)
        ]

    return schedule
