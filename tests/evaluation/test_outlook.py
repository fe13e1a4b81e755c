"""When an undecided rule can be decided."""

from datetime import date

import numpy as np
import pytest
from scipy.stats import binom

from mlct.evaluation.compare import compare
from mlct.evaluation.outlook import ready, units_needed


def test_the_day_follows_from_the_rate_so_far():
    assert ready(64, 30, "2013-08-02", "2013-09-01") == date(2013, 10, 5)
    assert ready(60_000, 30_000, "2013-08-02T00:00:00Z", "2013-09-01T00:00:00Z") == date(
        2013, 10, 1
    )


def test_weeks_take_seven_times_as_long_as_days():
    assert ready(20, 10, "2013-01-01", "2013-03-12") == date(2013, 5, 21)


def test_what_is_there_already_is_ready_at_the_end():
    assert ready(10, 30, "2013-08-02", "2013-09-01") == date(2013, 9, 1)


@pytest.mark.parametrize(
    ("needed", "units", "start", "end"),
    [
        (64, 30, None, "2013-09-01"),
        (64, 30, "2013-08-02", None),
        (64, 0, "2013-08-02", "2013-09-01"),
        (64, 30, "2013-09-01", "2013-08-02"),
        (1_000_000, 30, "2013-08-02", "2013-09-01"),
    ],
)
def test_no_date_is_promised_that_nobody_can_know(needed, units, start, end):
    assert ready(needed, units, start, end) is None


@pytest.mark.parametrize("units", [4, 8, 30])
def test_the_number_that_is_stated_has_the_power_that_is_stated(units):
    """Few clusters take bounds from t, and so does the number of them that it takes."""
    error, effect, worlds = 1.0, 2.2 if units < 30 else 1.2, 1000
    needed = units_needed(units, error, effect, 0.95)
    random = np.random.default_rng(units)
    shown = 0
    for _ in range(worlds):
        gain = effect + error * np.sqrt(units) * random.standard_normal(needed)
        two = {"old": np.full(needed, 100.0), "new": 100.0 - gain}
        kept = {"champion": "old", "metric": "mae", "clusters": np.arange(needed)}
        shown += compare(np.zeros(needed), two, **kept)["new"].lower > 0
    low, high = binom(worlds, [0.8, 0.88]).ppf([0.001, 0.999])
    assert low <= shown <= high
