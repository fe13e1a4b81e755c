"""What would decide an undecided rule: how many rows or clusters, and when they will be there."""

from datetime import date, datetime, timedelta
from math import ceil, isfinite

from mlct.evaluation.record import Evaluation

POWER = 0.8
FAR = 3650  # days: a date further away than ten years promises nothing
_MANY = 1000  # from here on t and normal distribution ask for the same number


def units_needed(units: int, error: float, distance: float, confidence: float) -> int:
    """Rows or clusters for a one-sided bound to clear `distance` with power 0.8.

    `error` is the standard error with `units` of them, and falls with their square root; at least
    one more than now. Few of them are counted with the t distribution that their bound will take.
    """
    from scipy.special import ndtri, stdtrit

    def size(reach: float) -> int:
        return ceil(units * (reach * error / distance) ** 2)

    needed = max(units + 1, size(float(ndtri(confidence) + ndtri(POWER))))
    while needed < _MANY:
        few = stdtrit(needed - 1, confidence) + stdtrit(needed - 1, POWER)
        if needed >= size(float(few)):
            break
        needed += 1
    return needed


def by(needed: int, units: int, seen: Evaluation) -> tuple[str | None, str]:
    """The day (ISO 8601) on which `needed` instead of `units` will be there, and how to say so."""
    start, end = seen.holdout_start, seen.holdout_end
    day = ready(needed, units, start, end, seen.label_delay_days)
    if day is None or start is None or end is None:
        return None, ""
    when, length = day.isoformat(), ceil(needed * _days(start, end) / units)
    clause = f"by {when} at the present rate, if Windows.holdout is raised to {length}d"
    return when, f": {clause}"


def ready(
    needed: int, units: int, start: str | None, end: str | None, delay: float = 0.0
) -> date | None:
    """The day on which a holdout from `start` will have `needed` units, at the rate so far.

    `units` came in between `start` and `end`, ISO 8601, end excluded, and their labels `delay` days
    later. None where the window is not known, or where it would take more than ten years.

    >>> ready(64, 30, "2013-08-02", "2013-09-01")
    datetime.date(2013, 10, 5)
    """
    if start is None or end is None or units < 1:
        return None
    lasted = _days(start, end)
    if lasted <= 0:
        return None
    days = max(needed - units, 0) * lasted / units + delay
    if not isfinite(days) or days > FAR:
        return None
    return (datetime.fromisoformat(end) + timedelta(days=days)).date()


def _days(start: str, end: str) -> float:
    first, last = (datetime.fromisoformat(text) for text in (start, end))
    return (last - first) / timedelta(days=1)
