"""Challenger, champion and baseline on one frozen holdout, as one record that outlives the code."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite, nan
from typing import Any, Self

import numpy as np

from mlct.errors import EvaluationError
from mlct.evaluation.compare import Comparison, Measure, compare_on, measure_on
from mlct.evaluation.guardrail import Gap, gap_on
from mlct.evaluation.holdout import Holdout, check_metric, check_score, holdout
from mlct.evaluation.metric import METRICS, Floats, Metric
from mlct.evaluation.policy import (
    GatePolicy,
    GroupGap,
    Guardrail,
    Limit,
    NonInferiority,
    Superiority,
)

FORMAT = "mlct.evaluation/v1"
MODELS = ("challenger", "champion", "baseline")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Everything a decision needs, and nothing else.

    `champion` is "scored", "none", or why it cannot be scored. `metrics` maps model to metric to
    value; `comparisons` are of the challenger with champion and baseline; `measures` maps a
    limit's name to model to Measure. `clusters` is None for independent rows, `positives` for
    regression; `unit` is the word for one cluster ("day").
    """

    task: str
    rows: int
    clusters: int | None
    unit: str
    positives: int | None
    champion: str
    metrics: Mapping[str, Mapping[str, float]]
    comparisons: tuple[Comparison, ...]
    measures: Mapping[str, Mapping[str, Measure]]
    gaps: tuple[Gap, ...]
    confidence: float
    seed: int

    def comparison(
        self, metric: str, *, champion: str = "champion", confidence: float = 0.95
    ) -> Comparison | None:
        """The challenger against the champion (or "baseline"), None if it was not compared."""
        wanted = (metric, champion, confidence)
        for found in self.comparisons:
            if (found.metric, found.champion, found.confidence) == wanted:
                return found
        return None

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON values; numbers that are not finite become null."""
        return {"format": FORMAT} | {
            field.name: plain(getattr(self, field.name)) for field in fields(self)
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, exactly; raises EvaluationError for another format."""
        if (found := record.get("format")) != FORMAT:
            raise EvaluationError(f"the evaluation's format is {found!r}", expected=FORMAT)
        values = {key: value for key, value in record.items() if key != "format"}
        values["metrics"] = {m: _numbers(of) for m, of in values["metrics"].items()}
        values["comparisons"] = tuple(
            Comparison(**_restore(Comparison, c)) for c in values["comparisons"]
        )
        values["measures"] = {
            name: {model: Measure(**_restore(Measure, m)) for model, m in of.items()}
            for name, of in values["measures"].items()
        }
        values["gaps"] = tuple(
            Gap(
                **_restore(Gap, g)
                | {"groups": _numbers(g["groups"]), "too_small": tuple(g["too_small"])}
            )
            for g in values["gaps"]
        )
        return cls(**values)


