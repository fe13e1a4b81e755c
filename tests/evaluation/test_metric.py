"""Metrics by name: the values are scikit-learn's, the directions and errors ours."""

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from mlct.errors import SpecError
from mlct.evaluation.metric import METRICS, Metric, metric

BINARY = {
    "roc_auc": lambda y, s, w: sk.roc_auc_score(y, s, sample_weight=w),
    "average_precision": lambda y, s, w: sk.average_precision_score(y, s, sample_weight=w),
    "log_loss": lambda y, s, w: sk.log_loss(y, s, sample_weight=w, labels=[0, 1]),
    "brier": lambda y, s, w: sk.brier_score_loss(y, s, sample_weight=w),
    "accuracy": lambda y, s, w: sk.accuracy_score(y, s >= 0.5, sample_weight=w),
    "f1": lambda y, s, w: sk.f1_score(y, s >= 0.5, sample_weight=w, zero_division=0),
    "recall": lambda y, s, w: sk.recall_score(y, s >= 0.5, sample_weight=w),
    "precision": lambda y, s, w: sk.precision_score(y, s >= 0.5, sample_weight=w, zero_division=0),
}
REGRESSION = {
    "rmse": lambda y, s, w: sk.root_mean_squared_error(y, s, sample_weight=w),
    "mae": lambda y, s, w: sk.mean_absolute_error(y, s, sample_weight=w),
    "mse": lambda y, s, w: sk.mean_squared_error(y, s, sample_weight=w),
    "r2": lambda y, s, w: sk.r2_score(y, s, sample_weight=w),
}


MULTICLASS = {
    "roc_auc": lambda y, s, w: sk.roc_auc_score(
        y, s, sample_weight=w, multi_class="ovr", average="macro"
    ),
    "average_precision": lambda y, s, w: sk.average_precision_score(y, s, sample_weight=w),
    "log_loss": lambda y, s, w: sk.log_loss(y, s, sample_weight=w),
    "brier": lambda y, s, w: sk.brier_score_loss(y, s, sample_weight=w),
    "accuracy": lambda y, s, w: sk.accuracy_score(y, s.argmax(axis=1), sample_weight=w),
    **{
        name: lambda y, s, w, of=of: of(
            y, s.argmax(axis=1), sample_weight=w, average="macro", zero_division=0
        )
        for name, of in (
            ("f1", sk.f1_score),
            ("recall", sk.recall_score),
            ("precision", sk.precision_score),
        )
    },
}


