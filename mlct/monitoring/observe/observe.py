"""`observe`: drift, performance, labels and objectives of one window, and the signals they give."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlct.data.contract import ContractReport
from mlct.data.profile import Profile, profile
from mlct.data.snapshot import plain_rows
from mlct.data.window import Columns, Windows, as_utc, duration, latest
from mlct.errors import DataError
from mlct.evaluation.metric import Floats, Metric
from mlct.monitoring.drift import DriftReport, drift, fixed_rule, reference_windows
from mlct.monitoring.observe.log import LOG, labels_of
from mlct.monitoring.observe.measure import Case, Measured, measured
from mlct.monitoring.observe.observation import Observation, Past
from mlct.monitoring.observe.reference import Reference, score_table, scores_of
from mlct.monitoring.performance import Joined, Performance, join_labels
from mlct.monitoring.policy import MonitoringPolicy
from mlct.monitoring.slo import Objective, SloState, SloWindow, slo_states
from mlct.monitoring.trigger import (
    WindowResult,
    drift_results,
    label_flips,
    performance_result,
    refusal,
    slo_result,
)
from mlct.training import fit

_HISTORY = 50_000  # matured rows of earlier windows show how labels arrive


def observe(
    model: fit.Model,
    reference: Reference,
    rows: pa.Table,
    log: pa.Table,
    *,
    artifact: str,
    start: datetime,
    end: datetime,
    as_of: datetime,
    columns: Columns,
    windows: Windows,
    policy: MonitoringPolicy,
    primary: Metric,
    tau: float,
    objectives: Sequence[Objective] = (),
    before: Sequence[Past] = (),
    reported: Mapping[str, Sequence[SloWindow]] | None = None,
    contract: ContractReport | None = None,
    limit: float | None = None,
    seed: int = 0,
) -> Observation:
    """Measure the window `[start, end)`: its feature rows, with the labels that they have, and its
    prediction log, against the reference of the version that scored most of them.

    `before` are the windows that ended earlier, oldest first; `reported` are windows of indicators
    that somebody else measures, such as latencies; `contract` is what the data contract said of the
    rows; `limit` is what the primary metric is held against, instead of an objective or the
    holdout. Nothing that is wrong with one part of the window takes the other parts away: it is
    told there. Raises DataError where a column that the spec names is missing.
    """
    start, end, as_of = as_utc(start), as_utc(end), as_utc(as_of)
    rows, log = plain_rows(rows), plain_rows(log)
    before = sorted((p for p in before if p.end <= start), key=lambda p: p.start)
    here = (start, end)
    now, report, old, against = _drift(reference, rows, policy, tau, before, start)
    labels = labels_of(model, rows, columns, windows)
    own = join_labels(log, labels.filter(pc.is_valid(labels[LOG.label])), as_of=as_of, columns=LOG)
    joined = _after(own, before, windows)
    part = joined.window(*here)
    scores = _scores(reference, joined.score[part], tau)
    found = measured(
        Case(
            model=model,
            reference=reference,
            rows=rows,
            joined=joined,
            window=here,
            columns=columns,
            windows=windows,
            policy=policy,
            primary=primary,
            objectives=objectives,
            before=before,
            limit=limit,
            seed=seed,
        )
    )
    # What is measured here is not what somebody reported.
    slo_windows = {**{n: list(w) for n, w in (reported or {}).items()}, **found.slo_windows}
    states = slo_states(objectives, _by_indicator(before, slo_windows), end)
    own_before = [p for p in before if p.version == reference.version]
    own_states = slo_states(objectives, _by_indicator(own_before, slo_windows), end)
    earlier = [{n: c["status"] for n, c in p.columns.items()} for p in own_before]
    rule = None
    if policy.fixed_psi is not None and report is not None:
        rule = fixed_rule(report, limit=policy.fixed_psi)
    flips = _flips(model, reference, found)
    refused = refusal(contract=contract, drift=report, flips=flips, planned=policy.planned)
    signals = [
        replace(s, refused=refused)
        for s in _signals(policy, report, scores, earlier, rule, states, found, primary, end)
    ]
    newest = latest(rows[columns.time]) if rows.num_rows else None
    kept = joined.table.slice(part.start, part.stop - part.start)
    return Observation(
        version=reference.version,
        artifact=artifact,
        start=start,
        end=end,
        as_of=as_of,
        learned_until=reference.learned_until,
        rows=rows.num_rows,
        newest=newest,
        drift=report,
        scores=scores,
        rule=rule,
        profile=now,
        against=old,
        compared_with=against,
        realised=found.realised,
        estimated=found.estimated,
        limit=found.limit,
        gap=found.gap,
        sequence=found.sequence,
        concept_reason=found.concept_reason,
        labels=found.labels,
        counts={**own.counts, "unseen_classes": labels[LOG.label].null_count},
        behaviour=found.behaviour,
        slo_windows=slo_windows,
        slos=states,
        own_slos=own_states,
        refused=refused,
        contract=contract,
        losses=found.losses,
        joined=_labelled(kept, joined, part),
        signals=signals,
    )


def _drift(
    reference: Reference,
    rows: pa.Table,
    policy: MonitoringPolicy,
    tau: float,
    before: Sequence[Past],
    start: datetime,
) -> tuple[Profile | None, DriftReport, Profile, str]:
    names = [n for n in reference.profile.columns if n in rows.column_names]
    if not names:
        # Of a window without any feature all columns are missing.
        now = Profile(rows=rows.num_rows, columns={})
        found = drift(reference.profile, now, importance=reference.importance or None)
        return None, found, reference.profile, "the training rows"
    now = profile(rows.select(names), edges_from=reference.profile)
    old, past, against = reference.profile, reference.usual, "the training rows"
    alike = [p for p in before if p.version == reference.version and p.profile is not None]
    if policy.reference != "training":
        chosen = reference_windows(
            [p.start for p in alike],
            start,
            choice=policy.reference,
            count=policy.windows,
            period=policy.period,
        )
        if chosen:
            profiles = [p.profile for p in alike if p.profile is not None]
            old = reduce(Profile.merge, [profiles[i] for i in chosen])
            against = f"{len(chosen)} {policy.reference} windows"
        else:
            against += f", as no {policy.reference} window is known yet"
    report = drift(old, now, importance=reference.importance or None, tau=tau, past=past)
    return now, report, old, against


def _scores(reference: Reference, score: Floats, tau: float) -> DriftReport | None:
    """Drift of the scores against those on the holdout; None without a score."""
    if not len(score):
        return None
    old, new = score_table(scores_of(reference.held)), score_table(score)
    names = list(old.column_names)
    return drift(old, new, tau=tau, predictions=names, past=reference.usual_scores)


def _after(own: Joined, before: Sequence[Past], windows: Windows) -> Joined:
    """The window's rows after the newest matured ones of windows before: how labels arrive."""
    matured = pa.scalar(own.as_of - duration(windows.label_delay), pa.timestamp("us", "UTC"))
    kinds = own.table.schema
    earlier = [
        p.joined.filter(pc.less(p.joined[LOG.time], matured))
        for p in before
        # Ids and scores of another kind belong to what was before.
        if p.joined is not None and p.joined.select(kinds.names).schema.equals(kinds)
    ]
    if not earlier:
        return own
    told = pa.concat_tables(earlier)
    told = told.slice(max(told.num_rows - _HISTORY, 0))
    labels = told.select([LOG.id, LOG.label, LOG.label_time])
    past = join_labels(
        told.select(kinds.names),
        labels.filter(pc.is_valid(labels[LOG.label])),
        as_of=own.as_of,
        columns=LOG,
    )
    if past.score.shape[1:] != own.score.shape[1:]:  # an empty window has no classes
        return own
    return replace(
        own,
        table=pa.concat_tables([past.table, own.table]),
        time=np.concatenate([past.time, own.time]),
        score=np.concatenate([past.score, own.score]),
        label=np.concatenate([past.label, own.label]),
        labelled_at=np.concatenate([past.labelled_at, own.labelled_at]),
    )


