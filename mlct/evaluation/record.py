"""The record of one evaluation: all that a decision needs, readable long after the code."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from math import isfinite, nan
from typing import Any, Self

import numpy as np

from mlct.errors import EvaluationError
from mlct.evaluation.compare import Comparison, Measure
from mlct.evaluation.guardrail.gap import Gap
from mlct.evaluation.guardrail.slices import Slice, SliceTable
from mlct.evaluation.leakage import Suspect

FORMAT = "mlct.evaluation/v1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Everything a decision needs, and nothing else.

    `champion` is "scored", "none", or why it cannot be scored. `metrics` maps model to metric to
    value; `comparisons` are of the challenger with champion and baseline; `measures` maps a
    limit's name to model to Measure. `clusters` is None for independent rows, `positives` for
    regression; `unit` is the word for one cluster ("day").

    The rest is what may be known besides, each left out of the record where it is not:
    `holdout_digest`, `holdout_start` and `holdout_end` (ISO 8601, end excluded) name the rows,
    whose labels were known `label_delay_days` later;
    `looks` says the how-manieth decision on them this is; `selected_among` candidates the
    challenger was chosen, on the holdout `selected_on`; `champion_age_days`; `duplicates` counts
    rows whose id another row has; `suspects` are features that may leak the label; `identical`
    says that challenger and champion score every row alike; `constant` names models that score all
    rows alike; `unscored` says of a model what is wrong with its scores; `single_class` that all
    labels are the same; `by_chance` what a perfect model would show on a metric of these rows.
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
    slices: tuple[SliceTable, ...] = ()
    holdout_digest: str | None = None
    holdout_start: str | None = None
    holdout_end: str | None = None
    label_delay_days: float = 0.0
    looks: int | None = None
    selected_among: int = 1
    selected_on: str | None = None
    champion_age_days: float | None = None
    duplicates: int | None = None
    suspects: tuple[Suspect, ...] = ()
    identical: bool = False
    constant: tuple[str, ...] = ()
    unscored: Mapping[str, str] = field(default_factory=dict)
    single_class: bool = False
    by_chance: Mapping[str, float] = field(default_factory=dict)

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
            f.name: plain(value)
            for f in fields(self)
            if (value := getattr(self, f.name)) != _default(f)
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
            name: {model: _restored_measure(m) for model, m in of.items()}
            for name, of in values["measures"].items()
        }
        values["gaps"] = tuple(
            Gap(
                **_restore(Gap, g)
                | {"groups": _numbers(g["groups"]), "too_small": tuple(g["too_small"])}
            )
            for g in values["gaps"]
        )
        values["slices"] = tuple(_restored_slices(t) for t in values.get("slices", ()))
        values["suspects"] = tuple(Suspect(**s) for s in values.get("suspects", ()))
        values["constant"] = tuple(values.get("constant", ()))
        values["by_chance"] = _numbers(values.get("by_chance", {}))
        return cls(**values)


def plain(value: Any) -> Any:
    """Plain JSON values; numbers that are not finite become null."""
    if hasattr(value, "__dataclass_fields__"):
        return {
            f.name: plain(item)
            for f in fields(value)
            # Records made before there was the field stay as they were.
            if (item := getattr(value, f.name)) is not None or not f.metadata.get("later")
        }
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
    always = {f.name for f in fields(record) if f.type in (float, "float")}
    return {k: nan if v is None and k in always else v for k, v in values.items()}


def _restored_measure(values: Mapping[str, Any]) -> Measure:
    """A value with a confidence has bounds: null was NaN there, and no bound elsewhere."""
    found = Measure(**_restore(Measure, values))
    if found.confidence is None:
        return found
    lower, upper = (nan if bound is None else bound for bound in (found.lower, found.upper))
    return replace(found, lower=lower, upper=upper)


def _restored_slices(values: Mapping[str, Any]) -> SliceTable:
    return SliceTable(
        **_restore(SliceTable, values)
        | {
            "by": tuple(values["by"]),
            "slices": tuple(Slice(**_restore(Slice, s)) for s in values["slices"]),
            "too_small": tuple(values["too_small"]),
        }
    )


def _default(of: Any) -> Any:
    """A field's default; for one that has none a value that equals nothing."""
    if of.default_factory is not MISSING:
        return of.default_factory()
    return object() if of.default is MISSING else of.default
