"""The slot state machine: what is live, promotion, rollback, quarantine, reconcile.

The ledger is the authority: one statement moves a slot. The registry's alias is a projection of
it, written afterwards, read back, and repaired by `project` whenever the two differ.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from mlct.data.digest import sha256
from mlct.errors import (
    MlctError,
    PromotionRefused,
    RegistryError,
    RollbackRefused,
    SlotMoved,
)
from mlct.release.approval.approvers import Approvers
from mlct.release.approval.request import Request, judge, require, slot_key
from mlct.release.ledger import Ledger, Record, instant, statement

SLOT = "production"
#: What a version brings back with it.
_STAYS = ("rollback_target", "artifact", "evidence", "approvals", "approvers")


class Registry(Protocol):
    """What the slot needs of a model registry. Every method may raise RegistryError."""

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


def request(ledger: Ledger, model: str, version: int | None = None, slot: str = SLOT) -> Request:
    """The request for a version, refused where no approval could carry it."""
    asked = Request.of(ledger, model, version, slot)
    name = f"{model}@{asked.version}"
    if reason := _banned(ledger, model, asked.version, asked.artifact):
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
    head, champion = (current.sequence, current.version) if current else (0, None)
    if current and champion == asked.version:
        raise PromotionRefused(
            f"{name} is live in {slot!r} since {current.since}", expected="another version"
        )
    if (head, champion) != (asked.head, asked.champion):
        raise PromotionRefused(
            f"{name} was evaluated against {_champion(asked.champion)}, but {slot!r} now serves "
            f"{_champion(champion)} by statement {head}",
            expected="the champion of the evaluation, unmoved since",
            fix=f"Run {model}_retrain to evaluate it against what is live now, then approve again",
        )
    return asked


def _banned(ledger: Ledger, model: str, version: int, artifact: str) -> str | None:
    """Why a version may not come back, nor its bytes under another number."""
    for record in ledger.records(kind="quarantine", model=model, subject=artifact, limit=1):
        return str(record.predicate["reason"])
    return quarantined(ledger, model).get(version)


def _champion(version: int | None) -> str:
    return "nothing" if version is None else f"version {version}"


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
    evidence (`evidence(digest)` reads its bytes), the artifact's bytes in the registry, the
    approvals, and again inside the transaction that nobody moved the slot. Raises an MlctError with
    nothing written; if only the alias is behind, a RegistryError whose `record` is the promotion.
    """
    ledger.verify()
    asked = request(ledger, model, version, slot)
    _agrees(evidence(asked.evidence), asked)
    held = registry.artifact(model, version)
    if held != asked.artifact:
        raise PromotionRefused(
            f"the registry's bytes of {model}@{version} hash to {held}",
            expected=asked.artifact,
            fix="Somebody changed the artifact after its evaluation: train a new version and find "
            "out who can write to the artifact store",
        )
    with ledger.transaction():
        if request(ledger, model, version, slot) != asked:
            raise PromotionRefused(
                f"{model}@{version} was evaluated again while its bytes were checked",
                expected="one evaluation",
                fix=f"Look at it: `mlct request {model}@{version}`",
            )
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
    _follow(ledger, registry, record, actor=actor)
    return record


def _agrees(evidence: bytes, asked: Request) -> None:
    """The evidence, whose digest people signed, must itself say what the gate statement says."""
    wanted = {n: getattr(asked, n) for n in ("model", "version", "artifact", "champion")}
    said, verdict = dict[str, Any](), f"other bytes ({sha256(evidence)[:12]})"
    if sha256(evidence) == asked.evidence:
        report = json.loads(evidence)
        said, verdict = {n: report.get(n) for n in wanted}, report["decision"]["verdict"]
    if said != wanted or verdict != "PASS":
        raise PromotionRefused(
            f"the evidence {asked.evidence[:12]} says {verdict} about {said}",
            expected=f"PASS about {wanted}",
            fix="The gate statement does not come from this evaluation: find out who can write "
            f"to the ledger and the store, then run {asked.model}_retrain",
        )


def rollback_target(ledger: Ledger, current: Live) -> int | None:
    """The newest earlier version of the slot's approved chain, other bytes, not quarantined."""
    origins = _origins(ledger, current)
    target, seen = current.rollback_target, {current.version}
    while target is not None and target in origins and target not in seen:
        says = origins[target].predicate
        banned = _banned(ledger, current.model, target, says["artifact"])
        if not banned and says["artifact"] != current.artifact:
            return target
        seen.add(target)
        target = says["rollback_target"]
    return None


