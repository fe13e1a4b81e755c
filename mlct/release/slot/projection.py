"""The registry's alias as a projection of the ledger: written after a move, read back, repaired."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from mlct.errors import MlctError, RegistryError
from mlct.release.incident import (
    Incident,
    close_incident,
    incidents,
    note_incident,
    of,
    open_incident,
    step,
)
from mlct.release.ledger import Ledger, Record, statement
from mlct.release.slot.state import SLOT, Live, live

INCIDENT = "alias"
ALIAS = "the alias did not point at what the ledger says is live"
STAGE = "stage Production did not hold what the ledger says is live"

#: A promotion or rollback has this long to move the alias before a repair is worth a statement.
WINDOW = timedelta(seconds=60)
#: An incident is over when nobody moved the alias for this long.
QUIET = timedelta(minutes=15)


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What a registry says of a slot: its alias, and where mlct pointed that alias last.

    `stage` holds the versions in stage Production, None where no stage follows the slot.
    """

    alias: int | None
    pointed: int | None = None
    stage: frozenset[int] | None = None


class Registry(Protocol):
    """What the slot needs of a model registry. Every method may raise RegistryError."""

    def alias(self, model: str, alias: str) -> int | None:
        """The version that an alias points at."""

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Point an alias, and the stage that follows it, at a version."""

    def delete_alias(self, model: str, alias: str) -> None:
        """Take an alias away, and all versions out of the stage that follows it."""

    def standing(self, model: str, alias: str) -> Standing:
        """All that the registry says of a slot."""

    def artifact(self, model: str, version: int) -> str:
        """Digest of a version's bytes as the registry would serve them now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconciled:
    """What a reconcile found and did: versions of the ledger and of the alias before and after.

    `found` tells what was wrong, empty where all agreed; `by_hand` whether somebody else than mlct
    had moved it. `record` is the statement of the repair, `incident` the one that opened the
    episode.
    """

    ledger: int | None
    before: int | None
    after: int | None
    by_hand: bool = False
    found: str = ""
    record: Record | None = None
    incident: Record | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; statements by their sequence."""
        names = ("ledger", "before", "after", "by_hand", "found")
        plain: dict[str, Any] = {n: getattr(self, n) for n in names}
        return plain | {
            n: r.sequence if (r := getattr(self, n)) else None for n in ("record", "incident")
        }


def follow(ledger: Ledger, registry: Registry, record: Record, *, actor: str) -> None:
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

    Returns `{"ledger", "before", "after"}`. The alias of a slot in which nothing was ever promoted
    is taken away, if this is the ledger of that slot. A repair is recorded with what was found (an
    alias moved by hand, or left behind by a crash), unless that is `usual`. Raises RegistryError
    when the alias cannot be made to agree.
    """
    before = registry.alias(model, slot)
    if before is not None and live(ledger, model, slot) is None:
        _answers(ledger, registry, model, slot)
    after, current = _settle(ledger, registry, model, slot, before)
    if before not in (after, usual):
        _record(ledger, model, slot, current, before, ALIAS, actor)
    return {"ledger": after, "before": before, "after": after}


def _answers(ledger: Ledger, registry: Registry, model: str, slot: str) -> None:
    """A ledger in which nothing was ever promoted to a slot may say so of that slot.

    It put something forward there, and mlct never moved the alias by another one. A wrong or empty
    ledger would take away what serves. Raises RegistryError.
    """
    pointed = registry.standing(model, slot).pointed
    gates = ledger.records(kind="gate", model=model)
    known = any(g.predicate["slot"] == slot for g in gates)
    # Asked last: a move stands in the ledger before mlct points the alias.
    if (pointed is not None or not known) and live(ledger, model, slot) is None:
        raise RegistryError(
            f"{ledger.name} never moved slot {slot!r} of {model}, and "
            + ("mlct did" if pointed is not None else "evaluated nothing for it"),
            expected="the ledger of this registry, and a slot of the model",
            fix="Check MLCT_HOME, MLCT_LEDGER and the slot's name; nothing was changed",
        )


def _settle(
    ledger: Ledger, registry: Registry, model: str, slot: str, found: int | None
) -> tuple[int | None, Live | None]:
    """Move the alias, read as `found`, until it agrees; returns what it points at, and why.

    The alias has to be read before the ledger: a move stands in the ledger before its alias is
    set, so that what the ledger says then is never older than the alias.
    """
    for _ in range(5):
        current = live(ledger, model, slot)
        version = current.version if current else None
        if found == version:
            return version, current
        if version is None:
            registry.delete_alias(model, slot)
        else:
            registry.set_alias(model, slot, version)
        found = registry.alias(model, slot)
    raise RegistryError(
        f"alias {slot!r} of {model} does not stay where the ledger says",
        expected="one writer of the alias",
        fix=f"Find what else moves the alias, then run `mlct reconcile {model}`",
    )


