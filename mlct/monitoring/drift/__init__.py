"""Has the data moved? A calibrated decision between a reference profile and a window's."""

from mlct.monitoring.drift.decision import Spread
from mlct.monitoring.drift.domain import Domain, domain_classifier
from mlct.monitoring.drift.history import DriftDecision, decide_drift, reference_windows
from mlct.monitoring.drift.report import (
    ColumnDrift,
    DriftReport,
    FixedRule,
    drift,
    fixed_rule,
    spreads,
)
from mlct.monitoring.drift.simple import population_stability

__all__ = [
    "ColumnDrift",
    "Domain",
    "DriftDecision",
    "DriftReport",
    "FixedRule",
    "Spread",
    "decide_drift",
    "domain_classifier",
    "drift",
    "fixed_rule",
    "population_stability",
    "reference_windows",
    "spreads",
]
