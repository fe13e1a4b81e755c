"""What MLflow says follows the ledger, and whoever moves it by hand is told of, once an episode."""

from datetime import timedelta

import pytest

from mlct.errors import RegistryError
from mlct.release import incident as episodes
from mlct.release import slot as slots
from mlct.release.slot.projection import QUIET, WINDOW


def reconcile(world, slot="production"):
    return slots.reconcile(world.ledger, world.registry, "m", slot, actor="sensor")


def incidents(world):
    return episodes.incidents(world.ledger, "m")


def later(world, time):
    """Nothing happens for a while."""
    world.clock.time += time


def by_hand(world, version, slot="production"):
    """As the UI or any client of MLflow does: mlct does not hear of it."""
    world.registry.aliases.pop(("m", slot), None)
    if version is not None:
        world.registry.aliases["m", slot] = version


@pytest.fixture
def settled(world):
    """Version 2 replaced version 1, and all agrees."""
    return world.put_live(1, 2)


def test_agreement_costs_one_look_and_leaves_no_trace(settled, monkeypatch):
    looks, before = [], settled.kinds()
    standing = settled.registry.standing
    monkeypatch.setattr(settled.registry, "standing", lambda *of: looks.append(of) or standing(*of))
    done = reconcile(settled)
    assert (done.ledger, done.before, done.after, done.found) == (2, 2, 2, "")
    assert looks == [("m", "production")]
    assert settled.kinds() == before


@pytest.mark.parametrize("version", [1, 9, None], ids=["the one replaced", "unknown", "gone"])
def test_an_alias_moved_by_hand_is_repaired_and_one_incident_tells_it(settled, version):
    """Also when it was moved to what the last promotion replaced, right after that promotion."""
    by_hand(settled, version)
    done = reconcile(settled)
    assert (settled.alias, done.before, done.after, done.by_hand) == (2, version, 2, True)
    assert (done.record.kind, done.record.predicate["found"]) == ("reconcile", version)
    (opened,) = incidents(settled)
    assert opened.opened == done.incident
    assert (opened.kind, opened.severity, opened.pages, opened.open) == (
        "alias",
        "high",
        False,
        True,
    )
    assert f"pointed at {version or 'nothing'}; the ledger says version 2 is live" in opened.summary
    assert [s["what"].partition(":")[0] for s in opened.timeline][-1] == "repaired"
    assert settled.ledger.verify() == len(settled.kinds())


def test_a_hand_that_moves_it_again_and_again_is_one_episode(settled):
    for _ in range(3):
        by_hand(settled, 1)
        reconcile(settled)
        later(settled, timedelta(minutes=1))
    (opened,) = incidents(settled)
    assert len(opened.timeline) == 6
    assert settled.kinds().count("reconcile") == 3


def test_an_episode_ends_when_it_has_been_quiet_and_the_next_is_another(settled):
    by_hand(settled, 1)
    reconcile(settled)
    later(settled, QUIET / 2)
    reconcile(settled)
    assert incidents(settled)[0].open
    later(settled, QUIET)
    reconcile(settled)
    reconcile(settled)
    (closed,) = incidents(settled)
    assert not closed.open
    assert "for 15 minutes" in closed.timeline[-1]["what"]
    by_hand(settled, 1)
    reconcile(settled)
    assert [i.open for i in incidents(settled)] == [True, False]


@pytest.mark.parametrize("move", ["promotion", "rollback"])
def test_a_move_under_way_is_finished_quietly(settled, move):
    """The sensor ticks between the statement and the alias."""
    settled.train(3)
    settled.evaluate(3)
    settled.approve(3)
    settled.registry.broken = RegistryError("not yet")
    with pytest.raises(RegistryError, match="Do not repeat"):
        settled.promote(3) if move == "promotion" else settled.roll_back()
    settled.registry.broken = None
    before = settled.kinds()
    done = reconcile(settled)
    assert (done.before, done.after, done.by_hand) == (2, settled.live, False)
    assert settled.kinds() == before


