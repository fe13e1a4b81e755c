"""The attack table: one row a cheat, and the check that stops it.

Version 1 is live, version 2 waits, risk tier "high" wants two people in two roles. Each row cheats;
then the promotion of version 2 must be refused by the check that the row names, nothing may have
moved, and one row of the ledger says who tried. What the table cannot refuse stands in tests of its
own, below.
"""

import ast
import json
import re
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import mlct
from benchmarks import sshsig_mutants
from mlct.data.digest import canonical, sha256
from mlct.errors import ApprovalInvalid, LedgerError, LedgerTampered
from mlct.release import slot as slots
from mlct.release.approval import policy, signature
from mlct.release.approval import request as approvals
from mlct.release.approval.deployment import Deployment
from mlct.release.ledger import checkpoint, require_checkpoint, statement
from mlct.release.ledger.note import Signer
from mlct.release.slot.audit import require_approved
from mlct.release.slot.rollback import tell

DAY = timedelta(days=1)
STAGING = "staging"


# People and keys.
def no_approvals(world: Any) -> None:
    pass


def one_of_two(world: Any) -> None:
    world.approve(2, "ana")


def the_same_person_twice(world: Any) -> None:
    world.approve(2, "ana", "ana")


def one_person_in_two_roles(world: Any) -> None:
    world.answer("cid", 2, role="product")
    world.answer("cid", 2, role="model-risk")


def two_people_in_one_role(world: Any) -> None:
    world.approve(2, "ben", "cid")


def self_approval(world: Any) -> None:
    world.train(2, authors=("Ben",))
    world.approve(2)


def self_approval_by_the_name_of_a_commit(world: Any) -> None:
    world.train(2, authors=("Ben <ben.smith@shop.example>",))
    world.approve(2)


def self_approval_by_another_address(world: Any) -> None:
    world.change_approvers(ben={"emails": ["b.smith@shop.example"]})
    world.train(2, authors=("Benjamin <B.Smith@shop.example>",))
    world.evaluate(2)
    world.approve(2)


def self_approval_by_another_spelling(world: Any) -> None:
    world.train(2, authors=("\uff22\uff45\uff4e",))  # in full-width letters
    world.approve(2)


def an_author_whom_nobody_knows(world: Any) -> None:
    world.train(3, authors=())
    world.evaluate(3)
    world.approve(3)


def a_role_not_held(world: Any) -> None:
    world.answer("ana", 2)
    world.forge("ben", 2, role="model-risk")


def a_role_that_nobody_filled(world: Any) -> None:
    tiers = {"high": {"roles": ["model-risk", "product"], "distinct_roles": False}}
    world.change_approvers(tiers=tiers)
    world.evaluate(2)
    world.approve(2, "ben", "dan")


def an_unknown_key(world: Any) -> None:
    world.forge("eve", 2)


def a_key_of_somebody_else(world: Any) -> None:
    world.forge("ben", 2, approver="cid")


def a_departed_approver(world: Any) -> None:
    world.clock.time = world.departed + DAY
    world.evaluate(2)
    world.forge("dan", 2)


def a_key_without_touch(world: Any) -> None:
    sign = sshsig_mutants.security_key("sk-ssh-ed25519@openssh.com")
    world.change_approvers(tiers={"high": {"touch": True}}, cid={"keys": [sign(b"").public]})
    world.evaluate(2)
    world.approve(2)


# What was signed, when, and for what.
def a_git_signature(world: Any) -> None:
    world.forge("ben", 2, namespace="git")


def a_reject_made_an_approve(world: Any) -> None:
    """Ben's no is handed in as a yes, with his signature."""
    asked, key = world.request(2), world.keys["ben"]
    how = {"decision": "reject", "key": key, "comment": "no", "at": world.clock()}
    content, _, signed, _ = approvals.decide(asked, world.approvers, **how)
    content["predicate"]["decision"] = "approve"
    world.ledger.append(content, actor="eve", signature=signed)
    world.answer("ana", 2)


def approved_in_spite_of_a_reject(world: Any) -> None:
    world.answer("cid", 2, "reject")
    world.approve(2)


