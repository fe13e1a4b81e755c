"""Schedules of a model."""

import dagster as dg

from mlct.defs.names import CAUSE_TAG, REASON_TAG
from mlct.spec import ModelSpec


def schedules(
    spec: ModelSpec, *, default_status: dg.DefaultScheduleStatus = dg.DefaultScheduleStatus.STOPPED
) -> list[dg.ScheduleDefinition]:
    """Daily monitoring, the drill, and retraining where `RetrainPolicy.schedule` is set."""
    made = [
        dg.ScheduleDefinition(
            name=f"{spec.name}_monitoring_schedule",
            job_name=f"{spec.name}_monitoring",
            cron_schedule="@daily",
            default_status=default_status,
        ),
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
                tags={CAUSE_TAG: "schedule", REASON_TAG: f"schedule {spec.retrain.schedule}"},
                default_status=default_status,
            )
        )
    return made
