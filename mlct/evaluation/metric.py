"""What "better" means: a metric is a name, a function and a direction.

Every function takes `(y_true, score, weights=None)`, three arrays of shape `(rows,)`, and returns
a float. For binary classification `y_true` is 0 or 1 and `score` the probability of class 1.
How a metric adds up over rows decides how its uncertainty is computed (see `compare.py`):

- `per_row`: a mean of one number per row (log loss, accuracy): cluster-robust differences;
- `sums`: a function of a few weighted sums (F1, RMSE, R2, ECE): bootstrap over cluster sums;
- `curve`: a function of the counts above each threshold (average precision): bootstrap, one sort;
- none of them: any function; the bootstrap calls it once per replicate.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from mlct.errors import SpecError

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
RowFunction = Callable[[Floats, Floats], Floats]

ECE_BINS = 15


@dataclass(frozen=True, slots=True)
class Sums:
    """A metric that is a function of weighted sums over the rows.

    `columns(y_true, score) -> (rows, k)`; `value((..., k + 1)) -> (...)` receives the k weighted
    sums and, last, the sum of the weights.
    """

    columns: RowFunction
    value: Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True)
class Metric:
    """A name, a function and a direction; the optional fields make its uncertainty cheap.

    `support(y_true, score)` marks the rows that make up the denominator (recall: the positives),
    so that small groups are recognised; by default all rows. `task` is "binary" (labels 0 and 1),
    "regression" or "any"; `probability` metrics accept only scores between 0 and 1; `lowest` is
    the smallest value there can be.

    >>> Metric("mean_error", lambda y, s, w=None: abs(np.average(s - y, weights=w)), False).name
    'mean_error'
    """

    name: str
    function: Callable[..., float]
    bigger_is_better: bool = True
    per_row: RowFunction | None = None
    sums: Sums | None = None
    curve: Callable[[Floats, Floats], Floats] | None = None
    support: Callable[[Floats, Floats], npt.NDArray[np.bool_]] | None = None
    task: str = "any"
    probability: bool = False
    lowest: float = -inf

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise SpecError(f"Metric.name is {self.name!r}", expected="a non-empty string")
        if not callable(self.function):
            raise SpecError(
                f"the function of metric {self.name!r} is {self.function!r}",
                expected="a callable (y_true, score, weights=None) -> float",
            )

    def __call__(self, y_true: Any, score: Any, weights: Any = None) -> float:
        """The metric's value on plain arrays."""
        y, s = np.asarray(y_true, dtype=np.float64), np.asarray(score, dtype=np.float64)
        return float(self.function(y, s, _weights(weights)))

    @property
    def sign(self) -> float:
        """+1 where bigger is better, -1 where smaller is."""
        return 1.0 if self.bigger_is_better else -1.0


def metric(name: "str | Metric") -> Metric:
    """Look a metric up by name; a `Metric` is returned as it is.

    Threshold metrics take their threshold in the name, `recall@0.3`; without one it is 0.5.

    >>> metric("roc_auc")([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
    0.875
    """
    if isinstance(name, Metric):
        return name
    if isinstance(name, str):
        plain, at, threshold = name.partition("@")
        if not at and plain in METRICS:
            return METRICS[plain]
        if at and plain in _AT_THRESHOLD and (cut := _number(threshold)) is not None:
            return replace(_AT_THRESHOLD[plain](cut), name=f"{plain}@{cut:g}")
    raise SpecError(
        f"{name!r} is not a known metric",
        expected=f"one of {', '.join(METRICS)} (threshold metrics also as recall@0.3), or a Metric",
        fix="for a metric of your own pass mlct.Metric(name, function, bigger_is_better)",
        known=tuple(METRICS),
    )


def with_threshold(name: "str | Metric", threshold: float | None) -> "str | Metric":
    """The metric's name with a threshold, `recall@0.3`; unchanged when there is none.

    Raises SpecError when the metric has no threshold, or when the threshold is not in (0, 1).
    """
    if threshold is None:
        return name
    if not isinstance(name, str) or name not in _AT_THRESHOLD:
        raise SpecError(
            f"threshold={threshold!r} is given for {name!r}, which has none",
            expected=f"a threshold only with {', '.join(_AT_THRESHOLD)}",
        )
    if _number(threshold) is None:
        raise SpecError(f"threshold is {threshold!r}", expected="a number between 0 and 1")
    return f"{name}@{float(threshold):g}"


def mean_of(per_row: RowFunction) -> Sums:
    """A mean over rows, written as a function of sums."""
    return Sums(lambda y, s: per_row(y, s)[:, None], lambda t: t[..., 0] / t[..., 1])


def ranked(y_true: Floats, score: Floats) -> tuple[Indices, Indices]:
    """Row order by falling score, and the positions in it at which a threshold can lie.

    Tied scores share a threshold; inside a run of negatives thresholds change no curve's area.
    """
    order = np.argsort(-score)
    falling = score[order]
    ends = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(score) - 1)
    rises = np.diff(np.cumsum(y_true[order])[ends], prepend=0.0) > 0
    return order, ends[rises | np.append(rises[1:], True)]


def _number(value: object) -> float | None:
    try:
        cut = float(value)  # type: ignore[arg-type]  # what is no number is refused below
    except (TypeError, ValueError):
        return None
    return cut if 0.0 < cut < 1.0 else None


def _weights(weights: Any) -> Floats | None:
    return None if weights is None else np.asarray(weights, dtype=np.float64)


def _of_rows(
    name: str, per_row: RowFunction, bigger_is_better: bool, task: str, probability: bool = False
) -> Metric:
    def function(y_true: Floats, score: Floats, weights: Floats | None = None) -> float:
        return float(np.average(per_row(y_true, score), weights=weights))

    return Metric(
        name, function, bigger_is_better, per_row=per_row, task=task, probability=probability
    )


