"""When to retrain: which signal asks, what holds it back, which rows nobody may learn from.

`policy` declares it, `signal` turns what the monitoring rooms found into window results, `refusal`
tells rows that must not be learned from, `decide_trigger` decides from stored results alone.
"""

from mlct.monitoring.trigger.decision import Asked, TriggerDecision, WindowResult, decide_trigger
from mlct.monitoring.trigger.policy import SIGNALS, RetrainPolicy
from mlct.monitoring.trigger.refusal import LabelFlips, label_flips, refusal
from mlct.monitoring.trigger.signal import drift_results, performance_result, slo_result

__all__ = [
    "SIGNALS",
    "Asked",
    "LabelFlips",
    "RetrainPolicy",
    "TriggerDecision",
    "WindowResult",
    "decide_trigger",
    "drift_results",
    "label_flips",
    "performance_result",
    "refusal",
    "slo_result",
]
