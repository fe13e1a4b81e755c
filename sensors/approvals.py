"""Tell people when a retrain has produced something for them to approve."""

import dagster as dg

from assets.flight_delay import flight_delay
from mlct.defs.resources import MlctHome
from mlct.errors import PromotionRefused
from mlct.release import slot


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    request_jobs=[],
    description="After a retrain: logs what waits for approval. Replace the log line by your "
    "team's channel; it can only tell, never promote.",
)
def approval_wanted(context: dg.RunStatusSensorContext, mlct: MlctHome) -> dg.SkipReason:
    if context.dagster_run.job_name != f"{flight_delay.name}_retrain":
        return dg.SkipReason("not a retrain")
    try:
        asked = slot.request(mlct.home.ledger, flight_delay.name, slot=flight_delay.slot)
    except PromotionRefused as error:
        return dg.SkipReason(f"nothing to approve: {error.found}")
    told = f"{asked.model}@{asked.version} waits for approval"
    context.log.info("%s: mlct request %s", told, asked.model)
    return dg.SkipReason(told)
