"""The rules of a gate, each checked when declared; `policy.py` puts them together.

Comparisons are paired and one-sided at each rule's `confidence`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Any, ClassVar

from mlct.errors import SpecError
from mlct.evaluation.business import BusinessMetric
from mlct.evaluation.metric import METRICS, Metric, with_threshold
from mlct.evaluation.metric import metric as find_metric

FAIRNESS = ("demographic_parity", "equal_opportunity", "equalised_odds")


class _Rule:
    __slots__ = ()
    kind: ClassVar[str]
    metric: str | Metric
    confidence: float
    threshold: float | None

    @property
    def name(self) -> str:
        """The metric's name, with its threshold where one is set: `recall@0.3`."""
        return _metric_name(self)

    @property
    def of_metric(self) -> Metric:
        """The metric, at the rule's threshold."""
        return find_metric(with_threshold(self.metric, self.threshold))

    def to_dict(self) -> dict[str, Any]:
        """The rule as plain JSON values; unset fields are left out."""
        rule: Any = self
        values = {field.name: getattr(rule, field.name) for field in fields(rule)}
        if isinstance(self.metric, Metric):
            values["metric"] = self.metric.name
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        return {"rule": self.kind} | {k: v for k, v in plain.items() if v is not None}


@dataclass(frozen=True, slots=True)
class Superiority(_Rule):
    """The challenger is better than the champion by more than `min_effect`.

    >>> Superiority("roc_auc", min_effect=0.002, confidence=0.95).name
    'roc_auc'
    """

    kind: ClassVar[str] = "superiority"
    metric: str | Metric
    min_effect: float = 0.0
    confidence: float = 0.95
    threshold: float | None = None

    def __post_init__(self) -> None:
        _check_metric(self)
        _check_number(self, "min_effect", 0.0)


@dataclass(frozen=True, slots=True)
class NonInferiority(_Rule):
    """The challenger is worse than the champion by less than `margin`."""

    kind: ClassVar[str] = "non_inferiority"
    metric: str | Metric
    margin: float
    confidence: float = 0.95
    threshold: float | None = None

    def __post_init__(self) -> None:
        _check_metric(self)
        _check_number(self, "margin", 0.0)


@dataclass(frozen=True, slots=True)
class ReplaceWhenStale(_Rule):
    """A champion older than `after` may be replaced by a challenger that is merely not worse.

    Worse by less than `margin` on `metric`, by default the policy's primary metric. It is a rule
    of the policy, read and approved with it: nobody can invoke it, only the champion's age can.

    >>> ReplaceWhenStale(after="45d", margin=0.002).days
    45.0
    """

    kind: ClassVar[str] = "stale"
    after: str
    margin: float
    metric: str | Metric | None = None  # type: ignore[assignment]  # None: the policy's primary
    confidence: float = 0.95
    threshold: float | None = None

    def __post_init__(self) -> None:
        from mlct.data.window import duration

        duration(self.after, field="ReplaceWhenStale.after")
        if self.metric is not None:
            _check_metric(self)
        _check_confidence(self)
        _check_number(self, "margin", 0.0)

    @property
    def days(self) -> float:
        """The age, in days, beyond which the rule holds."""
        from mlct.data.window import duration

        return duration(self.after).total_seconds() / 86_400

    def on(self, primary: Superiority) -> "ReplaceWhenStale":
        """Itself, on the primary metric where it names none."""
        if self.metric is not None:
            return self
        return replace(self, metric=primary.metric, threshold=primary.threshold)


@dataclass(frozen=True, slots=True)
class Limit(_Rule):
    """The challenger's metric or measured value stays inside `min` and `max`, both included.

    A known metric is judged on its interval; a measured value that has none on the value.
    """

    kind: ClassVar[str] = "limit"
    metric: str | Metric
    min: float | None = None
    max: float | None = None
    confidence: float = 0.95
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str | Metric) or not self.metric:
            raise refuse(self, "metric", "a metric, or the name of a measured value")
        if self.is_metric:
            _check_metric(self)
        _check_confidence(self)
        if self.min is None and self.max is None:
            raise refuse(self, "max", "a number for min, for max, or for both")
        for field in ("min", "max"):
            if getattr(self, field) is not None:
                _check_number(self, field, float("-inf"))
        if self.min is not None and self.max is not None and self.min > self.max:
            raise refuse(self, "min", f"at most max, {self.max!r}")

    @property
    def is_metric(self) -> bool:
        """Whether it limits a metric of the holdout, rather than a value measured elsewhere."""
        if isinstance(self.metric, Metric) or self.threshold is not None:
            return True
        return self.metric.partition("@")[0] in METRICS


@dataclass(frozen=True, slots=True)
class Ratio(_Rule):
    """A measured value is at most `max` times the champion's: a latency, a size, a cost.

    Judged on the interval of `<metric>_ratio` where that was measured, else on the two values.

    >>> Ratio("latency_p99_ms", max=1.5).measure
    'latency_p99_ms_ratio'
    """

    kind: ClassVar[str] = "ratio"
    metric: str
    max: float
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) or not self.metric:
            raise refuse(self, "metric", "the name of a measured value, such as latency_p99_ms")
        _check_confidence(self)
        _check_number(self, "max", 0.0)

    @property
    def name(self) -> str:
        return self.metric

    @property
    def measure(self) -> str:
        """The name under which the paired ratio is measured."""
        return f"{self.metric}_ratio"


