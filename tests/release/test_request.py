"""Approvals: which answers count, and how each cheat is told apart."""

import json
import os
import shutil
import sqlite3
import subprocess
from datetime import datetime, timedelta

import pytest

from mlct.data.digest import canonical, sha256
from mlct.errors import ApprovalInvalid
from mlct.release.approval import request as approvals
from mlct.release.approval import signature
from mlct.release.ledger import statement

DAY = timedelta(days=1)


# Who said so. Each row: who answers how, and why that is not enough for risk tier "high".
def nobody(world):
    pass


def one_of_two(world):
    world.approve(2, "ana")


def the_same_person_twice(world):
    world.approve(2, "ana", "ana")


def one_person_in_two_roles(world):
    world.answer("cid", 2, role="product")
    world.answer("cid", 2, role="model-risk")


def the_same_role_twice(world):
    world.approve(2, "ben", "cid")


def the_author(world):
    world.train(3, authors=("zoe", "BEN"))
    world.evaluate(3)
    world.approve(3)


def one_of_two_authors(world):
    """A second training statement does not make the first author forgotten."""
    world.train(3, authors=("ben",))
    world.train(3, authors=("zoe",))
    world.evaluate(3)
    world.approve(3)


def a_role_not_held(world):
    world.forge("ben", 2, role="model-risk")


def a_key_of_nobody(world):
    world.forge("eve", 2)


def a_key_of_somebody_else(world):
    world.forge("ben", 2, approver="cid")


def a_departed_approver(world):
    world.clock.time = world.departed + DAY
    world.evaluate(2)
    world.forge("dan", 2)


def a_departed_approver_who_dates_back(world):
    world.clock.time = world.departed - DAY
    world.evaluate(2)
    before = approvals.instant(world.clock.time)
    world.clock.time = world.departed + DAY
    world.forge("dan", 2, issued_at=before)


def a_newcomer_who_dates_back(world):
    """He signed before he was an approver, and hands it in afterwards."""
    signed = world.clock.time
    world.change_approvers(ben={"not_before": signed + timedelta(minutes=2)})
    world.clock.time += timedelta(minutes=1)
    world.evaluate(2)
    world.clock.time += timedelta(minutes=3)
    world.forge("ben", 2, issued_at=approvals.instant(signed))


def a_signature_for_git(world):
    world.forge("ben", 2, namespace="git")


def an_approval_for_another_slot(world):
    world.forge("ben", 2, slot="staging")


def an_approval_for_another_version(world):
    world.forge("ben", 2, version=1)


def an_approval_for_another_model(world):
    world.forge("ben", 2, model="n")


def an_expired_approval(world):
    world.answer("ben", 2, lifetime=timedelta(minutes=1))
    world.answer("ana", 2)
    world.clock.time += timedelta(minutes=2)


def too_long_a_life(world):
    later = approvals.instant(world.clock.time + 3650 * DAY)
    world.forge("ben", 2, expires_at=later)


def an_approval_from_before_the_evaluation(world):
    before = approvals.instant(world.clock.time - timedelta(hours=1))
    world.forge("ben", 2, issued_at=before)


def an_approval_from_the_future(world):
    """It would outlive the longest life, counted from when it was made."""
    later = world.clock.time + 20 * DAY
    ends = approvals.instant(later + DAY)
    world.forge("ben", 2, issued_at=approvals.instant(later), expires_at=ends)
    world.answer("ana", 2, lifetime=30 * DAY)
    world.clock.time = later


def an_approval_of_an_earlier_evaluation(world):
    world.answer("ben", 2)
    world.evaluate(2)
    world.answer("ana", 2)


def an_edited_body(world):
    asked, key = world.request(2), world.keys["ben"]
    how = {"decision": "approve", "key": key, "comment": "no", "at": world.clock()}
    content, _, signed, _ = approvals.decide(asked, world.approvers, **how)
    content["predicate"]["comment"] = "yes"
    world.ledger.append(content, actor="eve", signature=signed)
    world.answer("ana", 2)


