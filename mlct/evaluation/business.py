"""A metric in the user's own units: money saved, precision above an amount."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlct.errors import EvaluationError, SpecError
from mlct.evaluation.metric import Floats, Metric


@dataclass(frozen=True, slots=True)
class BusinessMetric(Metric):
    """A metric whose function also sees columns of the holdout: `(y_true, score, frame) -> float`.

    `frame` maps each of `columns` to an array (rows,). Its uncertainty comes from a bootstrap of
    whole clusters, so the function is called some thousand times: keep it to a few array
    operations. It stands wherever a metric does, in Superiority, NonInferiority and Limit.

    >>> def saved(y_true, score, frame):
    ...     return float(((score > 0.5) * (y_true * frame["amount"] - 40)).mean())
    >>> BusinessMetric("money_saved", saved, columns=("amount",)).name
    'money_saved'
    """

    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Metric.__post_init__(self)
        if isinstance(self.columns, str) or not all(isinstance(c, str) for c in self.columns):
            raise SpecError(
                f"the columns of metric {self.name!r} are {self.columns!r}",
                expected="a tuple of column names",
            )
        object.__setattr__(self, "columns", tuple(self.columns))

    def on(self, frame: Mapping[str, Any] | None) -> Metric:
        """The metric on one holdout's columns: an ordinary one, that counts rows by weight."""
        held = {} if frame is None else frame
        if absent := [column for column in self.columns if column not in held]:
            raise EvaluationError(
                f"the metric {self.name} was not given {', '.join(absent)}",
                expected=f"frame= with the columns {', '.join(self.columns)}, as evaluate takes it",
            )
        arrays = {column: np.asarray(held[column]) for column in self.columns}
        function = self.function

        def on_rows(y_true: Floats, score: Floats, weights: Floats | None = None) -> float:
            if weights is None:
                return float(function(y_true, score, arrays))
            times = weights.astype(np.intp)
            if not np.array_equal(times, weights):
                raise EvaluationError(
                    f"the metric {self.name} was given sample weights", expected="no weights"
                )
            drawn = np.repeat(np.arange(len(y_true)), times)
            if not len(drawn):
                return float("nan")
            frame = {column: values[drawn] for column, values in arrays.items()}
            return float(function(y_true[drawn], score[drawn], frame))

        return Metric(
            self.name,
            on_rows,
            self.bigger_is_better,
            task=self.task,
            probability=self.probability,
            lowest=self.lowest,
        )


def bound(metric: Metric, frame: Mapping[str, Any] | None) -> Metric:
    """A business metric on this holdout's columns; any other as it is."""
    return metric.on(frame) if isinstance(metric, BusinessMetric) else metric
