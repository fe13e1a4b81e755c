"""Retraining: enough breaches, the newest among them, once a cause, within cool-down and budget."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from mlct.errors import SpecError
from mlct.monitoring.trigger import RetrainPolicy, WindowResult, decide_trigger

START = datetime(2013, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def windows(pattern, *, every=DAY):
    """One window a day; `x` breached, `.` did not."""
    return [
        WindowResult(
            key=f"k{n}{mark}",
            ended_at=START + (n + 1) * every,
            breached=mark == "x",
            reason=f"r{n}",
        )
        for n, mark in enumerate(pattern)
    ]


def decide(policy, pattern, *, trained=START, retrained=()):
    return decide_trigger(
        policy, windows(pattern), trained_until=trained, retrained_at=list(retrained)
    )


def policy(**words):
    usual = {"cooldown": "0d", "budget": "99/1d", "on": ["drift", "age"]}
    return RetrainPolicy(**usual | words)


@pytest.mark.parametrize(
    ("breaches", "of", "pattern", "retrains"),
    [
        (1, 1, "x", True),
        (1, 1, ".", False),
        (1, 1, "x.", False),
        (1, 1, ".x", True),
        (3, 3, "xxx", True),
        (3, 3, "xx", False),
        (3, 3, "xxxx", True),
        (3, 3, "x.xx", False),
        (3, 5, "x.x.x", True),
        (3, 5, "xxx..", False),
        (3, 5, "x..xx", True),
        (3, 5, "xx...x", False),
        (3, 5, "xxx...x", False),
        (2, 3, "x.x", True),
        (2, 3, "xx.", False),
        (1, 3, "..x", True),
    ],
)
def test_enough_of_the_last_windows_breached_and_the_newest_did(breaches, of, pattern, retrains):
    found = decide(policy(breaches=breaches, of=of), pattern)
    assert found.retrain is retrains
    newest = len(pattern) - 1
    assert found.cause == (f"drift:k{newest}x" if retrains else "")
    assert f"r{newest}" in found.reason


def test_without_a_window_there_is_nothing_to_decide():
    found = decide(policy(max_age="1d"), "")
    assert (found.retrain, found.cause) == (False, "")
    assert "no window was monitored yet" in found.reason


@pytest.mark.parametrize(("hours", "retrains"), [(0, False), (71, False), (72, True), (99, True)])
def test_a_cool_down_counts_in_the_time_of_the_data(hours, retrains):
    """From the last retrain's as-of to the end of the newest window; exactly over is over."""
    last = START + 10 * DAY - timedelta(hours=hours)
    found = decide(policy(cooldown="3d"), "." * 9 + "x", retrained=[START, last])
    assert found.retrain is retrains
    assert found.cause == "drift:k9x"
    if not retrains:
        until = last + 3 * DAY
        assert found.reason == f"cool-down until {until:%Y-%m-%d %H:%M} UTC: r9"


def test_a_retrain_on_later_data_is_a_cool_down_too():
    assert not decide(policy(cooldown="1d"), "x", retrained=[START + 30 * DAY]).retrain


@pytest.mark.parametrize(
    ("ago", "retrains"),
    [
        ([], True),
        ([1], True),
        ([1, 2], False),
        ([1, 30], True),
        ([1, 29.9], False),
        ([30, 31], True),
    ],
)
def test_a_budget_counts_the_retrains_of_its_period(ago, retrains):
    end = START + 60 * DAY
    spent = [end - timedelta(days=days) for days in ago]
    found = decide(policy(budget="2/30d"), "." * 59 + "x", retrained=spent)
    assert found.retrain is retrains
    assert found.cause == "drift:k59x"
    assert retrains or found.reason == "budget 2/30d is spent: r59"


def test_scheduled_retrains_cool_down_and_spend_no_budget():
    def found(*days):
        return decide_trigger(
            policy(cooldown="2d", budget="1/30d"),
            windows("." * 29 + "x"),
            trained_until=START,
            retrained_at=[],
            scheduled_at=[START + day * DAY for day in days],
        )

    assert found(20, 24, 28).retrain
    assert found(20, 24, 29).reason.startswith("cool-down until")


def test_a_back_off_counts_from_the_last_triggered_retrain():
    """A schedule that goes on does not silence the sensor for ever."""
    found = decide_trigger(
        policy(cooldown="1d"),
        windows("." * 29 + "x"),
        trained_until=START,
        retrained_at=[START + 20 * DAY],
        scheduled_at=[START + 28 * DAY],
        refused=3,
    )
    assert found.retrain


