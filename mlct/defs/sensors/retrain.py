"""When to retrain."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import dagster as dg

from mlct.data.contract import in_words
from mlct.data.window import parse_instant
from mlct.defs.assets.refused import refused_windows
from mlct.defs.names import CAUSE_TAG, REASON_TAG, SCHEDULE, TRIGGER_TAG
from mlct.defs.resources import MlctHome
from mlct.errors import DataError
from mlct.monitoring.trigger import Asked, TriggerDecision, WindowResult, decide_trigger
from mlct.release.incident import close_incident, incidents, open_incident, step
from mlct.release.ledger import Ledger
from mlct.release.slot import live
from mlct.spec import ModelSpec
from mlct.training.recipe import code_state

#: So many runs of the job are looked at for what was asked before.
RUNS = 50
#: The kind of its incidents.
INCIDENT = "retrain"

_OPEN = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


def _when(spec: ModelSpec) -> str:
    policy = spec.retrain
    if policy.of == 1:
        return "the newest window"
    return f"the newest and {policy.breaches} of the last {policy.of} windows"


def retrain_on_drift(
    spec: ModelSpec, *, default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED
) -> dg.SensorDefinition:
    """Requests `m_retrain` when the stored windows breach; one request per cause.

    Level-triggered: each tick looks at the newest stored windows anew, and the run key is signal,
    window and version, so that a restarted daemon neither loses nor doubles a request.
    """
    job = f"{spec.name}_retrain"
    commit = code_state().commit if "code" in spec.retrain.on else ""

    @dg.sensor(
        name=f"{spec.name}_retrain_on_drift",
        job_name=job,
        minimum_interval_seconds=60,
        default_status=default_status,
        description=f"Retrains {spec.name} when {_when(spec)} breached by {_signals(spec)}, within "
        "cool-down and budget; other signals only warn (RetrainPolicy.on). "
        "It starts switched off: turn it on here.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, mlct: MlctHome
    ) -> dg.RunRequest | dg.SkipReason:
        champion = live(mlct.home.ledger, spec.name, spec.slot)
        if champion is None:
            return dg.SkipReason("No champion yet: there is nothing to drift from.")
        try:
            _, stored = mlct.handed(spec.name, "monitoring")
        except DataError:
            return dg.SkipReason(f"No window was monitored yet: run {spec.name}_monitoring.")
        trainings = [
            r.predicate for r in mlct.home.ledger.records(kind="training", model=spec.name)
        ]
        live_training = next(t for t in trainings if t["version"] == champion.version)
        _close(mlct.home.ledger, spec, champion.version)
        # What it learned from says nothing of how it does.
        learned = parse_instant(live_training["train_end"])
        windows = [
            result
            for w in stored["windows"]
            if w["champion"] == champion.version and parse_instant(w["end"]) > learned
            for result in _results(w)
        ]
        if not windows:
            return dg.SkipReason(
                f"Version {champion.version} is live; none of its windows was monitored yet."
            )

        def decide(
            asked: Sequence[Asked] = (),
            refused: int = 0,
            learning: Sequence[WindowResult] = (),
        ) -> TriggerDecision:
            return decide_trigger(
                spec.retrain,
                windows,
                trained_until=learned,
                retrained_at=_when_trained(trainings, scheduled=False),
                scheduled_at=_when_trained(trainings, scheduled=True),
                asked=asked,
                refused=refused,
                code=(live_training["code"]["commit"], commit),
                learning=learning,
            )

        decision = decide()
        if decision.retrain:  # only now look at all else: most ticks ask for nothing
            runs = context.instance.get_run_records(dg.RunsFilter(job_name=job), limit=RUNS)
            refused = _refused(mlct.home.ledger, spec, trainings)
            newest = max(parse_instant(w["end"]) for w in stored["windows"])
            start, _, _ = spec.windows.bounds(newest)
            learning = refused_windows(mlct, spec, start, newest)
            decision = decide(_asked([r.dagster_run for r in runs]), refused, learning)
        _tell(mlct.home.ledger, spec, champion.version, decision)
        if not decision.retrain:
            more = f" (an incident: {decision.incident})" if decision.incident else ""
            return dg.SkipReason(decision.reason + more)
        under_way = dg.RunsFilter(job_name=job, statuses=_OPEN)
        if context.instance.get_run_records(under_way, limit=1):
            return dg.SkipReason(f"{job} is under way; then: {decision.reason}")
        return dg.RunRequest(
            run_key=f"{spec.name}:{decision.request}",
            tags={
                CAUSE_TAG: decision.cause,
                REASON_TAG: decision.reason[:250],
                TRIGGER_TAG: json.dumps(decision.to_dict()),
            },
        )

    return sensor


def _signals(spec: ModelSpec) -> str:
    return ", ".join(spec.retrain.on) or "no signal"


def _when_trained(trainings: Sequence[Mapping[str, Any]], *, scheduled: bool) -> list[datetime]:
    """The `as_of` of retrains that a schedule, or the sensor, asked for; those that a person asked
    for hold nothing back, and a fallback is trained beside another."""
    return [
        parse_instant(t["as_of"])
        for t in trainings
        if t["cause"] and (t["cause"] == SCHEDULE) is scheduled and not t.get("fallback")
    ]


def _tell(ledger: Ledger, spec: ModelSpec, version: int, decision: TriggerDecision) -> None:
    """Open an incident for the problem of a decision; a request ends those of other kinds."""
    if decision.retrain:
        _close(ledger, spec, version, decision)
    if decision.incident:
        summary = decision.incident
        if decision.problem == "failed":
            summary += _broken_contract(ledger, spec)
        open_incident(
            ledger,
            model=spec.name,
            slot=spec.slot,
            kind=INCIDENT,
            episode=f"version {version}: {decision.problem}",
            summary=summary,
            timeline=[step(ledger, summary)],
            severity="medium",
            pages=False,
            actor=f"{spec.name}_retrain_on_drift",
        )


def _close(
    ledger: Ledger, spec: ModelSpec, version: int, asked: TriggerDecision | None = None
) -> None:
    """Close the incidents of versions that are no longer live; where a retrain is asked for, of
    this one too, save for the problem that it still has."""
    for known in incidents(ledger, spec.name):
        if not known.open or (known.kind, known.slot) != (INCIDENT, spec.slot):
            continue
        of, _, problem = known.episode.partition(": ")
        if of != f"version {version}":
            summary = f"version {version} is live now"
        elif asked is not None and problem != asked.problem:
            summary = f"a retrain is asked for again: {asked.reason}"
        else:
            continue
        actor = f"{spec.name}_retrain_on_drift"
        close_incident(ledger, known.opened, summary=summary, actor=actor)


def _broken_contract(ledger: Ledger, spec: ModelSpec) -> str:
    """What the newest contract statement says, where it is a failure."""
    for record in ledger.records(kind="contract", model=spec.name, limit=1):
        if not (says := record.predicate)["passed"]:
            broken = [in_words(v) for v in says["violations"]]
            return (
                f"; the contract failed on training set {says['training_set'][:12]} (statement "
                f"{record.sequence}): {'; '.join(broken[:3])}"
            )
    return ""


def _results(window: Mapping[str, Any]) -> Iterator[WindowResult]:
    """The signals of a stored window."""
    for said in window["signals"]:
        yield WindowResult(
            key=window["key"],
            ended_at=parse_instant(window["end"]),
            breached=said["breached"],
            reason=said["reason"],
            signal=said["signal"],
            columns=tuple(said["columns"]),
            refused=said["refused"],
        )


def _asked(runs: Sequence[dg.DagsterRun]) -> list[Asked]:
    """Runs as answers to requests, under whatever location they ran. One that a person cancelled
    is not asked for again."""
    return [
        Asked(
            cause=run.tags[CAUSE_TAG],
            state="open"
            if run.status in _OPEN
            else "failed"
            if run.status == dg.DagsterRunStatus.FAILURE
            else "done",
        )
        for run in runs
        if CAUSE_TAG in run.tags
    ]


def _refused(ledger: Ledger, spec: ModelSpec, trainings: Sequence[Mapping[str, Any]]) -> int:
    """How many triggered retrains in a row, up to the newest, the gate did not pass."""
    verdicts: dict[int, str] = {}
    for record in ledger.records(kind="gate", model=spec.name):
        if record.predicate["slot"] == spec.slot:
            verdicts.setdefault(record.predicate["version"], record.predicate["verdict"])
    count = 0
    for training in trainings:  # newest first
        verdict = verdicts.get(training["version"])
        if verdict == "PASS":
            break
        count += bool(verdict and training["cause"] not in ("", SCHEDULE))
    return count
