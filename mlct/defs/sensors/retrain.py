"""When to retrain."""

import dagster as dg

from mlct.data.window import parse_instant
from mlct.defs.names import CAUSE_TAG, REASON_TAG
from mlct.defs.resources import MlctHome
from mlct.errors import DataError
from mlct.monitoring.trigger import WindowResult, decide_trigger
from mlct.release.slot import live
from mlct.spec import ModelSpec

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

    Level-triggered: each tick looks at the newest stored windows anew, and the run key is their
    content, so that a restarted daemon neither loses nor doubles a request.
    """
    job = f"{spec.name}_retrain"

    @dg.sensor(
        name=f"{spec.name}_retrain_on_drift",
        job_name=job,
        minimum_interval_seconds=60,
        default_status=default_status,
        description=f"Retrains {spec.name} when {_when(spec)} moved, within cool-down and budget. "
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
        windows = [
            WindowResult(
                key=w["key"],
                ended_at=parse_instant(w["end"]),
                breached=w["breached"],
                reason=w["reason"],
            )
            for w in stored["windows"]
            if w["champion"] == champion.version
        ]
        if not windows:
            return dg.SkipReason(
                f"Version {champion.version} is live; none of its windows was monitored yet."
            )
        live_training = next(t for t in trainings if t["version"] == champion.version)
        decision = decide_trigger(
            spec.retrain,
            windows,
            trained_until=parse_instant(live_training["train_end"]),
            retrained_at=[parse_instant(t["as_of"]) for t in trainings if t["cause"]],
        )
        if not decision.retrain:
            return dg.SkipReason(decision.reason)
        under_way = dg.RunsFilter(job_name=job, statuses=_OPEN)
        if context.instance.get_run_records(under_way, limit=1):
            return dg.SkipReason(f"{job} is under way; then: {decision.reason}")
        return dg.RunRequest(
            run_key=f"{spec.name}:{decision.cause}",
            tags={CAUSE_TAG: decision.cause, REASON_TAG: decision.reason[:250]},
        )

    return sensor
