"""The approvers file in force: the first that was used, then whatever its own people signed."""

from datetime import timedelta

import pytest

from benchmarks import sshsig_mutants
from mlct.data.digest import canonical
from mlct.errors import ApprovalInvalid
from mlct.release.approval import policy, signature
from mlct.release.approval.approvers import Tier, parse
from mlct.release.ledger import statement

WEAK = {"high": {"approvers": 1, "distinct_roles": False}}


def change(world, signer="ana", **changes):
    world.change_approvers(signer, **changes)
    return policy.in_force(world.ledger)


def test_the_first_use_pins_the_file_and_later_ones_do_not(world):
    assert policy.in_force(world.ledger) is None
    first = policy.pin(world.ledger, world.approvers, actor="test")
    assert (first.first, first.approvers.digest) == (True, world.approvers.digest)
    world.weaken()
    assert policy.pin(world.ledger, world.approvers, actor="test") == first
    assert world.kinds() == ["policy"]


def test_the_ledger_keeps_the_file_whole(world):
    first = policy.pin(world.ledger, world.approvers, actor="test")
    assert first.approvers == world.approvers
    assert first.approvers.tiers["high"] == Tier(approvers=2, author=False, distinct_roles=True)


def test_a_signed_change_is_in_force(put_forward):
    changed = change(put_forward, tiers=WEAK)
    assert (changed.signers, changed.first) == (("ana", "ben"), False)
    assert changed.approvers.tiers["high"].approvers == 1
    assert [p.signers for p in policy.chain(put_forward.ledger)] == [(), ("ana", "ben")]


def test_one_alone_changes_nothing_where_a_tier_asks_for_two(put_forward):
    before = policy.in_force(put_forward.ledger)
    put_forward.edit_approvers(tiers=WEAK)
    how = {"key": put_forward.keys["ben"], "comment": "seen", "at": put_forward.clock()}
    policy.change(put_forward.ledger, put_forward.approvers, **how)
    assert policy.in_force(put_forward.ledger) == before
    digest = put_forward.approvers.digest
    assert policy.waiting(put_forward.ledger) == {digest: ("ben",)}
    with pytest.raises(ApprovalInvalid, match=r"ben has signed the approvers file \w+ already"):
        policy.change(put_forward.ledger, put_forward.approvers, **how)


def test_signatures_of_two_files_do_not_add_up(put_forward):
    before = policy.in_force(put_forward.ledger)
    for name, days in (("ana", 3), ("ben", 4)):
        put_forward.edit_approvers(tiers={"low": {"evidence_days": days}})
        how = {"key": put_forward.keys[name], "comment": "seen", "at": put_forward.clock()}
        policy.change(put_forward.ledger, put_forward.approvers, **how)
    assert policy.in_force(put_forward.ledger) == before


def test_who_has_left_is_not_waited_for(put_forward):
    """Of several who govern, one is left whose signature counts."""
    until = {"not_after": put_forward.clock() + timedelta(hours=1)}
    gone = {p.name: until for p in put_forward.approvers.people if p.name != "ana"}
    put_forward.change_approvers("ana", **gone)
    assert policy.quorum(put_forward.approvers, put_forward.clock()) == 2
    put_forward.clock.time += timedelta(hours=2)
    assert policy.quorum(put_forward.approvers, put_forward.clock()) == 1
    changed = change(put_forward, "ana", tiers={"low": {"evidence_days": 3}}, **gone)
    assert changed.signers == ("ana",)


def test_who_signed_before_the_others_left_signs_again(put_forward):
    until = {"not_after": put_forward.clock() + timedelta(hours=1)}
    gone = {p.name: until for p in put_forward.approvers.people if p.name != "ana"}
    put_forward.change_approvers("ana", **gone)
    put_forward.edit_approvers(tiers={"low": {"evidence_days": 3}}, **gone)
    how = {"key": put_forward.keys["ana"], "comment": "seen"}
    for hours in (0, 2):
        put_forward.clock.time += timedelta(hours=hours)
        changed = policy.change(
            put_forward.ledger, put_forward.approvers, at=put_forward.clock(), **how
        )
        assert (changed == policy.in_force(put_forward.ledger)) == bool(hours)


def test_nobody_counts_twice(put_forward):
    """Not by a copy of the statement, nor by a second key."""
    public = [put_forward.keys[n].with_suffix(".pub").read_text().strip() for n in ("ana", "eve")]
    put_forward.change_approvers(ana={"keys": public})
    before = policy.in_force(put_forward.ledger)
    put_forward.edit_approvers(tiers=WEAK)
    how = {"comment": "", "at": put_forward.clock()}
    said = policy.change(
        put_forward.ledger, put_forward.approvers, key=put_forward.keys["ana"], **how
    ).record
    put_forward.ledger.append(said.statement, actor="eve", signature=said.signature, body=said.body)
    with pytest.raises(ApprovalInvalid, match="has signed"):
        policy.change(put_forward.ledger, put_forward.approvers, key=put_forward.keys["eve"], **how)
    assert policy.in_force(put_forward.ledger) == before


