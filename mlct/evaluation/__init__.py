"""Is the challenger better, and may people be asked to approve it?

metric.py     Metric: a name, a function, a direction; the usual ones by name
holdout.py    the checked rows of one holdout and how they are resampled
compare.py    compare(): paired, one-sided, cluster-aware
guardrail.py  latency, gaps between groups, calibration
policy.py     GatePolicy and its rules
evaluate.py   evaluate() -> Evaluation, the record of one holdout
gate.py       decide(evaluation, policy) -> PASS | FAIL | INCONCLUSIVE with reasons
plot.py       ROC, calibration and score plots as PNG bytes
"""
