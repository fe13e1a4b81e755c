"""Rows that nobody may learn from: a failed contract, broken columns, labels that look flipped."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlct.errors import DataError, SpecError

if TYPE_CHECKING:
    from mlct.data.contract import ContractReport
    from mlct.monitoring.drift import DriftReport

#: Share of missing or unseen values more than usual from which a feed is broken, not the world.
BROKEN = 0.2
#: Confident rows below which nothing is said.
LEAST = 50

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelFlips:
    """How often labels contradict the champion where it is confident.

    `flips` of `rows` confident rows have the other label, `usual` is the share that the reference
    allows, its error and the margin included. `p_value` is that of "no more than usual"; None where
    there are too few confident rows.
    """

    rows: int
    flips: int
    usual: float
    p_value: float | None
    suspicious: bool
    reason: str

    @property
    def share(self) -> float:
        """Of the confident rows, those with the other label."""
        return self.flips / self.rows if self.rows else 0.0


def label_flips(
    labels: Any,
    scores: Any,
    *,
    reference_labels: Any,
    reference_scores: Any,
    clusters: Any = None,
    reference_clusters: Any = None,
    confident: float = 0.9,
    margin: float = 0.05,
    alpha: float = 0.001,
) -> LabelFlips:
    """Do labels (rows,) of 0 and 1 contradict the champion's scores more than on the reference?

    Rows with a score of at least `confident`, or at most 1 - `confident`, count; the reference are
    labelled rows that the champion was not trained on. Half of `alpha` is for the reference's share
    (Clopper and Pearson 1934), half for the binomial tail beyond it and `margin`: where labels are
    as they were, at most `alpha` of windows are suspicious. That is exact for independent rows;
    with clusters counts are divided by their design effect. Poisoned labels and a world that turned
    round look alike: a person has to tell them apart. Raises DataError, SpecError.
    """
    if not 0.5 < confident < 1 or not 0 <= margin < 1 or not 0 < alpha < 1:
        raise SpecError(
            f"label_flips got confident {confident!r}, margin {margin!r}, alpha {alpha!r}",
            expected="0.5 < confident < 1, 0 <= margin < 1 and 0 < alpha < 1",
        )
    from scipy import special

    here, n, k = _confident(labels, scores, clusters, confident)
    there, m, j = _confident(reference_labels, reference_scores, reference_clusters, confident)
    if min(len(here), len(there)) < LEAST:
        return LabelFlips(
            rows=len(here),
            flips=int(here.sum()),
            usual=1.0,
            p_value=None,
            suspicious=False,
            reason=f"{len(here)} confident rows, and {len(there)} of the reference: "
            f"{LEAST} are wanted",
        )
    highest = float(special.betaincinv(j + 1, m - j, 1 - alpha / 2)) if j < m else 1.0
    usual = min(1.0, highest + margin)
    p = float(special.betainc(k, n - k + 1, usual)) if k > 0 else 1.0
    suspicious = p <= alpha / 2
    return LabelFlips(
        rows=len(here),
        flips=int(here.sum()),
        usual=usual,
        p_value=min(1.0, 2 * p),
        suspicious=suspicious,
        reason=f"{here.mean():.1%} of {len(here)} labels contradict a confident champion, "
        f"{'more than' if suspicious else 'not shown to be above'} the {usual:.1%} of usual",
    )


def refusal(
    *,
    contract: "ContractReport | None" = None,
    drift: "DriftReport | None" = None,
    flips: LabelFlips | None = None,
    planned: Collection[str] = (),
) -> str:
    """Why nobody may learn from a window's rows; empty where they may.

    A contract that failed; a column that is missing, of another kind, or was shown to have drifted
    with a fifth more missing or unseen values than before, unless it is `planned`; labels that look
    flipped. The chance of a refusal without cause is at most the alpha of the drift report plus
    that of the flips.
    """
    told = []
    if contract is not None and not contract.passed:
        first = f" ({'; '.join(map(str, contract.violations[:3]))})" if contract.violations else ""
        told.append(f"its contract failed{first}")
    for column in drift.columns.values() if drift is not None else ():
        if column.name in planned or column.prediction or not column.drifted:
            continue
        gone = column.missing[1] - column.missing[0]
        if column.broken or gone > BROKEN or column.unseen > BROKEN:
            told.append(f"out of plan: {column.reason}")
    if flips is not None and flips.suspicious:
        told.append(f"labels look poisoned: {flips.reason}")
    return "; ".join(told)


def _confident(
    labels: Any, scores: Any, clusters: Any, confident: float
) -> tuple[Floats, float, float]:
    """`(1 for each confident row that is contradicted, else 0; rows; flips)`, the last two over the
    design effect."""
    y, s = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if y.ndim != 1 or y.shape != s.shape or not np.isin(y, (0, 1)).all():
        raise DataError(
            f"labels of shape {y.shape} and scores of shape {s.shape}",
            expected="labels 0 and 1 and as many scores, shape (rows,)",
        )
    if not ((s >= 0) & (s <= 1)).all():
        raise DataError("scores beyond 0 and 1", expected="probabilities of class 1")
    names = None if clusters is None else np.asarray(clusters)
    if names is not None and names.shape != y.shape:
        raise DataError(f"the clusters have shape {names.shape}", expected=f"{y.shape}")
    sure = (s >= confident) | (s <= 1 - confident)
    off = ((s >= 0.5) != (y == 1))[sure].astype(np.float64)
    n, k = float(len(off)), float(off.sum())
    if names is None or not 0 < k < n:
        return off, n, k
    _, code = np.unique(names[sure], return_inverse=True)
    share, units = k / n, int(code.max()) + 1
    if units < 2:
        return off, n, k
    sums = np.bincount(code, off - share)
    effect = float(sums @ sums) * units / (units - 1) / (n * share * (1 - share))
    return off, n / max(effect, 1.0), k / max(effect, 1.0)
