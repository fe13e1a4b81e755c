"""Pictures of an evaluation as PNG bytes: small, on white, the same bytes for the same numbers.

Those of `plots` take `y_true` (rows,) and `scores`, model name to array (rows,); `slice_forest` and
`metric_history` draw what was recorded. Drawn with matplotlib's object interface, never pyplot: no
global state, no window.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from io import BytesIO
from types import MappingProxyType
from typing import Any

import numpy as np

from mlct.evaluation.estimate import placements
from mlct.evaluation.guardrail.slices import SliceTable
from mlct.evaluation.holdout import check_metric, check_score, holdout
from mlct.evaluation.metric import METRICS, Floats, bins

# Okabe & Ito 2008: told apart by colour-blind readers and in grey, with the line style.
STYLES = {
    "challenger": ("#0072b2", "-"),
    "champion": ("#d55e00", "--"),
    "baseline": ("#7f7f7f", ":"),
}
_OTHERS = (("#009e73", "-."), ("#cc79a7", "-"), ("#56b4e9", "--"), ("#000000", ":"))
WORSE = "#c1272d"
UNKNOWN = "#d9d9d9"
WIDTH = 6.4  # inches of what stands by itself in a page: 704 pixels
_POINTS = 400  # of a curve: more cannot be seen
_WRITTEN = 8  # classes of which each share is written into its field
_SLICES = 20  # of a forest: more cannot be read
_TICKS = 8  # versions with a number each


def plots(task: str, y_true: Any, scores: Mapping[str, Any]) -> dict[str, bytes]:
    """All pictures of a task, name to PNG."""
    chosen: dict[str, tuple[Callable[..., bytes], ...]] = {
        "binary": (roc, precision_recall, calibration, score_distribution),
        "multiclass": (confusion, confidence),
    }
    numbers = (predicted_actual, residuals)
    return {draw.__name__: draw(y_true, scores) for draw in chosen.get(task, numbers)}


def confusion(y_true: Any, scores: Mapping[str, Any]) -> bytes:
    """Of each class, the share that a model takes for which; scores (rows, classes)."""
    rows, checked = _checked(y_true, scores, "accuracy")
    figure, panels = grid(len(checked), "Confusion")
    figure.set_size_inches(figure.get_figwidth(), 4.4)  # square panels leave no room below
    truth = rows.y_true.astype(np.intp)
    for axes, (name, _, score) in zip(panels, _styled(checked), strict=True):
        classes = score.shape[1]
        counts = np.zeros((classes, classes))
        np.add.at(counts, (truth, score.argmax(axis=1)), rows.mass)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-300)
        axes.pcolormesh(share, cmap="Blues", vmin=0, vmax=1)
        if classes <= _WRITTEN:
            for (row, column), value in np.ndenumerate(share):
                colour = "white" if value > 0.6 else "black"
                place = (column + 0.5, row + 0.5)
                axes.text(*place, f"{value:.0%}", ha="center", va="center", color=colour)
        axes.set(xlabel="Taken for class", ylabel="Class", aspect="equal")
        axes.set_xticks(np.arange(classes) + 0.5, range(classes))
        axes.set_yticks(np.arange(classes) + 0.5, range(classes))
        accuracy = METRICS["accuracy"](rows.y_true, score)
        axes.set_title(f"{name}  accuracy {accuracy:.3f}", fontsize=10)
    panels[0].invert_yaxis()  # shared by all of them
    return png(figure)


def confidence(y_true: Any, scores: Mapping[str, Any]) -> bytes:
    """How often the most likely class is right, against its score; scores (rows, classes)."""
    rows, checked = _checked(y_true, scores, "accuracy")
    right = {n: (s.argmax(axis=1) == rows.y_true) * 1.0 for n, s in checked.items()}
    figure, axes = canvas("Calibration of the likeliest class", "Its mean score", "Share right")
    for name, (colour, line), score in _styled(checked):
        top = score.max(axis=1)
        of_row = bins(top)
        size = np.bincount(of_row)
        filled = size > 0
        axes.plot(
            np.bincount(of_row, top)[filled] / size[filled],
            np.bincount(of_row, right[name])[filled] / size[filled],
            color=colour,
            linestyle=line,
            marker="o",
            markersize=4,
            label=name,
        )
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.legend(loc="upper left", frameon=False)
    return png(figure)


def roc(y_true: Any, scores: Mapping[str, Any]) -> bytes:
    """ROC curves, with the area of each model in the legend."""
    rows, checked = _checked(y_true, scores, "roc_auc")
    figure, axes = canvas("ROC", "False positive rate", "True positive rate")
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8)
    for name, (colour, line), score in _styled(checked):
        order = np.argsort(-score)
        ends = np.append(np.flatnonzero(np.diff(score[order])), rows.rows - 1)
        true = np.append(0.0, np.cumsum((rows.mass * rows.y_true)[order])[ends])
        false = np.append(0.0, np.cumsum((rows.mass * (1 - rows.y_true))[order])[ends])
        shown = np.unique(np.linspace(0, len(true) - 1, _POINTS).astype(int))
        label = f"{name}  AUC {placements(rows, score)[0]:.3f}"
        axes.plot(
            false[shown] / false[-1],
            true[shown] / true[-1],
            color=colour,
            linestyle=line,
            linewidth=1.6,
            label=label,
        )
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.legend(loc="lower right", frameon=False)
    return png(figure)


def precision_recall(y_true: Any, scores: Mapping[str, Any]) -> bytes:
    """Precision against recall, with the average precision of each model in the legend."""
    rows, checked = _checked(y_true, scores, "average_precision")
    figure, axes = canvas("Precision and recall", "Recall", "Precision")
    share = float(rows.mass @ rows.y_true / rows.mass.sum())
    axes.axhline(share, color="#bbbbbb", linewidth=0.8)
    # The first few rows are all noise: they would fill the picture with spikes.
    least = max(10, rows.rows // 1000)
    for name, (colour, line), score in _styled(checked):
        order = np.argsort(-score)
        ends = np.append(np.flatnonzero(np.diff(score[order])), rows.rows - 1)
        true = np.cumsum((rows.mass * rows.y_true)[order])[ends]
        precision = true / np.cumsum(rows.mass[order])[ends]
        enough = np.flatnonzero(ends + 1 >= min(least, rows.rows))
        shown = enough[np.unique(np.linspace(0, len(enough) - 1, _POINTS).astype(int))]
        average = METRICS["average_precision"](rows.y_true, score)
        axes.plot(
            true[shown] / true[-1],
            precision[shown],
            color=colour,
            linestyle=line,
            linewidth=1.6,
            marker="o" if len(shown) == 1 else None,
            label=f"{name}  AP {average:.3f}",
        )
    axes.set(xlim=(-0.01, 1.01), ylim=(0, 1.02))
    axes.legend(loc="upper right", frameon=False)
    return png(figure)


def calibration(y_true: Any, scores: Mapping[str, Any]) -> bytes:
    """Mean label against mean score in equal-mass bins: on the diagonal the scores are honest."""
    rows, checked = _checked(y_true, scores, "ece")
    figure, axes = canvas("Calibration", "Mean score of the bin", "Share of positives")
    most = 0.0
    for name, (colour, line), score in _styled(checked):
        of_row = bins(score)
        size = np.maximum(np.bincount(of_row), 1)
        filled = np.bincount(of_row) > 0
        said = (np.bincount(of_row, score) / size)[filled]
        seen = (np.bincount(of_row, rows.y_true) / size)[filled]
        most = max(most, float(said.max()), float(seen.max()))
        axes.plot(
            said,
            seen,
            color=colour,
            linestyle=line,
            linewidth=1.4,
            marker="o",
            markersize=4,
            label=f"{name}  ECE {METRICS['ece'](rows.y_true, score):.3f}",
        )
    edge = min(1.0, most * 1.08)
    axes.plot([0, edge], [0, edge], color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.set(xlim=(0, edge), ylim=(0, edge), aspect="equal")
    axes.legend(loc="upper left", frameon=False)
    return png(figure)


def score_distribution(y_true: Any, scores: Mapping[str, Any]) -> bytes:
    """How each model's scores spread over the two classes; filled: class 1."""
    rows, checked = _checked(y_true, scores, "log_loss")
    styled = _styled(checked)
    shown = [entry for entry in styled if np.ptp(entry[2]) > 0] or styled  # constants have no shape
    figure, panels = grid(len(shown), "Score distribution")
    edges = np.linspace(0.0, 1.0, 41)
    for axes, (name, (colour, _), score) in zip(panels, shown, strict=True):
        zero, one = score[rows.y_true == 0], score[rows.y_true == 1]
        axes.hist(one, edges, density=True, color=colour, alpha=0.45, label="class 1")
        axes.hist(zero, edges, density=True, color="#333333", histtype="step", label="class 0")
        axes.set(xlim=(0, 1), xlabel="Score", ylabel="Density")
        axes.set_title(name, fontsize=10)
        axes.legend(frameon=False)
    return png(figure)