def no_signature(world):
    content = world.answer("ana", 2).statement
    content["predicate"] |= {"approver": "ben", "role": "product"}
    world.ledger.append(content, actor="eve")


def a_signature_of_something_else(world):
    content = world.answer("ana", 2).statement
    content["predicate"] |= {"approver": "ben", "role": "product"}
    signed = signature.sign(world.keys["ben"], b"hello")
    world.ledger.append(content, actor="eve", signature=signed)


def another_word(world):
    world.forge("ben", 2, decision="maybe")


def an_unknown_field(world):
    world.forge("ben", 2, conditions="only on Mondays")


def a_time_without_a_zone(world):
    world.forge("ben", 2, issued_at="2030-01-01T00:00:00")


def no_time_at_all(world):
    world.forge("ben", 2, expires_at="never")


def a_number_for_a_time(world):
    world.forge("ben", 2, issued_at=0)


def other_subjects(world):
    content = world.answer("ana", 2).statement
    content["predicate"] |= {"approver": "ben", "role": "product"}
    content["subject"] = [{"name": "artifact", "digest": {"sha256": sha256(b"else")}}]
    signed = signature.sign(world.keys["ben"], canonical(content))
    world.ledger.append(content, actor="ben", signature=signed)


def weakened_approvers(world):
    """The file that people signed under asked for two; whoever edits it now asks for one."""
    world.answer("ana", 2)
    world.weaken()


@pytest.mark.parametrize(
    ("cheat", "why"),
    [
        (nobody, "m@2 has nobody"),
        (one_of_two, r"m@2 has ana \(model-risk\)\. Expected 2 approvers for risk tier 'high'"),
        (the_same_person_twice, r"m@2 has ana \(model-risk\)\. Expected 2"),
        (one_person_in_two_roles, r"m@2 has cid \(model-risk\)\. Expected 2"),
        (the_same_role_twice, r"ben \(product\), cid \(product\)\. Expected .* in distinct roles"),
        (the_author, "ben's approve does not count: ben is the author of this version"),
        (one_of_two_authors, "ben is the author of this version"),
        (a_role_not_held, "ben does not hold the role 'model-risk'"),
        (a_key_of_nobody, "the key SHA256:.* belongs to no approver"),
        (a_key_of_somebody_else, "it names cid but ben's key signed it"),
        (a_departed_approver, "dan is not an approver at 2030-06-02"),
        (a_departed_approver_who_dates_back, "dan is not an approver at 2030-06-02"),
        (a_newcomer_who_dates_back, "ben is not an approver at 2030-01-01"),
        (a_signature_for_git, "the signature is for 'git'"),
        (an_approval_for_another_slot, "m@2 has ana"),
        (an_approval_for_another_version, "m@2 has ana"),
        (an_approval_for_another_model, "m@2 has ana"),
        (an_expired_approval, "it expired at 2030-01-01"),
        (too_long_a_life, "it is valid for longer than 30 days"),
        (an_approval_from_before_the_evaluation, "signed before the evaluation"),
        (an_approval_from_the_future, "it was signed in the future"),
        (an_approval_of_an_earlier_evaluation, "ben's approve does not count: it is for gate"),
        (an_edited_body, "the ssh-ed25519 signature does not match"),
        (no_signature, "not an armored SSH signature"),
        (a_signature_of_something_else, "the ssh-ed25519 signature does not match"),
        (another_word, "it says 'maybe', not approve or reject"),
        (an_unknown_field, "not of the form that `mlct approve` writes"),
        (a_time_without_a_zone, "its times are not UTC instants"),
        (no_time_at_all, "it cannot be read"),
        (a_number_for_a_time, "it cannot be read"),
        (other_subjects, "not of the form that `mlct approve` writes"),
        (weakened_approvers, "the approvers file is .* Expected .*, in force by statement"),
    ],
)
def test_a_cheat_is_refused(put_forward, cheat, why):
    cheat(put_forward)
    put_forward.refused(why, 3 if "author" in cheat.__name__ else 2)


