"""When an undecided rule can be decided."""

from datetime import date

import pytest

from mlct.evaluation.outlook import ready


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
