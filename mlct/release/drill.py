"""Rollback drills: the approved chain of a slot played again on a stage, and what came of it.

A drill moves slot `drill` of a ledger that is thrown away afterwards. Into the real ledger it
writes what was found, a `drill` statement and an incident where it failed, and nothing that moves a
slot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from mlct.errors import RollbackRefused
from mlct.release.approval.request import slot_key
from mlct.release.incident import close_incident, incidents, open_incident, step
from mlct.release.ledger import Ledger, Record, statement
from mlct.release.slot.state import FALLBACK, live, origins, rollback_targets

DRILL = "drill"
#: The scenario that the schedule plays; the others are for a game day.
ROLLBACK = "rollback"
SCENARIOS = (
    ROLLBACK,
    "corrupted-artifact",
    "missing-target",
    "registry-down",
    "bad-features",
    "degraded-model",
)
_DEPTH = 3


def chain(ledger: Ledger, model: str, slot: str) -> list[Record]:
    """The promotions that a drill plays: of what is live, and of what it may go back to.

    At most three; all were approved by people for this slot, or as its fallback. Raises
    RollbackRefused where there is nothing to go back to.
    """
    current = live(ledger, model, slot)
    targets = [] if current is None else list(rollback_targets(ledger, current))
    if current is None or not targets:
        raise RollbackRefused(
            f"{slot!r} of {model} has no approved version to go back to",
            expected="two versions that people promoted, or a fallback",
            fix="Promote another version: until then a bad one cannot be rolled back",
        )
    return [origins(ledger, current)[current.version], *targets[: _DEPTH - 1]]


def rehearse(
    played: Sequence[Record],
    trainings: Sequence[Mapping[str, Any]],
    stage: Ledger,
    *,
    actor: str,
) -> None:
    """Write a chain into the ledger of a stage, so that its first version is live in slot `drill`.

    `trainings` are the training predicates that checks will ask for, oldest first; what is served
    of a version is what they say. The promotions carry what people approved, and name the statement
    that they play.
    """
    for says in trainings:
        stage.append(statement("training", {"artifact": says["artifact"]}, says), actor=actor)
    artifacts = {says["version"]: says["artifact"] for says in trainings}
    for origin in reversed(played):
        says = origin.predicate
        slot = FALLBACK if says["slot"] == FALLBACK else DRILL
        before = stage.head(slot_key(says["model"], slot))
        last = before.predicate["version"] if before else None
        restated = says | {
            "slot": slot,
            "artifact": artifacts[says["version"]],
            "replaces": last,
            "rollback_target": last,
            "plays": origin.hash,
        }
        stage.append(
            statement("promotion", {"artifact": restated["artifact"]}, restated),
            actor=actor,
            slot=slot_key(says["model"], slot),
            supersedes=before.sequence if before else 0,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a scenario was to show and what it showed; `seconds` from breach to served."""

    scenario: str
    expected: str
    observed: str
    passed: bool
    seconds: float


def record_drill(
    ledger: Ledger, outcome: Outcome, *, model: str, slot: str, bar: float, actor: str
) -> Record:
    """Append the `drill` statement; a failure opens an incident that pages, a success closes it."""
    says = {"model": model, "slot": slot, "bar": bar} | asdict(outcome)
    current = live(ledger, model, slot)
    subjects = {} if current is None else {"artifact": current.artifact}
    with ledger.transaction():
        record = ledger.append(statement("drill", subjects, says), actor=actor)
        if outcome.passed:
            for known in incidents(ledger, model):
                same = outcome.scenario in (known.episode, ROLLBACK)
                if known.open and known.kind == "drill" and known.slot == slot and same:
                    close_incident(
                        ledger,
                        known.opened,
                        summary=f"a drill passed in {outcome.seconds:.2f} s",
                        actor=actor,
                    )
        else:
            open_incident(
                ledger,
                model=model,
                slot=slot,
                kind="drill",
                episode=outcome.scenario,
                summary=f"drill {outcome.scenario!r} failed: {outcome.observed}",
                timeline=[step(ledger, f"expected: {outcome.expected}; {outcome.observed}")],
                severity="high",
                pages=True,
                actor=actor,
            )
    return record


@dataclass(frozen=True, kw_only=True, slots=True)
class Readiness:
    """Whether the last drill says that a rollback would work; `due` is when it is overdue."""

    ready: bool
    told: str
    last: Record | None
    due: datetime | None


def readiness(
    ledger: Ledger, *, model: str, slot: str, overdue: timedelta, at: datetime
) -> Readiness:
    """Look at the newest drill of a slot. Before the first, time counts from the first promotion
    that left something to go back to."""
    drills = [
        r
        for r in ledger.records(kind="drill", model=model)
        if (r.predicate["slot"], r.predicate["scenario"]) == (slot, ROLLBACK)
    ]
    moves = ledger.records(slot=slot_key(model, slot))[::-1]
    began = next((m for m in moves if m.predicate["rollback_target"] is not None), None)
    last = drills[0] if drills else None
    start = last or began
    if start is None:
        told = "nothing to go back to yet: no drill is due"
        return Readiness(ready=True, told=told, last=None, due=None)
    due = datetime.fromisoformat(start.recorded_at) + overdue
    if last is not None and not last.predicate["passed"]:
        told = f"the last drill failed: {last.predicate['observed']}"
        return Readiness(ready=False, told=told, last=last, due=due)
    told = f"the last drill took {last.predicate['seconds']:.2f} s" if last else "never drilled"
    late = "" if at < due else f", overdue since {due:%Y-%m-%d %H:%M} UTC"
    return Readiness(ready=not late, told=told + late, last=last, due=due)