def a_reject_shaken_off_by_putting_it_forward_again(world: Any) -> None:
    """The same bytes on the same evidence, for another deployment and back."""
    world.answer("cid", 2, "reject")
    evidence = world.request(2).evidence
    for world.deployment in (Deployment(settings={"note": "x"}), Deployment()):
        world.clock.time += timedelta(hours=1)
        world.evaluate(2, evidence=evidence)
    world.approve(2)


def a_reject_by_a_clock_that_was_ahead(world: Any) -> None:
    world.answer("cid", 2, "reject", at=world.clock.time + DAY)
    world.approve(2)


def an_approval_by_a_clock_that_was_ahead(world: Any) -> None:
    """It would count for a year and seven days."""
    world.clock.time += 365 * DAY
    world.answer("ben", 2)
    world.clock.time -= 364 * DAY
    world.validate(2)
    world.answer("ana", 2)


def an_approval_for_staging(world: Any) -> None:
    world.answer("ana", 2)
    world.evaluate(2, slot=STAGING)
    for person in ("ana", "ben"):
        world.answer(person, 2, slot=STAGING)


def a_staging_approval_renamed(world: Any) -> None:
    record = world.answer("ben", 2, slot=evaluated_for_staging(world))
    content = record.statement
    content["predicate"]["slot"] = "production"
    world.ledger.append(content, actor="eve", signature=record.signature)
    world.answer("ana", 2)


def evaluated_for_staging(world: Any) -> str:
    world.evaluate(2, slot=STAGING)
    return STAGING


def an_expired_approval(world: Any) -> None:
    world.answer("ben", 2, lifetime=timedelta(minutes=1))
    world.answer("ana", 2)
    world.clock.time += timedelta(minutes=2)


def a_ten_year_life(world: Any) -> None:
    world.forge("ben", 2, expires_at=approvals.instant(world.clock.time + 3650 * DAY))


def signed_before_the_evidence(world: Any) -> None:
    before = approvals.instant(world.clock.time - timedelta(hours=1))
    world.forge("ben", 2, issued_at=before)


def approvals_of_an_earlier_evaluation(world: Any) -> None:
    world.approve(2)
    world.evaluate(2)


def another_deployment_signed(world: Any) -> None:
    world.forge("ben", 2, deployment=Deployment(traffic=0.1).digest("production"))


# Evidence and bytes.
def stale_evidence(world: Any) -> None:
    world.clock.time += 31 * DAY
    world.approve(2)


def stale_evidence_recorded_again(world: Any) -> None:
    evidence = world.request(2).evidence
    world.clock.time += 31 * DAY
    world.evaluate(2, evidence=evidence)
    world.approve(2)


def an_artifact_swapped(world: Any) -> None:
    world.approve(2)
    world.registry.artifacts["m", 2] = sha256(b"trojan")


def an_approved_copy_deleted(world: Any) -> None:
    world.approve(2)
    world.lost.add(world.registry.artifacts["m", 2])


def evidence_edited(world: Any) -> None:
    world.approve(2)
    evidence = world.request(2).evidence
    report = json.loads(world.store[evidence])
    world.store[evidence] = canonical(report | {"note": "so much better"})


def evidence_from_the_future(world: Any) -> None:
    """Made by a clock that was a year ahead, it would be fresh for a year."""
    world.clock.time += 365 * DAY
    world.evaluate(2)
    world.clock.time -= 364 * DAY
    world.validate(2)
    world.approve(2)


def evidence_of_another_version(world: Any) -> None:
    world.evaluate(2, evidence=world.ledger.records(kind="gate")[1].predicate["evidence"])
    world.approve(2)


def a_failed_gate_signed(world: Any) -> None:
    world.evaluate(2, "FAIL")
    world.approve(2)


def an_undecided_gate_signed(world: Any) -> None:
    world.evaluate(2, "INCONCLUSIVE")
    world.approve(2)


def a_failed_gate_called_passed(world: Any) -> None:
    """Only the ledger's row says PASS; the evidence that it names does not."""
    failed = world.evaluate(2, "FAIL").predicate["evidence"]
    world.evaluate(2, evidence=failed)
    world.approve(2)


def a_missing_gate(world: Any) -> None:
    world.train(3)


def a_tier_declared_since(world: Any) -> None:
    """The spec said "low" when it was evaluated: one person is enough, the author too."""
    world.train(2, authors=("ben",))
    world.evaluate(2, tier="low")
    world.answer("ben", 2)


