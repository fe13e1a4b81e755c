"""When to roll back: declared signals that breach in enough windows of what is live."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isfinite

from mlct.data.window import duration
from mlct.errors import SpecError


@dataclass(frozen=True, slots=True)
class Signal:
    """A number that is reported for each window, and what breaches.

    A window breaches when its value is above `max` or below `min` and rests on at least
    `min_samples` samples; the signal does when `breaches` of its last `of` windows breach, the
    newest among them.
    """

    name: str
    max: float | None = None
    min: float | None = None
    min_samples: int = 1
    breaches: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        def check(right: bool, expected: str) -> None:
            if not right:
                raise SpecError(f"a rollback signal {self}", expected=expected)

        named = isinstance(self.name, str) and self.name.replace("_", "a").isalnum()
        check(named, "a name of letters, digits and '_'")
        bounds = [b for b in (self.min, self.max) if b is not None]
        check(
            bool(bounds) and all(isinstance(b, int | float) and isfinite(b) for b in bounds),
            "a finite min, max or both",
        )
        check(bounds == sorted(bounds), "min <= max")
        counts = (self.min_samples, self.breaches, self.of)
        check(
            all(isinstance(n, int) for n in counts)
            and self.min_samples >= 1
            and 1 <= self.breaches <= self.of <= KEEP,
            f"whole numbers with min_samples >= 1 and 1 <= breaches <= of <= {KEEP}",
        )


#: So many windows of a signal are kept: no signal looks back further.
KEEP = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class RollbackPolicy:
    """When a model goes back without a human, and how often that is rehearsed.

    One signal that breaches is enough. `drill` is the cron line of the drill; a drill must be done
    within `bar`, and is overdue when the last one is longer ago than `overdue`.
    """

    signals: Sequence[Signal] = ()
    drill: str = "0 5 * * 1"
    bar: str = "5m"
    overdue: str = "10d"

    def __post_init__(self) -> None:
        signals = tuple(self.signals) if isinstance(self.signals, list | tuple) else None
        if signals is None or not all(isinstance(s, Signal) for s in signals):
            raise SpecError(
                f"RollbackPolicy.signals is {self.signals!r}", expected="a list of mlct.Signal"
            )
        names = [s.name for s in signals]
        if len(set(names)) < len(names):
            raise SpecError(f"two rollback signals of one name: {names}", expected="distinct names")
        object.__setattr__(self, "signals", signals)
        if not isinstance(self.drill, str) or len(self.drill.split()) not in (1, 5):
            raise SpecError(
                f"RollbackPolicy.drill is {self.drill!r}", expected="a cron line, or '@weekly'"
            )
        duration(self.bar, field="RollbackPolicy.bar")
        duration(self.overdue, field="RollbackPolicy.overdue")


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalWindow:
    """What was reported for one window `[start, end)` of one version.

    `value` is None where nothing could be measured; `start` is None where it was not told.
    """

    version: int
    end: datetime
    value: float | None
    samples: int
    reported_at: datetime
    start: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RollbackDecision:
    """Whether to go back, which signals say so, and why (or why not), signal by signal.

    `seen` is when the last report arrived that made it a breach.
    """

    roll_back: bool
    signals: tuple[str, ...]
    reason: str
    seen: datetime | None


def decide_rollback(
    policy: RollbackPolicy,
    windows: Mapping[str, Sequence[SignalWindow]],
    *,
    version: int,
    since: datetime,
) -> RollbackDecision:
    """Decide from what is stored about `version`, which is live `since`.

    Windows of another version, and those that began (or, where that is unknown, ended) before it
    went live, do not count. A window without a value or with too few samples has its place among
    the last ones but is no breach: silence alone never rolls back.
    """
    if not policy.signals:
        return RollbackDecision(
            roll_back=False, signals=(), reason="no rollback signal is declared", seen=None
        )
    breached, told, seen = list[str](), list[str](), list[datetime]()
    for signal in policy.signals:
        known = [
            w
            for w in windows.get(signal.name, ())
            if w.version == version and (w.start >= since if w.start else w.end > since)
        ]
        recent = sorted(known, key=lambda w: (w.end, w.reported_at))[-signal.of :]
        hits = [w for w in recent if _breach(signal, w)]
        fires = len(hits) >= signal.breaches and hits[-1] is recent[-1]
        told.append(_told(signal, recent, len(hits)))
        if fires:
            breached.append(signal.name)
            seen += [max(w.reported_at for w in hits)]
    reasons = [t for s, t in zip(policy.signals, told, strict=True) if s.name in breached] or told
    return RollbackDecision(
        roll_back=bool(breached),
        signals=tuple(breached),
        reason="; ".join(reasons),
        seen=max(seen, default=None),
    )


def _enough(signal: Signal, window: SignalWindow) -> bool:
    return window.value is not None and window.samples >= signal.min_samples


def _breach(signal: Signal, window: SignalWindow) -> bool:
    if window.value is None or not _enough(signal, window):
        return False
    high = signal.max is not None and window.value > signal.max
    return high or (signal.min is not None and window.value < signal.min)


def _told(signal: Signal, recent: Sequence[SignalWindow], hits: int) -> str:
    if not recent:
        return f"{signal.name}: no window yet"
    newest = recent[-1]
    value = "missing" if newest.value is None else f"{newest.value:.6g}"
    sides = [(">", signal.max), ("<", signal.min)]
    limit = " or ".join(f"{sign} {bound:g}" for sign, bound in sides if bound is not None)
    enough = "" if _enough(signal, newest) else f", insufficient: {signal.min_samples} wanted"
    return (
        f"{signal.name}: {hits} of the last {signal.of} windows breached ({limit}; goes back at "
        f"{signal.breaches} with the newest), newest {value} of {newest.samples} samples{enough}"
    )
