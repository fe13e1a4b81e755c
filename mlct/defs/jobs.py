"""Jobs of a model: retrain and monitoring (assets), promotion and rollback (ops)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg

from mlct.defs.assets.champion import champion_event
from mlct.defs.assets.training_set import TrainingSetConfig
from mlct.defs.names import HUMAN_ONLY_TAG, MODEL_TAG, key
from mlct.defs.resources import MlctHome
from mlct.errors import MlctError
from mlct.release.approval.request import slot_key
from mlct.release.ledger import Ledger
from mlct.release.slot import promote, roll_back
from mlct.spec import ModelSpec
from mlct.training import fit

#: Tags that Dagster puts on runs that no person launched by hand. Present, they prove automation;
#: their absence proves nothing, so the authority is the signatures.
AUTOMATION_TAGS = frozenset(
    {
        "dagster/sensor_name",
        "dagster/schedule_name",
        "dagster/tick",
        "dagster/run_key",
        "dagster/backfill",
        "dagster/auto_materialize",
        "dagster/from_automation_condition",
        "dagster/asset_evaluation_id",
        "dagster/auto_observe",
        ".dagster/scheduled_execution_time",
        "dagster/partition_set",
        "dagster/retry_number",
        "dagster/parent_run_id",
        "dagster/root_run_id",
    }
)


class PromotionConfig(dg.Config):
    """`version`: the version that people approved. No default: a bare launch is refused."""

    version: int


class RollbackConfig(dg.Config):
    """`reason`: why, for the ledger and whoever reads it at 3 a.m."""

    reason: str = "rolled back by hand"


def retrain_job(spec: ModelSpec) -> Any:
    """training_set, challenger, evaluation: in one process, as each spawned step costs seconds."""
    names = ("training_set", "challenger", "evaluation")
    return dg.define_asset_job(
        f"{spec.name}_retrain",
        selection=dg.AssetSelection.assets(*(key(spec, n) for n in names)),
        description=f"Cut, validate, train and evaluate a challenger of {spec.name}. `as_of` "
        "replays history; newest is now, or the end of the data.",
        # Shown in the launchpad, where nobody would guess that it exists.
        config=dg.RunConfig(ops={f"{spec.name}__training_set": TrainingSetConfig()}),
        tags={MODEL_TAG: spec.name},
        executor_def=dg.in_process_executor,
    )


def monitoring_job(spec: ModelSpec) -> Any:
    """Measure the newest window, for the drift sensor to read, and look at the slot."""
    return dg.define_asset_job(
        f"{spec.name}_monitoring",
        selection=dg.AssetSelection.assets(key(spec, "monitoring"))
        | dg.AssetSelection.checks_for_assets(key(spec, "champion")),
        description=f"Measure drift of the newest window of {spec.name}, and check that the slot, "
        "MLflow's alias and the live bytes agree with the ledger.",
        executor_def=dg.in_process_executor,
    )


def promotion_job(spec: ModelSpec) -> dg.JobDefinition:
    """The approval job: verifies the signed approvals and moves the slot. Nothing else does."""
    name = f"{spec.name}_promotion"

    @dg.op(
        name=f"{spec.name}_promote",
        description="Verify gate, evidence, champion, bytes and signatures; then move the slot.",
        tags={HUMAN_ONLY_TAG: "true"},
    )
    def move(context: dg.OpExecutionContext, config: PromotionConfig, mlct: MlctHome) -> None:
        automated = sorted(AUTOMATION_TAGS & context.run.tags.keys())
        if automated:
            raise dg.Failure(
                f"Only people promote: this run carries {', '.join(automated)}. Launch {name} "
                "by hand, from the launchpad or the command line; re-executing an old run does "
                "not count.",
                allow_retries=False,
            )
        if context.job_name != name:
            raise dg.Failure(
                f"The promotion op runs in {name} only, found {context.job_name}.",
                allow_retries=False,
            )
        given: Any = context.run.run_config or {}
        if given.get("resources", {}).get("mlct", {}).get("config"):
            raise dg.Failure(
                "The run config sets the resource mlct, and with it which approvers file counts. "
                "Take `resources` out of it; what mlct uses is set where definitions are made.",
                allow_retries=False,
            )
        home = mlct.home
        with _move(context, spec, home.ledger) as actor:
            promote(
                home.ledger,
                home.registry,
                home.approvers,
                home.store.get,
                model=spec.name,
                version=config.version,
                actor=actor,
                slot=spec.slot,
            )

    @dg.job(
        name=name,
        description=f"Approval job. Moves slot `{spec.slot}` to a version that people approved: "
        f"`mlct request {spec.name}` shows what, `mlct approve` signs. In the launchpad press "
        "'Scaffold missing config' and put in the version. The only way in.",
        tags={HUMAN_ONLY_TAG: "true", "dagster/max_retries": "0"},
        executor_def=dg.in_process_executor,
    )
    def promotion() -> None:
        move()

    return promotion


def rollback_job(spec: ModelSpec) -> dg.JobDefinition:
    """Back to the recorded, earlier approved version; no training, no new approval."""

    @dg.op(name=f"{spec.name}_roll_back", description="Re-point the slot, quarantine the version.")
    def move(context: dg.OpExecutionContext, config: RollbackConfig, mlct: MlctHome) -> None:
        home = mlct.home
        with _move(context, spec, home.ledger) as actor:
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


@contextmanager
def _move(context: dg.OpExecutionContext, spec: ModelSpec, ledger: Ledger) -> Iterator[str]:
    """Around a slot move by the actor that it yields: shows the move, and fails the run readably.

    The ledger moves first. When MLflow then cannot be reached the run fails, but the move is real,
    is shown, and must not be tried again.
    """
    actor = f"dagster:{context.run.run_id}"

    def events() -> list[dg.AssetMaterialization]:
        moves = ledger.records(slot=slot_key(spec.name, spec.slot))
        return [champion_event(spec.name, move) for move in moves if move.actor == actor]

    try:
        yield actor
    except MlctError as error:
        told = f"{type(error).__name__}: {error}"
        for event in events():
            # Not `context.log_event`: what a failing op logs is lost.
            context.instance.report_runless_asset_event(event)
            told = (
                f"{event.description}, do not repeat this run. Only MLflow stayed behind: run "
                f"`mlct reconcile {spec.name}` when it is back. {told}"
            )
        raise dg.Failure(told, allow_retries=False) from error
    for event in events():
        context.log_event(event)