def _of_sums(
    name: str, sums: Sums, bigger_is_better: bool, task: str, support: Any = None
) -> Metric:
    def function(y_true: Floats, score: Floats, weights: Floats | None = None) -> float:
        columns = sums.columns(y_true, score)
        mass = np.ones(len(y_true)) if weights is None else weights
        return float(sums.value(np.append(mass @ columns, mass.sum())))

    return Metric(name, function, bigger_is_better, sums=sums, task=task, support=support)


def _of_curve(name: str, curve: Callable[[Floats, Floats], Floats], support: Any = None) -> Metric:
    def function(y_true: Floats, score: Floats, weights: Floats | None = None) -> float:
        order, ends = ranked(y_true, score)
        mass = np.ones(len(y_true)) if weights is None else weights
        above = np.cumsum(mass[order] * y_true[order])[ends]
        return float(curve(above, np.cumsum(mass[order])[ends] - above))

    return Metric(name, function, curve=curve, task="binary", support=support)


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


def _log_loss(y_true: Floats, score: Floats) -> Floats:
    tiny = np.finfo(np.float64).eps
    p = np.clip(score, tiny, 1 - tiny)
    return -np.log(np.where(y_true == 1, p, 1 - p))


def _squared_error(y_true: Floats, score: Floats) -> Floats:
    return (y_true - score) ** 2


def _absolute_error(y_true: Floats, score: Floats) -> Floats:
    return np.abs(y_true - score)


def _rarer_class(y_true: Floats, score: Floats) -> npt.NDArray[np.bool_]:
    return np.equal(y_true, float(y_true.mean() <= 0.5))


def _positives(y_true: Floats, score: Floats) -> npt.NDArray[np.bool_]:
    return np.equal(y_true, 1)


def bins(score: Floats, count: int = ECE_BINS) -> npt.NDArray[np.intp]:
    """Equal-mass bin of each row, 0 to count - 1; tied scores share a bin."""
    edges = np.quantile(score, np.arange(1, count) / count)
    found: Indices = np.searchsorted(edges, score, side="left")
    return found


def _ece_columns(y_true: Floats, score: Floats) -> Floats:
    columns = np.zeros((len(score), ECE_BINS))
    columns[np.arange(len(score)), bins(score)] = y_true - score
    return columns


def _ece_value(total: Floats) -> Floats:
    """Sum over bins of mass times |mean label - mean score| (Naeini et al. 2015)."""
    value: Floats = np.abs(total[..., :-1]).sum(axis=-1) / total[..., -1]
    return value


def _rmse_columns(y_true: Floats, score: Floats) -> Floats:
    return _squared_error(y_true, score)[:, None]


def _rmse_value(total: Floats) -> Floats:
    value: Floats = np.sqrt(total[..., 0] / total[..., 1])
    return value


def _r2_columns(y_true: Floats, score: Floats) -> Floats:
    centred = y_true - y_true.mean()  # any constant will do; this one keeps the digits
    return np.column_stack([(y_true - score) ** 2, centred, centred**2])


def _r2_value(total: Floats) -> Floats:
    residual, first, second, mass = np.moveaxis(total, -1, 0)
    spread = second - first**2 / mass
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 0, 1 - residual / spread, np.where(residual > 0, 0.0, 1.0))


def _accuracy(threshold: float) -> Metric:
    def right(y_true: Floats, score: Floats) -> Floats:
        wrong = np.abs((score >= threshold) - y_true)
        return 1.0 - wrong

    return _of_rows("accuracy", right, True, "binary")


def _counts(threshold: float) -> RowFunction:
    """Columns: found positives, called positives, positives."""

    def columns(y_true: Floats, score: Floats) -> Floats:
        called = (score >= threshold).astype(np.float64)
        return np.column_stack([called * y_true, called, y_true])

    return columns


def _recall(threshold: float) -> Metric:
    sums = Sums(_counts(threshold), lambda t: _divide(t[..., 0], t[..., 2]))
    return _of_sums("recall", sums, True, "binary", _positives)


def _precision(threshold: float) -> Metric:
    sums = Sums(_counts(threshold), lambda t: _divide(t[..., 0], t[..., 1]))
    return _of_sums("precision", sums, True, "binary", lambda y, s: s >= threshold)


def _f1(threshold: float) -> Metric:
    sums = Sums(_counts(threshold), lambda t: _divide(2 * t[..., 0], t[..., 1] + t[..., 2]))
    return _of_sums("f1", sums, True, "binary", _positives)


_AT_THRESHOLD: Mapping[str, Callable[[float], Metric]] = MappingProxyType(
    {"accuracy": _accuracy, "f1": _f1, "recall": _recall, "precision": _precision}
)

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            _of_curve("roc_auc", _roc_auc, _rarer_class),
            _of_curve("average_precision", _average_precision, _positives),
            _of_rows("log_loss", _log_loss, False, "binary", True),
            _of_rows("brier", _squared_error, False, "binary", True),
            *(build(0.5) for build in _AT_THRESHOLD.values()),
            replace(
                _of_sums("ece", Sums(_ece_columns, _ece_value), False, "binary"),
                probability=True,
                lowest=0.0,
            ),
            _of_sums("rmse", Sums(_rmse_columns, _rmse_value), False, "regression"),
            _of_rows("mae", _absolute_error, False, "regression"),
            _of_rows("mse", _squared_error, False, "regression"),
            _of_sums("r2", Sums(_r2_columns, _r2_value), True, "regression"),
        )
    }
)
