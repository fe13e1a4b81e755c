"""Names and shared settings of everything that is generated for a model."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from mlct.spec import ModelSpec

CONTRACT = "contract"
GATE = "champion_challenger_gate"
SCORED = "scored"
DRIFT, SCORES = "feature_drift", "score_drift"
REALISED, ESTIMATED, CONCEPT = "realised_performance", "estimated_performance", "concept_drift"
LABELS, OBJECTIVES, STALENESS, BEHAVIOUR = "labels", "objectives", "staleness", "behaviour"
DRILLED = "drilled_lately"
BUDGET, TOLD = "alert_budget", "incidents_told"
REASON_TAG, CAUSE_TAG, MODEL_TAG = "mlct/reason", "mlct/cause", "mlct/model"
#: The cause of a triggered run with its signal, columns, windows and attempt, as JSON.
TRIGGER_TAG = "mlct/trigger"
HUMAN_ONLY_TAG = "mlct/human_only"
#: Who launched a run, where a coordinator puts it: the tag that Dagster's own cloud uses.
PERSON_TAG = "user"
#: The cause of a scheduled retrain.
SCHEDULE = "schedule"
#: Tags that Dagster puts on runs that no person launched by hand. Present, they prove automation;
#: their absence proves nothing, so the authority is the signatures.
AUTOMATION_TAGS = frozenset(
    {
        "dagster/sensor_name",
        "dagster/schedule_name",
        "dagster/tick",
        "dagster/run_key",
        "dagster/backfill",
        "dagster/auto_materialize",
        "dagster/from_automation_condition",
        "dagster/asset_evaluation_id",
        "dagster/auto_observe",
        ".dagster/scheduled_execution_time",
        "dagster/partition_set",
        "dagster/retry_number",
        "dagster/parent_run_id",
        "dagster/root_run_id",
    }
)


def key(spec: ModelSpec, name: str) -> dg.AssetKey:
    """Key of a generated asset: the model's name is its prefix."""
    return dg.AssetKey([spec.name, name])


def settings(spec: ModelSpec, *kinds: str) -> Mapping[str, Any]:
    """What all generated assets have in common."""
    return {
        "group_name": spec.name,
        "owners": list(spec.owners),
        "kinds": set(kinds),
        "tags": {"mlct/risk_tier": spec.risk_tier},
    }
