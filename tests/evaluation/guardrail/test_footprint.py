"""Memory and money, by hand."""

import tracemalloc

import numpy as np
import pytest

from mlct.errors import EvaluationError
from mlct.evaluation.guardrail import cost_per_thousand, peak_memory_mb


def test_the_peak_is_seen_even_when_it_is_given_back():
    assert peak_memory_mb(lambda: np.ones(1_000_000).sum()) == pytest.approx(8.0, abs=0.1)
    assert not tracemalloc.is_tracing()


def test_what_was_allocated_before_does_not_count():
    tracemalloc.start()
    kept = np.ones(1_000_000)
    assert peak_memory_mb(lambda: np.ones(10)) < 0.1
    assert tracemalloc.is_tracing()
    tracemalloc.stop()
    assert len(kept)


def test_a_thousand_predictions_cost_their_share_of_an_hour():
    assert cost_per_thousand(3.6, price_per_cpu_hour=1.0) == pytest.approx(0.001)
    assert cost_per_thousand(3.6, price_per_cpu_hour=1.0, cpus=2) == pytest.approx(0.002)
    batch = cost_per_thousand(3600, price_per_cpu_hour=1.0, rows=1000)
    assert batch == pytest.approx(0.001)


@pytest.mark.parametrize(("time", "price", "rows"), [(-1, 1, 1), (1, float("nan"), 1), (1, 1, 0)])
def test_a_cost_needs_numbers(time, price, rows):
    with pytest.raises(EvaluationError, match="a cost was asked for"):
        cost_per_thousand(time, price_per_cpu_hour=price, rows=rows)
