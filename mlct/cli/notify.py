"""`mlct notify`: who is told of incidents, what did not arrive, and whether each can be reached."""

from typing import Any

from mlct.adapters.home import Home
from mlct.adapters.outbox import Event, problems
from mlct.adapters.pager import channels
from mlct.cli import answers
from mlct.data.digest import digest
from mlct.errors import NotifyError
from mlct.release.incident import Incident
from mlct.release.ledger import Record, instant


def answer(home: Home, options: Any) -> tuple[Any, str]:
    """The channels and what they were not told; with `--test`, one message to each.

    Raises NotifyError where no channel is set up, or one did not take the test.
    """
    known = channels(home)
    if not known:
        raise NotifyError("nobody is told of incidents", fix="Set MLCT_PAGERDUTY_KEY, MLCT_NOTIFY")
    if not options.test:
        missing = [p for model in home.ledger.models() for p in problems(home.ledger, known, model)]
        found = [{"channel": c.name, "takes": _takes(c)} for c in known]
        text = answers.table([{"CHANNEL": c["channel"], "TAKES": c["takes"]} for c in found])
        return {"channels": found, "missing": missing}, "\n".join([text, *missing])
    said, at = dict[str, str](), instant(home.ledger.clock())
    for channel in known:
        try:
            for action in ("trigger", "resolve"):
                channel.send(_test(at, options.slot, action))
        except NotifyError as error:
            said[channel.name] = str(error)
    text = answers.table(
        [{"CHANNEL": c.name, "ANSWER": said.get(c.name, "took it")} for c in known]
    )
    if said:
        raise NotifyError(f"{', '.join(said)} did not take the test\n{text}\n", answers=said)
    return {c.name: "took it" for c in known}, text


def _takes(channel: Any) -> str:
    tags = getattr(channel, "tags", {"page"})
    return ", ".join(sorted(tags)) or "all incidents"


def _test(at: str, slot: str, action: Any) -> Event:
    """An event of an incident that is in no ledger."""
    record = Record(
        sequence=0,
        recorded_at=at,
        actor="mlct notify --test",
        kind="incident",
        model="mlct",
        slot=None,
        supersedes=None,
        body=b"{}",
        signature=None,
        previous_hash="",
        hash="",
    )
    incident = Incident(
        name=digest(at),
        model="mlct",
        slot=slot,
        kind="test",
        episode=at,
        summary="a test of who is told: there is nothing to do",
        severity="low",
        pages=True,
        open=action == "trigger",
        timeline=({"at": at, "what": "mlct notify --test"},),
        records=(record,),
    )
    return Event(action=action, incident=incident, record=record, pages=True)
