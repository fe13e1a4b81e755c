"""Rolling back with the parts of one installation: by hand, from a run, or at once on a breach."""

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from mlct.adapters.home import Home
from mlct.adapters.signals import stored_signals
from mlct.data import snapshot
from mlct.data.window import parse_instant
from mlct.errors import RegistryError, SlotMoved, SnapshotMissing
from mlct.monitoring.breach import RollbackDecision, RollbackPolicy, decide_rollback
from mlct.release.incident import Step, open_incident, step
from mlct.release.ledger import Record, instant
from mlct.release.slot import Live, live, roll_back
from mlct.release.slot.rollback import tell
from mlct.release.slot.target import check_target
from mlct.spec import ModelSpec


def take_back(
    home: Home,
    *,
    model: str,
    slot: str,
    reason: str,
    actor: str,
    version: int | None = None,
    feature_version: str | None = None,
    timeline: Iterable[Step] = (),
    unattended: bool = False,
) -> Record:
    """Roll a slot back with its targets checked, and open the incident.

    `version` names what to take out. A rollback that worked pages nobody; one that did not pages if
    it was `unattended`. Raises what `roll_back` raises; a RegistryError with a `record` means that
    the slot has moved and only the alias is behind.
    """
    ledger, timeline = home.ledger, list(timeline)
    try:
        move = roll_back(
            ledger,
            home.promoter,
            lambda artifact: check_target(
                ledger,
                home.models,
                artifact,
                model=model,
                columns=current_columns(home, model),
                feature_version=feature_version,
            ),
            model=model,
            reason=reason,
            actor=actor,
            slot=slot,
            version=version,
            timeline=timeline,
        )
    except SlotMoved:  # somebody was faster: that is what was wanted
        raise
    except Exception as error:
        record: Record | None = getattr(error, "record", None)
        if isinstance(error, RegistryError) and record is not None:
            tell(ledger, record, actor=actor, alias=f"MLflow's alias is behind: {error.found}")
        elif unattended:
            open_incident(
                ledger,
                model=model,
                slot=slot,
                kind="rollback",
                episode=f"version {version} failed",
                summary=f"version {version} breaches and could not be rolled back: {error}",
                timeline=[*timeline, step(ledger, f"the rollback failed: {error}")],
                severity="high",
                pages=True,
                actor=actor,
            )
        raise
    tell(ledger, move, actor=actor, alias="MLflow's alias followed")
    return move


def current_columns(home: Home, model: str) -> Any:
    """The Arrow schema of the features as they are now; None where no snapshot tells.

    Of a feature asset with partitions it is that of the last one by name.
    """
    newest = home.ledger.records(kind="training", model=model, limit=1)
    path = newest[0].predicate.get("features", ()) if newest else ()
    parts = [quote(part, safe="") for part in path]
    found = home.store.refs("/".join(["assets", *parts, ""])) if parts else {}
    try:
        return snapshot.find(home.store, list(found.values())[-1]).schema if found else None
    except SnapshotMissing:  # cleaned away: that is no fault of what may be gone back to
        return None


def judge_signals(
    home: Home, *, model: str, slot: str, policy: RollbackPolicy
) -> tuple[Live | None, RollbackDecision]:
    """What is live and whether its stored signals breach. Reads only; costs milliseconds."""
    current = live(home.ledger, model, slot)
    if current is None:
        told = "nothing is live yet"
        return None, RollbackDecision(roll_back=False, signals=(), reason=told, seen=None)
    return current, decide_rollback(
        policy,
        stored_signals(home, model, slot, policy),
        version=current.version,
        since=parse_instant(current.since),
    )


def hold(home: Home, current: Live, decision: RollbackDecision, *, actor: str) -> bool:
    """Whether automation has to stop: a version that came by rollback breaches too.

    Then the cause is likely elsewhere, and going back further hides it: a person is woken, once.
    """
    if current.move != "rollback":
        return False
    open_incident(
        home.ledger,
        model=current.model,
        slot=current.slot,
        kind="breach",
        episode=f"statement {current.sequence}",
        summary=f"version {current.version}, which came by rollback, breaches too: "
        + decision.reason,
        timeline=breach_steps(home, decision),
        severity="high",
        pages=True,
        actor=actor,
    )
    return True


def told_of(home: Home, current: Live, *, actor: str) -> None:
    """A crash right after a rollback may have kept its incident from being opened."""
    if current.move == "rollback":
        tell(home.ledger, current.record, actor=actor, alias="told afterwards")


def breach_steps(home: Home, decision: RollbackDecision) -> list[dict[str, str]]:
    """The first steps of a timeline: the breach was reported, and seen."""
    steps = [step(home.ledger, f"decided: {decision.reason}")]
    if decision.seen is not None:
        steps.insert(0, {"at": instant(decision.seen), "what": "the breach was reported"})
    return steps


def roll_back_on_breach(
    spec: ModelSpec, *, home: Home | None = None, actor: str = "mlct:breach"
) -> Record | None:
    """Roll a model back now if its signals breach; the sensor's rule without the daemon.

    Call it after `report_signal`, from whatever serves or scores. Safe to call at any time and from
    many processes: of those that see one breach, one moves the slot. Returns the rollback, or None
    where nothing breaches or somebody was faster. Raises as `mlct.release.slot.roll_back` does; the
    incident that pages is open then.
    """
    return act(
        home or Home.from_environment(),
        model=spec.name,
        slot=spec.slot,
        policy=spec.rollback,
        feature_version=spec.feature_version,
        actor=actor,
    )


def act(
    home: Home,
    *,
    model: str,
    slot: str,
    policy: RollbackPolicy,
    actor: str,
    feature_version: str | None = None,
) -> Record | None:
    """`roll_back_on_breach` without a spec."""
    current, decision = judge_signals(home, model=model, slot=slot, policy=policy)
    if current is not None:
        told_of(home, current, actor=actor)
    if current is None or not decision.roll_back or hold(home, current, decision, actor=actor):
        return None
    try:
        return take_back(
            home,
            model=model,
            slot=slot,
            reason=decision.reason,
            actor=actor,
            version=current.version,
            feature_version=feature_version,
            timeline=breach_steps(home, decision),
            unattended=True,
        )
    except SlotMoved:
        return None
