"""More than two classes go through the loop like two."""

import json

import numpy as np
import pyarrow as pa

import mlct

KINDS = np.array(["early", "late", "on time"])


def three(trips, days=40):
    """The label is one of three texts, which follow from the distance, not quite."""
    rows = trips(days)
    noisy = rows["distance"].to_numpy() + np.random.default_rng(3).normal(0, 0.5, rows.num_rows)
    place = rows.schema.get_field_index("late")
    return rows.set_column(place, "late", pa.array(KINDS[np.digitize(noisy, [-0.5, 0.5])]))


def forest():
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    text = make_column_selector(dtype_exclude="number")
    return make_pipeline(
        make_column_transformer((OrdinalEncoder(), text), remainder="passthrough"),
        ExtraTreesClassifier(20, max_depth=4),
    )


def report(world):
    return json.loads(world.home.store.get(world.records("evaluation")[-1]["evidence"]))


def test_three_classes_are_trained_judged_approved_promoted_and_replaced(
    world, trips, boosted, why, check
):
    gate = mlct.GatePolicy(
        primary=mlct.Superiority("log_loss"),
        guardrails=[mlct.NonInferiority("roc_auc", margin=0.05), mlct.Limit("brier", max=0.6)],
    )
    world.declare(estimator=forest, gate=gate, no_change=True)
    world.feed(three(trips))
    first = world.retrain()
    assert first.success, why(first)
    assert check(first, "champion_challenger_gate").passed
    said = report(world)
    assert said["evaluation"]["task"] == "multiclass"
    assert {"confusion", "confidence"} <= set(said["plots"])
    # Without features a model says the classes' shares; they lose to it.
    metrics = said["evaluation"]["metrics"]
    assert metrics["challenger"]["log_loss"] < metrics["baseline"]["log_loss"]
    assert metrics["challenger"]["accuracy"] > metrics["no_change"]["accuracy"]
    world.approve(1)
    moved = world.promote(1)
    assert moved.success, why(moved)
    world.declare(estimator=boosted)
    second = world.retrain()
    assert second.success, why(second)
    said = report(world)
    assert said["evaluation"]["champion"] == "scored"
    assert said["decision"]["verdict"] in ("PASS", "FAIL", "INCONCLUSIVE")


def test_a_champion_of_other_classes_cannot_be_compared(live, trips, boosted, check):
    live.feed(three(trips))
    live.declare(estimator=boosted, gate=mlct.GatePolicy(primary=mlct.Superiority("log_loss")))
    done = live.retrain()
    assert done.success
    found = check(done, "champion_challenger_gate")
    assert not found.passed
    assert "knows the classes" in found.description
