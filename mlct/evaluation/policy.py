"""What a challenger must show before people are asked to approve it: rules, checked when declared.

One primary rule is enough to promote; with several each is held to Holm's correction (1979), so
that more ways to win are no more ways to win by luck. Guardrails are not corrected for their
number: all of them must pass (an intersection-union test).
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Self

from mlct.errors import SpecError
from mlct.evaluation.metric import METRICS
from mlct.evaluation.metric import metric as find_metric
from mlct.evaluation.rule import (
    RULES,
    GroupGap,
    Guardrail,
    Limit,
    NonInferiority,
    Ratio,
    ReplaceWhenStale,
    SliceRegression,
    Superiority,
    refuse,
)

__all__ = [
    "GatePolicy",
    "GroupGap",
    "Guardrail",
    "Limit",
    "NonInferiority",
    "Ratio",
    "ReplaceWhenStale",
    "SliceRegression",
    "Superiority",
]

FORMAT = "mlct.gate_policy/v1"
FEATURE_AUC = 0.98
_SIZES = ("min_rows", "min_clusters", "min_positives", "min_group")
_MLFLOW = ("min_absolute_change", "min_relative_change", "greater_is_better", "higher_is_better")


@dataclass(frozen=True, kw_only=True, slots=True)
class GatePolicy:
    """Primary rules, guardrails, and how much evidence is enough to judge at all.

    With fewer than `min_rows` rows, `min_clusters` clusters (where clusters are used) or
    `min_positives` positives (binary tasks) nothing passes. Groups with fewer than `min_group`
    rows in the metric's denominator (recall: positives) are named but not judged. What a rule
    needs and nobody measured is `on_missing`: "fail" or "inconclusive". `max_feature_auc` is how
    well a single feature may tell the label before it is suspected of leaking it.
    """

    primary: Superiority | Sequence[Superiority]
    guardrails: Sequence[Guardrail] = ()
    stale: ReplaceWhenStale | None = None
    min_rows: int = 100
    min_clusters: int = 10
    min_positives: int = 30
    min_group: int = 100
    on_missing: str = "fail"
    max_feature_auc: float = FEATURE_AUC

    def __post_init__(self) -> None:
        self._check_primary()
        if not isinstance(self.guardrails, list | tuple) or not all(
            isinstance(rule, Guardrail) for rule in self.guardrails
        ):
            expected = "a list of NonInferiority, Limit, Ratio, GroupGap and SliceRegression"
            raise refuse(self, "guardrails", expected)
        object.__setattr__(self, "guardrails", tuple(self.guardrails))
        named = [(rule.kind, rule.name) for rule in self.guardrails]
        if len(set(named)) < len(named):
            raise refuse(self, "guardrails", "at most one rule of a kind for a metric")
        if self.stale is not None and not isinstance(self.stale, ReplaceWhenStale):
            raise refuse(self, "stale", "a ReplaceWhenStale(after=, margin=), or None")
        if self.stale is not None and self.stale.metric is None and len(self.primaries) > 1:
            raise refuse(self, "stale", "its metric= named, as there are several primary rules")
        for field in _SIZES:
            size = getattr(self, field)
            if isinstance(size, bool) or not isinstance(size, int) or size < 0:
                raise refuse(self, field, "a whole number >= 0")
        if self.on_missing not in ("fail", "inconclusive"):
            raise refuse(self, "on_missing", '"fail" or "inconclusive"')
        most = self.max_feature_auc
        if isinstance(most, bool) or not isinstance(most, int | float) or not 0.5 < most <= 1:
            raise refuse(self, "max_feature_auc", "a number above 0.5 and at most 1 (never)")

    def _check_primary(self) -> None:
        several = self.primary
        if isinstance(several, list | tuple) and len(several) == 1:
            object.__setattr__(self, "primary", several[0])
        elif isinstance(several, list | tuple):
            object.__setattr__(self, "primary", tuple(several))
        rules = self.primaries
        if not rules or not all(isinstance(rule, Superiority) for rule in rules):
            expected = "a Superiority(metric, min_effect=, confidence=), or a list of them"
            raise refuse(self, "primary", expected)
        if len({rule.name for rule in rules}) < len(rules):
            raise refuse(self, "primary", "each metric once")
        if len({rule.confidence for rule in rules}) > 1:
            raise refuse(self, "primary", "the same confidence in all of them: they share it")

    @property
    def primaries(self) -> tuple[Superiority, ...]:
        """The primary rules, one or several."""
        found = self.primary
        return (found,) if isinstance(found, Superiority) else tuple(found)

    @property
    def stale_rule(self) -> ReplaceWhenStale | None:
        """The staleness rule on its metric, None where the policy has none."""
        return None if self.stale is None else self.stale.on(self.primaries[0])

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that rules group by: an evaluation needs them in `groups`."""
        named = [
            column
            for rule in self.guardrails
            if isinstance(rule, GroupGap | SliceRegression)
            for column in rule.columns
        ]
        return tuple(dict.fromkeys(named))

    @property
    def measured(self) -> frozenset[str]:
        """Names of the values that rules limit and no metric of the holdout gives: a latency."""
        return frozenset(
            str(rule.metric)
            for rule in self.guardrails
            if isinstance(rule, Ratio) or (isinstance(rule, Limit) and not rule.is_metric)
        )

    def to_dict(self) -> dict[str, Any]:
        """The policy as plain JSON values, for digests and records."""
        several = isinstance(self.primary, tuple)
        rules = [rule.to_dict() for rule in self.primaries]
        values: dict[str, Any] = {
            "format": FORMAT,
            "primary": rules if several else rules[0],
            "guardrails": [rule.to_dict() for rule in self.guardrails],
            **{field: getattr(self, field) for field in (*_SIZES, "on_missing")},
        }
        # Left out where unset, so that a policy keeps the digest it had before there were these.
        if self.stale is not None:
            values["stale"] = self.stale.to_dict()
        if self.max_feature_auc != FEATURE_AUC:
            values["max_feature_auc"] = self.max_feature_auc
        return values

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, or YAML; metrics must be known by name.

        A rule in MLflow's words (`threshold`, `min_absolute_change`, `greater_is_better`) becomes
        the rules that say the same; `min_relative_change` is refused.

        >>> said = {"metric": "roc_auc", "min_absolute_change": 0.002, "greater_is_better": True}
        >>> GatePolicy.from_dict({"primary": said}).primary
        Superiority(metric='roc_auc', min_effect=0.002, confidence=0.95, threshold=None)
        """
        if not isinstance(record, Mapping):
            raise SpecError(f"the gate policy is {record!r}", expected="a mapping with primary")
        if (found := record.get("format", FORMAT)) != FORMAT:
            raise SpecError(f"the gate policy's format is {found!r}", expected=FORMAT)
        values = {key: value for key, value in record.items() if key != "format"}
        primary = values.get("primary")
        several = primary if isinstance(primary, list | tuple) else [primary]
        listed = values.get("guardrails", ())
        if not isinstance(listed, list | tuple):
            raise SpecError(f"guardrails is {listed!r}", expected="a list of rules")
        rules, limits = [], []
        for said in several:
            first, *more = _read(said, primary=True)
            rules.append(first)
            limits += more
        values["primary"] = rules
        values["guardrails"] = [
            *(rule for said in listed for rule in _read(said)),
            *limits,
        ]
        if values.get("stale") is not None:
            stale = dict(values["stale"]) if isinstance(values["stale"], Mapping) else {"rule": ""}
            if stale.pop("rule", ReplaceWhenStale.kind) != ReplaceWhenStale.kind:
                raise SpecError(f"stale is {values['stale']!r}", expected="after and margin")
            values["stale"] = _construct(ReplaceWhenStale, stale)
        policy: Self = _construct(cls, values)
        return policy


def _read(said: Any, *, primary: bool = False) -> list[Any]:
    """The rules that one entry of a policy's record stands for."""
    values = dict(said) if isinstance(said, Mapping) else {}
    if "rule" not in values and (set(values) & {*_MLFLOW, "threshold"}):
        return _from_mlflow(values, primary)
    kind = values.pop("rule", Superiority.kind if primary and values else "")
    rule = RULES.get(kind)
    if rule is None:
        raise SpecError(f"a rule of the gate is {said!r}", expected=f"rule: {', '.join(RULES)}")
    return [_construct(rule, values)]


