"""Windows of an indicator as the slices that a budget counts: judged, merged, gaps filled."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import isfinite, sqrt
from statistics import NormalDist, median
from typing import Literal

from mlct.errors import DataError
from mlct.monitoring.slo.objective import Objective

#: So many missing slices in a row are late, not silent.
LATE = 2
Verdict = Literal["good", "bad", "insufficient", "late", "missing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SloWindow:
    """What one window `[start, end)` of an indicator measured; times are aware.

    A ratio gives `good` of `total` events. A threshold gives a `value`, None where nothing could be
    measured, with the number of `samples` (labels) it rests on; `lower` and `upper` are its
    one-sided bounds at `confidence`, where it is an estimate.
    """

    start: datetime
    end: datetime
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    confidence: float = 0.95
    good: float | None = None
    total: float | None = None
    samples: int | None = None

    def __post_init__(self) -> None:
        def check(right: bool, expected: str) -> None:
            if not right:
                raise DataError(f"a window of an SLO is {self}", expected=expected)

        check(bool(self.start.tzinfo and self.end.tzinfo), "times with a zone")
        check(self.start < self.end, "start before end")
        check((self.good is None) == (self.total is None), "good and total, or neither")
        if self.good is not None and self.total is not None:
            finite = isfinite(self.good) and isfinite(self.total)
            check(finite and 0 <= self.good <= self.total, "counts with 0 <= good <= total")
        elif self.value is not None and self.value == self.value:
            check(self.samples is not None, "samples: how many labels the value rests on")
        check(self.samples is None or self.samples >= 0, "samples from 0 on")
        check(0.5 < self.confidence < 1, "confidence above 0.5 and below 1")
        bounds = [b for b in (self.lower, self.value, self.upper) if b is not None and b == b]
        check(bounds == sorted(bounds), "lower <= value <= upper")


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """One slice: its verdict, and `bad` of `weight` in the budget.

    `short` says whether it lies below the objective as measured, sure or not. `beyond` and `error`
    are how far a value lies on the wrong side, and its standard error (0 where unknown).
    """

    start: datetime
    end: datetime
    verdict: Verdict
    bad: float
    weight: float
    samples: float
    short: bool = False
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    beyond: float | None = None
    error: float = 0.0


def slices(objective: Objective, windows: Sequence[SloWindow], at: datetime) -> list[Slice]:
    """The slices that ended by `at`, oldest first, gaps filled by what `no-data` says.

    Of two windows of the same time the later in the list counts: labels arrive late. Raises
    DataError where windows overlap, or are longer than the objective's slices.
    """
    given = {w.start: w for w in windows if w.end <= at}
    known = sorted(given.values(), key=lambda w: w.start)
    for before, after in pairwise(known):
        if after.start < before.end:
            raise DataError(
                f"windows of {objective.indicator} overlap: {_told(before)} and {_told(after)}",
                expected="windows that follow each other",
            )
    found = [_judged(objective, part) for part in _grouped(objective, known)]
    return _filled(
        objective, [s for s in found if s is not None], at, slice_length(objective, known)
    )


def slice_length(objective: Objective, windows: Sequence[SloWindow]) -> timedelta | None:
    """Of the objective's slices, or of the windows that it counts."""
    if objective.length is not None:
        return objective.length
    if not windows:
        return None
    return timedelta(seconds=median((w.end - w.start).total_seconds() for w in windows))


def _told(window: SloWindow) -> str:
    return f"[{window.start:%Y-%m-%d %H:%M}, {window.end:%Y-%m-%d %H:%M})"


def _grouped(objective: Objective, windows: Sequence[SloWindow]) -> list[list[SloWindow]]:
    """Windows by slice: one each, or all that begin in the same slice where slices are longer."""
    span = objective.slice
    if span is None:
        return [[w] for w in windows]
    epoch, groups = datetime(1970, 1, 1, tzinfo=UTC), dict[object, list[SloWindow]]()
    for window in windows:
        lasts = window.end - window.start
        # Months and days of 23 or 25 hours are slices too.
        if lasts > span.length * 1.1:
            raise DataError(
                f"the window {_told(window)} of {objective.indicator} lasts {lasts}",
                expected=f"at most the slice of {span} that {objective.name} counts",
                fix="Lengthen timeSliceWindow, or measure in shorter windows",
            )
        whole = lasts > span.length / 2
        key = window.start if whole else (window.start - epoch) // span.length
        groups.setdefault(key, []).append(window)
    return list(groups.values())


def _judged(objective: Objective, windows: Sequence[SloWindow]) -> Slice | None:
    """One slice of one or more windows; None where nothing was measured."""
    counts = [c for w in windows if (c := _counts(objective, w)) is not None]
    if objective.ratio or (counts and objective.value is None):
        good, total = sum(c[0] for c in counts), sum(c[1] for c in counts)
        return _of_counts(objective, windows, good, total) if counts else None
    told = [w for w in windows if w.value is not None and w.value == w.value]
    if not told or objective.value is None:
        return None
    enough = [w for w in told if (w.samples or 0) >= objective.options.min_samples]
    last = (enough or told)[-1]
    bad = sum(_missed(objective, _sure(objective, w)) for w in enough)
    limit = objective.slice_target if objective.slice_target is not None else 1.0
    missed = bool(enough) and len(enough) - bad < limit * len(enough) - 1e-9
    beyond, error = _evidence(objective, last)
    return _slice(
        windows,
        verdict="insufficient" if not enough else "bad" if missed else "good",
        bad=float(missed),
        weight=float(bool(enough)),
        samples=sum(w.samples or 0 for w in told),
        short=missed,
        last=last,
        beyond=beyond if last in enough else None,
        error=error,
    )


