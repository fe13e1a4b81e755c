"""The rollback job."""

import dagster as dg

from mlct.adapters.rollback import take_back
from mlct.data.window import parse_instant
from mlct.defs.jobs.move import moving
from mlct.defs.resources import MlctHome
from mlct.release.incident import step
from mlct.release.ledger import instant
from mlct.spec import ModelSpec

SENSOR_TAG = "dagster/sensor_name"


class RollbackConfig(dg.Config):
    """`reason`: why, for the ledger and whoever reads it at 3 a.m.

    `version`: what to take out. A run that comes late then moves nothing; without it, what is live.
    `seen`: when the breach was reported (ISO 8601), for the incident's timeline. `slot`: another
    slot of the spec than its main one.
    """

    reason: str = "rolled back by hand"
    version: int | None = None
    seen: str = ""
    slot: str = ""


def rollback_job(spec: ModelSpec) -> dg.JobDefinition:
    """Back to an earlier approved version that is fit; no training, no new approval."""

    @dg.op(name=f"{spec.name}_roll_back", description="Re-point the slot, quarantine the version.")
    def move(context: dg.OpExecutionContext, config: RollbackConfig, mlct: MlctHome) -> None:
        home, slot = mlct.home, config.slot or spec.slot
        asked_by = context.run.tags.get(SENSOR_TAG)
        timeline = [step(home.ledger, f"decided by {asked_by or 'whoever launched the run'}")]
        if config.seen:
            at = instant(parse_instant(config.seen))
            timeline.insert(0, {"at": at, "what": "the breach was reported"})
        with moving(context, spec, home.ledger, slot) as actor:
            take_back(
                home,
                model=spec.name,
                slot=slot,
                reason=config.reason,
                actor=actor,
                version=config.version,
                feature_version=spec.feature_version,
                timeline=timeline,
                unattended=asked_by is not None,
            )

    @dg.job(
        name=f"{spec.name}_rollback",
        description=f"Re-point slot `{spec.slot}` to its rollback target and quarantine what it "
        "serves now. The config is filled in: press 'Launch run', or say why first.",
        config=dg.RunConfig(ops={f"{spec.name}_roll_back": RollbackConfig()}),
        # No `mlct/model` tag: a rollback must not queue behind a training run.
        tags={"dagster/max_retries": "0", "dagster/priority": "100"},
        executor_def=dg.in_process_executor,
    )
    def rollback() -> None:
        move()

    return rollback
