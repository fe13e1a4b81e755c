"""What the monitoring rooms found in a window, as results that a trigger decides on."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from mlct.data.digest import digest
from mlct.monitoring.trigger.decision import WindowResult

if TYPE_CHECKING:
    from mlct.evaluation.metric import Metric
    from mlct.monitoring.drift import DriftReport
    from mlct.monitoring.performance import Performance
    from mlct.monitoring.slo import SloState

#: Share of the importance that features which moved must carry, for drift to be a breach.
FLOOR = 0.1


def drift_results(
    report: "DriftReport",
    *,
    ended_at: datetime,
    before: Sequence[Mapping[str, str]] = (),
    sustained: tuple[int, int] = (1, 1),
    floor: float = FLOOR,
) -> list[WindowResult]:
    """The signals "drift" (features) and, where the report has predictions, "scores".

    They follow `decide_drift`: what moved must do so in `sustained[0]` of `sustained[1]` windows,
    where `before` is the status of each column in the windows before, oldest first. Features breach
    when those that moved carry at least `floor` of the importance; columns that are broken do not
    count: training again would not mend them.
    """
    from mlct.monitoring.drift import decide_drift  # it loads scipy

    breaches, of = sustained
    said = decide_drift([report], before=before, breaches=breaches, of=of, floor=floor)
    scores = [n for n, c in report.columns.items() if c.prediction]
    features = tuple(n for n in said.columns if n not in scores)
    breached = bool(features) and said.weight >= floor
    found = [_result("drift", ended_at, breached, said.reason, features)]
    if scores:
        names = tuple(n for n in said.columns if n in scores)
        found.append(_result("scores", ended_at, bool(names), said.reason, names))
    return found


def slo_result(states: Sequence["SloState"], *, ended_at: datetime) -> WindowResult:
    """The signal "realised": a product objective is breached by what was measured.

    Silence breaches an objective too, but training again does not bring labels.
    """
    product = [s for s in states if s.objective.product]
    bad = [s for s in product if any(r.fires and not r.silent for r in s.rules)]
    told = "; ".join(s.reason for s in bad or product) or "no product objective"
    return _result("realised", ended_at, bool(bad), told, tuple(s.name for s in bad))


def performance_result(
    found: "Performance",
    *,
    metric: "Metric",
    limit: float,
    ended_at: datetime,
    promised: bool = True,
) -> WindowResult:
    """The signal "realised" or "estimated": the metric is surely on the wrong side of `limit`.

    Surely: its bound towards the limit is beyond it too. What is not known breaches nothing. A
    limit that nobody `promised` is what the holdout showed.
    """
    value = found.upper if metric.bigger_is_better else found.lower
    value = found.value if value is None else value
    breached = value is not None and metric.sign * (value - limit) < 0
    shown = "is not known" if found.value is None else f"is {found.value:.4g}"
    side = "at least" if metric.bigger_is_better else "at most"
    wanted = f"{side} {limit:g} is wanted" if promised else f"the holdout showed {side} {limit:.3g}"
    return _result(
        "estimated" if found.kind == "estimated" else "realised",
        ended_at,
        breached,
        f"{found.metric} {shown} ({wanted}): {found.reason}",
        (found.metric,) if breached else (),
    )


def _result(
    signal: str, ended_at: datetime, breached: bool, reason: str, columns: tuple[str, ...]
) -> WindowResult:
    content = [signal, ended_at.isoformat(), breached, reason, list(columns)]
    return WindowResult(
        key=digest(content)[:16],
        ended_at=ended_at,
        breached=breached,
        reason=reason,
        signal=signal,
        columns=columns,
    )
