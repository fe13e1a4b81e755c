"""The rollback job."""

import dagster as dg

from mlct.defs.jobs.move import moving
from mlct.defs.resources import MlctHome
from mlct.release.slot import roll_back
from mlct.spec import ModelSpec
from mlct.training import fit


class RollbackConfig(dg.Config):
    """`reason`: why, for the ledger and whoever reads it at 3 a.m."""

    reason: str = "rolled back by hand"


def rollback_job(spec: ModelSpec) -> dg.JobDefinition:
    """Back to the recorded, earlier approved version; no training, no new approval."""

    @dg.op(name=f"{spec.name}_roll_back", description="Re-point the slot, quarantine the version.")
    def move(context: dg.OpExecutionContext, config: RollbackConfig, mlct: MlctHome) -> None:
        home = mlct.home
        with moving(context, spec, home.ledger) as actor:
            roll_back(
                home.ledger,
                home.registry,
                lambda artifact: fit.kept(home.store, artifact),
                model=spec.name,
                reason=config.reason,
                actor=actor,
                slot=spec.slot,
            )

    @dg.job(
        name=f"{spec.name}_rollback",
        description=f"Re-point slot `{spec.slot}` to its rollback target and quarantine what it "
        "serves now.",
        config=dg.RunConfig(ops={f"{spec.name}_roll_back": RollbackConfig()}),
        # No `mlct/model` tag: a rollback must not queue behind a training run.
        tags={"dagster/max_retries": "0"},
        executor_def=dg.in_process_executor,
    )
    def rollback() -> None:
        move()

    return rollback
