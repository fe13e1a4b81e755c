"""The approval job: people only."""

from typing import Any

import dagster as dg

from mlct.adapters.home import Home
from mlct.data.contract import contract_digest, suite_of
from mlct.data.digest import digest
from mlct.defs.jobs.move import moving
from mlct.defs.names import AUTOMATION_TAGS, HUMAN_ONLY_TAG
from mlct.defs.resources import MlctHome
from mlct.errors import PromotionRefused
from mlct.release.approval import policy
from mlct.release.approval.deployment import Deployment
from mlct.release.slot import live, promote
from mlct.release.slot.checks import asking
from mlct.release.slot.promotion import refusals_recorded
from mlct.spec import ModelSpec


class PromotionConfig(dg.Config):
    """`version`: the version that people approved. No default: a bare launch is refused.

    `slot`: another slot of the spec than its main one.
    """

    version: int
    slot: str = ""


def promotion_job(spec: ModelSpec) -> dg.JobDefinition:
    """The approval job: verifies the signed approvals and moves the slot. Nothing else does."""
    name = f"{spec.name}_promotion"

    @dg.op(
        name=f"{spec.name}_promote",
        description="Verify gate, evidence, champion, bytes and signatures; then move the slot.",
        tags={HUMAN_ONLY_TAG: "true"},
    )
    def move(context: dg.OpExecutionContext, config: PromotionConfig, mlct: MlctHome) -> None:
        home, slot = mlct.home, config.slot or spec.slot
        wanted: dict[str, Any] = {"model": spec.name, "version": config.version, "slot": slot}
        with moving(context, spec, home.ledger, slot) as actor:
            with refusals_recorded(home.ledger, **wanted, actor=actor):
                launched_by_hand(context, name)
                deployment = _deployment(spec, slot)
                with asking("policy"):
                    approvers = home.approvers
                    policy.pin(home.ledger, approvers, actor=actor)
                with asking("rules"):
                    declared = _declared(spec)
                with asking("stage"):
                    _mirror(home, spec, slot)
            promote(
                home.ledger,
                home.promoter,
                approvers,
                home.store.get,
                **wanted,
                actor=actor,
                approved=home.approved_files,
                deployment=deployment,
                declared=declared,
                verify=lambda: home.require_checkpoint() or home.ledger.verify(),
            )
            _mirror(home, spec, slot)  # the first promotion is what stage Production begins with
            context.log.info("%s@%s is live in %r", spec.name, config.version, slot)

    @dg.job(
        name=name,
        description=f"Approval job. Moves slot `{spec.slot}`{_others(spec)} to a version that "
        "people approved: "
        f"`mlct request {spec.name}` shows what, `mlct approve` signs. In the launchpad press "
        "'Scaffold missing config' and put in the version. The only way in.",
        tags={HUMAN_ONLY_TAG: "true", "dagster/max_retries": "0"},
        executor_def=dg.in_process_executor,
    )
    def promotion() -> None:
        move()

    return promotion


def launched_by_hand(context: dg.OpExecutionContext, job: str) -> None:
    """Nothing that automation leaves on a run, its own job, and no config that picks the rules.

    Raises PromotionRefused.
    """
    if automated := sorted(AUTOMATION_TAGS & context.run.tags.keys()):
        raise PromotionRefused(
            f"Only people promote: this run carries {', '.join(automated)}",
            expected=f"a run of {job} launched by hand",
            fix="Launch it from the launchpad or the command line; re-executing an old run does "
            "not count",
            check="automation",
        )
    if context.job_name != job:
        raise PromotionRefused(
            f"The promotion op runs in {job} only, found {context.job_name}",
            expected=job,
            fix="Take the op out of that job",
            check="job",
        )
    given: Any = context.run.run_config or {}
    if given.get("resources", {}).get("mlct", {}).get("config"):
        raise PromotionRefused(
            "The run config sets the resource mlct, and with it which approvers file counts",
            expected="what is set where definitions are made",
            fix="Take `resources` out of the run config",
            check="config",
        )


def _mirror(home: Home, spec: ModelSpec, slot: str) -> None:
    """Stage Production follows the main slot where the spec wants it."""
    if slot == spec.slot:
        current = live(home.ledger, spec.name, slot)
        home.promoter.mirror(spec.name, slot, current, wanted=spec.registry_stage)


def _others(spec: ModelSpec) -> str:
    return "".join(f" or `{slot}`" for slot in spec.slots)


def _declared(spec: ModelSpec) -> dict[str, str]:
    """The rules of the spec as it stands, as the statements of an evaluation name them."""
    return {
        "tier": spec.risk_tier,
        "gate": digest(spec.gate.to_dict()),
        "contract": contract_digest(suite_of(spec.contract)),
    }


def _deployment(spec: ModelSpec, slot: str) -> Deployment:
    try:
        return spec.deployments[slot]
    except KeyError:
        raise PromotionRefused(
            f"{spec.name} has no slot {slot!r}",
            expected=", ".join(spec.deployments),
            fix="Declare it in ModelSpec.slots, and retrain",
            check="slot",
        ) from None