def evaluate(
    y_true: Any,
    scores: Mapping[str, Any],
    *,
    policy: GatePolicy,
    task: str = "binary",
    clusters: Any = None,
    weights: Any = None,
    groups: Mapping[str, Any] | None = None,
    measured: Mapping[str, Mapping[str, float | Measure]] | None = None,
    champion_problem: str | None = None,
    unit: str = "cluster",
    seed: int = 0,
) -> Evaluation:
    """Score the models in `scores` by all that the policy asks for.

    `scores` maps "challenger" (required), "champion" and "baseline" to arrays (rows,); `groups`
    the columns of the policy's GroupGaps to arrays (rows,); `measured` a limit's name to the
    models' values (`{"latency_p99_ms": {"challenger": 3.1}}`). `champion_problem` says why a
    champion that exists has no scores. Raises EvaluationError for input that cannot be trusted.
    """
    if task not in ("binary", "regression"):
        raise EvaluationError(f"task is {task!r}", expected='"binary" or "regression"')
    if "challenger" not in scores or set(scores) - set(MODELS):
        raise EvaluationError(
            f"scores are of {', '.join(sorted(scores)) or 'no model'}",
            expected="challenger, and optionally champion and baseline",
        )
    if champion_problem is not None and "champion" in scores:
        raise EvaluationError(
            f"the champion has scores and a problem ({champion_problem})", expected="one of them"
        )
    rows = holdout(y_true, clusters=clusters, weights=weights)
    checked = {name: check_score(name, scores[name], rows) for name in MODELS if name in scores}
    wanted = {m.name: m for m in (*_usual(task), *_of_policy(policy))}
    for metric in wanted.values():
        check_metric(metric, rows, checked)
    gaps = [rule for rule in policy.guardrails if isinstance(rule, GroupGap)]
    return Evaluation(
        task=task,
        rows=rows.rows,
        clusters=rows.clusters,
        unit=unit,
        positives=int((rows.y_true == 1).sum()) if task == "binary" else None,
        champion="scored" if "champion" in checked else champion_problem or "none",
        metrics={
            name: {
                m.name: float(m.function(rows.y_true, score, rows.weights)) for m in wanted.values()
            }
            for name, score in checked.items()
        },
        comparisons=tuple(_comparisons(rows, checked, policy, seed)),
        measures=_measures(rows, checked["challenger"], policy, measured or {}, seed),
        gaps=tuple(
            gap_on(
                rows,
                checked["challenger"],
                groups[rule.by],
                rule.of_metric,
                by=rule.by,
                min_group=policy.min_group,
                confidence=rule.confidence,
                seed=seed,
            )
            for rule in gaps
            if groups is not None and rule.by in groups
        ),
        confidence=policy.primary.confidence,
        seed=seed,
    )


def _usual(task: str) -> list[Metric]:
    return [metric for metric in METRICS.values() if metric.task == task]


def _of_policy(policy: GatePolicy) -> list[Metric]:
    """The metrics that the policy's rules name; measured values are not among them."""
    rules: list[Superiority | Guardrail] = [policy.primary, *policy.guardrails]
    return [r.of_metric for r in rules if not isinstance(r, Limit) or r.is_metric]


def _comparisons(
    rows: Holdout, scores: Mapping[str, Floats], policy: GatePolicy, seed: int
) -> list[Comparison]:
    rules: list[Superiority | NonInferiority] = [policy.primary]
    rules += [r for r in policy.guardrails if isinstance(r, NonInferiority)]
    pairs = [("champion", rule) for rule in rules if "champion" in scores]
    if "baseline" in scores:
        pairs.append(("baseline", policy.primary))
    found: dict[Any, Comparison] = {}
    for against, rule in pairs:
        metric = rule.of_metric
        key = (metric.name, against, rule.confidence)
        if key not in found:
            two = {"challenger": scores["challenger"], against: scores[against]}
            found[key] = compare_on(
                rows, two, champion=against, metric=metric, confidence=rule.confidence, seed=seed
            )["challenger"]
    return list(found.values())


def _measures(
    rows: Holdout,
    challenger: Floats,
    policy: GatePolicy,
    measured: Mapping[str, Mapping[str, float | Measure]],
    seed: int,
) -> dict[str, dict[str, Measure]]:
    found = {
        name: {model: _measure(name, value) for model, value in values.items()}
        for name, values in measured.items()
    }
    for rule in policy.guardrails:
        if isinstance(rule, Limit) and rule.is_metric:
            if rule.name in measured:
                raise EvaluationError(
                    f"{rule.name} is measured from outside", expected="mlct to compute it"
                )
            found[rule.name] = {
                "challenger": measure_on(
                    rows,
                    challenger,
                    metric=rule.of_metric,
                    confidence=rule.confidence,
                    seed=seed,
                )
            }
    return found


def _measure(name: str, value: float | Measure) -> Measure:
    if isinstance(value, Measure):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise EvaluationError(f"{name} was measured as {value!r}", expected="a number or a Measure")
    # What is not finite was not measured, and no record can hold infinity.
    return Measure(value=float(value) if isfinite(value) else nan)


def plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not isfinite(value) else value


def _numbers(record: Mapping[str, float | None]) -> dict[str, float]:
    return {key: nan if value is None else value for key, value in record.items()}


def _restore(record: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Null becomes NaN again where the field is a number that is always there."""
    always = {field.name for field in fields(record) if field.type in (float, "float")}
    return {k: nan if v is None and k in always else v for k, v in values.items()}
