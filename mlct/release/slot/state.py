"""What a slot serves, what it may go back to, and the state of every version."""

from dataclasses import dataclass
from datetime import datetime

from mlct.release.approval.request import slot_key
from mlct.release.ledger import Ledger, Record, instant

SLOT = "production"


@dataclass(frozen=True, kw_only=True, slots=True)
class Live:
    """What a slot serves, since when, by which statement, and what it rolls back to."""

    model: str
    slot: str
    version: int
    artifact: str
    since: str
    sequence: int
    move: str
    rollback_target: int | None
    record: Record


def live(
    ledger: Ledger, model: str, slot: str = SLOT, *, at: datetime | None = None
) -> Live | None:
    """What the slot serves now, or served at a time. None before the first promotion."""
    if at is None:
        head = ledger.head(slot_key(model, slot))
    else:
        moves = ledger.records(slot=slot_key(model, slot))
        head = next((m for m in moves if m.recorded_at <= instant(at)), None)
    if head is None:
        return None
    says = head.predicate
    return Live(
        model=model,
        slot=slot,
        version=says["version"],
        artifact=says["artifact"],
        since=head.recorded_at,
        sequence=head.sequence,
        move=head.kind,
        rollback_target=says["rollback_target"],
        record=head,
    )


def quarantined(ledger: Ledger, model: str) -> dict[int, str]:
    """Versions that may not come back, with the reason."""
    records = ledger.records(kind="quarantine", model=model)
    return {r.predicate["version"]: r.predicate["reason"] for r in records}


def states(ledger: Ledger, model: str, slot: str = SLOT) -> dict[int, str]:
    """State of every version: candidate, gated, approved, production, retired, quarantined.

    "approved" says that somebody did; whether the approvals suffice is for `judge` and `require`.
    A rejected version is a candidate again, a retired one that passed a new gate is gated again.
    """
    found: dict[int, str] = {}
    for record in reversed(ledger.records(model=model)):
        says = record.predicate
        state = found.get(says.get("version", 0))
        if record.kind == "training":
            found.setdefault(says["version"], "candidate")
        elif record.kind == "gate" and says["slot"] == slot:
            if says["verdict"] == "PASS" and state in ("candidate", "approved", "retired"):
                found[says["version"]] = "gated"
            elif says["verdict"] != "PASS" and state in ("gated", "approved"):
                found[says["version"]] = "candidate"
        elif record.kind == "approval" and says["slot"] == slot:
            if state in ("gated", "approved"):
                approved = says["decision"] == "approve"
                found[says["version"]] = "approved" if approved else "candidate"
        elif record.slot == slot_key(model, slot):
            found = {v: "retired" if s == "production" else s for v, s in found.items()}
            found[says["version"]] = "production"
        elif record.kind == "quarantine":
            found[says["version"]] = "quarantined"
    return found


def banned(ledger: Ledger, model: str, version: int, artifact: str) -> str | None:
    """Why a version may not come back, nor its bytes under another number."""
    for record in ledger.records(kind="quarantine", model=model, subject=artifact, limit=1):
        return str(record.predicate["reason"])
    return quarantined(ledger, model).get(version)


def rollback_target(ledger: Ledger, current: Live) -> int | None:
    """The newest earlier version of the slot's approved chain, other bytes, not quarantined."""
    brought = origins(ledger, current)
    target, seen = current.rollback_target, {current.version}
    while target is not None and target in brought and target not in seen:
        says = brought[target].predicate
        barred = banned(ledger, current.model, target, says["artifact"])
        if not barred and says["artifact"] != current.artifact:
            return target
        seen.add(target)
        target = says["rollback_target"]
    return None


def origins(ledger: Ledger, current: Live) -> dict[int, Record]:
    """The promotion that brought each version last into the slot."""
    moves = ledger.records(slot=slot_key(current.model, current.slot), kind="promotion")
    return {m.predicate["version"]: m for m in reversed(moves)}
