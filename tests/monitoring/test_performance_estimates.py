"""Estimates without labels and the sequence of losses: exact cases, laws, bad input."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

import mlct
from mlct.errors import DataError, EvaluationError, SpecError
from mlct.evaluation.metric import Metric, metric
from mlct.monitoring.performance import (
    Performance,
    calibrate,
    cbpe,
    estimate,
    fit_loss_model,
    gap,
    loss_sequence,
)

RANDOM = np.random.default_rng(3)
SCORE = RANDOM.random(2000).round(2)
LABEL = (RANDOM.random(2000) < SCORE) * 1.0


def test_cbpe_is_public():
    assert mlct.cbpe is cbpe


def test_levels_are_those_of_isotonic_regression_with_ties_as_one():
    known = calibrate(LABEL, SCORE)
    other = IsotonicRegression(out_of_bounds="clip").fit(SCORE, LABEL).predict(SCORE)
    inner = (SCORE > 0.05) & (SCORE < 0.95)  # the outermost steps are joined up to ten rows
    np.testing.assert_allclose(known.probability(SCORE)[inner, 1], other[inner], atol=1e-12)
    one = known.probability(np.array([0.3, 0.3, 0.3]))
    assert (one == one[0]).all()


@pytest.mark.parametrize(
    "name",
    ["roc_auc", "average_precision", "accuracy", "recall", "precision", "f1", "log_loss", "brier"],
)
def test_on_the_reference_itself_the_estimate_is_what_its_labels_say(name):
    score = np.clip(SCORE, 0.01, 0.99)
    found = cbpe(LABEL, score, score, metric=name)
    assert found.value == pytest.approx(metric(name)(LABEL, score), abs=1e-12)


@pytest.mark.parametrize("name", ["accuracy", "roc_auc", "f1", "log_loss"])
def test_on_the_reference_itself_with_several_classes_too(name):
    logits = RANDOM.normal(size=(900, 3))
    score = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = (score.cumsum(axis=1) < RANDOM.random((900, 1))).sum(axis=1)
    found = cbpe(y, score, score, metric=name)
    assert found.value == pytest.approx(metric(name)(y * 1.0, score), abs=1e-12)


@pytest.mark.parametrize("name", ["accuracy", "recall", "precision", "f1", "roc_auc"])
def test_the_expected_metric_is_that_of_many_drawn_labels(name):
    p = np.repeat([0.1, 0.4, 0.6, 0.9], 500)
    y = np.concatenate([np.arange(500) < 500 * q for q in (0.1, 0.4, 0.6, 0.9)])
    window = np.repeat([0.1, 0.4, 0.6, 0.9], [400, 100, 300, 200])
    drawn = [metric(name)((RANDOM.random(1000) < window) * 1.0, window) for _ in range(400)]
    found = cbpe(y, p, window, metric=name)
    assert found.value == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 20)
    # The labels that are drawn and, beside them, the error of the reference.
    assert found.standard_error > 0.9 * np.std(drawn)


def test_the_order_and_the_scale_of_scores_do_not_matter():
    window = RANDOM.random(300)
    found = cbpe(LABEL, SCORE, window)
    order = RANDOM.permutation(300)
    for other in (
        cbpe(LABEL, SCORE, window[order]),
        cbpe(LABEL, 2 * SCORE + 3, 2 * window + 3),
    ):
        assert other.value == pytest.approx(found.value, abs=1e-9)
        assert other.lower == pytest.approx(found.lower, abs=1e-6)


def test_scores_beyond_the_reference_are_told():
    found = cbpe(LABEL, SCORE * 0.5, np.linspace(0, 1, 100), metric="accuracy")
    assert "of the scores are beyond the reference's" in found.reason


def test_certainty_is_never_claimed():
    found = cbpe([0, 1] * 50, [0.2, 0.8] * 50, [0.2, 0.8] * 20, metric="accuracy")
    assert found.value == 1.0
    assert found.lower < 1.0


@pytest.mark.parametrize("rows", [0, 1, 19])
def test_too_few_rows_are_unknown(rows):
    found = cbpe(LABEL, SCORE, SCORE[:rows])
    assert (found.kind, found.value) == ("unknown", None)
    assert f"{rows} rows, 20 are wanted" in found.reason


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"scores": [float("nan")] * 30}, EvaluationError, "30 of 30 values are NaN"),
        ({"scores": ["a"] * 30}, EvaluationError, "cannot be read as numbers"),
        ({"scores": np.ones((30, 3)) / 3}, EvaluationError, "have shape"),
        ({"reference_labels": np.zeros(2000)}, EvaluationError, "has the labels"),
        ({"reference_labels": np.full(2000, 2)}, EvaluationError, "has the labels"),
        ({"reference_labels": LABEL[:5]}, EvaluationError, "rows"),
        ({"clusters": [1, 2]}, EvaluationError, "clusters have shape"),
        ({"metric": "mae"}, SpecError, "fit_loss_model"),
        ({"metric": "ece"}, SpecError, "without labels"),
        ({"metric": Metric("mine", lambda y, s, w=None: 0.0)}, SpecError, "without labels"),
        ({"metric": "log_loss", "scores": np.arange(30.0)}, EvaluationError, "probabilities"),
        ({"confidence": 95}, SpecError, "confidence is 95"),
    ],
)
def test_what_cannot_be_estimated_says_why(change, error, says):
    given = {"reference_labels": LABEL, "reference_scores": SCORE, "scores": SCORE[:30]} | change
    with pytest.raises(error, match=says):
        cbpe(**given)


# The error of a regression


def regression(rows, *, wide=1.0, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 2))
    score = x.sum(axis=1)
    return x, score + wide * np.exp(0.5 * x[:, 0]) * random.normal(size=rows), score


@pytest.mark.parametrize("name", ["mae", "mse", "rmse", "pinball@0.9"])
def test_a_loss_model_says_what_labels_show(name):
    x, y, score = regression(3000)
    known = fit_loss_model(x, y, score, metric=name)
    x, y, score = regression(1000, seed=1)
    found = known.estimate(x, score, confidence=0.999)
    assert found.lower < metric(name)(y, score) < found.upper
    assert found.upper - found.lower < found.value


def test_a_loss_model_follows_harder_rows():
    x, y, score = regression(3000)
    known = fit_loss_model(x, y, score)
    hard = x[:, 0] > 0.5
    assert known.estimate(x[hard], score[hard]).lower > known.estimate(x[~hard], score[~hard]).upper


def test_what_a_loss_model_cannot_do_says_why():
    x, y, score = regression(200)
    for name in ("r2", "accuracy", "roc_auc"):
        with pytest.raises(SpecError, match="cannot be estimated"):
            fit_loss_model(x, y, score, metric=name)
    known = fit_loss_model(x, y, score)
    with pytest.raises(EvaluationError, match="1 features"):
        known.estimate(x[:, :1], score)
    with pytest.raises(EvaluationError, match="features have shape"):
        known.estimate(x[:-1], score)
    with pytest.raises(EvaluationError, match="cannot be read"):
        fit_loss_model([["a"]] * 200, y, score)
    with pytest.raises(EvaluationError, match="at least 10"):
        fit_loss_model(x[:5], y[:5], score[:5])
    assert known.estimate(x[:1], score[:1]).kind == "unknown"


# The gap

EXPECTED = Performance(
    kind="estimated", metric="auc", value=0.8, standard_error=0.01, confidence=0.95, reason=""
)


def seen(value):
    return Performance(kind="realised", metric="auc", value=value, reason="")


def test_a_gap_beyond_chance_and_margin_is_drift():
    assert not gap(EXPECTED, seen(0.785)).drifted
    assert gap(EXPECTED, seen(0.77)).drifted
    assert gap(EXPECTED, seen(0.83)).drifted
    assert not gap(EXPECTED, seen(0.77), margin=0.02).drifted
    few = replace(EXPECTED, freedom=2)
    assert not gap(few, seen(0.77)).drifted


def test_a_gap_waits_for_labels_and_refuses_what_does_not_belong_together():
    waits = Performance(kind="unknown", metric="auc", reason="labels come in May")
    found = gap(EXPECTED, waits)
    assert (found.value, found.drifted) == (None, False)
    assert found.reason == "auc is not known: labels come in May"
    with pytest.raises(DataError, match="one metric and one window"):
        gap(EXPECTED, replace(seen(0.8), metric="f1"))


# The sequence


def test_the_alarm_is_where_a_seeded_change_is_seen_and_looks_do_not_move_it():
    random = np.random.default_rng(0)
    before = random.random(3000) < 0.1
    after = np.concatenate([random.random(4000) < 0.1, random.random(4000) < 0.25])
    found = loss_sequence(before, after)
    assert 4000 < found.alarm < 4600
    assert loss_sequence(before, after[: found.alarm + 1]).alarm == found.alarm
    assert loss_sequence(before, after[: found.alarm]).alarm is None
    assert found.lower > found.allowed


@settings(max_examples=40, deadline=None)
@given(scale=st.floats(0.01, 100), offset=st.floats(-50, 50), seed=st.integers(0, 50))
def test_the_scale_of_losses_does_not_matter(scale, offset, seed):
    random = np.random.default_rng(seed)
    before, after = random.exponential(size=200), random.exponential(1.6, size=2000)
    one = loss_sequence(before, after)
    other = loss_sequence(before * scale + offset, after * scale + offset)
    assert one.alarm == other.alarm
    assert one.lower * scale + offset == pytest.approx(other.lower, rel=1e-5, abs=1e-5 * scale)


def test_the_lower_bound_denies_what_the_alarm_denies():
    random = np.random.default_rng(5)
    for seed in range(20):
        after = np.random.default_rng(seed).random(1500) < 0.16
        found = loss_sequence(random.random(1000) < 0.1, after)
        assert found.drifted == (found.lower >= found.allowed)


def test_no_loss_at_all_denies_nothing():
    found = loss_sequence(np.random.default_rng(0).random(1000), np.zeros(50))
    assert (found.alarm, found.lower) == (None, found.bounds[0])


def test_a_margin_is_room_for_what_does_not_matter():
    random = np.random.default_rng(0)
    before, after = random.random(3000) < 0.1, random.random(5000) < 0.15
    assert loss_sequence(before, after).drifted
    assert not loss_sequence(before, after, margin=0.06).drifted


def test_clusters_count_as_one_loss_each_in_the_order_they_came():
    losses = np.repeat(np.linspace(0, 1, 30), 10)
    days = np.repeat(np.arange(30)[::-1], 10)
    found = loss_sequence(losses, losses, reference_clusters=days, clusters=days)
    assert found.units == 30


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"reference": [0.1] * 5}, EvaluationError, "has 5 losses"),
        ({"reference": [0.1] * 50}, EvaluationError, "between 0.1 and 0.1"),
        ({"current": [float("nan")]}, EvaluationError, "1 values are NaN"),
        ({"current": [[0.1]]}, EvaluationError, "shape"),
        ({"current": ["a"]}, EvaluationError, "cannot be read"),
        ({"clusters": [1]}, SpecError, "one side only"),
        ({"alpha": 0}, SpecError, "alpha is 0"),
        ({"margin": -1}, SpecError, "margin -1"),
    ],
)
def test_a_sequence_that_cannot_be_says_why(change, error, says):
    given = {"reference": np.linspace(0, 1, 50), "current": [0.5]} | change
    with pytest.raises(error, match=says):
        loss_sequence(**given)


def test_no_loss_yet_is_no_alarm():
    found = loss_sequence(np.linspace(0, 1, 50), [])
    assert (found.units, found.alarm, found.lower) == (0, None, found.bounds[0])


def test_a_calibration_serves_many_windows():
    known = calibrate(LABEL, SCORE)
    assert estimate(known, SCORE[:500]) == cbpe(LABEL, SCORE, SCORE[:500])


def test_a_confidence_and_scores_that_are_none_are_named():
    y, s = [0, 1] * 50, [0.25, 0.75] * 50
    with pytest.raises(SpecError, match="confidence is 'a'"):
        mlct.cbpe(y, s, s, confidence="a")
    with pytest.raises(EvaluationError, match=r"the scores are 0\.5"):
        mlct.cbpe(y, s, 0.5)
