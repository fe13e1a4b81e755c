"""The outbox: what is still to be told of incidents, to whom; and what came of telling it.

The ledger is the outbox. An incident's statement is the message, written with what it speaks of; a
channel that took it, or refused it for good, is one more statement of that incident. What is
neither is sent. A crash in between sends it again: at least once, and in the order of the ledger
for each deduplication key, which lets the other side drop what it has.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from mlct.adapters.home import Home
from mlct.data.digest import sha256
from mlct.data.window import parse_instant
from mlct.errors import NotifyError
from mlct.release.incident import Incident, incidents, tell_incident
from mlct.release.ledger import Ledger, Record, instant

Action = Literal["trigger", "acknowledge", "resolve"]
#: `{"CHANNEL STATEMENT": (how often it was tried, not again before)}`.
Tries = Mapping[str, Sequence[Any]]

KEY = 255
#: A channel that never heard of an incident is not told of one that was over so long ago: a channel
#: that is new must not be flooded with history.
FRESH = timedelta(days=1)
#: What was tried in vain for so long is given up.
PATIENCE = timedelta(days=7)
#: An open page that nobody took for so long is a problem of its own.
LATE = timedelta(minutes=10)
_FIRST, _LONGEST = 10.0, 600.0
_ACTIONS: Mapping[str, Action] = {
    "opened": "trigger",
    "acknowledged": "acknowledge",
    "closed": "resolve",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing to tell: `record` is the statement that says so, `incident` how it stands now.

    `pages` is whether the incident paged as of that statement.
    """

    action: Action
    incident: Incident
    record: Record
    pages: bool

    @property
    def key(self) -> str:
        """The deduplication key: the same for all that is said of an episode."""
        return dedup_key(self.incident)

    @property
    def at(self) -> datetime:
        return parse_instant(self.record.recorded_at)

    @property
    def tags(self) -> frozenset[str]:
        """What routes may ask for: model, slot, kind, severity, and "page" of what pages."""
        found = self.incident
        page = {"page"} if self.pages else set[str]()
        return frozenset({found.model, found.slot, found.kind, found.severity} | page)

    def __str__(self) -> str:
        return f"{self.action} {self.key}"