def test_a_body_that_is_not_canonical_does_not_count(put_forward):
    """Only the database's owner could write one; the bytes that people sign have one form."""
    asked, record = put_forward.request(2), put_forward.answer("ben", 2)
    loose = json.dumps(record.statement).encode()
    signed = signature.sign(put_forward.keys["ben"], loose)
    connection = sqlite3.connect(put_forward.ledger.path)
    connection.execute("DROP TRIGGER never_updated")
    values = (loose, signed, record.sequence)
    connection.execute("UPDATE statements SET body = ?, signature = ? WHERE sequence = ?", values)
    connection.commit()
    at = put_forward.clock()
    (given,) = approvals.judge(put_forward.ledger, asked, put_forward.approvers, at=at)
    assert given.problem == "its bytes are not canonical"


def test_one_rejection_stops_any_number_of_approvals(put_forward):
    put_forward.approve(2, "ana", "ben")
    put_forward.answer("cid", 2, "reject")
    put_forward.refused("m@2 was rejected by cid: looked at it")


@pytest.mark.parametrize("fade", ["time", "author"])
def test_a_rejection_does_not_fade(put_forward, fade):
    """Nor with time, nor because the author gave it."""
    if fade == "author":
        put_forward.train(2, authors=("cid",))
    put_forward.answer("cid", 2, "reject")
    if fade == "time":
        put_forward.clock.time += 29 * DAY
    put_forward.approve(2)
    put_forward.refused("m@2 was rejected by cid")


def test_a_rejection_is_of_one_evaluation(put_forward):
    put_forward.answer("cid", 2, "reject")
    put_forward.evaluate(2)
    put_forward.approve(2)
    assert put_forward.promote(2).predicate["version"] == 2


def test_a_rejection_by_nobody_stops_nothing(put_forward):
    put_forward.forge("eve", 2, decision="reject")
    put_forward.approve(2)
    assert put_forward.promote(2)


def test_approvals_are_used_once(put_forward):
    put_forward.approve(2)
    first = put_forward.promote(2)
    asked = approvals.Request.of(put_forward.ledger, "m", 2, "production")
    at = put_forward.clock()
    given = approvals.judge(put_forward.ledger, asked, put_forward.approvers, at=at)
    assert {a.record.hash for a in given} == set(first.predicate["approvals"])
    assert {a.problem for a in given} == {"it was used by an earlier promotion"}


def test_a_replay_after_the_slot_moved_on_is_refused(put_forward):
    put_forward.approve(2)
    put_forward.promote(2)
    put_forward.put_live(3)
    for record in put_forward.ledger.records(kind="approval")[2:4]:
        put_forward.ledger.append(record.statement, actor="eve", signature=record.signature)
    put_forward.refused(
        "m@2 was evaluated against version 1, but 'production' now serves version 3"
    )
    put_forward.evaluate(2)
    put_forward.refused("m@2 has nobody's approval; ana's approve does not count: it is for ")


def test_a_replay_after_a_rollback_is_refused(put_forward):
    put_forward.approve(2)
    put_forward.promote(2)
    put_forward.roll_back()
    for record in put_forward.ledger.records(kind="approval")[:2]:
        put_forward.ledger.append(record.statement, actor="eve", signature=record.signature)
    put_forward.refused("m@2 is quarantined")


def test_a_copy_of_an_answer_is_not_an_answer(put_forward):
    record = put_forward.answer("ana", 2)
    put_forward.ledger.append(record.statement, actor="eve", signature=record.signature)
    at, asked = put_forward.clock(), put_forward.request(2)
    given = approvals.judge(put_forward.ledger, asked, put_forward.approvers, at=at)
    assert [a.problem for a in given] == ["", "it is a copy of an earlier one"]


def test_a_copy_with_a_wrong_signature_does_not_take_the_place_of_an_answer(put_forward):
    asked, key = put_forward.request(2), put_forward.keys["ben"]
    how = {"decision": "approve", "key": key, "comment": "", "at": put_forward.clock()}
    content, body, signed, _ = approvals.decide(asked, put_forward.approvers, **how)
    put_forward.ledger.append(content, actor="eve", signature="junk")
    put_forward.ledger.append(content, actor="ben", signature=signed, body=body)
    put_forward.answer("ana", 2)
    assert put_forward.promote(2)


