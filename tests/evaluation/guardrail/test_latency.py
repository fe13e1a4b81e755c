"""Latency: what is counted, by a clock that tells times of our choice."""

import numpy as np
import pytest
from scipy.stats import binom

from mlct.errors import EvaluationError
from mlct.evaluation.guardrail import latencies, rows_for


class Clock:
    """Tells the times that a model takes, one after another."""

    def __init__(self, seconds):
        self.seconds, self.now = list(seconds), 0.0

    def __call__(self):
        return self.now

    def predict(self, row):
        self.now += self.seconds.pop(0)


def test_latency_is_in_milliseconds_and_leaves_the_warm_up_out():
    clock = Clock([9.0] * 3 + [0.001, 0.002, 0.003])
    models = {"challenger": clock.predict}
    found = latencies(models, [1, 2, 3], repeats=1, warm_up=3, clock=clock)
    assert found["latency_p50_ms"]["challenger"].value == pytest.approx(2.0)
    assert found["latency_p99_ms"]["challenger"].value == pytest.approx(2.98)
    assert set(found) == {"latency_p50_ms", "latency_p95_ms", "latency_p99_ms"}


def test_a_row_counts_with_its_fastest_call():
    clock = Clock([0.5, 0.001, 0.002, 0.5])
    models = {"challenger": clock.predict}
    found = latencies(models, [1, 2], repeats=2, warm_up=0, clock=clock)
    assert found["latency_p99_ms"]["challenger"].value == pytest.approx(1.99)


@pytest.mark.parametrize(("rows", "repeats"), [([], 3), ([1], 0)])
def test_latency_needs_a_row_and_a_call(rows, repeats):
    with pytest.raises(EvaluationError, match="at least one row"):
        latencies({"challenger": lambda row: row}, rows, repeats=repeats)


class Shared(Clock):
    """One clock for several models, each with its own times by row."""

    def __init__(self):
        super().__init__([])

    def model(self, times):
        def score(row):
            self.now += times[row]

        return score


def _two(times, slower, rows=300, **changes):
    clock = Shared()
    models = {
        "challenger": clock.model(times * slower),
        "champion": clock.model(times),
    }
    return latencies(models, range(rows), clock=clock, warm_up=2, **changes)


TIMES = np.random.default_rng(0).gamma(4, 0.001, 300)


def test_both_models_are_timed_on_the_same_rows():
    found = _two(TIMES, 2.0)
    assert found["latency_p99_ms"]["champion"].value == pytest.approx(
        np.percentile(TIMES * 1000, 99)
    )
    ratio = found["latency_p99_ms_ratio"]["challenger"]
    assert ratio.value == pytest.approx(2.0)
    assert ratio.lower == pytest.approx(2.0)  # paired: the same rows, so no noise at all
    assert ratio.method == "paired bootstrap of 300 rows"


def test_the_ratio_has_an_interval_where_rows_differ():
    slower = np.where(np.random.default_rng(1).random(300) < 0.5, 1.0, 2.0)
    ratio = _two(TIMES, slower)["latency_p50_ms_ratio"]["challenger"]
    assert ratio.lower < ratio.value < ratio.upper


def test_without_a_champion_there_is_no_ratio():
    found = latencies({"challenger": abs}, [1, 2, 3], warm_up=1)
    assert set(found) == {f"latency_p{p}_ms" for p in (50, 95, 99)}


def test_batches_have_a_name_of_their_own():
    found = latencies({"challenger": np.sum}, [np.ones(9)] * 5, name="batch_latency", warm_up=1)
    assert set(found) == {f"batch_latency_p{p}_ms" for p in (50, 95, 99)}


@pytest.mark.parametrize(("confidence", "rows"), [(0.95, 300), (0.95, 400), (0.99, 459)])
def test_the_bounds_of_a_percentile_hold_as_often_as_they_say(confidence, rows):
    random, worlds = np.random.default_rng(0), 400
    truth = {50: 1.0, 95: np.exp(1.644854), 99: np.exp(2.326348)}
    missed = dict.fromkeys([(p, side) for p in truth for side in ("lower", "upper")], 0)
    for _ in range(worlds):
        clock = Shared()
        models = {"challenger": clock.model(np.exp(random.normal(size=rows)) / 1000)}
        kept = {"clock": clock, "repeats": 1, "warm_up": 0, "confidence": confidence}
        found = latencies(models, range(rows), **kept)
        for percentile, value in truth.items():
            measure = found[f"latency_p{percentile}_ms"]["challenger"]
            missed[percentile, "lower"] += measure.lower > value
            missed[percentile, "upper"] += measure.upper < value
    assert max(missed.values()) <= binom(worlds, 1 - confidence).ppf(0.999)


def test_too_few_rows_have_no_upper_bound_and_say_how_many_it_takes():
    few = rows_for(0.95) - 1
    found = _two(TIMES, 2.0, rows=few)
    for name in ("latency_p99_ms", "latency_p99_ms_ratio"):
        measure = found[name]["challenger"]
        assert measure.value > 0
        assert np.isnan(measure.upper)
        assert measure.method.endswith("of 298 rows, an upper bound takes 299")
    assert np.isfinite(_two(TIMES, 2.0, rows=few + 1)["latency_p99_ms"]["challenger"].upper)
    assert np.isfinite(found["latency_p95_ms"]["challenger"].upper)
