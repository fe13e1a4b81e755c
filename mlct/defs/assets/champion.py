"""`m/champion`: the slot as an external asset. Nothing can materialise it."""

from typing import Any

import dagster as dg

from mlct.defs.names import key, settings
from mlct.release.ledger import Record
from mlct.spec import ModelSpec


def build_champion(spec: ModelSpec) -> dg.AssetSpec:
    """The asset whose only events are those logged by promotion, rollback and reconcile."""
    return dg.AssetSpec(
        key(spec, "champion"),
        deps=[key(spec, "evaluation")],
        description=f"What slot `{spec.slot}` serves. Moved only by the job "
        f"`{spec.name}_promotion`, with signed approvals, and by `{spec.name}_rollback`.",
        **settings(spec, "mlflow"),
    )


def champion_event(model: str, record: Record) -> dg.AssetMaterialization:
    """The event that shows a slot move in the asset catalog."""
    says = record.predicate
    metadata: dict[str, Any] = {
        "version": says["version"],
        "move": record.kind,
        "replaces": str(says["replaces"] or "nothing"),
        "rollback_target": str(says["rollback_target"] or "none"),
        "approved_by": ", ".join(says["approvers"]),
        "evidence": says["evidence"],
        "artifact": says["artifact"],
        "ledger": f"statement {record.sequence}",
        "more": f"mlct explain {model}",
    }
    if "reason" in says:
        metadata["reason"] = says["reason"]
    return dg.AssetMaterialization(
        asset_key=dg.AssetKey([model, "champion"]),
        description=f"{record.kind}: version {says['version']} is live in {says['slot']}",
        metadata=metadata,
        tags={"dagster/data_version": says["artifact"]},
    )


def repair_event(model: str, record: Record) -> dg.AssetObservation:
    """The event that shows a repair by reconcile: the slot did not move, what MLflow said did."""
    says = record.predicate
    version = says["version"]
    return dg.AssetObservation(
        asset_key=dg.AssetKey([model, "champion"]),
        description=f"reconcile: {says['reason']}; repaired",
        metadata={
            "slot": says["slot"],
            "version": str(version or "nothing is live"),
            "found": str(says["found"] or "nothing"),
            "ledger": f"statement {record.sequence}",
            "more": f"mlct history {model}",
        },
    )


def report(model: str, record: Record) -> str:
    """Show a slot move, or a repair, that no run made in the instance that DAGSTER_HOME names.

    Returns why it cannot be shown, if so: the move is done, and stays done.
    """
    show = repair_event if record.kind == "reconcile" else champion_event
    try:
        with dg.DagsterInstance.get() as instance:
            instance.report_runless_asset_event(show(model, record))
    except Exception as error:  # Dagster's, or that of the database behind it
        return str(error)
    return ""
