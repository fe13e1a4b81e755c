"""Service level objectives of product behaviour and of infrastructure, in OpenSLO v1.

`load` reads them and lints their rules, `slo_states` says where they stand on measured windows,
`explain` shows what they compile to; `sustained_breach` is the plain rule for a plain series.
"""

from mlct.monitoring.slo.budget import PageBudget, page_budget
from mlct.monitoring.slo.objective import Objective
from mlct.monitoring.slo.openslo import load
from mlct.monitoring.slo.rule import Rule, compiled, explain, explain_text
from mlct.monitoring.slo.slice import SloWindow
from mlct.monitoring.slo.state import RuleState, SloState, slo_states
from mlct.monitoring.slo.sustained import SustainedBreach, sustained_breach

__all__ = [
    "Objective",
    "PageBudget",
    "Rule",
    "RuleState",
    "SloState",
    "SloWindow",
    "SustainedBreach",
    "compiled",
    "explain",
    "explain_text",
    "load",
    "page_budget",
    "slo_states",
    "sustained_breach",
]