def a_gate_declared_since(world: Any) -> None:
    world.approve(2)
    world.declared["gate"] = sha256(b"a stricter gate")


def a_contract_declared_since(world: Any) -> None:
    world.approve(2)
    world.declared["contract"] = sha256(b"a stricter contract")


def a_failed_contract(world: Any) -> None:
    world.approve(2)
    world.validate(2, passed=False)


def no_contract(world: Any) -> None:
    world.train(3, rows=b"that nobody validated")
    world.evaluate(3)
    world.approve(3)


def demanding_shadow(world: Any) -> None:
    world.deployment = Deployment(requires=["shadow"])
    world.evaluate(2)


def trial(world: Any, name: str, **changes: Any) -> None:
    artifact = world.registry.artifacts["m", 2]
    says = {"model": "m", "version": 2, "slot": "production", "artifact": artifact}
    says |= {"trial": name, "verdict": "PASS"} | changes
    world.ledger.append(statement("shadow", {"artifact": artifact}, says), actor="eve")


def a_missing_shadow(world: Any) -> None:
    demanding_shadow(world)
    world.approve(2)


def a_bogus_gate_name(world: Any) -> None:
    """Something passed; only not what was asked for."""
    demanding_shadow(world)
    trial(world, "looks-good")
    world.approve(2)


def a_shadow_of_another_version(world: Any) -> None:
    demanding_shadow(world)
    trial(world, "shadow", version=1)
    world.approve(2)


def a_failed_canary_of_the_tier(world: Any) -> None:
    world.change_approvers(tiers={"high": {"requires": ["shadow", "canary"]}})
    world.evaluate(2)
    trial(world, "shadow")
    trial(world, "canary")
    trial(world, "canary", verdict="FAIL")
    world.approve(2)


def a_champion_that_moved(world: Any) -> None:
    world.approve(2)
    world.put_live(3)


def a_champion_that_came_back(world: Any) -> None:
    world.approve(2)
    world.put_live(3)
    world.roll_back()


def a_deployment_changed_after_the_approval(world: Any) -> None:
    world.approve(2)
    world.deployment = Deployment(environment="production", settings={"threshold": 0.1})


def a_replay_after_a_rollback(world: Any) -> None:
    world.approve(2)
    world.promote(2)
    world.roll_back()
    for record in world.ledger.records(kind="approval", limit=2):
        world.ledger.append(record.statement, actor="eve", signature=record.signature)


def quarantined_bytes_under_another_number(world: Any) -> None:
    world.approve(2)
    world.promote(2)
    world.roll_back()
    world.train(3, data=b"model 2")
    world.evaluate(3)
    world.approve(3)


def bytes_that_nobody_trained(world: Any) -> None:
    world.evaluate(2, artifact=sha256(b"smuggled"))


# The rules themselves.
def a_weakened_policy(world: Any) -> None:
    world.weaken()
    world.answer("ana", 2)


def a_policy_pinned_again_after_the_evidence(world: Any) -> None:
    """Signed by somebody who may; what was evaluated before it does not profit."""
    world.change_approvers(tiers={"high": {"approvers": 1, "distinct_roles": False}})
    world.answer("ana", 2)


def a_policy_that_one_alone_signed(world: Any) -> None:
    """Where two must approve, one may not lower that."""
    world.weaken()
    how = {"key": world.keys["ben"], "comment": "", "at": world.clock()}
    policy.change(world.ledger, world.approvers, **how)
    world.evaluate(2, approvers_policy=world.approvers.digest)
    world.answer("ben", 2)


def a_policy_signed_under_a_clock_set_forward(world: Any) -> None:
    """To when the others have left: then one alone would do."""
    leave = {"not_after": world.clock() + timedelta(days=365)}
    stay = dict.fromkeys(("ben", "cid", "dan"), leave)
    world.change_approvers("ana", **stay)
    world.clock.time += timedelta(days=366)
    world.weaken(**stay)
    how = {"key": world.keys["ana"], "comment": "", "at": world.clock()}
    policy.change(world.ledger, world.approvers, **how)
    world.clock.time -= timedelta(days=366)
    world.evaluate(2, approvers_policy=world.approvers.digest)
    world.answer("ana", 2)


def a_policy_that_nobody_signed(world: Any) -> None:
    world.weaken()
    append_policy(world)
    world.evaluate(2, approvers_policy=world.approvers.digest)
    world.answer("ana", 2)