def test_as_many_sign_as_the_strictest_tier_asks_for_of_those_who_govern(world):
    world.edit_approvers(tiers={"low": {"approvers": 3}})
    assert policy.quorum(world.approvers, world.clock()) == 3
    world.edit_approvers(tiers={"low": {"approvers": 3}}, ana={"roles": ["governance"]})
    assert policy.quorum(world.approvers, world.clock()) == 1


def test_who_may_sign_is_asked_of_the_time_of_the_signature(put_forward):
    """That the others have left since makes nobody's old signature enough."""
    until = {"not_after": put_forward.clock() + timedelta(hours=1)}
    gone = {p.name: until for p in put_forward.approvers.people if p.name != "ana"}
    put_forward.change_approvers("ana", **gone)
    before = policy.in_force(put_forward.ledger)
    put_forward.edit_approvers(tiers=WEAK, **gone)
    how = {"key": put_forward.keys["ana"], "comment": "", "at": put_forward.clock()}
    policy.change(put_forward.ledger, put_forward.approvers, **how)
    put_forward.clock.time += timedelta(hours=2)
    assert policy.in_force(put_forward.ledger) == before


def test_where_a_tier_demands_security_keys_so_does_a_change(put_forward):
    sign = sshsig_mutants.security_key("sk-ssh-ed25519@openssh.com")
    plain = put_forward.keys["ana"].with_suffix(".pub").read_text().strip()
    both = {"keys": [plain, sign(b"").public]}
    put_forward.change_approvers(tiers={"high": {"touch": True}}, ana=both)
    assert [p.name for p in policy.in_force(put_forward.ledger).approvers.governors] == ["ana"]
    for name, said in (("ben", "may not change"), ("ana", "expected a security key|ssh-ed25519")):
        with pytest.raises(ApprovalInvalid, match=said):
            put_forward.change_approvers(name, tiers=WEAK)


def test_a_security_key_changes_what_demands_it(put_forward, monkeypatch):
    """The key is made in software: ssh-keygen would ask a real one."""
    monkeypatch.setattr(sshsig_mutants, "NAMESPACE", policy.NAMESPACE)
    sign = sshsig_mutants.security_key("sk-ssh-ed25519@openssh.com")
    put_forward.change_approvers(tiers={"high": {"touch": True}}, ana={"keys": [sign(b"").public]})
    current = policy.in_force(put_forward.ledger)
    put_forward.edit_approvers(tiers=WEAK, ana={"keys": [sign(b"").public]})
    says = policy._statement(put_forward.approvers, current, "ana", "")
    body = canonical(says)
    for flags in (0, 1):
        signed = sign(body, flags=flags).armored
        put_forward.ledger.append(says, actor="ana", signature=signed, body=body)
        assert (policy.in_force(put_forward.ledger) != current) == bool(flags)


def test_two_who_sign_the_same_file_at_once_have_both_signed(put_forward, monkeypatch):
    append = put_forward.ledger.append
    put_forward.edit_approvers(tiers=WEAK)
    how = {"comment": "", "at": put_forward.clock()}

    def then_ben(*words, **more):
        found = append(*words, **more)
        monkeypatch.setattr(put_forward.ledger, "append", append)
        policy.change(put_forward.ledger, put_forward.approvers, key=put_forward.keys["ben"], **how)
        return found

    monkeypatch.setattr(put_forward.ledger, "append", then_ben)
    changed = policy.change(
        put_forward.ledger, put_forward.approvers, key=put_forward.keys["ana"], **how
    )
    assert changed == policy.in_force(put_forward.ledger)
    assert changed.signers == ("ana", "ben")


def test_two_who_change_the_file_at_once_do_not_both_think_that_they_did(put_forward, monkeypatch):
    sign = signature.sign

    def while_signing(*words, **how):
        monkeypatch.setattr(signature, "sign", sign)
        put_forward.change_approvers("cid", tiers=WEAK)
        return sign(*words, **how)

    monkeypatch.setattr(signature, "sign", while_signing)
    with pytest.raises(ApprovalInvalid, match="somebody else changed the approvers file"):
        put_forward.change_approvers("ana", tiers={"low": {"evidence_days": 3}})
    assert "cid" in policy.in_force(put_forward.ledger).signers


