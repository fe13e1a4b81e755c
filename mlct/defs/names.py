"""Names and shared settings of everything that is generated for a model."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from mlct.spec import ModelSpec

CONTRACT = "contract"
GATE = "champion_challenger_gate"
DRIFT = "feature_drift"
REASON_TAG, CAUSE_TAG, MODEL_TAG = "mlct/reason", "mlct/cause", "mlct/model"
HUMAN_ONLY_TAG = "mlct/human_only"


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
