"""Two processes over one ledger, in any order that hypothesis finds, beside a naive model.

Each is told by a pipe what to do. It can be stopped in the middle of a move, after its checks or
between the ledger and the alias, while the other one acts; it goes on later, or is killed there.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from mlct.data.digest import sha256
from mlct.errors import MlctError, PromotionRefused, RollbackRefused, SlotMoved
from mlct.release import slot as slots
from mlct.release.ledger import Ledger
from mlct.release.slot import promotion, rollback

MODEL, SLOT, VERSIONS = "m", "production", range(1, 8)
ROLE = {"ana": "model-risk", "ben": "product"}
CHECKED, MOVED = "after its checks", "between ledger and alias"
FORK = multiprocessing.get_context("fork")
PROFILE = settings(
    max_examples=40,
    stateful_step_count=25,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
HUNT = settings(PROFILE, phases=[Phase.generate], verbosity=Verbosity.quiet, print_blob=False)


class Registry:
    """Aliases as files: each is written whole, by whichever process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def alias(self, model: str, alias: str) -> int | None:
        path = self.folder / alias
        return int(path.read_text()) if path.exists() else None

    def set_alias(self, model: str, alias: str, version: int) -> None:
        staged = self.folder / f"{alias}.{os.getpid()}"
        staged.write_text(str(version))
        staged.replace(self.folder / alias)

    def artifact(self, model: str, version: int) -> str:
        return sha256(b"model %d" % version)


def settle(world: Any, where: str, folder: Path) -> None:
    """Work on this ledger, with this registry and these objects, by the time of the day."""
    ledger = Ledger(where)
    if ledger.path is not None:
        ledger._connection().execute("PRAGMA synchronous = OFF")
    else:
        ledger._connection().execute("SET synchronous_commit = local")
    world.ledger, world.clock, world.registry = ledger, ledger.clock, Registry(folder)
    world.registry.artifacts = {(MODEL, v): sha256(b"model %d" % v) for v in VERSIONS}

    def put(data: bytes) -> str:
        (folder / sha256(data)).write_bytes(data)
        return sha256(data)

    world.put, world.get = put, lambda digest: (folder / digest).read_bytes()


def serve(world: Any, pipe: Any) -> None:
    """A process: does what it is told, and stops in a move where it is told to."""
    stop = ""

    def here(place: str) -> None:
        nonlocal stop
        if stop == place:
            stop = ""
            pipe.send(("stopped", place))
            pipe.recv()

    def stopping() -> None:
        """Before the transaction that moves, and before the alias."""
        transaction, set_alias = world.ledger.transaction, world.registry.set_alias

        def started() -> Any:
            if not getattr(world.ledger._local, "depth", 0):
                here(CHECKED)
            return transaction()

        def written(*words: Any) -> None:
            here(MOVED)
            set_alias(*words)

        world.ledger.transaction, world.registry.set_alias = started, written

    acts: dict[str, Callable[..., Any]] = {
        "settle": lambda *words: (settle(world, *words), stopping()),
        "train": lambda version: world.train(version),
        "evaluate": lambda version, verdict: world.evaluate(version, verdict),
        "answer": lambda who, version, decision: world.answer(who, version, decision),
        "promote": lambda version: world.promote(version),
        "roll back": lambda version: world.roll_back(version=version),
        "project": lambda: world.project(),
    }
    while True:
        name, stop, words = pipe.recv()
        try:
            acts[name](*words)
            pipe.send(("done", None))
        except MlctError as error:
            pipe.send(("refused", type(error)(str(error))))
        except BaseException as error:
            pipe.send(("broken", repr(error)))


class Process:
    """The parent's end of a process, which it can kill."""

    def __init__(self, world: Any) -> None:
        self.pipe, theirs = FORK.Pipe()
        self.process = FORK.Process(target=serve, args=(world, theirs), daemon=True)
        self.process.start()
        theirs.close()
        #: What it was stopped in: `(place, what must come of it when it goes on)`.
        self.stopped: tuple[str, Callable[[], Any]] | None = None

    def ask(self, name: str, *words: Any, stop: str = "") -> Any:
        self.pipe.send((name, stop, words))
        return self.answer()

    def answer(self) -> Any:
        assert self.pipe.poll(60), "no answer"
        told, what = self.pipe.recv()
        assert told != "broken", what
        return told, what

    def go_on(self) -> Any:
        self.pipe.send("go on")
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Version:
    """What the naive model knows of one version."""

    def __init__(self) -> None:
        self.gate, self.evaluated = ("", -1), 0
        self.approvers: set[str] = set()
        self.rejected = False
        self.replaced: int | None = None


either = st.sampled_from([0, 1])
number = st.sampled_from(VERSIONS)
place = st.sampled_from(["", CHECKED, MOVED])


