"""Promotion: signed by enough people, or nothing is written and the refusal says why."""

import json
import sqlite3
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta

import pytest

from mlct.data.digest import canonical, sha256
from mlct.errors import LedgerTampered, PromotionRefused, RegistryError
from mlct.release import slot as slots
from mlct.release.approval.deployment import Deployment
from mlct.release.ledger import statement
from mlct.release.slot import checks

DAY = timedelta(days=1)


def test_two_people_in_two_roles_promote(put_forward):
    put_forward.approve(2, "ana", "ben")
    record = put_forward.promote(2)
    assert put_forward.live == put_forward.alias == 2
    says, given = record.predicate, put_forward.ledger.records(kind="approval", limit=2)
    assert says["approvals"] == [r.hash for r in reversed(given)]
    assert says["approvers"] == ["ana (model-risk)", "ben (product)"]
    assert (says["replaces"], says["rollback_target"]) == (1, 1)
    assert says["policy"] == put_forward.approvers.digest
    assert put_forward.ledger.verify() == len(put_forward.kinds())


def test_the_first_promotion_replaces_nothing(world):
    world.put_live(1)
    current = slots.live(world.ledger, "m")
    assert (current.version, current.move, current.rollback_target) == (1, "promotion", None)
    assert world.alias == 1


def test_what_was_live_at_a_time(world):
    start = world.clock.time
    world.put_live(1)
    between = world.clock.time
    world.put_live(2)
    lived = [slots.live(world.ledger, "m", at=at) for at in (start, between, world.clock.time)]
    assert [found and found.version for found in lived] == [None, 1, 2]


def test_a_version_without_a_gate_is_refused(put_forward):
    put_forward.train(3)
    put_forward.refused(r"m@3 has no gate statement .* an evaluated version \(1, 2\)", 3)
    put_forward.refused("m@99 has no gate statement", 99)


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE"])
def test_only_a_passed_gate_is_good_enough(put_forward, verdict):
    put_forward.approve(2)
    put_forward.evaluate(2, verdict)
    put_forward.refused(f"the gate says {verdict} for m@2: it is {verdict}. Expected PASS")


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "INCONCLUSIVE", "NOT COMPARED"])
@pytest.mark.parametrize("slot", ["production", "fallback"])
@pytest.mark.parametrize("marked", [True, False, None])
def test_what_was_compared_needs_a_pass_and_a_fallback_its_own_slot(
    put_forward, verdict, slot, marked
):
    asked = put_forward.request(2)
    training = dict(asked.training) | ({} if marked is None else {"fallback": marked})
    asked = replace(asked, verdict=verdict, slot=slot, training=training)
    wanted = ("fallback", "NOT COMPARED") if marked else (slot, "PASS")
    with nullcontext() if (slot, verdict) == wanted else pytest.raises(PromotionRefused):
        checks.gate_passed(asked)


def test_a_shadow_statement_without_a_trial_is_one_of_shadow(put_forward):
    world = put_forward
    world.deployment = Deployment(requires=["shadow"])
    world.evaluate(2)
    world.approve(2)
    world.refused("m@2 has no passing statement of shadow", check="statements")
    says = {"model": "m", "version": 2, "slot": "production", "verdict": "PASS"}
    says |= {"artifact": world.request(2).artifact}
    world.ledger.append(statement("shadow", {}, says), actor="test")
    assert world.promote(2)


def test_a_failed_gate_cannot_even_be_requested(put_forward):
    put_forward.evaluate(2, "FAIL")
    with pytest.raises(PromotionRefused, match="the gate says FAIL"):
        put_forward.request(2)


def test_a_quarantined_version_is_refused(put_forward):
    put_forward.approve(2)
    put_forward.promote(2)
    put_forward.roll_back(reason="recall fell")
    put_forward.evaluate(2)
    put_forward.approve(2)
    put_forward.refused("m@2 is quarantined: recall fell")


def test_the_bytes_of_a_quarantined_version_are_refused_under_any_number(put_forward):
    put_forward.approve(2)
    put_forward.promote(2)
    put_forward.roll_back(reason="recall fell")
    put_forward.train(3, data=b"model 2")
    put_forward.evaluate(3)
    put_forward.approve(3)
    put_forward.refused("m@3 is quarantined: recall fell", 3)


def test_the_number_of_a_quarantined_version_is_refused_with_any_bytes(put_forward):
    put_forward.approve(2)
    put_forward.promote(2)
    put_forward.roll_back(reason="recall fell")
    put_forward.train(2, data=b"better")
    put_forward.evaluate(2)
    put_forward.approve(2)
    put_forward.refused("m@2 is quarantined: recall fell")


def test_what_is_live_is_not_promoted_again(put_forward):
    put_forward.refused("m@1 is live in 'production' since", 1)
    put_forward.evaluate(1)
    put_forward.approve(1)
    put_forward.refused("m@1 is live in 'production' since", 1)


