"""Objectives: what an SLO asks for, once read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from mlct.monitoring.slo.period import Period, Span

OPERATORS = {"gte": ">=", "gt": ">", "lte": "<=", "lt": "<"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """An OpenSLO alert condition: the burn rate over `lookback` exceeds `threshold` for `after`."""

    name: str
    severity: str
    threshold: float
    lookback: Span
    after: Span | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What mlct's annotations (`mlct.dev/...`) say, with their defaults.

    `sustained` is k of n slices; `cusum` None means on for product behaviour. `confidence` is the
    one-sided confidence with which a ratio must miss its objective; 0.5 is the ratio itself.
    """

    no_data: Literal["bad", "ignore", "good"] = "bad"
    min_bad: int = 3
    min_samples: int = 20
    confidence: float | None = None
    sustained: tuple[int, int] | None = None
    cusum: bool | None = None
    shift: float | None = None
    delay: timedelta = timedelta(0)
    window: Span | None = None
    runbook: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """One objective of one SLO.

    `indicator` names the windows that judge it. A ratio's windows hold good and total counts, a
    threshold's a value that is compared by `op` with `value`. `target` is the share of events or
    slices that must be good over `period`; `slice_target` what makes one slice of length `slice`
    good. `conditions` is None where the file declares no alert policy of its own. `metric` is
    what the indicator's source says under `metric` (else `query`), `sources` its whole spec.
    """

    slo: str
    name: str
    indicator: str
    product: bool
    ratio: bool
    method: str
    period: Period
    target: float
    op: str = ""
    value: float | None = None
    slice_target: float | None = None
    slice: Span | None = None
    service: str = ""
    metric: str = ""
    raw: str = ""
    description: str = ""
    conditions: tuple[Condition, ...] | None = None
    options: Options = field(default_factory=Options)
    sources: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)

    @property
    def budget(self) -> float:
        """The share that may be bad."""
        return 1 - self.target

    @property
    def length(self) -> timedelta | None:
        """Of a slice; None where counts come in windows of a length that only they know."""
        span = self.slice or self.options.window
        return span.length if span else None

    @property
    def confidence(self) -> float:
        """Of ratios: product behaviour is a sample, requests of a service are all there were."""
        return self.options.confidence or (0.95 if self.product else 0.5)

    @property
    def limit(self) -> float | None:
        """What one window is held against: a value, or a share of good events."""
        if not self.ratio and self.value is not None:
            return self.value
        return self.target if self.slice_target is None else self.slice_target

    @property
    def asked(self) -> str:
        """`roc_auc >= 0.62`, `99.9 % good`."""
        if not self.ratio and self.value is not None:
            return f"{self.metric or self.indicator} {OPERATORS[self.op]} {self.value:g}"
        return f"{100 * (self.limit or 0):g} % good"


def lacks_product(tier: str, objectives: Sequence[Objective]) -> bool:
    """Whether a model of this risk tier lacks the product SLO that it must have."""
    return tier in ("medium", "high") and not any(o.product for o in objectives)
