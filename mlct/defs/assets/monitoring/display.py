"""How a window shows in Dagster: one check a signal with its numbers, tables and pictures."""

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import dagster as dg

from mlct.data.window import as_utc, duration, parse_instant
from mlct.defs.assets.windows import window_check
from mlct.defs.names import (
    BEHAVIOUR,
    CONCEPT,
    CONTRACT,
    DRIFT,
    ESTIMATED,
    LABELS,
    OBJECTIVES,
    REALISED,
    SCORES,
    STALENESS,
)
from mlct.monitoring import plot
from mlct.monitoring.observe import Observation
from mlct.monitoring.observe.observation import columns_of
from mlct.monitoring.performance import Performance
from mlct.monitoring.trigger import refusal
from mlct.spec import ModelSpec

CHECKS = {
    DRIFT: "Features against what the version was trained on. A warning: look.",
    SCORES: "Scores against those on the holdout. A warning: look.",
    REALISED: "The gate's first metric on labels that have matured, against what is promised.",
    ESTIMATED: "The same metric without labels; it cannot see concept drift.",
    CONCEPT: "Has the loss risen at any time since the version went live? Is the metric what the "
    "scores promise?",
    LABELS: "Do labels arrive, as many and as soon as usual?",
    CONTRACT: "Do the contract's rules on values hold for the labelled rows? Until they do, no "
    "sensor retrains on this window.",
    OBJECTIVES: "The objectives of ModelSpec.slos. An error where a person is called.",
    STALENESS: "Are there rows up to the window's end, and is the version young enough?",
}
_BEHAVIOUR = "Metrics of the product, from MonitoringPolicy.behaviour."
_WARN, _ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR
_PANELS = 4
_WRONG = ("conflicting", "conflicting_labels", "early_labels", "unseen_classes")


