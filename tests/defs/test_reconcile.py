"""The sensor that keeps MLflow where the ledger says: repairs, tells, never promotes."""

import warnings
from typing import Any

import dagster as dg
import pytest

import mlct
from mlct.adapters.mlflow_registry import MlflowRegistry, stage
from mlct.errors import RegistryError
from mlct.release import incident as episodes
from mlct.release.ledger import statement

CHAMPION = dg.AssetKey(["late", "champion"])


@pytest.fixture(autouse=True)
def _catalog(monkeypatch):
    """All worlds share one catalog here: what it shows is of another one (test_killed_worker)."""
    monkeypatch.setattr("mlct.defs.sensors.reconcile.unseen", lambda *_: None)


def tick(world: Any) -> Any:
    """What the daemon would get from the sensor now."""
    sensor = world.defs.resolve_sensor_def("late_reconcile_slot")
    with dg.build_sensor_context(
        instance=world.instance, resources=world.defs.resources, definitions=world.defs
    ) as context:
        return sensor.evaluate_tick(context)


def alias(world: Any) -> int | None:
    return world.home.registry.alias("late", "production")


def incidents(world: Any) -> list[Any]:
    return [i for i in episodes.incidents(world.home.ledger, "late") if i.kind == "alias"]


def test_when_all_agrees_it_says_what_is_live_and_writes_nothing(trained, succeeded):
    for world, said in ((trained, "nothing is live"), (succeeded, "version 2 is live")):
        rows = world.home.ledger.verify()
        done = tick(world)
        assert f"production: {said}" in done.skip_message
        assert (done.asset_events, done.run_requests or []) == ([], [])
        assert world.home.ledger.verify() == rows


@pytest.mark.parametrize("moved_to", [1, None])
def test_an_alias_moved_by_hand_is_repaired_and_shown_in_dagster(succeeded, moved_to):
    client = succeeded.home.registry.client
    client.delete_registered_model_alias("late", "production")
    if moved_to:
        client.set_registered_model_alias("late", "production", str(moved_to))
    (event,) = tick(succeeded).asset_events
    assert alias(succeeded) == 2
    assert isinstance(event, dg.AssetObservation)
    assert event.asset_key == CHAMPION
    assert event.metadata["found"].value == str(moved_to or "nothing")
    assert event.metadata["version"].value == "2"
    assert len(succeeded.records("reconcile")) == len(incidents(succeeded)) == 1
    assert "version 2 is live" in tick(succeeded).skip_message


def test_ten_ticks_against_a_stubborn_hand_are_one_incident(succeeded):
    client = succeeded.home.registry.client
    for _ in range(10):
        client.set_registered_model_alias("late", "production", "1")
        assert tick(succeeded).asset_events
    (one,) = incidents(succeeded)
    assert len(one.timeline) == 20


def test_an_alias_that_nobody_promoted_is_taken_away(trained):
    trained.home.registry.client.set_registered_model_alias("late", "production", "1")
    (event,) = tick(trained).asset_events
    assert alias(trained) is None
    assert event.metadata["version"].value == "nothing is live"
    assert "the ledger says nothing is live" in incidents(trained)[0].summary


def test_while_mlflow_is_down_it_skips_says_so_and_floods_nothing(succeeded, monkeypatch):
    def down(*_: Any) -> None:
        raise RegistryError("MLflow could not read alias 'production' of late: refused")

    monkeypatch.setattr(MlflowRegistry, "standing", down)
    rows = succeeded.home.ledger.verify()
    for _ in range(3):
        done = tick(succeeded)
        assert "slot 'production' was not looked at" in done.skip_message
        assert "refused" in done.skip_message
    assert succeeded.home.ledger.verify() == rows


def test_what_a_rollback_left_behind_is_caught_up_with(succeeded, monkeypatch):
    def down(*_: Any) -> None:
        raise RegistryError("down")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowRegistry, "set_alias", down)
        assert not succeeded.run("late_rollback").success
    assert alias(succeeded) == 2
    tick(succeeded)
    assert alias(succeeded) == 1
    assert incidents(succeeded) == []


