"""Checks that stand on their own: anybody may run them, and running them changes nothing."""

import dagster as dg

from mlct.defs.names import key
from mlct.defs.resources import MlctHome
from mlct.errors import MlctError
from mlct.release.slot import live
from mlct.spec import ModelSpec
from mlct.training import fit


def slot_check(spec: ModelSpec) -> dg.AssetChecksDefinition:
    """The ledger's chain holds, the alias agrees, the live bytes are the approved ones."""

    @dg.asset_check(
        asset=key(spec, "champion"),
        name="slot_matches_ledger",
        description="Ledger chain, MLflow alias and artifact bytes of what is live.",
    )
    def slot_matches_ledger(mlct: MlctHome) -> dg.AssetCheckResult:
        home = mlct.home
        try:
            rows = home.ledger.verify()
            current = live(home.ledger, spec.name, spec.slot)
            alias = home.registry.alias(spec.name, spec.slot)
            if current is not None:
                fit.kept(home.store, current.artifact)
        except MlctError as error:
            return dg.AssetCheckResult(passed=False, description=str(error))
        version = current.version if current else None
        said = "nothing is live yet" if version is None else f"version {version} is live"
        return dg.AssetCheckResult(
            passed=alias == version,
            description=f"{said}; alias {spec.slot!r} points at {alias or 'nothing'}"
            + ("" if alias == version else f": run `mlct reconcile {spec.name}`"),
            metadata={"ledger_rows": rows, "version": str(version), "alias": str(alias)},
        )

    return slot_matches_ledger
