"""Does MLflow say what the ledger says?"""

import time
from datetime import datetime

import dagster as dg

from mlct.defs.assets.champion import champion_event, repair_event
from mlct.defs.names import key
from mlct.defs.resources import MlctHome
from mlct.errors import RegistryError
from mlct.release.approval.request import slot_key
from mlct.release.ledger import Ledger, Record
from mlct.release.slot import live, reconcile
from mlct.release.slot.projection import WINDOW
from mlct.spec import ModelSpec

#: Dagster gives a tick 60 seconds.
_LONGEST = 20.0


def reconcile_slot(
    spec: ModelSpec, *, default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED
) -> dg.SensorDefinition:
    """Compares alias and stage of every slot with the ledger, repairs them, opens an incident.

    It launches nothing: a tick is one look at MLflow a slot, and a repair is one call. While MLflow
    is down it skips and says so. A move that Dagster's catalog does not show is shown there.
    """

    @dg.sensor(
        name=f"{spec.name}_reconcile_slot",
        minimum_interval_seconds=60,
        default_status=default_status,
        description=f"Keeps MLflow's alias of {spec.name} where the ledger says, and opens an "
        "incident when somebody moved it. It starts switched off: turn it on here.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, mlct: MlctHome
    ) -> dg.SensorResult | dg.SkipReason:
        ledger, registry = mlct.home.ledger, mlct.home.promoter
        told, began = list[str](), time.monotonic()
        events = list[dg.AssetObservation | dg.AssetMaterialization]()
        for slot in spec.deployments:
            if time.monotonic() - began > _LONGEST:
                told.append(f"no time was left for slot {slot!r}")
                break
            try:
                if spec.registry_stage and slot == spec.slot:
                    registry.mirror(spec.name, slot, live(ledger, spec.name, slot))
                found = reconcile(
                    ledger, registry, spec.name, slot, actor=f"dagster:{spec.name}_reconcile_slot"
                )
            except RegistryError as error:
                told.append(f"slot {slot!r} was not looked at, or not repaired: {error}")
                continue
            version = "nothing is live" if found.after is None else f"version {found.after} is live"
            told.append(f"{found.found}; now {version}" if found.found else f"{slot}: {version}")
            if found.record is not None:
                events.append(repair_event(spec.name, found.record))
        if (move := unseen(context.instance, spec, ledger)) is not None:
            told.append(f"the catalog had not seen statement {move.sequence}")
            events.append(champion_event(spec.name, move))
        if not events:
            return dg.SkipReason("; ".join(told))
        context.log.warning("; ".join(told))
        return dg.SensorResult(asset_events=events)

    return sensor


def unseen(instance: dg.DagsterInstance, spec: ModelSpec, ledger: Ledger) -> Record | None:
    """The main slot's last move, if Dagster's catalog does not show it: no run did, or it died.

    A move of the last minute may still be on its way there.
    """
    move = ledger.head(slot_key(spec.name, spec.slot))
    if move is None or ledger.clock() - datetime.fromisoformat(move.recorded_at) < WINDOW:
        return None
    event = instance.get_latest_materialization_event(key(spec, "champion"))
    shown = event.asset_materialization if event is not None else None
    if shown is not None and shown.metadata == champion_event(spec.name, move).metadata:
        return None
    return move
