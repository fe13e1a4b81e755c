"""Several candidates: chosen on one window, judged on another."""

import json

import pytest

import mlct
from mlct.errors import SpecError


def blind():
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="prior")


def forest():
    """Grown at random: each seed gives another."""
    from sklearn.ensemble import ExtraTreesClassifier

    return ExtraTreesClassifier(8, max_depth=3)


WINDOWS = mlct.Windows(train="25d", holdout="12d", selection="8d", label_delay="2h", cluster="1d")


@pytest.fixture
def several(world, trips, boosted):
    world.declare(estimator={"blind": blind, "trees": boosted}, windows=WINDOWS)
    world.feed(trips())
    return world


def test_the_best_on_the_selection_window_is_fitted_and_the_holdout_confirms_it(
    several, made, check, why
):
    done = several.retrain()
    assert done.success, why(done)
    said = several.records("training")[-1]["selection"]
    assert said["chosen"] == "trees"
    assert said["values"]["trees"] > said["values"]["blind"] == 0.5
    assert made(done, "challenger")["chosen"] == "trees"
    evidence = several.records("evaluation")[-1]["evidence"]
    report = json.loads(several.home.store.get(evidence))
    assert report["evaluation"]["selected_among"] == 2
    assert report["evaluation"]["selected_on"] == said["rows"] != report["holdout"]
    (told,) = [r for r in report["decision"]["rules"] if r["name"] == "selection"]
    assert told["outcome"] == "PASS"
    assert "chosen among 2 candidates" in told["reason"]
    assert check(done, "champion_challenger_gate").passed


def test_the_selection_window_lies_before_the_holdout_and_after_what_was_fitted(several):
    assert several.retrain().success
    from mlct.data import snapshot

    training = several.records("training")[-1]
    rows = snapshot.read(several.home.store, training["selection"]["rows"]).to_table()
    all_rows = snapshot.read(several.home.store, training["train"]).to_table()
    until = rows["started_at"].to_pylist()
    assert until == all_rows["started_at"].to_pylist()[-len(until) :]
    assert training["selection"]["fitted_on"] < all_rows.num_rows - len(until)  # labels came late
    assert training["rows"] == all_rows.num_rows  # and the winner learned from all of them


def test_the_same_candidates_on_the_same_rows_are_not_fitted_twice(several, monkeypatch):
    assert several.retrain().success
    from mlct.training import fit

    monkeypatch.setattr(fit, "fit", lambda *_: pytest.fail("fitted again"))
    assert several.retrain().success
    assert len(several.records("training")) == 1


def test_seeds_are_candidates_too(world, trips, why):
    world.declare(
        estimator=forest,
        seeds=[1, 2, 3],
        windows=WINDOWS,
        columns=mlct.Columns(
            id="trip_id", time="started_at", label="late", label_time="ended_at", exclude=("kind",)
        ),
    )
    world.feed(trips())
    done = world.retrain()
    assert done.success, why(done)
    said = world.records("training")[-1]["selection"]
    assert set(said["values"]) == {"seed 1", "seed 2", "seed 3"}
    assert len(set(said["values"].values())) == 3
    assert said["values"][said["chosen"]] == max(said["values"].values())


def test_a_candidate_that_cannot_be_fitted_is_named(world, trips, boosted, why):
    def broken():
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression()  # takes no text

    world.declare(estimator={"good": boosted, "bad": broken}, windows=WINDOWS)
    world.feed(trips())
    assert "candidate 'bad'" in why(world.retrain())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"estimator": {"a": blind, "b": forest}}, "Windows\\(selection"),
        ({"seeds": [1, 2]}, "Windows\\(selection"),
        ({"seeds": [1, 1]}, "distinct"),
        ({"seeds": [True, 2]}, "whole numbers"),
        ({"estimator": {}}, "mapping of names"),
        ({"estimator": {"a": 3}}, "mapping of names"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused_when_declared(spec, changes, problem):
    from dataclasses import replace

    with pytest.raises(SpecError, match=problem):
        replace(spec, **changes)


def test_one_candidate_in_a_mapping_needs_no_selection(spec):
    from dataclasses import replace

    assert list(replace(spec, estimator={"only": blind}).candidates) == ["only"]