def _origins(ledger: Ledger, current: Live) -> dict[int, Record]:
    """The promotion that brought each version last into the slot."""
    moves = ledger.records(slot=slot_key(current.model, current.slot), kind="promotion")
    return {m.predicate["version"]: m for m in reversed(moves)}


def roll_back(
    ledger: Ledger,
    registry: Registry,
    artifact: Callable[[str], object],
    *,
    model: str,
    reason: str,
    actor: str,
    slot: str = SLOT,
    version: int | None = None,
) -> Record:
    """Move a slot back to its recorded, earlier approved version and quarantine what it served.

    `artifact(digest)` reads and verifies the target's bytes before anything moves. `version` names
    what to take out: whoever saw it fail should say so, or two people who press at once go back
    twice. No approval is asked for: people approved the target, and the approval of what it
    replaces named it. Raises an MlctError with nothing written; if only the alias is behind, a
    RegistryError whose `record` is the rollback.
    """
    current = live(ledger, model, slot)
    if current is None:
        raise RollbackRefused(
            f"nothing is live in {slot!r} of {model}",
            expected="a promoted version",
            fix=f"Promote one: `mlct request {model}`",
        )
    if version not in (None, current.version):
        raise SlotMoved(
            f"{model}@{current.version} is live in {slot!r} since {current.since}",
            expected=f"version {version}, which was to be rolled back",
            fix="Somebody was faster: look at `mlct history` before going back further",
            slot=slot_key(model, slot),
            head=current.sequence,
        )
    target = rollback_target(ledger, current)
    if target is None:
        raise RollbackRefused(
            f"{model}@{current.version} has no earlier approved version to go back to",
            expected="a rollback target in the ledger",
            fix="Promote a new version",
        )
    origin = _origins(ledger, current)[target]
    # Damage elsewhere in the ledger must not stop a rollback; in these rows it must.
    ledger.require_intact(current.record, origin)
    says = origin.predicate
    artifact(says["artifact"])
    with ledger.transaction():
        if rollback_target(ledger, current) != target:
            raise RollbackRefused(
                f"{model}@{target} was quarantined meanwhile",
                expected="an approved version",
                fix="Roll back again",
            )
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
                    "reason": reason,
                    **{n: says[n] for n in _STAYS},
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
    _follow(ledger, registry, record, actor=actor)
    return record


def _follow(ledger: Ledger, registry: Registry, record: Record, *, actor: str) -> None:
    """Project a move that is in the ledger already, and say so where the registry cannot follow."""
    says = record.predicate
    model, slot, version = says["model"], says["slot"], says["version"]
    try:
        project(ledger, registry, model, slot, actor=actor, usual=says["replaces"])
    except MlctError as error:
        raise RegistryError(
            f"{model}@{version} is live in {slot!r} by statement {record.sequence} of the ledger, "
            f"but the registry's alias is behind: {error.found}",
            expected="the alias on what the ledger says is live",
            fix=f"Do not repeat the {record.kind}, which is done: run `mlct reconcile {model}` "
            "when the registry answers",
            record=record,
        ) from error


def project(
    ledger: Ledger,
    registry: Registry,
    model: str,
    slot: str = SLOT,
    *,
    actor: str,
    usual: int | None = 0,
) -> Mapping[str, Any]:
    """Make the registry's alias equal the ledger; safe to run at any time, by anyone.

    Returns `{"ledger", "before", "after"}`. A repair is recorded with what was found (an alias
    moved by hand, or left behind by a crash), unless that is `usual`. Raises RegistryError when the
    alias cannot be made to agree.
    """
    before = registry.alias(model, slot)
    if live(ledger, model, slot) is None:
        if before is not None:
            raise RegistryError(
                f"alias {slot!r} of {model} points at version {before}, which nobody promoted",
                expected="no alias: the ledger says that nothing is live",
                fix="Delete the alias in the registry, and find out who set it",
            )
        return {"ledger": None, "before": None, "after": None}
    for _ in range(5):
        current = live(ledger, model, slot)
        assert current is not None, "a slot never empties"
        found = registry.alias(model, slot)
        if found == current.version:
            if before not in (current.version, usual):
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
        f"alias {slot!r} of {model} does not stay where the ledger says",
        expected="one writer of the alias",
        fix=f"Find what else moves the alias, then run `mlct reconcile {model}`",
    )
