"""What an objective compiles to: the rules that may fire, those left out, and why.

Burn-rate windows come from Google's SRE Workbook (ch. 5, table 5-8; the 1d/2h pair from Sloth): a
long window and one of a twelfth of it must both burn too fast. On loose or sparse objectives such
windows can never fire, or fire on one bad slice; `compiled` sees to neither.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from typing import Any

from mlct.errors import SpecError
from mlct.monitoring.slo.budget import burn_of
from mlct.monitoring.slo.objective import Condition, Objective

#: (severity, share of the budget, long, short), the fastest first.
WINDOWS = (
    ("page", 0.02, timedelta(hours=1), timedelta(minutes=5)),
    ("page", 0.05, timedelta(hours=6), timedelta(minutes=30)),
    ("ticket", 0.10, timedelta(days=1), timedelta(hours=2)),
    ("ticket", 0.10, timedelta(days=3), timedelta(hours=6)),
)
#: A rule that needs more than this share of a window to be bad misses half of all incidents.
MOST_BAD = 0.5
SUSTAINED = (3, 4)
SHIFT = 0.03


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One way to fire; `out` says why a rule is left out, "" where it counts.

    kind burn: the burn rate over `long` and over `short` reaches `burn`, with at least `floor` bad
    slices in `long`; where `after` is set, for so long. kind sustained: `k` of the last `n` slices
    are bad, the newest too. kind cusum: evidence of a `shift` beyond the objective has gathered.
    """

    kind: str
    name: str
    severity: str
    long: timedelta | None = None
    short: timedelta | None = None
    after: timedelta | None = None
    burn: float = 0.0
    floor: int = 0
    k: int = 0
    n: int = 0
    shift: float | None = None
    note: str = ""
    out: str = ""


def compiled(objective: Objective, length: timedelta | None) -> tuple[Rule, ...]:
    """The rules of an objective whose slices are `length` long (None: not known yet).

    Burn windows of the file replace the workbook's. Raises SpecError where one of the file can
    never fire, or holds fewer slices than the floor.
    """
    options = objective.options
    if objective.conditions is None:
        burns = [_window(objective, length, *w) for w in WINDOWS]
    else:
        burns = [_declared(objective, length, c) for c in objective.conditions]
    pages = any(not rule.out and rule.severity == "page" for rule in burns)
    rules = [*burns]
    k, n = options.sustained or SUSTAINED
    if options.sustained or not pages or length is None:
        note = "" if options.sustained else "as no burn window pages"
        if length is None and not options.sustained:
            note = "where the windows are too long for burn rates"
        rules.append(
            Rule(kind="sustained", name=f"{k} of {n}", severity="page", k=k, n=n, note=note)
        )
    rules.append(_cusum(objective))
    return tuple(rules)


def _window(
    objective: Objective,
    length: timedelta | None,
    severity: str,
    share: float,
    long: timedelta,
    short: timedelta,
) -> Rule:
    period = objective.period.span.length
    burn, most = burn_of(share, long, period), MOST_BAD / objective.budget
    out, notes = "", list[str]()
    if length is not None and short < 2 * length:
        if 2 * length > long / 4:
            out = f"{told(short)} holds fewer than two slices of {told(length)}"
        else:
            short = 2 * length
            notes.append("short window widened to two slices")
    if not out and long > period / 2:
        out = f"{told(long)} is more than half of the period"
    if burn > most:
        lost = burn * objective.budget
        never = "could never fire" if lost > 1 else f"would need {lost:.0%} bad"
        notes.append(f"{burn:.4g}x {never}: capped to {MOST_BAD:.0%} bad")
        burn = most
    elif burn < 1:
        notes.append(f"{burn:.2g}x raised to what the budget allows")
        burn = 1.0
    return Rule(
        kind="burn",
        name=f"{told(long)}/{told(short)}",
        severity=severity,
        long=long,
        short=short,
        burn=burn,
        floor=objective.options.min_bad,
        note=_floored(objective, length, long, burn, notes),
        out=out,
    )


def _declared(objective: Objective, length: timedelta | None, condition: Condition) -> Rule:
    options, long = objective.options, condition.lookback.length
    where = f"alert condition {condition.name!r} of objective {objective.name!r}"
    share = condition.threshold * objective.budget
    if share > 1:
        raise SpecError(
            f"{where} has threshold {condition.threshold:g}, which asks for {share:.0%} bad: it "
            "can never fire",
            expected=f"at most {MOST_BAD / objective.budget:.4g}, half of the window bad",
            fix="Lower the threshold, or leave the policy out and take mlct-default",
            objective=objective.name,
        )
    if length is not None and long < options.min_bad * length:
        raise SpecError(
            f"{where} looks back {condition.lookback}, which holds {max(1, int(long / length))} "
            f"slice(s) of {told(length)}: a bad slice or two set it off",
            expected=f"a lookbackWindow of at least {told(options.min_bad * length)}",
            objective=objective.name,
        )
    notes = [f"needs {share:.0%} bad"] if share > MOST_BAD else []
    return Rule(
        kind="burn",
        name=condition.name,
        severity=condition.severity,
        long=long,
        after=condition.after.length if condition.after else None,
        burn=condition.threshold,
        floor=options.min_bad,
        note=_floored(objective, length, long, condition.threshold, notes),
    )


