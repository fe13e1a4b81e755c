"""Holdout honesty: looks share one level, and the best of many is not confirmed where chosen."""

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import binom

from mlct.errors import EvaluationError, SpecError
from mlct.evaluation.decision import percent
from mlct.evaluation.metric import metric
from mlct.evaluation.selection import level, select, shared, spent


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_all_looks_together_cost_no_more_than_the_level(alpha):
    total = sum(1 - spent(alpha, look) for look in range(1, 20_000))
    assert 0.999 * alpha < total <= alpha


def test_every_look_costs_less_than_the_one_before():
    levels = [spent(0.05, look) for look in range(1, 50)]
    assert levels == sorted(levels)
    assert len(set(levels)) == len(levels)


def test_who_looks_twenty_times_at_noise_rarely_wins():
    needed = np.array([float(ndtri(spent(0.05, look))) for look in range(1, 21)])
    luck = np.random.default_rng(0).normal(size=(20_000, 20))
    assert (luck > needed).any(axis=1).sum() <= binom(20_000, 0.05).ppf(0.999)
    assert (luck > ndtri(0.95)).any(axis=1).mean() > 0.6  # without spending


def test_a_look_nobody_counts_has_the_level_declared():
    assert level(0.95, None) == 0.95
    assert level(0.95, 1) == pytest.approx(0.96)


@pytest.mark.parametrize("looks", [1, 2, 5, 20, 1000])
def test_a_level_is_never_told_as_certainty(looks):
    told = percent(level(0.95, looks))
    assert float(told.removesuffix(" %")) < 100
    assert (percent(0.95), percent(level(0.95, 2))) == ("95 %", "99.39 %")


def test_several_rules_share_the_level():
    assert shared(0.95, 1) == 0.95
    assert shared(0.95, 5) == pytest.approx(0.99)


@pytest.mark.parametrize("looks", [0, -1, 1.5, True, None])
def test_looks_are_counted_from_one(looks):
    with pytest.raises(EvaluationError, match="looks"):
        spent(0.05, looks)


@pytest.mark.parametrize("alpha", [0, 0.6, float("nan")])
def test_there_must_be_a_level_to_spend(alpha):
    with pytest.raises(EvaluationError, match="alpha"):
        spent(alpha, 1)


def test_the_best_of_the_candidates_is_selected_whichever_way_better_points():
    y = np.array([0, 1, 0, 1])
    scores = {
        "near": [0.4, 0.6, 0.4, 0.6],
        "far": [0.1, 0.9, 0.1, 0.9],
        "bad": [0.9, 0.1, 0.9, 0.1],
    }
    assert select(y, scores, "log_loss") == "far"
    assert select(y, scores, "roc_auc") == "near"  # the first of equals


def test_what_cannot_be_selected_is_refused():
    with pytest.raises(EvaluationError, match="no candidate"):
        select([0, 1], {}, "roc_auc")
    with pytest.raises(SpecError, match="auc"):
        select([0, 1], {"a": [0.1, 0.2]}, "auc")


def test_the_best_of_many_looks_better_than_it_is_where_it_was_chosen():
    """Why the gate wants a window that nobody selected on."""
    random, gains = np.random.default_rng(4), []
    for _ in range(40):
        y = random.integers(2, size=1200)
        scores = {str(k): y + 2 * random.normal(size=1200) for k in range(10)}
        best = select(y[:600], {k: s[:600] for k, s in scores.items()}, "roc_auc")

        auc = metric("roc_auc")
        gains.append(auc(y[:600], scores[best][:600]) - auc(y[600:], scores[best][600:]))
    assert np.mean(gains) > 0.01
