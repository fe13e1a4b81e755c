"""MonitoringPolicy: which windows are watched, and what each is compared with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Literal, get_args

from mlct.data.window import duration
from mlct.errors import SpecError

Every = Literal["hour", "day", "week", "month"]
Choice = Literal["training", "trailing", "season"]

_STEP = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(days=7),
    "month": timedelta(days=30),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MonitoringPolicy:
    """Windows are one `every` long (UTC), from the date `start` on, up to the date `end` if given;
    weeks begin on the weekday of `start`. They should be no shorter than the partitions of the
    feature asset.

    `reference` is what features are compared with: the rows that the champion was trained on, the
    `windows` windows before, or those that lie 1, 2, ... times `period` before. What moved counts
    once it did so in `sustained[0]` of the last `sustained[1]` windows of a version, the newest
    among them: (1, 1) where a window is long enough to speak for itself, a month say. `fixed_psi`
    replaces the calibrated decision by "any index above", for those whose policy demands that; its
    false-alarm rate is shown. `planned` are columns whose shift is no reason to refuse a retrain.
    `behaviour` are metrics of the product: functions `(predictions, labels, context) -> float`
    (`mlct.monitoring.performance.behaviour`), which an SLO may name.
    """

    every: Every = "week"
    start: str = "2020-01-06"
    end: str | None = None
    reference: Choice = "training"
    windows: int = 4
    period: str = "7d"
    sustained: tuple[int, int] = (2, 3)
    fixed_psi: float | None = None
    planned: Sequence[str] = ()
    behaviour: Mapping[str, Callable[..., float]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        def check(name: str, right: bool, expected: str) -> None:
            if not right:
                raise SpecError(
                    f"MonitoringPolicy.{name} is {getattr(self, name)!r}",
                    expected=expected,
                    field=name,
                )

        check("every", self.every in get_args(Every), " or ".join(map(repr, get_args(Every))))
        check("start", _date(self.start) is not None, "a date such as '2024-01-01'")
        check("end", self.end is None or _date(self.end) is not None, "a date, or None")
        check("end", self.end is None or self.start < self.end, f"a date after {self.start}")
        choices = get_args(Choice)
        check("reference", self.reference in choices, " or ".join(map(repr, choices)))
        check("windows", isinstance(self.windows, int) and self.windows >= 1, "1 or more")
        duration(self.period, field="MonitoringPolicy.period")
        pair = isinstance(self.sustained, list | tuple) and [type(n) for n in self.sustained]
        right = pair == [int, int] and 1 <= self.sustained[0] <= self.sustained[1]
        check("sustained", right, "two whole numbers m and n, 1 <= m <= n: in m of n windows")
        object.__setattr__(self, "sustained", tuple(self.sustained))
        limit = self.fixed_psi
        right = limit is None or (isinstance(limit, int | float) and 0 < limit < float("inf"))
        check("fixed_psi", right, "a number above 0, or None for the calibrated decision")
        planned = isinstance(self.planned, list | tuple)
        check("planned", planned and all(isinstance(n, str) for n in self.planned), "column names")
        object.__setattr__(self, "planned", tuple(self.planned))
        named = isinstance(self.behaviour, Mapping) and all(
            isinstance(n, str) and n.isidentifier() and callable(f)
            for n, f in self.behaviour.items()
        )
        check("behaviour", named, "a mapping of names to functions")

    @property
    def step(self) -> timedelta:
        """About how long a window is."""
        return _STEP[self.every]

    @property
    def first_weekday(self) -> int:
        """Of weeks: 0 is Sunday."""
        return date.fromisoformat(self.start).isoweekday() % 7


def _date(text: Any) -> date | None:
    try:
        return date.fromisoformat(text)
    except (TypeError, ValueError):
        return None
