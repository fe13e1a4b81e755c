"""Label delay, completeness, and whether the labels that are there speak for those that are not.

Early labels are not a random sample: defaults arrive before repayments, short flights before long
ones. `cohort_bias` asks two questions by ranks, DeLong's way over clusters. Do labelled rows of the
window rank higher in score than the rest? And in matured rows, observed for as long as the
window's rows have been: do labels that had arrived rank higher than those that had not? Each
answer is how far the mean rank of the labelled cohort is from that of all rows, between -1/2 and
1/2; it is biased when shown to be further than a tolerance.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from mlct.data.window import as_utc, duration
from mlct.errors import EvaluationError
from mlct.evaluation.compare import Measure, measure_on
from mlct.evaluation.holdout import holdout
from mlct.evaluation.metric import METRICS, Floats, Metric
from mlct.monitoring.performance.join import Joined, micros

QUANTILES = (0.5, 0.95, 0.99)
ALPHA = 0.01
TOLERANCE = 0.02
"""Of ranks, and of the share of labels: less than this is no reason for anything."""

_MOST = 50_000  # newest matured rows that are looked at
_FEW = 100  # labels that history needs to say anything
_SHARE = Metric("share", lambda y, s, w=None: float(y.mean()), per_row=lambda y, s: y)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelState:
    """How complete and how old the labels of `[start, end)` are.

    `delay` gives quantiles in seconds of the labels that have arrived; `usual` is the share of
    labels that matured rows had after as long, None without such rows. `late` when the share is
    shown to be more than 0.02 below it, at a level of 0.01.
    """

    start: datetime
    end: datetime
    rows: int
    labelled: int
    delay: Mapping[float, float]
    usual: float | None
    late: bool
    reason: str

    @property
    def share(self) -> float | None:
        """Labelled rows of all rows; None without rows."""
        return self.labelled / self.rows if self.rows else None


def label_state(
    joined: Joined,
    windows: Sequence[tuple[datetime, datetime]],
    *,
    label_delay: str,
    cluster: str | None = "1d",
    seed: int = 0,
) -> list[LabelState]:
    """The state of the labels of each window, against rows older than `label_delay`."""
    units = joined.units(cluster)
    found = []
    for start, end in windows:
        rows = joined.window(start, end)
        known = ~np.isnan(joined.label[rows])
        delay = np.maximum(joined.labelled_at[rows] - joined.time[rows], 0)[known] / 1e6
        past, arrived = _history(joined, rows, label_delay, seed, labelled=False)
        usual, late, reason = None, False, f"{known.sum()} of {len(known)} rows are labelled"
        if len(past) >= _FEW and len(known):
            before = _share(arrived, units if units is None else units[past])
            now = _share(known, units if units is None else units[rows])
            usual = before.value
            late = _below(now, before)
            reason += f"; after as long, matured rows were at {usual:.1%}"
        found.append(
            LabelState(
                start=as_utc(start),
                end=as_utc(end),
                rows=len(known),
                labelled=int(known.sum()),
                delay={q: float(np.quantile(delay, q)) for q in QUANTILES} if len(delay) else {},
                usual=usual,
                late=late,
                reason=reason,
            )
        )
    return found


def cohort_bias(
    joined: Joined,
    rows: slice,
    *,
    units: Any,
    label_delay: str,
    by_class: bool,
    alpha: float = ALPHA,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> str:
    """Why the labelled rows of a window do not speak for all of it; "" if nothing shows it.

    `by_class` also asks matured rows, and gives a reason when there are too few of them. Where
    labels arrive at random the answer is a reason in at most `alpha` of the windows.
    """
    kept = joined.scored[rows]
    labelled = ~np.isnan(joined.label[rows][kept])
    score = joined.score[rows][kept]
    here = None if units is None else units[rows][kept]
    questions = [("score", labelled, column, here) for column in _columns(score)]
    share = float(labelled.mean())
    if by_class:
        past, arrived = _history(joined, rows, label_delay, seed, labelled=True)
        if len(past) < _FEW or arrived.all() or not arrived.any():
            if share < 1 and not (len(past) >= _FEW and arrived.all()):
                return f"only {len(past)} matured labels show how labels arrive"
        else:
            before = None if units is None else units[past]
            labels = joined.label[past]
            classes = score.shape[1] if score.ndim == 2 else 0
            sides: list[Floats] = [(labels == c) * 1.0 for c in range(classes)] or [labels]
            questions += [("label", arrived, side, before) for side in sides]
    for what, known, values, of in questions:
        lower, upper = _shift(known, values, of, 1 - alpha / (2 * len(questions)))
        # In the window itself, at the window's own share of missing labels.
        scale = 1 - (float(known.mean()) if what == "score" else share)
        low, high = lower * scale, upper * scale
        if low > tolerance or high < -tolerance:
            return (
                f"the labelled rows are not like the others: their {what} ranks "
                f"{abs(low + high) / 2:.1%} {'higher' if low > 0 else 'lower'} than all rows'"
            )
    return ""


def _columns(score: Floats) -> Iterator[Floats]:
    yield from [score] if score.ndim == 1 else score.T


def _shift(known: Any, values: Floats, units: Any, confidence: float) -> tuple[float, float]:
    """Bounds on how much more often a known row's value is above an unknown one's than below."""
    if known.all() or not known.any():
        return 0.0, 0.0
    if units is not None and len(np.unique(units)) < 2:
        units = None
    try:
        found = _measure(known * 1.0, values, METRICS["roc_auc"], units, confidence)
    except EvaluationError:
        return -0.5, 0.5
    if found.lower is None or found.upper is None or np.isnan(found.lower + found.upper):
        return -0.5, 0.5
    return found.lower - 0.5, found.upper - 0.5


def _history(
    joined: Joined, rows: slice, label_delay: str, seed: int, *, labelled: bool
) -> tuple[Any, Any]:
    """Matured rows, the newest ones, and which had their label at an age of the window's rows.

    Those with a label; or all, and then only rows before the window, so that an outage does not
    become what is usual.
    """
    last = micros(joined.as_of) - round(duration(label_delay).total_seconds() * 1e6)
    old = joined.time < last
    if labelled:
        old &= ~np.isnan(joined.label)
    else:
        old[rows.start :] = False
    past = np.flatnonzero(old)[-_MOST:]
    ages = micros(joined.as_of) - joined.time[rows]
    if not len(ages) or not len(past):
        return past[:0], np.zeros(0, dtype=bool)
    age = np.random.default_rng(seed).choice(ages, len(past))
    delay = np.where(np.isnan(joined.label), np.inf, joined.labelled_at - joined.time)[past]
    return past, delay <= age


def _share(known: Any, units: Any) -> Measure:
    if units is not None and len(np.unique(units)) < 2:
        units = None
    if len(known) < 2:
        return Measure(value=float(np.mean(known)))
    return _measure(known * 1.0, np.zeros(len(known)), _SHARE, units, 1 - ALPHA)


def _measure(y: Floats, values: Floats, metric: Metric, units: Any, confidence: float) -> Measure:
    return measure_on(
        holdout(y, clusters=units), values, metric=metric, confidence=confidence, seed=0
    )


def _below(now: Measure, before: Measure) -> bool:
    """Shown to be lower by more than the tolerance: the interval of a difference (MOVER)."""
    if now.upper is None or before.lower is None:
        return False
    reach = float(np.hypot(now.upper - now.value, before.value - before.lower))
    return now.value - before.value + reach < -TOLERANCE
