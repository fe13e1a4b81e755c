"""The field's usual metrics by name, and the number that some take in it."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from mlct.errors import SpecError
from mlct.evaluation.metric.form import (
    Floats,
    Indices,
    Metric,
    Sums,
    of_curve,
    of_rows,
    of_sums,
    one_vs_rest,
)

ECE_BINS = 15


def metric(name: "str | Metric") -> Metric:
    """Look a metric up by name; a `Metric` is returned as it is.

    Some take a number in the name: a threshold (`recall@0.3`; 0.5 without one), the quantile
    (`pinball@0.9`), the precision to keep (`recall_at_precision@0.8`), or how many rows are looked
    at, as a share or a whole number (`precision_at@0.1`, `precision_at@50`).

    >>> metric("roc_auc")([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
    0.875
    """
    if isinstance(name, Metric):
        return name
    if isinstance(name, str):
        plain, at, number = name.partition("@")
        if not at and plain in METRICS:
            return METRICS[plain]
        if at and plain in _AT and (cut := _number(plain, number)) is not None:
            return replace(_AT[plain](cut), name=f"{plain}@{cut:.15g}", multiclass=False)
    known = (f"{n}@{_usual(n)}" if n in _AT else n for n in METRICS)
    near = difflib.get_close_matches(str(name).lower(), METRICS, 1)
    raise SpecError(
        f"{name!r} is not a known metric",
        expected=f"one of {', '.join(known)}; behind @ any number between 0 and 1, or of rows",
        fix=(f"Did you mean {near[0]}? " if near else "")
        + "A metric of your own is a mlct.Metric(name, function, bigger_is_better)",
        known=tuple(METRICS),
    )


def with_threshold(name: "str | Metric", threshold: float | None) -> "str | Metric":
    """The metric's name with its number, `recall@0.3`; unchanged when there is none.

    Raises SpecError when the metric takes no number, or not this one.
    """
    if threshold is None:
        return name
    if not isinstance(name, str) or name not in _AT:
        raise SpecError(
            f"threshold={threshold!r} is given for {name!r}, which has none",
            expected=f"a threshold only with {', '.join(_AT)}",
        )
    if (cut := _number(name, threshold)) is None:
        raise SpecError(
            f"threshold is {threshold!r}",
            expected="a number between 0 and 1" + ", or of rows" * (name == "precision_at"),
        )
    return f"{name}@{cut:.15g}"


def _number(plain: str, value: object) -> float | None:
    try:
        cut = float(value)  # type: ignore[arg-type]  # what is no number is refused below
    except (TypeError, ValueError):
        return None
    counts_rows = plain == "precision_at" and cut.is_integer() and cut >= 1
    return cut if 0.0 < cut < 1.0 or counts_rows else None


def _usual(plain: str) -> float:
    """The number that a metric has without one."""
    return 0.1 if plain == "precision_at" else 0.5


def _divide(top: Floats, bottom: Floats) -> Floats:
    """Zero where there is nothing to divide by, as scikit-learn has it."""
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def _roc_auc(true: Floats, false: Floats) -> Floats:
    """Area by trapezoids; NaN where a class is absent."""
    steps = np.diff(false, axis=-1, prepend=0.0)
    steps[..., 0] *= true[..., 0]
    steps[..., 1:] *= true[..., 1:] + true[..., :-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        area: Floats = steps.sum(axis=-1) / (2 * true[..., -1] * false[..., -1])
    return area


def _average_precision(true: Floats, false: Floats) -> Floats:
    """Mean precision over the steps of recall, without interpolation; NaN without positives."""
    total = true + false
    precision = np.divide(true, np.maximum(total, np.finfo(np.float64).tiny, out=total), out=total)
    with np.errstate(invalid="ignore", divide="ignore"):
        area: Floats = (
            np.einsum("...i,...i->...", np.diff(true, axis=-1, prepend=0.0), precision)
            / true[..., -1]
        )
    return area


def _precision_at(rows: float) -> Metric:
    """Tied rows at the cut count in proportion, as if they came in random order."""

    def curve(true: Floats, false: Floats) -> Floats:
        total = true + false
        size = total[..., -1:]
        k = rows * size if rows < 1 else np.minimum(rows, size)
        cut = np.minimum((total < k).sum(axis=-1, keepdims=True), total.shape[-1] - 1)
        above, found = (np.take_along_axis(x, cut, -1) for x in (total, true))
        before = np.maximum(cut - 1, 0)
        less, fewer = (np.take_along_axis(x, before, -1) * (cut > 0) for x in (total, true))
        value: Floats = (fewer + (found - fewer) * _divide(k - less, above - less)) / k
        return value[..., 0]

    def looked_at(y_true: Floats, score: Floats) -> npt.NDArray[np.bool_]:
        k = int(np.ceil(rows * len(score) if rows < 1 else min(rows, len(score))))
        return score >= np.partition(score, -k)[-k]

    return of_curve("precision_at", curve, support=looked_at)


def _recall_at_precision(precision: float) -> Metric:
    """The largest recall of a threshold that has the precision; zero where none has."""

    def curve(true: Floats, false: Floats) -> Floats:
        kept = _divide(true, true + false) >= precision
        with np.errstate(invalid="ignore"):
            best: Floats = np.where(kept, true, 0.0).max(axis=-1) / true[..., -1]
        return best

    return of_curve("recall_at_precision", curve, support=_positives)


def _of_truth(y_true: Floats, score: Floats) -> Floats:
    """The probability given to what came true."""
    if score.ndim == 1:
        return np.where(y_true == 1, score, 1 - score)
    return np.take_along_axis(score, y_true.astype(np.intp)[:, None], 1)[:, 0]


def _log_loss(y_true: Floats, score: Floats) -> Floats:
    tiny = np.finfo(np.float64).eps
    return -np.log(np.clip(_of_truth(y_true, score), tiny, 1 - tiny))


def _brier(y_true: Floats, score: Floats) -> Floats:
    """Half the usual sum over classes when there are two, as scikit-learn has it."""
    if score.ndim == 1:
        return _squared_error(y_true, score)
    value: Floats = 1 - 2 * _of_truth(y_true, score) + np.einsum("ij,ij->i", score, score)
    return value


def _squared_error(y_true: Floats, score: Floats) -> Floats:
    return (y_true - score) ** 2


def _absolute_error(y_true: Floats, score: Floats) -> Floats:
    return np.abs(y_true - score)


def _pinball(quantile: float) -> Metric:
    def loss(y_true: Floats, score: Floats) -> Floats:
        over = y_true - score
        return np.maximum(quantile * over, (quantile - 1) * over)

    return of_rows("pinball", loss, False, "quantile")


def _rarer_class(y_true: Floats, score: Floats) -> npt.NDArray[np.bool_]:
    if score.ndim == 2:
        return np.ones(len(y_true), dtype=bool)
    return np.equal(y_true, float(y_true.mean() <= 0.5))


def _positives(y_true: Floats, score: Floats) -> npt.NDArray[np.bool_]:
    return np.ones(len(y_true), dtype=bool) if score.ndim == 2 else np.equal(y_true, 1)


def bins(score: Floats, count: int = ECE_BINS) -> npt.NDArray[np.intp]:
    """Equal-mass bin of each row, 0 to count - 1; tied scores share a bin."""
    edges = np.quantile(score, np.arange(1, count) / count)
    found: Indices = np.searchsorted(edges, score, side="left")
    return found


def _ece_columns(y_true: Floats, score: Floats) -> Iterator[Floats]:
    found, gap = bins(score), y_true - score
    return (np.where(found == number, gap, 0.0) for number in range(ECE_BINS))


def _ece_value(total: Floats) -> Floats:
    """Sum over bins of mass times |mean label - mean score| (Naeini et al. 2015)."""
    value: Floats = np.abs(total[..., :-1]).sum(axis=-1) / total[..., -1]
    return value


def _rmse_value(total: Floats) -> Floats:
    value: Floats = np.sqrt(total[..., 0] / total[..., 1])
    return value


def _r2_columns(y_true: Floats, score: Floats) -> Iterator[Floats]:
    centred = y_true - y_true.mean()  # any constant will do; this one keeps the digits
    yield from ((y_true - score) ** 2, centred, centred**2)


def _r2_value(total: Floats) -> Floats:
    residual, first, second, mass = np.moveaxis(total, -1, 0)
    spread = second - first**2 / mass
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 0, 1 - residual / spread, np.where(residual > 0, 0.0, 1.0))


def _accuracy(threshold: float) -> Metric:
    def right(y_true: Floats, score: Floats) -> Floats:
        called = score >= threshold if score.ndim == 1 else score.argmax(axis=1)
        return np.equal(called, y_true).astype(np.float64)

    return of_rows("accuracy", right, True, "binary", multiclass=True)


def _of_counts(
    name: str, threshold: float, value: Callable[[Floats, Floats, Floats], Floats], support: Any
) -> Metric:
    """From found positives, called positives and positives of each class; a mean over classes."""

    def columns(y_true: Floats, score: Floats) -> Iterator[Floats]:
        best = score.argmax(axis=1) if score.ndim == 2 else None
        sides = [(y_true, score >= threshold)] if best is None else one_vs_rest(y_true, score)
        for number, (positive, chosen) in enumerate(sides):
            called = (chosen if best is None else best == number).astype(np.float64)
            yield from (called * positive, called, positive)

    def macro(total: Floats) -> Floats:
        counts = total[..., :-1].reshape(*total.shape[:-1], -1, 3)
        mean: Floats = value(counts[..., 0], counts[..., 1], counts[..., 2]).mean(axis=-1)
        return mean

    return of_sums(name, Sums(columns, macro), True, "binary", support=support, multiclass=True)


def _recall(threshold: float) -> Metric:
    return _of_counts("recall", threshold, lambda tp, called, p: _divide(tp, p), _positives)


def _precision(threshold: float) -> Metric:
    def called(y_true: Floats, score: Floats) -> npt.NDArray[np.bool_]:
        return score >= threshold if score.ndim == 1 else np.ones(len(y_true), dtype=bool)

    return _of_counts("precision", threshold, lambda tp, called, p: _divide(tp, called), called)


def _f1(threshold: float) -> Metric:
    return _of_counts(
        "f1", threshold, lambda tp, called, p: _divide(2 * tp, called + p), _positives
    )


# What takes a number in its name, and how it is built from it.
_AT: Mapping[str, Callable[[float], Metric]] = MappingProxyType(
    {
        "accuracy": _accuracy,
        "f1": _f1,
        "recall": _recall,
        "precision": _precision,
        "precision_at": _precision_at,
        "recall_at_precision": _recall_at_precision,
        "pinball": _pinball,
    }
)

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            of_curve("roc_auc", _roc_auc, support=_rarer_class, multiclass=True),
            of_curve("average_precision", _average_precision, support=_positives, multiclass=True),
            of_rows("log_loss", _log_loss, False, "binary", probability=True, multiclass=True),
            of_rows("brier", _brier, False, "binary", probability=True, multiclass=True),
            *(build(_usual(name)) for name, build in _AT.items()),
            of_sums(
                "ece",
                Sums(_ece_columns, _ece_value),
                False,
                "binary",
                probability=True,
                lowest=0.0,
            ),
            of_sums(
                "rmse", Sums(lambda y, s: [_squared_error(y, s)], _rmse_value), False, "regression"
            ),
            of_rows("mae", _absolute_error, False, "regression"),
            of_rows("mse", _squared_error, False, "regression"),
            of_sums("r2", Sums(_r2_columns, _r2_value), True, "regression"),
        )
    }
)
