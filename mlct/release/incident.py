"""Incidents: episodes that somebody should know of, opened once, told step by step, closed.

An incident is one or more statements of kind `incident` about one subject, `incident`, whose digest
is the episode's name: opened, then noted or acknowledged any number of times, then closed. What a
channel was told of it is one more (`mlct.adapters.outbox`), also after it was closed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlct.data.digest import digest
from mlct.errors import LedgerError
from mlct.release.ledger import Ledger, Record, instant, statement

SEVERITIES = ("low", "medium", "high")

Step = Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Incident:
    """An episode as all of its statements tell it: `timeline` holds `{"at", "what"}`, and `records`
    the statements, both in order."""

    name: str
    model: str
    slot: str
    kind: str
    episode: str
    summary: str
    severity: str
    pages: bool
    open: bool
    timeline: tuple[Step, ...]
    records: tuple[Record, ...]

    @property
    def opened(self) -> Record:
        """The statement that opened it."""
        return self.records[0]


def step(ledger: Ledger, what: str) -> dict[str, str]:
    """A step of a timeline that happened just now."""
    return {"at": instant(ledger.clock()), "what": what}


def open_incident(
    ledger: Ledger,
    *,
    model: str,
    slot: str,
    kind: str,
    summary: str,
    timeline: Iterable[Step],
    severity: str,
    pages: bool,
    actor: str,
    episode: str = "",
) -> Record:
    """Open an incident, or find the open one of the same episode; returns the opening statement.

    Model, slot, `kind` (such as "rollback" or "alias") and `episode` (what tells one from the
    next: a version, a run) name it. While it is open, opening it again writes nothing, unless it
    must page now and did not before; once it is closed, a new one is opened. `pages` says whether
    a person has to be woken; whoever pages reads it.
    """
    if severity not in SEVERITIES:
        raise LedgerError(f"an incident of severity {severity!r}", expected=", ".join(SEVERITIES))
    with ledger.transaction():
        known = [i for i in incidents(ledger, model) if i.open]
        same = next(
            (i for i in known if (i.slot, i.kind, i.episode) == (slot, kind, episode)), None
        )
        if same is not None:
            if pages and not same.pages:
                _append(ledger, same, "noted", timeline, actor, summary=summary, pages=True)
            return same.opened
        says = {
            "model": model,
            "slot": slot,
            "kind": kind,
            "episode": episode,
            "event": "opened",
            "summary": summary,
            "severity": severity,
            "pages": pages,
            "timeline": [dict(s) for s in timeline],
        }
        # The last statement's hash tells this episode from an earlier one of the same name.
        last = ledger.records(limit=1)
        name = digest({"after": last[0].hash if last else "", **says})
        return ledger.append(
            statement("incident", {"incident": name}, says | {"incident": name}), actor=actor
        )


def note_incident(ledger: Ledger, opened: Record, *, timeline: Iterable[Step], actor: str) -> None:
    """Add steps to an incident's timeline."""
    _append(ledger, of(ledger, opened), "noted", timeline, actor)


def acknowledge_incident(ledger: Ledger, opened: Record, *, who: str, actor: str) -> None:
    """Record that somebody works on it, so that nobody else is called; closed ones stay closed."""
    with ledger.transaction():
        found = of(ledger, opened)
        if found.open:
            steps = [step(ledger, f"{who} works on it")]
            _append(ledger, found, "acknowledged", steps, actor)


def tell_incident(
    ledger: Ledger, about: Record, *, channel: str, what: str, problem: str = "", actor: str
) -> None:
    """Record that a channel took one statement of an incident, or refused it for good (`problem`).

    `about` is that statement, and `what` says in a few words what the channel was told.
    """
    said = f"{channel} was told: {what}"
    if problem:
        said = f"{channel} was not told: {what}. {problem}"
    told = {"channel": channel, "statement": about.sequence, "problem": problem}
    _append(ledger, of(ledger, about), "told", [step(ledger, said)], actor, told=told)


def close_incident(ledger: Ledger, opened: Record, *, summary: str, actor: str) -> None:
    """Close an incident with what ended it; closing it twice writes nothing."""
    with ledger.transaction():
        found = of(ledger, opened)
        if found.open:
            _append(ledger, found, "closed", [step(ledger, summary)], actor)


def incidents(ledger: Ledger, model: str) -> list[Incident]:
    """Every incident of a model, newest first."""
    told: dict[str, list[Record]] = {}
    for record in reversed(ledger.records(kind="incident", model=model)):
        told.setdefault(record.predicate["incident"], []).append(record)
    return [_incident(name, records) for name, records in reversed(told.items())]


def of(ledger: Ledger, opened: Record) -> Incident:
    """The incident that a statement opened, as it stands now."""
    name = opened.predicate["incident"]
    return _incident(name, ledger.records(kind="incident", subject=name)[::-1])


def _incident(name: str, records: list[Record]) -> Incident:
    first, says = records[0].predicate, [r.predicate for r in records]
    return Incident(
        name=name,
        model=first["model"],
        slot=first["slot"],
        kind=first["kind"],
        episode=first["episode"],
        summary=next(s["summary"] for s in reversed(says) if "summary" in s),
        severity=first["severity"],
        pages=any(s.get("pages", False) for s in says),
        open=all(s["event"] != "closed" for s in says),
        timeline=tuple(step for s in says for step in s["timeline"]),
        records=tuple(records),
    )


def _append(
    ledger: Ledger,
    incident: Incident,
    event: str,
    timeline: Iterable[Step],
    actor: str,
    **more: Any,
) -> None:
    says: dict[str, Any] = {"model": incident.model, "incident": incident.name, "event": event}
    says |= {"timeline": [dict(s) for s in timeline], **more}
    ledger.append(statement("incident", {"incident": incident.name}, says), actor=actor)
