"""Rows that cannot be trusted are refused before any number is computed."""

import numpy as np
import pytest

from mlct.errors import EvaluationError
from mlct.evaluation.holdout import GROUPS, check_metric, check_score, holdout
from mlct.evaluation.metric import metric

Y = [0.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"y_true": [0.0, np.nan, 1.0]}, "y_true: 1 of 3 values are NaN"),
        ({"y_true": [0, None, 1]}, "y_true: 1 of 3 values are NaN"),
        ({"y_true": ["late", "in time"]}, "cannot be read as numbers"),
        ({"y_true": [[0, 1]]}, "shape"),
        ({"y_true": [1]}, "1 rows"),
        ({"y_true": []}, "0 rows"),
        ({"y_true": Y, "weights": [1, 1, 1]}, "weights have 3 rows, the labels 4"),
        ({"y_true": Y, "weights": [1, 1, 1, -1]}, "negative"),
        ({"y_true": Y, "weights": [0, 0, 0, 0]}, "all zero"),
        ({"y_true": Y, "weights": [1, 1, 1, np.inf]}, "infinite"),
        ({"y_true": Y, "clusters": [1, 2, 3]}, "one cluster a row"),
        ({"y_true": Y, "clusters": ["a"] * 4}, "1 cluster"),
        ({"y_true": Y, "clusters": ["a", None, "b", "b"]}, "1 rows have no cluster"),
        ({"y_true": Y, "clusters": [1.0, np.nan, 2.0, 2.0]}, "1 rows have no cluster"),
        (
            {"y_true": Y, "clusters": np.array(["2013-01-01", "NaT"] * 2, "datetime64[D]")},
            "2 rows have no cluster",
        ),
    ],
)
def test_what_cannot_be_trusted_is_refused(arguments, told):
    with pytest.raises(EvaluationError, match=told):
        holdout(**arguments)


@pytest.mark.parametrize(
    "clusters",
    [
        ["b", "a", "b", "a"],
        [9, -5, 9, -5],
        np.array(["2013-02-01", "2013-01-01"] * 2, "datetime64[D]"),
        [True, False, True, False],
    ],
)
def test_clusters_may_be_any_array(clusters):
    rows = holdout(Y, clusters=clusters)
    assert rows.clusters == 2
    assert rows.codes.tolist() == [1, 0, 1, 0]


def test_every_resample_draws_as_many_units_as_there_are():
    rows = holdout(np.zeros(50), clusters=np.arange(50) % 7)
    chunks = list(rows.resamples(2000, seed=0, width=10_000))
    counts = np.concatenate(chunks)
    assert len(chunks) > 1
    assert counts.shape == (2000, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(7), abs=0.1)


def test_resamples_do_not_depend_on_the_chunks():
    rows = holdout(np.zeros(50))
    whole, parts = (
        np.concatenate(list(rows.resamples(100, seed=3, width=width))) for width in (50, 100_000)
    )
    assert (whole == parts).all()


def test_many_independent_rows_are_resampled_in_random_groups_of_equal_size():
    rows = holdout(np.zeros(5 * GROUPS))
    assert (np.bincount(rows.grouped(0).codes) == 5).all()
    assert rows.clusters is None
    few = holdout(np.zeros(100))
    assert few.grouped(0) is few


def test_many_clusters_are_resampled_in_random_groups_of_whole_clusters():
    clusters = np.arange(12 * GROUPS) // 2
    rows = holdout(np.zeros(12 * GROUPS), clusters=clusters).grouped(0)
    assert rows.clusters == GROUPS
    assert (rows.codes[::2] == rows.codes[1::2]).all()
    assert (np.bincount(rows.codes) == 12).all()


@pytest.mark.parametrize(
    ("name", "y", "score", "told"),
    [
        ("log_loss", [0, 1, 2, 3], np.full((4, 3), 1 / 3), "labels 0 to 2, a column for each"),
        ("log_loss", [0, 1, 2, 0.5], np.full((4, 3), 1 / 3), "labels 0 to 2"),
        ("log_loss", [0, 1, 2, 0], np.full((4, 3), 0.4), "sum over classes is off by 0.2"),
        ("roc_auc", [0, 1, 1, 0], np.full((4, 3), 1 / 3), "no row of class 2"),
        ("ece", [0, 1, 1, 0], np.full((4, 2), 0.5), "not defined on classes"),
        ("rmse", [0, 1, 1, 0], np.full((4, 2), 0.5), "not defined on classes"),
        ("roc_auc", [0, 1, 1, 0], np.full((4, 1), 0.5), "shape"),
        ("roc_auc", [0, 1, 2, 0], np.full(4, 0.5), "labels 0 and 1"),
    ],
)
def test_probabilities_of_classes_are_checked_against_the_labels(name, y, score, told):
    rows = holdout(y)
    with pytest.raises(EvaluationError, match=told):
        check_metric(metric(name), rows, {"m": check_score("m", score, rows)})