def check_specs(spec: ModelSpec, asset: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    told = CHECKS | ({BEHAVIOUR: _BEHAVIOUR} if spec.monitoring.behaviour else {})
    return [window_check(spec, asset, name, says) for name, says in told.items()]


def nothing(spec: ModelSpec, why: str) -> dg.MaterializeResult:
    """A window of which nothing can be said."""
    names = [*CHECKS, *([BEHAVIOUR] if spec.monitoring.behaviour else [])]
    return dg.MaterializeResult(
        metadata={"skipped": why},
        check_results=[
            dg.AssetCheckResult(check_name=name, passed=True, description=why) for name in names
        ],
    )


def result(
    spec: ModelSpec,
    seen: Observation,
    before: Sequence[Mapping[str, Any]],
    moves: Sequence[tuple[datetime, str]],
) -> dg.MaterializeResult:
    """The window, its checks, and pictures of it and the windows `before` (as they were kept);
    `moves` are when the slot went to which version."""
    first = seen.realised[0]
    shown: dict[str, Any] = {
        "window": f"[{seen.start:%Y-%m-%d %H:%M}, {seen.end:%Y-%m-%d %H:%M}) UTC",
        "champion": str(seen.version),
        "rows": seen.rows,
        "compared_with": seen.compared_with,
        "labels": seen.labels.reason,
        **_pictures(spec, seen, before, moves),
        "performance": _performances((*seen.realised, seen.estimated, *seen.behaviour)),
        "objectives": _objectives(seen),
        "drift": _columns(seen),
        "joined": {n: c for n, c in seen.counts.items() if c},
    }
    if seen.refused:
        shown["refused"] = f"nobody may learn from this window: {seen.refused}"
    if first.value is not None:
        shown[first.metric] = first.value
    checks = [_drift(seen), _scores(seen), _realised(seen), _estimated(seen), _concept(seen)]
    checks += [_labels(seen), _contract(seen), _slos(seen), _staleness(spec, seen)]
    if spec.monitoring.behaviour:
        checks.append(_behaviour(seen))
    return dg.MaterializeResult(metadata=shown, check_results=checks)


def _check(
    name: str, passed: bool, said: str, numbers: Mapping[str, float | None], severity: Any = _WARN
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name,
        passed=bool(passed),
        severity=severity,
        description=said,
        metadata={n: float(v) for n, v in numbers.items() if v is not None},
    )


def _drift(seen: Observation) -> dg.AssetCheckResult:
    report, signal = seen.drift, seen.signal("drift")
    columns = [] if report is None else list(report.columns.values())
    numbers: dict[str, float | None] = {f"psi {c.name}": c.psi for c in columns[:40]}
    numbers["importance moved"] = None if report is None else report.weight
    if seen.rule is not None:
        numbers["false alarm rate"] = seen.rule.any_false_alarm
        return _check(DRIFT, not seen.rule.moved, signal.reason, numbers)
    # What broke does not wait for a second window.
    broken = refusal(drift=report)
    return _check(DRIFT, not (signal.columns or broken), signal.reason, numbers)


def _scores(seen: Observation) -> dg.AssetCheckResult:
    if seen.scores is None:
        return _check(SCORES, True, "no row of the window has a score", {})
    columns, signal = seen.scores.columns.values(), seen.signal("scores")
    broken = any(c.drifted and c.broken for c in columns)
    found = {f"psi {c.name}": c.psi for c in columns}
    return _check(SCORES, not (signal.breached or broken), signal.reason, found)


def _numbers(found: Performance, limit: float | None) -> dict[str, float | None]:
    told = {found.metric: found.value, "lower": found.lower, "upper": found.upper}
    return told | {"limit": limit}


def _realised(seen: Observation) -> dg.AssetCheckResult:
    first = seen.realised[0]
    signal = next((s for s in seen.signals if s.signal == "realised"), None)
    said = _said(first)
    if signal is not None and signal.breached:
        said = f"{signal.reason}; {said}"
    passed = signal is None or not signal.breached
    numbers = {p.metric: p.value for p in seen.realised[1:]} | _numbers(first, seen.limit)
    return _check(REALISED, passed, said, numbers)


def _said(found: Performance) -> str:
    if found.value is None:
        until = f" until {found.until:%Y-%m-%d %H:%M} UTC" if found.until is not None else ""
        return f"{found.metric} is unknown{until}: {found.reason}"
    between = ""
    if found.lower is not None and found.upper is not None:
        between = f" [{found.lower:.4g}, {found.upper:.4g}]"
    return f"{found.metric} is {found.value:.4g}{between}: {found.reason}"


def _estimated(seen: Observation) -> dg.AssetCheckResult:
    found = seen.estimated
    signal = next((s for s in seen.signals if s.signal == "estimated"), None)
    numbers = _numbers(found, seen.limit)
    numbers["realised less estimated"] = None if seen.gap is None else seen.gap.value
    passed = signal is None or not signal.breached
    return _check(ESTIMATED, passed, _said(found) if signal is None else signal.reason, numbers)


def _concept(seen: Observation) -> dg.AssetCheckResult:
    signal, numbers = seen.signal("concept"), dict[str, float | None]()
    if seen.sequence is not None:
        numbers = {"allowed loss": seen.sequence.allowed, "shown above": seen.sequence.lower}
    gap = seen.gap is not None and seen.gap.drifted
    return _check(CONCEPT, not (signal.breached or gap), signal.reason, numbers)


def _contract(seen: Observation) -> dg.AssetCheckResult:
    found = seen.contract
    if found is None:
        return _check(CONTRACT, True, "no rule on values, or too few labelled rows to judge", {})
    bad = found.violations
    said = f"{len(bad)} of {found.expectations} rules on values failed: " + "; ".join(map(str, bad))
    if found.passed:
        said = f"all {found.expectations} rules on values hold"
    return _check(CONTRACT, found.passed, said, {"failed": len(bad)})


def _labels(seen: Observation) -> dg.AssetCheckResult:
    state = seen.labels
    numbers: dict[str, float | None] = {}
    numbers |= {f"delay q{q:g} (h)": s / 3600 for q, s in state.delay.items()}
    numbers |= {"labelled": state.share, "usual": state.usual}
    wrong = [n for n in _WRONG if seen.counts[n]]
    said = "; ".join([state.reason, *(f"{seen.counts[n]} {n.replace('_', ' ')}" for n in wrong)])
    return _check(LABELS, not state.late and not wrong, said, numbers)


def _slos(seen: Observation) -> dg.AssetCheckResult:
    bad = [s for s in seen.slos if s.breached]
    numbers: dict[str, float | None] = {}
    for state in seen.slos:
        numbers[f"{state.name}: budget spent"] = state.consumed
        numbers[f"{state.name}: burn rate"] = state.burn_rate
    said = (
        "; ".join(s.reason for s in bad or seen.slos)
        or "no objectives are declared (ModelSpec.slos)"
    )
    severity = _ERROR if any(s.pages for s in bad) else _WARN
    return _check(OBJECTIVES, not bad, said, numbers, severity)


def _staleness(spec: ModelSpec, seen: Observation) -> dg.AssetCheckResult:
    numbers: dict[str, float | None] = {"rows": seen.rows}
    problems = []
    over = min(seen.end, seen.as_of)
    if seen.newest is None:
        problems.append("the window has no rows")
    else:
        quiet = over - as_utc(seen.newest)
        numbers["hours without rows"] = max(quiet.total_seconds() / 3600, 0.0)
        if quiet > (seen.end - seen.start) / 4:
            problems.append(f"no row came after {seen.newest:%Y-%m-%d %H:%M} UTC")
    age = seen.end - seen.learned_until
    numbers["age in days"] = age.total_seconds() / 86_400
    limit = spec.retrain.max_age
    if limit is not None and age > duration(limit):
        problems.append(f"version {seen.version} learned {age.days} days before, at most {limit}")
    said = "; ".join(problems) or f"{seen.rows} rows, up to {seen.newest:%Y-%m-%d %H:%M} UTC"
    return _check(STALENESS, not problems, said, numbers)


def _behaviour(seen: Observation) -> dg.AssetCheckResult:
    unknown = [f"{p.metric}: {p.reason}" for p in seen.behaviour if p.value is None]
    said = "; ".join(unknown or [_said(p) for p in seen.behaviour])
    return _check(BEHAVIOUR, not unknown, said, {p.metric: p.value for p in seen.behaviour})


def _columns(seen: Observation) -> dg.MetadataValue:
    rows = []
    for report in (seen.scores, seen.drift):
        for c in report.columns.values() if report is not None else ():
            rows.append(
                dg.TableRecord(
                    {
                        "column": c.name,
                        "status": c.status,
                        "psi": _number(c.psi),
                        "threshold": _number(c.threshold),
                        "importance": f"{c.importance:.1%}" if not c.prediction else "score",
                        "missing": f"{c.missing[1]:.1%} (was {c.missing[0]:.1%})",
                        "unseen": f"{c.unseen:.2%}" if c.unseen else "",
                    }
                )
            )
    names = ("column", "status", "psi", "threshold", "importance", "missing", "unseen")
    return dg.MetadataValue.table(
        rows, schema=dg.TableSchema(columns=[dg.TableColumn(n, "string") for n in names])
    )


def _performances(found: Sequence[Performance]) -> dg.MetadataValue:
    names = ("metric", "kind", "value", "lower", "upper", "labelled", "said")
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "metric": p.metric,
                    "kind": p.kind,
                    "value": _number(p.value),
                    "lower": _number(p.lower),
                    "upper": _number(p.upper),
                    "labelled": f"{p.labelled} of {p.rows}",
                    "said": p.reason + (f" ({p.assumption})" if p.assumption else ""),
                }
            )
            for p in found
        ],
        schema=dg.TableSchema(columns=[dg.TableColumn(n, "string") for n in names]),
    )


