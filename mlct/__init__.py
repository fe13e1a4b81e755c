"""mlct: continuous training on Dagster, with people in front of Production.

    source asset - contract - snapshot - features - challenger - evaluation - gate
                                                                                |
    retrain trigger <- monitoring <- predictions <- slot <- promotion job <- approval (signed)

Rooms, in the order in which they may import each other: `errors`, `data` (contract, snapshot,
window), `training` (recipe, fit), `evaluation` (metric, compare, guardrail, gate), `release`
(ledger, approval, slot), `monitoring` (drift, trigger), `spec`, `adapters` (MLflow, object store),
`defs` (all that Dagster calls), `cli`.

Public names load their rooms on first use: importing mlct costs next to nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "BusinessMetric": "mlct.evaluation.business",
    "Columns": "mlct.data.window",
    "Comparison": "mlct.evaluation.compare",
    "Deployment": "mlct.release.approval.deployment",
    "GateDecision": "mlct.evaluation.gate",
    "GatePolicy": "mlct.evaluation.gate",
    "GroupGap": "mlct.evaluation.gate",
    "Home": "mlct.adapters.home",
    "Limit": "mlct.evaluation.gate",
    "Metric": "mlct.evaluation.metric",
    "MlctError": "mlct.errors",
    "ModelSpec": "mlct.spec",
    "MonitoringPolicy": "mlct.monitoring.policy",
    "NonInferiority": "mlct.evaluation.gate",
    "Ratio": "mlct.evaluation.gate",
    "ReplaceWhenStale": "mlct.evaluation.gate",
    "RetrainPolicy": "mlct.monitoring.trigger",
    "RollbackPolicy": "mlct.monitoring.breach",
    "Signal": "mlct.monitoring.breach",
    "SliceRegression": "mlct.evaluation.gate",
    "SnapshotIOManager": "mlct.defs.io_manager",
    "Superiority": "mlct.evaluation.gate",
    "Windows": "mlct.data.window",
    "build_assets": "mlct.defs.build",
    "build_checks": "mlct.defs.build",
    "build_definitions": "mlct.defs.build",
    "build_jobs": "mlct.defs.build",
    "build_resources": "mlct.defs.build",
    "build_schedules": "mlct.defs.build",
    "build_sensors": "mlct.defs.build",
    "cbpe": "mlct.monitoring.performance.estimated",
    "compare": "mlct.evaluation.compare",
    "decide": "mlct.evaluation.gate",
    "drift": "mlct.monitoring.drift",
    "evaluate": "mlct.evaluation.evaluate",
    "guarded": "mlct.defs.build",
    "leakage_suspects": "mlct.evaluation.leakage",
    "load_live": "mlct.adapters.live",
    "no_change": "mlct.evaluation.baseline",
    "profile": "mlct.data.profile",
    "replay": "mlct.monitoring.replay",
    "report_signal": "mlct.adapters.signals",
    "roll_back_on_breach": "mlct.adapters.rollback",
    "select": "mlct.evaluation.selection",
    "sustained_breach": "mlct.monitoring.slo.sustained",
}

__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'mlct' has no attribute {name!r}")
    value = getattr(import_module(_NAMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