def test_a_change_answers_with_what_is_in_force_by_it(put_forward):
    put_forward.edit_approvers(tiers=WEAK)
    for name in ("ana", "ben"):
        how = {"key": put_forward.keys[name], "comment": "seen", "at": put_forward.clock()}
        changed = policy.change(put_forward.ledger, put_forward.approvers, **how)
    assert changed == policy.in_force(put_forward.ledger)
    said = changed.record.predicate
    assert (changed.record.actor, said["signer"], said["comment"]) == ("ben", "ben", "seen")


def test_a_signature_for_one_use_is_none_for_another_for_ever():
    """Statements of old ledgers were signed under these names."""
    assert (policy.NAMESPACE, signature.NAMESPACE) == ("mlct-policy@v1", "mlct-approval@v1")


def test_whom_a_change_takes_out_signs_no_further_one(put_forward):
    change(put_forward, "cid", ana={"not_after": put_forward.clock.time})
    with pytest.raises(ApprovalInvalid, match="ana is not an approver at"):
        put_forward.change_approvers("ana", tiers=WEAK)


def test_a_change_is_judged_by_the_file_before_it_and_not_by_itself(put_forward):
    """Eve lists herself, and signs that."""
    public = put_forward.keys["eve"].with_suffix(".pub").read_text().strip()
    put_forward.edit_approvers(ben={"keys": [public]})
    how = {"key": put_forward.keys["eve"], "comment": "", "at": put_forward.clock()}
    before = put_forward.kinds()
    with pytest.raises(ApprovalInvalid, match="belongs to no approver"):
        policy.change(put_forward.ledger, put_forward.approvers, **how)
    assert put_forward.kinds() == before


@pytest.mark.parametrize(
    ("changes", "governors"),
    [
        ({}, {"ana", "ben", "cid", "dan"}),
        ({"ana": {"roles": ["governance"]}}, {"ana"}),
        ({"ana": {"roles": ["governance"]}, "cid": {"roles": ["governance"]}}, {"ana", "cid"}),
    ],
)
def test_who_holds_governance_governs_and_where_nobody_does_everybody(world, changes, governors):
    world.edit_approvers(**changes)
    assert {p.name for p in world.approvers.governors} == governors


def test_a_file_names_the_roles_that_govern_it(world):
    document = dict(world.approvers.document) | {"governance": ["model-risk"]}
    assert {p.name for p in parse(document).governors} == {"ana", "cid"}
    with pytest.raises(ApprovalInvalid, match="governance is"):
        parse(document | {"governance": ["nobody-holds-this"]})


def test_the_same_file_cannot_be_put_in_force_twice(put_forward):
    with pytest.raises(ApprovalInvalid, match="in force already"):
        put_forward.change_approvers()


def test_nothing_is_changed_before_something_is_pinned(world):
    with pytest.raises(ApprovalInvalid, match="no approvers file is pinned yet"):
        world.change_approvers(tiers=WEAK)


@pytest.mark.parametrize(
    "says",
    [
        {},
        {"document": {"people": []}},
        {"policy": "0" * 64},
        {"replaces": None},
        {"signer": 7},
        {"more": 1},
    ],
)
def test_what_is_no_policy_statement_changes_nothing(put_forward, says):
    current = policy.in_force(put_forward.ledger)
    put_forward.weaken()
    right = policy._statement(put_forward.approvers, current, "ana", "")["predicate"]
    said = right | says if says else {"model": ""}
    content = statement("policy", {"policy": put_forward.approvers.digest}, said)
    put_forward.ledger.append(content, actor="eve", signature="junk")
    assert policy.in_force(put_forward.ledger) == current


def test_a_second_first_use_is_none(put_forward):
    current = policy.in_force(put_forward.ledger)
    put_forward.weaken()
    content = policy._statement(put_forward.approvers, None, "", "trusted on first use")
    put_forward.ledger.append(content, actor="eve")
    assert policy.in_force(put_forward.ledger) == current


def test_a_version_evaluated_before_the_first_file_may_be_promoted_under_it(world):
    """As in a fresh project: train, then write the file, then sign."""
    world.train(1)
    world.evaluate(1, approvers_policy=None)
    world.approve(1)
    assert world.promote(1)


def test_but_not_once_the_first_file_was_changed(world):
    world.train(2)
    world.evaluate(2, approvers_policy=None)
    world.change_approvers(tiers=WEAK)
    world.approve(2)
    world.refused("was evaluated under the approvers file None", check="policy-of-evidence")


def test_a_ledger_without_a_policy_promotes_nothing(put_forward, monkeypatch):
    put_forward.approve(2)
    monkeypatch.setattr(policy, "in_force", lambda ledger: None)
    put_forward.refused("no approvers file was ever pinned", check="policy")


def test_policies_are_of_no_model(put_forward):
    assert put_forward.ledger.models() == ["m"]
