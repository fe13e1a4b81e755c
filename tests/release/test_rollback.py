"""Rollback: to what people approved before, or nowhere; and what went bad stays out."""

import sqlite3

import pytest

from mlct.data.digest import sha256
from mlct.errors import (
    LedgerTampered,
    RegistryError,
    RollbackRefused,
    SlotMoved,
    SnapshotCorrupted,
)
from mlct.release import slot as slots
from mlct.release.incident import close_incident, incidents
from mlct.release.ledger import statement
from mlct.release.slot.rollback import tell


def refused(world, match, error=RollbackRefused, **how):
    """Rolling back is refused, with nothing written and nothing moved."""
    before = (world.kinds(), world.live, world.alias)
    with pytest.raises(error, match=match) as found:
        world.roll_back(**how)
    assert (world.kinds(), world.live, world.alias) == before
    return found.value


def test_a_rollback_goes_to_the_recorded_target_and_quarantines(world):
    first = world.put_live(1, 2).ledger.records(kind="promotion")[1]
    record = world.roll_back(reason="recall fell")
    assert world.live == world.alias == 1
    assert world.kinds()[-2:] == ["rollback", "quarantine"]
    assert slots.quarantined(world.ledger, "m") == {2: "recall fell"}
    says = record.predicate
    assert (says["from"], says["version"], says["reason"]) == (2, 1, "recall fell")
    for name in ("artifact", "evidence", "approvals", "approvers", "rollback_target"):
        assert says[name] == first.predicate[name]
    assert world.ledger.verify() == len(world.kinds())


def quarantine(world, version):
    """As a rollback of another slot does."""
    says = {"model": "m", "slot": "staging", "version": version, "reason": "elsewhere"}
    subjects = {"artifact": sha256(b"model %d" % version)}
    world.ledger.append(statement("quarantine", subjects, says), actor="test")


def test_nothing_live_cannot_be_rolled_back(world):
    refused(world, "nothing is live in 'production' of m.*mlct request m")


def test_a_first_version_has_no_target(world):
    world.put_live(1)
    refused(world, "m@1 has no earlier approved version to go back to")


def test_rollbacks_follow_the_chain_to_its_end(world):
    world.put_live(1, 2, 3)
    assert world.roll_back().predicate["version"] == 2
    assert world.roll_back().predicate["version"] == 1
    refused(world, "m@1 has no earlier approved version")
    assert set(slots.quarantined(world.ledger, "m")) == {2, 3}


def test_a_quarantined_target_is_stepped_over(world):
    world.put_live(1, 2)
    world.roll_back()
    world.put_live(3, 4)
    world.roll_back()
    assert world.live == 3
    assert world.roll_back().predicate["version"] == 1


def test_a_chain_that_turns_in_a_circle_ends(world):
    """1, then 2, then 1 again: each is the other's target."""
    world.put_live(1, 2)
    world.evaluate(1)
    world.approve(1)
    world.promote(1)
    assert world.roll_back().predicate["version"] == 2
    refused(world, "m@2 has no earlier approved version")


def test_a_circle_of_quarantined_targets_ends(world):
    world.put_live(1, 2)
    world.evaluate(1)
    world.approve(1)
    world.promote(1)
    world.put_live(3)
    for version in (1, 2):
        quarantine(world, version)
    refused(world, "m@3 has no earlier approved version")


def test_going_back_to_the_same_bytes_is_no_rollback(world):
    world.put_live(1)
    world.train(2, data=b"model 1")
    world.evaluate(2)
    world.approve(2)
    world.promote(2)
    refused(world, "m@2 has no earlier approved version")


def test_what_was_rolled_back_cannot_come_back(world):
    world.put_live(1, 2)
    world.roll_back()
    world.evaluate(2)
    world.approve(2)
    world.refused("m@2 is quarantined")


def test_a_target_whose_bytes_are_damaged_or_gone_is_refused(world):
    world.put_live(1, 2)

    def damaged(digest):
        assert digest == sha256(b"model 1")
        raise SnapshotCorrupted(f"{digest} hashes to something else")

    world.get = damaged
    refused(world, "version 1 is unfit: .* hashes to something else")


def test_an_unfit_target_is_passed_over_and_the_record_says_why(world):
    world.put_live(1, 2, 3)
    read = world.get

    def damaged(digest):
        if digest == sha256(b"model 2"):
            raise SnapshotCorrupted(f"{digest} hashes to something else")
        return read(digest)

    world.get = damaged
    says = world.roll_back().predicate
    assert (says["version"], says["from"]) == (1, 3)
    (unfit,) = says["unfit"]
    assert unfit["version"] == 2
    assert "hashes to something else" in unfit["problem"]
    assert set(slots.quarantined(world.ledger, "m")) == {3}


