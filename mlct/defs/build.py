"""From specs to Dagster definitions: everything at once, or part by part."""

from dataclasses import fields
from typing import Any

import dagster as dg

from mlct.adapters.home import Home
from mlct.defs.assets.challenger import build_challenger
from mlct.defs.assets.champion import build_champion
from mlct.defs.assets.evaluation import build_evaluation
from mlct.defs.assets.monitoring import build_monitoring
from mlct.defs.assets.predictions import build_predictions
from mlct.defs.assets.rollback_drill import build_rollback_drill, drill_check
from mlct.defs.assets.training_set import build_training_set
from mlct.defs.checks import paging_checks, slot_check
from mlct.defs.io_manager import SnapshotIOManager
from mlct.defs.jobs import (
    monitoring_job,
    promotion_job,
    retrain_job,
    rollback_drill_job,
    rollback_job,
)
from mlct.defs.names import HUMAN_ONLY_TAG
from mlct.defs.resources import MlctHome
from mlct.defs.schedules import schedules
from mlct.defs.sensors import (
    notify_on_incident,
    reconcile_slot,
    retrain_on_drift,
    rollback_on_breach,
)
from mlct.errors import SpecError
from mlct.spec import ModelSpec


def build_assets(spec: ModelSpec) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """training_set, challenger, evaluation, champion (external), predictions, monitoring,
    rollback_drill."""
    return [
        build_training_set(spec),
        build_challenger(spec),
        build_evaluation(spec),
        build_champion(spec),
        build_predictions(spec),
        build_monitoring(spec),
        build_rollback_drill(spec),
    ]


def build_checks(spec: ModelSpec) -> list[dg.AssetChecksDefinition]:
    """Checks that stand on their own; contract, gate and drift live in their assets."""
    return [slot_check(spec), drill_check(spec), paging_checks(spec)]


def build_jobs(spec: ModelSpec) -> list[Any]:
    """Retrain, monitoring, promotion, rollback and its drill."""
    jobs = (retrain_job, monitoring_job, promotion_job, rollback_job, rollback_drill_job)
    return [job(spec) for job in jobs]


def build_sensors(
    spec: ModelSpec, *, default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED
) -> list[dg.SensorDefinition]:
    """Retrain on drift, roll back on a breach, reconcile MLflow, tell of incidents."""
    return [
        retrain_on_drift(spec, default_status=default_status),
        rollback_on_breach(spec, default_status=default_status),
        reconcile_slot(spec, default_status=default_status),
        notify_on_incident(spec, default_status=default_status),
    ]


def build_schedules(
    spec: ModelSpec, *, default_status: dg.DefaultScheduleStatus = dg.DefaultScheduleStatus.STOPPED
) -> list[dg.ScheduleDefinition]:
    """Monitoring, drill and retraining schedules."""
    return schedules(spec, default_status=default_status)


def build_definitions(*specs: ModelSpec, resources: dict[str, Any] | None = None) -> dg.Definitions:
    """All definitions of one or more models.

    Brings no resources unless given, because `Definitions.merge` refuses two of one name: put
    `mlct.build_resources()` into one of the merged definitions.
    """
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        raise SpecError(f"two models of one name: {sorted(names)}", expected="distinct names")
    return guarded(
        dg.Definitions(
            assets=[a for s in specs for a in build_assets(s)],
            asset_checks=[c for s in specs for c in build_checks(s)],
            jobs=[j for s in specs for j in build_jobs(s)],
            sensors=[x for s in specs for x in build_sensors(s)],
            schedules=[x for s in specs for x in build_schedules(s)],
            resources=resources,
        ),
    )


def build_resources(home: Home | None = None) -> dict[str, Any]:
    """`{"mlct": ..., "snapshots": ...}`: where mlct keeps things, and the snapshot IO manager.

    `home` defaults to the environment: `Home.from_environment()`.
    """
    home = home or Home.from_environment()
    mlct = MlctHome(**{field.name: getattr(home, field.name) for field in fields(Home)})
    snapshots = SnapshotIOManager(home=mlct)
    # Without run config: whoever may launch a run must not choose another approvers file with it.
    return {
        "mlct": dg.ResourceDefinition(lambda _: mlct, config_schema={}),
        "snapshots": dg.IOManagerDefinition(lambda _: snapshots, config_schema={}),
    }


def automation_violations(defs: dg.Definitions) -> list[str]:
    """Every sensor, schedule or automation condition that could launch a promotion."""
    planted = [(f"sensor {s.name}", t) for s in defs.sensors or [] for t in s.targets]
    # Schedules of partitioned jobs have no target yet; a promotion has no partitions.
    planted += [
        (f"schedule {s.name}", s.target)
        for s in defs.schedules or []
        if isinstance(s, dg.ScheduleDefinition)
    ]
    # What a sensor or schedule brings along need not be listed under jobs.
    jobs = [*(defs.jobs or []), *(t.job_def for _, t in planted if t.has_job_def)]
    people_only = {j.name for j in jobs if _for_people(j)}
    found = [f"{who} targets {t.job_name}" for who, t in planted if t.job_name in people_only]
    conditioned = {j.name for j in jobs if j.automation_condition is not None}
    found += [f"job {name} has an automation condition" for name in people_only & conditioned]
    return sorted(found)


def _for_people(job: Any) -> bool:
    """Whether a job is a promotion, or a copy that borrows the op of one."""
    ops = job.graph.iterate_op_defs() if isinstance(job, dg.JobDefinition) else ()
    return any(HUMAN_ONLY_TAG in (thing.tags or {}) for thing in (job, *ops))


def guarded(defs: dg.Definitions) -> dg.Definitions:
    """The same definitions, refused when automation can reach a promotion job.

    Call it around the outermost `Definitions.merge`: a part cannot see the whole. Raises SpecError.
    """
    found = automation_violations(defs)
    if found:
        raise SpecError(
            "; ".join(found),
            expected="promotion jobs that only people launch",
            fix="Take the job out of that automation: automation may retrain and roll back, "
            "never promote",
            violations=found,
        )
    return defs
