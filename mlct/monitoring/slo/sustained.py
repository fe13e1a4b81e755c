"""Sustained breach of a plain series, and a CUSUM against an objective."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate
from math import isfinite, log
from numbers import Integral, Real
from typing import Any

from mlct.errors import DataError

#: Evidence (log-likelihood ratio) at which CUSUM fires; about one false alarm in 30 years of days
#: when the true rate stays half a percentage point inside an objective of 12 % (slo_alarms.py).
FIRES = 6.0
#: What it keeps at most, so that it comes down again once the objective is met.
KEEPS = 2 * FIRES


@dataclass(frozen=True, kw_only=True, slots=True)
class SustainedBreach:
    """`day` is the position (from 0) at which it fired, None if it never did; `longest_run` is the
    most days in a row whose rolling mean lay below the floor."""

    day: int | None
    longest_run: int

    @property
    def fired(self) -> bool:
        return self.day is not None


def sustained_breach(
    values: Sequence[float | None], *, floor: float, window: int, consecutive: int
) -> SustainedBreach:
    """Whether the rolling mean of `window` values stays below `floor` for `consecutive` days.

    `values` are one number a day, oldest first. The first `window - 1` days have no mean and breach
    nothing. A missing value (None or NaN) is left out of its means; a mean of nothing but missing
    values counts as below the floor: silence is never good.

    >>> sustained_breach([0.91, 0.90, 0.86, 0.85, 0.84], floor=0.88, window=2, consecutive=2)
    SustainedBreach(day=4, longest_run=2)

    Raises DataError on a value or a floor that is no finite number, and on counts below 1.
    """
    least = _number("floor", floor)
    if least is None:
        raise DataError(f"floor is {floor!r}", expected="a finite number")
    for name, count in (("window", window), ("consecutive", consecutive)):
        if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
            raise DataError(f"{name} is {count!r}", expected="a whole number from 1 on")
    try:
        told = list(values)
    except TypeError as error:
        raise DataError(f"the values are {values!r}", expected="one number a day") from error
    numbers = [_number(f"value {i}", value) for i, value in enumerate(told)]
    day, run, longest = None, 0, 0
    for i in range(window - 1, len(numbers)):
        known = [v for v in numbers[i - window + 1 : i + 1] if v is not None]
        below = not known or sum(known) / len(known) < least
        run = run + 1 if below else 0
        longest = max(longest, run)
        if day is None and run >= consecutive:
            day = i
    return SustainedBreach(day=day, longest_run=longest)


def _number(name: str, value: Any) -> float | None:
    """A finite number; None for one that is missing: None, NaN, or what pandas calls NA."""
    if value is None or str(value) in ("nan", "<NA>", "NaT"):
        return None
    if hasattr(value, "as_py"):  # of Arrow
        return _number(name, value.as_py())
    if not isinstance(value, Real | Decimal) or not isfinite(value):
        raise DataError(f"{name} is {value!r}", expected="a finite number, None where missing")
    return float(value)


def cusum(evidence: Iterable[float]) -> list[float]:
    """Page's cumulative sum (1954) after each step: what speaks for a breach since all looked well.

    `evidence` are log-likelihood ratios of "worse by the shift" to "just at the objective", oldest
    first. A sum above FIRES fires.
    """
    return list(accumulate(evidence, lambda s, e: min(KEEPS, max(0.0, s + e)), initial=0.0))[1:]


def of_counts(bad: float, total: float, allowed: float, shift: float) -> float:
    """Evidence in `bad` of `total` events when the share `allowed` may be bad (Bernoulli)."""
    worse = min(allowed + shift, (1 + allowed) / 2)
    return bad * log(worse / allowed) + (total - bad) * log((1 - worse) / (1 - allowed))


def of_value(beyond: float, error: float, shift: float | None) -> float:
    """Evidence in a value that lies `beyond` its objective, with its standard error (normal).

    `shift` is in the value's units; None is one standard error.
    """
    shift = error if shift is None else shift
    return (beyond - shift / 2) * shift / error**2
