"""Gaps between groups: values by hand, bounds by repeated sampling, fairlearn as oracle."""

import numpy as np
import pytest
from scipy import stats

from mlct.errors import EvaluationError, SpecError
from mlct.evaluation.guardrail import group_gap
from mlct.evaluation.metric import METRICS, Metric


def _called(random, recalls, rows, clusters=None, spread=0.0):
    """Groups whose true recall is given; rows of a cluster share a swing of their recall."""
    group = random.integers(len(recalls), size=rows)
    codes = None if clusters is None else random.integers(clusters, size=rows)
    swing = 0 if codes is None else spread * random.choice([-1, 1], size=clusters)[codes]
    y = (random.random(rows) < 0.4) * 1.0
    score = np.where(random.random(rows) < np.array(recalls)[group] + swing, 0.9, 0.1)
    return y, score, group, codes


def test_the_gap_is_the_largest_less_the_smallest_value():
    y, score, group, _ = _called(np.random.default_rng(0), [0.5, 0.7, 0.6], 3000)
    found = group_gap(y, score, group, "recall", by="carrier")
    by_hand = {str(g): score[(group == g) & (y == 1)].round().mean() for g in range(3)}
    assert found.groups == pytest.approx(by_hand)
    assert found.value == pytest.approx(max(by_hand.values()) - min(by_hand.values()))
    assert found.lower < found.value < found.upper


def test_small_groups_are_named_and_not_judged():
    y, score, group, _ = _called(np.random.default_rng(0), [0.5, 0.5, 0.5], 3000)
    names = np.array(["AA", "UA", "HA"])[group]
    names[np.flatnonzero(names == "HA")[5:]] = "AA"
    found = group_gap(y, score, names, "recall")
    assert found.too_small == ("HA",)
    assert set(found.groups) == {"AA", "UA"}


@pytest.mark.parametrize(
    ("sizes", "times"), [((400, 50, 20), 2.0), ((40, 20), 5.0), ((400, 100), None), ((400,), None)]
)
def test_a_gap_of_too_few_rows_says_how_many_times_as_many_it_takes(sizes, times):
    groups = np.repeat([f"g{i}" for i in range(len(sizes))], sizes)
    y = np.arange(len(groups)) % 2
    found = group_gap(y, np.linspace(0.1, 0.9, len(y)), groups, "accuracy", min_group=100)
    assert found.times == times


def test_what_counts_for_recall_are_the_positives():
    y, score = np.zeros(2000), np.full(2000, 0.9)
    y[:150], y[-50:] = 1, 1
    group = np.repeat(["many", "few"], 1000)
    assert group_gap(y, score, group, "recall").too_small == ("few",)
    assert group_gap(y, score, group, "brier").too_small == ()


def test_with_one_group_left_there_is_no_gap_to_judge():
    y, score, _, _ = _called(np.random.default_rng(0), [0.5], 500)
    found = group_gap(y, score, ["all"] * 500, "recall")
    assert np.isnan([found.value, found.lower, found.upper]).all()


def test_a_group_seen_in_one_cluster_has_no_bound():
    y, score, group, _ = _called(np.random.default_rng(0), [0.5, 0.5], 2000)
    clusters = np.where(group == 0, 0, np.arange(2000) % 20)
    assert np.isnan(group_gap(y, score, group, "recall", clusters=clusters).upper)


@pytest.mark.parametrize("name", ["roc_auc", "log_loss", "precision", "ece", "rmse"])
def test_any_metric_can_be_compared_between_groups(name):
    y, score, group, codes = _called(np.random.default_rng(1), [0.3, 0.8], 3000, 20)
    score = np.clip(score + 0.05 * y, 0, 1)
    found = group_gap(y, score, group, name, clusters=codes)
    each = [METRICS[name](y[group == g], score[group == g]) for g in (0, 1)]
    assert found.value == pytest.approx(abs(each[0] - each[1]))
    assert found.lower <= found.value <= found.upper


def test_the_error_of_two_groups_is_that_of_two_proportions():
    y, score, group, _ = _called(np.random.default_rng(2), [0.5, 0.8], 3000)
    found = group_gap(y, score, group, "recall")
    sizes = [((group == g) & (y == 1)).sum() for g in (0, 1)]
    parts = [found.groups[str(g)] * (1 - found.groups[str(g)]) / sizes[g] for g in (0, 1)]
    exact = found.value + stats.norm.ppf(0.95) * np.sqrt(sum(parts))
    assert found.upper == pytest.approx(exact, abs=0.004)


def test_few_clusters_widen_the_bounds_of_a_gap():
    found_of_ten = np.array([9, 5, 8, 6, 9])  # of group a, in each of five clusters
    one = np.concatenate([np.arange(10) < found for found in found_of_ten])
    score = np.where(np.concatenate([one, np.arange(50) % 2 == 0]), 0.9, 0.1)
    group, clusters = np.repeat(["a", "b"], 50), np.tile(np.repeat(np.arange(5), 10), 2)
    found = group_gap(np.ones(100), score, group, "recall", clusters=clusters, min_group=50)
    error = (found_of_ten / 10).std(ddof=1) / np.sqrt(5)  # group b is found alike everywhere
    reach = stats.t(4).ppf(0.95) * error
    assert found.upper - found.value == pytest.approx(reach, rel=0.05)


