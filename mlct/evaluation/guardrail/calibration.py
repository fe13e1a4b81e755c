"""Does a score of 0.3 mean 30 %? The error over equal-mass bins, and what chance alone adds to it.

The error of a perfectly calibrated model is not zero on a finite holdout: at 500 rows it is about
0.05. The limit of a gate is judged on the interval, which is moved for that bias; `by_chance` says
how large it is.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlct.evaluation.compare import Measure, measure_on
from mlct.evaluation.holdout import check_score, holdout
from mlct.evaluation.metric import ECE_BINS, Floats, bins
from mlct.evaluation.metric import metric as find_metric


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliabilityBin:
    """Rows with about the same score: what was said, what was seen, with one-sided bounds."""

    rows: int
    said: float
    seen: float
    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Reliability:
    """The calibration error `ece`, its value `by_chance` if calibrated, and the bins behind it."""

    ece: Measure
    by_chance: float
    bins: tuple[ReliabilityBin, ...]

    @property
    def sentence(self) -> str:
        """What a reader needs to know, in one line."""
        return (
            f"calibration error {self.ece.value:.3g}; a perfectly calibrated model would show "
            f"about {self.by_chance:.3g} on these rows by chance alone"
        )


def calibration(
    y_true: Any,
    score: Any,
    *,
    clusters: Any = None,
    weights: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Measure:
    """Expected calibration error over 15 equal-mass bins, with one-sided bounds."""
    rows = holdout(y_true, clusters=clusters, weights=weights)
    checked = check_score("the model", score, rows)
    return measure_on(rows, checked, metric=find_metric("ece"), confidence=confidence, seed=seed)


def ece_by_chance(score: Any, weights: Any = None) -> float:
    """The calibration error to expect of scores (rows,) that are exactly right.

    Labels drawn from the scores leave a sum of y - p in each bin that is nearly normal with
    variance sum p (1 - p), whose mean distance from zero is sqrt(2 variance / pi). Rows are taken
    as independent: where they are not, chance adds more.

    >>> round(ece_by_chance(np.full(500, 0.3)), 4)
    0.0164
    """
    p = np.asarray(score, dtype=np.float64)
    mass = np.ones(len(p)) if weights is None else np.asarray(weights, dtype=np.float64)
    spread = np.bincount(bins(p), mass**2 * p * (1 - p))
    return float(np.sqrt(2 * spread / np.pi).sum() / mass.sum())


def reliability(
    y_true: Any,
    score: Any,
    *,
    clusters: Any = None,
    weights: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Reliability:
    """The reliability curve as numbers: share of positives against mean score, bin by bin.

    Each bin's bounds on the share are cluster-robust, those of a mean with `rows` rows.
    """
    rows = holdout(y_true, clusters=clusters, weights=weights)
    checked = check_score("the model", score, rows)
    ece = measure_on(rows, checked, metric=find_metric("ece"), confidence=confidence, seed=seed)
    of_row, mass = bins(checked), rows.mass
    found = []
    for index in range(ECE_BINS):
        mine = of_row == index
        if not mine.any():
            continue
        inside = np.where(mine, mass, 0.0)
        total = inside.sum()
        seen = float(inside @ rows.y_true / total)
        off: Floats = rows.sums(inside * (rows.y_true - seen)) / total
        with_rows = int(rows.sums(mine.astype(np.float64)).astype(bool).sum())
        reach = 1.0  # one cluster tells nothing about the others
        if with_rows > 1:
            error = float(np.sqrt(off @ off * with_rows / (with_rows - 1)))
            reach = rows.quantile(confidence, with_rows - 1.0) * error
        found.append(
            ReliabilityBin(
                rows=int(mine.sum()),
                said=float(inside @ checked / total),
                seen=seen,
                lower=max(seen - reach, 0.0),
                upper=min(seen + reach, 1.0),
            )
        )
    return Reliability(ece=ece, by_chance=ece_by_chance(checked, rows.weights), bins=tuple(found))
