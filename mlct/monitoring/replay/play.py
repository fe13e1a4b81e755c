"""`replay`: retrain policies over history, beside never, always and knowing the future."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mlct.data.window import Columns, Windows, as_utc, duration
from mlct.data.window import instants as check_columns
from mlct.errors import DataError, EvaluationError, SpecError
from mlct.evaluation.gate import GatePolicy
from mlct.evaluation.metric import Metric
from mlct.monitoring.policy import MonitoringPolicy
from mlct.monitoring.replay.history import History, instants
from mlct.monitoring.replay.result import ORACLE, SCHEDULED, STATIC, Replay, Step, Track
from mlct.monitoring.slo import Objective
from mlct.monitoring.trigger import RetrainPolicy, TriggerDecision, decide_trigger

Due = Callable[[int, "_State"], TriggerDecision | None]


@dataclass(kw_only=True, slots=True)
class _State:
    """Where a track stands."""

    champion: int = 0
    served: list[int] = field(default_factory=list)
    retrained: list[datetime] = field(default_factory=list)
    refused: int = 0


def replay(
    data: pa.Table,
    *,
    columns: Columns,
    windows: Windows,
    estimator: Callable[[], Any],
    gate: GatePolicy,
    policies: Mapping[str, RetrainPolicy],
    step: str,
    start: datetime | None = None,
    objectives: Sequence[Objective] = (),
    limit: float | None = None,
    monitoring: MonitoringPolicy | None = None,
    seed: int = 0,
) -> Replay:
    """Play `policies` over a feature table, by the code of the real loop, touching nothing.

    From `start` on (by default as soon as a quarter of the history, or the training window where
    that is shorter, lies before the first holdout) the clock goes on by `step`. At each instant a
    policy sees what was known then of the windows that its champion served; where it asks, a
    challenger is cut, fitted and judged, and what passes the gate is live at once. A model, a
    score and a verdict are computed once for all policies.

    Windows are as long as a step, and observed by `mlct.monitoring.observe` as `monitoring` says.
    "realised" is judged by the product `objectives`, else, as "estimated", by `limit`: a value of
    the gate's first primary metric, by default what the champion's holdout showed. Rules of the
    gate on measured values (latency) are left out, a cron `schedule` is not played: compare with
    "scheduled". Raises DataError and SpecError.
    """
    taken = {STATIC, SCHEDULED, ORACLE} & set(policies)
    if taken or not all(isinstance(p, RetrainPolicy) for p in policies.values()):
        raise SpecError(
            f"the policies of a replay are {dict(policies)}",
            expected=f"RetrainPolicy by names other than {STATIC}, {SCHEDULED} and {ORACLE}",
        )
    check_columns(data.schema, columns)
    if not data.num_rows:
        raise DataError("the history has no rows", expected="a feature table")
    primary = gate.primaries[0]
    metric: Metric = primary.of_metric
    begin = start or _start(data, columns, windows)
    history = History(
        rows=data.sort_by([(columns.time, "ascending"), (columns.id, "ascending")]),
        at=instants(data, columns, start=begin, step=step),
        columns=columns,
        windows=windows,
        estimator=estimator,
        gate=gate,
        metric=metric,
        monitoring=monitoring or MonitoringPolicy(),
        objectives=objectives,
        limit=limit,
        seed=seed,
    )
    _check(history)
    worth = primary.min_effect
    always = TriggerDecision(retrain=True, cause="schedule", reason="each step", signal="schedule")
    due: dict[str, Due] = {
        STATIC: lambda k, state: None,
        SCHEDULED: lambda k, state: always,
        **{name: _by(history, policy) for name, policy in policies.items()},
    }
    due[ORACLE] = _oracle(history, worth)
    tracks = {name: _play(history, name, asks, worth) for name, asks in due.items()}
    return Replay(
        metric=metric.name,
        bigger_is_better=metric.bigger_is_better,
        worth=worth,
        at=tuple(history.at),
        tracks=tracks,
    )


def _start(data: pa.Table, columns: Columns, windows: Windows) -> datetime:
    ends = pc.min_max(data[columns.time])
    first, last = as_utc(ends["min"].as_py()), as_utc(ends["max"].as_py())
    learn = min(duration(windows.train), (last - first) / 4)
    return first + learn + duration(windows.holdout) + duration(windows.label_delay)


def _check(history: History) -> None:
    if len(history.at) < 3:
        raise DataError(
            f"from {history.at[0]:%Y-%m-%d} on there are {len(history.at) - 1} whole steps",
            expected="two or more",
            fix="Begin earlier, or take shorter steps",
        )
    first = history.fitted(0)
    if isinstance(first, str):
        raise DataError(
            f"at {history.at[0]:%Y-%m-%d %H:%M} UTC no first model can be trained: {first}",
            expected="training rows and a holdout before the start",
            fix="Begin later, or take shorter windows",
        )


def _by(history: History, policy: RetrainPolicy) -> Due:
    """A policy's own decision at an instant, from what was known then."""

    def asks(k: int, state: _State) -> TriggerDecision:
        known = history.results(state.served, policy.max_psi)
        made = history.fitted(state.champion)
        assert not isinstance(made, str)
        return decide_trigger(
            policy,
            known,
            trained_until=made.cut.holdout_start,
            retrained_at=state.retrained,
            refused=state.refused,
        )

    return asks


