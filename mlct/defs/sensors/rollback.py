"""When to roll back."""

from datetime import timedelta

import dagster as dg

from mlct.adapters.home import Home
from mlct.adapters.rollback import hold, judge_signals, told_of
from mlct.defs.names import CAUSE_TAG, REASON_TAG
from mlct.defs.resources import MlctHome
from mlct.release.incident import open_incident, step
from mlct.release.ledger import instant
from mlct.spec import ModelSpec

#: So many runs that failed are enough: the next one would fail too.
TRIES = 3
#: A rollback takes seconds: a run that is open for longer hangs, or never started.
LONGEST = timedelta(minutes=5)


def rollback_on_breach(
    spec: ModelSpec, *, default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED
) -> dg.SensorDefinition:
    """Requests `m_rollback` when the stored signals breach; one request per move of the slot.

    Level-triggered: each tick looks at the stored windows of what is live. The run key names the
    statement that put it there, so that neither a restart nor more windows ask twice; a run that
    failed is asked for again, with the next number, and so is one that hangs, with a page.
    """
    job = f"{spec.name}_rollback"
    name = f"{spec.name}_rollback_on_breach"

    @dg.sensor(
        name=name,
        job_name=job,
        minimum_interval_seconds=10,
        default_status=default_status,
        description=f"Rolls {spec.name} back, without a human, when a signal of its RollbackPolicy "
        "breaches; only to a version that people approved. It starts switched off: turn it on "
        "here.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, mlct: MlctHome
    ) -> dg.SensorResult | dg.SkipReason:
        found = [wanted(context, mlct.home, slot) for slot in (spec.slot, *spec.slots)]
        requests = [f for f in found if isinstance(f, dg.RunRequest)]
        if requests:
            return dg.SensorResult(run_requests=requests)
        return dg.SkipReason(" | ".join(str(f) for f in found))

    def wanted(context: dg.SensorEvaluationContext, home: Home, slot: str) -> dg.RunRequest | str:
        """The run that a slot needs, or why it needs none."""
        actor = f"dagster:{name}"
        current, decision = judge_signals(home, model=spec.name, slot=slot, policy=spec.rollback)
        if current is not None:
            told_of(home, current, actor=actor)
        if current is None or not decision.roll_back:
            return decision.reason
        if hold(home, current, decision, actor=actor):
            return (
                f"version {current.version} came by rollback and breaches too: a person is paged. "
                f"{decision.reason}"
            )
        cause = f"breach:{slot}:{current.sequence}"
        known = context.instance.get_run_records(
            dg.RunsFilter(job_name=job, tags={CAUSE_TAG: cause}), limit=TRIES
        )
        begun = [r.create_timestamp for r in known if not r.dagster_run.is_finished]
        if any(home.ledger.clock() - at < LONGEST for at in begun):
            return f"{job} is under way: {decision.reason}"
        spent = len(known) >= TRIES
        if begun or spent:
            hangs = f"hangs ({len(begun)} of {len(known)} runs have not ended)"
            wrong = hangs if begun else f"failed {len(known)} times"
            summary = f"{job} {wrong} for version {current.version}"
            open_incident(
                home.ledger,
                model=spec.name,
                slot=slot,
                kind="rollback",
                episode=f"version {current.version} failed",
                summary=summary,
                timeline=[step(home.ledger, summary)],
                severity="high",
                pages=True,
                actor=actor,
            )
        if spent:
            return f"{summary}: {decision.reason}"
        reason = f"signal {', '.join(decision.signals)}: {decision.reason}"
        seen = instant(decision.seen) if decision.seen else ""
        config = {"version": current.version, "reason": reason, "seen": seen}
        config |= {"slot": "" if slot == spec.slot else slot}
        return dg.RunRequest(
            run_key=f"{spec.name}:{cause}:{len(known)}",
            run_config={"ops": {f"{spec.name}_roll_back": {"config": config}}},
            tags={CAUSE_TAG: cause, REASON_TAG: reason[:250]},
        )

    return sensor