def _floored(
    objective: Objective, length: timedelta | None, long: timedelta, burn: float, notes: list[str]
) -> str:
    count = 0 if length is None else ceil(burn * objective.budget * (long / length) - 1e-9)
    if length is not None and max(1, count) < (floor := objective.options.min_bad):
        notes = [*notes, f"{max(1, count)} bad would do: floor of {floor}"]
    return "; ".join(notes)


def _cusum(objective: Objective) -> Rule:
    wanted, allowed = objective.options.cusum, 1 - (objective.limit or 0)
    counted = objective.ratio or objective.value is None
    shift, out = objective.options.shift, ""
    if wanted is False:
        out = "turned off by annotation"
    elif wanted is None and not objective.product:
        out = "infrastructure: failures of one moment are not independent"
    elif counted and allowed <= 0:
        out = "no event may be bad: there is nothing to be worse than"
    if counted and shift is None:
        shift = min(SHIFT, max(allowed, 0))
    note = "" if counted else "needs windows with bounds"
    return Rule(kind="cusum", name="cusum", severity="page", shift=shift, note=note, out=out)


def needed(rule: Rule, objective: Objective, length: timedelta | None) -> tuple[int, int] | None:
    """How many of the slices in the long window must be bad, where that is known."""
    if rule.kind == "sustained":
        return rule.k, rule.n
    if rule.kind == "cusum" or length is None or rule.long is None:
        return None
    slices = max(1, int(rule.long / length))
    return max(rule.floor, ceil(rule.burn * objective.budget * slices - 1e-9)), slices


def told(length: timedelta) -> str:
    """`5m`, `1h`, `28d`."""
    minutes = round(length / timedelta(minutes=1))
    for size, unit in ((10080, "w"), (1440, "d"), (60, "h")):
        if minutes >= size and minutes % size == 0 and not (unit == "w" and minutes < 2 * size):
            return f"{minutes // size}{unit}"
    return f"{minutes}m"


def explain(objectives: Sequence[Objective]) -> list[dict[str, Any]]:
    """The compiled rules as plain JSON values, one entry an objective."""
    return [_told(o) for o in objectives]


def _told(objective: Objective) -> dict[str, Any]:
    length = objective.length
    rules = []
    for rule in compiled(objective, length):
        count = needed(rule, objective, length)
        rules.append(
            {
                "rule": rule.name,
                "kind": rule.kind,
                "severity": rule.severity,
                "active": not rule.out,
                "burn": round(rule.burn, 4) or None,
                "long": told(rule.long) if rule.long else None,
                "short": told(rule.short) if rule.short else None,
                "needs": count and list(count),
                "soonest": told(count[0] * length) if count and length else None,
                "fires_when": _words(rule, objective, count),
                "note": rule.out or rule.note,
            }
        )
    return {
        "objective": objective.name,
        "class": "product" if objective.product else "infrastructure",
        "service": objective.service,
        "indicator": objective.indicator,
        "asked": objective.asked,
        "target": objective.target,
        "method": objective.method,
        "slice": told(length) if length else None,
        "period": objective.period.kind,
        "budget": _budget(objective, length),
        "no_data": objective.options.no_data,
        "min_samples": objective.options.min_samples,
        "runbook": objective.options.runbook,
        "rules": rules,
    }


def _words(rule: Rule, objective: Objective, count: tuple[int, int] | None) -> str:
    if rule.kind == "sustained":
        return f"{rule.k} of the last {rule.n} slices bad, the newest too"
    if rule.kind == "cusum":
        by = "by a standard error" if rule.shift is None else f"by {rule.shift:g}"
        return f"evidence gathers that {objective.asked} is missed {by}"
    both = f" and {told(rule.short)}" if rule.short else ""
    assert rule.long is not None
    text = f"burns {rule.burn:.4g}x over {told(rule.long)}{both}"
    if rule.after:
        text += f", for {told(rule.after)}"
    return f"{text}: {count[0]} of {count[1]} slices bad" if count else text


def _budget(objective: Objective, length: timedelta | None) -> str:
    share = f"{100 * objective.budget:.4g} %"
    if objective.method == "Occurrences" or length is None:
        return f"{share} of the events"
    slices = objective.period.span.length / length
    return f"{share}, {objective.budget * slices:.4g} of {slices:.4g} slices of {told(length)}"


def explain_text(told_: Sequence[dict[str, Any]]) -> str:
    """What `explain` gives, as an aligned table for each objective."""
    return "\n\n".join(_table(entry) for entry in told_) or "no SLO is declared"


def _table(entry: dict[str, Any]) -> str:
    head = (
        f"{entry['objective']} ({entry['class']}) of {entry['service']}: {entry['asked']}\n"
        f"  target {100 * entry['target']:g} % over {entry['period']}, {entry['method']}; "
        f"budget {entry['budget']}\n"
        f"  indicator {entry['indicator']}; no data is {entry['no_data']} after 2 windows; below "
        f"{entry['min_samples']} samples: insufficient data"
    )
    rows = [("RULE", "SEVERITY", "FIRES WHEN", "SOONEST", "NOTE")]
    for rule in entry["rules"]:
        when = rule["fires_when"] if rule["active"] else "left out"
        soonest = (rule["soonest"] if rule["active"] else None) or "-"
        rows.append((rule["rule"], rule["severity"], when, soonest, rule["note"]))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    return "\n".join([head, *(f"  {line}" for line in lines)])
