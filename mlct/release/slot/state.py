"""What a slot serves, what it may go back to, and the state of every version."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from mlct.evaluation.decision import NOT_COMPARED, PASS
from mlct.release.approval.request import slot_key
from mlct.release.ledger import Ledger, Record, instant

SLOT = "production"
#: The slot of what a model falls back to when no earlier version is fit.
FALLBACK = "fallback"


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
    A rejected version is a candidate again, until other evidence is put forward; a retired one that
    passed a new gate is gated again.
    """
    found: dict[int, str] = {}
    refused = set[tuple[int, str]]()
    for record in reversed(ledger.records(model=model)):
        says = record.predicate
        state = found.get(says.get("version", 0))
        if record.kind == "training":
            found.setdefault(says["version"], "candidate")
        elif record.kind == "gate" and says["slot"] == slot:
            if says["verdict"] in (PASS, NOT_COMPARED) and state in (
                "candidate",
                "approved",
                "retired",
            ):
                no = (says["version"], says["evidence"]) in refused
                found[says["version"]] = state if no else "gated"
            elif says["verdict"] not in (PASS, NOT_COMPARED) and state in ("gated", "approved"):
                found[says["version"]] = "candidate"
        elif record.kind == "approval" and says["slot"] == slot:
            approved = says["decision"] == "approve"
            if not approved:
                refused.add((says["version"], says["evidence"]))
            if state in ("gated", "approved"):
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
    """The first of `rollback_targets`, before anybody has looked at its bytes."""
    found: int | None = next(
        (t.predicate["version"] for t in rollback_targets(ledger, current)), None
    )
    return found


def rollback_targets(ledger: Ledger, current: Live) -> Iterator[Record]:
    """The promotions that a slot may go back to, best first: all approved by people before.

    The earlier versions of the slot's approved chain, newest first, then what people put into slot
    `fallback`; other bytes than what is live, and nothing quarantined.
    """
    brought = origins(ledger, current)
    fallback = ledger.head(slot_key(current.model, FALLBACK))
    target, seen = current.rollback_target, {current.version}
    chain = list[Record]()
    while target in brought and target not in seen:
        chain.append(brought[target])
        seen.add(target)
        target = brought[target].predicate["rollback_target"]
    if fallback is not None and fallback.predicate["version"] not in seen:
        chain.append(fallback)
    for record in chain:
        says = record.predicate
        if says["artifact"] != current.artifact and not banned(
            ledger, current.model, says["version"], says["artifact"]
        ):
            yield record


def origins(ledger: Ledger, current: Live) -> dict[int, Record]:
    """The promotion that brought each version last into the slot."""
    moves = ledger.records(slot=slot_key(current.model, current.slot), kind="promotion")
    return {m.predicate["version"]: m for m in reversed(moves)}