def _labelled(kept: pa.Table, joined: Joined, part: slice) -> pa.Table:
    """The window's log with the labels that were known."""
    label, at = joined.label[part], joined.labelled_at[part]
    missing = np.isnan(label)
    times = pa.array(at, pa.timestamp("us"), mask=missing).cast(pa.timestamp("us", "UTC"))
    kept = kept.append_column(LOG.label, pa.array(label, mask=missing))
    return kept.append_column(LOG.label_time, times)


def _by_indicator(
    before: Sequence[Past], here: Mapping[str, Sequence[SloWindow]]
) -> dict[str, list[SloWindow]]:
    found: dict[str, list[SloWindow]] = {}
    for windows in (*(p.slo_windows for p in before), here):
        for name, several in windows.items():
            found.setdefault(name, []).extend(several)
    return found


def _flips(model: fit.Model, reference: Reference, found: Measured) -> Any:
    if model.task != "binary" or not len(found.label):
        return None
    held = reference.held.filter(pc.is_valid(reference.held[LOG.label]))
    try:
        return label_flips(
            found.label,
            found.score,
            clusters=found.units,
            reference_labels=held[LOG.label].to_numpy(),
            reference_scores=held[LOG.score].to_numpy(),
            reference_clusters=found.held_units,
        )
    except DataError:  # scores that are no probabilities
        return None


def _signals(
    policy: MonitoringPolicy,
    report: DriftReport | None,
    scores: DriftReport | None,
    earlier: Sequence[Mapping[str, str]],
    rule: Any,
    states: Sequence[SloState],
    found: Measured,
    primary: Metric,
    end: datetime,
) -> list[WindowResult]:
    signals: list[WindowResult] = []
    rules: dict[str, Any] = {"ended_at": end, "before": earlier, "sustained": policy.sustained}
    if report is not None:
        told = drift_results(report, **rules)
        signals += [s for s in told if s.signal == "drift"]
    if rule is not None:
        moved = [n for n in rule.moved if report is None or not report.columns[n].broken]
        signals[-1] = replace(
            signals[-1], breached=bool(moved), reason=rule.reason, columns=tuple(moved)
        )
    if scores is not None:
        told = drift_results(scores, **rules)
        signals += [s for s in told if s.signal == "scores"]
    if any(s.objective.product and s.objective.indicator in found.slo_windows for s in states):
        signals.append(slo_result(states, ended_at=end))
    elif found.limit is not None and found.realised[0].until is None:
        # One whose labels are yet to come would hide the windows before it.
        signals.append(replace(_held(found, found.realised[0], primary, end), signal="realised"))
    if found.limit is not None:
        signals.append(replace(_held(found, found.estimated, primary, end), signal="estimated"))
    concept = bool(found.sequence is not None and found.sequence.drifted)
    signals.append(
        WindowResult(
            key="",
            ended_at=end,
            breached=concept,
            reason=found.concept_reason,
            signal="concept",
        )
    )
    return signals


def _held(
    found: Measured, performance: Performance, primary: Metric, end: datetime
) -> WindowResult:
    """A performance against the limit."""
    assert found.limit is not None
    return performance_result(
        performance, metric=primary, limit=found.limit, ended_at=end, promised=found.promised
    )