def _objectives(seen: Observation) -> dg.MetadataValue:
    names = ("objective", "asked", "status", "budget_spent", "burn_rate", "said")
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "objective": s.name,
                    "asked": s.objective.asked,
                    "status": s.status,
                    "budget_spent": f"{s.consumed:.0%}",
                    "burn_rate": f"{s.burn_rate:.2f}",
                    "said": s.reason,
                }
            )
            for s in seen.slos
        ],
        schema=dg.TableSchema(columns=[dg.TableColumn(n, "string") for n in names]),
    )


def _pictures(
    spec: ModelSpec,
    seen: Observation,
    before: Sequence[Mapping[str, Any]],
    moves: Sequence[tuple[datetime, str]],
) -> dict[str, Any]:
    metric = spec.gate.primaries[0].of_metric
    windows = [{"start": parse_instant(w["start"]), "columns": w["columns"]} for w in before]
    windows.append({"start": seen.start, "columns": columns_of(seen)})
    drawn = {"drift_map": plot.heat_map(windows)}
    told = [Performance.from_dict(p) for w in before for p in w["performances"]]
    told += [*seen.realised, seen.estimated]
    served = [(parse_instant(w["start"]), w["version"]) for w in before]
    served.append((seen.start, seen.version))
    drawn["performance_over_time"] = plot.timeline(
        [p for p in told if p.metric == metric.name],
        limit=seen.limit,
        bigger_is_better=metric.bigger_is_better,
        # History that is measured afterwards was served by what is live now.
        moves=[m for m in moves if m[0] < seen.end]
        or [(b[0], f"version {b[1]}") for a, b in pairwise(served) if a[1] != b[1]],
    )
    if seen.profile is not None and seen.drift is not None:
        columns = list(seen.drift.columns.values())[:_PANELS]
        drawn["distributions"] = plot.overlays(
            seen.against,
            seen.profile,
            [c.name for c in columns],
            reasons={c.name: c.reason for c in columns},
        )
    return {
        name: dg.MetadataValue.md(
            f"![{name}](data:image/png;base64,{base64.b64encode(picture).decode()})"
        )
        for name, picture in drawn.items()
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