def _rows(seed: int, decimals: int, rows: int = 200):
    """Labels and scores of which many are tied when `decimals` is small; both classes occur."""
    random = np.random.default_rng(seed)
    y = (random.random(rows) < 0.3) * 1
    y[:2] = 0, 1
    return y, random.random(rows).round(decimals), random.random(rows) + 0.1


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", BINARY)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), decimals=st.sampled_from([1, 2, 15]))
def test_binary_metrics_equal_scikit_learn(name, weighted, seed, decimals):
    y, s, w = _rows(seed, decimals)
    w = w if weighted else None
    assert metric(name)(y, s, w) == pytest.approx(BINARY[name](y, s, w), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", REGRESSION)
def test_regression_metrics_equal_scikit_learn(name, weighted):
    y, s, w = _rows(3, 15)
    y, w = 1e4 + 100 * y + s * 7, w if weighted else None
    found = metric(name)(y, y + s, w)
    assert found == pytest.approx(REGRESSION[name](y, y + s, w), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", MULTICLASS)
def test_metrics_of_several_classes_equal_scikit_learn(name, weighted):
    random = np.random.default_rng(4)
    y = random.integers(0, 4, 300)
    s = random.dirichlet(np.ones(4), 300)
    w = random.random(300) + 0.1 if weighted else None
    assert metric(name)(y, s, w) == pytest.approx(MULTICLASS[name](y, s, w), rel=1e-12)


def test_every_metric_of_several_classes_has_an_oracle():
    assert {name for name, entry in METRICS.items() if entry.multiclass} == set(MULTICLASS)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_pinball_loss_equals_scikit_learn(quantile, weighted):
    y, s, w = _rows(3, 15)
    y, w = s + np.random.default_rng(0).normal(size=len(s)), w if weighted else None
    found = metric(f"pinball@{quantile}")(y, s, w)
    oracle = sk.mean_pinball_loss(y, s, sample_weight=w, alpha=quantile)
    assert found == pytest.approx(oracle, rel=1e-12)


@pytest.mark.parametrize(("name", "k"), [("precision_at@0.1", 20), ("precision_at@7", 7)])
def test_precision_at_k_is_the_precision_of_the_k_highest_scores(name, k):
    y, s, _ = _rows(2, 15)
    called = s >= np.sort(s)[-k]
    assert metric(name)(y, s) == pytest.approx(sk.precision_score(y, called), rel=1e-12)


def test_precision_at_k_is_the_mean_over_the_orders_of_tied_rows():
    y, s = np.array([1, 0, 1, 0, 0, 1]), np.array([0.9, 0.5, 0.5, 0.5, 0.5, 0.1])
    assert metric("precision_at@3")(y, s) == pytest.approx((1 + 2 * 1 / 4) / 3)
    assert metric("precision_at@100")(y, s) == 0.5


@pytest.mark.parametrize("precision", [0.1, 0.3, 0.35, 0.5, 0.999])
@pytest.mark.parametrize("decimals", [1, 2, 15])
def test_recall_at_precision_is_the_best_point_of_scikit_learns_curve(decimals, precision):
    y, s, w = _rows(5, decimals)
    of_curve, recall, _ = sk.precision_recall_curve(y, s, sample_weight=w)
    found = metric(f"recall_at_precision@{precision}")(y, s, w)
    assert found == pytest.approx(recall[:-1][of_curve[:-1] >= precision].max(initial=0), rel=1e-12)


def test_scores_of_zero_and_one_have_a_finite_log_loss():
    y, s = [0, 1, 1, 0], [0.0, 1.0, 0.0, 1.0]
    assert metric("log_loss")(y, s) == pytest.approx(sk.log_loss(y, s), rel=1e-12)


def test_constant_scores_have_an_auc_of_one_half():
    assert metric("roc_auc")([0, 1, 1, 0, 0], [0.3] * 5) == 0.5


def test_calibration_error_is_the_mass_weighted_gap_of_equal_mass_bins():
    y, s, _ = _rows(5, 15, rows=3000)
    order = np.argsort(s)
    by_hand = sum(abs((y[rows] - s[rows]).sum()) / len(y) for rows in np.array_split(order, 15))
    assert metric("ece")(y, s) == pytest.approx(by_hand, rel=1e-12)


def test_calibration_error_of_tied_scores_does_not_depend_on_row_order():
    y, s, _ = _rows(6, 1)
    shuffled = np.random.default_rng(0).permutation(len(y))
    assert metric("ece")(y, s) == pytest.approx(metric("ece")(y[shuffled], s[shuffled]))


def test_whole_weights_equal_repeated_rows():
    y, s, _ = _rows(7, 2)
    times = np.random.default_rng(1).integers(0, 4, len(y))
    for name in set(METRICS) - {"ece"}:  # its bins hold equal numbers of rows, not of weight
        repeated = metric(name)(np.repeat(y, times), np.repeat(s, times))
        assert metric(name)(y, s, times) == pytest.approx(repeated, rel=1e-10), name


def test_a_threshold_in_the_name_moves_the_threshold():
    y, s, _ = _rows(8, 15)
    assert metric("recall@0.3")(y, s) == sk.recall_score(y, s >= 0.3)
    assert metric("recall@0.3").name == "recall@0.3"
    assert metric("recall@0.5")(y, s) == metric("recall")(y, s)


@pytest.mark.parametrize("name", METRICS)
def test_weights_of_one_change_nothing(name):
    y, s, _ = _rows(9, 2)
    assert metric(name)(y, s, np.ones(len(y))) == pytest.approx(metric(name)(y, s), rel=1e-12)


def test_the_number_of_rows_keeps_its_digits_in_the_name():
    assert metric("precision_at@1234567").name == "precision_at@1234567"
    assert metric("precision_at@0.1").name == "precision_at@0.1"


@pytest.mark.parametrize(
    "name",
    ["rocauc", "pinball@1", "precision_at@1.5", "recall@2", "recall@x", "roc_auc@0.5", 7, None, ""],
)
def test_an_unknown_metric_is_refused_with_the_known_names(name):
    with pytest.raises(SpecError, match="roc_auc, average_precision, log_loss") as refused:
        metric(name)
    assert repr(name) in str(refused.value)
    assert refused.value.known == tuple(METRICS)


@pytest.mark.parametrize(("name", "meant"), [("auc", "roc_auc"), ("Recal@0.3", "recall")])
def test_a_misspelt_metric_is_told_the_nearest(name, meant):
    with pytest.raises(SpecError, match=rf"precision_at@0\.1, .*Did you mean {meant}\?"):
        metric(name)


def test_a_metric_of_ones_own_is_taken_as_it_is():
    own = Metric("spread", lambda y, s, w=None: float(np.ptp(s)), bigger_is_better=False)
    assert metric(own) is own
    assert own([0, 1], [0.25, 0.75]) == 0.5
    assert own.sign == -1


@pytest.mark.parametrize(("name", "function"), [("", len), (3, len), ("x", 3)])
def test_a_metric_without_name_or_function_is_refused(name, function):
    with pytest.raises(SpecError):
        Metric(name, function)


@pytest.mark.parametrize("function", [lambda y, s: 1.0, lambda y, s, *, weights=None: 1.0])
def test_a_function_that_cannot_take_weights_is_refused_when_declared(function):
    with pytest.raises(SpecError, match="does not take three arguments"):
        Metric("odd", function)


def test_losses_and_errors_are_better_when_smaller():
    smaller = {name for name, entry in METRICS.items() if not entry.bigger_is_better}
    assert smaller == {"log_loss", "brier", "ece", "rmse", "mae", "mse", "pinball"}
