"""A rollback needs enough windows of what is live, the newest among them, and real measurements."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlct
from mlct.errors import SpecError
from mlct.monitoring.breach import KEEP, SignalWindow, decide_rollback

SINCE = datetime(2030, 1, 1, tzinfo=UTC)
ERRORS = mlct.Signal("error_rate", max=0.05, min_samples=200, breaches=2, of=3)
BAD, GOOD = 0.4, 0.01


def window(number, value, samples=500, version=2, **how):
    end = SINCE + timedelta(hours=number)
    return SignalWindow(
        version=version, end=end, value=value, samples=samples, reported_at=end, **how
    )


def decided(*windows, signals=(ERRORS,), **named):
    named = {"error_rate": windows} | named
    policy = mlct.RollbackPolicy(signals=signals)
    return decide_rollback(policy, named, version=2, since=SINCE)


def series(*values):
    return [window(n, v) for n, v in enumerate(values, 1)]


@pytest.mark.parametrize(
    ("values", "goes_back"),
    [
        ([BAD], False),
        ([BAD, BAD], True),
        ([BAD, GOOD, BAD], True),
        ([BAD, BAD, GOOD], False),
        ([BAD, GOOD, GOOD, BAD], False),
        ([GOOD, 0.05, 0.05], False),
        ([BAD, None, BAD], True),
        ([BAD, BAD, None], False),
        ([None, None, None], False),
        ([], False),
    ],
)
def test_enough_of_the_last_windows_breach_and_the_newest_does(values, goes_back):
    assert decided(*series(*values)).roll_back == goes_back


def test_too_few_samples_are_no_breach_and_the_reason_says_so():
    found = decided(window(1, BAD), window(2, BAD), window(3, BAD, samples=199))
    assert not found.roll_back
    assert "insufficient: 200 wanted" in found.reason


def test_windows_of_another_version_or_of_before_the_move_do_not_count():
    assert not decided(window(1, BAD, version=1), window(2, BAD)).roll_back
    assert not decided(window(0, BAD), window(1, BAD)).roll_back
    early = SINCE - timedelta(minutes=1)
    assert not decided(window(1, BAD, start=early), window(2, BAD, start=SINCE)).roll_back


def test_order_of_arrival_makes_no_difference():
    windows = series(GOOD, BAD, BAD)
    assert decided(*windows[::-1]) == decided(*windows)


def test_one_breaching_signal_is_enough_and_only_it_is_the_reason():
    low = mlct.Signal("null_rate", max=0.5)
    found = decided(*series(BAD, BAD), signals=(low, ERRORS), null_rate=series(0.1))
    assert (found.roll_back, found.signals) == (True, ("error_rate",))
    assert "null_rate" not in found.reason
    assert found.seen == SINCE + timedelta(hours=2)


def test_a_value_may_be_too_low():
    agreement = mlct.Signal("agreement", min=0.9)
    assert decided(signals=(agreement,), agreement=series(0.8)).roll_back
    assert not decided(signals=(agreement,), agreement=series(0.95)).roll_back


def test_without_signals_nothing_goes_back():
    assert decided(*series(BAD, BAD), signals=()).reason == "no rollback signal is declared"


@given(st.lists(st.tuples(st.sampled_from([BAD, GOOD, None]), st.sampled_from([0, 199, 200]))))
def test_whatever_is_reported_a_rollback_has_its_breaches(reports):
    windows = [window(n, v, samples=s) for n, (v, s) in enumerate(reports, 1)]
    hits = [w for w in windows[-3:] if w.value == BAD and w.samples >= 200]
    wanted = len(hits) >= 2 and hits[-1] is windows[-1]
    assert decided(*windows).roll_back == wanted


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max": float("nan")},
        {"max": 1, "min": 2},
        {"max": 1, "min_samples": 0},
        {"max": 1, "breaches": 2},
        {"max": 1, "of": KEEP + 1},
        {"max": "1"},
    ],
    ids=str,
)
def test_a_signal_that_cannot_work_is_refused(fields):
    with pytest.raises(SpecError, match="a rollback signal"):
        mlct.Signal("error_rate", **fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"signals": "error_rate"}, "signals"),
        ({"signals": [ERRORS, ERRORS]}, "two rollback signals"),
        ({"drill": "weekly or so"}, "drill"),
        ({"bar": "soon"}, "bar"),
        ({"overdue": "late"}, "overdue"),
    ],
)
def test_a_policy_that_cannot_work_is_refused(fields, said):
    with pytest.raises(SpecError, match=said):
        mlct.RollbackPolicy(**fields)