def append_policy(world: Any, signer: str = "", signed: str | None = None) -> Any:
    current = policy.in_force(world.ledger)
    content = policy._statement(world.approvers, current, signer, "mine")
    return world.ledger.append(content, actor="eve", signature=signed)


def a_policy_signed_by_a_stranger(world: Any) -> None:
    world.weaken()
    current = policy.in_force(world.ledger)
    content = policy._statement(world.approvers, current, "ana", "mine")
    how = {"namespace": policy.NAMESPACE}
    signed = signature.sign(world.keys["eve"], canonical(content), **how)
    world.ledger.append(content, actor="eve", signature=signed)
    world.answer("ana", 2)


def a_policy_signed_by_who_may_not(world: Any) -> None:
    """Ana governs; ben signs."""
    world.change_approvers(ana={"roles": ["model-risk", "governance"]})
    world.evaluate(2)
    world.weaken()
    with pytest.raises(ApprovalInvalid, match="ben may not change the approvers file"):
        world.change_approvers("ben")
    content = policy._statement(world.approvers, policy.in_force(world.ledger), "ben", "mine")
    signed = signature.sign(world.keys["ben"], canonical(content), namespace=policy.NAMESPACE)
    world.ledger.append(content, actor="ben", signature=signed)
    world.answer("ana", 2)


def an_old_policy_replayed(world: Any) -> None:
    """What ana once signed, and had undone since."""
    strict = world.approvers
    world.change_approvers(tiers={"high": {"approvers": 1, "distinct_roles": False}})
    weak, record = world.approvers, world.ledger.records(kind="policy", limit=1)[0]
    world.change_approvers()
    assert world.approvers.digest == strict.digest
    world.ledger.append(record.statement, actor="eve", signature=record.signature)
    world.approvers = weak
    world.evaluate(2, approvers_policy=weak.digest)
    world.answer("ana", 2)


def a_policy_for_an_approval(world: Any) -> None:
    """A signature made for one kind of statement is none for the other."""
    world.weaken()
    content = policy._statement(world.approvers, policy.in_force(world.ledger), "ana", "mine")
    signed = signature.sign(world.keys["ana"], canonical(content))
    world.ledger.append(content, actor="eve", signature=signed)
    world.answer("ana", 2)


def an_alias_moved_by_hand(world: Any) -> None:
    world.approve(2)
    world.registry.aliases["m", "production"] = 2


TABLE = [
    (no_approvals, "approvals"),
    (one_of_two, "approvals"),
    (the_same_person_twice, "approvals"),
    (one_person_in_two_roles, "approvals"),
    (two_people_in_one_role, "approvals"),
    (self_approval, "approvals"),
    (self_approval_by_the_name_of_a_commit, "approvals"),
    (self_approval_by_another_address, "approvals"),
    (self_approval_by_another_spelling, "approvals"),
    (an_author_whom_nobody_knows, "author"),
    (a_role_not_held, "approvals"),
    (a_role_that_nobody_filled, "approvals"),
    (an_unknown_key, "approvals"),
    (a_key_of_somebody_else, "approvals"),
    (a_departed_approver, "approvals"),
    (a_key_without_touch, "approvals"),
    (a_git_signature, "approvals"),
    (a_reject_made_an_approve, "approvals"),
    (approved_in_spite_of_a_reject, "approvals"),
    (a_reject_shaken_off_by_putting_it_forward_again, "approvals"),
    (a_reject_by_a_clock_that_was_ahead, "approvals"),
    (an_approval_by_a_clock_that_was_ahead, "approvals"),
    (an_approval_for_staging, "approvals"),
    (a_staging_approval_renamed, "approvals"),
    (an_expired_approval, "approvals"),
    (a_ten_year_life, "approvals"),
    (signed_before_the_evidence, "approvals"),
    (approvals_of_an_earlier_evaluation, "approvals"),
    (another_deployment_signed, "approvals"),
    (stale_evidence, "fresh"),
    (stale_evidence_recorded_again, "fresh"),
    (evidence_from_the_future, "fresh"),
    (a_tier_declared_since, "rules"),
    (a_gate_declared_since, "rules"),
    (a_contract_declared_since, "rules"),
    (an_artifact_swapped, "artifact"),
    (an_approved_copy_deleted, "approved-copy"),
    (evidence_edited, "evidence"),
    (evidence_of_another_version, "evidence"),
    (a_failed_gate_signed, "gate"),
    (an_undecided_gate_signed, "gate"),
    (a_failed_gate_called_passed, "evidence"),
    (a_missing_gate, "evaluated"),
    (a_failed_contract, "statements"),
    (no_contract, "statements"),
    (a_missing_shadow, "statements"),
    (a_bogus_gate_name, "statements"),
    (a_shadow_of_another_version, "statements"),
    (a_failed_canary_of_the_tier, "statements"),
    (a_champion_that_moved, "champion"),
    (a_champion_that_came_back, "champion"),
    (a_deployment_changed_after_the_approval, "deployment"),
    (a_replay_after_a_rollback, "quarantine"),
    (quarantined_bytes_under_another_number, "quarantine"),
    (bytes_that_nobody_trained, "evaluated"),
    (a_weakened_policy, "policy"),
    (a_policy_pinned_again_after_the_evidence, "policy-of-evidence"),
    (a_policy_that_nobody_signed, "policy"),
    (a_policy_that_one_alone_signed, "policy"),
    (a_policy_signed_under_a_clock_set_forward, "policy"),
    (a_policy_signed_by_a_stranger, "policy"),
    (a_policy_signed_by_who_may_not, "policy"),
    (an_old_policy_replayed, "policy"),
    (a_policy_for_an_approval, "policy"),
    (an_alias_moved_by_hand, "in-flight"),
]
OF_VERSION_3 = {
    an_author_whom_nobody_knows,
    a_missing_gate,
    no_contract,
    quarantined_bytes_under_another_number,
}


