"""What "better" means: a metric is a name, a function and a direction.

Every function takes `(y_true, score, weights=None)`, three arrays of shape `(rows,)`, and returns
a float. For binary classification `y_true` is 0 or 1 and `score` the probability of class 1; with
several classes `y_true` is 0 to k - 1 and `score` has shape `(rows, k)`, a probability of each
class. How a metric adds up over rows decides how its uncertainty is computed (see `compare.py`):

- `per_row`: a mean of one number per row (log loss, accuracy): cluster-robust differences;
- `sums`: a function of a few weighted sums (F1, RMSE, R2, ECE): bootstrap over cluster sums;
- `curve`: a function of the counts above each threshold (average precision): bootstrap, one sort;
- none of them: any function; the bootstrap calls it once per replicate.
"""

from mlct.evaluation.metric.form import (
    Floats,
    Indices,
    Metric,
    Sums,
    mean_of,
    one_vs_rest,
    ranked,
)
from mlct.evaluation.metric.known import ECE_BINS, METRICS, bins, metric, with_threshold

__all__ = [
    "ECE_BINS",
    "METRICS",
    "Floats",
    "Indices",
    "Metric",
    "Sums",
    "bins",
    "mean_of",
    "metric",
    "one_vs_rest",
    "ranked",
    "with_threshold",
]
