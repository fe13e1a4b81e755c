"""A regression's error without labels: a second model predicts the loss of each row.

It learns the loss on labelled reference rows from the features and the prediction, out of fold;
what it gets wrong there on average is taken off (direct loss estimation). It holds while rows that
look alike are predicted as badly as before: not under concept drift.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlct.errors import EvaluationError, SpecError
from mlct.evaluation.holdout import Holdout, check_score, holdout
from mlct.evaluation.metric import Floats, Metric, Sums, mean_of
from mlct.evaluation.metric import metric as find_metric
from mlct.monitoring.performance.cluster import cluster_sizes, correlation
from mlct.monitoring.performance.result import LEAST_ROWS, Performance, unknown

ASSUMPTION = (
    "rows that look alike are predicted as badly as in the reference: an estimate cannot see "
    "concept drift"
)
METHOD = "model of the loss"
FOLDS = 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LossModel:
    """A fitted model of a metric's loss, and how wrong it was out of fold.

    `folds` are models that did not see one fold each. `off` (rows,) is loss less prediction out of
    fold, `predicted` the prediction; `columns` is the number of features, the score among them.
    """

    metric: Metric
    model: Any
    folds: tuple[Any, ...]
    rows: Holdout
    off: Floats
    predicted: Floats
    columns: int

    def estimate(
        self, features: Any, score: Any, *, clusters: Any = None, confidence: float = 0.95
    ) -> Performance:
        """The metric on rows without labels: features (n, k) and predictions (n,).

        Bounds are one-sided, each at `confidence`, for the value that labels will show. Features
        may hold NaN if the model takes them. Raises EvaluationError.
        """
        if not isinstance(confidence, int | float) or not 0.5 <= confidence < 1:
            raise SpecError(f"confidence is {confidence!r}", expected="from 0.5 to below 1")
        n = np.shape(score)[0] if np.ndim(score) else 0
        told: dict[str, Any] = {"rows": n, "assumption": ASSUMPTION}
        if n < LEAST_ROWS:
            reason = f"insufficient data: {n} rows, {LEAST_ROWS} are wanted"
            return unknown(self.metric.name, reason, method=METHOD, **told)
        sizes = None if clusters is None else cluster_sizes(clusters, n)
        inputs = _inputs(features, check_score("the window", score, holdout(np.zeros(n))))
        if inputs.shape[1] != self.columns:
            raise EvaluationError(
                f"the window has {inputs.shape[1] - 1} features",
                expected=f"those of the reference, {self.columns - 1}",
            )
        loss = np.asarray(self.model.predict(inputs), dtype=np.float64)
        mean = float(loss.mean() + self.off.mean())
        # A large loss varies more: its spread goes with what is predicted.
        spread = float(self.off @ self.off) / max(float(self.predicted @ self.predicted), 1e-300)
        drawn = spread * float(loss @ loss) / n**2
        effect = 1.0
        if sizes is not None:
            rho = correlation(self.rows, self.off - self.off.mean())
            effect += rho * (float(sizes @ sizes) / n - 1)
        sums = self.rows.sums(self.off - self.off.mean()) / self.rows.rows
        learned = float(sums @ sums) * self.rows.units / (self.rows.units - 1)
        # Where the window lies apart from the reference, models of other folds differ more: the
        # jackknife of whole folds.
        means = np.array([np.mean(fold.predict(inputs)) for fold in self.folds])
        learned = max(learned, float(means.var() * (len(means) - 1)))
        error = float(np.sqrt(drawn * effect + learned))
        freedom = None if self.rows.clusters is None else float(self.rows.clusters - 1)
        reach = self.rows.quantile(confidence, freedom or float(self.rows.rows)) * error
        value = _value(self.metric)
        lower, middle, upper = (value(x) for x in (mean - reach, mean, mean + reach))
        clustered = "independent rows" if sizes is None else f"clusters, design effect {effect:.2f}"
        return Performance(
            kind="estimated",
            metric=self.metric.name,
            value=middle,
            lower=lower,
            upper=upper,
            standard_error=(upper - lower) / (2 * reach / error) if reach else 0.0,
            freedom=freedom,
            confidence=confidence,
            clusters=None if sizes is None else len(sizes),
            method=f"{METHOD}, {clustered}",
            reason=f"estimated from {n} rows and {self.rows.rows} labelled reference rows",
            **told,
        )


def fit_loss_model(
    features: Any,
    labels: Any,
    score: Any,
    *,
    metric: str | Metric = "mae",
    clusters: Any = None,
    estimator: Callable[[], Any] | None = None,
    seed: int = 0,
) -> LossModel:
    """Learn the loss on reference rows in time order that the model was not trained on.

    `features` (rows, k) are numbers, NaN where missing, if the estimator takes them; `labels` and
    `score` (rows,). `estimator` makes an object with `fit` and `predict`, by default LightGBM's
    trees. Metrics are means of a loss, or a function of one (`rmse`).
    """
    metric = find_metric(metric)
    rows = holdout(labels, clusters=clusters)
    known = check_score("the reference", score, rows)
    sums = _sums(metric)
    columns = [] if sums is None else list(sums.columns(rows.y_true, known))
    if len(columns) != 1 or metric.task == "binary" or known.ndim > 1:
        raise SpecError(
            f"{metric.name} cannot be estimated by a model of the loss",
            expected="a metric of a regression that is a mean over rows, such as mae, mse, rmse",
        )
    if rows.units < 2 * FOLDS:
        raise EvaluationError(
            f"the reference has {rows.units} rows or clusters", expected=f"at least {2 * FOLDS}"
        )
    inputs, loss = _inputs(features, known), columns[0]
    codes = np.arange(rows.rows) if rows.codes is None else rows.codes
    fold, predicted = codes * FOLDS // rows.units, np.empty(rows.rows)
    build, models = estimator or (lambda: _trees(seed)), []
    for number in range(FOLDS):
        held = fold == number
        models.append(build().fit(inputs[~held], loss[~held]))
        predicted[held] = models[-1].predict(inputs[held])
    return LossModel(
        metric=metric,
        model=build().fit(inputs, loss),
        folds=tuple(models),
        rows=rows,
        off=loss - predicted,
        predicted=predicted,
        columns=inputs.shape[1],
    )


def _trees(seed: int) -> Any:
    from lightgbm import LGBMRegressor

    return LGBMRegressor(
        n_estimators=60, min_child_samples=40, n_jobs=1, random_state=seed, verbose=-1
    )


def _sums(metric: Metric) -> Sums | None:
    return metric.sums or (mean_of(metric.per_row) if metric.per_row else None)


def _value(metric: Metric) -> Callable[[float], float]:
    """From the mean loss to the metric."""
    sums = _sums(metric)
    assert sums is not None
    floor = 0.0 if metric.sums is not None else -np.inf
    return lambda mean: float(sums.value(np.array([max(mean, floor), 1.0])))


def _inputs(features: Any, score: Floats) -> npt.NDArray[np.float64]:
    if features is None:
        return score[:, None]
    try:
        columns = np.asarray(features, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EvaluationError(
            "the features cannot be read as numbers",
            expected="an array (rows, k); codes for categories",
        ) from error
    if columns.ndim != 2 or len(columns) != len(score):
        raise EvaluationError(
            f"the features have shape {columns.shape}", expected=f"({len(score)}, k)"
        )
    return np.column_stack([columns, score])
