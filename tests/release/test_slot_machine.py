"""Any order of promotions, rollbacks, answers, outages, crashes and hands on the alias.

A naive model says what must happen; hypothesis looks for an order in which it does not. Seeded bugs
prove that it would find one.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mlct.errors import MlctError, PromotionRefused, RegistryError, RollbackRefused
from mlct.release import slot as slots
from mlct.release.ledger import Ledger
from mlct.release.slot import checks, promotion, state

ROLE = {"ana": "model-risk", "ben": "product", "cid": "product"}
PROFILE = settings(
    max_examples=40,
    stateful_step_count=30,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
HUNT = settings(PROFILE, phases=[Phase.generate], verbosity=Verbosity.quiet, print_blob=False)

known = st.runner().flatmap(lambda machine: st.sampled_from(sorted(machine.versions)))


class Crash(BaseException):
    """The process dies while it writes the alias."""


class Version:
    """What the naive model knows of one version."""

    def __init__(self) -> None:
        self.state, self.gate = "candidate", ("", -1)
        self.replaced: int | None = None
        self.approvers: set[str] = set()
        self.rejected = False


class SlotMachine(RuleBasedStateMachine):
    """Drives `mlct.release.slot` beside the naive model."""

    new_world: Callable[[Path], Any]
    done: dict[str, int]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.world = self.new_world(self.folder)
        self.world.ledger._connection().execute("PRAGMA synchronous = OFF")  # ten times as fast
        self.versions: dict[int, Version] = {}
        self.live: int | None = None
        self.alias: int | None = None
        self.moves = self.length = 0

    @property
    def broken(self) -> bool:
        return self.world.registry.broken is not None

    @initialize(count=st.sampled_from([0, 2, 3]))
    def begin(self, count: int) -> None:
        for _ in range(count):
            self.succeed()

    @precondition(lambda self: len(self.versions) < 9)
    @rule()
    def succeed(self) -> None:
        """What mostly happens: a new version is promoted."""
        self.train()
        self.put_forward(len(self.versions))
        self.promote(len(self.versions))

    @precondition(lambda self: self.live)
    @rule()
    def bring_back(self) -> None:
        """What was rolled back passes another gate."""
        bad = self.live
        self.roll_back()
        self.put_forward(bad)
        self.promote(bad)

    @precondition(lambda self: len(self.versions) < 9)
    @rule()
    def train(self) -> None:
        version = len(self.versions) + 1
        self.world.train(version)
        self.versions[version] = Version()

    @precondition(lambda self: self.versions)
    @rule(version=known, verdict=st.sampled_from(["PASS", "PASS", "FAIL", "INCONCLUSIVE"]))
    def evaluate(self, version: int, verdict: str) -> None:
        self.world.evaluate(version, verdict)
        found = self.versions[version]
        found.gate, found.approvers, found.rejected = (verdict, self.moves), set(), False
        if verdict == "PASS" and found.state not in ("production", "quarantined"):
            found.state = "gated"
        elif found.state in ("gated", "approved"):
            found.state = "candidate"

    @precondition(lambda self: any(v.gate[0] for v in self.versions.values()))
    @rule(
        version=known,
        person=st.sampled_from(sorted(ROLE)),
        yes=st.sampled_from([True, True, False]),
    )
    def answer(self, version: int, person: str, yes: bool) -> None:
        found = self.versions[version]
        if not found.gate[0]:
            return
        self.world.answer(person, version, "approve" if yes else "reject")
        found.approvers |= {person} if yes else set()
        found.rejected |= not yes
        if found.state in ("gated", "approved"):
            found.state = "approved" if yes else "candidate"

    @precondition(lambda self: self.versions)
    @rule(version=known)
    def put_forward(self, version: int) -> None:
        self.evaluate(version, "PASS")
        for person in ("ana", "ben"):
            self.answer(version, person, True)

    @precondition(lambda self: self.versions)
    @rule(place=st.integers(0, 3))
    def replay(self, place: int) -> None:
        """Somebody appends an old answer again."""
        given = self.world.ledger.records(kind="approval", limit=4)
        if place < len(given):
            says, found = given[place].predicate, self.versions[given[place].predicate["version"]]
            self.world.ledger.append(
                given[place].statement, actor="eve", signature=given[place].signature
            )
            if found.state in ("gated", "approved"):
                approved = says["decision"] == "approve"
                found.state = "approved" if approved else "candidate"

    def may_promote(self, version: int) -> bool:
        found = self.versions[version]
        return (
            found.gate == ("PASS", self.moves)
            and self.alias in (None, self.live)
            and found.state not in ("production", "quarantined")
            and not found.rejected
            and len({ROLE[person] for person in found.approvers}) == 2
        )

    def move(self, act: Callable[[], Any], version: int) -> None:
        """A move that must happen; its alias may have to wait."""
        behind = self.broken and self.alias != version
        if behind:
            with pytest.raises((RegistryError, Crash)):
                act()
        else:
            act()
            self.alias = version
        self.versions[version].state = "production"
        self.live, self.moves = version, self.moves + 1

    @precondition(lambda self: self.versions)
    @rule(version=known)
    def promote(self, version: int) -> None:
        if not self.may_promote(version):
            self.done["refused"] += 1
            with pytest.raises(PromotionRefused):
                self.world.promote(version)
            return
        self.done["promoted"] += 1
        if self.live is not None:
            self.versions[self.live].state = "retired"
        self.versions[version].replaced = self.live
        self.move(lambda: self.world.promote(version), version)

    def target(self) -> int | None:
        found, seen = self.versions[self.live].replaced, {self.live}
        while found is not None and found not in seen:
            if self.versions[found].state != "quarantined":
                return found
            seen.add(found)
            found = self.versions[found].replaced
        return None

    @precondition(lambda self: self.versions)
    @rule()
    def roll_back(self) -> None:
        target = None if self.live is None else self.target()
        if target is None:
            with pytest.raises(RollbackRefused):
                self.world.roll_back()
            return
        self.done["rolled back"] += 1
        self.versions[self.live].state = "quarantined"
        self.move(self.world.roll_back, target)

    @precondition(lambda self: self.live)
    @rule(version=st.none() | known)
    def move_alias_by_hand(self, version: int | None) -> None:
        self.world.registry.aliases.pop(("m", "production"), None)
        if version is not None:
            self.world.registry.aliases["m", "production"] = version
        self.alias = version

    @rule(problem=st.sampled_from([None, None, RegistryError("down"), Crash()]))
    def weather(self, problem: BaseException | None) -> None:
        self.world.registry.broken = problem

    @rule()
    def project(self) -> None:
        wrong = self.alias != self.live
        if wrong and self.broken:
            with pytest.raises((RegistryError, Crash)):
                self.world.project()
            return
        before = len(self.world.kinds())
        self.world.project()
        self.alias = self.live
        assert self.world.kinds()[before:] == ["reconcile"] * wrong

    @invariant()
    def the_ledger_holds_and_grows(self) -> None:
        count = self.world.ledger.verify()
        assert count >= self.length
        self.length = count
        sequences = [r.sequence for r in self.world.ledger.records()]
        assert sequences == list(range(count, 0, -1))

    @invariant()
    def ledger_and_model_agree(self) -> None:
        assert (self.world.live, self.world.alias) == (self.live, self.alias)
        states = {number: version.state for number, version in self.versions.items()}
        assert slots.states(self.world.ledger, "m") == states
        quarantined = {n for n, state in states.items() if state == "quarantined"}
        assert set(slots.quarantined(self.world.ledger, "m")) == quarantined
        assert self.live not in quarantined

    @invariant()
    def what_is_live_was_approved_by_two_people_in_two_roles_once(self) -> None:
        moves = list(reversed(self.world.ledger.records(slot="m@production")))
        given = {r.hash: r.predicate for r in self.world.ledger.records(kind="approval")}
        promoted = [m.predicate for m in moves if m.kind == "promotion"]
        used = [digest for says in promoted for digest in says["approvals"]]
        assert len(used) == len(set(used))
        for says in promoted:
            answers = [given[digest] for digest in says["approvals"]]
            assert len({a["role"] for a in answers}) == 2
            assert {(a["version"], a["decision"]) for a in answers} == {
                (says["version"], "approve")
            }
        approved = set[int]()
        for move in moves:
            approved |= {move.predicate["version"]} if move.kind == "promotion" else set()
            assert move.predicate["version"] in approved

    def teardown(self) -> None:
        """At rest the alias equals the ledger."""
        self.world.registry.broken = None
        self.world.project()
        assert self.world.alias == self.world.live == self.live
        shutil.rmtree(self.folder)


@pytest.fixture
def machine(new_world):
    """A fresh machine class; `done` counts what happened."""
    done = {"promoted": 0, "refused": 0, "rolled back": 0}
    members = {"new_world": staticmethod(new_world), "done": done}
    return type("Machine", (SlotMachine,), members)


def test_no_order_of_events_breaks_the_slot(machine):
    run_state_machine_as_test(machine, settings=PROFILE)
    assert min(machine.done.values()) > 10, machine.done


def alias_before_the_ledger(monkeypatch):
    right = slots.promote

    def promote(ledger, registry, *rest, model, version, slot, **how):
        registry.aliases[model, slot] = version
        return right(ledger, registry, *rest, model=model, version=version, slot=slot, **how)

    monkeypatch.setattr(slots, "promote", promote)


def no_compare_and_swap(monkeypatch):
    right = Ledger.append

    def append(ledger, content, *, slot=None, supersedes=None, **how):
        if slot is not None:
            head = ledger.head(slot)
            supersedes = head.sequence if head else 0
        return right(ledger, content, slot=slot, supersedes=supersedes, **how)

    monkeypatch.setattr(Ledger, "append", append)
    for module in (checks, promotion):
        monkeypatch.setattr(module, "champion_is_unmoved", lambda *_: None)


def forgotten_quarantine(monkeypatch):
    for module in (state, checks):
        monkeypatch.setattr(module, "banned", lambda *_: None)


@pytest.mark.parametrize(
    "bug", [alias_before_the_ledger, no_compare_and_swap, forgotten_quarantine]
)
def test_the_machine_finds_a_seeded_bug(machine, monkeypatch, bug):
    bug(monkeypatch)
    with pytest.raises((AssertionError, MlctError, pytest.fail.Exception)):
        run_state_machine_as_test(machine, settings=HUNT)