@dataclass(frozen=True, slots=True)
class GroupGap(_Rule):
    """The metric differs between any two groups of the column `by` by at most `max`.

    `by` may be several columns: the groups are then their intersections. `metric` may also be
    demographic_parity (share called positive), equal_opportunity (recall) or equalised_odds
    (recall and false positive rate, the larger gap), at `threshold`, by default 0.5.

    >>> GroupGap("equalised_odds", by=("carrier", "origin"), max=0.1).name
    'equalised_odds by carrier x origin'
    """

    kind: ClassVar[str] = "group_gap"
    metric: str | Metric
    by: str | Sequence[str]
    max: float
    confidence: float = 0.95
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.metric in FAIRNESS:
            _check_confidence(self)
            if self.threshold is not None:
                with_threshold("recall", self.threshold)
        else:
            _check_metric(self)
            _check_rows_alone(self)
        if not isinstance(self.by, str):
            object.__setattr__(self, "by", _columns(self))
        if not self.by:
            raise refuse(self, "by", "the name of a column, or several")
        _check_number(self, "max", 0.0)

    @property
    def measure(self) -> str:
        """The metric's name, with its threshold where one is set: `equalised_odds@0.3`."""
        if self.metric in FAIRNESS:
            return f"{self.metric}" + ("" if self.threshold is None else f"@{self.threshold:g}")
        return _metric_name(self)

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.by,) if isinstance(self.by, str) else tuple(self.by)

    @property
    def name(self) -> str:
        """`recall by carrier`."""
        return f"{self.measure} by {' x '.join(self.columns)}"


@dataclass(frozen=True, slots=True)
class SliceRegression(_Rule):
    """In no slice is the challenger shown to be worse than the champion by more than `margin`.

    The slices are the groups of each column in `by`. Many slices are looked at, so their p-values
    are adjusted: of the slices named, at most the share `fdr` is expected to be named wrongly
    (Benjamini & Hochberg 1995).

    >>> SliceRegression("log_loss", by=["carrier", "origin"], margin=0.01).name
    'log_loss over carrier, origin'
    """

    kind: ClassVar[str] = "slice_regression"
    metric: str | Metric
    by: str | Sequence[str]
    margin: float = 0.0
    fdr: float = 0.05
    confidence: float = 0.95
    threshold: float | None = None

    def __post_init__(self) -> None:
        _check_metric(self)
        _check_rows_alone(self)
        object.__setattr__(self, "by", _columns(self))
        if not self.by:
            raise refuse(self, "by", "the name of a column, or several")
        _check_number(self, "margin", 0.0)
        _check_number(self, "fdr", 0.0)
        if not 0 < self.fdr <= 0.5:
            raise refuse(self, "fdr", "a share above 0 and at most 0.5, such as 0.05")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.by)

    @property
    def name(self) -> str:
        """`log_loss over carrier, origin`."""
        return f"{_metric_name(self)} over {', '.join(self.columns)}"


Guardrail = NonInferiority | Limit | Ratio | GroupGap | SliceRegression
RULES: dict[str, Any] = {
    r.kind: r for r in (Superiority, NonInferiority, Limit, Ratio, GroupGap, SliceRegression)
}


def _columns(rule: Any) -> tuple[str, ...]:
    by = (rule.by,) if isinstance(rule.by, str) else rule.by
    if not isinstance(by, list | tuple) or not all(isinstance(c, str) and c for c in by):
        raise refuse(rule, "by", "the name of a column, or several")
    if len(set(by)) < len(by):
        raise refuse(rule, "by", "each column once")
    return tuple(by)


def _check_rows_alone(rule: Any) -> None:
    if isinstance(rule.metric, BusinessMetric):
        raise refuse(rule, "metric", "a metric of labels and scores alone, to judge groups by")


def _metric_name(rule: Any) -> str:
    named = with_threshold(rule.metric, rule.threshold)
    return named if isinstance(named, str) else named.name


def refuse(rule: object, field: str, expected: str) -> SpecError:
    """The error for a field of a rule or policy."""
    name = f"{type(rule).__name__}.{field}"
    return SpecError(f"{name} is {getattr(rule, field)!r}", expected=expected, field=name)


def _check_number(rule: object, field: str, least: float) -> None:
    value = getattr(rule, field)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not isfinite(value) or value < least:
        raise refuse(rule, field, "a finite number" + (" >= 0" if least == 0 else ""))


def _check_confidence(rule: Any) -> None:
    value = rule.confidence
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.5 <= value < 1:
        raise refuse(rule, "confidence", "a number from 0.5 to below 1, such as 0.95")


def _check_metric(rule: Any) -> None:
    try:
        find_metric(with_threshold(rule.metric, rule.threshold))
    except SpecError as error:
        name = f"{type(rule).__name__}.{'metric' if rule.threshold is None else 'threshold'}"
        raise SpecError(
            f"{name}: {error.found}", expected=error.expected, fix=error.fix, field=name
        ) from error
    _check_confidence(rule)