def _from_mlflow(values: dict[str, Any], primary: bool) -> list[Any]:
    """MLflow's MetricThreshold: a value to reach and a change over the champion's."""
    name = values.pop("metric", None)
    if "min_relative_change" in values:
        raise SpecError(
            f"min_relative_change is asked of {name}",
            expected="min_absolute_change, in the metric's own units",
            fix="A share of the champion's value moves with the noise of that value: write the "
            "improvement that is worth a release as a number",
        )
    if not any(word in values for word in _MLFLOW):
        raise SpecError(
            f"threshold is given for {name} without saying which kind is meant",
            expected="rule: limit with min or max for a value to reach, or rule: superiority with "
            "threshold for the score above which a row is called positive",
        )
    told = [values.pop(word) for word in _MLFLOW[2:] if word in values]
    if odd := [said for said in told if not isinstance(said, bool)]:
        raise SpecError(f"greater_is_better is {odd[0]!r} for {name}", expected="true or false")
    directions = set(told)
    value, change = values.pop("threshold", None), values.pop("min_absolute_change", None)
    if values or len(directions) > 1:
        raise SpecError(
            f"MLflow's words for {name} come with {', '.join(values) or 'two directions'}",
            expected="metric, threshold, min_absolute_change, greater_is_better",
        )
    known = isinstance(name, str) and name.partition("@")[0] in METRICS
    bigger = find_metric(name).bigger_is_better if known else None
    if known and directions - {bigger}:
        raise SpecError(
            f"greater_is_better is {not bigger} for {name}",
            expected=f"{bigger}, as the metric itself has it, or leave it out",
        )
    bigger = bigger if known else next(iter(directions), None)
    rules: list[Any] = []
    if primary:
        rules.append(Superiority(name, min_effect=0.0 if change is None else change))
    elif change is not None:
        raise SpecError(
            f"min_absolute_change makes the guardrail {name} an improvement to show",
            expected="rule: non_inferiority with margin, or the metric under primary",
        )
    if value is not None and bigger is None:
        raise SpecError(f"{name} has no direction", expected="greater_is_better: true or false")
    if value is not None:
        rules.append(Limit(name, min=value) if bigger else Limit(name, max=value))
    if not rules:
        raise SpecError(f"{name} asks for nothing", expected="threshold, a value to reach")
    return rules


def _construct(kind: Any, values: Mapping[str, Any]) -> Any:
    known = [field.name for field in fields(kind)]
    if unknown := sorted(set(values) - set(known)):
        raise SpecError(f"{kind.__name__} got {', '.join(unknown)}", expected=", ".join(known))
    required = [field.name for field in fields(kind) if field.default is MISSING]
    if absent := [name for name in required if name not in values]:
        raise SpecError(f"{kind.__name__} has no {', '.join(absent)}", expected=", ".join(known))
    return kind(**values)