def reconcile(
    ledger: Ledger, registry: Registry, model: str, slot: str = SLOT, *, actor: str
) -> Reconciled:
    """Compare alias and stage with the ledger, repair them, and tell of what somebody else moved.

    What was moved by hand opens one incident an episode: before the repair, noted at each further
    one, closed when nothing was moved for `QUIET`. What a crash or an outage left behind is
    repaired without one. One look at the registry when all agrees. Raises RegistryError when the
    registry does not answer or cannot be made to agree.
    """
    found = registry.standing(model, slot)
    current = live(ledger, model, slot)
    version = current.version if current else None
    if found.alias == version and found.stage in (None, _only(version)):
        _close(ledger, model, slot, actor)
        return Reconciled(ledger=version, before=found.alias, after=version)
    if current is None:
        _answers(ledger, registry, model, slot)
    # While a move is under way, alias and stage stand where it goes or where mlct put them last.
    to, last = _only(version), _only(found.pointed)
    by_hand = found.alias not in (version, found.pointed) or (
        found.stage not in (None, to, last, to | last)
    )
    told = _told(slot, found)
    wrong = f"{told}; the ledger says {_name(version)}"
    opened = _open(ledger, model, slot, wrong, actor) if by_hand else None
    try:
        after, current = _settle(ledger, registry, model, slot, found.alias)
        if found.stage is not None and registry.standing(model, slot).stage != _only(after):
            if after is None:
                registry.delete_alias(model, slot)
            else:
                registry.set_alias(model, slot, after)
    except MlctError as error:
        if opened is not None:
            said = f"no repair: {error.found}"
            if all(s["what"] != said for s in of(ledger, opened).timeline):
                note_incident(ledger, opened, timeline=[step(ledger, said)], actor=actor)
        raise
    under_way = current is not None and ledger.clock() - _at(current.record) < WINDOW
    record = None
    if by_hand or not under_way:
        reason = ALIAS if found.alias != after else STAGE
        record = _record(ledger, model, slot, current, found.alias, reason, actor)
    if opened is not None:
        note_incident(
            ledger, opened, timeline=[step(ledger, f"repaired: {_name(after)}")], actor=actor
        )
    return Reconciled(
        ledger=after,
        before=found.alias,
        after=after,
        by_hand=by_hand,
        found=told,
        record=record,
        incident=opened,
    )


def _record(
    ledger: Ledger,
    model: str,
    slot: str,
    current: Live | None,
    found: int | None,
    reason: str,
    actor: str,
) -> Record:
    says = {"model": model, "slot": slot, "found": found, "reason": reason}
    says |= {"version": current.version if current else None}
    subjects = {"artifact": current.artifact} if current else {}
    return ledger.append(statement("reconcile", subjects, says), actor=actor)


def _open(ledger: Ledger, model: str, slot: str, what: str, actor: str) -> Record:
    """The incident of this episode, with what was seen just now."""
    known = _episode(ledger, model, slot)
    if known is not None:
        note_incident(ledger, known.opened, timeline=[step(ledger, what)], actor=actor)
        return known.opened
    return open_incident(
        ledger,
        model=model,
        slot=slot,
        kind=INCIDENT,
        summary=f"somebody moved what MLflow says of {model}: {what}",
        timeline=[step(ledger, what)],
        severity="high",
        pages=False,
        actor=actor,
    )


def _episode(ledger: Ledger, model: str, slot: str) -> Incident | None:
    known = (i for i in incidents(ledger, model) if (i.slot, i.kind) == (slot, INCIDENT))
    return next((i for i in known if i.open), None)


def _close(ledger: Ledger, model: str, slot: str, actor: str) -> None:
    known = _episode(ledger, model, slot)
    if known is None or ledger.clock() - datetime.fromisoformat(known.timeline[-1]["at"]) < QUIET:
        return
    minutes = int(QUIET.total_seconds()) // 60
    summary = f"nobody moved it for {minutes} minutes; find out who did"
    close_incident(ledger, known.opened, summary=summary, actor=actor)


def _at(record: Record) -> datetime:
    return datetime.fromisoformat(record.recorded_at)


def _only(version: int | None) -> frozenset[int]:
    return frozenset() if version is None else frozenset({version})


def _name(version: int | None) -> str:
    return "nothing is live" if version is None else f"version {version} is live"


def _told(slot: str, found: Standing) -> str:
    told = f"alias {slot!r} pointed at {found.alias or 'nothing'}"
    if found.stage is not None:
        told += f", stage Production at {', '.join(map(str, sorted(found.stage))) or 'nothing'}"
    return told
