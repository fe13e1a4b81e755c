"""What every job that moves a slot does around the move."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from mlct.defs.assets.champion import champion_event
from mlct.defs.names import PERSON_TAG
from mlct.errors import MlctError
from mlct.release.approval.request import slot_key
from mlct.release.ledger import Ledger
from mlct.spec import ModelSpec


@contextmanager
def moving(
    context: dg.OpExecutionContext, spec: ModelSpec, ledger: Ledger, slot: str = ""
) -> Iterator[str]:
    """Around a slot move by the actor that it yields: shows the move, and fails the run readably.

    The asset `champion` shows the main slot only. The actor is the run, and the person who launched
    it where a run coordinator says so.

    The ledger moves first. When MLflow then cannot be reached the run fails, but the move is real,
    is shown, and must not be tried again.
    """
    person = context.run.tags.get(PERSON_TAG)
    actor = f"dagster:{context.run.run_id}" + (f" by {person}" if person else "")

    def events() -> list[dg.AssetMaterialization]:
        if slot not in ("", spec.slot):
            return []
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
