"""Trained is only what passed its contract, once a recipe, and all of it is on record."""

import json
import logging
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlct import errors


def other_contract() -> Any:
    """Another one than that of the conftest, which holds too."""
    import great_expectations as gx

    expectation = gx.expectations.ExpectColumnValuesToNotBeNull(column="stops")
    return gx.ExpectationSuite(name="trips", expectations=[expectation])


def test_data_without_a_verdict_is_refused(world, trips, why):
    world.feed(trips())
    done = world.materialize("challenger")
    assert not done.success
    assert "late has no training_set yet" in why(done)


@pytest.fixture
def broken(trained, trips) -> Any:
    """The newest training set broke its contract; the one before it passed."""
    rows = trips(seed=1)
    stops = rows["stops"].to_numpy().copy()
    stops[::9] = 70
    trained.feed(rows.set_column(6, "stops", [stops]))
    assert not trained.retrain().success
    return trained


@pytest.mark.parametrize(
    "tags", [None, {"dagster/backfill": "abcdefgh"}], ids=["later", "backfill"]
)
def test_a_challenger_alone_refuses_a_digest_whose_contract_failed(broken, why, tags):
    done = broken.materialize("challenger", tags=tags)
    assert not done.success
    assert "ContractNotPassed" in why(done)
    assert "stops: expect_column_values_to_be_between" in why(done)
    assert broken.versions() == 1


def test_a_verdict_under_another_contract_does_not_count(trained, why):
    trained.declare(contract=other_contract)
    done = trained.materialize("challenger")
    assert not done.success
    assert "no verdict of the contract as it stands now" in why(done)
    assert trained.retrain().success


def test_a_verdict_about_another_digest_does_not_count(trained, why):
    from mlct.defs.resources import MlctHome

    resource = MlctHome(root=str(trained.root))
    _, document = resource.handed("late", "training_set")
    resource.hand_on("late", "training_set", "run", document | {"as_of": "2024-02-11T00:00:00Z"})
    done = trained.materialize("challenger")
    assert not done.success
    assert "no verdict of the contract" in why(done)


def test_an_equal_recipe_is_not_trained_again_and_the_run_says_so(trained, made):
    before = trained.home.ledger.verify()
    again = made(trained.retrain(), "challenger")
    assert (again["version"], again["reused"]) == (1, True)
    assert trained.versions() == 1
    assert trained.home.ledger.verify() == before


def test_a_reused_version_is_the_challenger_again(trained, boosted, spec, made):
    trained.declare(estimator=boosted)
    assert made(trained.retrain(), "challenger")["version"] == 2
    trained.declare(spec)
    assert made(trained.retrain(), "challenger")["version"] == 1
    assert trained.home.registry.alias("late", "challenger") == 1


def logged(world: Any, version: int = 1) -> SimpleNamespace:
    """What MLflow has of a version."""
    client = world.home.registry.client
    found = client.get_model_version("late", str(version))
    return SimpleNamespace(client=client, version=found, run=client.get_run(found.run_id))


def text(world: Any, name: str) -> str:
    found = logged(world)
    return Path(found.client.download_artifacts(found.run.info.run_id, name)).read_text()


def test_mlflow_has_the_parameters_and_metrics(trained):
    found = logged(trained).run
    assert found.data.params["estimator"] == "lightgbm.sklearn.LGBMClassifier"
    assert found.data.params["num_leaves"] == "2"
    assert found.data.params["seed"] == "0"
    assert found.data.metrics["train_rows"] == 1500
    assert found.data.metrics["roc_auc"] > 0.7  # of the evaluation
    assert found.info.status == "FINISHED"


def test_mlflow_has_the_digests_of_data_recipe_and_artifact(trained, made):
    found = logged(trained)
    (said,) = trained.records("training")
    inputs = {
        i.tags[0].value: json.loads(i.dataset.source)["sha256"]
        for i in found.run.inputs.dataset_inputs
    }
    assert inputs["train"] == said["train"] == found.version.tags["mlct.train"]
    assert inputs["holdout"] == found.version.tags["mlct.holdout"]
    assert found.version.tags["mlct.recipe"] == said["recipe"]
    assert found.version.tags["mlct.artifact"] == said["artifact"]
    assert json.loads(text(trained, "recipe.json"))["snapshot"] == said["train"]
    assert trained.home.registry.artifact("late", 1) == said["artifact"]


def test_mlflow_has_the_code_and_the_environment(trained):
    tags = logged(trained).version.tags
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    assert tags["mlct.git_commit"] == head.stdout.strip()
    assert tags["mlct.git_dirty"] in ("true", "false")
    assert "lightgbm==" in text(trained, "environment.lock")


def test_why_a_version_was_trained_is_on_it(trained, boosted):
    by_hand = logged(trained).version.tags
    assert (by_hand["mlct.reason"], by_hand["mlct.cause"]) == ("launched by hand", "")
    trained.declare(estimator=boosted)
    done = trained.retrain(tags={"mlct/reason": "distance moved", "mlct/cause": "drift:abc"})
    asked = logged(trained, 2).version.tags
    assert asked["mlct.reason"] == "distance moved"
    assert asked["mlct.cause"] == "drift:abc"
    assert asked["mlct.dagster_run"] == done.run_id
    assert trained.records("training")[-1]["reason"] == "distance moved"


def test_a_run_that_dies_between_mlflow_and_ledger_leaves_one_version(
    world, trips, made, monkeypatch
):
    world.feed(trips())
    with monkeypatch.context() as broken:
        refuse_once(broken, "training")
        assert not world.retrain().success
    assert (world.versions(), len(world.records("training"))) == (1, 0)
    again = world.retrain()
    assert again.success
    assert made(again, "challenger")["version"] == 1
    assert (world.versions(), len(world.records("training"))) == (1, 1)
    assert world.home.registry.alias("late", "challenger") == 1