def put_in_fallback(world, version):
    """What people approved for slot `fallback`, as a promotion there says."""
    bytes_of = world.registry.artifacts["m", version]
    says = {"model": "m", "slot": "fallback", "version": version, "artifact": bytes_of}
    says |= {"replaces": None, "rollback_target": None, "evidence": "e", "approvals": []}
    says |= {"approvers": ["ana (model-risk)"]}
    subjects = {"artifact": bytes_of}
    world.ledger.append(
        statement("promotion", subjects, says), actor="test", slot="m@fallback", supersedes=0
    )


def test_the_fallback_comes_after_the_chain(world):
    world.put_live(1, 2)
    world.train(9)
    put_in_fallback(world, 9)
    assert world.roll_back().predicate["version"] == 1
    assert world.roll_back().predicate["version"] == 9
    refused(world, "m@9 has no earlier approved version")


def test_a_quarantined_fallback_is_none(world):
    world.put_live(1)
    world.train(9)
    put_in_fallback(world, 9)
    quarantine(world, 9)
    refused(world, "m@1 has no earlier approved version")


def test_what_was_verified_of_the_target_is_recorded(world):
    world.put_live(1, 2)
    world.get = lambda digest: {"smoke_rows": 32}
    assert world.roll_back().predicate["checked"] == {"smoke_rows": 32}


def test_the_incident_of_a_rollback_tells_its_timeline_and_pages_nobody(world):
    world.put_live(1, 2)
    move = world.roll_back(timeline=[{"at": "2030-01-01T00:00:00.000000Z", "what": "breach"}])
    for _ in range(2):
        tell(world.ledger, move, actor="test", alias="the alias followed")
    (found,) = incidents(world.ledger, "m")
    assert (found.kind, found.severity, found.pages, found.open) == (
        "rollback",
        "medium",
        False,
        True,
    )
    assert [s["what"] for s in found.timeline] == [
        "breach",
        "version 1 was looked at and is fit",
        "slot 'production' moved to version 1, 2 quarantined",
        "the alias followed",
    ]


def test_the_target_is_known_before_anybody_looks_at_bytes(world):
    world.put_live(1)
    assert slots.rollback_target(world.ledger, slots.live(world.ledger, "m")) is None
    world.put_live(2, 3)
    assert slots.rollback_target(world.ledger, slots.live(world.ledger, "m")) == 2


def test_a_rollback_has_one_incident_also_after_that_was_closed(world):
    world.put_live(1, 2)
    move = world.roll_back()
    opened = tell(world.ledger, move, actor="test", alias="it followed")
    close_incident(world.ledger, opened, summary="looked at", actor="test")
    assert tell(world.ledger, move, actor="test", alias="it followed") == opened
    (found,) = incidents(world.ledger, "m")
    assert [s["at"] for s in found.timeline if "moved to" in s["what"]] == [move.recorded_at]


def test_bytes_are_read_without_holding_the_ledger(world, new_world):
    """A slow store must not stop everybody else from writing."""
    world.put_live(1, 2)
    read, other = world.get, new_world(world.ledger.path.parent)

    def slow(digest):
        other.registry.artifacts["m", 3] = other.put(b"model 3")
        other.ledger._connection().execute("PRAGMA busy_timeout = 1")
        other.train(3)
        return read(digest)

    world.get = slow
    assert world.roll_back().predicate["version"] == 1


def test_two_people_who_press_at_once_go_back_one_version(world):
    world.put_live(1, 2, 3)
    world.roll_back(version=3)
    error = refused(world, "m@2 is live .* Expected version 3", SlotMoved, version=3)
    assert error.slot == "m@production"
    assert world.live == 2


def test_a_slot_that_moves_while_bytes_are_read_is_noticed(world):
    world.put_live(1, 2, 3)
    read, world.get = world.get, None

    def meanwhile(digest):
        world.get = read
        world.roll_back()
        return read(digest)

    world.get = meanwhile
    with pytest.raises(SlotMoved):
        world.roll_back()
    assert world.live == world.alias == 2


def test_a_target_that_is_quarantined_while_its_bytes_are_read_is_refused(world):
    world.put_live(1, 2)
    read = world.get

    def meanwhile(digest):
        quarantine(world, 1)
        return read(digest)

    world.get = meanwhile
    with pytest.raises(RollbackRefused, match="m@1 was quarantined meanwhile"):
        world.roll_back()
    assert world.live == world.alias == 2


@pytest.mark.parametrize("version", [1, 2])
def test_a_changed_row_that_a_rollback_relies_on_stops_it(world, version):
    world.put_live(1, 2)
    change(world, world.ledger.records(kind="promotion")[2 - version].sequence)
    refused(world, "does not hash to its recorded hash", LedgerTampered)


