"""Checks that stand on their own: anybody may run them, and running them changes nothing."""

from collections.abc import Iterator

import dagster as dg

from mlct.adapters.outbox import paged_at, problems
from mlct.adapters.pager import channels
from mlct.defs.names import BUDGET, TOLD, key
from mlct.defs.resources import MlctHome
from mlct.errors import MlctError, NotifyError
from mlct.monitoring.slo import page_budget
from mlct.release.slot import live
from mlct.release.slot.audit import require_approved
from mlct.spec import ModelSpec


def slot_check(spec: ModelSpec) -> dg.AssetChecksDefinition:
    """The ledger's chain holds, alias and stage agree, what is live is what people approved."""

    @dg.asset_check(
        asset=key(spec, "champion"),
        name="slot_matches_ledger",
        description="Ledger chain, MLflow alias and stage, approvals and bytes of what is live.",
    )
    def slot_matches_ledger(mlct: MlctHome) -> dg.AssetCheckResult:
        home = mlct.home
        try:
            home.require_checkpoint()
            rows = home.ledger.verify()
            current = live(home.ledger, spec.name, spec.slot)
            found = home.registry.standing(spec.name, spec.slot)
            if current is not None:
                require_approved(home.ledger, current.record)
                home.approved_files(current.artifact)
        except MlctError as error:
            return dg.AssetCheckResult(passed=False, description=str(error))
        version = current.version if current else None
        said = "nothing is live yet" if version is None else f"version {version} is live"
        said += f"; alias {spec.slot!r} points at {found.alias or 'nothing'}"
        if found.stage is not None:
            staged = ", ".join(map(str, sorted(found.stage)))
            said += f"; stage Production holds {staged or 'nothing'}"
        agrees = found.alias == version and found.stage in (None, frozenset({version} - {None}))
        return dg.AssetCheckResult(
            passed=agrees,
            description=said + ("" if agrees else f": run `mlct reconcile {spec.name}`"),
            metadata={"ledger_rows": rows, "version": str(version), "alias": str(found.alias)},
        )

    return slot_matches_ledger


def paging_checks(spec: ModelSpec) -> dg.AssetChecksDefinition:
    """Pages of this shift against what a person can work through; pages that did not arrive."""
    asset = key(spec, "champion")

    @dg.multi_asset_check(
        name=f"{spec.name}_paging",
        specs=[
            dg.AssetCheckSpec(
                BUDGET,
                asset=asset,
                description="Pages of all models in the last 12 hours: two are budgeted, because "
                "an incident takes six hours of work. More: mend or mute what pages.",
            ),
            dg.AssetCheckSpec(
                TOLD,
                asset=asset,
                description="Everything that pages reached PagerDuty, and no channel refused an "
                "incident for good.",
            ),
        ],
    )
    def paging(mlct: MlctHome) -> Iterator[dg.AssetCheckResult]:
        ledger = mlct.home.ledger
        found = page_budget(paged_at(ledger), at=ledger.clock())
        yield dg.AssetCheckResult(
            check_name=BUDGET,
            passed=found.verdict == "ok",
            severity=dg.AssetCheckSeverity.ERROR
            if found.verdict == "error"
            else dg.AssetCheckSeverity.WARN,
            description=found.reason,
            metadata={"pages": found.pages, "budget": found.allowed},
        )
        try:
            lost = problems(ledger, channels(mlct.home), spec.name)
        except NotifyError as error:
            lost = [str(error)]
        yield dg.AssetCheckResult(
            check_name=TOLD,
            passed=not lost,
            description="; ".join(lost) or "nothing is missing",
            metadata={"missing": len(lost)},
        )

    return paging
