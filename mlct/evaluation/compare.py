"""Is one model better than another on the same rows? Paired, one-sided, aware of clusters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlct.errors import EvaluationError
from mlct.evaluation.business import bound
from mlct.evaluation.estimate import REPLICATES, estimates
from mlct.evaluation.holdout import Holdout, check_metric, check_score, holdout
from mlct.evaluation.metric import Floats, Metric
from mlct.evaluation.metric import metric as find_metric


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """How much better than the champion a model is on one metric.

    `delta` is positive where the model is better, whatever the metric's direction. `lower` and
    `upper` are one-sided bounds, each at `confidence` (0.975 gives the usual 95 % interval).
    `p_value` is two-sided, of no difference. `clusters` is None for independent rows; `seed` is
    None where nothing is random.
    """

    metric: str
    model: str
    champion: str
    delta: float
    lower: float
    upper: float
    standard_error: float
    p_value: float
    method: str
    rows: int
    clusters: int | None
    confidence: float
    seed: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One model's value on one metric; `lower` and `upper` are one-sided bounds at `confidence`.

    A value measured without uncertainty (a latency, a size) has no bounds.
    """

    value: float
    lower: float | None = None
    upper: float | None = None
    standard_error: float | None = None
    confidence: float | None = None
    method: str = "measured"


def compare(
    y_true: Any,
    scores: Mapping[str, Any],
    *,
    champion: str,
    metric: str | Metric,
    clusters: Any = None,
    weights: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
    replicates: int = REPLICATES,
    interval: str = "percentile",
) -> dict[str, Comparison]:
    """Compare every model in `scores` with the champion on the same rows.

    `y_true`, each of `scores`, `clusters` and `weights` have shape (rows,); of several classes,
    scores have shape (rows, classes). `clusters` name what varies together (the day, the
    customer); None declares the rows independent, and `method` then says so. `interval` is
    "percentile" or "bca" for the metrics that are bootstrapped, with `replicates`; with fewer
    than 30 clusters they take the t distribution. Raises EvaluationError for input no comparison
    can be trusted on.

    >>> y, old, new = [0, 0, 1, 1], [0.1, 0.6, 0.5, 0.7], [0.1, 0.4, 0.5, 0.7]
    >>> compare(y, {"old": old, "new": new}, champion="old", metric="roc_auc")["new"].delta
    0.25
    """
    rows = holdout(y_true, clusters=clusters, weights=weights)
    if not isinstance(scores, Mapping):
        raise EvaluationError(
            f"the scores are a {type(scores).__name__}",
            expected='a mapping of model names to arrays, such as {"old": ..., "new": ...}',
        )
    checked = {name: check_score(name, score, rows) for name, score in scores.items()}
    if champion not in checked:
        raise EvaluationError(
            f"the champion {champion!r} has no scores", expected=f"one of {', '.join(checked)}"
        )
    return compare_on(
        rows,
        checked,
        champion=champion,
        metric=bound(find_metric(metric), None),
        confidence=confidence,
        seed=seed,
        replicates=replicates,
        interval=interval,
    )


def compare_on(
    rows: Holdout,
    scores: Mapping[str, Floats],
    *,
    champion: str,
    metric: Metric,
    confidence: float,
    seed: int,
    replicates: int = REPLICATES,
    interval: str = "percentile",
) -> dict[str, Comparison]:
    """`compare` on rows and scores that are checked already."""
    check_metric(metric, rows, scores)
    others = [name for name in scores if name != champion]
    found = estimates(
        rows,
        metric,
        [scores[champion], *(scores[name] for name in others)],
        paired=True,
        confidence=confidence,
        seed=seed,
        replicates=replicates,
        interval=interval,
    )
    return {
        name: Comparison(
            metric=metric.name,
            model=name,
            champion=champion,
            delta=e.value,
            lower=e.lower,
            upper=e.upper,
            standard_error=e.standard_error,
            p_value=e.p_value,
            method=e.method,
            rows=rows.rows,
            clusters=rows.clusters,
            confidence=confidence,
            seed=e.seed,
        )
        for name, e in zip(others, found, strict=True)
    }


def measure_on(
    rows: Holdout, score: Floats, *, metric: Metric, confidence: float, seed: int
) -> Measure:
    """One model's value with one-sided bounds, by the methods of `compare`."""
    check_metric(metric, rows, {"the model": score})
    (e,) = estimates(rows, metric, [score], paired=False, confidence=confidence, seed=seed)
    return Measure(
        value=e.value,
        lower=e.lower,
        upper=e.upper,
        standard_error=e.standard_error,
        confidence=confidence,
        method=e.method,
    )
