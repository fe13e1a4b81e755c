"""What a challenger must show before people are asked to approve it: rules, checked when declared.

Comparisons are paired and one-sided at each rule's `confidence`. Guardrails are not corrected for
their number: all of them must pass (an intersection-union test).
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from math import isfinite
from typing import Any, ClassVar, Self

from mlct.errors import SpecError
from mlct.evaluation.metric import METRICS, Metric, with_threshold
from mlct.evaluation.metric import metric as find_metric

FORMAT = "mlct.gate_policy/v1"


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
        return {"rule": self.kind} | {k: v for k, v in values.items() if v is not None}


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
            raise _refuse(self, "metric", "a metric, or the name of a measured value")
        if self.is_metric:
            _check_metric(self)
        _check_confidence(self)
        if self.min is None and self.max is None:
            raise _refuse(self, "max", "a number for min, for max, or for both")
        for field in ("min", "max"):
            if getattr(self, field) is not None:
                _check_number(self, field, float("-inf"))
        if self.min is not None and self.max is not None and self.min > self.max:
            raise _refuse(self, "min", f"at most max, {self.max!r}")

    @property
    def is_metric(self) -> bool:
        """Whether it limits a metric of the holdout, rather than a value measured elsewhere."""
        if isinstance(self.metric, Metric) or self.threshold is not None:
            return True
        return self.metric.partition("@")[0] in METRICS


@dataclass(frozen=True, slots=True)
class GroupGap(_Rule):
    """The metric differs between any two groups of the column `by` by at most `max`."""

    kind: ClassVar[str] = "group_gap"
    metric: str | Metric
    by: str
    max: float
    confidence: float = 0.95
    threshold: float | None = None

    def __post_init__(self) -> None:
        _check_metric(self)
        if not isinstance(self.by, str) or not self.by:
            raise _refuse(self, "by", "the name of a column")
        _check_number(self, "max", 0.0)

    @property
    def name(self) -> str:
        """`recall by carrier`."""
        return f"{_metric_name(self)} by {self.by}"


Guardrail = NonInferiority | Limit | GroupGap
_RULES: dict[str, Any] = {r.kind: r for r in (Superiority, NonInferiority, Limit, GroupGap)}
_SIZES = ("min_rows", "min_clusters", "min_positives", "min_group")


@dataclass(frozen=True, kw_only=True, slots=True)
class GatePolicy:
    """One primary rule, guardrails, and how much evidence is enough to judge at all.

    With fewer than `min_rows` rows, `min_clusters` clusters (where clusters are used) or
    `min_positives` positives (binary tasks) nothing passes. Groups with fewer than `min_group`
    rows in the metric's denominator (recall: positives) are named but not judged. What a rule
    needs and nobody measured is `on_missing`: "fail" or "inconclusive".
    """

    primary: Superiority
    guardrails: Sequence[Guardrail] = ()
    min_rows: int = 100
    min_clusters: int = 10
    min_positives: int = 30
    min_group: int = 100
    on_missing: str = "fail"

    def __post_init__(self) -> None:
        if not isinstance(self.primary, Superiority):
            raise _refuse(self, "primary", "a Superiority(metric, min_effect=, confidence=)")
        if not isinstance(self.guardrails, list | tuple) or not all(
            isinstance(rule, Guardrail) for rule in self.guardrails
        ):
            raise _refuse(self, "guardrails", "a list of NonInferiority, Limit and GroupGap")
        object.__setattr__(self, "guardrails", tuple(self.guardrails))
        for field in _SIZES:
            size = getattr(self, field)
            if isinstance(size, bool) or not isinstance(size, int) or size < 0:
                raise _refuse(self, field, "a whole number >= 0")
        if self.on_missing not in ("fail", "inconclusive"):
            raise _refuse(self, "on_missing", '"fail" or "inconclusive"')

    def to_dict(self) -> dict[str, Any]:
        """The policy as plain JSON values, for digests and records."""
        return {
            "format": FORMAT,
            "primary": self.primary.to_dict(),
            "guardrails": [rule.to_dict() for rule in self.guardrails],
            **{field: getattr(self, field) for field in (*_SIZES, "on_missing")},
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote; metrics must be known by name."""
        if (found := record.get("format")) != FORMAT:
            raise SpecError(f"the gate policy's format is {found!r}", expected=FORMAT)
        values = {key: value for key, value in record.items() if key != "format"}
        values["primary"] = _rule(values.get("primary"))
        values["guardrails"] = [_rule(rule) for rule in values.get("guardrails", ())]
        policy: Self = _construct(cls, values)
        return policy


def _rule(record: Any) -> Any:
    values = dict(record) if isinstance(record, Mapping) else {}
    rule = _RULES.get(values.pop("rule", ""))
    if rule is None:
        raise SpecError(f"a rule of the gate is {record!r}", expected=f"rule: {', '.join(_RULES)}")
    return _construct(rule, values)


def _construct(kind: Any, values: Mapping[str, Any]) -> Any:
    known = [field.name for field in fields(kind)]
    if unknown := sorted(set(values) - set(known)):
        raise SpecError(f"{kind.__name__} got {', '.join(unknown)}", expected=", ".join(known))
    required = [field.name for field in fields(kind) if field.default is MISSING]
    if absent := [name for name in required if name not in values]:
        raise SpecError(f"{kind.__name__} has no {', '.join(absent)}", expected=", ".join(known))
    return kind(**values)


def _metric_name(rule: _Rule) -> str:
    named = with_threshold(rule.metric, rule.threshold)
    return named if isinstance(named, str) else named.name


def _refuse(rule: object, field: str, expected: str) -> SpecError:
    name = f"{type(rule).__name__}.{field}"
    return SpecError(f"{name} is {getattr(rule, field)!r}", expected=expected, field=name)


def _check_number(rule: object, field: str, least: float) -> None:
    value = getattr(rule, field)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not isfinite(value) or value < least:
        raise _refuse(rule, field, "a finite number" + (" >= 0" if least == 0 else ""))


def _check_confidence(rule: _Rule) -> None:
    value = rule.confidence
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.5 <= value < 1:
        raise _refuse(rule, "confidence", "a number from 0.5 to below 1, such as 0.95")


def _check_metric(rule: _Rule) -> None:
    try:
        find_metric(with_threshold(rule.metric, rule.threshold))
    except SpecError as error:
        name = f"{type(rule).__name__}.{'metric' if rule.threshold is None else 'threshold'}"
        raise SpecError(
            f"{name}: {error.found}", expected=error.expected, fix=error.fix, field=name
        ) from error
    _check_confidence(rule)
