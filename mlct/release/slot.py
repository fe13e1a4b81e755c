"""The slot state machine: what is live, promotion, rollback, quarantine, reconcile.

The ledger is the authority: one statement moves a slot. The registry's alias is a projection of
it, written afterwards, read back, and repaired by `project` whenever the two differ.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from mlct.errors import PromotionRefused, RegistryError, RollbackRefused
from mlct.release.approval.approvers import Approvers
from mlct.release.approval.request import Request, judge, require, slot_key
from mlct.release.ledger import Ledger, Record, instant, statement

SLOT = "production"


class Registry(Protocol):
    """What the slot needs of a model registry."""

    def alias(self, model: str, alias: str) -> int | None:
        """The version that an alias points at."""

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Point an alias at a version."""

    def artifact(self, model: str, version: int) -> str:
        """Digest of a version's bytes as the registry would serve them now."""


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
    """State of every version: candidate, gated, approved, production, retired, quarantined."""
    found: dict[int, str] = {}
    for record in reversed(ledger.records(model=model)):
        says = record.predicate
        if record.kind == "training":
            found.setdefault(says["version"], "candidate")
        elif record.kind == "gate" and says["slot"] == slot:
            if found.get(says["version"]) in ("candidate", "gated", "approved"):
                found[says["version"]] = "gated" if says["verdict"] == "PASS" else "candidate"
        elif record.kind == "approval" and says["slot"] == slot and says["decision"] == "approve":
            if found.get(says["version"]) == "gated":
                found[says["version"]] = "approved"
        elif record.slot == slot_key(model, slot):
            found = {v: "retired" if s == "production" else s for v, s in found.items()}
            found[says["version"]] = "production"
        elif record.kind == "quarantine":
            found[says["version"]] = "quarantined"
    return found


def request(ledger: Ledger, model: str, version: int | None = None, slot: str = SLOT) -> Request:
    """The request for a version, refused where no approval could carry it."""
    asked = Request.of(ledger, model, version, slot)
    name = f"{model}@{asked.version}"
    if reason := quarantined(ledger, model).get(asked.version):
        raise PromotionRefused(
            f"{name} is quarantined: {reason}",
            expected="a version that was never rolled back",
            fix="Train a new version",
        )
    if asked.verdict != "PASS":
        raise PromotionRefused(
            f"the gate says {asked.verdict} for {name}: {'; '.join(asked.reasons)}",
            expected="PASS",
            fix="Train a better version, or gather the rows that the gate asks for",
        )
    current = live(ledger, model, slot)
    if current and current.version == asked.version:
        raise PromotionRefused(
            f"{name} is live in {slot!r} since {current.since}", expected="another version"
        )
    if (current.sequence if current else 0) != asked.head:
        serving = f"version {current.version}" if current else "nothing"
        raise PromotionRefused(
            f"{name} was evaluated against {_champion(asked.champion)}, but {slot!r} now serves "
            f"{serving}",
            expected="the champion of the evaluation, unmoved since",
            fix=f"Run {model}_retrain to evaluate it against what is live now, then approve again",
        )
    return asked


def _champion(version: int | None) -> str:
    return "no champion" if version is None else f"version {version}"


def promote(
    ledger: Ledger,
    registry: Registry,
    approvers: Approvers,
    evidence: Callable[[str], bytes],
    *,
    model: str,
    version: int,
    actor: str,
    slot: str = SLOT,
) -> Record:
    """Move a slot to an approved version; the only function that puts something new there.

    Checks, in this order: the ledger's chain, the gate, quarantine, the champion unmoved, the
    evidence's bytes (`evidence(digest)` reads and verifies them), the artifact's bytes in the
    registry, the approvals, and again inside the transaction that nobody moved the slot. Raises
    PromotionRefused or SlotMoved with nothing written; RegistryError if only the alias is behind.
    """
    ledger.verify()
    asked = request(ledger, model, version, slot)
    evidence(asked.evidence)
    held = registry.artifact(model, version)
    if held != asked.artifact:
        raise PromotionRefused(
            f"the registry's bytes of {model}@{version} hash to {held}",
            expected=asked.artifact,
            fix="Somebody changed the artifact after its evaluation: train a new version and find "
            "out who can write to the artifact store",
        )
    with ledger.transaction():
        asked = request(ledger, model, version, slot)
        counted = require(judge(ledger, asked, approvers, at=ledger.clock()), asked, approvers)
        record = ledger.append(
            statement(
                "promotion",
                {"artifact": asked.artifact, "evidence": asked.evidence},
                {
                    "model": model,
                    "slot": slot,
                    "version": version,
                    "replaces": asked.champion,
                    "rollback_target": asked.rollback_target,
                    "artifact": asked.artifact,
                    "evidence": asked.evidence,
                    "gate": asked.gate,
                    "policy": approvers.digest,
                    "approvals": [a.record.hash for a in counted],
                    "approvers": [f"{a.says['approver']} ({a.says['role']})" for a in counted],
                },
            ),
            actor=actor,
            slot=slot_key(model, slot),
            supersedes=asked.head,
        )
    project(ledger, registry, model, slot, actor=actor)
    return record


