"""Leakage suspects: what tells the label alone, and what was only known with it."""

import numpy as np
import pytest

from mlct.evaluation.leakage import leakage_suspects

ROWS = 2000
RANDOM = np.random.default_rng(0)
Y = (RANDOM.random(ROWS) < 0.3) * 1
NOISE = RANDOM.normal(size=ROWS)


def named(columns, y=Y, **changes):
    return [s.column for s in leakage_suspects(y, columns, **changes)]


@pytest.mark.parametrize(
    ("values", "suspect"),
    [
        (Y * 20.0 + NOISE, True),
        (-20.0 * Y + NOISE, True),  # either direction
        (Y.astype(bool), True),
        (np.where(Y == 1, NOISE, np.nan), True),  # missing where the label is 0
        (np.where(RANDOM.random(ROWS) < 0.5, Y * 20.0, np.nan), True),  # half of it known
        (np.where(Y == 1, "late", "on time"), True),
        (Y + NOISE, False),
        (NOISE, False),
        (np.full(ROWS, 3.0), False),
        (np.full(ROWS, np.nan), False),
        (np.arange(ROWS).astype(str), False),  # unique names tell nothing about others
        (np.array([f"N{i % 700}" for i in range(ROWS)]), False),
        (np.where(RANDOM.random(ROWS) < 0.3, None, "AA"), False),
    ],
)
def test_a_feature_that_tells_the_label_is_suspected(values, suspect):
    assert named({"feature": values}) == ["feature"] * suspect


def test_the_reason_is_a_sentence():
    (found,) = leakage_suspects(Y, {"delay": Y * 20.0})
    assert found.reason == "delay alone tells the label with an AUC of 1.000, above 0.98"
    assert found.value == 1.0


def test_the_label_and_its_time_are_no_features():
    columns = {"late": Y, "arrived_at": NOISE, "hour": NOISE}
    found = leakage_suspects(Y, columns, label="late", label_time="arrived_at")
    assert [s.column for s in found] == ["late", "arrived_at"]
    assert (
        found[1].reason == "arrived_at is the time at which the label became known, and a feature"
    )


def test_the_limit_is_a_choice():
    column = {"feature": 2 * Y + NOISE}
    assert named(column) == []
    assert named(column, limit=0.9) == ["feature"]


def test_a_regression_is_judged_by_rank_correlation():
    y = RANDOM.gamma(2, 100, ROWS)
    assert named({"copy": np.log(y), "noise": NOISE, "near": y + 200 * NOISE}, y=y) == ["copy"]
    (found,) = leakage_suspects(y, {"copy": -y})
    assert "a rank correlation of 1.000" in found.reason


def test_a_single_class_tells_nothing():
    assert named({"feature": NOISE, "name": NOISE.astype(str)}, y=np.zeros(ROWS)) == []
