"""Has the loss risen since a version went live? By cluster, over all its windows."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from mlct.data.window import duration
from mlct.errors import DataError, EvaluationError, SpecError
from mlct.evaluation.metric import Floats
from mlct.monitoring.observe.observation import Losses
from mlct.monitoring.performance import LossSequence, loss_sequence

_WIDE = 10  # times the reference's mean loss
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)


def losses_of(task: str, label: Floats, score: Floats, units: Any) -> list[tuple[int, int, float]]:
    """Rows and sum of losses of each cluster, in order."""
    if not len(label):
        return []
    loss = _loss(task, label, score)
    names, code = np.unique(units, return_inverse=True)
    sums, counts = np.bincount(code, loss), np.bincount(code)
    return [(int(n), int(c), float(s)) for n, c, s in zip(names, counts, sums, strict=True)]


def _loss(task: str, label: Floats, score: Floats) -> Floats:
    """Of each row: squared error of a chance, what the true class lacks, absolute error."""
    if task == "multiclass":
        return 1 - score[np.arange(len(label)), label.astype(np.intp)]
    return (label - score) ** 2 if task == "binary" else np.abs(label - score)


def risen(
    windows: Sequence[Losses], usual: Losses, task: str, end: datetime, cluster: str
) -> tuple[LossSequence | None, str]:
    """The losses of a version's `windows`, up to `end`, against the `usual` ones of its holdout."""
    current = _means(windows, end, cluster)
    if not current:
        return None, "no label of this version has matured yet"
    reference = [s / n for _, n, s in usual]
    try:
        # Narrow bounds see a small rise, wide ones see a large one soon: half of alpha for each.
        narrow = loss_sequence(reference, current, every=5, alpha=0.025)
        most = np.inf if task == "regression" else 1.0
        reach = min(_WIDE * float(np.mean(reference)), most)
        wide = loss_sequence(reference, current, every=5, alpha=0.025, bounds=(0.0, reach))
    except (DataError, EvaluationError, SpecError) as error:
        return None, f"not tested: {error}"
    found = wide if wide.drifted and not narrow.drifted else narrow
    unit = "day" if duration(cluster) == _DAY else "cluster"
    told = f"no rise of the loss shown in {found.units} {unit}s"
    if found.alarm is not None:
        told = f"the loss has risen, as {unit} {found.alarm + 1} of {found.units} showed"
    return found, f"{told} (allowed {found.allowed:.3g}; the holdout's was {found.reference:.3g})"


def _means(windows: Sequence[Losses], end: datetime, cluster: str) -> list[float]:
    """The mean loss of each cluster that has ended: windows may share one."""
    ended = (end - _EPOCH) // duration(cluster)
    sums: dict[int, tuple[int, float]] = {}
    for number, count, total in (one for losses in windows for one in losses):
        before = sums.get(number, (0, 0.0))
        sums[number] = before[0] + count, before[1] + total
    return [total / count for c, (count, total) in sorted(sums.items()) if c < ended]
