"""Error rates of performance monitoring under repeated sampling: a fast part of `benchmarks.cbpe`.

Seeded; a count must lie inside the limits that a right rate leaves in 999 of 1,000 cases.
"""

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks.cbpe import cohorts_refused, covered, losses_covered, scored, sequence_alarms
from mlct.monitoring.performance import calibrate, estimate

WORLDS = 60


@pytest.mark.parametrize(
    ("metric", "how"),
    [
        ("roc_auc", {"reference": 5000, "rows": 2000}),
        ("average_precision", {"reference": 2000, "rows": 1000}),
        ("accuracy", {"reference": 5000, "rows": 2000, "shift": 1.0}),
        ("f1", {"reference": 2000, "rows": 1000}),
        ("log_loss", {"reference": 2000, "rows": 1000}),
        ("roc_auc", {"reference": 3000, "rows": 1500, "days": 60}),
        ("accuracy", {"reference": 3000, "rows": 1500, "days": 60}),
        ("roc_auc", {"reference": 2000, "rows": 1000, "classes": True}),
        ("accuracy", {"reference": 2000, "rows": 1000, "classes": True}),
    ],
    ids=str,
)
def test_the_interval_of_an_estimate_holds_what_labels_show_in_19_of_20_worlds(metric, how):
    inside, error, se, drifted = covered(metric, WORLDS, **how).T
    assert inside.sum() >= binom(WORLDS, 0.94).ppf(0.001)
    assert drifted.sum() <= binom(WORLDS, 0.06).ppf(0.999)
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(WORLDS)
    assert 0.6 < se.mean() / error.std() < 1.6


def test_a_small_reference_does_not_flatter():
    _, error, _, _ = covered("roc_auc", WORLDS, reference=500, rows=1000).T
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(WORLDS)


def test_days_taken_for_independent_rows_make_the_interval_too_narrow():
    aware = covered("accuracy", 30, reference=3000, rows=1500, days=20)[:, 2].mean()
    blind = covered("accuracy", 30, reference=3000, rows=1500)[:, 2].mean()
    assert aware > 1.4 * blind


def test_the_days_of_the_window_widen_the_interval_as_the_reference_s_days_say():
    random = np.random.default_rng(0)
    known = calibrate(*(reference := scored(random, 6000, days=60))[:2], clusters=reference[2])
    _, score, day = scored(random, 3000, days=10)
    aware, blind = (
        estimate(known, score, metric="accuracy", clusters=c).standard_error for c in (day, None)
    )
    assert aware > 1.4 * blind


def test_concept_drift_deceives_the_estimate_and_shows_in_the_gap():
    inside, error, _, drifted = covered("accuracy", 30, reference=5000, rows=2000, flip=0.1).T
    assert error.mean() > 0.04
    assert inside.mean() < 0.1
    assert drifted.mean() > 0.9


@pytest.mark.parametrize("days", [0, 50])
def test_the_interval_of_an_estimated_loss_holds_what_labels_show(days):
    inside, error, _ = losses_covered(50, days=days).T
    assert inside.sum() >= binom(50, 0.91).ppf(0.001)
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(50)


@pytest.mark.parametrize("kind", ["binary", "exponential"])
@pytest.mark.parametrize("days", [0, 80])
def test_a_sequence_of_equal_losses_alarms_in_at_most_one_of_twenty_worlds(kind, days):
    false, _ = sequence_alarms(60, rows=8000, kind=kind, days=days)
    assert false <= binom(60, 0.05).ppf(0.999)


@pytest.mark.parametrize(("days", "within"), [(0, 1000), (100, 40)])
def test_a_doubled_error_rate_is_seen_soon(days, within):
    false, delays = sequence_alarms(20, rows=10_000, jump=0.2, at=5000, days=days)
    assert false == 0
    assert len(delays) == 20
    assert np.median(delays) < within


def test_labels_that_arrive_at_random_are_seldom_refused():
    assert cohorts_refused(60, "none") <= binom(60, 0.01).ppf(0.999)


@pytest.mark.parametrize("bias", ["class", "score"])
def test_a_biased_early_cohort_is_refused(bias):
    assert cohorts_refused(15, bias) >= 14
