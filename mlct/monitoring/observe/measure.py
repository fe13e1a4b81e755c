"""Performance of a window, realised and estimated; the test of its losses; windows of its SLOs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlct.data.window import Columns, Windows, clusters, duration
from mlct.errors import DataError, EvaluationError, SpecError
from mlct.evaluation.metric import METRICS, Floats, Metric
from mlct.monitoring.observe.log import LOG
from mlct.monitoring.observe.loss import losses_of, risen
from mlct.monitoring.observe.observation import Losses, Past
from mlct.monitoring.observe.reference import FEATURE, Reference, scores_of
from mlct.monitoring.performance import (
    RESIDUAL_BIAS,
    Gap,
    Joined,
    LabelState,
    LossSequence,
    Performance,
    behaviour,
    calibrate,
    estimated,
    fit_loss_model,
    gap,
    label_state,
    realised,
)
from mlct.monitoring.performance.realised import measure
from mlct.monitoring.performance.result import LEAST_ROWS, unknown
from mlct.monitoring.policy import MonitoringPolicy
from mlct.monitoring.slo import Objective, SloWindow
from mlct.training import fit

_WRONG = (DataError, EvaluationError, SpecError)
_SLO_DRAWS = 50  # of a function of the user, for each slice


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Case:
    """What is measured."""

    model: fit.Model
    reference: Reference
    rows: pa.Table
    joined: Joined
    window: tuple[datetime, datetime]
    columns: Columns
    windows: Windows
    policy: MonitoringPolicy
    primary: Metric
    objectives: Sequence[Objective]
    before: Sequence[Past]
    limit: float | None
    seed: int

    @property
    def learned(self) -> str:
        """Why the window's labels say nothing of the version, if so."""
        until = self.reference.learned_until
        if self.window[0] >= until:
            return ""
        return f"version {self.reference.version} learned from rows up to {until:%Y-%m-%d %H:%M}"

    @property
    def matured(self) -> bool:
        """Whether the window's labels have had their time."""
        return self.joined.as_of >= self.window[1] + duration(self.windows.label_delay)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Measured:
    """What was found; `label`, `score` and `units` are of the window's labelled rows."""

    realised: Sequence[Performance]
    estimated: Performance
    limit: float | None
    promised: bool
    gap: Gap | None
    sequence: LossSequence | None
    concept_reason: str
    labels: LabelState
    behaviour: Sequence[Performance]
    slo_windows: dict[str, list[SloWindow]]
    losses: Losses
    label: Floats
    score: Floats
    units: Any
    held_units: Any


def measured(case: Case) -> Measured:
    """Everything that labels and scores tell of a window."""
    joined, cluster = case.joined, case.windows.cluster
    part = joined.window(*case.window)
    known = joined.scored[part] & ~np.isnan(joined.label[part])
    label, score = joined.label[part][known], joined.score[part][known]
    all_units = joined.units(cluster)
    units = None if all_units is None else all_units[part][known]
    held = case.reference.held
    held = held.filter(pc.is_valid(held[LOG.label]))
    held_units = clusters(held[LOG.time], cluster)
    values = [_realised(case, metric) for metric in _metrics(case)]
    bound = _bound(case, held, held_units)
    values[0] = _alone(values[0], bound)
    estimate, difference = _estimated(case, held, held_units, values[0])
    task, losses = case.model.task, list[tuple[int, int, float]]()
    if case.matured and not case.learned:
        losses = losses_of(task, label, score, units)
    sequence, why = None, case.learned
    if not case.learned:
        mine = [p.losses for p in case.before if p.version == case.reference.version]
        usual = losses_of(task, _label(held), scores_of(held), held_units)
        sequence, why = risen([*mine, losses], usual, task, case.window[1], cluster)
    if difference is not None and difference.drifted:
        why = f"{why}; {difference.reason}"
    limit, promised = _limit(case, bound)
    return Measured(
        realised=values,
        estimated=estimate,
        limit=limit,
        promised=promised,
        gap=difference,
        sequence=sequence,
        concept_reason=why,
        labels=label_state(
            joined,
            [case.window],
            label_delay=case.windows.label_delay,
            cluster=cluster,
            seed=case.seed,
        )[0],
        behaviour=list(
            behaviour(
                case.policy.behaviour, joined, case.window, cluster=cluster, seed=case.seed
            ).values()
        ),
        slo_windows=_slo_windows(case),
        losses=losses,
        label=label,
        score=score,
        units=units,
        held_units=held_units,
    )


def _metrics(case: Case) -> Iterator[Metric]:
    """The primary metric, those that objectives name, the bias of a regression."""
    yield case.primary
    seen = {case.primary.name}
    for objective in case.objectives:
        found = _of_objective(case, objective)
        if found is not None and found.name not in seen:
            seen.add(found.name)
            yield found
    if case.model.task == "regression":
        yield RESIDUAL_BIAS


def _of_objective(case: Case, objective: Objective) -> Metric | None:
    if objective.metric == case.primary.name:
        return case.primary
    found = METRICS.get(objective.metric)
    kind = "regression" if case.model.task == "regression" else "binary"
    return found if found is not None and found.task in (kind, "any") else None


def _realised(case: Case, metric: Metric, window: Any = None) -> Performance:
    start, end = window or case.window
    # One cluster speaks for its own rows: between clusters there is no error then.
    whole = end - start <= duration(case.windows.cluster)
    if case.learned:
        return unknown(metric.name, case.learned, start=start, end=end)
    (found,) = realised(
        case.joined,
        [(start, end)],
        metric=metric,
        label_delay=case.windows.label_delay,
        cluster=None if whole else case.windows.cluster,
        seed=case.seed,
    )
    return found


