"""Durations in OpenSLO's shorthand, and the rolling or calendar-aligned period of a budget."""

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

_FIXED = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_FIXED["w"] = timedelta(weeks=1)
_MONTHS = {"M": 1, "Q": 3, "Y": 12}
_NOMINAL = {"M": 30, "Q": 91, "Y": 365}  # days, where one length must stand for all
_NAMES = {"m": "minute", "h": "hour", "d": "day", "w": "week", "M": "month", "Q": "quarter"}


@dataclass(frozen=True, slots=True)
class Span:
    """`count` minutes, hours, days, weeks, months, quarters or years (m, h, d, w, M, Q, Y)."""

    count: int
    unit: str

    @classmethod
    def parse(cls, text: object) -> "Span | None":
        match = re.fullmatch(r"([0-9]{1,7})([mhdwMQY])", text) if isinstance(text, str) else None
        span = cls(int(match[1]), match[2]) if match and int(match[1]) else None
        return span if span and span.length <= timedelta(days=36_525) else None

    @property
    def length(self) -> timedelta:
        """How long; a month counts as 30 days, a quarter as 91, a year as 365."""
        if self.unit in _MONTHS:
            return timedelta(days=self.count * _NOMINAL[self.unit])
        return self.count * _FIXED[self.unit]

    @property
    def months(self) -> int:
        """How many months, 0 for what is counted in days or less."""
        return self.count * _MONTHS.get(self.unit, 0)

    @property
    def words(self) -> str:
        """`28-day`, as in "28-day budget"."""
        return f"{self.count}-{_NAMES.get(self.unit, 'year')}"

    def __str__(self) -> str:
        return f"{self.count}{self.unit}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Period:
    """What an error budget is for: the last `span`, or the present one since `start`.

    `start` is a time without zone, read on the clock of `zone`. A calendar period that starts on
    the 31st begins on the last day of shorter months. Days and weeks follow the clock of the zone
    (a day of 23 or 25 hours); minutes and hours do not.
    """

    span: Span
    start: datetime | None = None
    zone: str = "UTC"

    @property
    def kind(self) -> str:
        """`28d rolling`, `1M of the calendar`."""
        return f"{self.span} {'rolling' if self.start is None else 'of the calendar'}"

    @property
    def words(self) -> str:
        """`28-day`, or `1-month` of the calendar."""
        return self.span.words

    def bounds(self, at: datetime) -> tuple[datetime, datetime]:
        """The half-open period `[start, end)` in UTC that `at` falls in; a rolling one ends at it.

        `at` is aware. Calendar periods follow each other without gap or overlap.
        """
        at = at.astimezone(UTC)
        if self.start is None:
            if self.span.months:
                return _shift(at, -self.span.months), at
            return at - self.span.length, at
        # A guess, then a step or two: months and days are not of one length.
        k = int((at - self._edge(0)) / self.span.length)
        while self._edge(k) > at:
            k -= 1
        while self._edge(k + 1) <= at:
            k += 1
        return self._edge(k), self._edge(k + 1)

    def _edge(self, k: int) -> datetime:
        """Where the k-th period begins, counted from `start`, in UTC."""
        assert self.start is not None
        zone = ZoneInfo(self.zone)
        if self.span.months:
            moved = _shift(self.start, k * self.span.months)
        elif self.span.unit in "dw":
            moved = self.start + k * self.span.length
        else:
            return self.start.replace(tzinfo=zone).astimezone(UTC) + k * self.span.length
        return moved.replace(tzinfo=zone).astimezone(UTC)


def _shift(at: datetime, months: int) -> datetime:
    """The same day and time `months` later, or the month's last day where there is none such."""
    year, month = divmod(at.year * 12 + at.month - 1 + months, 12)
    day = min(at.day, monthrange(year, month + 1)[1])
    return at.replace(year=year, month=month + 1, day=day)
