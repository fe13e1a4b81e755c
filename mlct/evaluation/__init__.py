"""Is the challenger better, and may people be asked to approve it?

metric/       Metric: a name, a function, a direction; the usual ones by name
business.py   BusinessMetric: a metric in the user's own units, that sees columns of the holdout
holdout.py    the checked rows of one holdout, and how they are resampled
replicate.py  a metric of many bootstrap replicates at once
estimate.py   a value or a difference with its standard error and bounds
compare.py    compare(): paired, one-sided, cluster-aware
baseline.py   no_change(): the last known label, which every model must beat
selection.py  spent(), select(): what a holdout has left after looking, and choosing, on it
leakage.py    leakage_suspects(): features that know too much
guardrail/    latency, footprint, gaps and fairness, calibration, slices, robustness, agreement
rule.py       the rules of a gate: Superiority, NonInferiority, Limit, Ratio, GroupGap...
policy.py     GatePolicy: primary rules, guardrails, how much evidence is enough
record.py     Evaluation: the record of one holdout
evaluate.py   evaluate() -> Evaluation
decision.py   GateDecision: verdict, reasons, outcomes of the rules
evidence.py   what has to hold before any metric is looked at
reason.py     the outcome of one rule, and its sentence
outlook.py    how many rows or clusters would decide, and when they will be there
gate.py       decide(evaluation, policy) -> PASS | FAIL | INCONCLUSIVE with reasons
plot.py       ROC, precision and recall, calibration, slices, history, residuals as PNG bytes
"""
