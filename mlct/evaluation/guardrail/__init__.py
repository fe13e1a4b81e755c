"""What must not get worse while the primary metric gets better.

latency.py      one row and batches, warm, paired with the champion's on the same rows
footprint.py    bytes of a model, memory while scoring, cost per thousand predictions
gap.py          gaps of a metric, or of a fairness criterion, between groups and intersections
calibration.py  calibration error with its small-sample bias; the reliability table
slices.py       each slice against the champion, with the false-discovery rate controlled
robustness.py   metric drop under noise, missing values, unseen categories, shuffled columns
agreement.py    the served scores are the trained ones, bit for bit
"""

from mlct.evaluation.guardrail.agreement import Agreement, agreement
from mlct.evaluation.guardrail.calibration import (
    Reliability,
    calibration,
    ece_by_chance,
    reliability,
)
from mlct.evaluation.guardrail.footprint import cost_per_thousand, peak_memory_mb
from mlct.evaluation.guardrail.gap import Gap, group_gap, group_gap_on
from mlct.evaluation.guardrail.latency import latencies, rows_for
from mlct.evaluation.guardrail.robustness import Drop, Robustness, robustness
from mlct.evaluation.guardrail.slices import Slice, SliceTable, slices, slices_on

__all__ = [
    "Agreement",
    "Drop",
    "Gap",
    "Reliability",
    "Robustness",
    "Slice",
    "SliceTable",
    "agreement",
    "calibration",
    "cost_per_thousand",
    "ece_by_chance",
    "group_gap",
    "group_gap_on",
    "latencies",
    "peak_memory_mb",
    "reliability",
    "robustness",
    "rows_for",
    "slices",
    "slices_on",
]
