"""Only people promote, only what they signed; anybody may take it back."""

import sqlite3
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import mlct
from mlct.adapters.checkpoints import Checkpoints
from mlct.defs.jobs.promotion import promotion_job
from mlct.defs.names import AUTOMATION_TAGS
from mlct.defs.resources import MlctHome
from mlct.errors import RegistryError
from mlct.release.ledger import checkpoint
from mlct.release.ledger.note import Signer
from mlct.training.recipe import code_state

CHAMPION = dg.AssetKey(["late", "champion"])


def impossible() -> Any:
    import great_expectations as gx

    many = gx.expectations.ExpectTableRowCountToBeBetween(min_value=10**9)
    return gx.ExpectationSuite(name="trips", expectations=[many])


def alias(world: Any) -> int | None:
    return world.home.registry.alias("late", "production")


def moves(world: Any) -> int:
    return len(world.home.ledger.records(slot="late@production"))


def champion(result: Any) -> dict[str, Any]:
    """What a run told the asset catalog about the champion."""
    (event,) = [
        e.step_materialization_data.materialization
        for e in result.all_events
        if e.is_step_materialization and e.asset_key == CHAMPION
    ]
    return {name: value.value for name, value in event.metadata.items()}


def test_an_approved_version_goes_live_in_ledger_mlflow_and_catalog(trained, made):
    trained.approve(1)
    done = trained.promote(1)
    assert done.success
    assert alias(trained) == 1
    assert trained.records("promotion")[-1]["version"] == 1
    told = champion(done)
    assert (told["version"], told["move"], told["replaces"]) == (1, "promotion", "nothing")
    assert told["approved_by"] == "ana (model-risk)"
    said = [e.user_message for e in trained.instance.all_logs(done.run_id)]
    assert "late@1 is live in 'production'" in said
    assert trained.instance.get_latest_materialization_event(CHAMPION).run_id == done.run_id


def test_the_champions_data_version_is_the_artifact(trained):
    trained.approve(1)
    trained.promote(1)
    event = trained.instance.get_latest_materialization_event(CHAMPION)
    (said,) = trained.records("training")
    assert event.asset_materialization.tags["dagster/data_version"] == said["artifact"]


def test_what_nobody_signed_stays_where_it_is(trained, why):
    done = trained.promote(1)
    assert not done.success
    assert "PromotionRefused: late@1 has nobody" in why(done)
    assert "1 approver for risk tier 'low'" in why(done)
    assert (alias(trained), moves(trained)) == (None, 0)


def test_a_version_that_does_not_exist_is_refused(trained, why):
    done = trained.promote(7)
    assert not done.success
    assert "late@7 has no gate statement" in why(done)
    assert moves(trained) == 0


def test_a_bare_launch_is_refused_before_it_starts(trained):
    job = trained.defs.resolve_job_def("late_promotion")
    with pytest.raises(dg.DagsterInvalidConfigError, match='Missing required config entry "ops"'):
        job.execute_in_process(instance=trained.instance)
    with pytest.raises(dg.DagsterInvalidConfigError, match="version"):
        dg.validate_run_config(job, {"ops": {"late_promote": {"config": {"version": "newest"}}}})


@pytest.mark.parametrize("resource", ["mlct", "snapshots"])
@pytest.mark.parametrize("job", ["late_promotion", "late_rollback", "late_retrain"])
def test_who_launches_a_run_cannot_choose_another_home_or_approvers_file(trained, job, resource):
    mine = {"mlct": {"approvers_file": "mine.yaml"}, "snapshots": {"home": {"root": "mine"}}}
    config = {"resources": {resource: {"config": mine[resource]}}}
    if job == "late_promotion":
        config |= {"ops": {"late_promote": {"config": {"version": 1}}}}
    with pytest.raises(dg.DagsterInvalidConfigError, match="unexpected config entry"):
        dg.validate_run_config(trained.defs.resolve_job_def(job), config)


def test_a_home_that_takes_run_config_does_not_let_it_into_a_promotion(trained, why):
    trained.approve(1)
    home = trained.home
    defs = dg.Definitions(
        jobs=[promotion_job(trained.spec)], resources={"mlct": MlctHome(root=home.root)}
    )
    chosen = {"mlct": {"config": {"root": home.root, "approvers_file": "mine.yaml"}}}
    config = {"ops": {"late_promote": {"config": {"version": 1}}}, "resources": chosen}
    done = defs.resolve_job_def("late_promotion").execute_in_process(
        instance=trained.instance, raise_on_error=False, run_config=config
    )
    assert not done.success
    assert "sets the resource mlct" in why(done)
    assert moves(trained) == 0