@pytest.mark.parametrize(
    ("tier", "author", "people"),
    [
        ("low", "ana", ["ana"]),
        ("medium", "ben", ["ana"]),
        ("high", "zoe", ["cid", "ana"]),
        ("high", "zoe", ["ana", "ben", "cid"]),
    ],
)
def test_a_tier_asks_for_no_more_than_it_says(put_forward, tier, author, people):
    put_forward.train(3, authors=(author,))
    put_forward.declared["tier"] = tier
    put_forward.evaluate(3, tier=tier)
    put_forward.approve(3, *people)
    assert put_forward.promote(3)


def test_a_tier_without_distinct_roles_still_counts_people(put_forward):
    put_forward.change_approvers(tiers={"high": {"distinct_roles": False}})
    put_forward.evaluate(2)
    put_forward.approve(2, "ben")
    put_forward.refused(r"m@2 has ben \(product\)\. Expected 2 approvers")
    put_forward.approve(2, "cid")
    assert put_forward.promote(2)


def test_the_author_may_not_approve_alone_at_tier_medium(put_forward):
    put_forward.train(3, authors=("ana",))
    put_forward.declared["tier"] = "medium"
    put_forward.evaluate(3, tier="medium")
    put_forward.approve(3, "ana")
    put_forward.refused("ana is the author.* Expected 1 approver .*, not the author", 3)


def test_somebody_who_leaves_after_signing_has_signed(put_forward):
    put_forward.clock.time = put_forward.departed - DAY
    put_forward.evaluate(2)
    put_forward.approve(2, "ana", "dan")
    put_forward.clock.time = put_forward.departed + DAY
    assert put_forward.promote(2)


@pytest.mark.parametrize("late", [False, True], ids=["in the future", "before the evaluation"])
def test_clocks_may_differ_by_five_minutes(put_forward, late):
    put_forward.answer("ana", 2)
    now, skew, moment = put_forward.clock.time, timedelta(minutes=5), timedelta(microseconds=1)
    put_forward.ledger.clock = lambda: now
    asked = put_forward.request(2)
    for beyond, counts in ((moment, False), (0 * moment, True)):
        late_by = datetime.fromisoformat(asked.gated_at) - skew - beyond
        at = approvals.instant(late_by if late else now + skew + beyond)
        put_forward.forge("ben", 2, issued_at=at, nonce=str(counts))
        *_, given = approvals.judge(put_forward.ledger, asked, put_forward.approvers, at=now)
        assert (given.problem == "") is counts


def test_an_approval_counts_for_thirty_days_at_most_and_not_at_its_end(put_forward):
    put_forward.answer("ben", 2, lifetime=30 * DAY)
    asked, moment = put_forward.request(2), timedelta(microseconds=1)
    (given,) = put_forward.ledger.records(kind="approval", limit=1)
    end = datetime.fromisoformat(given.predicate["expires_at"])
    for at, problem in ((end - moment, ""), (end, f"it expired at {approvals.instant(end)}")):
        (judged,) = approvals.judge(put_forward.ledger, asked, put_forward.approvers, at=at)
        assert judged.problem == problem
    put_forward.forge("ana", 2, expires_at=approvals.instant(end + timedelta(minutes=1)))
    *_, judged = approvals.judge(put_forward.ledger, asked, put_forward.approvers, at=end)
    assert judged.problem == "it is valid for longer than 30 days"


def test_approvals_under_another_approvers_file_do_not_count(put_forward):
    put_forward.approve(2)
    put_forward.change_approvers(tiers={"high": {"evidence_days": 7}})
    asked, at = put_forward.request(2), put_forward.clock()
    given = approvals.judge(put_forward.ledger, asked, put_forward.approvers, at=at)
    assert [g.problem.startswith("it is for policy") for g in given] == [True, True]