def predicted_actual(y_true: Any, scores: Mapping[str, Any]) -> bytes:
    """Prediction against label; darker where there are more rows."""
    rows, checked = _checked(y_true, scores, "mae")
    figure, panels = grid(len(checked), "Predicted and actual")
    low, high = _range(np.concatenate([rows.y_true, *checked.values()]))
    for axes, (name, _, score) in zip(panels, _styled(checked), strict=True):
        _density(axes, score, rows.y_true, (low, high), (low, high))
        axes.plot([low, high], [low, high], color="#bbbbbb", linewidth=0.8)
        axes.set(xlabel="Predicted", ylabel="Actual", aspect="equal")
        axes.set_title(f"{name}  MAE {METRICS['mae'](rows.y_true, score):.4g}", fontsize=10)
    return png(figure)


def residuals(y_true: Any, scores: Mapping[str, Any]) -> bytes:
    """Label less prediction: above zero the model says too little."""
    rows, checked = _checked(y_true, scores, "mae")
    figure, axes = canvas("Residuals", "Actual - predicted", "Density")
    errors = {name: rows.y_true - score for name, score in checked.items()}
    edges = np.linspace(*_range(np.concatenate(list(errors.values()))), 61)
    for name, (colour, line), _ in _styled(checked):
        axes.hist(
            errors[name],
            edges,
            density=True,
            histtype="step",
            color=colour,
            linestyle=line,
            linewidth=1.5,
            label=f"{name}  mean {errors[name].mean():+.3g}",
        )
    axes.axvline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.margins(y=0.25)  # room for the legend
    axes.legend(loc="upper right", frameon=False)
    return png(figure)


