"""A drill plays real faults on a stage, moves nothing in production, and cannot pass by itself."""

from datetime import timedelta

import pytest

from mlct.adapters import drill as stage
from mlct.adapters.drill import drill
from mlct.errors import RollbackRefused
from mlct.release.drill import SCENARIOS, readiness
from mlct.release.incident import incidents
from mlct.release.ledger import statement

REFUSED = ("corrupted-artifact", "missing-target", "bad-features")


def play(world, scenario="rollback", **how):
    return drill(world.home, model="late", slot="production", scenario=scenario, **how)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_fault_goes_as_expected_and_leaves_production_alone(succeeded, scenario):
    def seen():
        registry = succeeded.home.registry
        aliases = registry.alias("late", "production"), registry.alias("late", "drill")
        return aliases, succeeded.home.ledger.records(kind=("promotion", "rollback", "quarantine"))

    before = seen()
    found = play(succeeded, scenario)
    assert found.passed, found
    assert seen() == before
    assert incidents(succeeded.home.ledger, "late") == []
    (said,) = succeeded.records("drill")
    assert (said["scenario"], said["passed"], said["bar"]) == (scenario, True, 300)
    assert ("version 2 is live" if scenario in REFUSED else "version 1 is live") in found.observed


def test_with_a_third_version_a_damaged_target_is_passed_over(succeeded):
    play_third(succeeded)
    for scenario in ("corrupted-artifact", "missing-target"):
        found = play(succeeded, scenario)
        assert found.passed, found
        assert found.expected.startswith("version 1 is served")


def play_third(world):
    """A third version of the chain, as a promotion of it says."""

    def more():
        from lightgbm import LGBMClassifier

        return LGBMClassifier(n_estimators=30, num_leaves=7, random_state=0)

    world.declare(estimator=more)
    assert world.retrain().success
    ledger, third = world.home.ledger, world.records("training")[-1]
    head = ledger.head("late@production")
    says = head.predicate | {n: third[n] for n in ("version", "artifact")}
    says |= {"replaces": 2, "rollback_target": 2}
    ledger.append(
        statement("promotion", {"artifact": third["artifact"]}, says),
        actor="test",
        slot="late@production",
        supersedes=head.sequence,
    )


def test_a_drill_that_goes_wrong_is_recorded_and_pages_until_one_passes(succeeded, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(stage, "act", lambda *_, **__: None)  # nobody rolls back
        found = play(succeeded)
    assert not found.passed
    assert "version 2 is live" in found.observed
    (opened,) = incidents(succeeded.home.ledger, "late")
    assert (opened.kind, opened.pages, opened.open) == ("drill", True, True)
    assert play(succeeded).passed
    assert not incidents(succeeded.home.ledger, "late")[0].open


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_scenario_passes_where_targets_are_not_looked_at(succeeded, monkeypatch, scenario):
    """A drill must be able to fail: here every target is taken as it is."""
    from mlct.adapters import rollback

    monkeypatch.setattr(rollback, "check_target", lambda *_, **__: {})
    assert play(succeeded, scenario).passed == (scenario not in REFUSED)


def test_a_drill_slower_than_the_bar_fails(succeeded):
    """Nothing else is wrong with it: the seconds that it took are compared with the bar."""
    slow = play(succeeded, bar="0s")
    assert not slow.passed
    assert slow.seconds > 0
    assert slow.observed.startswith("version 1 is live, alias on 1, nobody paged, ")
    (opened,) = incidents(succeeded.home.ledger, "late")
    assert (opened.kind, opened.pages, opened.open) == ("drill", True, True)
    assert not ready(succeeded).ready
    assert play(succeeded, bar="60s").passed


def test_without_a_target_there_is_nothing_to_drill(live, trained):
    for world in (live, trained):
        with pytest.raises(RollbackRefused, match="no approved version to go back to"):
            play(world)
        assert world.records("drill") == []


def test_an_unknown_scenario_is_refused(succeeded):
    with pytest.raises(RollbackRefused, match=r"no scenario 'fire'\. Expected rollback, "):
        play(succeeded, "fire")


def ready(world, **later):
    at = world.home.ledger.clock() + timedelta(**later)
    return readiness(
        world.home.ledger, model="late", slot="production", overdue=timedelta(days=10), at=at
    )


def test_a_drill_is_due_once_there_is_something_to_go_back_to(succeeded, live):
    assert ready(live, days=99).ready
    assert ready(succeeded).told == "never drilled"
    assert not ready(succeeded, days=11).ready
    assert play(succeeded).passed
    assert ready(succeeded, days=9).ready
    late = ready(succeeded, days=11)
    assert not late.ready
    assert ", overdue since " in late.told


def test_a_game_day_does_not_stand_for_the_drill(succeeded):
    assert play(succeeded, "missing-target").passed
    assert ready(succeeded).told == "never drilled"