def test_a_changed_row_that_a_rollback_does_not_need_does_not_stop_it(world):
    """At three in the morning an old scratch must not keep a bad model in production."""
    world.put_live(1, 2)
    change(world, 1)
    assert world.roll_back().predicate["version"] == 1
    with pytest.raises(LedgerTampered):
        world.ledger.verify()


def change(world, sequence):
    connection = sqlite3.connect(world.ledger.path)
    connection.execute("DROP TRIGGER never_updated")
    connection.execute("UPDATE statements SET actor = 'eve' WHERE sequence = ?", [sequence])
    connection.commit()


@pytest.mark.parametrize("move", ["promotion", "rollback"])
def test_a_move_that_the_registry_cannot_follow_is_done_and_says_so(world, move):
    """Repeating it would be wrong: a second rollback goes back one version too far."""
    world.put_live(1, 2)
    world.train(3)
    world.evaluate(3)
    world.approve(3)
    world.registry.broken = RegistryError("MLflow is down")
    act = {"promotion": lambda: world.promote(3), "rollback": world.roll_back}[move]
    with pytest.raises(RegistryError, match=f"Do not repeat the {move}, which is done") as found:
        act()
    expected = {"promotion": 3, "rollback": 1}[move]
    assert (world.live, world.alias) == (expected, 2)
    assert found.value.record == world.ledger.head("m@production")
    world.registry.broken = None
    assert world.project() == {"ledger": expected, "before": 2, "after": expected}
    assert world.alias == expected
    assert world.kinds()[-1] == "reconcile"


class Crash(BaseException):
    """The process dies."""


def test_a_crash_between_ledger_and_alias_is_repaired(world):
    world.put_live(1, 2)
    world.registry.broken = Crash()
    with pytest.raises(Crash):
        world.roll_back()
    assert (world.live, world.alias) == (1, 2)
    world.registry.broken = None
    world.project()
    assert world.alias == 1
    assert world.ledger.verify() == len(world.kinds())


@pytest.mark.parametrize("moved_to", [2, 1, 9, None], ids=["other", "replaced", "unknown", "gone"])
def test_an_alias_moved_by_hand_is_repaired_and_recorded_once(world, moved_to):
    world.put_live(1, 3)
    world.registry.aliases.pop(("m", "production"))
    if moved_to is not None:
        world.registry.aliases["m", "production"] = moved_to
    before = world.kinds()
    assert world.project() == {"ledger": 3, "before": moved_to, "after": 3}
    assert world.project() == {"ledger": 3, "before": 3, "after": 3}
    assert world.kinds() == [*before, "reconcile"]
    says = world.ledger.records(limit=1)[0].predicate
    assert (says["found"], says["version"]) == (moved_to, 3)


def test_an_alias_that_agrees_leaves_no_trace(world):
    world.put_live(1)
    before = world.kinds()
    assert world.project() == {"ledger": 1, "before": 1, "after": 1}
    assert world.kinds() == before


def test_a_move_finds_and_records_an_alias_moved_by_hand(world):
    world.put_live(1, 2)
    world.registry.aliases["m", "production"] = 9
    world.roll_back()
    assert world.alias == 1
    assert world.kinds()[-3:] == ["rollback", "quarantine", "reconcile"]
    assert world.ledger.records(limit=1)[0].predicate["found"] == 9


def test_an_alias_before_any_promotion_is_taken_away(world):
    assert world.project() == {"ledger": None, "before": None, "after": None}
    world.train(1)
    world.evaluate(1)
    world.registry.aliases["m", "production"] = 1
    assert world.project() == {"ledger": None, "before": 1, "after": None}
    assert (world.alias, world.kinds()[-1]) == (None, "reconcile")


def test_an_alias_that_something_else_keeps_moving_is_given_up_with_an_error(world):
    world.put_live(1, 2)
    world.registry.set_alias = lambda model, alias, version: None
    world.registry.aliases["m", "production"] = 1
    with pytest.raises(RegistryError, match="does not stay where the ledger says"):
        world.project()
    assert "reconcile" not in world.kinds()


def test_an_alias_that_others_move_on_meanwhile_follows_the_newest_move(world):
    """A slow repair must not undo a promotion that overtook it."""
    world.put_live(1, 2)
    world.registry.aliases["m", "production"] = 9
    write = world.registry.set_alias

    def slow(model, alias, version):
        world.registry.set_alias = write
        world.roll_back()
        write(model, alias, version)

    world.registry.set_alias = slow
    assert world.project()["after"] == 1
    assert world.live == world.alias == 1


def test_slots_of_one_model_move_apart_but_share_the_quarantine(world):
    world.put_live(1, 2)
    assert slots.live(world.ledger, "m", "staging") is None
    assert slots.states(world.ledger, "m", "staging") == {1: "candidate", 2: "candidate"}
    world.roll_back()
    assert slots.states(world.ledger, "m", "staging") == {1: "candidate", 2: "quarantined"}