@pytest.mark.parametrize(("cheat", "check"), TABLE, ids=[cheat.__name__ for cheat, _ in TABLE])
def test_a_cheat_is_refused_by_its_check(put_forward, cheat, check):
    cheat(put_forward)
    put_forward.refused(".", 3 if cheat in OF_VERSION_3 else 2, check=check)


def test_who_does_not_cheat_promotes(put_forward):
    put_forward.approve(2)
    assert put_forward.promote(2).predicate["version"] == 2
    assert put_forward.live == put_forward.alias == 2
    assert "refusal" not in put_forward.kinds()


def every_tightening(world: Any) -> None:
    tiers = {"high": {"roles": ["model-risk", "product"], "requires": ["shadow"]}}
    world.change_approvers(tiers=tiers)
    world.deployment = Deployment(environment="eu", traffic=0.5, requires=["canary"])
    world.evaluate(2)
    trial(world, "canary")
    trial(world, "shadow")
    world.approve(2)


def a_signed_change_of_the_policy(world: Any) -> None:
    world.change_approvers(tiers={"high": {"approvers": 1, "distinct_roles": False}})
    world.evaluate(2)
    world.answer("ana", 2)


def an_alias_that_is_gone(world: Any) -> None:
    world.approve(2)
    world.registry.aliases.clear()


@pytest.mark.parametrize(
    "honest", [every_tightening, a_signed_change_of_the_policy, an_alias_that_is_gone]
)
def test_a_control_is_not_refused(put_forward, honest):
    """The rows above are refused for what they cheat, and not for what they share with these."""
    honest(put_forward)
    assert put_forward.promote(2)


@pytest.mark.parametrize("flags", [1, 0])
def test_security_keys_count_where_touch_is_demanded_and_only_touched(put_forward, flags):
    """What `a_key_without_touch` lacks; the keys are made in software."""
    kinds = dict(zip(("ana", "ben"), sshsig_mutants.SECURITY_KINDS, strict=True))
    makers = {n: sshsig_mutants.security_key(kind) for n, kind in kinds.items()}
    changes = {n: {"keys": [sign(b"").public]} for n, sign in makers.items()}
    put_forward.edit_approvers(tiers={"high": {"touch": True}}, **changes)
    for name in ("ana", "ben"):
        how = {"key": put_forward.keys[name], "comment": "", "at": put_forward.clock()}
        policy.change(put_forward.ledger, put_forward.approvers, **how)
    put_forward.evaluate(2)
    asked = put_forward.request(2)
    for person, sign in makers.items():
        says = asked.binding() | {"decision": "approve", "approver": person, "comment": ""}
        says |= {"role": {"ana": "model-risk", "ben": "product"}[person], "nonce": person}
        now = put_forward.clock()
        times = {"issued_at": approvals.instant(now), "expires_at": approvals.instant(now + DAY)}
        says |= times | {"policy": put_forward.approvers.digest}
        content = approvals._statement(says)
        signed = sign(canonical(content), flags=flags).armored
        put_forward.ledger.append(content, actor=person, signature=signed)
    if flags:
        assert put_forward.promote(2)
    else:
        put_forward.refused("the security key was not touched", check="approvals")


