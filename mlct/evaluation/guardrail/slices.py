"""Each slice of the holdout against the champion: which ones got worse, not counting bad luck."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlct.errors import EvaluationError
from mlct.evaluation.compare import compare_on
from mlct.evaluation.holdout import FEW, Holdout, check_score, holdout, numbered
from mlct.evaluation.metric import Floats, Metric
from mlct.evaluation.metric import metric as find_metric

REPLICATES = 400  # slices are many: where a bootstrap is needed, its error is known to 4 %


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """One group of one column: how much better the challenger is there, with one-sided bounds.

    `delta` is positive where the challenger is better. `p_value` is one-sided, of being worse by
    no more than the margin; `adjusted` is it after Benjamini & Hochberg 1995 over all slices.
    """

    column: str
    value: str
    rows: int
    challenger: float
    champion: float
    delta: float
    lower: float
    upper: float
    p_value: float
    adjusted: float

    @property
    def name(self) -> str:
        return f"{self.column}={self.value}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceTable:
    """All slices of a metric, the worst first; `too_small` names those that were not judged."""

    metric: str
    by: tuple[str, ...]
    margin: float
    confidence: float
    slices: tuple[Slice, ...]
    too_small: tuple[str, ...]

    @property
    def worst(self) -> Slice | None:
        return self.slices[0] if self.slices else None

    def regressions(self, fdr: float = 0.05) -> tuple[Slice, ...]:
        """The slices shown to be worse by more than the margin, at this false-discovery rate."""
        return tuple(s for s in self.slices if s.adjusted <= fdr)


def slices(
    y_true: Any,
    scores: Mapping[str, Any],
    groups: Mapping[str, Any],
    metric: str | Metric,
    *,
    margin: float = 0.0,
    min_group: int = 100,
    clusters: Any = None,
    weights: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> SliceTable:
    """Compare "challenger" with "champion" in every group of every column of `groups`.

    `scores` maps the two models, `groups` each column, to arrays (rows,). Groups with fewer than
    `min_group` rows in the metric's denominator, with one cluster only, or where the metric is not
    defined are named, not judged. The adjustment holds for independent slices and for those that
    overlap in the same direction, which slices of one holdout do (Benjamini & Yekutieli 2001).
    """
    rows = holdout(y_true, clusters=clusters, weights=weights)
    if set(scores) != {"challenger", "champion"}:
        raise EvaluationError(
            f"slices were asked of {', '.join(scores) or 'no model'}",
            expected="challenger and champion",
        )
    checked = {name: check_score(name, score, rows) for name, score in scores.items()}
    return slices_on(
        rows,
        checked,
        groups,
        find_metric(metric),
        margin=margin,
        min_group=min_group,
        confidence=confidence,
        seed=seed,
    )


def slices_on(
    rows: Holdout,
    scores: Mapping[str, Floats],
    groups: Mapping[str, Any],
    metric: Metric,
    *,
    margin: float,
    min_group: int,
    confidence: float,
    seed: int,
) -> SliceTable:
    """`slices` on rows and scores that are checked already."""
    found: list[Slice] = []
    too_small: list[str] = []
    for column, values in groups.items():
        names, of_row = numbered(column, values, rows.rows)
        for index, name in enumerate(names):
            mine = np.flatnonzero(of_row == index)
            part = _part(rows, mine)
            own = {model: score[mine] for model, score in scores.items()}
            if _judged(part, own["challenger"], metric, min_group):
                found.append(_slice(part, own, metric, column, name, margin, confidence, seed))
            else:
                too_small.append(f"{column}={name}")
    adjusted = false_discovery(np.array([s.p_value for s in found]))
    judged = [replace(s, adjusted=float(p)) for s, p in zip(found, adjusted, strict=True)]
    judged.sort(key=lambda s: (s.adjusted, s.p_value, s.delta))
    return SliceTable(
        metric=metric.name,
        by=tuple(groups),
        margin=margin,
        confidence=confidence,
        slices=tuple(judged),
        too_small=tuple(too_small),
    )


def false_discovery(p_values: Floats) -> Floats:
    """P-values adjusted after Benjamini & Hochberg 1995, in their own order.

    >>> false_discovery(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.04, 0.04]
    """
    count = len(p_values)
    order = np.argsort(p_values)[::-1]
    scaled = p_values[order] * count / np.arange(count, 0, -1)
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled), 1.0)
    return adjusted


def _part(rows: Holdout, mine: Any) -> Holdout:
    """Some of the rows, their clusters numbered anew."""
    codes = clusters = None
    if rows.codes is not None:
        names, codes = np.unique(rows.codes[mine], return_inverse=True)
        codes, clusters = codes.reshape(-1), len(names)
    return Holdout(
        y_true=rows.y_true[mine],
        weights=None if rows.weights is None else rows.weights[mine],
        codes=codes,
        clusters=clusters,
    )


def _judged(part: Holdout, score: Floats, metric: Metric, min_group: int) -> bool:
    counts = part.rows if metric.support is None else metric.support(part.y_true, score).sum()
    both = metric.curve is None or 0 < (part.y_true * part.mass).sum() < part.mass.sum()
    return bool(counts >= max(min_group, 2) and part.units > 1 and both and part.mass.sum() > 0)


def _slice(
    part: Holdout,
    scores: Mapping[str, Floats],
    metric: Metric,
    column: str,
    value: str,
    margin: float,
    confidence: float,
    seed: int,
) -> Slice:
    compared = compare_on(
        part,
        scores,
        champion="champion",
        metric=metric,
        confidence=confidence,
        seed=seed,
        replicates=REPLICATES,
    )["challenger"]
    each = {m: float(metric.function(part.y_true, s, part.weights)) for m, s in scores.items()}
    return Slice(
        column=column,
        value=value,
        rows=part.rows,
        challenger=each["challenger"],
        champion=each["champion"],
        delta=compared.delta,
        lower=compared.lower,
        upper=compared.upper,
        p_value=_worse(part, compared.delta + margin, compared.standard_error),
        adjusted=1.0,
    )


def _worse(part: Holdout, beyond: float, error: float) -> float:
    """One-sided p-value of a difference at or above zero; 1 where the error is not known."""
    from scipy.special import ndtr, stdtr

    if not np.isfinite([beyond, error]).all():
        return 1.0
    if error <= 0:
        return float(beyond >= 0)
    z = beyond / error
    few = part.units < FEW or part.codes is not None
    return float(stdtr(part.units - 1, z) if few else ndtr(z))
