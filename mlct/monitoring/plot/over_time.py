"""A metric over time: as estimated, as realised, and what went live meanwhile."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from math import isfinite
from typing import Any

import numpy as np

from mlct.data.window import as_utc
from mlct.errors import DataError
from mlct.evaluation.plot import STYLES, WIDTH, WORSE, canvas, empty, plain, png
from mlct.monitoring.performance import Performance

_REALISED, _ESTIMATED = STYLES["challenger"][0], STYLES["champion"][0]
_MARK = "#555555"
_DAY = timedelta(days=1)
# Marks nearer than this share of the picture's width have one label.
_NEAR = 0.035

Array = np.ndarray[Any, np.dtype[Any]]


def timeline(
    performances: Sequence[Performance],
    *,
    limit: float | None = None,
    bigger_is_better: bool = True,
    moves: Sequence[tuple[datetime, str]] = (),
) -> bytes:
    """One metric at each window's start: estimates dashed with their band, realised values solid.

    Red is a realised value whose whole interval lies on the wrong side of `limit`; windows of which
    nothing is realised yet are grey crosses at the bottom, with the date until which. `moves` are
    promotions and rollbacks, as `(when, "version 3")`; of those before the
    first window the last is named. Of two results of one kind for a window the last counts. Raises
    DataError for several metrics, for a result without a window, and for a limit that is not
    finite.
    """
    names = sorted({p.metric for p in performances})
    if len(names) > 1:
        raise DataError(f"values of {names}", expected="one metric", fix="Draw each by itself")
    if limit is not None and not isfinite(limit):
        raise DataError(f"a limit of {limit}", expected="a finite number, or None")
    if not names:
        return _no_windows()
    of: dict[str, dict[datetime, Performance]] = {"estimated": {}, "realised": {}, "unknown": {}}
    for p in performances:
        if p.end is None:
            raise DataError(f"{p.metric} of no window", expected="a result with an `end`")
        of[p.kind][p.start or p.end] = p
    times = sorted({time for some in of.values() for time in some})
    estimated, realised = of["estimated"], of["realised"]

    style: dict[str, Any]
    figure, axes = canvas("", "", plain(names[0]), size=(WIDTH, 4.0 if moves else 3.6))
    figure.suptitle(f"{plain(names[0])} over time", fontsize=11)
    if estimated:
        value, lower, upper = _values(estimated, times)
        axes.fill_between(times, lower, upper, color=_ESTIMATED, alpha=0.18, linewidth=0)
        style = {
            "color": _ESTIMATED,
            "linestyle": "--",
            "marker": ".",
            "markersize": 4,
        }
        axes.plot(times, value, linewidth=1.3, label="estimated", **style)
    if realised:
        _draw_realised(axes, realised, times, limit, bigger_is_better)
    if limit is not None:
        side = "least" if bigger_is_better else "most"
        style = {"color": WORSE, "linestyle": ":", "linewidth": 1.3}
        axes.axhline(limit, label=f"at {side} {limit:g}", **style)
    _scale(axes, [*estimated.values(), *realised.values()], limit)
    unknown = {time: p for time, p in sorted(of["unknown"].items()) if time not in realised}
    if unknown:
        place = axes.get_xaxis_transform()
        style = {
            "color": "#7f7f7f",
            "linestyle": "",
            "marker": "x",
            "markersize": 5,
        }
        low = [0.03] * len(unknown)
        axes.plot([*unknown], low, transform=place, label=_until(unknown.values()), **style)
    _mark_moves(axes, moves, times)
    if len(times) == 1:  # which alone would stand among years
        lengths = [p.end - p.start for p in performances if p.start and p.end]
        room = 2 * max(lengths, default=_DAY)
        last = max([times[0] + room, *(as_utc(at) for at, _ in moves)])
        axes.set_xlim(times[0] - room, last)
    _dates(axes)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return png(figure)


def _no_windows() -> bytes:
    return empty("Performance over time", "No window has been measured yet")


def _values(of: dict[datetime, Performance], times: Sequence[datetime]) -> tuple[Array, ...]:
    """Value, lower and upper at each time; NaN where there is none."""
    rows = [(p.value, p.lower, p.upper) if (p := of.get(time)) else (None,) * 3 for time in times]
    return tuple(np.array(rows, dtype=float).T)


def _draw_realised(
    axes: Any,
    of: dict[datetime, Performance],
    times: Sequence[datetime],
    limit: float | None,
    bigger_is_better: bool,
) -> None:
    value, lower, upper = _values(of, times)
    bad = np.zeros(len(times), bool)
    if limit is not None:
        # Without an interval the value itself.
        best = np.where(np.isnan(upper), value, upper)
        worst = np.where(np.isnan(lower), value, lower)
        bad = best < limit if bigger_is_better else worst > limit
    axes.vlines(times, lower, upper, color=_REALISED, linewidth=0.9)
    axes.plot(
        times, value, color=_REALISED, linewidth=1.3, marker="o", markersize=4, label="realised"
    )
    if bad.any():
        at = [time for time, of_limit in zip(times, bad, strict=True) if of_limit]
        axes.vlines(at, lower[bad], upper[bad], color=WORSE, linewidth=0.9)
        style: dict[str, Any] = {
            "color": WORSE,
            "linestyle": "",
            "marker": "o",
            "markersize": 5,
            "zorder": 3,
        }
        axes.plot(at, value[bad], label="realised, shown beyond the limit", **style)


def _scale(axes: Any, known: Sequence[Performance], limit: float | None) -> None:
    """By the values: the interval of one small window must not flatten all others."""
    held = [p.value for p in known if p.value is not None]
    held += [] if limit is None else [limit]
    if not held:
        axes.set_yticks([])
        return
    low, high = min(held), max(held)
    room = 0.75 * (high - low) or max(abs(high) * 0.1, 1e-9)
    bounds = [b for p in known for b in (p.lower, p.upper) if b is not None] + held
    below, above = max(low - room, min(bounds)), min(high + room, max(bounds))
    room = 0.08 * (above - below) or room
    axes.set_ylim(below - 1.5 * room, above + room)  # the grey marks stand below


def _until(unknown: Iterable[Performance]) -> str:
    dates = sorted({p.until.strftime("%Y-%m-%d") for p in unknown if p.until is not None})
    if not dates:
        return "unknown"
    return f"unknown until {dates[0]}" + (f" to {dates[-1]}" if dates[1:] else "")


def _mark_moves(
    axes: Any, moves: Sequence[tuple[datetime, str]], times: Sequence[datetime]
) -> None:
    """Lines, with the words above; of those that lie close together the last one's."""
    known = sorted((as_utc(at), text) for at, text in moves)
    before = [move for move in known if move[0] < times[0]]
    later = known[len(before) :]
    for at, _ in later:
        axes.axvline(at, color=_MARK, linewidth=0.8, linestyle="-.", zorder=0)
    # What was live when the windows began has no line: it went live before.
    labels = [(times[0], before[-1][1])] if before else []
    near = _NEAR * (max(times[-1], *(at for at, _ in known)) - times[0]) if known else None
    groups: list[list[tuple[datetime, str]]] = []
    for move in [*labels, *later]:
        if groups and near is not None and move[0] - groups[-1][0][0] <= near:
            groups[-1].append(move)
        else:
            groups.append([move])
    for group in groups:
        words = plain(group[-1][1], 24) + (f" (+{len(group) - 1})" if group[1:] else "")
        axes.text(
            group[0][0],
            1.01,
            words,
            transform=axes.get_xaxis_transform(),
            rotation=35,
            fontsize=8,
            color=_MARK,
        )


def _dates(axes: Any) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator: Any = AutoDateLocator(minticks=3, maxticks=8)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.tick_params(labelsize=8)
    axes.xaxis.get_offset_text().set_fontsize(8)