def _estimated(
    case: Case, held: pa.Table, held_units: Any, real: Performance
) -> tuple[Performance, Gap | None]:
    """The primary metric without labels, and how far the realised value is from it."""
    metric, cluster = case.primary, case.windows.cluster
    start, end = case.window
    try:
        if case.model.task == "regression":
            return _regression(case, held, held_units, real)
        known = calibrate(_label(held), scores_of(held), clusters=held_units)
        (found,) = estimated(case.joined, [case.window], known, metric=metric, cluster=cluster)
        if real.value is None or found.value is None:
            return found, None
        (alike,) = estimated(
            case.joined, [case.window], known, metric=metric, cluster=cluster, labelled_only=True
        )
        return found, gap(alike, real)
    except _WRONG as error:
        return unknown(metric.name, str(error), start=start, end=end), None


def _regression(
    case: Case, held: pa.Table, held_units: Any, real: Performance
) -> tuple[Performance, Gap | None]:
    """By a model of the loss, on the features as the model sees them."""
    names = [n for n in held.column_names if n.startswith(FEATURE)]
    inputs = np.column_stack([held[n].to_numpy() for n in names]) if names else None
    losses = fit_loss_model(
        inputs,
        _label(held),
        scores_of(held),
        metric=case.primary,
        clusters=held_units,
        seed=case.seed,
    )

    def of(rows: pa.Table) -> Performance:
        here = None
        if names:
            encoded = fit.encode(rows, case.model.features)
            here = np.column_stack([encoded[n].to_numpy() for n in encoded.column_names])
        units = clusters(rows[case.columns.time], case.windows.cluster)
        found = losses.estimate(here, case.model.score(rows), clusters=units)
        return replace(found, start=case.window[0], end=case.window[1])

    found, joined, part = of(case.rows), case.joined, case.joined.window(*case.window)
    if real.value is None or found.value is None:
        return found, None
    ids = joined.table[LOG.id][part.start : part.stop]
    told = ids.filter(pa.array(joined.scored[part] & ~np.isnan(joined.label[part])))
    alike = pc.is_in(case.rows[case.columns.id].cast(told.type), told.combine_chunks())
    return found, gap(of(case.rows.filter(alike)), real)


def _bound(case: Case, held: pa.Table, held_units: Any) -> Performance | None:
    """What the holdout showed of the primary metric."""
    if held.num_rows < LEAST_ROWS:
        return None
    return measure(_label(held), scores_of(held), held_units, case.primary, 0.95, case.seed)


def _alone(found: Performance, held: Performance | None) -> Performance:
    """One cluster is no surer than one of the holdout's is: days differ by more than their rows."""
    if found.value is None or (found.clusters or 1) > 1 or held is None:
        return found
    if held.value is None or held.lower is None or held.upper is None or not held.clusters:
        return found
    below, above = (held.value - held.lower, held.upper - held.value)
    times = held.clusters**0.5
    lower = found.value - below * times
    upper = found.value + above * times
    return replace(
        found,
        lower=lower if found.lower is None else min(found.lower, lower),
        upper=upper if found.upper is None else max(found.upper, upper),
        reason=f"{found.reason}; as unsure as one {held.clusters}th of the holdout",
    )


def _limit(case: Case, held: Performance | None) -> tuple[float | None, bool]:
    """What the primary metric is held against, and whether that was promised: the product objective
    on it, else the bound of what the holdout showed."""
    if case.limit is not None:
        return case.limit, True
    for objective in case.objectives:
        if (
            objective.product
            and objective.metric == case.primary.name
            and objective.value is not None
        ):
            return objective.value, True
    if held is None:
        return None, False
    return held.lower if case.primary.bigger_is_better else held.upper, False


def _label(held: pa.Table) -> Floats:
    return held[LOG.label].to_numpy()


def _slo_windows(case: Case) -> dict[str, list[SloWindow]]:
    """Windows of every indicator that can be measured here, as long as its slices."""
    found: dict[str, list[SloWindow]] = {}
    for objective in case.objectives:
        if objective.indicator in found:
            continue
        function = case.policy.behaviour.get(objective.metric)
        metric = _of_objective(case, objective)
        if function is None and metric is None:
            continue
        found[objective.indicator] = [
            w
            for part in _parts(case, objective.length)
            if (w := _slo_window(case, objective, part, metric, function)) is not None
        ]
    return found


def _parts(case: Case, length: timedelta | None) -> Iterator[tuple[datetime, datetime]]:
    start, end = case.window
    if length is None or length >= end - start:
        yield start, end
        return
    while start < end:
        yield start, min(start + length, end)
        start += length


def _slo_window(
    case: Case,
    objective: Objective,
    part: tuple[datetime, datetime],
    metric: Metric | None,
    function: Callable[..., float] | None,
) -> SloWindow | None:
    """One slice; None where nothing is known of it yet, or nothing was predicted."""
    if part[1] > case.joined.as_of or case.learned:
        return None
    if function is not None:
        found = behaviour(
            {objective.metric: function},
            case.joined,
            part,
            cluster=case.windows.cluster,
            replicates=_SLO_DRAWS,
            seed=case.seed,
        )[objective.metric]
        samples = found.labelled or found.rows
    else:
        assert metric is not None
        found = _realised(case, metric, part)
        samples = found.labelled
    value = found.value
    if value is None:
        if found.until is not None or not found.rows:
            return None
        # Too few labels to judge by: shown as such, not as silence.
        value, samples = objective.limit, min(samples, objective.options.min_samples - 1)
        return SloWindow(start=part[0], end=part[1], value=value, samples=max(samples, 0))
    return SloWindow(
        start=part[0],
        end=part[1],
        value=value,
        lower=found.lower,
        upper=found.upper,
        confidence=found.confidence or 0.95,
        samples=samples,
    )
