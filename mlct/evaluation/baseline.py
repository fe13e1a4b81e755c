"""What every model must beat: saying what is usual, or again what was seen last."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mlct.errors import EvaluationError


def featureless(y_train: Any, rows: int, classes: int = 0) -> npt.NDArray[np.float64]:
    """What a model without features says of `rows` rows: the training rows' mean label, or the
    share of each of several `classes`.

    >>> featureless([0, 1, 1, 2], 1, classes=3).tolist()
    [[0.25, 0.5, 0.25]]
    """
    if not classes:
        return np.full(rows, float(np.mean(y_train)))
    return np.tile(np.bincount(y_train, minlength=classes) / len(y_train), (rows, 1))


def no_change(
    y_true: Any, times: Any, known_at: Any = None, *, before: float = 0.0
) -> npt.NDArray[np.float64]:
    """For each row the last label that was known when it was scored, in the order of the rows.

    `times` (rows,) are the times of scoring, `known_at` (rows,) the times at which the labels
    became known, by default those of scoring: then the previous row's label. A label known at the
    very time of scoring is too late. Rows before the first known label get `before`, such as the
    training rows' mean label. On slowly changing labels this is hard to beat (Bifet et al. 2013,
    "no-change classifier").

    >>> no_change([0, 1, 1, 0], [1, 2, 3, 4], before=0.5).tolist()
    [0.5, 0.0, 1.0, 1.0]
    """
    y, scored = np.asarray(y_true, dtype=np.float64), np.asarray(times)
    known = scored if known_at is None else np.asarray(known_at)
    if not y.shape == scored.shape == known.shape or y.ndim != 1:
        raise EvaluationError(
            f"labels, times and known_at have shapes {y.shape}, {scored.shape}, {known.shape}",
            expected="one of each a row",
        )
    # Of labels known at one time, the one of the latest row counts.
    order = np.lexsort((scored, known))
    found = np.searchsorted(known[order], scored, side="left") - 1
    return np.where(found < 0, before, y[order][np.maximum(found, 0)])
