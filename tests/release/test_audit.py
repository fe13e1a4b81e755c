"""A move written into the ledger without mlct: the chain holds, and only the signatures tell.

Version 1 is live, version 2 waits, as in the attack table. What follows the ledger asks the audit.
"""

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import mlct
from mlct.data.digest import sha256
from mlct.errors import LedgerError, LedgerTampered
from mlct.release import slot as slots
from mlct.release.approval import policy
from mlct.release.approval import request as approvals
from mlct.release.ledger import MOVES, Ledger, statement
from mlct.release.slot import promotion
from mlct.release.slot.audit import require_approved
from mlct.release.slot.rollback import STAYS

DAY = timedelta(days=1)
STAGING = "staging"


def write(world: Any, of: int, *, kind: str = "promotion", **changes: Any) -> None:
    """A move as mlct would write it, with the approvals that there are."""
    head, artifact = world.ledger.head("m@production"), world.registry.artifacts["m", of]
    moves = world.ledger.records(kind="promotion")
    given = world.ledger.records(kind="approval", subject=artifact)[::-1]
    said = next((r.predicate for r in moves if r.predicate["version"] == of), {})
    gate = world.ledger.records(kind="gate", subject=artifact, limit=1)[0]
    says = head.predicate | {n: gate.predicate[n] for n in ("version", "artifact", "evidence")}
    says |= {"gate": gate.hash, "replaces": 1, "rollback_target": 1}
    says |= {
        "approvals": [r.hash for r in given],
        "approvers": ["ana (model-risk)", "ben (product)"],
    }
    if kind == "rollback":
        says |= {n: said.get(n, says[n]) for n in STAYS} | {"from": 1, "reason": "bad"}
    where = {"slot": "m@production", "supersedes": head.sequence}
    world.ledger.append(statement(kind, {"artifact": artifact}, says | changes), actor="x", **where)


def that_nobody_approved(world: Any) -> None:
    write(world, 2)


def by_the_approvals_of_another_version(world: Any) -> None:
    write(world, 2, approvals=world.ledger.records(kind="promotion")[0].predicate["approvals"])


def by_one_of_two(world: Any) -> None:
    world.answer("ana", 2)
    write(world, 2)


def of_other_bytes(world: Any) -> None:
    world.approve(2)
    write(world, 2, artifact=sha256(b"trojan"))


def under_other_names(world: Any) -> None:
    world.approve(2)
    write(world, 2, approvers=["cid (model-risk)", "dan (product)"])


def in_spite_of_a_no(world: Any) -> None:
    world.approve(2)
    world.answer("cid", 2, "reject")
    write(world, 2, approvals=[r.hash for r in world.ledger.records(kind="approval")[2:0:-1]])


def in_spite_of_the_gate(world: Any) -> None:
    world.evaluate(2, "FAIL")
    asked = approvals.Request.of(world.ledger, "m", 2, "production")
    for person in ("ana", "ben"):
        how = {"key": world.keys[person], "comment": "", "at": world.clock()}
        content, body, signed, _ = approvals.decide(
            asked, world.approvers, decision="approve", **how
        )
        world.ledger.append(content, actor=person, signature=signed, body=body)
    write(world, 2)


def after_the_approvals_expired(world: Any) -> None:
    world.approve(2)
    world.clock.time += 8 * DAY
    write(world, 2)


def under_a_policy_that_nobody_signed(world: Any) -> None:
    world.weaken()
    content = policy._statement(world.approvers, policy.in_force(world.ledger), "", "mine")
    world.ledger.append(content, actor="eve")
    world.answer("ana", 2)
    write(world, 2, policy=world.approvers.digest, approvers=["ana (model-risk)"])


def of_what_was_quarantined(world: Any) -> None:
    """Its approvals were real, and used."""
    world.approve(2)
    says = world.promote(2).predicate
    world.roll_back()
    head = world.ledger.head("m@production").sequence
    content = statement("promotion", {"artifact": says["artifact"]}, says)
    world.ledger.append(content, actor="eve", slot="m@production", supersedes=head)


def back_to_what_was_quarantined(world: Any) -> None:
    world.approve(2)
    world.promote(2)
    world.roll_back()
    write(world, 2, kind="rollback")


def back_to_what_was_never_live(world: Any) -> None:
    world.approve(2)
    write(world, 2, kind="rollback")


def to_a_target_that_nobody_signed(world: Any) -> None:
    world.approve(2)
    write(world, 2, rollback_target=None)


