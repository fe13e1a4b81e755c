"""Telling people of incidents."""

import json
from collections.abc import Callable, Sequence

import dagster as dg

from mlct.adapters import pager
from mlct.adapters.home import Home
from mlct.adapters.outbox import Channel, deliver, head
from mlct.defs.resources import MlctHome
from mlct.errors import NotifyError
from mlct.spec import ModelSpec


def notify_on_incident(
    spec: ModelSpec,
    *,
    channels: Callable[[Home], Sequence[Channel]] = pager.channels,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
) -> dg.SensorDefinition:
    """Pages and tells of a model's incidents, as the ledger has them; it launches nothing.

    `channels` gives who is told: PagerDuty and the routes of the environment, or your own. A tick
    with nothing to tell is one indexed query. The cursor keeps only when to try again: without it
    nothing is lost, and nothing that was taken is sent twice.
    """
    name = f"{spec.name}_notify"

    @dg.sensor(
        name=name,
        minimum_interval_seconds=30,
        default_status=default_status,
        description=f"Pages for {spec.name} through PagerDuty, and tells whom MLCT_NOTIFY names. "
        "It starts switched off: turn it on here.",
    )
    def sensor(context: dg.SensorEvaluationContext, mlct: MlctHome) -> dg.SkipReason:
        home = mlct.home
        known = channels(home)
        names = [channel.name for channel in known]
        if not known:
            return dg.SkipReason("Nobody is told: set MLCT_PAGERDUTY_KEY or MLCT_NOTIFY.")
        kept = json.loads(context.cursor) if context.cursor else {}
        last = head(home.ledger, spec.name)
        if (kept.get("head", 0), kept.get("channels")) == (last, names):
            return dg.SkipReason(f"Everything up to statement {last} was told.")
        try:
            done = deliver(
                home,
                known,
                model=spec.name,
                actor=f"dagster:{name}",
                tries=kept.get("tries"),
            )
        except NotifyError as error:
            return dg.SkipReason(str(error))
        context.update_cursor(
            json.dumps({"head": done.head, "channels": names, "tries": dict(done.tries)})
        )
        for said in done.refused:
            context.log.error("given up: %s", said)
        for said in done.waiting:
            context.log.warning("waits: %s", said)
        counts = {"told": done.told, "waiting": done.waiting, "given up": done.refused}
        told = [f"{len(lines)} {what}: {lines[0]}" for what, lines in counts.items() if lines]
        return dg.SkipReason("; ".join(told) or "Nothing to tell.")

    return sensor