def test_what_an_outage_left_behind_is_repaired_and_recorded_without_an_incident(settled):
    settled.registry.broken = RegistryError("down")
    with pytest.raises(RegistryError):
        settled.roll_back()
    with pytest.raises(RegistryError):
        reconcile(settled)
    settled.registry.broken = None
    later(settled, WINDOW)
    before = settled.kinds()
    assert reconcile(settled).after == settled.alias == 1
    assert settled.kinds() == [*before, "reconcile"]
    assert [i for i in incidents(settled) if i.kind == "alias"] == []


def test_an_alias_moved_by_hand_while_another_is_behind_is_not_taken_for_that(settled):
    settled.registry.broken = RegistryError("down")
    with pytest.raises(RegistryError):
        settled.roll_back()
    settled.registry.broken = None
    by_hand(settled, 9)
    assert reconcile(settled).by_hand
    assert settled.alias == 1


def test_an_alias_where_nothing_was_ever_promoted_is_taken_away(world):
    world.train(1)
    world.evaluate(1)
    by_hand(world, 1)
    done = reconcile(world)
    assert (world.alias, done.ledger, done.after, done.by_hand) == (None, None, None, True)
    assert (done.record.predicate["found"], done.record.predicate["version"]) == (1, None)
    (opened,) = incidents(world)
    assert "pointed at 1; the ledger says nothing is live" in opened.summary
    assert reconcile(world).found == ""


def test_a_first_promotion_that_overtakes_the_taking_away_wins(world):
    world.train(1)
    world.evaluate(1)
    by_hand(world, 1)
    delete = world.registry.delete_alias

    def slow(model, alias):
        world.registry.delete_alias = delete
        delete(model, alias)  # another sensor was faster
        world.approve(1)
        world.promote(1)
        delete(model, alias)

    world.registry.delete_alias = slow
    reconcile(world)
    assert world.live == world.alias == 1


@pytest.mark.parametrize("slot", ["production", "production-eu"])
@pytest.mark.parametrize("pointed", [True, False], ids=["by mlct", "by somebody"])
def test_a_ledger_that_never_heard_of_a_slot_leaves_its_alias_alone(
    settled, new_world, tmp_path, pointed, slot
):
    """Nor does it tell of a hand: somebody looked through the wrong MLCT_LEDGER, or mistyped."""
    (tmp_path / "laptop").mkdir()
    laptop = new_world(tmp_path / "laptop")
    laptop.registry = settled.registry
    if pointed:
        settled.registry.set_alias("m", slot, 2)
        laptop.train(1)
        laptop.evaluate(1, slot=slot)
    else:
        by_hand(settled, 2, slot)
        settled.registry.pointed.clear()
    before = laptop.kinds()
    for look in (reconcile, lambda world, slot: slots.project(*parts(world), slot, actor="x")):
        with pytest.raises(RegistryError, match="never moved slot"):
            look(laptop, slot)
    assert settled.registry.alias("m", slot) == 2
    assert laptop.kinds() == before


def parts(world):
    return world.ledger, world.registry, "m"


def test_what_cannot_be_repaired_is_told_once_and_wakes_nobody(settled):
    by_hand(settled, 1)
    settled.registry.broken = RegistryError("403: you may not move it")
    for _ in range(3):
        with pytest.raises(RegistryError, match="403"):
            reconcile(settled)
    (opened,) = incidents(settled)
    assert (opened.open, opened.pages) == (True, False)
    said = [s["what"] for s in opened.timeline]
    assert sum(s.startswith("no repair: 403") for s in said) == 1
    settled.registry.broken = None
    assert reconcile(settled).after == settled.alias == 2
    assert len(incidents(settled)) == 1