def in_the_name_of_another_slot(world: Any) -> None:
    world.approve(2)
    write(world, 2, slot=STAGING)


def by_the_approvals_of_another_slot(world: Any) -> None:
    """All of it was signed, for staging."""
    gate = world.evaluate(2, slot=STAGING)
    for person in ("ana", "ben"):
        world.answer(person, 2, slot=STAGING)
    asked = approvals.Request.of(world.ledger, "m", 2, STAGING)
    given = approvals.judge(world.ledger, asked, world.approvers, at=world.clock())
    assert gate.hash == asked.gate
    write(world, 2, **promotion.promoted(asked, world.approvers, given))


def back_to_other_bytes(world: Any) -> None:
    world.approve(2)
    world.promote(2)
    write(world, 1, kind="rollback", artifact=sha256(b"trojan"))


FORGERIES = [
    by_the_approvals_of_another_slot,
    back_to_other_bytes,
    that_nobody_approved,
    by_the_approvals_of_another_version,
    by_one_of_two,
    of_other_bytes,
    under_other_names,
    in_spite_of_a_no,
    in_spite_of_the_gate,
    after_the_approvals_expired,
    under_a_policy_that_nobody_signed,
    of_what_was_quarantined,
    back_to_what_was_quarantined,
    back_to_what_was_never_live,
    to_a_target_that_nobody_signed,
    in_the_name_of_another_slot,
]


@pytest.mark.parametrize("forge", FORGERIES, ids=[forge.__name__ for forge in FORGERIES])
def test_a_move_written_past_mlct_is_told_from_one_that_people_signed(put_forward, forge):
    honest = put_forward.ledger.head("m@production")
    forge(put_forward)
    head = put_forward.ledger.head("m@production")
    assert put_forward.ledger.verify() >= head.sequence > honest.sequence
    with pytest.raises(LedgerTampered, match=f"statement {head.sequence} moves m@production"):
        require_approved(put_forward.ledger, head)
    require_approved(put_forward.ledger, honest)


def test_what_was_written_as_mlct_writes_it_is_not_told(put_forward):
    """The control of the forgeries: they are found for what they change."""
    put_forward.approve(2)
    write(put_forward, 2)
    require_approved(put_forward.ledger, put_forward.ledger.head("m@production"))


def test_no_honest_move_is_ever_doubted(put_forward):
    """Whatever came after it: rollbacks, other slots and files, people who left, years."""
    world = put_forward
    world.approve(2)
    world.promote(2)
    world.roll_back()
    world.train(9, fallback=True)
    for version, slot, verdict in ((9, "fallback", "NOT COMPARED"), (1, STAGING, "PASS")):
        world.evaluate(version, verdict, slot)
        for person in ("ana", "dan"):
            world.answer(person, version, slot=slot)
        world.promote(version, slot)
    world.project()
    assert world.roll_back().predicate["version"] == 9
    world.change_approvers(tiers={"high": {"approvers": 1, "distinct_roles": False}})
    world.train(3)
    world.evaluate(3)
    world.answer("ben", 3)
    world.promote(3)
    world.change_approvers(ben={"roles": ["model-risk"]}, tiers={"high": {"approvers": 3}})
    world.clock.time = world.departed + 3650 * DAY
    world.validate(3)
    moves = world.ledger.records(kind=MOVES)
    assert len(moves) == 7
    for move in moves:
        require_approved(world.ledger, move)


def test_what_is_yet_to_come_moves_nothing_before(put_forward):
    """Under a clock set forward whoever is left then would be enough."""
    put_forward.clock.time += DAY
    put_forward.evaluate(2)
    put_forward.approve(2)
    move = put_forward.promote(2)
    require_approved(put_forward.ledger, move)
    put_forward.clock.time -= DAY
    with pytest.raises(LedgerTampered, match="is yet to come"):
        require_approved(put_forward.ledger, move)


def test_a_move_is_judged_by_the_file_of_its_time(put_forward):
    """A change that was dated later came into force later, though it was written before."""
    stay = {n: {"not_after": put_forward.clock() + DAY} for n in ("ben", "cid", "dan")}
    put_forward.change_approvers("ana", **stay)
    put_forward.clock.time += 2 * DAY
    put_forward.change_approvers("ana", tiers={"low": {"evidence_days": 3}}, **stay)
    put_forward.clock.time -= 2 * DAY
    put_forward.edit_approvers(**stay)
    put_forward.evaluate(2)
    put_forward.approve(2)
    move = put_forward.promote(2)
    put_forward.clock.time += 3 * DAY
    require_approved(put_forward.ledger, move)