def rollback_target(ledger: Ledger, current: Live) -> int | None:
    """The newest earlier version of the slot's approved chain that is not quarantined."""
    banned = quarantined(ledger, current.model)
    moves = ledger.records(slot=slot_key(current.model, current.slot))
    recorded = {m.predicate["version"]: m.predicate["rollback_target"] for m in reversed(moves)}
    target, seen = current.rollback_target, {current.version}
    while target is not None and target not in seen:
        if target not in banned:
            return target
        seen.add(target)
        target = recorded.get(target)
    return None


def roll_back(
    ledger: Ledger,
    registry: Registry,
    artifact: Callable[[str], object],
    *,
    model: str,
    reason: str,
    actor: str,
    slot: str = SLOT,
) -> Record:
    """Move a slot back to its recorded, earlier approved version and quarantine what it served.

    `artifact(digest)` reads and verifies the target's bytes before anything moves. No approval is
    asked for: people approved the target, and the approval of what it replaces named it. Raises
    RollbackRefused with nothing written; RegistryError if only the alias is behind.
    """
    with ledger.transaction():
        current = live(ledger, model, slot)
        if current is None:
            raise RollbackRefused(
                f"nothing is live in {slot!r} of {model}",
                expected="a promoted version",
                fix=f"Promote one: `mlct request {model}`",
            )
        target = rollback_target(ledger, current)
        if target is None:
            raise RollbackRefused(
                f"{model}@{current.version} has no earlier approved version to go back to",
                expected="a rollback target in the ledger",
                fix="Promote a new version",
            )
        origin = next(
            m
            for m in ledger.records(slot=slot_key(model, slot), kind="promotion")
            if m.predicate["version"] == target
        )
        says = origin.predicate
        artifact(says["artifact"])
        record = ledger.append(
            statement(
                "rollback",
                {"artifact": says["artifact"]},
                {
                    "model": model,
                    "slot": slot,
                    "version": target,
                    "from": current.version,
                    "replaces": current.version,
                    "rollback_target": says["rollback_target"],
                    "artifact": says["artifact"],
                    "evidence": says["evidence"],
                    "approvals": says["approvals"],
                    "approvers": says["approvers"],
                    "reason": reason,
                },
            ),
            actor=actor,
            slot=slot_key(model, slot),
            supersedes=current.sequence,
        )
        ledger.append(
            statement(
                "quarantine",
                {"artifact": current.artifact},
                {"model": model, "slot": slot, "version": current.version, "reason": reason},
            ),
            actor=actor,
        )
    project(ledger, registry, model, slot, actor=actor)
    return record


def project(
    ledger: Ledger, registry: Registry, model: str, slot: str = SLOT, *, actor: str
) -> Mapping[str, Any]:
    """Make the registry's alias equal the ledger; safe to run at any time, by anyone.

    Returns `{"ledger", "before", "after"}`. A repair of an alias that somebody else moved is
    recorded. Raises RegistryError when the alias cannot be made to agree.
    """
    current = live(ledger, model, slot)
    if current is None:
        return {"ledger": None, "before": None, "after": None}
    before = registry.alias(model, slot)
    for _ in range(5):
        current = live(ledger, model, slot) or current
        found = registry.alias(model, slot)
        if found == current.version:
            expected = {current.version, current.record.predicate["replaces"]}
            if before not in expected:
                ledger.append(
                    statement(
                        "reconcile",
                        {"artifact": current.artifact},
                        {
                            "model": model,
                            "slot": slot,
                            "version": current.version,
                            "found": before,
                            "reason": "the alias did not point at what the ledger says is live",
                        },
                    ),
                    actor=actor,
                )
            return {"ledger": current.version, "before": before, "after": found}
        registry.set_alias(model, slot, current.version)
    raise RegistryError(
        f"alias {slot!r} of {model} does not stay on version {current.version}",
        expected="what the ledger says is live",
        fix=f"Find what else moves the alias, then run `mlct reconcile {model}`",
    )
