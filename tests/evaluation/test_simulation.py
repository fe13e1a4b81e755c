"""Error rates of the gate under repeated sampling: the fast part of `benchmarks.gate_simulation`.

Seeded; a count must lie inside the limits that a right rate leaves in 999 of 1,000 cases.
"""

import pytest
from scipy.stats import binom

from benchmarks.gate_simulation import World, called_better, clustered, verdicts, year

UNEQUAL = "one in ten is ninefold"


def test_of_forty_equal_challengers_at_most_five_pass():
    passed, at_least = verdicts(World(sizes=(1000,)), 40)
    assert passed <= 5
    low, high = binom(40, 0.5).ppf([0.0005, 0.9995])
    assert low <= at_least <= high


@pytest.mark.parametrize(
    ("metric", "world"),
    [
        ("roc_auc", World(sizes=(1000,))),
        ("log_loss", World(sizes=(1000,))),
        ("roc_auc", World(sizes=(3000,), positives=0.01)),
        ("log_loss", World(sizes=(3000,), positives=0.01)),
        ("roc_auc", clustered(30, 1500)),
        ("log_loss", clustered(30, 1500)),
        ("roc_auc", clustered(10, 600)),
        ("roc_auc", clustered(10, 600, UNEQUAL)),
        ("log_loss", clustered(10, 600, UNEQUAL)),
        ("roc_auc", clustered(20, 6000, "log-normal days", positives=0.01)),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value.sizes)} clusters",
)
def test_an_equal_model_is_called_better_in_at_most_one_of_twenty_worlds(metric, world):
    assert called_better(world, metric, 400) <= binom(400, 0.05).ppf(0.999)


def test_a_bootstrap_over_days_keeps_its_level():
    assert called_better(clustered(15, 600), "average_precision", 150) <= binom(150, 0.05).ppf(
        0.999
    )


def test_days_taken_for_independent_rows_do_not():
    wrong = called_better(clustered(10, 1500), "roc_auc", 100, clusters=None)
    assert wrong > binom(100, 0.05).ppf(0.9999)


@pytest.mark.parametrize(("rows", "power"), [(1000, 0.2), (5000, 0.7), (20_000, 1.0)])
def test_a_gain_of_one_hundredth_is_seen_as_often_as_the_rows_allow(rows, power):
    found = called_better(World(sizes=(rows,)), "roc_auc", 100, gain=0.01)
    low, high = binom(100, power).ppf([0.0005, 0.9995])
    assert low <= found <= high


def test_the_best_of_ten_is_seldom_wrong_where_nobody_selected():
    fresh = World(sizes=(3000,), agreement=0.97)
    years = [
        year(fresh, candidates=10, confirm=confirm, min_effect=0.001, seed=seed)
        for confirm in (True, False)
        for seed in range(5)
    ]
    false = [wrong for _, wrong in years]
    assert sum(false[:5]) / 5 < 0.5
    assert sum(false[:5]) < sum(false[5:])
