"""What the gate decided and why: values to print, store and show."""

from dataclasses import dataclass
from math import floor, isfinite, log10
from typing import Any

from mlct.evaluation.record import plain
from mlct.evaluation.rule import (
    GroupGap,
    Limit,
    NonInferiority,
    Ratio,
    ReplaceWhenStale,
    SliceRegression,
    Superiority,
)

PASS, FAIL, INCONCLUSIVE, NOT_JUDGED = "PASS", "FAIL", "INCONCLUSIVE", "NOT JUDGED"
NOT_NEEDED = "NOT NEEDED"
#: The verdict on a fallback, which no gate compares with anything.
NOT_COMPARED = "NOT COMPARED"
TOLD = 2
_PROMOTING = (Superiority.kind, ReplaceWhenStale.kind)
_GUARDRAILS = tuple(r.kind for r in (NonInferiority, Limit, Ratio, GroupGap, SliceRegression))


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleOutcome:
    """What one rule asked for, what was observed, and the outcome with its sentence.

    `outcome` is PASS, FAIL, INCONCLUSIVE, NOT JUDGED (needs a champion) or NOT NEEDED (another
    primary rule decides). `observed` and `required` are texts for a table; `value`, `lower`,
    `upper` and `bound` their numbers. `needed` is how many rows or clusters would decide, and
    `ready` the day (ISO 8601) on which they will be there, where that can be said.
    """

    name: str
    rule: str
    outcome: str
    observed: str
    required: str
    reason: str
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    bound: float | None = None
    needed: int | None = None
    ready: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GateDecision:
    """The verdict, with one sentence per rule in `reasons`: what stands in the way comes first."""

    verdict: str
    reasons: tuple[str, ...]
    rules: tuple[RuleOutcome, ...]

    @property
    def sentence(self) -> str:
        """The verdict and what decided it, in one line: of many rules the first two in full."""
        if self.verdict != PASS:
            stands = [rule for rule in self.rules if rule.outcome == self.verdict]
            told = [rule.reason for rule in stands[:TOLD]]
            if more := [rule.name for rule in stands[TOLD:]]:
                told.append(f"and {len(more)} more: {', '.join(more)}")
            return f"{self.verdict}: {'; '.join(told)}"
        lead = [rule for rule in self.rules if rule.rule in ("champion", "baseline")]
        won = [r for r in self.rules if r.rule in _PROMOTING and r.outcome == PASS]
        told = [rule.reason for rule in won or lead]
        held = sum(rule.rule in _GUARDRAILS and rule.outcome == PASS for rule in self.rules)
        return f"{PASS}: {'; '.join(told)}" + f"; guardrails held: {held}" * bool(held)

    def to_dict(self) -> dict[str, Any]:
        """The decision as plain JSON values; numbers that are not finite become null."""
        values: dict[str, Any] = plain(self)
        return {"format": "mlct.gate_decision/v1"} | values

    def to_markdown(self) -> str:
        """The verdict's sentence, then a table of the rules."""
        lines = [
            self.sentence,
            "",
            "| rule | on | observed | required | outcome |",
            "| --- | --- | --- | --- | --- |",
            *(
                f"| {r.rule} | {r.name} | {r.observed} | {r.required} | {r.outcome} |"
                for r in self.rules
            ),
        ]
        return "\n".join(lines) + "\n"


def finite(*values: float) -> bool:
    return all(isfinite(value) for value in values)


def percent(confidence: float) -> str:
    """A confidence for readers: `95 %`, `99.39 %`, never rounded to 100 %."""
    digits = max(4, 1 - floor(log10(max(1 - confidence, 1e-12))))
    return f"{confidence * 100:.{digits}g} %"


def number(value: float) -> str:
    """A value for readers."""
    if not isfinite(value):
        return "unknown"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def signed(value: float) -> str:
    """A difference for readers: it always has a sign."""
    return f"{value:+,.0f}" if abs(value) >= 1000 else f"{value:+.3g}"
