"""How much rows that vary together widen an interval."""

from typing import Any

import numpy as np

from mlct.errors import EvaluationError
from mlct.evaluation.holdout import Holdout
from mlct.evaluation.metric import Floats


def correlation(rows: Holdout, off: Floats) -> float:
    """Intra-cluster correlation of residuals `off` (rows,), at least 0; of independent rows 0."""
    if rows.codes is None:
        return 0.0
    sums, sizes = rows.sums(off), rows.sums(np.ones(rows.rows))
    own, pairs = float(off @ off), float(sizes @ sizes) - rows.rows
    if own <= 0 or pairs <= 0:
        return 0.0
    # Calibration took the mean out of the residuals.
    between = float(sums @ sums) * rows.units / (rows.units - 1)
    return float(np.clip((between - own) / (own * pairs / rows.rows), 0.0, 1.0))


def cluster_sizes(clusters: Any, rows: int) -> Floats:
    """Rows of each cluster."""
    array = np.asarray(clusters)
    if array.shape != (rows,):
        raise EvaluationError(
            f"the clusters have shape {array.shape}", expected=f"one cluster a row, ({rows},)"
        )
    return np.unique(array, return_counts=True)[1].astype(np.float64)
