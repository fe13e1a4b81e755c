"""The decision to retrain, from stored results alone."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Any, Literal

from mlct.data.window import duration
from mlct.monitoring.trigger.policy import SIGNALS, RetrainPolicy

FORMAT = "mlct.trigger/v1"
#: A run that fails is asked for again until it was tried so often.
ATTEMPTS = 3
#: So many retrains in a row that the gate refuses are an incident.
REFUSALS = 3
#: From the second refusal on the wait doubles, so many times at most.
DOUBLINGS = 5

_MEASURED = tuple(s for s in SIGNALS if s not in ("age", "data", "code"))


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowResult:
    """What monitoring found in one window by one signal; `key` names its content.

    `columns` are what moved or missed. `refused` says why nobody may learn from its rows.
    """

    key: str
    ended_at: datetime
    breached: bool
    reason: str
    signal: str = "drift"
    columns: tuple[str, ...] = ()
    refused: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A run that was asked for before, and how it stands."""

    cause: str
    state: Literal["open", "failed", "done"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TriggerDecision:
    """Whether to retrain. Equal causes have equal `cause`, so that each is asked for once.

    `signal`, `columns` and `windows` (keys) are what the cause consists of, `attempt` counts the
    runs for it. `incident` says what a person has to look at, empty if nothing, and `problem` of
    which kind that is: "failed" runs, a "refused" window, the "gate".
    """

    retrain: bool
    cause: str
    reason: str
    signal: str = ""
    columns: tuple[str, ...] = ()
    windows: tuple[str, ...] = ()
    attempt: int = 1
    incident: str = ""
    problem: Literal["", "failed", "refused", "gate"] = ""

    @property
    def request(self) -> str:
        """The cause with the number of the attempt, from the second on: what is asked for once."""
        return self.cause if self.attempt == 1 else f"{self.cause}#{self.attempt}"

    def to_dict(self) -> dict[str, Any]:
        """The cause as plain JSON, for a run's tags, the version and the ledger."""
        said = asdict(self)
        del said["retrain"]
        # MLflow keeps tags of some thousand characters.
        said |= {"columns": list(self.columns[:50]), "windows": list(self.windows)}
        return {"format": FORMAT, **said, "reason": self.reason[:500]}


def decide_trigger(
    policy: RetrainPolicy,
    windows: Sequence[WindowResult],
    *,
    trained_until: datetime,
    retrained_at: Sequence[datetime],
    scheduled_at: Sequence[datetime] = (),
    asked: Sequence[Asked] = (),
    refused: int = 0,
    code: tuple[str, str] | None = None,
    learning: Sequence[WindowResult] | None = None,
) -> TriggerDecision:
    """Decide from stored results alone: `windows` of all signals, oldest first; `retrained_at` and
    `scheduled_at` the `as_of` of earlier triggered and scheduled retrains.

    `learning` are the windows, whichever version served them, that a retrain would learn from: by
    default those of `windows` that ended after `trained_until`. While one is refused, nothing is
    asked for. `asked` are the runs of earlier requests, `refused` counts the last triggered
    retrains in a row that did not pass the gate, `code` are the digests of the code that the
    champion was trained with and of the present one. Of two results of one signal and one end, the
    later counts.

    Cool-down, back-off and budget count in the data's time, up to the end of the newest window:
    history can be replayed, and a restart changes nothing. A scheduled retrain counts for the
    cool-down only. From the second refusal on the wait is the cool-down, or the time between
    windows where that is longer, doubled for each refusal; changed code does not wait for that.
    """
    known = list({(w.signal, w.ended_at): w for w in windows}.values())
    if not known:
        return TriggerDecision(retrain=False, cause="", reason=_quiet(policy, known))
    now = max(w.ended_at for w in known)
    trained = [*retrained_at, *scheduled_at]
    causes = list(_causes(policy, known, now, trained_until, trained, code))
    if not causes:
        return TriggerDecision(retrain=False, cause="", reason=_quiet(policy, known))
    tried = [_tried(cause, asked) for cause in causes]
    found = next((t for t in tried if t.retrain), tried[0])
    if not found.retrain:
        return found
    if learning is None:
        learning = [w for w in known if w.ended_at > trained_until]
    if bad := [w for w in learning if w.refused]:
        told = f"refused to learn from the window that ended {_minute(bad[-1].ended_at)}"
        why = f"{told}: {bad[-1].refused}"
        reason = f"{why}; then: {found.reason}"
        return replace(found, retrain=False, reason=reason, incident=why, problem="refused")
    if refused >= REFUSALS:
        told = f"{refused} triggered retrains in a row did not pass the gate"
        found = replace(found, incident=told, problem="gate")
    held = _held(policy, found, known, now, retrained_at, scheduled_at, refused)
    return replace(found, retrain=False, reason=f"{held}: {found.reason}") if held else found


def _causes(
    policy: RetrainPolicy,
    known: Sequence[WindowResult],
    now: datetime,
    trained_until: datetime,
    trained: Sequence[datetime],
    code: tuple[str, str] | None,
) -> Iterator[TriggerDecision]:
    """Every cause that asks for a retrain, the surest first."""

    def cause(signal: str, key: str, reason: str, hits: Sequence[WindowResult]) -> TriggerDecision:
        return TriggerDecision(
            retrain=True,
            cause=f"{signal}:{key}",
            reason=reason,
            signal=signal,
            columns=hits[-1].columns,
            windows=tuple(w.key for w in hits),
        )

    for signal in _MEASURED:
        recent = _recent(policy, known, signal)
        hits = [w for w in recent if w.breached]
        if signal in policy.on and hits and recent[-1].breached and len(hits) >= policy.breaches:
            yield cause(signal, recent[-1].key, recent[-1].reason, hits)
    newest = max(known, key=lambda w: w.ended_at)
    age = now - trained_until
    if "age" in policy.on and policy.max_age and age > duration(policy.max_age):
        told = f"the champion's training data ended {age.days} days before the newest data"
        yield cause("age", newest.key, told, [newest])
    if "data" in policy.on and now > max([trained_until, *trained]):
        told = f"nobody has learned from the window that ended {_minute(now)}"
        yield cause("data", newest.key, told, [newest])
    if "code" in policy.on and code is not None and all(code) and code[0] != code[1]:
        told = f"the code is {code[1][:12]}, the champion was trained with {code[0][:12]}"
        yield cause("code", code[1][:16], told, [newest])


def _recent(
    policy: RetrainPolicy, known: Sequence[WindowResult], signal: str
) -> list[WindowResult]:
    return [w for w in known if w.signal == signal][-policy.of :]


def _tried(found: TriggerDecision, asked: Sequence[Asked]) -> TriggerDecision:
    """The cause with the number of its next attempt, or why there is none."""
    states = [a.state for a in asked if a.cause == found.cause]
    if "open" in states:
        return replace(found, retrain=False, reason=f"its retrain is under way: {found.reason}")
    if "done" in states:
        return replace(found, retrain=False, reason=f"it was retrained for already: {found.reason}")
    if len(states) >= ATTEMPTS:
        why = f"its retrain failed {len(states)} times"
        incident = f"{why} and is not asked for again ({found.cause})"
        return replace(
            found,
            retrain=False,
            reason=f"{why}: {found.reason}",
            attempt=len(states),
            incident=incident,
            problem="failed",
        )
    return replace(found, attempt=len(states) + 1)


def _held(
    policy: RetrainPolicy,
    found: TriggerDecision,
    known: Sequence[WindowResult],
    now: datetime,
    retrained_at: Sequence[datetime],
    scheduled_at: Sequence[datetime],
    refused: int,
) -> str:
    """What holds a cause back, empty if nothing."""
    cooldown = duration(policy.cooldown)
    last = max([*retrained_at, *scheduled_at], default=None)
    if last is not None and now - last < cooldown:
        return f"cool-down until {_minute(last + cooldown)} UTC"
    latest = max(retrained_at, default=None)
    if latest is not None and refused > 1 and found.signal != "code":
        wait = max(cooldown, _between(known)) * 2 ** min(refused - 1, DOUBLINGS)
        if now - latest < wait:
            return (
                f"back-off until {_minute(latest + wait)} UTC, as the gate did not pass the last "
                f"{refused} retrains"
            )
    count, period = policy.allowance()
    if sum(now - t < period for t in retrained_at) >= count:
        return f"budget {policy.budget} is spent"
    return ""


def _between(known: Sequence[WindowResult]) -> timedelta:
    """The usual time between windows; none where there is one window only."""
    ends = sorted({w.ended_at for w in known})
    gaps = [(b - a).total_seconds() for a, b in pairwise(ends)]
    return timedelta(seconds=median(gaps)) if gaps else timedelta(0)


def _quiet(policy: RetrainPolicy, known: Sequence[WindowResult]) -> str:
    """Why nothing asks for a retrain, signal by signal."""
    told = []
    for signal in _MEASURED:
        recent = _recent(policy, known, signal)
        if not recent:
            continue
        hits, newest = sum(w.breached for w in recent), recent[-1].reason
        if signal in policy.on:
            told.append(
                f"{hits} of the last {policy.of} windows breached "
                f"(retrains at {policy.breaches}): {newest}"
            )
        elif recent[-1].breached:
            told.append(f"{signal} only warns (it is not in RetrainPolicy.on): {newest}")
    if told:
        return "; ".join(told)
    if known:
        return f"nothing in RetrainPolicy.on ({', '.join(policy.on)}) breached"
    return (
        f"0 of the last {policy.of} windows breached (retrains at {policy.breaches}): "
        "no window was monitored yet"
    )


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"
