"""Calibration: bounds by repeated sampling, and what chance alone adds."""

import numpy as np
import pytest
from scipy import stats

from mlct.evaluation.guardrail import calibration, ece_by_chance, reliability
from mlct.evaluation.metric import METRICS


def test_the_bounds_of_the_calibration_error_hold_where_the_value_is_biased():
    random, worlds, missed = np.random.default_rng(3), 40, np.zeros(2)
    for _ in range(worlds):
        score = random.uniform(0.1, 0.9, 2000)
        y = (random.random(2000) < score + 0.05) * 1.0  # off by 0.05 everywhere
        found = calibration(y, score)
        missed += (found.upper < 0.05, found.lower > 0.05)
    assert (missed <= stats.binom(worlds, 0.05).ppf(0.999)).all()


def test_a_calibrated_model_is_not_said_to_be_off():
    random, worlds = np.random.default_rng(4), 60
    values, above = [], 0
    for _ in range(worlds):
        score = random.uniform(0, 1, 500)
        found = calibration(random.random(500) < score, score)
        values.append(found.value)
        above += found.lower > 0.02
    assert np.mean(values) == pytest.approx(0.055, abs=0.01)  # the bias of a small holdout
    assert above <= stats.binom(worlds, 0.05).ppf(0.999)
    assert found.lower >= 0


@pytest.mark.parametrize("rows", [500, 2000, 10_000])
@pytest.mark.parametrize("weighted", [False, True])
def test_what_chance_adds_is_what_a_calibrated_model_shows(rows, weighted):
    random = np.random.default_rng(rows)
    score = random.beta(2, 5, rows)
    mass = random.gamma(2, 1, rows) if weighted else None
    seen = [METRICS["ece"](random.random(rows) < score, score, mass) for _ in range(200)]
    assert ece_by_chance(score, mass) == pytest.approx(np.mean(seen), rel=0.06)


def test_a_small_holdout_says_so():
    score = np.random.default_rng(0).uniform(0, 1, 500)
    found = reliability(np.random.default_rng(1).random(500) < score, score)
    assert found.by_chance == pytest.approx(0.05, abs=0.01)
    assert "a perfectly calibrated model would show about 0.05" in found.sentence


def test_the_bins_hold_every_row_and_what_was_said_and_seen():
    random = np.random.default_rng(2)
    score = random.uniform(0, 1, 3000)
    y = (random.random(3000) < score**2) * 1
    found = reliability(y, score, clusters=np.arange(3000) % 30)
    assert sum(b.rows for b in found.bins) == 3000
    assert sum(b.rows * abs(b.said - b.seen) for b in found.bins) / 3000 == pytest.approx(
        found.ece.value
    )
    assert all(b.lower <= b.seen <= b.upper for b in found.bins)
    assert found.bins[7].upper < found.bins[7].said  # the model says too much, and it shows


def test_a_bin_in_one_cluster_has_no_bounds():
    score = np.repeat([0.1, 0.9], 100)
    found = reliability(np.arange(200) % 2, score, clusters=np.repeat(["a", "b"], 100))
    assert [(b.lower, b.upper) for b in found.bins] == [(0, 1), (0, 1)]


def test_the_bounds_of_a_bin_hold():
    random, missed = np.random.default_rng(3), 0
    for _ in range(100):
        score = np.repeat([0.2, 0.7], 200)
        first = reliability(random.random(400) < score, score, clusters=np.arange(400) % 40).bins[0]
        missed += first.upper < 0.2
    assert missed <= stats.binom(100, 0.05).ppf(0.999)
