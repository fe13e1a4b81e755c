"""What would decide an undecided rule: how many rows or clusters, and when they will be there."""

from datetime import date, datetime, timedelta
from math import ceil, isfinite

POWER = 0.8
FAR = 3650  # days: a date further away than ten years promises nothing


def units_needed(units: int, error: float, distance: float, confidence: float) -> int:
    """Rows or clusters for a one-sided bound to clear `distance` with power 0.8.

    `error` is the standard error with `units` of them, and falls with their square root; at least
    one more than now.
    """
    from scipy.special import ndtri

    reach = float(ndtri(confidence) + ndtri(POWER)) * error
    return max(units + 1, ceil(units * (reach / distance) ** 2))


def ready(needed: int, units: int, start: str | None, end: str | None) -> date | None:
    """The day on which a holdout from `start` will have `needed` units, at the rate so far.

    `units` came in between `start` and `end`, ISO 8601, end excluded. None where the window is not
    known, or where it would take more than ten years.

    >>> ready(64, 30, "2013-08-02", "2013-09-01")
    datetime.date(2013, 10, 5)
    """
    if start is None or end is None or units < 1:
        return None
    first, last = (datetime.fromisoformat(text) for text in (start, end))
    lasted = (last - first) / timedelta(days=1)
    if lasted <= 0:
        return None
    days = max(needed - units, 0) * lasted / units
    if not isfinite(days) or days > FAR:
        return None
    return (last + timedelta(days=days)).date()
