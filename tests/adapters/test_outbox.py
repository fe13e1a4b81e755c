"""The outbox: what pages arrives, once an episode and in order, whatever fails on the way."""

import os
import signal
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlct.adapters import outbox
from mlct.adapters.home import Home
from mlct.adapters.outbox import deliver, problems
from mlct.adapters.pager import PagerDuty
from mlct.errors import NotifyError
from mlct.release.incident import (
    acknowledge_incident,
    close_incident,
    incidents,
    note_incident,
    open_incident,
    step,
)
from mlct.release.ledger import Ledger


class Clock:
    """Each look is a second later; `pass_` lets more go by."""

    def __init__(self) -> None:
        self.time = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.time += timedelta(seconds=1)
        return self.time

    def pass_(self, **time: float) -> None:
        self.time += timedelta(**time)


class Office:
    """A home whose ledger has a clock of its own."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.home, self.tries = Clock(), Home(root=str(folder)), {}
        folder.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(folder / "ledger.db", clock=self.clock)
        self.home.__dict__["ledger"] = self.ledger

    def open(self, episode: str = "1", *, pages: bool = True) -> Any:
        return open_incident(
            self.ledger,
            model="m",
            slot="production",
            kind="rollback",
            episode=episode,
            summary=f"{episode} is bad",
            timeline=[step(self.ledger, "seen")],
            severity="high",
            pages=pages,
            actor="test",
        )

    def close(self, opened: Any) -> None:
        close_incident(self.ledger, opened, summary="mended", actor="test")

    def deliver(self, *channels: Any, **how: Any) -> Any:
        """One tick, which remembers its tries as the sensor does."""
        how = {"model": "m", "actor": "test", "tries": self.tries} | how
        done = deliver(self.home, channels, **how)
        self.tries = done.tries
        return done


class Memory:
    """A channel that remembers what it took; `fails` are raised first, one a message."""

    def __init__(self, name: str = "memory", *fails: NotifyError | None, pages: bool = False):
        self.name, self.fails, self.pages = name, list(fails), pages
        self.got = list[tuple[str, str]]()

    def takes(self, event: Any) -> bool:
        return event.pages or not self.pages

    def send(self, event: Any) -> None:
        if self.fails and (error := self.fails.pop(0)):
            raise error
        self.got.append((event.action, event.incident.episode))


@pytest.fixture
def office(tmp_path):
    return Office(tmp_path)


@pytest.fixture
def pager(paging_service):
    return PagerDuty(key="k" * 32, url=paging_service.url, timeout=0.2)


def test_sixty_episodes_are_sixty_incidents_although_two_of_five_calls_fail(
    office, pager, paging_service
):
    paging_service.failing(0.4, seed=7)
    open_now = []
    for number in range(60):
        open_now.append(office.open(str(number)))
        if number % 3 == 2:
            office.deliver(pager)
            office.clock.pass_(minutes=1)
        if number >= 20:
            office.close(open_now.pop(0))
    for opened in open_now:
        office.close(opened)
    for _ in range(200):
        if not office.deliver(pager).waiting:
            break
        office.clock.pass_(minutes=10)
    assert paging_service.failures > 40
    assert {"500", "429", "timeout", "cut"} == set(paging_service.kinds)
    assert paging_service.opened == {f"mlct/m/production/rollback/{n}": 1 for n in range(60)}
    assert paging_service.open == set()
    assert paging_service.absorbed > 0  # what was taken, but not answered, came again


def test_a_pager_that_dies_between_sending_and_recording_sends_again(office, pager, monkeypatch):
    taken = Memory()
    for episode in "ab":
        office.close(office.open(episode))
    told, deaths = outbox.tell_incident, iter([1, 1, 0, 1, 0, 0, 1, 0])

    def dies(*words: Any, **how: Any) -> None:
        if next(deaths, 0):
            raise SystemExit("killed")
        told(*words, **how)

    monkeypatch.setattr(outbox, "tell_incident", dies)
    for _ in range(8):
        try:
            office.deliver(taken, tries=None)
        except SystemExit:
            continue
    assert [a for a in dict.fromkeys(taken.got) if a[1] == "a"] == [
        ("trigger", "a"),
        ("resolve", "a"),
    ]
    assert Counter(taken.got)["trigger", "a"] == 3  # twice killed: once more each
    assert not office.deliver(taken).told


def test_a_process_killed_right_after_the_service_took_it_loses_nothing(
    office, pager, paging_service
):
    office.open("1")
    code = f"""