@pytest.mark.parametrize("tag", sorted(AUTOMATION_TAGS))
def test_a_run_that_automation_launched_is_refused(trained, why, tag):
    trained.approve(1)
    done = trained.promote(1, tags={tag: "x"})
    assert not done.success
    assert f"Only people promote: this run carries {tag}" in why(done)
    assert (alias(trained), moves(trained)) == (None, 0)


def test_the_promotion_op_refuses_to_run_in_another_job(trained, why):
    trained.approve(1)
    copied = trained.defs.resolve_job_def("late_promotion").graph.to_job(
        name="nightly", resource_defs=trained.defs.resources, executor_def=dg.in_process_executor
    )
    config = {"ops": {"late_promote": {"config": {"version": 1}}}}
    done = copied.execute_in_process(
        instance=trained.instance, raise_on_error=False, run_config=config
    )
    assert not done.success
    assert "runs in late_promotion only, found nightly" in why(done)
    assert moves(trained) == 0


def test_a_second_promotion_of_the_same_version_is_refused(live, why):
    done = live.promote(1)
    assert not done.success
    assert "late@1 is live" in why(done)
    assert moves(live) == 1


def test_a_promotion_is_not_retried_and_not_queued_behind_training(world):
    jobs = {job.name: job for job in world.defs.jobs}
    assert jobs["late_promotion"].tags["dagster/max_retries"] == "0"
    assert jobs["late_retrain"].tags["mlct/model"] == "late"
    for name in ("late_promotion", "late_rollback"):
        assert "mlct/model" not in jobs[name].tags


def test_the_champion_cannot_be_materialised(live):
    with pytest.raises(dg.DagsterInvalidDefinitionError) as refused:
        live.materialize("champion")
    assert "champion" in str(refused.value.__cause__)


def test_a_rollback_repoints_the_slot_and_quarantines_without_training(succeeded):
    versions = succeeded.versions()
    config = {"ops": {"late_roll_back": {"config": {"reason": "alerts doubled"}}}}
    done = succeeded.run("late_rollback", config=config)
    assert done.success
    assert (alias(succeeded), succeeded.versions()) == (1, versions)
    (quarantine,) = succeeded.records("quarantine")
    assert (quarantine["version"], quarantine["reason"]) == (2, "alerts doubled")
    told = champion(done)
    assert (told["version"], told["move"], told["reason"]) == (1, "rollback", "alerts doubled")


def test_a_rollback_needs_no_words_at_three_in_the_morning(succeeded):
    assert succeeded.run("late_rollback").success
    assert succeeded.records("rollback")[-1]["reason"] == "rolled back by hand"


def test_automation_may_roll_back(succeeded):
    done = succeeded.run("late_rollback", tags={"dagster/sensor_name": "late_rollback_on_breach"})
    assert done.success
    assert alias(succeeded) == 1


@pytest.mark.parametrize("fixture", ["trained", "live"])
def test_a_rollback_to_nowhere_is_refused(request, why, fixture):
    world = request.getfixturevalue(fixture)
    before = moves(world)
    done = world.run("late_rollback")
    assert not done.success
    assert "RollbackRefused" in why(done)
    assert moves(world) == before


def test_what_was_rolled_back_does_not_come_back(succeeded, why, check):
    assert succeeded.run("late_rollback").success
    done = succeeded.promote(2)
    assert not done.success
    assert "quarantined" in why(done)
    again = check(succeeded.retrain(), "champion_challenger_gate")
    assert "version 2 is quarantined" in again.description


@pytest.fixture
def mlflow_goes_down(monkeypatch):
    """MLflow answers until somebody wants to move an alias."""
    from mlct.adapters.mlflow_registry import MlflowRegistry

    def down(*_: Any) -> None:
        raise RegistryError("MLflow could not move the alias")

    monkeypatch.setattr(MlflowRegistry, "set_alias", down)
    return monkeypatch