def test_who_left_cannot_sign_by_a_clock_that_was_set_back(put_forward):
    put_forward.clock.time = put_forward.departed - timedelta(hours=2)
    put_forward.evaluate(2)
    put_forward.clock.time = put_forward.departed + 3 * DAY
    put_forward.answer("ana", 2)
    rows = put_forward.ledger.verify()
    put_forward.clock.time = put_forward.departed - timedelta(hours=1)
    with pytest.raises(
        LedgerError, match=r"the clock says 2030-05-31T23.* by ana is of 2030-06-04"
    ):
        put_forward.answer("dan", 2)
    with pytest.raises(LedgerError, match="the clock says"):
        put_forward.change_approvers("ana", tiers={"high": {"approvers": 1}})
    assert put_forward.ledger.verify() == rows


@pytest.mark.parametrize("wrong", [365 * DAY, -365 * DAY], ids=["ahead", "behind"])
def test_no_clock_stops_a_rollback_and_its_incident(put_forward, wrong):
    """Of whoever wrote last, or of whoever rolls back."""
    put_forward.approve(2)
    put_forward.promote(2)
    put_forward.clock.time += wrong
    put_forward.validate(2)
    put_forward.clock.time -= wrong
    move = put_forward.roll_back()
    tell(put_forward.ledger, move, actor="test", alias="the alias followed")
    assert (put_forward.live, put_forward.kinds()[-1]) == (1, "incident")
    require_approved(put_forward.ledger, move)


def test_after_a_clock_that_was_ahead_people_sign_again_behind_the_next_statement(put_forward):
    put_forward.clock.time += 365 * DAY
    put_forward.validate(2)
    put_forward.clock.time -= 365 * DAY
    with pytest.raises(LedgerError, match="sign again after the next statement"):
        put_forward.approve(2)
    put_forward.validate(2)
    put_forward.approve(2)
    assert put_forward.promote(2)


def test_an_approval_for_staging_is_one_for_staging(put_forward):
    """The row of that name fails only because it is used elsewhere."""
    an_approval_for_staging(put_forward)
    record = put_forward.promote(2, STAGING)
    assert record.slot == "m@staging"
    assert (put_forward.live, put_forward.alias) == (1, 1)
    assert put_forward.registry.alias("m", STAGING) == 2


# The database. No promotion is asked for, so nothing is refused in the ledger.
@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE statements SET actor = 'ben'",
        "DELETE FROM statements WHERE kind = 'approval'",
        "DELETE FROM subjects",
        "UPDATE subjects SET digest = ''",
        "INSERT OR REPLACE INTO statements SELECT * FROM statements WHERE sequence = 1",
    ],
)
def test_the_database_refuses_to_forget(put_forward, owner_of, sql):
    before = put_forward.ledger.records()
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        owner_of(put_forward.ledger).execute(sql)
    assert put_forward.ledger.records() == before


def test_triggers_dropped_and_a_row_edited_is_seen_and_told_to_nobody_in_the_ledger(
    put_forward, owner_of
):
    """Another row would only cover up the damage, so the error alone says it."""
    put_forward.approve(2)
    owner_of(put_forward.ledger).tamper("UPDATE statements SET actor = 'eve' WHERE sequence = 3")
    error = LedgerTampered
    put_forward.refused("statement 3", error=error, check="ledger", recorded=False)


# Only what is kept outside of the database stops its owner.
@pytest.fixture
def keep() -> Callable[[Any], None]:
    """`keep(world)`: sign a checkpoint now, and demand it at promotions."""
    signer = Signer.of(Ed25519PrivateKey.generate())

    def signed(world: Any) -> None:
        note = checkpoint(world.ledger, signer)
        world.verify = lambda: require_checkpoint(world.ledger, [note], signer.verifier)

    return signed