def test_a_statement_that_says_nothing_is_no_answer(put_forward):
    says = {"model": "m", "version": 2, "slot": "production"}
    put_forward.ledger.append(statement("approval", {}, says), actor="eve")
    put_forward.refused("nobody's approval; 's  does not count: it is not of the form")


def test_a_request_is_plain_json(put_forward):
    asked = put_forward.request(2)
    plain = json.loads(json.dumps(asked.to_dict()))
    assert (plain["version"], plain["gate"]) == (2, asked.gate)
    assert plain["training"]["authors"] == plain["authors"] == ["zoe"]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"decision": "maybe"}, "a decision 'maybe'. Expected approve or reject"),
        ({"lifetime": 31 * DAY}, "a lifetime of 31 days"),
        ({"lifetime": 0 * DAY}, "a lifetime of 0:00:00"),
        ({"lifetime": -DAY}, "a lifetime of -1 day"),
        ({"role": "janitor"}, "ana does not hold the role 'janitor'. Expected model-risk"),
    ],
)
def test_what_could_never_count_is_not_signed(put_forward, how, why):
    before = put_forward.kinds()
    with pytest.raises(ApprovalInvalid, match=why):
        put_forward.answer("ana", 2, **how)
    assert put_forward.kinds() == before


def test_only_approvers_sign(put_forward):
    with pytest.raises(ApprovalInvalid, match="belongs to no approver"):
        put_forward.answer("eve", 2)


def test_a_passphrase_is_asked_for_once(put_forward, make_key, tmp_path, monkeypatch):
    key, log, program = make_key(passphrase="s"), tmp_path / "log", tmp_path / "askpass"
    program.write_text(f"#!/bin/sh\necho asked >> '{log}'\necho s\n")
    program.chmod(0o700)
    monkeypatch.setenv("SSH_ASKPASS", str(program))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    put_forward.keys = dict(put_forward.keys) | {"ana": key}
    put_forward.edit_approvers()
    put_forward.answer("ana", 2)
    assert log.read_text() == "asked\n"


def test_a_public_file_of_another_key_is_noticed(put_forward, make_key):
    """An older format hides its public half, so the file beside it is believed until signed."""
    key = make_key("rsa", bits=2048)
    convert = ["ssh-keygen", "-q", "-p", "-m", "PEM", "-N", "", "-f", str(key)]
    subprocess.run(convert, check=True, capture_output=True)
    ana = put_forward.keys["ana"].with_suffix(".pub").read_text()
    key.with_suffix(".pub").write_text(ana)
    put_forward.keys = dict(put_forward.keys) | {"ana": key}
    with pytest.raises(ApprovalInvalid, match=r"another key than|could not sign"):
        put_forward.answer("ana", 2)


def test_a_program_that_signs_with_another_key_is_noticed(
    put_forward, make_key, tmp_path, monkeypatch
):
    put_forward.keys = dict(put_forward.keys) | {"ana": make_key(passphrase="s")}
    put_forward.edit_approvers()
    real, other = shutil.which("ssh-keygen"), put_forward.keys["ben"]
    program = tmp_path / "ssh-keygen"
    namespace = signature.NAMESPACE
    program.write_text(f"#!/bin/sh\nexec {real} -q -Y sign -f '{other}' -n '{namespace}'\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ApprovalInvalid, match="signed with another key than"):
        put_forward.answer("ana", 2)


def test_the_statement_that_people_sign_names_all_that_it_binds(put_forward):
    says = put_forward.answer("ana", 2).predicate
    asked = put_forward.request(2)
    names = "model version slot tier artifact evidence gate head rollback_target deployment"
    assert set(asked.binding()) == set(names.split())
    gate = put_forward.ledger.records(kind="gate", limit=1)[0]
    assert {n: says[n] for n in asked.binding()} == asked.binding()
    assert (says["gate"], says["artifact"]) == (gate.hash, sha256(b"model 2"))
    assert says["policy"] == put_forward.approvers.digest
