"""Drift over several windows: what lasts, and which windows make the reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from mlct.data.window import duration
from mlct.errors import SpecError
from mlct.monitoring.drift.report import DriftReport


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftDecision:
    """Whether drift has lasted and matters.

    `columns` moved in the newest window and in enough of the last ones; `weight` is the share of
    importance in the features among them; `prediction` says that a score is among them. `broken`
    columns of the newest window are for people: they never trigger by themselves.
    """

    trigger: bool
    columns: tuple[str, ...]
    weight: float
    prediction: bool
    broken: tuple[str, ...]
    reason: str


def decide_drift(
    reports: Sequence[DriftReport],
    *,
    before: Sequence[Mapping[str, str]] = (),
    breaches: int = 2,
    of: int = 3,
    floor: float = 0.1,
) -> DriftDecision:
    """Decide from the reports of successive windows, oldest first.

    `before` are the windows before them, as the status of each column that was stored.
    Triggers when a score has moved in `breaches` of the last `of` windows, or features that carry
    at least `floor` of the importance have, the newest window among them. A window of too few rows
    has its place and is no breach.
    """
    if not 1 <= breaches <= of or not 0 <= floor <= 1:
        raise SpecError(
            f"decide_drift was asked for {breaches!r} of {of!r} windows, floor {floor!r}",
            expected="1 <= breaches <= of and 0 <= floor <= 1",
        )
    known = [*before, *({n: c.status for n, c in r.columns.items()} for r in reports)][-of:]
    if not reports:
        return DriftDecision(
            trigger=False,
            columns=(),
            weight=0.0,
            prediction=False,
            broken=(),
            reason="no window was compared yet",
        )

    def times(name: str) -> int:
        return sum(statuses.get(name) == "drifted" for statuses in known)

    newest = reports[-1].columns.values()
    lasting = [c for c in newest if c.status == "drifted" and times(c.name) >= breaches]
    broken = tuple(c.name for c in newest if c.broken)
    weight = sum(c.importance for c in lasting if not c.prediction)
    prediction = any(c.prediction for c in lasting)
    trigger = prediction or (weight >= floor and bool(lasting))
    often = f"{breaches} of {of}"
    told = reports[-1].reason
    if lasting:
        more = f"; and {len(lasting) - 3} more" * (len(lasting) > 3)
        told = "; ".join(c.reason for c in lasting[:3]) + more
        share = "" if prediction else f"{weight:.0%} of importance moved"
        lasts = f"moved in {often} windows" if prediction else f" in {often} windows"
        told = ": ".join(filter(None, [share + lasts * (of > 1), told]))
    elif any(c.status == "drifted" for c in newest):
        told = f"moved in this window, not yet in {often}: {told}"
    if broken:
        told += f"; broken: {', '.join(broken)}"
    return DriftDecision(
        trigger=trigger,
        columns=tuple(c.name for c in lasting),
        weight=weight,
        prediction=prediction,
        broken=broken,
        reason=told,
    )


def reference_windows(
    starts: Sequence[datetime],
    current: datetime,
    *,
    choice: str = "trailing",
    count: int = 4,
    period: str = "7d",
) -> list[int]:
    """Positions in `starts` of the windows whose merged profile is the reference of `current`.

    "trailing": the last `count` windows before it. "season": those nearest to 1, 2, ... `count`
    times `period` before it, where one began within half a window of that; a season that was not
    seen is left out. Empty where there is none: use the training profile. Raises SpecError for
    another choice.
    """
    if choice not in ("trailing", "season") or count < 1:
        raise SpecError(
            f"a drift reference of {count!r} windows by {choice!r}",
            expected="'trailing' or 'season', and one window or more",
        )
    before = sorted((s, i) for i, s in enumerate(starts) if s < current)
    if choice == "trailing":
        return [i for _, i in before[-count:]]
    step = duration(period, field="period")
    gaps = sorted(b[0] - a[0] for a, b in pairwise(before))
    within = gaps[len(gaps) // 2] / 2 if gaps else timedelta(0)
    found = []
    for times in range(count, 0, -1):
        wanted = current - times * step
        near = min(before, key=lambda w: abs(w[0] - wanted), default=None)
        if near is not None and abs(near[0] - wanted) <= within and near[1] not in found:
            found.append(near[1])
    return found
