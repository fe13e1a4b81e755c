"""The metric of each window: measured once its labels have matured, or estimated without them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np

from mlct.data.digest import digest
from mlct.data.window import as_utc, duration
from mlct.errors import EvaluationError, SpecError
from mlct.evaluation.compare import measure_on
from mlct.evaluation.holdout import check_metric, holdout
from mlct.evaluation.metric import Floats, Metric
from mlct.evaluation.metric import metric as find_metric
from mlct.monitoring.performance.calibration import Calibration
from mlct.monitoring.performance.estimated import estimate
from mlct.monitoring.performance.join import Joined
from mlct.monitoring.performance.labels import ALPHA, TOLERANCE, cohort_bias
from mlct.monitoring.performance.result import (
    LEAST_ROWS,
    Performance,
    unknown,
    without_interval,
)


def _residual(y_true: Floats, score: Floats) -> Floats:
    return score - y_true


RESIDUAL_BIAS = Metric(
    "residual_bias",
    lambda y, s, w=None: float(np.average(s - y, weights=w)),
    per_row=_residual,
    task="regression",
)
"""Mean of prediction less label: above zero where the model says too much. Neither way is better;
over windows it shows a trend that an absolute error hides."""


def realised(
    joined: Joined,
    windows: Sequence[tuple[datetime, datetime]],
    *,
    metric: str | Metric,
    label_delay: str,
    cluster: str | None = "1d",
    confidence: float = 0.95,
    complete: float = 0.95,
    least_share: float = 0.5,
    alpha: float = ALPHA,
    tolerance: float = TOLERANCE,
    known: Mapping[str, Performance] | None = None,
    seed: int = 0,
) -> list[Performance]:
    """The metric on the labelled rows of each half-open window `(start, end)`.

    A window is unknown until `label_delay` after its end, or until a share `complete` of its rows
    is labelled. It stays unknown if fewer than `least_share` are labelled after that delay, fewer
    than 20 rows, or rows that are not like the others (`labels.cohort_bias`, at level `alpha`,
    beyond `tolerance`). Labels that arrive late change the window's `key`; a result in `known` (by
    key) is returned as it is, so that only windows whose content changed are computed.
    """
    metric = find_metric(metric)
    for name, share in (("complete", complete), ("least_share", least_share)):
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise SpecError(f"{name} is {share!r}", expected="a share between 0 and 1")
    units = joined.units(cluster)
    settings = [metric.name, label_delay, cluster, confidence, complete, least_share]
    settings += [alpha, tolerance, seed]
    found = []
    for start, end in windows:
        rows = joined.window(start, end)
        kept, score, label = _scored(joined, rows)
        labelled = ~np.isnan(label)
        matured = as_utc(end) + duration(label_delay)
        passed = joined.as_of >= matured
        share = float(labelled.mean()) if len(label) else 0.0
        of_window: dict[str, Any] = {
            "rows": len(label),
            "labelled": int(labelled.sum()),
            "start": start,
            "end": end,
        }
        # A window that is read early is judged by what is known of others at that time.
        when = None if passed else joined.as_of.isoformat()
        here = None if units is None else units[rows]
        of_window["key"] = _key([*settings, as_utc(start), as_utc(end), when], joined, rows, here)
        reason = ""
        if joined.as_of < as_utc(end):
            of_window["until"] = matured
            reason = f"the window has not ended at {joined.as_of:%Y-%m-%d %H:%M} UTC"
        elif not passed and share < max(complete, 1e-9):
            of_window["until"] = matured
            reason = f"{share:.1%} of {len(label)} rows are labelled, {complete:.0%} are wanted"
            reason += f" before {matured:%Y-%m-%d %H:%M} UTC"
        elif not len(label):
            reason = f"no prediction with a usable score among {len(kept)} in the window"
        elif passed and share < least_share:
            reason = f"{share:.1%} of {len(label)} rows are labelled after {label_delay}, "
            reason += f"{least_share:.0%} are wanted"
        elif labelled.sum() < LEAST_ROWS:
            reason = f"insufficient data: {labelled.sum()} labelled rows, {LEAST_ROWS} are wanted"
        elif known and of_window["key"] in known:
            found.append(known[of_window["key"]])
            continue
        elif bias := cohort_bias(
            joined,
            rows,
            units=units,
            label_delay=label_delay,
            by_class=not passed,
            alpha=alpha,
            tolerance=tolerance,
            seed=seed,
        ):
            reason = f"biased labels: {bias}"
            of_window["until"] = None if passed else matured
        if reason:
            found.append(unknown(metric.name, reason, **of_window))
            continue
        of_rows = None if here is None else here[kept][labelled]
        measured = measure(label[labelled], score[labelled], of_rows, metric, confidence, seed)
        missing = len(kept) - len(label)
        said = f"; {missing} rows without a usable score are left out" * bool(missing)
        found.append(
            replace(
                measured,
                **of_window,
                reason=f"{share:.1%} of {len(label)} rows are labelled{said}"
                + f"; {measured.reason}" * bool(measured.reason),
            )
        )
    return found


def estimated(
    joined: Joined,
    windows: Sequence[tuple[datetime, datetime]],
    calibration: Calibration,
    *,
    metric: str | Metric,
    cluster: str | None = "1d",
    confidence: float = 0.95,
    labelled_only: bool = False,
) -> list[Performance]:
    """The estimate without labels (`cbpe`) of each window.

    `labelled_only` estimates on the rows that have a label: what `realised` is compared with.
    """
    units = joined.units(cluster)
    found = []
    for start, end in windows:
        rows = joined.window(start, end)
        kept, score, label = _scored(joined, rows)
        known = ~np.isnan(label)
        used = known if labelled_only else np.ones(len(known), dtype=bool)
        here = None if units is None else units[rows][kept][used]
        one = estimate(
            calibration, score[used], metric=metric, clusters=here, confidence=confidence
        )
        key = _key([find_metric(metric).name, calibration.key, confidence], joined, rows, here)
        labelled = int(known.sum())
        found.append(replace(one, start=start, end=end, labelled=labelled, key=key))
    return found


def measure(
    y: Floats, score: Floats, units: Any, metric: Metric, confidence: float, seed: int
) -> Performance:
    """The metric on labelled rows; without an interval in one cluster, unknown where undefined."""
    clusters = None if units is None else len(np.unique(units))
    single = clusters == 1
    try:
        rows = holdout(y, clusters=None if single else units)
        if single:  # a bootstrap of rows would only be thrown away
            check_metric(metric, rows, {"the model": score})
            alone = Performance(
                kind="realised", metric=metric.name, value=metric(y, score), reason="", clusters=1
            )
            return without_interval(alone, "one cluster says nothing about how clusters differ")
        found = measure_on(rows, score, metric=metric, confidence=confidence, seed=seed)
    except EvaluationError as error:
        return unknown(metric.name, str(error), clusters=clusters)
    if not np.isfinite(found.value):
        return unknown(metric.name, f"{metric.name} is {found.value}", clusters=clusters)
    return Performance(
        kind="realised",
        metric=metric.name,
        value=found.value,
        lower=found.lower,
        upper=found.upper,
        standard_error=found.standard_error,
        confidence=confidence,
        clusters=clusters,
        method=found.method,
        reason="",
    )


def _scored(joined: Joined, rows: slice) -> tuple[Any, Floats, Floats]:
    """Which rows of the window have a score, and their scores and labels."""
    kept = joined.scored[rows]
    return kept, joined.score[rows][kept], joined.label[rows][kept]


def _key(settings: Sequence[Any], joined: Joined, rows: slice, units: Any) -> str:
    """What a window's result is computed from, as a digest."""
    arrays = [joined.time[rows], joined.score[rows], joined.label[rows], joined.labelled_at[rows]]
    if units is not None and len(units):
        arrays.append(np.unique(units, return_inverse=True)[1].reshape(-1))
    content = hashlib.sha256()
    for array in arrays:
        content.update(str((array.dtype, array.shape)).encode())
        content.update(array.tobytes())
    return digest([*(str(s) for s in settings), content.hexdigest()])
