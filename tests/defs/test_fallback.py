"""A fallback is trained beside the challengers, compared with nothing, and approved like them."""

import json

import pytest

import mlct
from mlct.errors import SpecError


def base_rate():
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="prior")


FALLBACK = {"fallback": base_rate, "slots": {"fallback": mlct.Deployment()}}


@pytest.fixture(scope="module")
def _prepared(_trained, tmp_path_factory):
    """Version 1 passed its gate; a fallback of version 2 waits for its approvals."""
    world = _trained.copy(tmp_path_factory.mktemp("fallback"))
    world.declare(**FALLBACK)
    assert world.retrain().success
    return world


@pytest.fixture
def prepared(_prepared, tmp_path):
    return _prepared.copy(tmp_path)


def put_in(world, version, slot, approved_for=""):
    code, _, error = world.mlct(
        "approve",
        f"late@{version}",
        "--slot",
        approved_for or slot,
        "--key",
        str(world.key),
        "--yes",
    )
    config = {"ops": {"late_promote": {"config": {"version": version, "slot": slot}}}}
    return code, error, world.run("late_promotion", config=config)


def served(world, slot):
    found = mlct.load_live("late", slot=slot, home=world.home, refresh=None)
    return found.version


def test_its_gate_statement_says_that_it_was_compared_with_nothing(prepared):
    (said,) = [g for g in prepared.records("gate") if g["version"] == 2]
    assert (said["slot"], said["verdict"]) == ("fallback", "NOT COMPARED")
    assert said["reasons"][0].startswith("fallback: not compared")
    report = json.loads(prepared.home.store.get(said["evidence"]))
    assert (report["decision"]["verdict"], report["champion"]) == ("NOT COMPARED", None)
    assert prepared.home.registry.alias("late", "challenger") == 1
    text = prepared.mlct("request", "late@2", "--slot", "fallback")[1]
    assert "NOT COMPARED: fallback: not compared" in text


def test_people_put_it_into_slot_fallback_by_the_same_procedure(prepared, why):
    config = {"ops": {"late_promote": {"config": {"version": 2, "slot": "fallback"}}}}
    refused = prepared.run("late_promotion", config=config)
    assert "late@2 has nobody" in why(refused)
    code, error, done = put_in(prepared, 2, "fallback")
    assert (code, done.success) == (0, True), error + why(done)
    assert served(prepared, "fallback") == 2
    assert prepared.home.registry.alias("late", "fallback") == 2


def test_it_is_promoted_nowhere_else(prepared, why):
    code, error, done = put_in(prepared, 2, "production", approved_for="fallback")
    assert code == 0, error
    assert not done.success
    assert "has no gate statement for slot 'production'" in why(done)


def test_even_a_forged_gate_statement_gets_it_into_no_other_slot(prepared, why):
    from mlct.release.ledger import statement

    ledger = prepared.home.ledger
    said = next(g for g in prepared.records("gate") if g["version"] == 2)
    forged = said | {"slot": "production", "verdict": "PASS"}
    forged |= {"deployment": prepared.spec.deployment.digest("production")}
    subjects = {n: forged[n] for n in ("artifact", "evidence")}
    ledger.append(statement("gate", subjects, forged), actor="eve")
    code, error, _ = put_in(prepared, 2, "production")
    assert code != 0
    assert "is a fallback: no gate compared it with anything" in error
    done = prepared.promote(2)
    assert not done.success


def test_a_challenger_that_was_not_compared_is_no_fallback(prepared):
    from mlct.release.ledger import statement

    said = next(g for g in prepared.records("gate") if (g["version"], g["slot"]) == (1, "fallback"))
    forged = said | {"verdict": "NOT COMPARED"}
    subjects = {n: forged[n] for n in ("artifact", "evidence")}
    prepared.home.ledger.append(statement("gate", subjects, forged), actor="eve")
    code, error, _ = put_in(prepared, 1, "fallback")
    assert code != 0
    assert "the gate says NOT COMPARED" in error


def test_a_rollback_without_another_target_goes_to_it(prepared, why):
    put_in(prepared, 1, "production")
    put_in(prepared, 2, "fallback")
    done = prepared.run("late_rollback")
    assert done.success, why(done)
    assert served(prepared, "production") == served(prepared, "fallback") == 2


def test_the_same_data_makes_no_second_one_nor_does_new_data_once_it_is_live(prepared, trips):
    assert prepared.retrain().success
    assert prepared.versions() == 2
    put_in(prepared, 2, "fallback")
    prepared.feed(trips(41))
    assert prepared.retrain().success
    marked = [t["version"] for t in prepared.records("training") if t.get("fallback")]
    assert marked == [2]
    assert [g["version"] for g in prepared.records("gate") if g["verdict"] == "NOT COMPARED"] == [2]


def test_a_rollback_of_a_further_slot_moves_that_slot_only(prepared, why):
    put_in(prepared, 1, "production")
    put_in(prepared, 1, "fallback")
    assert prepared.retrain().success  # the slot has moved: the fallback is put forward anew
    put_in(prepared, 2, "fallback")
    assert served(prepared, "fallback") == 2
    config = {"ops": {"late_roll_back": {"config": {"slot": "fallback", "reason": "odd"}}}}
    done = prepared.run("late_rollback", config=config)
    assert done.success, why(done)
    assert (served(prepared, "fallback"), served(prepared, "production")) == (1, 1)
    assert prepared.home.registry.alias("late", "fallback") == 1
    assert [q["version"] for q in prepared.records("quarantine")] == [2]


@pytest.mark.parametrize("changes", [{"fallback": base_rate}, FALLBACK | {"fallback": base_rate()}])
def test_a_fallback_is_a_function_and_has_a_slot(spec, changes):
    from dataclasses import replace

    with pytest.raises(SpecError, match=r"ModelSpec\.fallback"):
        replace(spec, **changes)