def test_a_registry_that_does_not_answer_is_no_incident(settled, monkeypatch):
    def down(*_):
        raise RegistryError("MLflow does not answer")

    monkeypatch.setattr(settled.registry, "standing", down)
    before = settled.kinds()
    with pytest.raises(RegistryError, match="does not answer"):
        reconcile(settled)
    assert settled.kinds() == before


def test_slots_are_projected_apart(settled):
    settled.evaluate(1, slot="production-eu")
    by_hand(settled, 1, "production-eu")
    assert reconcile(settled, "production").found == ""
    assert reconcile(settled, "production-eu").before == 1
    assert settled.registry.aliases == {("m", "production"): 2}


class Staged:
    """The registry of a world, whose stage Production follows slot `production`."""

    def __init__(self, registry):
        self.registry, self.stage = registry, frozenset()

    def __getattr__(self, name):
        return getattr(self.registry, name)

    def standing(self, model, alias):
        found = self.registry.standing(model, alias)
        return slots.Standing(alias=found.alias, pointed=found.pointed, stage=self.stage)

    def set_alias(self, model, alias, version):
        self.registry.set_alias(model, alias, version)
        self.stage = frozenset({version})

    def delete_alias(self, model, alias):
        self.registry.delete_alias(model, alias)
        self.stage = frozenset()


@pytest.fixture
def staged(world):
    world.registry = Staged(world.registry)
    return world.put_live(1, 2)


@pytest.mark.parametrize("held", [{1}, {1, 2}, {9}, set()])
def test_a_stage_moved_by_hand_is_repaired_like_an_alias(staged, held):
    assert staged.registry.stage == {2}
    staged.registry.stage = frozenset(held)
    done = reconcile(staged)
    assert done.by_hand
    assert (staged.registry.stage, staged.alias) == ({2}, 2)
    assert "stage Production" in done.record.predicate["reason"]
    assert "stage Production at" in incidents(staged)[0].summary
    assert reconcile(staged).found == ""


def test_a_stage_that_a_move_has_not_reached_yet_is_finished_quietly(staged):
    """Alias, stage, and last the note of where mlct pointed them."""
    staged.roll_back()
    staged.registry.stage = frozenset({2})
    staged.registry.pointed["m", "production"] = 2
    before = staged.kinds()
    assert not reconcile(staged).by_hand
    assert staged.registry.stage == {1}
    assert staged.kinds() == before


@pytest.mark.parametrize("kind", ["settled", "staged"])
def test_a_repair_writes_once(request, kind, monkeypatch):
    world, moves = request.getfixturevalue(kind), []
    move = world.registry.set_alias
    monkeypatch.setattr(world.registry, "set_alias", lambda *of: moves.append(of) or move(*of))
    by_hand(world, 1)
    assert reconcile(world).after == 2
    assert moves == [("m", "production", 2)]


def test_a_stage_where_nothing_was_ever_promoted_is_emptied(world):
    world.train(1)
    world.evaluate(1)
    world.registry = Staged(world.registry)
    world.registry.stage = frozenset({3})
    assert reconcile(world).after is None
    assert world.registry.stage == frozenset()


def test_an_episode_is_quiet_since_the_last_move_by_hand(settled):
    by_hand(settled, 1)
    reconcile(settled)
    later(settled, QUIET - timedelta(minutes=2))
    by_hand(settled, 1)
    reconcile(settled)
    later(settled, timedelta(minutes=5))
    reconcile(settled)
    assert [i.open for i in incidents(settled)] == [True]


def test_what_a_reconcile_did_is_plain_json(settled):
    by_hand(settled, 1)
    done = reconcile(settled)
    assert done.to_dict() == {
        "ledger": 2,
        "before": 1,
        "after": 2,
        "by_hand": True,
        "found": done.found,
        "record": done.record.sequence,
        "incident": done.incident.sequence,
    }
    agreed = dict.fromkeys(("ledger", "before", "after"), 2) | {"by_hand": False, "found": ""}
    assert reconcile(settled).to_dict() == agreed | {"record": None, "incident": None}