class Channel(Protocol):
    """Somewhere to tell. `name` is kept in the ledger: it tells channels apart, without secrets."""

    @property
    def name(self) -> str: ...

    def takes(self, event: Event) -> bool:
        """Whether this is told there at all."""

    def send(self, event: Event) -> None:
        """Tell it, once, within seconds. Raises NotifyError where it was not taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """What one attempt came to, as lines to read; `tries` is for the next one.

    `head` is the last statement that it has seen, 0 while something waits.
    """

    told: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    tries: Tries
    head: int = 0


def dedup_key(incident: Incident) -> str:
    """`mlct/MODEL/SLOT/KIND/EPISODE`, at most 255 characters; other episodes have other keys."""
    parts = (incident.model, incident.slot, incident.kind, incident.episode)
    quoted = (part.replace("%", "%25").replace("/", "%2F") for part in parts)
    whole = "/".join(("mlct", *quoted))
    if len(whole) <= KEY:
        return whole
    named = sha256(whole.encode("utf-8", "backslashreplace"))
    return f"{whole[: KEY - len(named) - 1]}/{named}"


def events(found: Sequence[Incident]) -> list[Event]:
    """All that there is to tell of incidents, in the order of the ledger."""
    told = [event for incident in found for event in _events(incident)]
    return sorted(told, key=lambda event: event.record.sequence)


def _events(incident: Incident) -> Iterator[Event]:
    pages = False
    for record in incident.records:
        says = record.predicate
        more = bool(says.get("pages"))
        pages |= more
        action = _ACTIONS.get(says["event"]) or ("trigger" if more else None)
        if action:
            yield Event(action=action, incident=incident, record=record, pages=pages)


def outcomes(found: Sequence[Incident]) -> dict[tuple[str, int], str]:
    """`{(channel, statement): problem}`: what was told ("" for the problem) or refused for good."""
    told = [r.predicate["told"] for i in found for r in i.records if "told" in r.predicate]
    return {(t["channel"], t["statement"]): t["problem"] for t in told}


def head(ledger: Ledger, model: str) -> int:
    """The last statement about an incident of a model. One indexed query."""
    last = ledger.records(kind="incident", model=model, limit=1)
    return last[0].sequence if last else 0


def pending(
    found: Sequence[Incident], channel: Channel, *, at: datetime, tries: Tries
) -> list[Event]:
    """What a channel has yet to be told, in order."""
    done = outcomes(found)
    known = {
        event.incident.name
        for event in events(found)
        if (channel.name, event.record.sequence) in done or _name(channel, event) in tries
    }

    def history(event: Event) -> bool:
        incident = event.incident
        last = [r for r in incident.records if r.predicate["event"] != "told"][-1]
        over = at - parse_instant(last.recorded_at) > FRESH
        return over and incident.name not in known and not (incident.open and incident.pages)

    return [
        event
        for event in events(found)
        if channel.takes(event)
        and (channel.name, event.record.sequence) not in done
        and not history(event)
    ]


def deliver(
    home: Home,
    channels: Sequence[Channel],
    *,
    model: str,
    actor: str,
    tries: Tries | None = None,
    seconds: float = 20.0,
) -> Delivery:
    """Tell every channel what it has yet to be told of a model's incidents.

    `tries` is what the last call returned: without it, what failed is tried again at once. Begins
    nothing after `seconds`, of which each channel has its share. A failure keeps back what has the
    same key, and nothing else; it is tried again after 10, 20, 40 ... 600 seconds, or when the
    other side says. What cannot succeed, or did not for a week, is a statement with the problem.
    Raises NotifyError while another process delivers for the same model.
    """
    import filelock

    home.path.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(home.path / f"notify-{sha256(model.encode())[:16]}.lock", timeout=0)
    try:
        with lock:
            return _deliver(home.ledger, channels, model, actor, tries or {}, seconds)
    except filelock.Timeout as error:
        raise NotifyError(f"another process tells of {model}'s incidents right now") from error


def _deliver(
    ledger: Ledger,
    channels: Sequence[Channel],
    model: str,
    actor: str,
    tries: Tries,
    seconds: float,
) -> Delivery:
    found, later = incidents(ledger, model), dict[str, Sequence[Any]]()
    told, waiting, refused = list[str](), list[str](), list[str]()
    for channel in channels:
        until = time.monotonic() + seconds / len(channels)
        held = set[str]()
        for event in pending(found, channel, at=ledger.clock(), tries=tries):
            said, name = f"{channel.name}: {event}", _name(channel, event)
            count, again = tries.get(name, (0, ""))
            now = ledger.clock()
            problem, wait = "", 0.0
            if event.key in held:
                problem = "what came before it waits"
            elif again and now < parse_instant(again):
                problem = f"again after {again}"
            elif time.monotonic() > until:
                problem = "no time was left"
            if problem:
                if count:
                    later[name] = (count, again)
                held.add(event.key)
                waiting.append(f"{said} ({problem})")
                continue
            try:
                channel.send(event)
            except NotifyError as error:
                if not error.final and not (count and now - event.at > PATIENCE):
                    wait = max(error.wait, min(_FIRST * 2**count, _LONGEST))
                    later[name] = (count + 1, instant(now + timedelta(seconds=wait)))
                    held.add(event.key)
                    waiting.append(f"{said} ({error}; again in {wait:g} s)")
                    continue
                problem = str(error)
            tell_incident(
                ledger,
                event.record,
                channel=channel.name,
                what=str(event),
                problem=problem,
                actor=actor,
            )
            (refused if problem else told).append(f"{said} ({problem})" if problem else said)
    seen = max((i.records[-1].sequence for i in found), default=0)
    return Delivery(
        told=tuple(told),
        waiting=tuple(waiting),
        refused=tuple(refused),
        tries=later,
        head=0 if waiting else seen,
    )


def _name(channel: Channel, event: Event) -> str:
    return f"{channel.name} {event.record.sequence}"


def problems(ledger: Ledger, channels: Sequence[Channel], model: str) -> list[str]:
    """What did not arrive: refused for good in the last week, or an open page that waits."""
    found, at = incidents(ledger, model), ledger.clock()
    told = {event.record.sequence: event for event in events(found)}
    return [
        f"{channel} refused {told[number]}: {problem}"
        for (channel, number), problem in outcomes(found).items()
        if problem and at - told[number].at <= PATIENCE
    ] + [
        f"{channel.name} was not told of {event} since {event.record.recorded_at}"
        for channel in channels
        for event in pending(found, channel, at=at, tries={})
        if event.pages and event.incident.open and at - event.at > LATE
    ]


def paged_at(ledger: Ledger) -> list[datetime]:
    """When incidents of any model began to page, of the newest 1,000 statements about them.

    A person on call answers for all models, so that there is one budget of pages.
    """
    newest = ledger.records(kind="incident", limit=1000)
    return [parse_instant(r.recorded_at) for r in newest if r.predicate.get("pages")]