class TwoProcesses(RuleBasedStateMachine):
    """Drives two processes beside one naive model."""

    world: Any
    fresh: Callable[[], str]
    pair: list[Process]
    done: dict[str, int]

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.where = self.fresh()
        settle(self.world, self.where, self.folder)
        for process in self.pair:
            process.ask("settle", self.where, self.folder)
        self.versions: dict[int, Version] = {}
        self.quarantined = set[int]()
        self.moves = list[int]()
        self.killed = False
        for version in (1, 2):
            self.put_forward(0, version)
            self.promote(0, version, "")

    @property
    def live(self) -> int | None:
        return self.moves[-1] if self.moves else None

    @property
    def alias(self) -> int | None:
        found: int | None = self.world.alias
        return found

    def free(self, which: int) -> Process | None:
        process = self.pair[which]
        return process if process.stopped is None else None

    @rule(which=either, version=number, verdict=st.sampled_from(["PASS", "PASS", "FAIL"]))
    def evaluate(self, which: int, version: int, verdict: str) -> None:
        if (process := self.free(which)) is None:
            return
        if version not in self.versions:
            process.ask("train", version)
            self.versions[version] = Version()
        assert process.ask("evaluate", version, verdict) == ("done", None)
        found = self.versions[version]
        found.gate, found.evaluated = (verdict, len(self.moves)), found.evaluated + 1
        found.approvers, found.rejected = set(), False

    @rule(
        which=either,
        person=st.sampled_from(sorted(ROLE)),
        version=number,
        yes=st.sampled_from([True, True, False]),
    )
    def answer(self, which: int, person: str, version: int, yes: bool) -> None:
        process = self.free(which)
        if process is None or version not in self.versions:
            return
        decision = "approve" if yes else "reject"
        assert process.ask("answer", person, version, decision) == ("done", None)
        found = self.versions[version]
        found.approvers |= {person} if yes else set()
        found.rejected |= not yes

    @rule(which=either, version=number)
    def put_forward(self, which: int, version: int) -> None:
        if self.free(which) is not None:
            self.evaluate(which, version, "PASS")
            for person in ROLE:
                self.answer(which, person, version, True)

    def may_promote(self, version: int) -> bool:
        found = self.versions.get(version)
        return (
            found is not None
            and found.gate == ("PASS", len(self.moves))
            and version not in self.quarantined | {self.live}
            and not found.rejected
            and found.approvers == set(ROLE)
        )

    def moved(self, version: int) -> None:
        self.done["promoted"] += 1
        self.versions[version].replaced = self.live
        self.moves.append(version)

    @rule(which=either, version=number, stop=place)
    def promote(self, which: int, version: int, stop: str) -> None:
        if (process := self.free(which)) is None:
            return
        may = self.may_promote(version) and self.alias in (None, self.live)
        looked_at = self.versions[version].evaluated if version in self.versions else 0
        told, what = process.ask("promote", version, stop=stop)
        if not may:
            self.done["refused"] += 1
            # A refusal writes, too: the process may be stopped before that.
            told, what = process.go_on() if told == "stopped" else (told, what)
            assert isinstance(what, PromotionRefused), (told, what)
            return

        def end() -> None:
            may = self.may_promote(version) and self.versions[version].evaluated == looked_at
            told, what = process.go_on()
            if may:
                self.done["went on"] += 1
                assert (told, what) == ("done", None)
                self.moved(version)
            else:
                self.done["too late"] += 1
                assert isinstance(what, PromotionRefused | SlotMoved), (told, what)

        self.after(process, told, what, end, lambda: self.moved(version))

    @rule(
        which=either,
        versions=st.tuples(number, number),
        stops=st.tuples(st.sampled_from([CHECKED, MOVED]), place),
        back=st.booleans(),
    )
    def race(
        self, which: int, versions: tuple[int, int], stops: tuple[str, str], back: bool
    ) -> None:
        """What mostly matters: one is stopped in its promotion, the other comes in between."""
        for version in {*versions}:
            self.put_forward(which, version)
        self.promote(which, versions[0], stops[0])
        if back:
            self.roll_back(1 - which, stops[1], True)
        else:
            self.promote(1 - which, versions[1], stops[1])
        self.go_on(which)

    @rule(which=either, stop=place, named=st.booleans())
    def roll_back(self, which: int, stop: str, named: bool) -> None:
        if (process := self.free(which)) is None:
            return
        bad, target, seen = self.live, self.target(), len(self.moves)
        told, what = process.ask("roll back", bad if named else None, stop=stop)
        if target is None:
            assert isinstance(what, RollbackRefused), (told, what)
            return

        def moved() -> None:
            self.done["rolled back"] += 1
            self.quarantined.add(bad)
            self.moves.append(target)

        def end() -> None:
            told, what = process.go_on()
            if len(self.moves) == seen:
                assert (told, what) == ("done", None)
                moved()
            else:
                self.done["too late"] += 1
                assert isinstance(what, RollbackRefused | SlotMoved), (told, what)

        self.after(process, told, what, end, moved)

    def target(self) -> int | None:
        found, seen = self.versions[self.live].replaced, {self.live}
        while found is not None and found not in seen:
            if found not in self.quarantined:
                return found
            seen.add(found)
            found = self.versions[found].replaced
        return None

    def after(
        self, process: Process, told: str, what: Any, end: Callable[[], Any], moved: Any
    ) -> None:
        """Of a move that may happen: it is done, or was stopped before it, or after it."""
        if told == "done":
            moved()
        elif what == CHECKED:
            process.stopped = (CHECKED, end)
        else:
            assert (told, what) == ("stopped", MOVED)
            moved()
            process.stopped = (MOVED, lambda: self.finished(process.go_on()))

    def finished(self, found: Any) -> None:
        assert found == ("done", None)

    @rule(which=either)
    def go_on(self, which: int) -> None:
        process = self.pair[which]
        if process.stopped is not None:
            (_, end), process.stopped = process.stopped, None
            end()

    @rule(which=either)
    def kill(self, which: int) -> None:
        """kill -9 in the middle, and another process in its place."""
        if self.pair[which].stopped is not None:
            self.done["killed"] += 1
            self.killed = True
            self.pair[which].kill()
            self.pair[which] = Process(self.world)
            self.pair[which].ask("settle", self.where, self.folder)

    @rule(which=either)
    def project(self, which: int) -> None:
        if (process := self.free(which)) is not None:
            assert process.ask("project") == ("done", None)
            assert self.alias == self.live

    @invariant()
    def ledger_and_model_agree(self) -> None:
        if not hasattr(self, "moves"):
            return
        ledger: Ledger = self.world.ledger
        ledger.verify()
        moves = ledger.records(slot="m@production")[::-1]
        assert [m.predicate["version"] for m in moves] == self.moves
        assert set(slots.quarantined(ledger, MODEL)) == self.quarantined
        assert self.live not in self.quarantined
        assert self.alias in self.moves
        used = [a for m in moves if m.kind == "promotion" for a in m.predicate["approvals"]]
        assert len(used) == len(set(used)) == 2 * sum(m.kind == "promotion" for m in moves)

    @invariant()
    def at_rest_the_alias_equals_the_ledger(self) -> None:
        """By itself: nobody has to reconcile what was not killed."""
        resting = not any(p.stopped for p in self.pair)
        if hasattr(self, "moves") and resting and not self.killed:
            assert self.alias == self.live

    def teardown(self) -> None:
        for which in (0, 1):
            self.go_on(which)
        self.project(0)
        self.ledger_and_model_agree()


