"""Agreement is bit for bit."""

from math import isnan

import numpy as np
import pytest

from mlct.errors import EvaluationError
from mlct.evaluation.guardrail import agreement


def test_the_same_bits_agree():
    scores = np.random.default_rng(0).random(500)
    found = agreement(scores, scores.copy())
    assert (found.identical, found.rows, found.differing, found.largest) == (True, 500, 0, 0.0)
    assert found.sentence == "the packaged model returns the same scores bit for bit on 500 rows"
    assert found.measures() == {"score_mismatches": {"challenger": 0.0}}


def test_one_last_bit_is_a_difference():
    found = agreement([0.1, 0.2, 0.3], [0.1, np.nextafter(0.2, 1), 0.3])
    assert (found.identical, found.differing) == (False, 1)
    assert "on 1 of 3 rows" in found.sentence


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ([np.nan], [np.nan], True),
        ([0.0], [-0.0], False),
        (np.array([0.5], np.float32), np.array([0.5]), False),
        ([[0.2, 0.8]], [[0.2, 0.8]], True),
        ([[0.2, 0.8]], [[0.8, 0.2]], False),
    ],
)
def test_what_agrees(one, two, same):
    assert agreement(one, two).identical is same


def test_a_number_against_none_is_not_a_small_difference():
    assert isnan(agreement([0.1, np.nan], [0.1, 0.2]).largest)


def test_other_rows_cannot_agree():
    for one, two in (([0.1], [0.1, 0.2]), ([], [])):
        with pytest.raises(EvaluationError, match="the same rows twice"):
            agreement(one, two)
