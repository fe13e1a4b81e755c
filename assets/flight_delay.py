"""The model `flight_delay`: will this flight arrive 15 minutes late or more, two hours ahead?"""

from pathlib import Path
from typing import Any

import mlct
from assets.contract import flight_contract


def build_estimator() -> Any:
    """Gradient-boosted trees, as in the reference numbers of `benchmarks/flight_auc.py`."""
    from lightgbm import LGBMClassifier

    return LGBMClassifier(
        n_estimators=120, learning_rate=0.08, num_leaves=31, min_child_samples=50, random_state=0
    )


flight_delay = mlct.ModelSpec(
    name="flight_delay",
    description="Early warning of late arrivals at the three New York airports.",
    owners=["team:operations"],
    risk_tier="high",
    features="flight_features",
    columns=mlct.Columns(
        id="flight_id", time="scheduled_departure", label="late", label_time="arrived_at"
    ),
    # Expanding history: on these flights two sliding months are worse than all that came before.
    windows=mlct.Windows(train="365d", holdout="28d", label_delay="2d", cluster="1d"),
    contract=flight_contract,
    estimator=build_estimator,
    gate=mlct.GatePolicy(
        primary=mlct.Superiority("roc_auc", min_effect=0.002, confidence=0.95),
        guardrails=[
            mlct.NonInferiority("log_loss", margin=0.005),
            mlct.Limit("latency_p99_ms", max=20),
            mlct.Limit("ece", max=0.05),
            mlct.GroupGap("recall", by="origin", max=0.3),
        ],
    ),
    # As the flights come: month by month.
    # A month of flights speaks for itself: no second one is waited for.
    monitoring=mlct.MonitoringPolicy(
        every="month", start="2013-01-01", end="2014-01-01", sustained=(1, 1)
    ),
    retrain=mlct.RetrainPolicy(
        schedule="0 6 3 * *",
        # The desk is promised little in a calm month: drift is what asks before harm is measured.
        on=["realised", "drift", "age"],
        # Weather and season move more than the default each month, and harm little.
        max_psi=0.25,
        cooldown="1d",
        budget="4/30d",
        max_age="120d",
    ),
    slos=Path(__file__).parents[1] / "slos" / "flight_delay.yaml",
)
