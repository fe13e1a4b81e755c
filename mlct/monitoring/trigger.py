"""When to retrain: breached windows, the champion's age, cool-down and budget."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from mlct.data.window import duration
from mlct.errors import SpecError


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrainPolicy:
    """Retrain when `breaches` of the last `of` windows breached and the newest one did.

    A window breaches when any feature's population stability index exceeds `max_psi`. `max_age`
    retrains whatever the signals say, counted from the end of the champion's training data.
    `cooldown` and `budget` ("4/30d": four in thirty days) hold back what the sensor asks for;
    `schedule` is a cron line that they do not touch.
    """

    schedule: str | None = None
    max_psi: float = 0.25
    breaches: int = 1
    of: int = 1
    cooldown: str = "1d"
    budget: str = "4/30d"
    max_age: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.max_psi, int | float) or not self.max_psi > 0:
            raise SpecError(f"RetrainPolicy.max_psi is {self.max_psi!r}", expected="above 0")
        if not (isinstance(self.breaches, int) and isinstance(self.of, int)) or not (
            1 <= self.breaches <= self.of
        ):
            raise SpecError(
                f"RetrainPolicy asks for {self.breaches!r} breaches of {self.of!r} windows",
                expected="whole numbers with 1 <= breaches <= of",
            )
        if self.schedule is not None and not re.fullmatch(
            r"@[a-z]+|\S+(\s+\S+){4}", str(self.schedule)
        ):
            raise SpecError(
                f"RetrainPolicy.schedule is {self.schedule!r}", expected="a cron line, or '@daily'"
            )
        duration(self.cooldown, field="RetrainPolicy.cooldown")
        if self.max_age is not None:
            duration(self.max_age, field="RetrainPolicy.max_age")
        self.allowance()

    def allowance(self) -> tuple[int, timedelta]:
        """The budget as `(retrains, period)`."""
        match = re.fullmatch(r"(\d+)/(\d+[smhdw])", str(self.budget))
        if not match or not int(match[1]) or not int(match[2][:-1]):
            raise SpecError(
                f"RetrainPolicy.budget is {self.budget!r}", expected="a form such as '4/30d'"
            )
        return int(match[1]), duration(match[2], field="RetrainPolicy.budget")


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowResult:
    """What monitoring found in one window; `key` names its content."""

    key: str
    ended_at: datetime
    breached: bool
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TriggerDecision:
    """Whether to retrain. Equal causes have equal `cause`, so that each is asked for once."""

    retrain: bool
    cause: str
    reason: str


def decide_trigger(
    policy: RetrainPolicy,
    windows: Sequence[WindowResult],
    *,
    trained_until: datetime,
    retrained_at: Sequence[datetime],
) -> TriggerDecision:
    """Decide from stored results alone: `windows` oldest first, `retrained_at` the `as_of` of
    earlier triggered retrains.

    Cool-down and budget count in the data's time, up to the end of the newest window: history can
    be replayed, and a restart changes nothing.
    """
    recent = list(windows)[-policy.of :]
    hits = [w for w in recent if w.breached]
    cause = reason = ""
    if recent and recent[-1].breached and len(hits) >= policy.breaches:
        cause, reason = f"drift:{recent[-1].key}", recent[-1].reason
    elif policy.max_age and recent:
        age = recent[-1].ended_at - trained_until
        if age > duration(policy.max_age):
            cause = f"age:{recent[-1].key}"
            reason = f"the champion's training data ended {age.days} days before the newest data"
    if not cause:
        newest = recent[-1].reason if recent else "no window was monitored yet"
        return TriggerDecision(
            retrain=False,
            cause="",
            reason=f"{len(hits)} of the last {policy.of} windows breached "
            f"(retrains at {policy.breaches}): {newest}",
        )
    cooldown = duration(policy.cooldown)
    now, latest = recent[-1].ended_at, max(retrained_at, default=None)
    if latest is not None and now - latest < cooldown:
        until = latest + cooldown
        return TriggerDecision(
            retrain=False,
            cause=cause,
            reason=f"cool-down until {until:%Y-%m-%d %H:%M} UTC: {reason}",
        )
    count, period = policy.allowance()
    spent = sum(now - t < period for t in retrained_at)
    if spent >= count:
        return TriggerDecision(
            retrain=False, cause=cause, reason=f"budget {policy.budget} is spent: {reason}"
        )
    return TriggerDecision(retrain=True, cause=cause, reason=reason)