def test_a_run_that_dies_before_the_gate_is_recorded_is_simply_run_again(
    trained, boosted, made, check, monkeypatch
):
    trained.declare(estimator=boosted)
    with monkeypatch.context() as broken:
        refuse_once(broken, "evaluation")
        assert not trained.retrain().success
    # Gate and evaluation stand together or not at all.
    assert {g["version"] for g in trained.records("gate")} == {1}
    again = trained.retrain()
    assert made(again, "challenger")["reused"]
    assert check(again, "champion_challenger_gate").passed
    assert {g["version"] for g in trained.records("gate")} == {1, 2}


def refuse_once(monkeypatch: Any, kind: str) -> None:
    """The ledger fails on the next statement of a kind, as on a full disk."""
    from mlct.release.ledger import Ledger

    append = Ledger.append

    def failing(self: Ledger, content: Any, **words: Any) -> Any:
        if f"/{kind}/" in content["predicateType"]:
            raise errors.LedgerError("the disk is full")
        return append(self, content, **words)

    monkeypatch.setattr(Ledger, "append", failing)


def test_an_orphan_with_other_bytes_is_not_adopted(world, trips, made, monkeypatch):
    world.feed(trips())
    with monkeypatch.context() as broken:
        refuse_once(broken, "training")
        assert not world.retrain().success
    (model,) = world.root.glob("mlflow-artifacts/**/model.txt")
    model.write_text(model.read_text() + "\n")
    assert made(world.retrain(), "challenger")["version"] == 2


def test_a_version_that_mlflow_lost_is_trained_again(trained, made):
    trained.home.registry.client.delete_model_version("late", "1")
    again = made(trained.retrain(), "challenger")
    assert (again["version"], again["reused"]) == (2, False)
    assert made(trained.retrain(), "challenger")["reused"]


def pipeline() -> Any:
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["kind"]), remainder="passthrough"
    )
    return make_pipeline(columns, SimpleImputer(), LogisticRegression(max_iter=500))


def test_any_scikit_learn_estimator_goes_through_the_loop(world, trips, made, check):
    world.declare(estimator=pipeline)
    world.feed(trips())
    done = world.retrain()
    assert check(done, "champion_challenger_gate").passed
    assert made(world.retrain(), "challenger")["reused"]


def forest() -> Any:
    from lightgbm import LGBMRegressor

    return LGBMRegressor(n_estimators=10, num_leaves=7, random_state=0)


def test_a_regression_goes_through_the_loop(world, trips, made, check):
    import mlct

    policy = mlct.GatePolicy(
        primary=mlct.Superiority("rmse"), guardrails=[mlct.Limit("latency_p99_ms", max=1_000)]
    )
    world.declare(estimator=forest, gate=policy)
    rows = trips()
    delay = rows["distance"].to_numpy() + rows["load"].to_numpy()
    world.feed(rows.set_column(3, "late", [delay]))
    done = world.retrain()
    assert check(done, "champion_challenger_gate").passed
    assert {"residuals", "scores"} & made(done, "evaluation").keys()


def test_an_estimator_that_cannot_learn_these_labels_says_why(world, trips, why):
    rows = trips()
    world.feed(rows.set_column(3, "late", [[1] * rows.num_rows]))
    done = world.retrain()
    assert not done.success
    assert "label 'late' has 1 values in the training window: [1]" in why(done)


@pytest.fixture
def outside_git(world, trips, monkeypatch):
    """At a tier whose authors may not approve; nothing tells who trains."""
    from mlct.defs.assets import challenger
    from mlct.training.recipe import Code

    monkeypatch.setattr(challenger, "code_state", lambda: Code(commit="", dirty=False, author=""))
    world.declare(risk_tier="medium")
    world.feed(trips())
    return world


def warned(world: Any, done: Any) -> list[str]:
    assert done.success
    logs = world.instance.all_logs(done.run_id)
    return [
        e.user_message for e in logs if e.level == logging.WARNING and "author" in e.user_message
    ]


def test_what_nobody_is_known_to_have_trained_is_trained_again_by_whoever_is(
    outside_git, monkeypatch, why
):
    (told,) = warned(outside_git, outside_git.retrain())
    assert "nobody is known as the author of late version 1" in told
    outside_git.approve(1)
    refused = why(outside_git.promote(1))
    assert "then run late_retrain and approve again" in refused
    monkeypatch.setenv("MLCT_ACTOR", "zoe")
    assert warned(outside_git, outside_git.retrain()) == []
    newest = outside_git.records("training")[-1]
    assert newest["authors"] == ["zoe"]
    outside_git.approve(newest["version"])
    done = outside_git.promote(newest["version"])
    assert done.success, why(done)


def test_an_author_who_is_known_stays_the_author(outside_git, monkeypatch):
    for actor in ("zoe", "ben"):
        monkeypatch.setenv("MLCT_ACTOR", actor)
        assert outside_git.retrain().success
    monkeypatch.delenv("MLCT_ACTOR")
    assert warned(outside_git, outside_git.retrain()) == []
    assert [t["authors"] for t in outside_git.records("training")] == [["zoe"]]


def test_without_an_approvers_file_the_tier_itself_says_whose_authors_count(outside_git):
    (outside_git.root / "approvals.yaml").unlink()
    assert len(warned(outside_git, outside_git.retrain())) == 1
    outside_git.declare(risk_tier="low")
    assert warned(outside_git, outside_git.retrain()) == []
