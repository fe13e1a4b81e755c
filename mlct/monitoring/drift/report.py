"""`drift`: every column of a window against the reference, and which of them have moved."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special

from mlct.data.profile import Column, Profile, profile
from mlct.errors import DataError
from mlct.monitoring.drift.compared import Compared, comparable, compared
from mlct.monitoring.drift.decision import (
    ROWS_PER_BIN,
    TAU,
    Spread,
    _deviate,
    benjamini_hochberg,
    least_effect,
    least_index,
    missing_moved,
    spread_of,
    unseen_moved,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnDrift:
    """One column of a window against the reference.

    `status` is "ok", "drifted", "insufficient" (fewer than 20 rows a bin: nothing can be said),
    "missing" (absent from the window), "changed" (of another kind) or "incomparable" (profiled on
    other edges). `psi` is the population stability index, `jensen_shannon` a distance (base 2) and
    `chi_square` two-sample, all three on the same bins; `ks` and `wasserstein` (over the
    reference's standard deviation) are at most `ks_error` and `wasserstein_error` more than told.
    `p_value` is that of "it moved no more than matters", over the column's tests; `threshold` the
    stability index that would be drift at these sizes, among these columns.
    """

    name: str
    status: str
    reason: str
    psi: float | None = None
    jensen_shannon: float | None = None
    ks: float | None = None
    ks_error: float | None = None
    wasserstein: float | None = None
    wasserstein_error: float | None = None
    chi_square: float | None = None
    chi_square_p: float | None = None
    p_value: float | None = None
    threshold: float | None = None
    bins: int = 0
    rows: tuple[int, int] = (0, 0)
    missing: tuple[float, float] = (0.0, 0.0)
    unseen: float = 0.0
    new_values: tuple[str, ...] = ()
    importance: float = 0.0
    prediction: bool = False

    @property
    def drifted(self) -> bool:
        """Whether it moved, went missing or changed its kind."""
        return self.status in ("drifted", "missing", "changed")

    @property
    def broken(self) -> bool:
        """Whether people must mend it: training on it again would not."""
        return self.status in ("missing", "changed", "incomparable")


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftReport:
    """All columns of a window, those that matter most first.

    Predictions come before features; then drift, then importance, then distance.
    """

    columns: Mapping[str, ColumnDrift]
    rows: tuple[int, int]
    alpha: float
    tau: float
    new_columns: tuple[str, ...] = ()

    @property
    def drifted(self) -> bool:
        """Whether any column moved."""
        return any(c.drifted for c in self.columns.values())

    @property
    def status(self) -> str:
        """One of "drifted", "insufficient" (of a column nothing can be said), "ok"."""
        states = {c.status for c in self.columns.values()}
        if self.drifted:
            return "drifted"
        return "insufficient" if states - {"ok"} or not states else "ok"

    @property
    def weight(self) -> float:
        """Share of the importance that lies in features that moved."""
        return sum(c.importance for c in self.columns.values() if c.drifted and not c.prediction)

    @property
    def reason(self) -> str:
        """The most important of what moved, in words."""
        moved = [c.reason for c in self.columns.values() if c.drifted]
        if moved:
            more = f"; and {len(moved) - 3} more" if len(moved) > 3 else ""
            return f"{len(moved)} of {len(self.columns)} columns: " + "; ".join(moved[:3]) + more
        unsaid = [c for c in self.columns.values() if c.status != "ok"]
        if unsaid:
            return f"no drift shown; of {len(unsaid)} columns nothing is known: {unsaid[0].reason}"
        if all(c.prediction for c in self.columns.values()):
            return "scores did not move"
        return f"none of {len(self.columns)} columns moved"


def drift(
    reference: Any,
    current: Any,
    *,
    alpha: float = 0.05,
    importance: Mapping[str, float] | None = None,
    tau: float = TAU,
    predictions: Sequence[str] = (),
    past: Sequence[Profile] | Mapping[str, Spread] = (),
) -> DriftReport:
    """Compare a window with a reference: profiles, or data that `mlct.profile` reads.

    A column moved when its stability index is shown above `tau`, its share of missing values
    changed by more than 1 percentage point, or it holds more unseen categories than chance gives.
    On windows in which nothing moved, at most `alpha` raise any alarm. `importance` are the
    champion's (any scale); without it all columns are equal. `predictions` are columns of scores.
    `past` are undisturbed windows on the same edges, eight or more, which show how much rows that
    belong together move by themselves, or what `spreads` learned of them. Raises DataError when no
    column can be compared.
    """
    if not (_number(alpha) and 0 < alpha < 1 and _number(tau) and tau >= 0):
        raise DataError(
            f"drift was asked for at alpha {alpha!r}, tau {tau!r}",
            expected="0 < alpha < 1 and tau >= 0",
        )
    old = reference if isinstance(reference, Profile) else profile(reference)
    new = current if isinstance(current, Profile) else profile(current, edges_from=old)
    weights = _weights(old, importance, predictions)
    usual = past if isinstance(past, Mapping) else spreads(old, past)
    found = {
        name: _measured(name, column, new.columns.get(name), usual.get(name, _INDEPENDENT), tau)
        for name, column in old.columns.items()
    }
    alike = {m.drift.status for m in found.values()} - {"missing", "changed"}
    if alike == {"incomparable"}:
        raise DataError(
            "the window was not profiled on the reference's edges",
            expected="profile(rows, edges_from=reference)",
            fix="Profile the window again with edges_from=the reference",
        )
    told = {name: c.p for name, c in found.items() if c.p is not None}
    limit = benjamini_hochberg(told, alpha)
    columns = [
        replace(
            _judged(c, limit, tau),
            importance=weights.get(name, 0.0),
            prediction=name in predictions,
        )
        for name, c in found.items()
    ]
    columns = [replace(c, reason=_told(c)) for c in columns]
    columns.sort(key=_rank)
    return DriftReport(
        columns={c.name: c for c in columns},
        rows=(old.rows, new.rows),
        alpha=alpha,
        tau=tau,
        new_columns=tuple(sorted(set(new.columns) - set(old.columns))),
    )


def _rank(column: ColumnDrift) -> tuple[Any, ...]:
    far = math.inf if column.psi is None else column.psi
    weight = 1.0 if column.prediction else column.importance
    return (not column.prediction, not column.drifted, -weight * min(far, 1e6), -far, column.name)


def _number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _weights(
    reference: Profile, importance: Mapping[str, float] | None, predictions: Sequence[str]
) -> dict[str, float]:
    features = [name for name in reference.columns if name not in predictions]
    if importance is None:
        importance = dict.fromkeys(features, 1.0)
    mapping = isinstance(importance, Mapping)
    if not mapping or not all(_number(v) and v >= 0 for v in importance.values()):
        raise DataError(
            f"importances {importance!r:.200}", expected="by column, finite numbers, 0 or more"
        )
    total = sum(importance.get(name, 0.0) for name in features)
    return {name: importance.get(name, 0.0) / total for name in features} if total else {}


_INDEPENDENT = Spread()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Measured:
    """A column before it is known how many others moved; `p` is None where nothing is tested."""

    drift: ColumnDrift
    found: Compared | None = None
    p: float | None = None
    tests: int = 1
    spread: Spread = _INDEPENDENT


def _measured(
    name: str,
    old: Column,
    new: Column | None,
    spread: Spread,
    tau: float,
) -> _Measured:
    def plain(status: str, reason: str) -> _Measured:
        rows = (old.rows, new.rows if new else 0)
        return _Measured(drift=ColumnDrift(name=name, status=status, reason=reason, rows=rows))

    if new is None:
        return plain("missing", f"{name} is missing: the window has no such column")
    kinds = (old.kind, new.kind)
    if old.kind != new.kind and new.kind != "missing":
        types = " or ".join(new.types)
        return plain("changed", f"{name} changed from {' or '.join(old.types)} to {types}")
    if not comparable(old, new):
        return plain("incomparable", f"{name} was profiled on other edges than the reference's")
    found = compared(old, new) if "missing" not in kinds else None
    drift = ColumnDrift(
        name=name,
        status="insufficient",
        reason=f"{name} has {new.rows} rows, and the reference {old.rows}: too few",
        rows=(old.rows, new.rows),
        missing=tuple(c.missing / c.rows if c.rows else 0.0 for c in (old, new)),  # type: ignore[arg-type]
    )
    p = []
    if min(old.rows, new.rows) >= 2 * ROWS_PER_BIN:
        p.append(missing_moved(old.missing, old.rows, new.missing, new.rows, spread))
    if found is not None:
        drift = replace(
            drift,
            psi=found.psi,
            jensen_shannon=found.jensen_shannon,
            ks=found.ks,
            ks_error=found.ks_error,
            wasserstein=found.wasserstein,
            wasserstein_error=found.wasserstein_error,
            chi_square=found.chi_square,
            chi_square_p=found.chi_square_p,
            bins=found.bins,
            unseen=found.fresh / found.sampled if found.sampled else 0.0,
            new_values=found.new_values,
        )
        if found.enough:
            p.append(
                least_effect(
                    found.psi, bins=found.bins, n=found.n, m=found.m, tau=tau, spread=spread
                )
            )
        if found.sampled >= ROWS_PER_BIN:
            p.append(unseen_moved(found.fresh, found.sampled, found.once, found.known, spread))
    if not p:
        return _Measured(drift=drift)
    return _Measured(
        drift=drift, found=found, p=min(1.0, len(p) * min(p)), tests=len(p), spread=spread
    )


def spreads(reference: Profile, past: Sequence[Profile]) -> dict[str, Spread]:
    """How much each column moves by itself, from undisturbed windows on the same edges.

    Of fewer than eight windows nothing is learned: rows count as independent. Store it with the
    reference: it changes only when the windows do.
    """
    return {
        name: _spread(column, [window.columns.get(name) for window in past])
        for name, column in reference.columns.items()
    }


def _spread(old: Column, past: Sequence[Column | None]) -> Spread:
    indices, deviates, unseen = [], [], []
    for window in past:
        if window is None or window.kind != old.kind or not comparable(old, window):
            continue
        if not window.rows or not old.rows:
            continue
        deviates.append(_deviate(old.missing, old.rows, window.missing, window.rows, 0, 1))
        found = compared(old, window)
        if found is not None and found.enough:
            indices.append((found.psi / (1 / found.n + 1 / found.m), found.bins))
            unseen.append(found.fresh / found.sampled if found.sampled else 0.0)
    return spread_of(indices, deviates, unseen)


def _judged(measured: _Measured, limit: float, tau: float) -> ColumnDrift:
    drift, found = measured.drift, measured.found
    if measured.p is None:
        return drift
    threshold = None
    enough = found is None or found.enough
    if found is not None and found.enough:
        threshold = least_index(
            limit / measured.tests,
            bins=found.bins,
            n=found.n,
            m=found.m,
            tau=tau,
            spread=measured.spread,
        )
    status = "drifted" if measured.p <= limit else "ok" if enough else "insufficient"
    return replace(drift, status=status, p_value=measured.p, threshold=threshold)


def _told(c: ColumnDrift) -> str:
    share = f", importance {c.importance:.0%}" if c.importance else ""
    if c.status not in ("drifted", "ok", "insufficient"):
        return c.reason + share
    parts = []
    if c.psi is not None:
        limit = "" if c.threshold is None else f", threshold {c.threshold:.2g}"
        parts.append(f"PSI {c.psi:.2g}{limit}")
    if abs(c.missing[0] - c.missing[1]) > 0.001:
        parts.append(f"missing {c.missing[1]:.1%} (was {c.missing[0]:.1%})")
    if c.unseen:
        parts.append(f"unseen {c.unseen:.2%} ({', '.join(repr(v) for v in c.new_values[:3])})")
    verb = {"drifted": "moved", "ok": "did not move"}.get(
        c.status, f"has too few rows ({c.rows[1]}, reference {c.rows[0]})"
    )
    return f"{c.name} {verb}: " + ", ".join(parts or ["nothing to compare"]) + share


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedRule:
    """What "PSI above `limit`" says of a report, and how often it would say so without drift.

    `false_alarm` is the chance for each column at the present sizes, `any_false_alarm` that for
    the window, were columns independent.
    """

    limit: float
    moved: tuple[str, ...]
    false_alarm: Mapping[str, float]
    any_false_alarm: float
    reason: str


def fixed_rule(report: DriftReport, *, limit: float = 0.2) -> FixedRule:
    """The rule of thumb (0.1: look, 0.2: act), for those whose policy demands it.

    Without drift, the index over (1/n + 1/m) is chi-square of bins - 1 degrees.
    """
    known = [c for c in report.columns.values() if c.psi is not None and c.bins > 1]
    alarm = {}
    for c in known:
        held = [rows * (1 - gone) for rows, gone in zip(c.rows, c.missing, strict=True)]
        alarm[c.name] = float(special.chdtrc(c.bins - 1, limit / sum(1 / h for h in held)))
    quiet = math.prod(1 - p for p in alarm.values())
    moved = tuple(c.name for c in report.columns.values() if c.broken or (c.psi or 0) > limit)
    return FixedRule(
        limit=limit,
        moved=moved,
        false_alarm=alarm,
        any_false_alarm=1 - quiet,
        reason=f"{len(moved)} of {len(report.columns)} columns above PSI {limit:g}; without any "
        f"drift this rule fires in {1 - quiet:.2g} of windows of {report.rows[1]} rows",
    )