def test_every_slot_of_the_spec_is_looked_at(succeeded):
    succeeded.declare(slots={"production-eu": mlct.Deployment(environment="eu")})
    client, evaluated = succeeded.home.registry.client, succeeded.records("gate")[0]
    gate = statement("gate", {}, evaluated | {"slot": "production-eu"})
    succeeded.home.ledger.append(gate, actor="test")
    client.set_registered_model_alias("late", "production-eu", "1")
    done = tick(succeeded)
    assert [e.metadata["slot"].value for e in done.asset_events] == ["production-eu"]
    assert client.get_registered_model("late").aliases["production"] == 2
    assert "production-eu" not in client.get_registered_model("late").aliases


def test_the_sensor_launches_nothing(world):
    (sensor,) = [s for s in world.defs.sensors if s.name == "late_reconcile_slot"]
    assert sensor.targets == []
    assert sensor.minimum_interval_seconds == 60


def staged(world: Any) -> set[int]:
    return set(stage.versions(world.home.registry.client, "late"))


@pytest.fixture
def mirrored(succeeded):
    """Stage Production follows the slot."""
    succeeded.declare(registry_stage=True)
    done = tick(succeeded)
    assert staged(succeeded) == {2}, done.skip_message
    return succeeded


def test_the_stage_follows_the_slot_once_the_spec_says_so(succeeded):
    assert staged(succeeded) == set()
    succeeded.declare(registry_stage=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        assert tick(succeeded).asset_events == []
    assert staged(succeeded) == {2}
    assert incidents(succeeded) == []


def test_the_stage_goes_back_with_a_rollback_by_run_or_command(mirrored):
    code, text, error = mirrored.mlct("rollback", "late", "--reason", "bad", "--yes")
    assert (code, staged(mirrored)) == (0, {1}), text + error
    assert mirrored.home.registry.client.get_model_version("late", "2").current_stage == "Archived"
    assert "version 1 is live" in tick(mirrored).skip_message


def test_a_promotion_moves_the_stage(live, boosted, why):
    live.declare(registry_stage=True, estimator=boosted)
    live.retrain()
    live.approve(2)
    done = live.promote(2)
    assert done.success, why(done)
    assert staged(live) == {2}


def test_the_stage_begins_with_the_first_promotion(trained, why):
    trained.declare(registry_stage=True)
    trained.approve(1)
    done = trained.promote(1)
    assert done.success, why(done)
    assert staged(trained) == {1}


def test_an_attempt_to_promote_stages_nothing_that_nobody_approved(live, boosted):
    """Somebody points the alias at version 2, and launches its promotion without approvals."""
    live.declare(estimator=boosted)
    live.retrain()
    live.home.registry.client.set_registered_model_alias("late", "production", "2")
    live.declare(registry_stage=True)
    assert not live.promote(2).success
    assert staged(live) == {1}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("archive", [True, False], ids=["instead", "as well"])
def test_a_stage_moved_by_hand_is_repaired_and_the_others_archived(mirrored, archive):
    client = mirrored.home.registry.client
    client.transition_model_version_stage("late", "1", "Production", archive)
    assert tick(mirrored).asset_events
    assert staged(mirrored) == {2}
    assert "stage Production at 1" in incidents(mirrored)[0].summary


def test_an_mlflow_without_stages_says_so_before_anything_moves(trained, monkeypatch, why):
    from mlflow import MlflowClient

    monkeypatch.delattr(MlflowClient, "transition_model_version_stage")
    trained.declare(registry_stage=True)
    trained.approve(1)
    done = trained.promote(1)
    assert not done.success
    assert "has no stages any more" in why(done)
    assert (alias(trained), trained.records("promotion")) == (None, [])
    assert "Take registry_stage out of the spec" in tick(trained).skip_message


def test_one_stage_follows_one_slot(mirrored):
    with pytest.raises(RegistryError, match="follows slot 'production'"):
        mirrored.home.registry.mirror("late", "production-eu")


def test_a_stage_that_shall_not_follow_any_more_is_left_alone(mirrored):
    mirrored.home.registry.mirror("late", "production", wanted=False)
    assert mirrored.mlct("rollback", "late", "--reason", "bad", "--yes")[0] == 0
    assert staged(mirrored) == {2}
    mirrored.declare(registry_stage=False)
    assert "version 1 is live" in tick(mirrored).skip_message
