"""What a metric is, and how one is built from what adds up over rows."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt

from mlct.errors import SpecError

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
RowFunction = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True, slots=True)
class Sums:
    """A metric that is a function of weighted sums over the rows.

    `columns(y_true, score)` gives k arrays (rows,), one after the other; `value((..., k + 1)) ->
    (...)` receives their k weighted sums and, last, the sum of the weights.
    """

    columns: Callable[[Floats, Floats], Iterable[Floats]]
    value: Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True)
class Metric:
    """A name, a function and a direction; the optional fields make its uncertainty cheap.

    `support(y_true, score)` marks the rows that make up the denominator (recall: the positives),
    so that small groups are recognised; by default all rows. `task` is "binary" (classes),
    "regression", "quantile" or "any"; `multiclass` metrics take scores (rows, k) as well, and their
    curves are averaged over the classes, each against the rest; `probability` metrics accept only
    scores between 0 and 1; `lowest` is the smallest value there can be.

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
    multiclass: bool = False
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
        try:
            inspect.signature(self.function).bind("y_true", "score", "weights or frame")
        except TypeError as error:
            raise SpecError(
                f"the function of metric {self.name!r} does not take three arguments: {error}",
                expected="(y_true, score, weights=None); of a BusinessMetric, frame as the third",
            ) from error
        except ValueError:  # built in: what it takes is not known
            pass

    def __call__(self, y_true: Any, score: Any, weights: Any = None) -> float:
        """The metric's value on plain arrays."""
        y, s = np.asarray(y_true, dtype=np.float64), np.asarray(score, dtype=np.float64)
        return float(self.function(y, s, _weights(weights)))

    @property
    def sign(self) -> float:
        """+1 where bigger is better, -1 where smaller is."""
        return 1.0 if self.bigger_is_better else -1.0


def mean_of(per_row: RowFunction) -> Sums:
    """A mean over rows, written as a function of sums."""
    return Sums(lambda y, s: [per_row(y, s)], lambda t: t[..., 0] / t[..., 1])


def one_vs_rest(y_true: Floats, score: Floats) -> Iterator[tuple[Floats, Floats]]:
    """Labels and scores of one class against the rest, for each column of `score` (rows, k)."""
    for column, one in enumerate(score.T):
        yield (y_true == column).astype(np.float64), one


def ranked(y_true: Floats, score: Floats) -> tuple[Indices, Indices]:
    """Row order by falling score, and the positions in it at which a threshold can lie.

    Tied scores share a threshold; inside a run of negatives thresholds change no curve's area.
    """
    order = np.argsort(-score)
    falling = score[order]
    ends = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(score) - 1)
    del falling
    positives = y_true[order]
    above = np.cumsum(positives, out=positives)[ends]
    rises = above > 0
    rises[1:] = above[1:] > above[:-1]
    return order, ends[rises | np.append(rises[1:], True)]


def _weights(weights: Any) -> Floats | None:
    return None if weights is None else np.asarray(weights, dtype=np.float64)


def of_rows(
    name: str, per_row: RowFunction, bigger_is_better: bool, task: str, **fields: Any
) -> Metric:
    def function(y_true: Floats, score: Floats, weights: Floats | None = None) -> float:
        return float(np.average(per_row(y_true, score), weights=weights))

    return Metric(name, function, bigger_is_better, per_row=per_row, task=task, **fields)


def of_sums(name: str, sums: Sums, bigger_is_better: bool, task: str, **fields: Any) -> Metric:
    def function(y_true: Floats, score: Floats, weights: Floats | None = None) -> float:
        mass = np.ones(len(y_true)) if weights is None else weights
        totals = [mass @ column for column in sums.columns(y_true, score)]
        return float(sums.value(np.array([*totals, mass.sum()])))

    return Metric(name, function, bigger_is_better, sums=sums, task=task, **fields)


def of_curve(name: str, curve: Callable[[Floats, Floats], Floats], **fields: Any) -> Metric:
    def function(y_true: Floats, score: Floats, weights: Floats | None = None) -> float:
        if score.ndim == 2:
            classes = one_vs_rest(y_true, score)
            return float(np.mean([function(y, s, weights) for y, s in classes]))
        order, ends = ranked(y_true, score)
        positive = y_true[order]
        if weights is None:
            total = ends + 1.0
        else:
            mass = weights[order]
            positive *= mass
            total = np.cumsum(mass, out=mass)[ends]
        above = np.cumsum(positive, out=positive)[ends]
        return float(curve(above, total - above))

    return Metric(name, function, curve=curve, task="binary", **fields)
