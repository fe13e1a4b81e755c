"""States of a version, as the history of one version reads."""

import pytest

from mlct.release import slot as slots


def state(world, version=1):
    return slots.states(world.ledger, "m").get(version)


def test_the_way_of_a_version_from_candidate_to_quarantine(world):
    world.put_live(9)
    seen = [state(world)]
    for step in (
        lambda: world.train(1),
        lambda: world.evaluate(1, "FAIL"),
        lambda: world.evaluate(1),
        lambda: world.answer("ana", 1),
        lambda: world.answer("ben", 1),
        lambda: world.promote(1),
        lambda: world.roll_back(),
    ):
        step()
        seen.append(state(world))
    assert seen == [
        None,
        "candidate",
        "candidate",
        "gated",
        "approved",
        "approved",
        "production",
        "quarantined",
    ]


def test_what_a_promotion_replaces_retires_and_may_pass_another_gate(world):
    world.put_live(1, 2)
    assert state(world) == "retired"
    world.evaluate(1, "FAIL")
    assert state(world) == "retired"
    world.evaluate(1)
    assert state(world) == "gated"


def test_a_rejected_version_waits_for_nothing(world):
    world.train(1)
    world.evaluate(1)
    world.answer("ana", 1)
    world.answer("ben", 1, "reject")
    assert state(world) == "candidate"
    world.answer("cid", 1)
    assert state(world) == "candidate"


def test_a_no_holds_for_its_evidence_and_not_for_other(world):
    world.train(1)
    evidence = world.evaluate(1).predicate["evidence"]
    world.answer("ben", 1, "reject")
    world.evaluate(1, evidence=evidence)
    assert state(world) == "candidate"
    world.evaluate(1)
    assert state(world) == "gated"


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "INCONCLUSIVE"])
def test_evaluating_what_is_live_or_quarantined_changes_nothing(world, verdict):
    world.put_live(1, 2)
    world.roll_back()
    before = slots.states(world.ledger, "m")
    assert before == {1: "production", 2: "quarantined"}
    for version in (1, 2):
        world.evaluate(version, verdict)
    assert slots.states(world.ledger, "m") == before


def test_a_new_evaluation_takes_an_approval_away(world):
    world.train(1)
    world.evaluate(1)
    world.answer("ana", 1)
    world.evaluate(1)
    assert state(world) == "gated"
    world.answer("ana", 1)
    world.evaluate(1, "INCONCLUSIVE")
    assert state(world) == "candidate"


def test_what_is_said_for_another_slot_changes_nothing(world):
    world.train(1)
    world.evaluate(1)
    world.evaluate(1, "FAIL", slot="staging")
    assert state(world) == "gated"
    world.evaluate(1, slot="staging")
    world.answer("ana", 1, slot="staging")
    assert state(world) == "gated"
    world.approve(1)
    assert state(world) == "approved"
    assert slots.states(world.ledger, "m", "staging") == {1: "approved"}
    world.promote(1)
    assert slots.states(world.ledger, "m", "staging") == {1: "approved"}
