"""Features that know too much: what tells the label alone was probably made from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlct.evaluation.estimate import placements
from mlct.evaluation.holdout import holdout
from mlct.evaluation.metric import Floats
from mlct.evaluation.policy import FEATURE_AUC

_FEW = 50  # known numbers say nothing where there are fewer
_RARE = 2  # a text seen this often or less in the other half says nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect:
    """A feature that is suspected of leaking the label, and why; `value` is its AUC, if measured.

    For a regression `value` is the rank correlation's size.
    """

    column: str
    reason: str
    value: float | None = None


def leakage_suspects(
    y_true: Any,
    columns: Mapping[str, Any],
    *,
    limit: float = FEATURE_AUC,
    label: str | None = None,
    label_time: str | None = None,
) -> tuple[Suspect, ...]:
    """The features that tell the label by themselves better than `limit`, and those made of it.

    `columns` maps each feature to an array (rows,). Numbers are ranked in both directions, missing
    ones and texts by the share of positives they have in the other half of the rows, so that a
    column of names gains nothing from being unique. `label` and `label_time` must not be features.

    >>> y = np.arange(200) % 2
    >>> [s.column for s in leakage_suspects(y, {"delay": y * 20.0, "hour": np.arange(200) % 7})]
    ['delay']
    """
    rows = holdout(y_true)
    y = rows.y_true
    binary = bool(((y == 0) | (y == 1)).all())
    found = []
    for name, values in columns.items():
        if name in (label, label_time):
            what = "the label" if name == label else "the time at which the label became known"
            found.append(Suspect(column=name, reason=f"{name} is {what}, and a feature"))
            continue
        value = _told(y, np.asarray(values), binary)
        if value > limit:
            what = "an AUC" if binary else "a rank correlation"
            said = f"{name} alone tells the label with {what} of {value:.3f}, above {limit:g}"
            found.append(Suspect(column=name, reason=said, value=value))
    return tuple(found)


def _told(y: Floats, values: Any, binary: bool) -> float:
    if values.dtype.kind in "iufb":
        number = values.astype(np.float64)
        gone = ~np.isfinite(number)
        told = _strength(y, gone.astype(np.float64), binary)
        if (~gone).sum() >= _FEW:
            told = max(told, _strength(y[~gone], number[~gone], binary))
        return told
    return _strength(y, _rates(y, values), binary)


def _strength(y: Floats, score: Floats, binary: bool) -> float:
    if np.ptp(score) == 0 or np.ptp(y) == 0:
        return 0.0
    if binary:
        auc, _ = placements(holdout(y), score)
        return max(auc, 1 - auc)
    ours, theirs = _ranks(score), _ranks(y)
    return abs(float(np.corrcoef(ours, theirs)[0, 1]))


def _ranks(values: Floats) -> Floats:
    _, of_row, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle: Floats = np.cumsum(counts) - (counts - 1) / 2
    return middle[of_row.reshape(-1)]


def _rates(y: Floats, values: Any) -> Floats:
    """The mean label of each row's text in the other half of the rows."""
    _, of_row = np.unique(values.astype(str), return_inverse=True)
    of_row = of_row.reshape(-1)
    half, texts = _halves(len(y)), of_row.max() + 1
    rates = np.empty(len(y))
    for side in (0, 1):
        other, mine = half != side, half == side
        seen = np.bincount(of_row[other], minlength=texts)
        total = np.bincount(of_row[other], y[other], texts)
        known = np.where(seen > _RARE, total / np.maximum(seen, 1), y[other].mean())
        rates[mine] = known[of_row[mine]]
    return rates


def _halves(rows: int) -> Any:
    """Random halves: rows in order of time may alternate."""
    return np.random.default_rng(0).permutation(rows) % 2
