"""How columns are distributed in the reference and in a window."""

from collections.abc import Mapping, Sequence
from math import ceil
from textwrap import wrap
from types import MappingProxyType
from typing import Any

import numpy as np

from mlct.data.profile import Column, Profile
from mlct.data.profile.categories import Categories
from mlct.data.profile.numbers import Numbers
from mlct.evaluation.plot import STYLES, WIDTH, empty, grid, plain, png
from mlct.monitoring.drift.compared import comparable

#: More cannot be read.
PANELS = 4

_BINS = 30
_CATEGORIES = 8
_SLACK = 1e-6
_OLD: dict[str, Any] = {"color": STYLES["baseline"][0], "alpha": 0.55}
_NEW: dict[str, Any] = {"color": STYLES["challenger"][0]}

Array = np.ndarray[Any, np.dtype[Any]]


def overlays(
    reference: Profile,
    current: Profile,
    names: Sequence[str],
    *,
    reasons: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """How the columns `names` (the first 4) are distributed in the reference and in the window.

    Bars are shares of all rows. Numbers and times fall into about 30 bins as wide as one another,
    of which the outer two hold what lies beyond; of texts the most frequent have a bar, then the
    other values and those that the reference lacks; missing values have one wherever there are any.
    `reasons` are words for below a name (a `ColumnDrift`'s `reason`). A column that cannot be drawn
    says why.
    """
    from matplotlib.patches import Patch

    drawn = names[:PANELS]
    if not drawn:
        return empty("Distributions", "No column was asked for")
    tall, wide = (1 if len(drawn) < 3 else 2), min(len(drawn), 2)
    cut = f"Distributions: {len(drawn)} of {len(names)} columns" if names[PANELS:] else None
    size = (WIDTH, 2.9 * tall + 0.4)
    figure, panels = grid(len(drawn), cut, rows=tall, shared=False, size=size)
    for axes, name in zip(panels, drawn, strict=True):
        old, new = reference.columns.get(name), current.columns.get(name)
        axes.set_title(_heading(name, reasons.get(name, ""), wide), fontsize=8, loc="left")
        why = _undrawable(old, new)
        if why or old is None or new is None:
            axes.set_axis_off()
            axes.text(0.5, 0.5, why, ha="center", va="center", fontsize=8, color="#555555")
        elif isinstance(old.values, Categories) or isinstance(new.values, Categories):
            _texts(axes, old, new)
        else:
            _numbers(axes, old, new)
        axes.tick_params(labelsize=8)
    marks = [
        Patch(label=f"reference ({reference.rows:,} rows)", **_OLD),
        Patch(label=f"window ({current.rows:,} rows)", **_NEW),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return png(figure)


def _heading(name: str, reason: str, panels: int) -> str:
    lines = wrap(reason.removeprefix(name).strip(), 88 // panels - 2)[:3]
    return "\n".join([plain(name, 72 // panels), *(plain(line, 100) for line in lines)])


def _undrawable(old: Column | None, new: Column | None) -> str:
    """Why two columns have no picture; empty where they have."""
    if old is None or new is None:
        return f"The {'reference' if old is None else 'window'} has no such column"
    for side, column in (("reference", old), ("window", new)):
        if column.kind in ("other", "mixed"):
            return f"Not profiled: {side} of {plain(' or '.join(column.types))}"
        if not column.rows:
            return f"The {side} has no rows"
    if old.kind != new.kind and "missing" not in (old.kind, new.kind):
        return f"It changed from {' or '.join(old.types)}\nto {' or '.join(new.types)}"
    if not comparable(old, new):
        return "The window was profiled on other edges"
    for column in (old, new):
        if isinstance(column.values, Categories) and column.rows > column.nulls:
            return ""
        if isinstance(column.values, Numbers) and column.values.finite:
            return ""
    return "Neither side holds a value"


def _numbers(axes: Any, old: Column, new: Column) -> None:
    from matplotlib.ticker import MaxNLocator

    known = [c.values for c in (old, new) if isinstance(c.values, Numbers) and c.values.finite]
    edges = _edges(known, whole=old.kind != "time" and _whole(known[0]))
    bins, width = len(edges) - 1, edges[1] - edges[0]
    gap = bins + max(1.0, bins / 15)  # where the bar of the missing begins
    bar = max(1.0, bins / 15)
    some = old.missing + new.missing > 0
    for column, style in (
        (old, {"fill": True, **_OLD}),
        (new, {"linewidth": 1.5, **_NEW}),
    ):
        axes.stairs(_shares(column, edges), np.arange(bins + 1), **style)
        if some:
            axes.stairs([column.missing / column.rows], [gap, gap + bar], **style)
    low, high = float(edges[0]), float(edges[-1])
    values: Any = MaxNLocator(4, integer=width >= 1).tick_values(low, high)
    if "time" in (old.kind, new.kind):
        values = np.linspace(low, high, 4)[:3]
    ticks = [v for v in values if low <= v <= high]
    labels = [_written(v, (old if old.kind == "time" else new)) for v in ticks]
    at = [(v - low) / width for v in ticks]
    if some:
        # The last number gives way to the word.
        held = [i for i, place in enumerate(at) if place < 0.82 * bins]
        at = [*(at[i] for i in held), gap + bar / 2]
        labels = [*(labels[i] for i in held), "missing"]
    axes.set_xticks(at, labels)
    axes.set_ylim(bottom=0)
    _percent(axes.yaxis)


def _written(value: float, column: Column) -> str:
    if column.kind != "time":
        return f"{value:.4g}"
    if not column.types[0].startswith(("timestamp", "date")):
        return f"{value / 1e6:.4g} s"
    return str(np.datetime64(int(value), "us").astype("datetime64[D]"))


def _whole(numbers: Numbers) -> bool:
    """Whether the column holds whole numbers, of which each bin must hold as many."""
    knots = numbers.edges.knots
    whole = (np.abs(knots - np.round(knots)) < _SLACK) & (np.abs(knots) < 1e9)
    return bool(len(knots)) and bool(whole.all())


def _edges(known: Sequence[Numbers], *, whole: bool) -> Array:
    """Edges of bins of one width for the central 98 % of both sides.

    A window may widen them to three times the reference's: what lies farther would flatten both.
    """
    ranges = [_central(numbers) for numbers in known]
    low, high = ranges[0]
    for other in ranges[1:]:
        span = high - low or max(abs(low), 1.0)
        low, high = max(min(low, other[0]), low - span), min(max(high, other[1]), high + span)
    if whole:
        first, last = np.floor(low + _SLACK), np.ceil(high - _SLACK)  # knots lie just above values
        width = ceil((last - first + 1) / _BINS)
        count = ceil((last - first + 1) / width)
        return np.asarray(first - 0.5 + width * np.arange(count + 1))
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - max(abs(low), 1.0) / 2, high + max(abs(high), 1.0) / 2
    return np.linspace(low, high, _BINS + 1)


def _central(numbers: Numbers) -> tuple[float, float]:
    x, below = _below(numbers)
    at = np.minimum(np.searchsorted(below, [0.01, 0.99]), len(x) - 1)
    low, high = np.clip(x[at], -1e300, 1e300)  # a difference of doubles may be none
    return float(low), float(high)


def _below(numbers: Numbers) -> tuple[Array, Array]:
    """Places, and the share of the finite values below each."""
    counts = numbers.counts.astype(float)
    counts[0] -= numbers.negative
    counts[-1] -= numbers.positive
    low, high = numbers.low or 0.0, numbers.high or 0.0
    knots = numbers.edges.knots
    x = np.concatenate([[min([low, *knots[:1]])], knots, [max([high, *knots[-1:]])]])
    return x, np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()


def _shares(column: Column, edges: Array) -> Array:
    """Share of the column's rows in each bin, the outer ones open; within a knot's bin evenly."""
    numbers = column.values
    shares = np.zeros(len(edges) - 1)
    if not isinstance(numbers, Numbers):
        return shares
    if numbers.finite:
        x, below = _below(numbers)
        inner = np.interp(edges[1:-1], x, below)
        shares = np.diff(np.concatenate([[0.0], inner, [1.0]])) * numbers.finite
    shares[0] += numbers.negative
    shares[-1] += numbers.positive
    return shares / column.rows


def _texts(axes: Any, old: Column, new: Column) -> None:
    bars = _bars(old, new)
    place = np.arange(len(bars))
    axes.barh(place - 0.2, [bar[1] / old.rows for bar in bars], height=0.38, **_OLD)
    axes.barh(place + 0.2, [bar[2] / new.rows for bar in bars], height=0.38, **_NEW)
    axes.set_yticks(place, [plain(bar[0], 16) for bar in bars])
    axes.invert_yaxis()
    _percent(axes.xaxis)


def _bars(old: Column, new: Column) -> list[tuple[str, int, int]]:
    """The categories that have a bar, and the rows of each on both sides."""
    (a, a_rest), (b, b_rest) = _counts(old, new), _counts(new, old)
    names = next(c.values for c in (old, new) if isinstance(c.values, Categories)).vocabulary.values
    known = np.flatnonzero(a)
    most = np.maximum(a[known] / old.rows, b[known] / new.rows)
    top = known[np.argsort(-most, kind="stable")][:_CATEGORIES]
    # A reference with values outside the vocabulary cannot tell which of the window's are new.
    unseen = int(b[a == 0].sum()) + (0 if a_rest else b_rest)
    others = (
        old.rows - old.missing - int(a[top].sum()),
        new.rows - new.missing - int(b[top].sum()) - unseen,
    )
    bars = [(names[i], int(a[i]), int(b[i])) for i in top]
    rest = (
        ("(other)", *others),
        ("(unseen)", 0, unseen),
        ("(missing)", old.missing, new.missing),
    )
    return bars + [bar for bar in rest if bar[1] or bar[2]]


def _counts(column: Column, like: Column) -> tuple[Array, int]:
    """Rows of each category of the vocabulary, and of all others."""
    if isinstance(column.values, Categories):
        return column.values.counts, column.values.rest
    assert isinstance(like.values, Categories)
    return np.zeros_like(like.values.counts), 0


def _percent(axis: Any) -> None:
    axis.get_major_locator().set_params(nbins=6)
    axis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")