def chain_rewritten(world: Any, owner: Any) -> None:
    """Cid's rejection becomes a harmless remark, and every later hash is made anew."""
    (row,) = [r for r in world.ledger.records(kind="approval") if r.predicate["approver"] == "cid"]
    content = row.statement
    content |= {"predicateType": "https://mlct.dev/shadow/v1", "predicate": {"model": "m"}}
    body = {"body": canonical(content), "kind": "shadow"}
    owner.rewrite(lambda values: body if values["sequence"] == row.sequence else {}, since=1)


def tail_truncated(world: Any, owner: Any) -> None:
    """Cid's rejection, which came last, was never there."""
    owner.cut(world.ledger.records(limit=1)[0].sequence - 1)


@pytest.mark.parametrize("cheat", [chain_rewritten, tail_truncated])
def test_what_the_databases_owner_does_is_stopped_only_by_a_checkpoint_outside(
    put_forward, owner_of, keep, cheat
):
    put_forward.approve(2)
    put_forward.answer("cid", 2, "reject")
    put_forward.refused("rejected by cid", check="approvals")
    owner = owner_of(put_forward.ledger)
    if cheat is tail_truncated:
        owner.cut(put_forward.ledger.records(limit=1)[0].sequence - 1)  # the refusal
    keep(put_forward)
    cheat(put_forward, owner)
    assert put_forward.ledger.verify()
    error = LedgerTampered
    put_forward.refused("checkpoint", error=error, check="ledger", recorded=False)
    put_forward.verify = None  # no checkpoint was kept: the attack succeeds
    assert put_forward.promote(2)


# Through Dagster.
def refusals(world: Any) -> list[tuple[str, int]]:
    return [(r["check"], r["version"]) for r in world.records("refusal")]


def moved(world: Any) -> tuple[int, int | None]:
    alias: int | None = world.home.registry.alias("late", "production")
    return len(world.home.ledger.records(slot="late@production")), alias


@pytest.mark.parametrize(
    "tag", ["dagster/sensor_name", "dagster/schedule_name", "dagster/backfill"]
)
def test_automation_is_refused_and_recorded_with_its_run(trained, why, tag):
    trained.approve(1)
    done = trained.promote(1, tags={tag: "x"})
    assert f"this run carries {tag}" in why(done)
    assert (refusals(trained), moved(trained)) == ([("automation", 1)], (0, None))
    (record,) = trained.home.ledger.records(kind="refusal")
    assert record.actor == f"dagster:{done.run_id}"


def test_a_spoofed_tag_gives_no_authority(trained, why):
    done = trained.promote(1, tags={"user": "ana", "mlct/human_only": "true"})
    assert "late@1 has nobody" in why(done)
    assert (refusals(trained), moved(trained)) == ([("approvals", 1)], (0, None))


def test_a_direct_call_of_the_registry_makes_nothing_live(trained, why):
    """Who has its credentials can move the alias; what is live does not follow."""
    trained.approve(1)
    trained.home.registry.set_alias("late", "production", 1)
    assert slots.live(trained.home.ledger, "late") is None
    done = trained.promote(1)
    assert "points at version 1, but nothing is live" in why(done)
    assert (refusals(trained), moved(trained)) == ([("in-flight", 1)], (0, 1))


def ways_around(name: str) -> bool:
    # LightGBM has parameters of that name.
    words = r"force(?!_(row|col)_wise)|bypass|override|unsafe|skip_?check|no_?verify|ignore_?gate"
    return bool(re.match(rf"-*({words})", name))


def test_there_is_no_way_around_anywhere():
    """No option, argument, field, setting or variable of the package offers one."""
    found = list[str]()
    for path in sorted(Path(mlct.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.arg(arg=name) | ast.keyword(arg=str(name)) | ast.Name(id=name):
                    pass
                case ast.Constant(value=str(text)) if re.fullmatch(r"[\w-]+", text):
                    name = text.removeprefix("MLCT_")
                case _:
                    continue
            if ways_around(name.lower().replace("-", "_").lstrip("_")):
                found.append(f"{path}:{node.lineno}: {name}")
    assert found == []


def test_the_search_for_a_way_around_would_find_one():
    assert all(map(ways_around, ("force", "--force", "force_promotion", "skip_checks", "override")))
    assert not any(map(ways_around, ("in_force", "reinforce", "version")))
