"""What a holdout has left to say: how often it was looked at, and who was chosen on it.

Every decision on the same holdout is another chance to pass by luck, and the best of ten models
looks better on the rows it was chosen on than it is.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlct.errors import EvaluationError
from mlct.evaluation.holdout import check_metric, check_score, holdout
from mlct.evaluation.metric import Metric
from mlct.evaluation.metric import metric as find_metric

FIRST = 0.8  # nearly every holdout is looked at once: that look keeps most of the level


def spent(alpha: float, looks: int) -> float:
    """The confidence of the bounds at the `looks`-th decision on one holdout.

    The error `alpha` is spent as in a group-sequential trial (Lan & DeMets 1983): four fifths at
    the first look, the last fifth over all later ones in proportion to 1 / k^2. The shares sum to
    `alpha` however many looks there are, so that by the union bound a challenger that is not
    better passes on one holdout with probability `alpha` at most, whatever was tried on it.

    >>> [round(spent(0.05, look), 4) for look in (1, 2, 3, 10)]
    [0.96, 0.9939, 0.9985, 0.9999]
    """
    if isinstance(looks, bool) or not isinstance(looks, int) or looks < 1:
        raise EvaluationError(f"looks is {looks!r}", expected="which look this is, from 1")
    if not 0 < alpha <= 0.5:
        raise EvaluationError(f"alpha is {alpha!r}", expected="above 0 and at most 0.5")
    if looks == 1:
        return 1 - FIRST * alpha
    return 1 - (1 - FIRST) * alpha * 6 / (np.pi * (looks - 1)) ** 2


def level(confidence: float, looks: int | None) -> float:
    """The confidence that a rule declares, tightened for the look; None: nobody counts."""
    return confidence if looks is None else float(spent(1 - confidence, looks))


def afresh(confidence: float, looks: int | None) -> float:
    """What a `confidence` at the `looks`-th decision would be at the first one on another holdout.

    >>> round(afresh(level(0.95, 7), 7), 4)
    0.96
    """
    if looks is None:
        return confidence
    return 1 - (1 - confidence) * (1 - level(0.95, 1)) / (1 - level(0.95, looks))


def shared(confidence: float, rules: int) -> float:
    """The confidence at which each of several rules is judged, so that together they keep it."""
    return confidence if rules == 1 else 1 - (1 - confidence) / rules


def select(
    y_true: Any, scores: Mapping[str, Any], metric: str | Metric, *, weights: Any = None
) -> str:
    """The name of the best of several candidates, the first of equals.

    Do this on a selection window. The winner was lucky there as well as good, so the gate refuses
    to decide on the window it was chosen on: record `selected_among` and `selected_on` and let a
    later holdout confirm it.

    >>> select([0, 1, 0, 1], {"a": [0.1, 0.2, 0.3, 0.4], "b": [0.1, 0.8, 0.3, 0.9]}, "roc_auc")
    'b'
    """
    if not scores:
        raise EvaluationError("there is no candidate to select", expected="at least one")
    rows, chosen = holdout(y_true, weights=weights), find_metric(metric)
    checked = {name: check_score(name, score, rows) for name, score in scores.items()}
    check_metric(chosen, rows, checked)
    values = {
        name: chosen.sign * float(chosen.function(rows.y_true, score, rows.weights))
        for name, score in checked.items()
    }
    return max(values, key=values.__getitem__)
