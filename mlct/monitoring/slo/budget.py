"""Arithmetic of error budgets (Google SRE Workbook, ch. 5), and the budget of pages of a shift."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

#: Pages that one 12-hour shift takes: an incident costs six hours of work (SRE book, ch. 11).
PAGES, SHIFT = 2, timedelta(hours=12)


def burn_rate(error_rate: float, target: float) -> float:
    """How many times faster than allowed: 1 spends just the budget by the end of the period.

    >>> round(burn_rate(0.01, 0.999), 9)
    10.0
    """
    return error_rate / (1 - target)


def burn_of(budget: float, window: timedelta, period: timedelta) -> float:
    """The burn rate that spends the share `budget` of a period's budget within `window`.

    >>> burn_of(0.02, timedelta(hours=1), timedelta(days=30))
    14.4
    """
    return budget * (period / window)


def exhausted_after(burn: float, period: timedelta) -> timedelta:
    """How long a whole budget lasts at a burn rate."""
    return period / burn


def fires_after(error_rate: float, target: float, window: timedelta, burn: float) -> timedelta:
    """How long errors at `error_rate` take to reach `burn` over `window`, from none."""
    return (1 - target) / error_rate * window * burn


@dataclass(frozen=True, kw_only=True, slots=True)
class PageBudget:
    """Pages of the shift that ends now: `ok` up to the budget, `warning` above, `error` at more
    than one above it."""

    pages: int
    allowed: int
    verdict: Literal["ok", "warning", "error"]
    reason: str


def page_budget(
    paged_at: Sequence[datetime],
    *,
    at: datetime,
    allowed: int = PAGES,
    shift: timedelta = SHIFT,
) -> PageBudget:
    """Count the pages in `(at - shift, at]` against what a person on call can work through.

    `paged_at` are the beginnings of episodes, aware: an alert that stays on pages once.
    """
    count = sum(at - shift < paged <= at for paged in paged_at)
    hours = shift / timedelta(hours=1)
    return PageBudget(
        pages=count,
        allowed=allowed,
        verdict="ok" if count <= allowed else "warning" if count <= allowed + 1 else "error",
        reason=f"{count} pages in the last {hours:g} hours, at most {allowed} are budgeted",
    )
