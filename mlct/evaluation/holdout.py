"""The checked rows of one holdout: labels, weights and clusters, and how they are resampled.

Whatever cannot be trusted (missing labels, scores that are not finite, lengths that differ) is an
EvaluationError here, before any number is computed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlct.errors import EvaluationError
from mlct.evaluation.metric import Floats, Metric

FEW = 30
"""Below this many clusters (or independent rows) the t distribution replaces the normal one."""

GROUPS = 2000
"""Many rows or clusters are resampled in this many random groups: the same error, less work."""

_CHUNK = 500_000  # numbers held at once while resampling: 4 MB stay in the cache
_OFF = 1e-4  # what single precision may leave probabilities off their sum
_LEAST = 32  # replicates in a chunk, so that products of matrices pay


@dataclass(frozen=True, kw_only=True, slots=True)
class Holdout:
    """Labels `y_true` (rows,), optional `weights` (rows,) and cluster `codes` (rows,).

    `codes` number the clusters from 0; None declares the rows independent.
    """

    y_true: Floats
    weights: Floats | None
    codes: npt.NDArray[np.intp] | None
    clusters: int | None

    @property
    def rows(self) -> int:
        return len(self.y_true)

    @property
    def units(self) -> int:
        """What counts as one observation: the clusters, or the rows where they are independent."""
        return self.rows if self.clusters is None else self.clusters

    @property
    def mass(self) -> Floats:
        """The weights, or ones."""
        return np.ones(self.rows) if self.weights is None else self.weights

    def sums(self, values: Floats) -> Floats:
        """Sums of `values` (rows,) or (rows, k) over the rows of each unit."""
        if self.codes is None:
            return values
        if values.ndim == 1:
            return np.bincount(self.codes, values, self.units).astype(np.float64, copy=False)
        return np.column_stack([np.bincount(self.codes, v, self.units) for v in values.T])

    def shares(self, mass: Floats) -> Floats:
        """The share of the mass (rows,) that each unit has."""
        held = self.sums(mass)
        found: Floats = held / held.sum()
        return found

    def quantile(self, confidence: float, freedom: float) -> float:
        """Of the t distribution with `freedom`, or of the normal one for many independent rows."""
        from scipy.special import ndtri, stdtrit

        return float(stdtrit(freedom, confidence) if self._few(freedom) else ndtri(confidence))

    def two_sided(self, z: float, freedom: float) -> float:
        """Probability of a statistic at least as far from zero as `z`."""
        from scipy.special import ndtr, stdtr

        return float(2 * (stdtr(freedom, -abs(z)) if self._few(freedom) else ndtr(-abs(z))))

    def _few(self, freedom: float) -> bool:
        # Real clusters always take t, so that the 30th day does not narrow the bound at one blow.
        return freedom + 1 < FEW or self.units < self.rows

    def grouped(self, seed: int) -> "Holdout":
        """Itself, or for more units than 2 * GROUPS: in random groups of units."""
        if self.units <= 2 * GROUPS:
            return self
        group = np.random.default_rng(seed).permutation(self.units) % GROUPS
        codes = group if self.codes is None else group[self.codes]
        return replace(self, codes=codes, clusters=GROUPS)

    def resamples(self, replicates: int, seed: int, *, width: int) -> Iterator[Floats]:
        """Chunks (b, units) of how often each unit was drawn; `width` numbers a replicate needs."""
        random = np.random.default_rng(seed)
        chunk = min(replicates, max(_LEAST, _CHUNK // max(width, self.units)))
        for start in range(0, replicates, chunk):
            b = min(chunk, replicates - start)
            drawn = random.integers(self.units, size=(b, self.units))
            drawn += np.arange(b)[:, None] * self.units
            counts = np.bincount(drawn.ravel(), minlength=b * self.units)
            yield counts.reshape(b, self.units).astype(np.float64)


def holdout(y_true: Any, *, clusters: Any = None, weights: Any = None) -> Holdout:
    """Check and convert the labels, clusters (any array of comparable values) and weights.

    Raises EvaluationError for labels, weights or clusters that are missing, not finite, of
    another length, and for fewer than two rows or clusters.
    """
    y = _floats("y_true", y_true, None)
    if len(y) < 2:
        raise EvaluationError(f"the holdout has {len(y)} rows", expected="at least 2")
    mass = None if weights is None else _floats("weights", weights, len(y))
    if mass is not None and (mass.min() < 0 or mass.sum() <= 0):
        raise EvaluationError("the weights are negative or all zero", expected="weights >= 0")
    if clusters is None:
        return Holdout(y_true=y, weights=mass, codes=None, clusters=None)
    codes, count = _codes(clusters, len(y))
    if count < 2:
        raise EvaluationError(
            f"the holdout has {count} cluster",
            expected="at least 2 clusters: one cluster says nothing about how clusters differ",
            fix="take a longer holdout or smaller clusters",
        )
    return Holdout(y_true=y, weights=mass, codes=codes, clusters=count)


def check_score(name: str, score: Any, rows: Holdout) -> Floats:
    """One model's scores (rows,) or (rows, classes) as floats.

    EvaluationError names the model and what is wrong.
    """
    return _floats(f"the scores of {name!r}", score, rows.rows, columns=True)


def check_metric(metric: Metric, rows: Holdout, scores: Mapping[str, Floats]) -> None:
    """EvaluationError when the metric is not defined on these labels or scores."""
    for name, score in scores.items():
        if score.ndim == 2 and not metric.multiclass:
            raise EvaluationError(
                f"{metric.name} got scores of {name!r} of shape {score.shape}",
                expected=f"one score a row, ({rows.rows},): the metric is not defined on classes",
            )
    if metric.task == "binary":
        for columns in {score.shape[1:] for score in scores.values()}:
            _check_labels(metric, rows, *columns)
    for name, score in scores.items() if metric.probability else ():
        if score.min() < 0 or score.max() > 1:
            raise EvaluationError(
                f"{metric.name} got scores of {name!r} from {score.min():g} to {score.max():g}",
                expected="probabilities, between 0 and 1",
            )
        if score.ndim == 2 and (off := np.abs(score.sum(axis=1) - 1).max()) > _OFF:
            raise EvaluationError(
                f"{metric.name} got scores of {name!r} whose sum over classes is off by {off:g}",
                expected="probabilities of the classes, 1 together in each row",
            )


def _check_labels(metric: Metric, rows: Holdout, classes: int = 0) -> None:
    """`classes` is the number of columns of the scores, 0 where there is one score a row."""
    y, count = rows.y_true, classes or 2
    if not ((y == 0) | (y == 1)).all() and not (classes and np.isin(y, np.arange(count)).all()):
        found = np.unique(y)[:5].tolist()
        names = "labels 0 and 1" if not classes else f"labels 0 to {count - 1}, a column for each"
        raise EvaluationError(f"{metric.name} got the labels {found}", expected=names)
    if metric.curve is None:
        return
    mass = np.bincount(y.astype(np.intp), rows.weights, count)
    if absent := np.flatnonzero(mass == 0).tolist():
        single = "a single class" if count == 2 else f"no row of class {absent[0]}"
        raise EvaluationError(
            f"the holdout has {single}, {metric.name} is not defined on it",
            expected="rows of both classes" if count == 2 else "rows of every class",
            fix="take a longer holdout",
        )


def _floats(what: str, values: Any, rows: int | None, *, columns: bool = False) -> Floats:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EvaluationError(f"{what} cannot be read as numbers", expected="numbers") from error
    if array.ndim != 1 and not (columns and array.ndim == 2 and array.shape[1] > 1):
        raise EvaluationError(
            f"{what} have shape {array.shape}",
            expected="shape (rows,)" + " or (rows, classes)" * columns,
        )
    if rows is not None and len(array) != rows:
        raise EvaluationError(
            f"{what} have {len(array)} rows, the labels {rows}", expected="the same holdout rows"
        )
    if bad := int((~np.isfinite(array)).sum()):
        raise EvaluationError(
            f"{what}: {bad} of {array.size} values are NaN or infinite", expected="finite values"
        )
    return array


def _codes(clusters: Any, rows: int) -> tuple[npt.NDArray[np.intp], int]:
    array = np.asarray(clusters)
    if array.shape != (rows,):
        raise EvaluationError(
            f"the clusters have shape {array.shape}", expected=f"one cluster a row, ({rows},)"
        )
    missing = array != array if array.dtype.kind in "fcmM" else np.zeros(1, dtype=bool)
    if array.dtype.kind == "O":
        missing = np.array([_absent(value) for value in array])
    if missing.any():
        raise EvaluationError(
            f"{int(missing.sum())} rows have no cluster", expected="a cluster for each row"
        )
    try:
        names, codes = np.unique(array, return_inverse=True)
    except TypeError as error:
        kinds = sorted({type(value).__name__ for value in array})
        raise EvaluationError(
            f"the clusters are of the types {', '.join(kinds)}",
            expected="values of one type, that can be compared",
        ) from error
    return codes.reshape(-1), len(names)


def _absent(value: Any) -> bool:
    """None, NaN, NaT, or pandas' NA, which is neither equal to itself nor not."""
    same = value == value
    return value is None or not isinstance(same, bool | np.bool_) or not same


def numbered(name: str, values: Any, rows: int) -> tuple[list[str], Any]:
    """`(group names in order, number of each row's group)` of the groups `name`.

    Of a million rows only the few names are ever made into text.
    """
    array = np.asarray(values)
    if array.shape != (rows,):
        raise EvaluationError(
            f"the groups {name!r} have shape {array.shape}",
            expected=f"one group a row, ({rows},)",
        )
    try:
        distinct, of_row = np.unique(array, return_inverse=True)
    except TypeError:  # values of several kinds have no order but that of their text
        distinct, of_row = np.unique(array.astype(str), return_inverse=True)
    return ordered(distinct.astype(str), of_row)


def ordered(texts: Any, of_row: Any) -> tuple[list[str], Any]:
    """Names in the order of their text, where two of one text are one group."""
    names, place = np.unique(texts, return_inverse=True)
    return names.tolist(), place.reshape(-1)[of_row.reshape(-1)]