def test_a_champion_that_moved_since_the_evaluation_is_noticed(put_forward):
    put_forward.approve(2)
    put_forward.put_live(3)
    put_forward.refused("m@2 was evaluated against version 1, but 'production' now serves vers")


def test_a_champion_that_came_back_is_not_the_one_of_the_evaluation(put_forward):
    """ABA: the same version is live again, after a rollback from another one."""
    put_forward.approve(2)
    put_forward.put_live(3)
    put_forward.roll_back()
    assert put_forward.live == 1
    put_forward.refused("evaluated against version 1, but 'production' now serves version 1 by")


def test_a_gate_that_names_another_champion_than_the_one_that_it_met_is_refused(put_forward):
    put_forward.put_live(3)
    put_forward.evaluate(2, champion=1)
    put_forward.approve(2)
    put_forward.refused("the evidence .* says PASS about", check="evidence")
    put_forward.evaluate(2, champion=1, compared=3)
    put_forward.approve(2)
    put_forward.refused("m@2 was evaluated against version 1", check="champion")


def test_evidence_whose_bytes_changed_is_refused(put_forward):
    put_forward.approve(2)
    evidence = put_forward.request(2).evidence
    report = json.loads(put_forward.store[evidence])
    put_forward.store[evidence] = canonical(report | {"note": "so much better"})
    put_forward.refused(f"the evidence {evidence[:12]} says other bytes")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"model": "n"},
        {"artifact": sha256(b"another model")},
        {"champion": None},
        {"decision": {"verdict": "FAIL"}},
    ],
)
def test_evidence_that_says_something_else_than_the_gate_is_refused(put_forward, change):
    report = json.loads(put_forward.store[put_forward.request(2).evidence])
    put_forward.evaluate(2, evidence=put_forward.put(canonical(report | change)))
    put_forward.approve(2)
    put_forward.refused("the evidence .* says .* about .*find out who can write")


def test_an_artifact_that_was_swapped_in_the_registry_is_refused(put_forward):
    put_forward.approve(2)
    put_forward.registry.artifacts["m", 2] = sha256(b"trojan")
    put_forward.refused(f"the registry's bytes of m@2 hash to {sha256(b'trojan')}. Expected ")


def test_an_artifact_that_is_gone_is_refused(put_forward):
    put_forward.approve(2)
    del put_forward.registry.artifacts["m", 2]
    put_forward.refused("the registry has no m@2", error=RegistryError)


def test_a_version_that_nobody_trained_is_refused(put_forward):
    put_forward.evaluate(2, artifact=sha256(b"smuggled"))
    put_forward.refused("no training statement says who made m@2")


def test_a_changed_ledger_is_refused(put_forward):
    put_forward.approve(2)
    connection = sqlite3.connect(put_forward.ledger.path)
    connection.execute("DROP TRIGGER never_updated")
    connection.execute("UPDATE statements SET actor = 'eve' WHERE sequence = 1")
    connection.commit()
    put_forward.refused("statement 1 of", error=LedgerTampered, check="ledger", recorded=False)


def test_an_evaluation_that_arrives_during_the_promotion_stops_it(put_forward):
    put_forward.approve(2)
    held = put_forward.registry.artifact

    def meanwhile(model, version):
        put_forward.evaluate(2)
        return held(model, version)

    put_forward.registry.artifact = meanwhile
    with pytest.raises(PromotionRefused, match="evaluated again while its bytes were checked"):
        put_forward.promote(2)
    assert put_forward.live == put_forward.alias == 1


def test_bytes_are_read_without_holding_the_ledger(put_forward, new_world):
    """A slow store must not stop everybody else from writing."""
    world, other, looks = put_forward, new_world(put_forward.ledger.path.parent), []
    world.approve(2)
    other.ledger._connection().execute("PRAGMA busy_timeout = 1")

    def slow(name, read):
        def look(*of):
            other.ledger.append(statement("drill", {}, {"model": "other"}), actor="test")
            looks.append(name)
            return read(*of)

        return look

    world.verify = slow("ledger", world.ledger.verify)
    world.get, world.approved = slow("evidence", world.get), slow("copy", world.approved)
    for name in ("artifact", "alias"):
        setattr(world.registry, name, slow(name, getattr(world.registry, name)))
    assert world.promote(2)
    assert looks[:5] == ["ledger", "evidence", "artifact", "copy", "alias"]


def test_the_newest_evaluated_version_is_requested_by_default(put_forward):
    assert slots.request(put_forward.ledger, "m").version == 2
    with pytest.raises(PromotionRefused, match=r"n has no gate statement .*none yet"):
        slots.request(put_forward.ledger, "n")


def test_a_request_for_another_slot_knows_nothing_of_this_one(put_forward):
    with pytest.raises(PromotionRefused, match="no gate statement for slot 'staging'"):
        slots.request(put_forward.ledger, "m", 2, "staging")