@pytest.mark.parametrize(
    ("recalls", "clusters", "spread"),
    [([0.5, 0.5, 0.5, 0.5], None, 0.0), ([0.45, 0.55, 0.5], 20, 0.3), ([0.4, 0.6], 20, 0.3)],
)
def test_the_bounds_of_a_gap_hold(recalls, clusters, spread):
    random, worlds = np.random.default_rng(11), 80 if clusters else 15
    true, missed = max(recalls) - min(recalls), np.zeros(2)
    for _ in range(worlds):
        y, score, group, codes = _called(random, recalls, 1500, clusters, spread)
        found = group_gap(y, score, group, "recall", clusters=codes, min_group=50)
        missed += (found.upper < true, found.lower > true)
    assert (missed <= stats.binom(worlds, 0.05).ppf(0.999)).all()


def test_a_metric_that_is_undefined_in_a_group_leaves_the_gap_undefined():
    def ratio(y, s, w=None):
        return float("nan") if s[0] < 0.5 else 1.0

    score, group = np.repeat([0.2, 0.8], 200), np.repeat(["a", "b"], 200)
    found = group_gap(np.arange(400) % 2, score, group, Metric("ratio", ratio))
    assert np.isnan([found.value, found.upper]).all()


def test_groups_of_another_length_are_refused():
    with pytest.raises(EvaluationError, match="carrier"):
        group_gap([0, 1], [0.1, 0.9], ["a"], "recall", by="carrier")


CRITERIA = {
    "demographic_parity": "demographic_parity_difference",
    "equal_opportunity": "equal_opportunity_difference",
    "equalised_odds": "equalized_odds_difference",
}


def _unfair(rows=4000):
    """Three groups of which the last is called positive too often, and found less often."""
    random = np.random.default_rng(7)
    group = random.integers(3, size=rows)
    y = (random.random(rows) < 0.4) * 1
    chance = np.where(y == 1, np.array([0.7, 0.6, 0.5])[group], np.array([0.2, 0.2, 0.4])[group])
    return y, np.where(random.random(rows) < chance, 0.9, 0.1), np.array(["AA", "UA", "HA"])[group]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_fairness_criteria_are_gaps_of_rates(criterion):
    y, score, group = _unfair()
    called = score >= 0.5
    rate = {
        "demographic_parity": [np.ones(len(y), dtype=bool)],
        "equal_opportunity": [y == 1],
        "equalised_odds": [y == 1, y == 0],
    }[criterion]
    gaps = [np.ptp([called[of & (group == g)].mean() for g in np.unique(group)]) for of in rate]
    found = group_gap(y, score, group, criterion, by="carrier")
    assert (found.metric, found.by) == (criterion, "carrier")
    assert found.value == pytest.approx(max(gaps))
    assert found.lower < found.value < found.upper


@pytest.mark.parametrize("criterion", CRITERIA)
def test_fairness_criteria_agree_with_fairlearn(criterion):
    oracle = pytest.importorskip("fairlearn.metrics")
    y, score, group = _unfair()
    expected = getattr(oracle, CRITERIA[criterion])(y, score >= 0.5, sensitive_features=group)
    assert group_gap(y, score, group, criterion).value == pytest.approx(expected)


def test_equalised_odds_take_the_larger_gap_and_the_wider_bounds():
    y, score, group = _unfair()
    recall = group_gap(y, score, group, "recall")
    both = group_gap(y, score, group, "equalised_odds")
    assert both.upper >= recall.upper
    assert both.value >= recall.value
    assert "the larger gap:" in both.method


def test_a_group_too_small_for_one_rate_only_is_named_with_it():
    y, score, group = _unfair()
    y[np.flatnonzero((group == "HA") & (y == 1))[5:]] = 0
    assert group_gap(y, score, group, "equalised_odds").too_small == ("HA (recall@0.5)",)


def test_the_threshold_decides_who_is_called():
    y, score, group = _unfair()
    found = group_gap(y, score, group, "demographic_parity", threshold=0.95)
    assert found.metric == "demographic_parity@0.95"
    assert found.value == 0


def test_groups_of_several_columns_are_their_intersections():
    y, score, group = _unfair()
    origin = np.where(np.arange(len(y)) % 2 == 0, "EWR", "JFK")
    found = group_gap(y, score, {"carrier": group, "origin": origin}, "recall")
    assert found.by == "carrier x origin"
    assert set(found.groups) == {f"{c} / {o}" for c in ("AA", "HA", "UA") for o in ("EWR", "JFK")}
    mine = (group == "HA") & (origin == "JFK") & (y == 1)
    assert found.groups["HA / JFK"] == pytest.approx(score[mine].round().mean())


def test_a_fair_model_is_not_said_to_be_unfair():
    random, worlds, missed = np.random.default_rng(5), 30, np.zeros(2)
    for _ in range(worlds):
        y, score, group, codes = _called(random, [0.6, 0.6, 0.6], 1500, 20)
        found = group_gap(y, score, group, "equalised_odds", clusters=codes, min_group=50)
        missed += (found.lower > 0, found.upper < 0)
    assert (missed <= stats.binom(worlds, 0.05).ppf(0.999)).all()


def test_a_criterion_nobody_knows_is_refused():
    with pytest.raises(SpecError, match="equalized_odds"):
        group_gap([0, 1], [0.1, 0.9], ["a", "b"], "equalized_odds")