@pytest.mark.parametrize(("days", "retrains"), [(44, False), (45, False), (46, True)])
def test_an_old_champion_is_retrained_whatever_the_signals_say(days, retrains):
    end = START + 50 * DAY
    found = decide(policy(max_age="45d"), "." * 50, trained=end - days * DAY)
    assert found.retrain is retrains
    if retrains:
        assert found.cause == "age:k49."
        assert (
            found.reason == f"the champion's training data ended {days} days before the newest data"
        )


def test_age_respects_cool_down_and_budget():
    old = policy(max_age="1d", cooldown="7d")
    assert not decide(old, "." * 50, retrained=[START + 49 * DAY]).retrain
    assert decide(old, "." * 50, retrained=[START + 43 * DAY]).retrain


def test_drift_is_the_cause_that_is_told_when_both_hold():
    assert decide(policy(max_age="1d"), "..x").cause == "drift:k2x"
    assert decide(policy(max_age="1d", breaches=2, of=2), "..x").cause == "age:k2x"


def test_equal_content_has_an_equal_cause_and_other_content_another():
    """A restarted sensor asks for nothing twice; a new window is a new cause."""
    rule = policy(breaches=2, of=3)
    assert decide(rule, "xx") == decide(rule, "xx")
    assert decide(rule, "xx").cause == decide(rule, "xx", retrained=[START - 99 * DAY]).cause
    assert decide(rule, "xx").cause != decide(rule, "xxx").cause


def test_a_refusal_keeps_the_cause_so_that_it_can_be_told():
    held = decide(policy(cooldown="9d"), "x", retrained=[START])
    assert (held.retrain, held.cause) == (False, decide(policy(), "x").cause)


def test_history_can_be_replayed():
    """A year day by day: at most the budget in any period, never within the cool-down."""
    rule, retrained = policy(cooldown="5d", budget="3/30d"), []
    pattern = "x" * 365
    for day in range(1, 366):
        found = decide(rule, pattern[:day], retrained=retrained)
        if found.retrain:
            retrained.append(START + day * DAY)
    gaps = [b - a for a, b in pairwise(retrained)]
    assert min(gaps) >= 5 * DAY
    assert all(sum(at - 30 * DAY < other <= at for other in retrained) <= 3 for at in retrained)
    assert len(retrained) >= 36


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"max_psi": 0}, "max_psi is 0. Expected above 0"),
        ({"max_psi": -1}, "max_psi is -1"),
        ({"max_psi": float("nan")}, "max_psi is nan"),
        ({"max_psi": "0.2"}, "max_psi is '0.2'"),
        ({"breaches": 0}, "asks for 0 breaches of 1"),
        ({"breaches": 4, "of": 3}, "asks for 4 breaches of 3"),
        ({"breaches": 1.5, "of": 3}, "asks for 1.5 breaches"),
        ({"of": None}, "of None windows"),
        ({"cooldown": "soon"}, "RetrainPolicy.cooldown is 'soon'"),
        ({"cooldown": 5}, "RetrainPolicy.cooldown is 5"),
        ({"max_age": "old"}, "RetrainPolicy.max_age is 'old'"),
        ({"budget": "4"}, "RetrainPolicy.budget is '4'.*'4/30d'"),
        ({"budget": "0/30d"}, "RetrainPolicy.budget is '0/30d'"),
        ({"budget": "4/0d"}, "RetrainPolicy.budget is '4/0d'"),
        ({"budget": None}, "RetrainPolicy.budget is None"),
        ({"schedule": "daily"}, "RetrainPolicy.schedule is 'daily'.*cron line"),
        ({"schedule": ""}, "RetrainPolicy.schedule is ''"),
        ({"schedule": 5}, "RetrainPolicy.schedule is 5"),
        ({"schedule": "0 6 *"}, "RetrainPolicy.schedule is '0 6"),
    ],
    ids=str,
)
def test_a_wrong_policy_is_named(wrong, says):
    with pytest.raises(SpecError, match=says):
        RetrainPolicy(**wrong)


@pytest.mark.parametrize("schedule", [None, "@daily", "0 6 3 * *", "*/5  1-3 * * mon"])
def test_a_cron_line_is_taken(schedule):
    assert RetrainPolicy(schedule=schedule).schedule == schedule


def test_a_budget_reads_as_it_is_written():
    assert RetrainPolicy(budget="4/30d").allowance() == (4, 30 * DAY)
    assert RetrainPolicy(budget="12/2w").allowance() == (12, 14 * DAY)