def test_a_rollback_stands_when_mlflow_is_down_and_the_run_says_not_to_repeat_it(
    succeeded, why, mlflow_goes_down
):
    done = succeeded.run("late_rollback")
    assert not done.success
    assert "version 1 is live in production, do not repeat this run" in why(done)
    assert "mlct reconcile late" in why(done)
    event = succeeded.instance.get_latest_materialization_event(CHAMPION).asset_materialization
    assert event.metadata["move"].value == "rollback"
    assert succeeded.records("rollback")[-1]["version"] == 1
    mlflow_goes_down.undo()
    assert succeeded.mlct("reconcile", "late")[0] == 0
    assert alias(succeeded) == 1


def slot_check(world: Any) -> Any:
    key = dg.AssetCheckKey(CHAMPION, "slot_matches_ledger")
    job = dg.define_asset_job(
        "look", dg.AssetSelection.checks(key), executor_def=dg.in_process_executor
    )
    defs = dg.Definitions.merge(world.defs, dg.Definitions(jobs=[job]))
    (found,) = world.run("look", defs=defs).get_asset_check_evaluations()
    return found


def test_the_slot_check_agrees_when_all_is_well(trained, live):
    assert slot_check(trained).description.startswith("nothing is live yet")
    found = slot_check(live)
    assert found.passed
    assert "version 1 is live" in found.description


def test_the_slot_check_sees_an_alias_that_somebody_moved(succeeded):
    succeeded.home.registry.set_alias("late", "production", 1)
    found = slot_check(succeeded)
    assert not found.passed
    assert "version 2 is live; alias 'production' points at 1" in found.description
    assert "mlct reconcile late" in found.description


def test_the_slot_check_sees_bytes_that_somebody_changed(live):
    (said,) = live.records("training")
    path = live.root / "approved" / "objects" / said["artifact"][:2] / said["artifact"]
    path.write_text("{}")
    found = slot_check(live)
    assert not found.passed
    assert said["artifact"] in found.description


def eu(world: Any, version: int, **words: Any) -> Any:
    """Promote into the slot `production-eu`."""
    config = {"ops": {"late_promote": {"config": {"version": version, "slot": "production-eu"}}}}
    return world.run("late_promotion", config=config, **words)


def sign(world: Any, *more: str) -> str:
    code, out, error = world.mlct("approve", "late@1", "--key", str(world.key), "--yes", *more)
    return out if code == 0 else error


def test_a_further_slot_needs_approvals_of_its_own(trained, why):
    trained.declare(slots={"production-eu": mlct.Deployment(environment="eu")})
    looks = len(trained.records("evaluation"))
    assert trained.retrain().success
    assert len(trained.records("evaluation")) == looks  # the case is known: no second look
    trained.approve(1)
    assert trained.promote(1).success
    assert "late@1 has nobody" in why(eu(trained, 1))
    assert trained.retrain().success  # compares version 1 with itself
    assert "Approvals are complete" in sign(trained, "--slot", "production-eu")
    done = eu(trained, 1)
    assert done.success, why(done)
    assert trained.home.registry.alias("late", "production-eu") == 1
    assert (moves(trained), alias(trained)) == (1, 1)
    assert not [e for e in done.all_events if e.is_step_materialization]


def test_a_slot_that_is_not_declared_is_refused_and_recorded(live, why):
    assert "late has no slot 'production-eu'" in why(eu(live, 1))
    assert live.records("refusal")[-1]["check"] == "slot"


def test_a_deployment_that_changed_after_the_approval_is_refused(trained, why):
    trained.approve(1)
    trained.declare(deployment=mlct.Deployment(settings={"cutoff": 0.9}))
    assert "the deployment declared for 'production' is" in why(trained.promote(1))
    assert trained.records("refusal")[-1]["check"] == "deployment"
    assert trained.retrain().success  # records the evaluation for the new deployment
    trained.approve(1)
    assert trained.promote(1).success


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"risk_tier": "high"}, "tier low"),
        ({"gate": mlct.GatePolicy(primary=mlct.Superiority("roc_auc", min_effect=0.5))}, "gate"),
        ({"contract": impossible}, "contract"),
    ],
    ids=["tier", "gate", "contract"],
)
def test_rules_that_changed_after_the_evaluation_are_asked_first(trained, why, changes, rule):
    trained.approve(1)
    trained.declare(**changes)
    assert f"late@1 was evaluated under the {rule}" in why(trained.promote(1))
    assert [r["check"] for r in trained.records("refusal")] == ["rules"]
    assert (alias(trained), moves(trained)) == (None, 0)