@pytest.fixture
def machine(request, world, tmp_path):
    """A fresh machine class over two processes; `done` counts what happened."""
    if request.param == "postgres":
        fresh = request.getfixturevalue("postgres")
    else:
        paths = (str(tmp_path / f"{n}.db") for n in range(10_000))
        fresh = lambda: next(paths)  # noqa: E731 -- a generator's next, under a name
    pair = [Process(world), Process(world)]
    names = ("promoted", "refused", "rolled back", "went on", "too late", "killed")
    members = {"world": world, "fresh": staticmethod(fresh), "pair": pair}
    yield type("Machine", (TwoProcesses,), members | {"done": dict.fromkeys(names, 0)})
    for process in pair:
        process.kill()


@pytest.mark.parametrize(
    ("machine", "examples"), [("sqlite", 50), ("postgres", 20)], indirect=["machine"]
)
def test_no_order_of_two_processes_breaks_the_slot(machine, examples):
    run_state_machine_as_test(machine, settings=settings(PROFILE, max_examples=examples))
    assert min(machine.done.values()) >= 2, machine.done


def alias_not_read_back(monkeypatch):
    """Written once, whatever the ledger says by then."""

    def follow(ledger, registry, record, *, actor):
        says = record.predicate
        if registry.alias(says["model"], says["slot"]) != says["version"]:
            registry.set_alias(says["model"], says["slot"], says["version"])

    for module in (promotion, rollback):
        monkeypatch.setattr(module, "follow", follow)


def checked_only_before(monkeypatch):
    """What was true before the transaction is taken for true in it."""
    right = Ledger.append

    def append(ledger, content, *, slot=None, supersedes=None, **how):
        if slot is not None:
            supersedes = ledger._head_sequence(slot)
        return right(ledger, content, slot=slot, supersedes=supersedes, **how)

    monkeypatch.setattr(Ledger, "append", append)
    late = tuple(replace(c, by_ledger=False) for c in promotion.CHECKS)
    monkeypatch.setattr(promotion, "CHECKS", late)


@pytest.mark.parametrize("machine", ["sqlite"], indirect=True)
@pytest.mark.parametrize("bug", [alias_not_read_back, checked_only_before])
def test_two_processes_find_a_seeded_bug(bug, monkeypatch, machine):
    bug(monkeypatch)
    for process in machine.pair:  # what was forked before does not have it
        process.kill()
    machine.pair[:] = [Process(machine.world), Process(machine.world)]
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=HUNT)