def _oracle(history: History, worth: float) -> Due:
    """Asks where, and only where, the window to come will pay more than it is worth."""
    said = TriggerDecision(retrain=True, cause=ORACLE, reason="it will pay", signal=ORACLE)

    def asks(k: int, state: _State) -> TriggerDecision | None:
        better = _better(history, state.champion, k)
        return said if better is not None and better > worth else None

    return asks


def _play(history: History, name: str, asks: Due, worth: float) -> Track:
    state, steps, values = _State(), list[Step](), list[float | None]()
    spent = [history.fitted(0)]
    incidents, false, missed, promotions = list[str](), 0, 0, 0
    for k in range(len(history.at) - 1):
        said = asks(k, state) if k else None
        if said is not None and said.incident and said.incident not in incidents:
            incidents.append(said.incident)
        asked = said is not None and said.retrain
        better = _better(history, state.champion, k) if k else None
        if asked:
            assert said is not None
            spent.append(history.fitted(k))
            # What knows the future needs no gate.
            oracle = name == ORACLE
            verdict, reasons = ("PASS", ()) if oracle else _verdict(history, k, state.champion)
            steps.append(
                Step(
                    at=history.at[k],
                    cause=said.to_dict(),
                    verdict=verdict,
                    reasons=reasons,
                    better=better,
                )
            )
            state.retrained.append(history.at[k])
            false += better is not None and better <= 0
            passed = verdict == "PASS"
            promotions += passed
            state.refused = 0 if passed else state.refused + 1
            state.champion = k if passed else state.champion
        elif better is not None:
            missed += better > worth
        state.served.append(state.champion)
        values.append(history.value(state.champion, k))
    made = [s for s in spent if not isinstance(s, str)]
    return Track(
        name=name,
        values=tuple(values),
        steps=tuple(steps),
        promotions=promotions,
        false=false,
        missed=missed,
        rows=sum(s.rows for s in made),
        incidents=tuple(incidents),
        seconds=sum(s.seconds for s in made),
    )


def _verdict(history: History, k: int, c: int) -> tuple[str, tuple[str, ...]]:
    made = history.fitted(k)
    if isinstance(made, str):
        return "ERROR", (made,)
    try:
        found = history.judged(k, c)
    except (DataError, EvaluationError) as error:
        return "ERROR", (str(error),)
    return found.verdict, found.reasons


def _better(history: History, c: int, k: int) -> float | None:
    """By how much the challenger of instant k beats champion c in the window that follows."""
    if isinstance(history.fitted(k), str):
        return None
    new, old = history.value(k, k), history.value(c, k)
    return None if new is None or old is None else history.metric.sign * (new - old)