def _of_counts(
    objective: Objective, windows: Sequence[SloWindow], good: float, total: float
) -> Slice:
    if not total:  # somebody looked, and there was nothing to judge
        return _slice(windows, verdict="insufficient", last=windows[-1])
    limit, share = objective.limit or 0.0, good / total
    low, high = wilson(good, total, objective.confidence)
    own = windows[0].lower if objective.raw == "failure" else windows[0].upper
    if len(windows) == 1 and own is not None:  # the indicator knows its error, clustered say
        high = 1 - own if objective.raw == "failure" else own
    missed = high < limit - 1e-12
    enough = total >= objective.options.min_samples
    verdict: Verdict = "insufficient" if not enough else "bad" if missed else "good"
    if objective.method == "Occurrences":
        bad, weight = total - good, total
    elif objective.method == "RatioTimeslices":
        bad, weight = (1 - share) * enough, float(enough)
    else:
        bad, weight = float(enough and missed), float(enough)
    shown = SloWindow(
        start=windows[0].start,
        end=windows[-1].end,
        value=share,
        lower=min(low, share),
        upper=max(high, share),
        samples=int(total),
    )
    return _slice(
        windows,
        verdict=verdict,
        bad=bad,
        weight=weight,
        samples=total,
        short=share < limit - 1e-12 if objective.method != "Timeslices" else verdict == "bad",
        last=shown,
    )


def _slice(
    windows: Sequence[SloWindow],
    *,
    verdict: Verdict,
    last: SloWindow,
    bad: float = 0.0,
    weight: float = 0.0,
    samples: float = 0.0,
    short: bool = False,
    beyond: float | None = None,
    error: float = 0.0,
) -> Slice:
    return Slice(
        start=windows[0].start,
        end=windows[-1].end,
        verdict=verdict,
        bad=bad,
        weight=weight,
        samples=samples,
        short=short,
        value=last.value,
        lower=last.lower,
        upper=last.upper,
        beyond=beyond,
        error=error,
    )


def _counts(objective: Objective, window: SloWindow) -> tuple[float, float] | None:
    if window.good is not None and window.total is not None:
        return window.good, window.total
    if not objective.raw or window.value is None or window.value != window.value:
        return None
    samples = float(window.samples or 0)
    share = window.value if objective.raw == "success" else 1 - window.value
    if not 0 <= share <= 1:
        raise DataError(
            f"the window {_told(window)} of {objective.indicator} is {window.value}",
            expected=f"a ratio of {objective.raw} from 0 to 1",
        )
    return share * samples, samples


def _sure(objective: Objective, window: SloWindow) -> float:
    """The value at its best: the bound towards the objective, where there is one."""
    assert window.value is not None
    bound = window.upper if objective.op in ("gte", "gt") else window.lower
    return window.value if bound is None or bound != bound else bound


def _missed(objective: Objective, value: float) -> bool:
    assert objective.value is not None
    return not {
        "gte": value >= objective.value,
        "gt": value > objective.value,
        "lte": value <= objective.value,
        "lt": value < objective.value,
    }[objective.op]


def _evidence(objective: Objective, window: SloWindow) -> tuple[float | None, float]:
    """How far the value lies on the wrong side, and its standard error from its bound."""
    if window.value is None or objective.value is None or not isfinite(window.value):
        return None, 0.0
    sign = 1 if objective.op in ("gte", "gt") else -1
    best, z = _sure(objective, window), NormalDist().inv_cdf(window.confidence)
    error = abs(best - window.value) / z
    return sign * (objective.value - window.value), error if isfinite(error) else 0.0


def _filled(
    objective: Objective, known: list[Slice], at: datetime, length: timedelta | None
) -> list[Slice]:
    """The slices with those that should lie between them, and after the last one."""
    if not known or length is None:
        return known
    found = list[Slice]()
    for one, after in zip(known, [*known[1:], None], strict=True):
        found.append(one)
        if after is not None:
            gap = round((after.start - one.end) / length)
        else:
            gap = int((at - objective.options.delay - one.end) / length)
        found += [_gap(objective, known, one.end, i, length) for i in range(gap)]
    return found


def _gap(
    objective: Objective, known: list[Slice], since: datetime, i: int, length: timedelta
) -> Slice:
    late, says = i < LATE, objective.options.no_data
    counted = not late and says != "ignore"
    weight = 1.0
    if objective.method == "Occurrences" and objective.ratio:
        weight = sum(s.weight for s in known) / len(known)  # as many events as usual
    return Slice(
        start=since + i * length,
        end=since + (i + 1) * length,
        verdict="late" if late else "missing",
        bad=weight if counted and says == "bad" else 0.0,
        weight=weight if counted else 0.0,
        samples=0,
        short=counted and says == "bad",
    )


def wilson(good: float, total: float, confidence: float) -> tuple[float, float]:
    """One-sided bounds of a share, each at `confidence` (Wilson 1927)."""
    z, share = NormalDist().inv_cdf(confidence), good / total
    centre, half = (
        share + z * z / (2 * total),
        z * sqrt(share * (1 - share) / total + z * z / (4 * total * total)),
    )
    size = 1 + z * z / total
    return max(0.0, (centre - half) / size), min(1.0, (centre + half) / size)