def slice_forest(table: SliceTable, *, fdr: float = 0.05) -> bytes:
    """Every slice against the champion, the worst on top; red: shown to be worse.

    Left of the dotted line a slice is worse by more than the margin that is allowed. Of many
    slices the 20 most doubtful are drawn.
    """
    drawn = table.slices[:_SLICES]
    bad = {s.name for s in table.regressions(fdr)}
    figure, axes = canvas(f"{table.metric} by slice", "Challenger better by", "")
    figure.set_size_inches(5.6, 1.3 + 0.24 * max(len(drawn), 3))
    axes.axvline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
    if table.margin:
        axes.axvline(-table.margin, color="#bbbbbb", linewidth=0.8, linestyle=":", zorder=0)
    for height, found in enumerate(drawn):
        colour = WORSE if found.name in bad else STYLES["challenger"][0]
        ends = [x if np.isfinite(x) else found.delta for x in (found.lower, found.upper)]
        axes.plot(ends, [height, height], color=colour, linewidth=1.2)
        axes.plot([found.delta], [height], color=colour, marker="o", markersize=4)
    names = [f"{plain(s.name, 60)}  ({s.rows:,})" for s in drawn]
    axes.set_yticks(range(len(drawn)), names, fontsize=8)
    axes.set_ylim(max(len(drawn), 1) - 0.4, -0.6)
    if len(table.slices) > len(drawn):
        axes.set_title(f"{table.metric} by slice: {len(drawn)} of {len(table.slices)}", fontsize=11)
    return png(figure)


def metric_history(
    metric: str, values: Mapping[int, float], *, live: Collection[int] = (), margin: float = 0.0
) -> bytes:
    """One metric over the versions of a model; filled: versions that were in Production.

    `values` maps version to value; `margin` is the half width of an uncertainty band, 0 for none.
    No line joins them: versions of different holdouts do not compare.
    """
    known = {v: value for v, value in sorted(values.items()) if np.isfinite(value)}
    figure, axes = canvas("each on its own holdout: not comparable", "Version", metric)
    figure.suptitle(f"{metric} over versions", fontsize=11)
    axes.title.set_fontsize(8)
    at, seen = list(known), list(known.values())
    colour = STYLES["challenger"][0]
    if margin:
        axes.errorbar(at, seen, yerr=margin, fmt="none", ecolor=colour, elinewidth=0.8)
    for filled, label in ((True, "was live"), (False, "was not")):
        some = [v for v in at if (v in live) == filled]
        face = colour if filled else "white"
        axes.plot(
            some, [known[v] for v in some], "o", color=colour, markerfacecolor=face, label=label
        )
    axes.margins(x=0.1, y=0.15)
    if at:
        chosen = np.unique(np.linspace(0, len(at) - 1, min(len(at), _TICKS)).round().astype(int))
        axes.set_xticks([at[i] for i in chosen])
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return png(figure)


