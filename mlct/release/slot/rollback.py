"""Rollback: back to an earlier approved version, without a human."""

from collections.abc import Callable

from mlct.errors import RollbackRefused, SlotMoved
from mlct.release.approval.request import slot_key
from mlct.release.ledger import Ledger, Record, statement
from mlct.release.slot.projection import Registry, follow
from mlct.release.slot.state import SLOT, live, origins, rollback_target

#: What a version brings back with it.
STAYS = ("rollback_target", "artifact", "evidence", "approvals", "approvers")


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
    origin = origins(ledger, current)[target]
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
                    **{n: says[n] for n in STAYS},
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
    follow(ledger, registry, record, actor=actor)
    return record
