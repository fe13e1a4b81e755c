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
        asked = slot.request(mlct.home.ledger, flight_delay.name)
    except PromotionRefused as error:
        return dg.SkipReason(f"nothing to approve: {error.found}")
    context.log.info("flight_delay@%s waits for approval: mlct request flight_delay", asked.version)
    return dg.SkipReason(f"flight_delay@{asked.version} waits for approval")