def test_a_gate_that_was_put_back_is_the_one_that_counts(trained, why):
    """Evaluated under another gate in between: of A, B and A again the newest says A."""
    gate = trained.spec.gate
    for tried in (replace(gate, guardrails=[mlct.Limit("log_loss", max=0.01)]), gate):
        trained.declare(gate=tried)
        assert trained.retrain().success
    assert [g["verdict"] for g in trained.records("gate")] == ["PASS", "FAIL", "PASS"]
    trained.retrain()
    assert len(trained.records("gate")) == 3
    trained.approve(1)
    done = trained.promote(1)
    assert done.success, why(done)


def test_an_approvers_file_that_nobody_signed_is_refused(trained, why):
    trained.approve(1)
    file = trained.root / "approvals.yaml"
    file.write_text(file.read_text() + "tiers:\n  low: {evidence_days: 9000}\n")
    assert "Have the change signed".lower() in why(trained.promote(1)).lower()
    assert trained.records("refusal")[-1]["check"] == "policy"
    code, out, error = trained.mlct("policy", "sign", "--key", str(trained.key))
    assert code == 0, error
    assert "signed by ana" in out
    assert "was evaluated under the approvers file" in why(trained.promote(1))
    assert trained.retrain().success
    trained.approve(1)
    assert trained.promote(1).success


def test_the_person_whom_a_coordinator_names_is_the_actor(trained):
    trained.approve(1)
    done = trained.promote(1, tags={"user": "ana@shop.example"})
    assert done.success
    (move,) = trained.home.ledger.records(kind="promotion")
    assert move.actor == f"dagster:{done.run_id} by ana@shop.example"


def test_who_launched_and_who_committed_a_training_are_its_authors(world, trips, monkeypatch):
    monkeypatch.setenv("MLCT_ACTOR", "ben")
    world.feed(trips())
    assert world.retrain(tags={"user": "ana@shop.example"}).success
    (said,) = world.records("training")
    committed = code_state()
    assert {"ana@shop.example", "ben"} <= set(said["authors"])
    assert f"{committed.name} <{committed.author}>" in said["authors"] or not committed.commit


def test_only_what_moves_slots_uses_the_second_credentials(trained):
    """The first may be read-only: with a wrong second URI nothing is promoted, all else works."""
    trained.approve(1)
    nowhere = f"sqlite:///{trained.folder}/missing/mlflow.db"
    trained.home = replace(trained.home, promotion_uri=nowhere)
    trained.declare()
    assert trained.retrain().success
    assert not trained.promote(1).success
    assert trained.records("refusal")[-1]["error"] == "RegistryError"
    shared = f"sqlite:///{trained.root / 'mlflow.db'}"
    trained.home = replace(trained.home, promotion_uri=shared)
    trained.declare()
    assert trained.promote(1).success


def test_the_password_of_the_second_credentials_is_told_to_nobody(trained, why):
    trained.approve(1)
    where = "http://promoter:s3cret@127.0.0.1:1"
    trained.home = replace(trained.home, promotion_uri=where)
    trained.declare()
    told = why(trained.promote(1))
    assert "MLflow could not open http://***@127.0.0.1:1" in told
    assert "s3cret" not in told
    assert not any(b"s3cret" in record.body for record in trained.home.ledger.records())
    assert trained.records("refusal")[-1]["check"] == "stage"


def test_a_checkpoint_kept_outside_is_demanded_where_one_is_configured(trained, tmp_path, why):
    trained.approve(1)
    key = Signer.of(Ed25519PrivateKey.generate())
    kept = Checkpoints(str(tmp_path / "outside"))
    kept.write(checkpoint(trained.home.ledger, key), size=len(trained.home.ledger.records()))
    where = {"checkpoint": str(tmp_path / "outside"), "checkpoint_key": str(key.verifier)}
    connection = sqlite3.connect(trained.root / "ledger.db")
    for name in ("never_deleted", "subjects_never_deleted"):
        connection.execute(f"DROP TRIGGER {name}")
    last = len(trained.home.ledger.records())
    for table in ("subjects", "statements"):
        connection.execute(f"DELETE FROM {table} WHERE sequence = {last}")
    connection.commit()
    trained.approve(1)  # once more: as many rows, and not those
    trained.home = replace(trained.home, **where)
    trained.declare()
    assert "LedgerTampered" in why(trained.promote(1))
    assert (moves(trained), trained.records("refusal")) == (0, [])