from mlct.adapters.home import Home
from mlct.adapters.outbox import deliver
from mlct.adapters.pager import PagerDuty
pager = PagerDuty(key="k" * 32, url={paging_service.url!r}, timeout=20)
deliver(Home(root={office.home.root!r}), [pager], model="m", actor="test")
"""
    paging_service.before_answer = lambda: os.kill(process.pid, signal.SIGKILL)
    process = subprocess.Popen([sys.executable, "-c", code])
    assert process.wait(60) == -signal.SIGKILL
    paging_service.before_answer = None
    assert paging_service.open  # taken, and nobody recorded it
    assert not any("told" in r.predicate for r in office.ledger.records())
    assert len(office.deliver(pager).told) == 1
    assert (list(paging_service.opened.values()), paging_service.absorbed) == ([1], 1)


def test_an_episode_that_comes_back_is_paged_anew(office, pager, paging_service):
    for _ in range(2):
        office.close(office.open("1"))
        office.deliver(pager)
    assert list(paging_service.opened.values()) == [2]
    assert paging_service.open == set()


def test_a_reopened_episode_waits_for_the_end_of_the_last(office):
    channel = Memory("memory", None, NotifyError("down"))
    office.close(office.open("1"))
    office.open("1")
    office.open("2")
    office.deliver(channel)
    assert channel.got == [("trigger", "1"), ("trigger", "2")]
    office.clock.pass_(hours=1)
    office.deliver(channel)
    assert channel.got[2:] == [("resolve", "1"), ("trigger", "1")]


def test_what_is_refused_for_good_is_not_sent_again_and_is_seen(office):
    channel = Memory("memory", NotifyError("answered 400", final=True))
    opened = office.open("1")
    (refused,) = office.deliver(channel).refused
    assert "answered 400" in refused
    assert office.deliver(channel).told == ()
    assert channel.got == []
    (problem,) = problems(office.ledger, [channel], "m")
    assert "memory refused trigger mlct/m/production/rollback/1: answered 400" in problem
    (found,) = incidents(office.ledger, "m")
    assert "was not told" in found.timeline[-1]["what"]
    office.close(opened)
    office.deliver(channel)
    assert channel.got == [("resolve", "1")]


def test_a_failure_is_tried_again_later_each_time(office):
    channel, waits = Memory("memory", *[NotifyError("down")] * 9), []
    office.open()
    for _ in range(9):
        (waiting,) = office.deliver(channel).waiting
        waits.append(int(waiting.split("again in ")[1].split()[0]))
        assert "again after" in office.deliver(channel).waiting[0]
        office.clock.pass_(seconds=waits[-1])
    assert waits == [10, 20, 40, 80, 160, 320, 600, 600, 600]
    assert len(office.deliver(channel).told) == 1


def test_who_asks_to_be_left_alone_is(office):
    channel = Memory("memory", NotifyError("429", wait=3600.0))
    office.open()
    office.deliver(channel)
    office.clock.pass_(minutes=59)
    assert office.deliver(channel).waiting
    office.clock.pass_(minutes=2)
    assert office.deliver(channel).told


def test_after_a_week_of_trying_it_is_given_up(office):
    channel = Memory("memory", *[NotifyError("revoked")] * 99)
    office.open(pages=False)
    for _ in range(2):
        assert office.deliver(channel).waiting
        office.clock.pass_(days=6)
    assert len(office.deliver(channel).refused) == 1
    assert not office.deliver(channel).waiting


def test_a_new_channel_hears_of_open_pages_and_of_no_history(office):
    first = Memory("first")
    office.close(office.open("old"))
    office.open("chatter", pages=False)
    office.open("still bad")
    office.deliver(first)
    office.clock.pass_(days=2)
    second = Memory("second")
    office.deliver(first, second)
    assert second.got == [("trigger", "still bad")]
    assert len(first.got) == 4


def test_an_end_is_told_however_late(office):
    channel = Memory()
    opened = office.open("1", pages=False)
    office.deliver(channel)
    office.close(opened)
    office.clock.pass_(days=90)
    office.deliver(channel, tries=None)
    assert channel.got[-1] == ("resolve", "1")


def test_only_what_pages_pages_from_when_it_does(office):
    pages, chat = Memory("pages", pages=True), Memory("chat")
    opened = office.open("1", pages=False)
    office.deliver(pages, chat)
    assert (pages.got, chat.got) == ([], [("trigger", "1")])
    office.open("1", pages=True)
    note_incident(office.ledger, opened, timeline=[step(office.ledger, "more")], actor="test")
    acknowledge_incident(office.ledger, opened, who="first on call", actor="test")
    office.close(opened)
    acknowledge_incident(office.ledger, opened, who="somebody late", actor="test")
    office.deliver(pages, chat)
    assert pages.got == [("trigger", "1"), ("acknowledge", "1"), ("resolve", "1")]
    assert chat.got == [("trigger", "1"), *pages.got]


def test_what_was_told_leaves_a_closed_incident_closed(office):
    office.close(office.open())
    office.deliver(Memory())
    (found,) = incidents(office.ledger, "m")
    assert not found.open
    assert [s["what"] for s in found.timeline][2:] == [
        "memory was told: trigger mlct/m/production/rollback/1",
        "memory was told: resolve mlct/m/production/rollback/1",
    ]
    assert office.ledger.verify() == 4


def test_one_channel_that_is_down_keeps_no_other_back(office):
    down, up = Memory("down", *[NotifyError("down")] * 9), Memory("up")
    office.open("1")
    assert len(office.deliver(down, up).told) == 1
    assert up.got == [("trigger", "1")]


def test_when_time_is_up_the_rest_waits_and_is_told_next(office):
    channel = Memory()
    for episode in "abc":
        office.open(episode)
    assert len(office.deliver(channel, seconds=-1).waiting) == 3
    assert len(office.deliver(channel).told) == 3


def test_two_processes_never_tell_of_a_model_at_once(office):
    office.open()

    class Curious(Memory):
        def send(self, event: Any) -> None:
            with pytest.raises(NotifyError, match="another process"):
                office.deliver(Memory("second"))
            super().send(event)

    channel = Curious()
    office.deliver(channel)
    assert channel.got


def test_an_open_page_that_nobody_took_is_a_problem_after_ten_minutes(office):
    channel = Memory("pager", pages=True)
    opened = office.open()
    assert problems(office.ledger, [channel], "m") == []
    office.clock.pass_(minutes=11)
    (problem,) = problems(office.ledger, [channel], "m")
    assert "pager was not told of trigger mlct/m/production/rollback/1" in problem
    office.close(opened)
    assert problems(office.ledger, [channel], "m") == []


PART = st.text("a/%2F5", max_size=5) | st.text(st.characters(codec="utf-8"), max_size=90)


@given(parts=st.lists(st.tuples(PART, PART, PART, PART), min_size=2, unique=True))
def test_keys_are_short_and_tell_episodes_apart(parts):
    names = ("model", "slot", "kind", "episode")
    keys = [
        outbox.dedup_key(SimpleNamespace(**dict(zip(names, part, strict=True)))) for part in parts
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(key) <= 255 and key.startswith("mlct/") for key in keys)


def test_a_slash_in_a_name_parts_nothing():
    def key(model: str, slot: str) -> str:
        return outbox.dedup_key(SimpleNamespace(model=model, slot=slot, kind="k", episode=""))

    assert len({key("a", "b/c"), key("a/b", "c"), key("a%2Fb", "c")}) == 3


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.integers(0, 2), st.booleans()),
        st.tuples(st.sampled_from(["close", "acknowledge"]), st.integers(0, 2), st.none()),
        st.tuples(st.just("deliver"), st.lists(st.booleans(), max_size=4), st.booleans()),
    ),
    max_size=14,
)


@settings(deadline=None, max_examples=40)
@given(steps=STEPS)
def test_each_key_is_told_in_order_whatever_fails_when(steps, tmp_path_factory):
    """In order means: what arrives, repetitions aside, is what the ledger says of the key."""
    office = Office(tmp_path_factory.mktemp("outbox"))
    channel, opened, wanted = Memory(pages=True), dict[str, Any](), dict[str, list[str]]()
    paging = dict[str, bool]()
    for what, which, more in steps:
        if what == "deliver":
            channel.fails = [NotifyError("down") if bad else None for bad in which]
            office.deliver(channel, tries=None if more else office.tries)
            office.clock.pass_(minutes=1)
            continue
        name = str(which)
        told = wanted.setdefault(name, [])
        if what == "open":
            opened[name] = office.open(name, pages=more)
            if more and not paging.get(name):
                told.append("trigger")
            paging[name] = paging.get(name, False) or more
        elif name in opened:
            if what == "close":
                office.close(opened.pop(name))
            else:
                acknowledge_incident(office.ledger, opened[name], who="x", actor="test")
            if paging[name]:
                told.append("resolve" if what == "close" else what)
            paging[name] = paging[name] and what != "close"
    channel.fails = []
    assert not office.deliver(channel, tries=None).waiting
    got = {name: [action for action, e in channel.got if e == name] for name in wanted}
    assert got == wanted
