"""The state of objectives at a time, from windows that were measured: what fires, and why."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Literal

from mlct.errors import DataError
from mlct.monitoring.slo.objective import OPERATORS, Objective
from mlct.monitoring.slo.rule import Rule, compiled, told
from mlct.monitoring.slo.slice import Slice, SloWindow, slice_length, slices
from mlct.monitoring.slo.sustained import FIRES, cusum, of_counts, of_value

Status = Literal["ok", "breached", "insufficient"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleState:
    """Whether a rule fires, with its numbers: burn rates over the long and the short window and the
    bad slices in the long one; k of n for a sustained breach; the sum of a CUSUM."""

    rule: Rule
    fires: bool
    long_burn: float = 0.0
    short_burn: float = 0.0
    bad: int = 0
    sum: float = 0.0
    silent: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class SloState:
    """An objective at `at`: its verdict and reason in words, and its numbers.

    `status` is "breached" where a rule fires, "insufficient" where the newest window could not be
    judged or nothing was measured yet, else "ok". `pages` only for product behaviour that a rule of
    severity page finds threatened by what was measured: silence alone breaches, but pages nobody.
    `consumed` is the spent share of the period's budget (above 1: overspent), `remaining` the rest
    (negative then), `burn_rate` the period's (1 spends just the budget). `value`, `lower`, `upper`
    are the newest window's, `limit` what it is held against. `missing` counts silent slices of the
    period beyond the two that may be late.
    """

    objective: Objective
    at: datetime
    status: Status
    reason: str
    pages: bool
    rules: tuple[RuleState, ...] = ()
    consumed: float = 0.0
    burn_rate: float = 0.0
    bad: float = 0.0
    total: float = 0.0
    missing: int = 0
    samples: float = 0.0
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    cusum: float = 0.0
    newest: datetime | None = None
    verdict: str = ""

    @property
    def name(self) -> str:
        return self.objective.name

    @property
    def limit(self) -> float | None:
        return self.objective.limit

    @property
    def breached(self) -> bool:
        return self.status == "breached"

    @property
    def remaining(self) -> float:
        return 1 - self.consumed

    @property
    def severity(self) -> str:
        """ "page", "ticket", or "" where nothing fires."""
        firing = {r.rule.severity for r in self.rules if r.fires}
        return "page" if "page" in firing else "ticket" if firing else ""


def slo_states(
    objectives: Sequence[Objective],
    windows_by_indicator: Mapping[str, Sequence[SloWindow]],
    at: datetime,
) -> list[SloState]:
    """The state of every objective at `at` (aware), in their order.

    Windows that end later are not seen. An indicator without windows is "insufficient", never ok.
    Windows that cannot be used (they overlap, or are longer than a slice) make the state of that
    objective "insufficient", with the reason; the others keep theirs.
    """
    if at.tzinfo is None:
        raise DataError(f"at is {at}", expected="a time with a zone")
    return [_state(o, windows_by_indicator.get(o.indicator, ()), at) for o in objectives]


def _state(objective: Objective, windows: Sequence[SloWindow], at: datetime) -> SloState:
    def insufficient(why: str) -> SloState:
        return SloState(
            objective=objective,
            at=at,
            status="insufficient",
            reason=f"{objective.name}: insufficient data: {why}",
            pages=False,
        )

    try:
        series = slices(objective, windows, at)
    except DataError as error:
        return insufficient(str(error))
    if not series:
        return insufficient("nothing was measured yet")
    length = slice_length(objective, windows)
    lines = _Lines(objective, series)
    rules = tuple(_fires(lines, r, at) for r in compiled(objective, length) if not r.out)
    start, end = objective.period.bounds(at)
    bad, total = lines.sums(start, at)
    # Slices are counted against the whole period: its first bad day is not all of its budget.
    whole = total
    if objective.method != "Occurrences" and length is not None:
        whole = max(total, (end - start) / length)
    firing = [r for r in rules if r.fires]
    newest = next(s for s in reversed(series) if s.verdict not in ("late", "missing"))
    silent = _trailing(series)
    judged = newest.verdict != "insufficient" and not silent
    status: Status = "breached" if firing else "ok" if judged else "insufficient"
    state = SloState(
        objective=objective,
        at=at,
        status=status,
        reason="",
        pages=objective.product and any(r.rule.severity == "page" and not r.silent for r in firing),
        rules=rules,
        consumed=bad / (whole * objective.budget) if whole else 0.0,
        burn_rate=bad / (total * objective.budget) if total else 0.0,
        bad=bad,
        total=total,
        missing=sum(s.verdict == "missing" and start < s.end <= at for s in series),
        samples=newest.samples,
        value=newest.value,
        lower=newest.lower,
        upper=newest.upper,
        cusum=max((r.sum for r in rules), default=0.0),
        newest=newest.end,
        verdict=newest.verdict,
    )
    object.__setattr__(state, "reason", _reason(state, firing, silent, length, newest))
    return state


def _trailing(series: Sequence[Slice]) -> int:
    """How many slices the silence at the end has lasted, 0 while they may only be late."""
    count = 0
    for one in reversed(series):
        if one.verdict not in ("late", "missing"):
            break
        count += 1
    return count if series[-1].verdict == "missing" else 0


class _Lines:
    """Sums over any stretch of the slices, by their ends."""

    def __init__(self, objective: Objective, series: Sequence[Slice]) -> None:
        self.objective, self.series = objective, series
        self.ends = [s.end for s in series]
        columns = (
            [s.bad for s in series],
            [s.weight for s in series],
            [float(s.short) for s in series],
            [s.samples for s in series],
            [float(s.short and s.verdict != "missing") for s in series],
        )
        self.totals = [list(accumulate(c, initial=0.0)) for c in columns]

    def stretch(self, since: datetime, until: datetime) -> list[float]:
        """bad, weight, short slices, samples, short slices that were measured in (since, until]."""
        low, high = bisect_right(self.ends, since), bisect_right(self.ends, until)
        return [t[high] - t[low] for t in self.totals]

    def sums(self, since: datetime, until: datetime) -> tuple[float, float]:
        bad, weight, *_ = self.stretch(since, until)
        return bad, weight

    def burn(self, length: timedelta, until: datetime) -> float:
        bad, weight = self.sums(until - length, until)
        return bad / weight / self.objective.budget if weight > 0 else 0.0


def _fires(lines: _Lines, rule: Rule, at: datetime) -> RuleState:
    if rule.kind == "sustained":
        return _sustained(lines, rule)
    if rule.kind == "cusum":
        total = [0.0, *cusum(_evidence(lines.objective, lines.series, rule))][-1]
        return RuleState(rule=rule, fires=total > FIRES, sum=total)
    assert rule.long is not None
    short = lines.burn(rule.short, at) if rule.short else lines.burn(rule.long, at)
    _, _, bad, samples, measured = lines.stretch(at - rule.long, at)
    few = lines.objective.method == "Occurrences" and lines.objective.ratio
    enough = not few or measured == 0 or samples >= lines.objective.options.min_samples
    times = [at]
    if rule.after:
        times += [e for e in lines.ends if at - rule.after <= e < at] + [at - rule.after]
    burns = all(lines.burn(rule.long, t) >= rule.burn * (1 - 1e-9) for t in times)
    return RuleState(
        rule=rule,
        fires=burns and short >= rule.burn * (1 - 1e-9) and bad >= rule.floor and enough,
        long_burn=lines.burn(rule.long, at),
        short_burn=short,
        bad=round(bad),
        silent=measured == 0,
    )


def _sustained(lines: _Lines, rule: Rule) -> RuleState:
    says = lines.objective.options.no_data

    def counts(one: Slice) -> bool:
        return one.verdict == "bad" or (one.verdict == "missing" and says == "bad")

    held = [s for s in lines.series if s.verdict != "late"]
    if says == "ignore":
        held = [s for s in held if s.verdict != "missing"]
    recent = held[-rule.n :]
    hits = [s for s in recent if counts(s)]
    return RuleState(
        rule=rule,
        fires=len(hits) >= rule.k and hits[-1] is recent[-1],
        bad=len(hits),
        silent=all(s.verdict == "missing" for s in hits),
    )


def _evidence(objective: Objective, series: Sequence[Slice], rule: Rule) -> list[float]:
    allowed, found = 1 - (objective.limit or 0), list[float]()
    counted = objective.ratio or objective.value is None
    for one in series:
        if one.verdict in ("late", "missing"):
            continue
        if counted and one.value is not None and rule.shift is not None:
            bad = (1 - one.value) * one.samples
            found.append(of_counts(bad, one.samples, allowed, rule.shift))
        elif one.beyond is not None and one.error > 0:
            found.append(of_value(one.beyond, one.error, rule.shift))
    return found


def _reason(
    state: SloState,
    firing: Sequence[RuleState],
    silent: int,
    length: timedelta | None,
    newest: Slice,
) -> str:
    objective = state.objective
    unit, first = _unit(length), next(iter(firing), None)
    if silent:
        text = f"no data for {silent} {unit} since {newest.end:%Y-%m-%d %H:%M} UTC"
    elif first is not None:
        text = _because(objective, first, unit)
    elif state.status == "insufficient":
        wanted = objective.options.min_samples
        text = f"insufficient data: {newest.samples:.0f} samples in the newest, {wanted} wanted"
    else:
        value = "" if newest.value is None else f", newest {_value(objective, newest.value)}"
        kept = (
            "holds" if newest.verdict == "good" else "the newest window misses, no rule fires yet"
        )
        text = f"{kept} ({objective.asked}{value})"
    budget = f"{objective.period.words} budget"
    if state.consumed > 1:
        left = f"the {budget} is overspent ({state.consumed:.0%} of it)".replace("%", " %")
    else:
        left = f"{100 * state.remaining:.0f} % of the {budget} left"
    return f"{state.name}: {text}; {left}"


def _because(objective: Objective, fired: RuleState, unit: str) -> str:
    rule = fired.rule
    miss = _missed(objective)
    if rule.kind == "sustained":
        bad = f"{fired.bad} of the last {rule.n} {unit} {miss}, the newest too"
        return f"{bad} (rule {rule.k} of {rule.n})"
    if rule.kind == "cusum":
        return f"evidence of {fired.sum:.1f} has gathered that it is {miss} (fires above {FIRES:g})"
    assert rule.long is not None
    also = f" and {fired.short_burn:.1f}x over {told(rule.short)}" if rule.short else ""
    return (
        f"burns its budget {fired.long_burn:.1f}x too fast over {told(rule.long)}{also} "
        f"(fires at {rule.burn:.4g}x; {fired.bad} {unit} bad)"
    )


def _missed(objective: Objective) -> str:
    if objective.ratio or objective.value is None:
        return f"below {_value(objective, objective.limit or 0)} good"
    word = "below" if objective.op in ("gte", "gt") else "above"
    equal = "" if OPERATORS[objective.op].endswith("=") else "or at "
    return f"{word} {equal}{objective.value:g}".replace("above or at", "not below").replace(
        "below or at", "not above"
    )


def _value(objective: Objective, value: float) -> str:
    if objective.ratio or objective.value is None:
        return f"{100 * value:.4g} %"
    return f"{value:.4g}"


_UNITS = {60: "hours", 1440: "days", 10080: "weeks"}


def _unit(length: timedelta | None) -> str:
    minutes = 0 if length is None else round(length / timedelta(minutes=1))
    if minutes in _UNITS:
        return _UNITS[minutes]
    if 28 * 1440 <= minutes <= 31 * 1440:
        return "months" if minutes != 28 * 1440 else "windows"
    return "windows" if length is None else f"slices of {told(length)}"
