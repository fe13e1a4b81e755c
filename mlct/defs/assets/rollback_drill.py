"""`m/rollback_drill`: is a rollback still a matter of seconds? Played for real, on a stage."""

import dagster as dg

from mlct.adapters.drill import drill
from mlct.data.window import duration
from mlct.defs.names import DRILLED, key, settings
from mlct.defs.resources import MlctHome
from mlct.errors import RollbackRefused
from mlct.release.drill import readiness
from mlct.release.incident import open_incident, step
from mlct.spec import ModelSpec


def build_rollback_drill(spec: ModelSpec) -> dg.AssetsDefinition:
    """The asset that promotes, breaks and rolls back on a stage, and shows the seconds."""

    @dg.asset(
        key=key(spec, "rollback_drill"),
        deps=[key(spec, "champion")],
        description="A rollback played on a stage with what people approved: seconds from the "
        "reported breach until the target is loaded and scores. Nothing moves in production.",
        **settings(spec, "python"),
    )
    def rollback_drill(context: dg.AssetExecutionContext, mlct: MlctHome) -> dg.MaterializeResult:
        try:
            outcome = drill(mlct.home, model=spec.name, slot=spec.slot, bar=spec.rollback.bar)
        except RollbackRefused as error:
            context.log.warning("no drill: %s", error)
            return dg.MaterializeResult(metadata={"passed": False, "skipped": str(error)})
        return dg.MaterializeResult(
            metadata={
                "seconds": outcome.seconds,
                "bar": duration(spec.rollback.bar).total_seconds(),
                "passed": outcome.passed,
                "expected": outcome.expected,
                "observed": outcome.observed,
            }
        )

    return rollback_drill


def drill_check(spec: ModelSpec) -> dg.AssetChecksDefinition:
    """Red when the last drill failed or is overdue; then an incident is open, too."""

    @dg.asset_check(
        asset=key(spec, "rollback_drill"),
        name=DRILLED,
        description=f"The last rollback drill passed, and is not older than "
        f"{spec.rollback.overdue}.",
    )
    def drilled_lately(mlct: MlctHome) -> dg.AssetCheckResult:
        ledger = mlct.home.ledger
        found = readiness(
            ledger,
            model=spec.name,
            slot=spec.slot,
            overdue=duration(spec.rollback.overdue),
            at=ledger.clock(),
        )
        if not found.ready and (found.last is None or found.last.predicate["passed"]):
            open_incident(
                ledger,
                model=spec.name,
                slot=spec.slot,
                kind="drill",
                episode="overdue",
                summary=f"the rollback drill of {spec.name} is overdue: {found.told}",
                timeline=[step(ledger, found.told)],
                severity="medium",
                pages=False,
                actor=f"check:{DRILLED}",
            )
        return dg.AssetCheckResult(
            passed=found.ready,
            description=found.told + ("" if found.ready else f": run {spec.name}_rollback_drill"),
            metadata={} if found.due is None else {"due": dg.MetadataValue.timestamp(found.due)},
        )

    return drilled_lately