def test_an_approval_that_expires_while_its_promotion_is_written_still_counts(
    put_forward, monkeypatch
):
    world, said = put_forward, promotion.promoted
    for person in ("ana", "ben"):
        world.answer(person, 2, lifetime=timedelta(seconds=40))

    def slowly(*parts: Any) -> Any:
        world.clock.time += timedelta(seconds=40)
        return said(*parts)

    monkeypatch.setattr(promotion, "promoted", slowly)
    move = world.promote(2)
    approval = world.ledger.records(kind="approval", limit=1)[0]
    assert move.recorded_at > approval.predicate["expires_at"]
    require_approved(world.ledger, move)


def test_the_promotion_that_a_rollback_goes_back_to_has_to_be_whole(put_forward, owner_of):
    put_forward.approve(2)
    put_forward.promote(2)
    move, origin = put_forward.roll_back(), put_forward.ledger.records(kind="promotion")[1]
    require_approved(put_forward.ledger, move)
    change = f"UPDATE statements SET actor = 'eve' WHERE sequence = {origin.sequence}"
    owner_of(put_forward.ledger).tamper(change)
    with pytest.raises(LedgerTampered, match=f"statement {origin.sequence} .* was changed"):
        require_approved(put_forward.ledger, move)


def test_a_look_at_how_the_ledger_stood_is_no_place_to_write(put_forward):
    then = put_forward.ledger.before(put_forward.ledger.head("m@production"))
    rows = put_forward.ledger.verify()
    with pytest.raises(LedgerError, match="how the ledger stood"):
        then.append(statement("refusal", {}, {"model": "m"}), actor="x")
    assert put_forward.ledger.verify() == rows
    assert slots.live(then, "m") is None


@pytest.mark.parametrize("name", ["ledger_v1.db", "ledger_v2.db"])
def test_the_moves_of_earlier_releases_still_count(tmp_path, name):
    """The first of them pinned no approvers file: nobody can say any more who might sign."""
    shutil.copy(Path(__file__).parent / "golden" / name, tmp_path / name)
    ledger = Ledger(tmp_path / name)
    moves = ledger.records(kind=MOVES)
    assert len(moves) == 3
    for move in moves:
        require_approved(ledger, move)


def test_a_ledger_that_cannot_be_read_is_not_called_forged(put_forward, monkeypatch):
    head = put_forward.ledger.head("m@production")

    def down(*_: Any, **__: Any) -> None:
        raise LedgerError("the ledger cannot be used: disk I/O error")

    monkeypatch.setattr(Ledger, "records", down)
    with pytest.raises(LedgerError, match="disk") as refused:
        require_approved(put_forward.ledger, head)
    assert not isinstance(refused.value, LedgerTampered)


# Through what follows the ledger.
@pytest.fixture
def forged(succeeded):
    """Version 2 was rolled back; somebody writes that it is live again, approved by ana."""
    succeeded.mlct("rollback", "late", "--reason", "bad", "--yes")
    ledger, head = succeeded.home.ledger, succeeded.home.ledger.head("late@production")
    (says,) = (p for p in succeeded.records("promotion") if p["version"] == 2)
    content = statement("promotion", {"artifact": says["artifact"]}, says | {"approvals": []})
    where = {"slot": "late@production", "supersedes": head.sequence}

    def forge():
        ledger.append(content, actor="dagster:0b6a by ana", **where)

    succeeded.forge = forge
    return succeeded


def test_a_forged_promotion_is_not_loaded_and_what_is_served_goes_on(forged):
    with mlct.load_live("late", home=forged.home, refresh=None) as serving:
        forged.forge()
        assert not serving.refresh()
        assert (serving.version, serving.problem.partition(":")[0]) == (1, "LedgerTampered")
        assert slots.live(forged.home.ledger, "late").version == 2
        with pytest.raises(LedgerTampered, match="without the approvals for it: late@2 is quara"):
            mlct.load_live("late", home=forged.home, refresh=None)
        # A rollback is the way out, and is followed.
        code, _, error = forged.mlct("rollback", "late", "--reason", "forged", "--yes")
        assert code == 0, error
        assert serving.refresh()
        assert serving.version == 1


def test_verify_names_a_forged_promotion(forged):
    assert forged.mlct("verify")[0] == 0
    forged.forge()
    code, _, error = forged.mlct("verify")
    assert code == 1
    assert "moves late@production without the approvals for it" in error
