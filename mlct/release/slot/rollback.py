"""Rollback: back to an earlier approved version, without a human."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mlct.errors import MlctError, RollbackRefused, SlotMoved
from mlct.release.approval.request import slot_key
from mlct.release.incident import Step, incidents, open_incident, step
from mlct.release.ledger import Ledger, Record, statement
from mlct.release.slot.projection import Registry, follow
from mlct.release.slot.state import SLOT, Live, live, rollback_targets

#: What a version brings back with it.
STAYS = ("rollback_target", "artifact", "evidence", "approvals", "approvers")


def roll_back(
    ledger: Ledger,
    registry: Registry,
    check: Callable[[str], object],
    *,
    model: str,
    reason: str,
    actor: str,
    slot: str = SLOT,
    version: int | None = None,
    timeline: Iterable[Step] = (),
) -> Record:
    """Move a slot back to an earlier approved version and quarantine what it served.

    `check(artifact)` looks at a target before anything moves, and raises an MlctError where it is
    unfit: then the next of `rollback_targets` is taken. `version` names what to take out: whoever
    saw it fail should say so, or two people who press at once go back twice. No approval is asked
    for: people approved every target, and the approval of what it replaces named it. `timeline` is
    what happened so far. Raises an MlctError with nothing moved; if only the alias is behind, a
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
    origin, checked, unfit = _fit(ledger, current, check)
    says = origin.predicate
    target = says["version"]
    steps = [*timeline, step(ledger, f"version {target} was looked at and is fit")]
    with ledger.transaction():
        if origin.hash not in {t.hash for t in rollback_targets(ledger, current)}:
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
                    "checked": checked,
                    "unfit": unfit,
                    "timeline": [dict(s) for s in steps],
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


def _fit(
    ledger: Ledger, current: Live, check: Callable[[str], object]
) -> tuple[Record, Mapping[str, Any], list[dict[str, Any]]]:
    """The first fit target, what was verified of it, and the unfit ones before it."""
    unfit = list[dict[str, Any]]()
    for origin in rollback_targets(ledger, current):
        # Damage elsewhere in the ledger must not stop a rollback; in these rows it must.
        ledger.require_intact(current.record, origin)
        says = origin.predicate
        try:
            found = check(says["artifact"])
        except MlctError as error:
            unfit.append({"version": says["version"], "problem": str(error)})
            continue
        return origin, found if isinstance(found, Mapping) else {}, unfit
    told = "; ".join(f"version {u['version']} is unfit: {u['problem']}" for u in unfit)
    raise RollbackRefused(
        f"{current.model}@{current.version} has no earlier approved version to go back to"
        + (f": {told}" if told else ""),
        expected="a fit rollback target in the ledger",
        fix="Promote a new version, or switch off what reads the slot",
        unfit=unfit,
    )


def tell(ledger: Ledger, move: Record, *, actor: str, alias: str) -> Record:
    """Open the incident of a rollback, once; `alias` says how MLflow's alias followed.

    Nobody is woken for a rollback that worked.
    """
    says, episode = move.predicate, f"statement {move.sequence}"
    at = {"at": move.recorded_at}
    moved = f"slot {says['slot']!r} moved to version {says['version']}, {says['from']} quarantined"
    with ledger.transaction():
        for known in incidents(ledger, says["model"]):  # closed ones too: it is over
            if (known.slot, known.kind, known.episode) == (says["slot"], "rollback", episode):
                return known.opened
        return open_incident(
            ledger,
            model=says["model"],
            slot=says["slot"],
            kind="rollback",
            episode=episode,
            summary=f"version {says['from']} was rolled back to {says['version']}: "
            + says["reason"],
            timeline=[*says.get("timeline", ()), at | {"what": moved}, step(ledger, alias)],
            severity="medium",
            pages=False,
            actor=actor,
        )
