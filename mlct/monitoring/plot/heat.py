"""Which columns drifted, and when."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from mlct.data.window import as_utc
from mlct.errors import DataError
from mlct.evaluation.plot import UNKNOWN, WIDTH, canvas, empty, plain, png

#: More cannot be read.
COLUMNS, WINDOWS = 30, 60

_BROKEN = ("missing", "changed", "incomparable")
# Where the colour of a cell changes: with a threshold it turns from blue to red at 1.
_RATIOS = (0, 0.25, 0.5, 0.75, 1, 1.5, 2, 4)
_INDICES = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)

Array = np.ndarray[Any, np.dtype[Any]]


def heat_map(windows: Sequence[Mapping[str, Any]]) -> bytes:
    """The drift of every column in every window; a dot where it drifted, a cross where it broke.

    A window is `{"start": datetime, "columns": {name: {"psi", "threshold", "status",
    "importance"}}}`, the inner fields as in `mlct.monitoring.drift.ColumnDrift`; a window of which
    only the "end" is known is named by that. The colour is the stability index over its threshold,
    or the index itself when no cell has a threshold; grey is not known. The most important columns
    (in the newest window that has them) are on top; the 30 most important and the 60 newest windows
    are drawn. Raises DataError for a window without a time or columns.
    """
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    for window in windows:
        if not isinstance(_at(window), datetime) or "columns" not in window:
            raise DataError(
                f"a window with {sorted(window)}", expected='"start", a datetime, and "columns"'
            )
    shown = sorted(windows, key=lambda w: as_utc(_at(w)))[-WINDOWS:]
    weights = {n: c.get("importance") or 0.0 for w in shown for n, c in w["columns"].items()}
    names = sorted(weights, key=lambda n: (-weights[n], n))
    drawn, hidden = names[:COLUMNS], names[COLUMNS:]
    if not drawn:
        return empty("Drift", "No window has been compared yet")

    def cells(of: str) -> Array:
        rows = [[w["columns"].get(n, {}).get(of) for w in shown] for n in drawn]
        return np.array([[np.nan if v is None else float(v) for v in row] for row in rows])

    def places(*statuses: str) -> tuple[list[int], list[int]]:
        found = [
            (across, up)
            for up, n in enumerate(drawn)
            for across, w in enumerate(shown)
            if w["columns"].get(n, {}).get("status") in statuses
        ]
        return [across for across, _ in found], [up for _, up in found]

    index, threshold = cells("psi"), cells("threshold")
    judged = bool((threshold > 0).any())
    if judged:
        with np.errstate(divide="ignore", invalid="ignore"):
            index = np.where(threshold > 0, index / threshold, np.nan)
    for across, up in zip(*places("insufficient"), strict=True):
        index[up, across] = np.nan
    levels = _RATIOS if judged else _INDICES
    blues = colormaps["Blues"](np.linspace(0.0, 0.45 if judged else 1.0, 4 if judged else 8))
    reds = colormaps["OrRd"](np.linspace(0.4, 0.9, 4))
    colours = ListedColormap(np.concatenate([blues, reds]) if judged else blues)
    norm = BoundaryNorm(levels, len(levels), extend="max")

    size = (WIDTH, 1.5 + 0.2 * max(len(drawn), 4))
    figure, axes = canvas("", "", "", size=size)
    figure.suptitle("Drift by column and window", fontsize=11)
    if cut := _left_out(windows, shown, hidden):
        axes.set_title(cut, fontsize=8)
    axes.set_facecolor(UNKNOWN)
    shade = axes.pcolormesh(
        np.ma.masked_invalid(np.where(index == np.inf, 1e9, index)),
        cmap=colours,
        norm=norm,
        edgecolors="white",
        linewidth=0.5,
    )
    dot: dict[str, Any] = {
        "marker": "o",
        "markersize": 4.5,
        "color": "black",
        "markeredgecolor": "white",
    }
    cross: dict[str, Any] = {
        "marker": "x",
        "markersize": 4.5,
        "color": "black",
        "markeredgewidth": 1.4,
    }
    for style, statuses in ((dot, ("drifted",)), (cross, _BROKEN)):
        middles = np.array(places(*statuses)) + 0.5
        axes.plot(*middles, linestyle="", **style)
    axes.set(xlim=(0, len(shown)), ylim=(len(drawn), 0))
    axes.set_yticks(np.arange(len(drawn)) + 0.5, [plain(n, 26) for n in drawn], fontsize=8)
    ticks = np.unique(np.linspace(0, len(shown) - 1, 5).round().astype(int))
    times = [as_utc(_at(w)) for w in shown]
    axes.set_xticks(ticks + 0.5, [_instant(times[i], times) for i in ticks], fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(shade, ax=axes, ticks=levels, pad=0.02, aspect=30)
    bar.ax.set_yticklabels([f"{level:g}" for level in levels], fontsize=8)
    bar.set_label("PSI / threshold" if judged else "PSI", fontsize=8)
    marks = [
        Line2D([], [], linestyle="", label="drifted (by any test)", **dot),
        Line2D([], [], linestyle="", label="missing, changed, incomparable", **cross),
        Patch(color=UNKNOWN, label="too few rows, or not known"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return png(figure)


def _at(window: Mapping[str, Any]) -> Any:
    """What names a window: its start, as in partition keys."""
    return window.get("start", window.get("end"))


def _left_out(
    windows: Sequence[Mapping[str, Any]], shown: Sequence[Mapping[str, Any]], hidden: Sequence[str]
) -> str:
    cut = []
    if len(windows) > len(shown):
        cut.append(f"the newest {len(shown)} of {len(windows)} windows")
    if hidden:
        # Left out is not the same as quiet.
        bad = ("drifted", *_BROKEN)
        moved = sum(
            any(w["columns"].get(n, {}).get("status") in bad for w in shown) for n in hidden
        )
        cut.append(f"without the {len(hidden)} least important columns, of which {moved} drifted")
    return ", ".join(cut)


def _instant(at: datetime, among: Sequence[datetime]) -> str:
    """A date, or with its minute where any needs one."""
    return at.strftime("%Y-%m-%d" if all(_midnight(t) for t in among) else "%m-%d %H:%M")


def _midnight(at: datetime) -> bool:
    return (at.hour, at.minute) == (0, 0)
