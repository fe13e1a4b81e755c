"""Robustness: each disturbance does what its name says, and a crash is an answer too."""

from math import isnan

import numpy as np
import pytest

from mlct.errors import EvaluationError
from mlct.evaluation.guardrail import robustness
from mlct.evaluation.guardrail.robustness import ALL, UNSEEN

ROWS = 2000
RANDOM = np.random.default_rng(0)
TABLE = {
    "signal": RANDOM.normal(size=ROWS),
    "idle": RANDOM.normal(size=ROWS),
    "carrier": RANDOM.choice(["AA", "UA"], size=ROWS),
}
Y = (TABLE["signal"] + RANDOM.normal(size=ROWS) > 0) * 1


def score(table):
    signal = np.nan_to_num(np.asarray(table["signal"], dtype=float))
    late = np.array([value == "UA" for value in table["carrier"]])
    return 1 / (1 + np.exp(-2 * signal - 0.1 * late))


def drops(**changes):
    found = robustness(score, TABLE, Y, "roc_auc", **changes)
    return {(d.disturbance, d.column): d for d in found.drops}, found


def test_every_column_is_disturbed_in_every_way_that_fits_it():
    found, _ = drops()
    kinds = {"signal": 3, "idle": 3, "carrier": 3, ALL: 2}
    assert {c: sum(column == c for _, column in found) for c in kinds} == kinds
    assert ("unseen", "carrier") in found
    assert ("noise", "carrier") not in found


def test_what_the_model_needs_costs_and_what_it_ignores_does_not():
    found, _ = drops()
    assert found["shuffled", "signal"].drop > 0.2
    assert found["shuffled", "idle"].drop == 0
    assert found["missing", "signal"].drop > 0.01


def test_more_noise_costs_more():
    costs = [drops(noise=noise)[0]["noise", "signal"].drop for noise in (0.1, 1.0, 3.0)]
    assert costs == sorted(costs)


def test_a_loss_is_positive_where_smaller_is_better():
    found = robustness(score, TABLE, Y, "log_loss")
    worst = found.drops[0]
    assert worst.drop == pytest.approx(worst.value - found.value)
    assert worst.drop > 0


def test_the_worst_comes_first_and_the_same_seed_gives_the_same():
    _, found = drops()
    assert [d.drop for d in found.drops] == sorted((d.drop for d in found.drops), reverse=True)
    assert drops()[1] == found


def test_a_model_that_cannot_score_a_gap_is_said_to():
    def strict(table):
        if any(value is None for value in table["carrier"]):
            raise ValueError("no carrier")
        return score(table)

    found = robustness(strict, TABLE, Y, "roc_auc")
    broken = [d for d in found.drops if d.problem]
    assert {(d.disturbance, d.column) for d in broken} == {("missing", "carrier"), ("missing", ALL)}
    assert broken[0].problem == "ValueError: no carrier"
    assert isnan(found.measures()["missing_drop"]["challenger"])
    assert found.drops[0].problem


def test_a_model_sees_a_category_it_never_saw():
    seen = set()

    def watch(table):
        seen.update(table["carrier"])
        return score(table)

    robustness(watch, TABLE, Y, "roc_auc", columns=["carrier"])
    assert {UNSEEN, None} <= seen


def test_the_measures_are_the_worst_of_each_kind():
    found, all_of_it = drops()
    measures = all_of_it.measures()
    assert set(measures) == {"noise_drop", "missing_drop", "unseen_drop"}
    worst = max(d.drop for (kind, _), d in found.items() if kind == "missing")
    assert measures["missing_drop"] == {"challenger": worst}


def test_the_table_itself_is_left_alone():
    before = {name: values.copy() for name, values in TABLE.items()}
    drops()
    assert all((TABLE[name] == before[name]).all() for name in TABLE)


def test_a_column_that_is_not_there_cannot_be_disturbed():
    with pytest.raises(EvaluationError, match="wind"):
        robustness(score, TABLE, Y, "roc_auc", columns=["wind"])
