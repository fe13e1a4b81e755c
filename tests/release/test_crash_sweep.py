"""Killed before and after every write, and again while it recovers: the slot is right.

A day of a slot is played once to count its writes, then once for each of them with a death there;
from each death it starts again and is killed at every write of that too. A restart knows what the
disk knows: the ledger's file, the registry and the objects. Seeded bugs prove that the sweep looks.
"""

import copy
import os
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlct.adapters.drill import drill
from mlct.adapters.home import Home
from mlct.adapters.object_store import ObjectStore
from mlct.adapters.rollback import act
from mlct.adapters.signals import report_signal
from mlct.errors import PromotionRefused, RollbackRefused, SlotMoved
from mlct.monitoring.breach import RollbackPolicy, Signal
from mlct.release import incident
from mlct.release import slot as slots
from mlct.release.approval import policy
from mlct.release.ledger import Ledger, Record
from mlct.release.ledger.sqlite import Sqlite
from mlct.release.slot import promotion, rollback
from mlct.release.slot.promotion import refusals_recorded

MODEL, SLOT = "m", "production"


class Killed(BaseException):
    """The process is gone: nothing that it was about to do is done."""


class Deaths:
    """Dies at the n-th of all points that `around` makes; the dead write nothing more."""

    def __init__(self, at: int | None) -> None:
        self.at, self.passed, self.dead = at, 0, False

    def point(self) -> None:
        self.passed += not self.dead
        self.dead |= self.passed == self.at
        if self.dead:
            raise Killed

    def around(self, thing: Any, *names: str) -> None:
        for name in names:
            setattr(thing, name, self._around(getattr(thing, name)))

    def around_commits(self, database: Any) -> None:
        """Commits of what was written; reading ends with one too."""
        begin, plain = database.begin, database.commit
        writing = self._around(plain)

        def begun(connection: Any, *, write: bool) -> None:
            database.commit = writing if write else plain
            begin(connection, write=write)

        database.begin = begun

    def _around(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def written(*words: Any, **more: Any) -> Any:
            self.point()
            result = write(*words, **more)
            self.point()
            return result

        return written


class Staged:
    """A registry that stays: each move is three writes of its own, as MLflow has it."""

    def __init__(self, artifacts: dict[tuple[str, int], str]) -> None:
        self.artifacts = artifacts
        self.aliases, self.pointed = dict[str, int](), dict[str, int]()
        self.stage = frozenset[int]()

    def alias(self, model: str, alias: str) -> int | None:
        return self.aliases.get(alias)

    def set_alias(self, model: str, alias: str, version: int) -> None:
        self.write_alias(alias, version)
        self.write_stage(self.stage | {version})
        self.write_stage(frozenset({version}))
        self.write_pointed(alias, version)

    def delete_alias(self, model: str, alias: str) -> None:
        self.write_alias(alias, None)
        self.write_stage(frozenset())

    def write_alias(self, alias: str, version: int | None) -> None:
        self.aliases.pop(alias, None)
        if version is not None:
            self.aliases[alias] = version

    def write_stage(self, versions: frozenset[int]) -> None:
        self.stage = versions

    def write_pointed(self, alias: str, version: int) -> None:
        self.pointed[alias] = version

    def standing(self, model: str, alias: str) -> slots.Standing:
        return slots.Standing(
            alias=self.alias(model, alias), pointed=self.pointed.get(alias), stage=self.stage
        )

    def artifact(self, model: str, version: int) -> str:
        return self.artifacts[model, version]


@dataclass(frozen=True, kw_only=True)
class Disk:
    """What outlives a process."""

    ledger: bytes
    registry: Staged
    time: datetime

    @classmethod
    def of(cls, world: Any) -> "Disk":
        connection = world.ledger._connection()
        return cls(
            ledger=connection.serialize(),
            registry=copy.deepcopy(world.registry),
            time=world.clock.time,
        )


@dataclass
class Sweep:
    """Plays a story on a prepared disk with every death, and every death of its recovery."""

    world: Any
    folder: Path
    story: Callable[["Sweep"], None]
    recovery: Callable[["Sweep"], None]
    by_hand: bool = False
    refused: frozenset[int] = frozenset()
    deaths: Deaths = field(default_factory=lambda: Deaths(None))
    started: int = 0
    points: Counter[str] = field(default_factory=Counter)

    def start(self, disk: Disk, at: int | None) -> None:
        """A new process on a copy of the disk, which dies at a point."""
        path = self.folder / f"{self.started}.db"
        if self.started:
            self.world.ledger._connection().close()
            for old in self.folder.glob(f"{self.started - 1}.db*"):
                old.unlink()
        self.started += 1
        path.write_bytes(disk.ledger)
        world, self.deaths = self.world, Deaths(at)
        world.clock.time = disk.time
        world.ledger = Ledger(path, clock=world.clock)
        world.ledger._connection().execute("PRAGMA synchronous = OFF")
        world.registry = copy.deepcopy(disk.registry)
        self.deaths.around(world.ledger, "append")
        self.deaths.around_commits(world.ledger._database)
        self.deaths.around(world.registry, "write_alias", "write_stage", "write_pointed")

    def killed(self, act: Callable[["Sweep"], None]) -> bool:
        try:
            act(self)
        except Killed:
            return True
        return False

    def run(self) -> None:
        begin = self.disk()
        for first in range(1, 999):
            self.start(begin, first)
            died = self.killed(self.story)
            self.look()
            after = self.disk()
            for second in range(1, 999):
                self.points["recovery" if died else "repeated"] += 1
                self.start(after, second)
                again = self.killed(self.recovery)
                self.look()
                if again:
                    self.start(self.disk(), None)
                    self.recovery(self)
                self.at_rest()
                if not again:
                    break
            self.start(self.disk(), None)
            try_again(self, *self.refused)
            if not died:
                break
            self.points["story"] += 1

    def disk(self) -> Disk:
        registry = copy.copy(self.world.registry)
        for name in ("write_alias", "write_stage", "write_pointed"):
            vars(registry).pop(name, None)
        found = Disk.of(self.world)
        return Disk(ledger=found.ledger, registry=copy.deepcopy(registry), time=found.time)

    def look(self) -> None:
        """What holds at every moment, whoever died."""
        world = self.world
        ledger: Ledger = world.ledger
        ledger.verify()
        moves = ledger.records(slot="m@production")[::-1]
        served = [m.predicate["version"] for m in moves]
        live_before = {None, *served}
        # What readers of the alias and of the stage get was live by the ledger, now or before.
        if not self.by_hand:
            assert world.alias in live_before
            assert world.registry.stage <= live_before
            assert len(world.registry.stage) <= 2
        if len(served) > 1:  # never nothing, after the first
            assert world.alias is not None
            assert world.registry.stage
        approvals_hold(ledger, moves)
        assert set(REFUSED).isdisjoint(served)
        # A rollback and its quarantine are one.
        taken_out = {m.predicate["from"] for m in moves if m.kind == "rollback"}
        assert set(slots.quarantined(ledger, MODEL)) == taken_out
        assert world.live not in taken_out
        told = [r.predicate for r in ledger.records(kind="incident")]
        opened = Counter((s["kind"], s["episode"]) for s in told if s["event"] == "opened")
        assert set(opened.values()) <= {1}
        assert self.by_hand or "alias" not in {kind for kind, _ in opened}

    def at_rest(self) -> None:
        """What holds once a restart is through."""
        self.look()
        world = self.world
        assert world.alias == world.live == EXPECTED[self.story]
        assert world.registry.stage == {world.live}
        rollbacks = [r for r in world.ledger.records(slot="m@production") if r.kind == "rollback"]
        kinds = Counter(i.kind for i in incident.incidents(world.ledger, MODEL))
        assert kinds == Counter(rollback=len(rollbacks)) + Counter(alias=self.by_hand)


def approvals_hold(ledger: Ledger, moves: list[Record]) -> None:
    """Two people in two roles said yes to each version that came, and each yes counts once."""
    given = {r.hash: r.predicate for r in ledger.records(kind="approval")}
    gates = {r.hash: r.predicate for r in ledger.records(kind="gate")}
    came, used = set[int](), set[str]()
    for move in moves:
        says = move.predicate
        if move.kind == "promotion":
            answers = [given[digest] for digest in says["approvals"]]
            assert len({a["role"] for a in answers}) == len({a["approver"] for a in answers}) == 2
            assert {(a["decision"], a["version"]) for a in answers} == {
                ("approve", says["version"])
            }
            assert gates[says["gate"]]["verdict"] == "PASS"
            assert used.isdisjoint(says["approvals"])
            used |= set(says["approvals"])
            came.add(says["version"])
        assert says["version"] in came


#: Versions that people or the gate refused. Whoever asks again, and whenever, gets the same answer.
REFUSED = {4: "the gate says FAIL", 5: "was rejected by ben"}


def promote(sweep: Sweep, version: int) -> None:
    """What the promotion job does."""
    world = sweep.world
    how = {"model": MODEL, "version": version, "slot": SLOT, "actor": "test"}
    with refusals_recorded(world.ledger, **how):
        policy.pin(world.ledger, world.approvers, actor="test")
    world.promote(version)


def try_again(sweep: Sweep, *versions: int) -> None:
    """Whoever launches once more is refused, by whichever check comes first."""
    for version in versions:
        with pytest.raises(PromotionRefused):
            promote(sweep, version)


def take_back(sweep: Sweep, version: int) -> None:
    """What the rollback job does."""
    tell(sweep, sweep.world.roll_back(version=version))


def tell(sweep: Sweep, move: Record) -> None:
    rollback.tell(sweep.world.ledger, move, actor="test", alias="followed")


def tick(sweep: Sweep, breaching: int) -> None:
    """What the rollback sensor does at each look, while one version breaches."""
    current = slots.live(sweep.world.ledger, MODEL, SLOT)
    if current is not None and current.move == "rollback":
        tell(sweep, current.record)
    elif current is not None and current.version == breaching:
        take_back(sweep, breaching)


def reconcile(sweep: Sweep) -> None:
    slots.reconcile(sweep.world.ledger, sweep.world.registry, MODEL, SLOT, actor="test")


def a_promotion(sweep: Sweep) -> None:
    promote(sweep, 3)


def a_refusal(sweep: Sweep) -> None:
    for version, told in REFUSED.items():
        with pytest.raises(PromotionRefused, match=told):
            promote(sweep, version)


def refused_for_ever(sweep: Sweep) -> None:
    reconcile(sweep)
    a_refusal(sweep)


def a_first_promotion(sweep: Sweep) -> None:
    promote(sweep, 1)


def again(version: int) -> Callable[[Sweep], None]:
    """A restart: reconcile looks first, then somebody launches the promotion again."""

    def recover(sweep: Sweep) -> None:
        reconcile(sweep)
        done = sweep.world.live == version
        told = pytest.raises(PromotionRefused, match="is live in") if done else nullcontext()
        with told:
            promote(sweep, version)
        reconcile(sweep)

    return recover


def a_rollback(sweep: Sweep) -> None:
    take_back(sweep, 2)


def after_a_rollback(sweep: Sweep) -> None:
    """The sensor looks again; a late run asks for the same; people try to bring it back."""
    tick(sweep, 2)
    reconcile(sweep)
    with pytest.raises(SlotMoved):
        take_back(sweep, 2)
    try_again(sweep, 2)
    with pytest.raises(RollbackRefused):
        take_back(sweep, 1)


def a_hand_on_the_alias(sweep: Sweep) -> None:
    reconcile(sweep)


def look_twice(sweep: Sweep) -> None:
    reconcile(sweep)
    reconcile(sweep)


EXPECTED = {
    a_promotion: 3,
    a_refusal: 2,
    a_first_promotion: 1,
    a_rollback: 1,
    a_hand_on_the_alias: 2,
}


@pytest.fixture
def sweep(world, tmp_path):
    """`sweep(story, recovery)`: 1 and 2 were live, 3 is approved, 4 and 5 are refused."""

    def prepared(story: Any, recovery: Any, *, by_hand: bool = False) -> Sweep:
        world.registry = Staged(world.registry.artifacts)
        world.train(1)
        world.evaluate(1)
        world.approve(1)
        if story is not a_first_promotion:
            world.promote(1)
            world.put_live(2)
            for version in (3, 4, 5):
                world.train(version)
                world.evaluate(version, "FAIL" if version == 4 else "PASS")
                world.approve(version)
            world.answer("ben", 5, "reject")
        if by_hand:
            world.registry.aliases[SLOT] = 4
            world.registry.stage = frozenset({4})
        (tmp_path / "sweep").mkdir()
        refused = frozenset() if story is a_first_promotion else frozenset(REFUSED)
        return Sweep(world, tmp_path / "sweep", story, recovery, by_hand, refused)

    return prepared


STORIES = {
    a_first_promotion: again(1),
    a_promotion: again(3),
    a_refusal: refused_for_ever,
    a_rollback: after_a_rollback,
    a_hand_on_the_alias: look_twice,
}


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_a_death_at_any_write_leaves_the_slot_right(sweep, story, record_testsuite_property):
    swept = sweep(story, STORIES[story], by_hand=story is a_hand_on_the_alias)
    swept.run()
    record_testsuite_property(story.__name__, dict(swept.points))
    assert swept.points["story"] >= 8
    assert swept.points["recovery"] >= 5 * swept.points["story"]


def alias_before_the_ledger(monkeypatch):
    """Act, then write down what was meant."""
    right = slots.promote

    def promoted(ledger, registry, *rest, model, version, slot, **how):
        if version not in REFUSED:
            registry.set_alias(model, slot, version)
        return right(ledger, registry, *rest, model=model, version=version, slot=slot, **how)

    monkeypatch.setattr(slots, "promote", promoted)
    # It would refuse to go on: with the bug, nobody asks it.
    right_checks = promotion.CHECKS
    monkeypatch.setattr(
        promotion, "CHECKS", tuple(c for c in right_checks if c.name != "in-flight")
    )


def two_transactions(monkeypatch):
    """The slot moves in one, what it served is quarantined in another."""
    right = slots.roll_back

    class Loose(SimpleNamespace):
        def __getattr__(self, name: str) -> Any:
            return getattr(self.ledger, name)

        def transaction(self) -> Any:
            return nullcontext()

    monkeypatch.setattr(
        slots, "roll_back", lambda ledger, *rest, **how: right(Loose(ledger=ledger), *rest, **how)
    )


def incidents_told_again(monkeypatch):
    """Nobody looks whether the episode is known."""
    monkeypatch.setattr(incident, "incidents", lambda *_: [])


@pytest.mark.parametrize(
    ("bug", "story"),
    [
        (alias_before_the_ledger, a_promotion),
        (two_transactions, a_rollback),
        (incidents_told_again, a_rollback),
    ],
    ids=lambda found: found.__name__,
)
def test_the_sweep_finds_a_seeded_bug(sweep, monkeypatch, bug, story):
    swept = sweep(story, STORIES[story])
    bug(monkeypatch)
    begin = swept.disk()
    swept.start(begin, None)
    story(swept)
    swept.look()  # it looks right while nobody dies
    swept.start(begin, None)
    with pytest.raises(AssertionError):
        swept.run()


class Installation:
    """A real home beside a registry in memory, as one process after another finds it."""

    def __init__(self, made: Any, folder: Path, monkeypatch: Any) -> None:
        self.made, self.folder, self.deaths, self.started = made, folder, Deaths(None), 0
        versions = {t["version"]: t["artifact"] for t in made.records("training")}
        self.registry = Staged({("late", v): a for v, a in versions.items()})
        self.registry.set_alias("late", SLOT, 2)
        self.registry.tracking_uri = ""
        for name in ("registry", "promoter"):
            monkeypatch.setattr(Home, name, property(lambda _: self.registry))
        around = {
            Ledger: ["append"],
            ObjectStore: ["_write"],
            Staged: ["write_alias", "write_stage", "write_pointed"],
        }
        for kind, names in around.items():
            for name in names:
                monkeypatch.setattr(kind, name, self.dying(getattr(kind, name)))
        begin, commit, connect = Sqlite.begin, Sqlite.commit, Sqlite.connect
        writing = dict[int, bool]()

        def begun(database: Any, connection: Any, *, write: bool) -> None:
            writing[id(connection)] = write
            begin(database, connection, write=write)

        def committed(database: Any, connection: Any) -> None:
            end = self.dying(commit) if writing[id(connection)] else commit
            end(database, connection)

        def connected(database: Any) -> Any:
            connection = connect(database)
            connection.execute("PRAGMA synchronous = OFF")  # the machine stays up
            return connection

        monkeypatch.setattr(Sqlite, "connect", connected)
        monkeypatch.setattr(Sqlite, "begin", begun)
        monkeypatch.setattr(Sqlite, "commit", committed)
        self.before = made.home.ledger.records(kind=("promotion", "rollback", "quarantine"))

    def dying(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def written(*words: Any, **more: Any) -> Any:
            self.deaths.point()
            result = write(*words, **more)
            self.deaths.point()
            return result

        return written

    def home(self) -> Home:
        return Home(root=str(self.folder))

    def anew(self) -> None:
        """Everything as it was made. Objects never change: links do."""
        self.deaths = Deaths(None)
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.made.root / "store", self.folder / "store", copy_function=os.link)
        shutil.copytree(
            self.made.root / "approved", self.folder / "approved", copy_function=os.link
        )
        (self.folder / "ledger.db").write_bytes(self.made.home.ledger._connection().serialize())
        self.registry.delete_alias("late", "drill")
        self.registry.set_alias("late", SLOT, 2)

    def dies(self, act: Callable[[Home], Any], at: int | None) -> bool:
        self.deaths = Deaths(at)
        try:
            act(self.home())
        except Killed:
            return True
        finally:
            self.died, self.deaths = self.deaths, Deaths(None)
        return False

    def opened(self) -> list[tuple[str, bool]]:
        """Kind of every incident, and whether it is still open."""
        return [(i.kind, i.open) for i in incident.incidents(self.home().ledger, "late")]

    def sweep(
        self,
        act: Callable[[Home], Any],
        again: Callable[[Home], Any],
        look: Callable[[], None],
        last: int = 999,
    ) -> int:
        """Every death of `act`, or the last ones, then `again`; returns how many there were."""
        self.anew()
        assert not self.dies(act, None)
        points = self.died.passed
        for at in range(max(1, points - last), points + 1):
            self.anew()
            assert self.dies(act, at)
            look()
            assert not self.dies(again, None)
            look()
            self.home().ledger.verify()
        return points


@pytest.fixture
def installation(succeeded, tmp_path, monkeypatch):
    """Version 2 is live in a real home, and rolls back to 1."""
    return Installation(succeeded, tmp_path / "installed", monkeypatch)


def drilled(home: Home, bar: str = "5m") -> Any:
    return drill(home, model="late", slot=SLOT, bar=bar)


@pytest.mark.parametrize(("bar", "last"), [("5m", 999), ("0s", 12)])
def test_a_drill_that_dies_anywhere_leaves_production_alone(installation, bar, last):
    """The next one cleans up and closes what a failed one opened, of which only the end differs."""

    def look() -> None:
        ledger = installation.home().ledger
        assert ledger.records(kind=("promotion", "rollback", "quarantine")) == installation.before
        assert installation.registry.alias("late", SLOT) == 2
        assert len(installation.opened()) <= (bar != "5m")

    def again(home: Home) -> None:
        assert drilled(home).passed
        assert installation.registry.alias("late", "drill") is None
        assert not any(still for _, still in installation.opened())

    assert installation.sweep(lambda home: drilled(home, bar), again, look, last) > 30


def test_an_automatic_rollback_that_dies_anywhere_is_done_once_by_the_next_look(installation):
    policy_of = RollbackPolicy(signals=[Signal("error_rate", max=0.05)])
    end = installation.home().ledger.clock()

    def breach(home: Home) -> None:
        told = {"name": "error_rate", "value": 0.4, "samples": 9, "version": 2}
        report_signal(home=home, model="late", slot=SLOT, window_end=end, **told)
        act(home, model="late", slot=SLOT, policy=policy_of, actor="test")

    def again(home: Home) -> None:
        breach(home)
        slots.reconcile(home.ledger, home.promoter, "late", SLOT, actor="test")
        current = slots.live(home.ledger, "late", SLOT)
        assert current.version == installation.registry.alias("late", SLOT) == 1
        assert installation.registry.stage == {1}
        assert [r.kind for r in home.ledger.records(slot="late@production", limit=2)] == [
            "rollback",
            "promotion",
        ]
        assert slots.quarantined(home.ledger, "late").keys() == {2}
        assert installation.opened() == [("rollback", True)]

    def look() -> None:
        assert installation.registry.alias("late", SLOT) in (1, 2)
        assert installation.registry.stage

    assert installation.sweep(breach, again, look) > 10