def timelines(
    metric: str,
    at: Sequence[datetime],
    values: Mapping[str, Sequence[float | None]],
    marks: Mapping[str, Collection[datetime]] = MappingProxyType({}),
) -> bytes:
    """One metric over time, a line for each name; dots where a name is marked.

    `values` have the length of `at`; None leaves a gap.
    """
    figure, axes = canvas(f"{metric} over time", "", metric)
    figure.set_size_inches(8.0, 3.9)
    colours = [colour for colour, _ in (*STYLES.values(), *_OTHERS)]
    for number, (name, line) in enumerate(values.items()):
        # Another style with each round of the colours.
        again, place = divmod(number, len(colours))
        colour, style = colours[place], ("-", "--", ":", "-.")[again % 4]
        known = np.array([np.nan if v is None else v for v in line])
        axes.plot(at, known, color=colour, linestyle=style, linewidth=1.3, label=name)
        marked = [i for i, when in enumerate(at) if when in marks.get(name, ())]
        axes.plot([at[i] for i in marked], known[marked], "o", color=colour, markersize=4)
    figure.autofmt_xdate()
    if values:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    return png(figure)


def _checked(y_true: Any, scores: Mapping[str, Any], needs: str) -> tuple[Any, dict[str, Floats]]:
    rows = holdout(y_true)
    checked = {name: check_score(name, score, rows) for name, score in scores.items()}
    check_metric(METRICS[needs], rows, checked)
    return rows, checked


def _styled(scores: Mapping[str, Floats]) -> list[tuple[str, tuple[str, str], Floats]]:
    others = iter(_OTHERS * len(scores))
    return [(name, STYLES.get(name) or next(others), score) for name, score in scores.items()]


def _range(values: Floats) -> tuple[float, float]:
    """Without the most extreme thousandth on either side, which would squeeze the rest."""
    low, high = np.quantile(values, [0.001, 0.999])
    return float(low), float(high if high > low else low + 1)


def _density(axes: Any, x: Floats, y: Floats, *ranges: tuple[float, float]) -> None:
    counts, across, up = np.histogram2d(x, y, bins=60, range=ranges)
    shown = np.ma.masked_equal(counts.T, 0)
    axes.pcolormesh(across, up, np.ma.log10(shown), cmap="Blues", vmin=-0.7)


def canvas(
    title: str, across: str, up: str, *, size: tuple[float, float] = (4.3, 3.9)
) -> tuple[Any, Any]:
    """A figure of one panel, `size` in inches."""
    figure, (axes,) = grid(1, None, size=size)
    axes.set_title(title, fontsize=11)
    axes.set(xlabel=across, ylabel=up)
    return figure, axes


def grid(
    count: int,
    title: str | None,
    *,
    rows: int = 1,
    shared: bool = True,
    size: tuple[float, float] | None = None,
) -> tuple[Any, list[Any]]:
    """A figure of `count` panels, `size` in inches, with one scale for all when `shared`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wide = 4.3 if count == 1 else 3.6 * count
    figure = Figure(figsize=size or (wide, 3.9), facecolor="white")
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    columns = -(-count // rows)
    panels = figure.subplots(rows, columns, sharex=shared, sharey=shared, squeeze=False)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels.flat[count:]:
        axes.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, panels.flat[:count].tolist()


def empty(title: str, words: str) -> bytes:
    """A picture that says why there is nothing to see."""
    figure, axes = canvas(title, "", "", size=(WIDTH, 1.6))
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, ha="center", va="center", color="#555555")
    return png(figure)


def plain(text: object, width: int = 40) -> str:
    """Text of any origin as a label: on one line, cut, and never read as a formula."""
    words = " ".join(str(text).split())
    words = words if len(words) <= width else words[: width - 1] + "\u2026"
    return words.replace("$", r"\$")


def png(figure: Any) -> bytes:
    """The bytes of a figure, without its date or its maker."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
