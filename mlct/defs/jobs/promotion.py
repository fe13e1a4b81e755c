"""The approval job: people only."""

from typing import Any

import dagster as dg

from mlct.defs.jobs.move import moving
from mlct.defs.names import HUMAN_ONLY_TAG
from mlct.defs.resources import MlctHome
from mlct.release.slot import promote
from mlct.spec import ModelSpec

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
        with moving(context, spec, home.ledger) as actor:
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
