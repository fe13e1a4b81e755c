"""What a score meant on labelled rows: isotonic regression, tied scores as one."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlct.errors import EvaluationError
from mlct.evaluation.holdout import Holdout, check_score, holdout
from mlct.evaluation.metric import Floats, Indices, one_vs_rest

_BLOCK = 10  # reference rows that a level needs


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Calibration:
    """What a score meant on the reference: one step function for each class.

    Of two classes there is one, of class 1. `starts[c]` are the scores at which its steps begin,
    `levels[c]` their probabilities, `block[c]` the step of each reference row.
    """

    rows: Holdout
    score: Floats
    starts: tuple[Floats, ...]
    levels: tuple[Floats, ...]
    block: tuple[Indices, ...]
    key: str

    @property
    def classes(self) -> int:
        return len(self.levels) if len(self.levels) > 1 else 2

    def blocks(self, score: Floats) -> list[Indices]:
        """The step of each row (n,), class by class."""
        sides = score.T if score.ndim == 2 else [score]
        return [
            np.searchsorted(starts[1:], side, side="right")
            for starts, side in zip(self.starts, sides, strict=True)
        ]

    def raw(self, blocks: list[Indices]) -> Floats:
        """Level of each row in each step function (n, functions)."""
        return np.column_stack([x[b] for x, b in zip(self.levels, blocks, strict=True)])

    def unsure(self, blocks: list[Indices]) -> Floats:
        """Probability of each class (n, classes), where a level of 0 or 1 is not certainty.

        Half a row of either class is added to each step, for the spread of labels alone.
        """
        sizes = [
            np.bincount(b, minlength=len(x)) for b, x in zip(self.block, self.levels, strict=True)
        ]
        smooth = [(x * n + 0.5) / (n + 1) for x, n in zip(self.levels, sizes, strict=True)]
        return shares(np.column_stack([x[b] for x, b in zip(smooth, blocks, strict=True)]))

    def probability(self, score: Floats) -> Floats:
        """Calibrated probability of each class (n, classes); rows add up to 1."""
        return shares(self.raw(self.blocks(score)))


def calibrate(labels: Any, scores: Any, *, clusters: Any = None) -> Calibration:
    """Learn what scores mean from labelled rows that the model was not trained on.

    `labels` (rows,) are 0 and 1, or 0 to k - 1 with `scores` (rows, k); `clusters` (rows,) name
    what varies together. Raises EvaluationError.
    """
    rows = holdout(labels, clusters=clusters)
    score = check_score("the reference", scores, rows)
    count = score.shape[1] if score.ndim == 2 else 2
    if not np.isin(rows.y_true, np.arange(count)).all() or len(np.unique(rows.y_true)) < count:
        raise EvaluationError(
            f"the reference has the labels {np.unique(rows.y_true)[:5].tolist()}",
            expected="0 and 1" if count == 2 else f"each of 0 to {count - 1}",
            fix="take a longer reference",
        )
    sides = list(one_vs_rest(rows.y_true, score)) if score.ndim == 2 else [(rows.y_true, score)]
    steps = [_isotonic(y, s) for y, s in sides]
    content = hashlib.sha256()
    for array in (rows.y_true, score, *([] if rows.codes is None else [rows.codes])):
        content.update(array.tobytes())
    return Calibration(
        rows=rows,
        score=score,
        starts=tuple(s for s, _, _ in steps),
        levels=tuple(x for _, x, _ in steps),
        block=tuple(b for _, _, b in steps),
        key=content.hexdigest(),
    )


def shares(raw: Floats) -> Floats:
    """Levels (n, functions) as a probability of each class (n, classes)."""
    if raw.shape[1] == 1:
        return np.column_stack([1 - raw, raw])
    total = raw.sum(axis=1, keepdims=True)
    equal = np.full_like(raw, 1 / raw.shape[1])
    return np.divide(raw, total, out=equal, where=total > 0)


def _isotonic(y: Floats, score: Floats) -> tuple[Floats, Floats, Indices]:
    """Where the steps begin, their levels, and the step of each row."""
    from scipy.optimize import isotonic_regression

    values, code, counts = np.unique(score, return_inverse=True, return_counts=True)
    code = code.reshape(-1)
    positives = np.bincount(code, y)
    bounds = isotonic_regression(positives / counts, weights=counts.astype(np.float64)).blocks
    size = np.add.reduceat(counts, bounds[:-1])
    # The outermost steps would be a few rows of one class: certainty that a sample cannot give.
    group = np.minimum((np.cumsum(size) - size) // _BLOCK, (size.sum() // _BLOCK or 1) - 1)
    first = bounds[:-1][np.diff(group, prepend=-1) > 0]
    levels = np.add.reduceat(positives, first) / np.add.reduceat(counts, first)
    # A step begins halfway to the one before, but never at a score of it.
    below, own = values[np.maximum(first - 1, 0)], values[first]
    starts = np.maximum(below + (own - below) / 2, np.nextafter(below, np.inf))
    starts[0] = values[0]
    return starts, levels, np.searchsorted(starts[1:], score, side="right")
