"""The plain rule on a plain series, the CUSUM, and how often they are wrong."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlct
from benchmarks.slo_alarms import (
    fires,
    first_bound,
    first_cusum,
    first_plain,
    healthy,
    judge,
    limits,
    objective,
    raw,
    years,
)
from mlct.errors import DataError
from mlct.monitoring.slo import SloWindow, compiled, slo_states
from mlct.monitoring.slo.sustained import FIRES, KEEPS, cusum, of_counts, of_value

# Thirty daily accuracies of the worked example.
DAILY = [
    *(0.91041, 0.926317, 0.924697, 0.903876, 0.906424, 0.903671, 0.916837, 0.909327, 0.918963),
    *(0.887832, 0.928799, 0.908843, 0.918165, 0.908361, 0.905451, 0.915557, 0.919894, 0.90757),
    *(0.908167, 0.912228, 0.887556, 0.873827, 0.89074, 0.871953, 0.850956, 0.858231, 0.856389),
    *(0.841682, 0.83209, 0.84444),
]


def test_the_worked_example_fires_on_day_26_with_a_longest_run_of_6():
    found = mlct.sustained_breach(DAILY, floor=0.88, window=5, consecutive=3)
    assert (found.fired, found.day, found.longest_run) == (True, 26, 6)


def test_no_breach_before_the_run_is_long_enough():
    assert not mlct.sustained_breach(DAILY[:26], floor=0.88, window=5, consecutive=3).fired
    assert not mlct.sustained_breach(DAILY, floor=0.88, window=5, consecutive=7).fired


def test_an_equal_mean_is_no_breach():
    assert not mlct.sustained_breach([0.88] * 9, floor=0.88, window=1, consecutive=1).fired


def test_nothing_at_all_is_no_breach_but_silence_is():
    assert mlct.sustained_breach([], floor=0.88, window=2, consecutive=1).longest_run == 0
    silent = mlct.sustained_breach(
        [0.9, None, float("nan"), None], floor=0.8, window=2, consecutive=2
    )
    assert (silent.day, silent.longest_run) == (3, 2)


def test_a_missing_day_alone_changes_nothing():
    found = mlct.sustained_breach([0.9, None, 0.9, 0.9], floor=0.88, window=2, consecutive=1)
    assert not found.fired


@pytest.mark.parametrize(
    "wrong",
    [
        {"floor": float("nan")},
        {"window": 0},
        {"window": 1.5},
        {"consecutive": 0},
        {"consecutive": True},
        {"values": [0.9, float("inf")]},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(wrong):
    words = {"values": DAILY, "floor": 0.88, "window": 5, "consecutive": 3} | wrong
    with pytest.raises(DataError):
        mlct.sustained_breach(words.pop("values"), **words)


@given(
    st.lists(st.floats(0, 1), max_size=40),
    st.integers(0, 39),
    st.floats(0, 1),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_a_worse_day_never_lets_it_fire_later(values, day, drop, window, consecutive):
    asked = {"floor": 0.5, "window": window, "consecutive": consecutive}
    before = mlct.sustained_breach(values, **asked)
    worse = [v - drop if i == day else v for i, v in enumerate(values)]
    after = mlct.sustained_breach(worse, **asked)
    assert after.longest_run >= before.longest_run
    assert before.day is None or (after.day is not None and after.day <= before.day)


def test_cusum_starts_again_from_well_and_comes_down_again():
    assert cusum([-5, 3, 4]) == [0, 3, 7]
    high = cusum([100.0] * 9)
    assert set(high) == {KEEPS}
    assert cusum([100.0] * 9 + [-1.0] * 7)[-1] < FIRES


@given(st.integers(0, 200), st.floats(0.01, 0.5), st.floats(0.001, 0.2))
def test_evidence_grows_with_every_bad_event(bad, allowed, shift):
    assert of_counts(bad + 1, 201, allowed, shift) > of_counts(bad, 201, allowed, shift)


@given(st.floats(-1, 1), st.floats(0.01, 1), st.floats(0, 1))
def test_evidence_grows_with_the_distance(beyond, error, more):
    assert of_value(beyond + more, error, None) >= of_value(beyond, error, None)


# The rates of the facts of November 2026: an objective of 12 % errors, 200 labels a day.
YEARS = 250


def false_alarms(first, rate, labels=200):
    return sum(first(y, labels) is not None for y in years(rate, labels, YEARS, seed=7))


def test_three_plain_breaches_are_wrong_in_61_percent_of_years():
    low, high = limits(false_alarms(first_plain, 0.10), YEARS)
    assert low < 0.61 < high


def test_cusum_is_wrong_in_at_most_three_percent_of_years():
    """Even half a point inside the objective, where the plain rule is wrong every year."""
    assert false_alarms(first_cusum, 0.10) == 0
    low, _ = limits(false_alarms(first_cusum, 0.115), YEARS)
    assert low < 0.03
    assert false_alarms(first_plain, 0.115) == YEARS


def test_cusum_finds_what_is_wrong_sooner_than_bounds_do():
    jump = years(0.14, 200, 60, days=200, seed=3)
    days = [[f(y, 200) for y in jump] for f in (first_cusum, first_bound)]
    cusum_, bound = (np.median([200 if d is None else d for d in found]) for found in days)
    assert cusum_ < 20 < bound


def test_sure_breaches_are_rarely_false():
    low, _ = limits(false_alarms(first_bound, 0.10), YEARS)
    assert low < 0.01


def test_the_floor_of_three_ends_false_pages_and_misses_nothing():
    tight = objective(0.999)
    bare, *_ = judge(raw(0.999), 0.999, 4)
    false, missed, _, median = judge(list(compiled(tight, tight.length)), 0.999, 4)
    assert bare > 0.04
    assert (false, missed) == (0, 0)
    assert median <= 30


def test_the_cap_lets_loose_objectives_page_at_all():
    loose = objective(0.90)
    _, missed, incidents, _ = judge(raw(0.90), 0.90, 2)
    assert missed == incidents
    false, missed, _, _ = judge(list(compiled(loose, loose.length)), 0.90, 2)
    assert missed <= 1
    assert false < 0.05


def test_the_simulation_and_the_evaluator_agree():
    asked = objective(0.99)
    bad, starts = healthy(0.99, seed=1)
    page = fires(bad, list(compiled(asked, asked.length)), 0.99)
    start = datetime(2013, 1, 1, tzinfo=UTC)
    times = [start + timedelta(minutes=5 * i) for i in range(2 * 288)]
    windows = [
        SloWindow(start=t, end=t + timedelta(minutes=5), good=0 if b else 100, total=100)
        for t, b in zip(times, bad[starts[0] - 288 :], strict=False)
    ]
    seen = set()
    for i in [*range(270, 330, 2), 400, 575]:
        (state,) = slo_states([asked], {"service": windows}, windows[i].end)
        burns = [r for r in state.rules if r.rule.severity == "page"]
        fired = any(r.fires for r in burns)
        assert fired == page[starts[0] - 288 + i]
        seen.add(fired)
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"values": ["a"]}, "value 0 is 'a'"),
        ({"values": None}, "the values are None"),
        ({"values": [0.9, True + 0j]}, "value 1 is"),
        ({"floor": None}, "floor is None"),
        ({"floor": "a"}, "floor is 'a'"),
        ({"floor": float("nan")}, "floor is nan"),
    ],
    ids=str,
)
def test_what_is_no_number_is_named(words, says):
    usual = {"values": DAILY, "floor": 0.88}
    given = usual | words
    with pytest.raises(DataError, match=says):
        mlct.sustained_breach(given["values"], floor=given["floor"], window=1, consecutive=1)


def test_numbers_of_numpy_and_pandas_count_as_such_whatever_their_index():
    import pandas as pd

    plain = mlct.sustained_breach(DAILY, floor=0.88, window=5, consecutive=3)
    words = {"floor": np.float64(0.88), "window": np.int64(5), "consecutive": np.int64(3)}
    for series in (np.array(DAILY), pd.Series(DAILY, index=range(100, 100 + len(DAILY)))):
        assert mlct.sustained_breach(series, **words) == plain
    gap = mlct.sustained_breach(pd.Series([0.9, pd.NA, 0.9]), floor=0.88, window=1, consecutive=1)
    assert gap.day == 1, "silence is never good"
    shifted = pd.Series([0.9, float("inf")], index=[10, 11])
    with pytest.raises(DataError, match="value 1 is inf"):
        mlct.sustained_breach(shifted, floor=0.88, window=1, consecutive=1)
