"""One value of one metric on one window, with its interval and what it rests on."""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from math import isfinite
from typing import Any, Literal, get_args

from mlct.data.digest import canonical
from mlct.data.window import as_utc
from mlct.errors import DataError

FORMAT = "mlct.performance/v1"

Kind = Literal["realised", "estimated", "unknown"]
LEAST_ROWS = 20
"""Below so many rows a window's answer is "insufficient"."""

_TIMES = ("start", "end", "until")
_NUMBERS = ("value", "lower", "upper", "standard_error", "freedom", "confidence")
_COUNTS = ("rows", "labelled", "clusters")


@dataclass(frozen=True, kw_only=True, slots=True)
class Performance:
    """A metric on the half-open window `[start, end)`.

    `lower` and `upper` are one-sided bounds, each at `confidence`; None where there is no interval.
    `value` is None when the kind is unknown, `until` then the instant at which it will be known, if
    there is one. `rows` have a usable score, `labelled` of them a label; `clusters` is None for
    independent rows. `freedom` are the degrees of freedom of `standard_error`, None for many.
    `assumption` is what an estimate stands and falls with. `key` names the content that the value
    was computed from: an equal key means an equal value.
    """

    kind: Kind
    metric: str
    reason: str
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    standard_error: float | None = None
    freedom: float | None = None
    confidence: float | None = None
    rows: int = 0
    labelled: int = 0
    clusters: int | None = None
    start: datetime | None = None
    end: datetime | None = None
    until: datetime | None = None
    method: str = ""
    assumption: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            number = getattr(self, name)
            if number is not None:
                kept = float(number) if isfinite(number) else None
                object.__setattr__(self, name, kept)
        for name in _TIMES:
            instant = getattr(self, name)
            if instant is not None:
                object.__setattr__(self, name, as_utc(instant))
        if self.kind not in get_args(Kind):
            raise DataError(
                f"a performance of kind {self.kind!r}", expected=f"one of {get_args(Kind)}"
            )
        if (self.value is None) != (self.kind == "unknown"):
            raise DataError(
                f"{self.metric} is {self.kind} with value {self.value}",
                expected="a finite value, or kind 'unknown' without one",
            )

    @property
    def labelled_share(self) -> float | None:
        """Share of the rows that have a label; None without rows."""
        return self.labelled / self.rows if self.rows else None

    def to_json(self) -> str:
        """Canonical JSON, with the format's name and version."""
        return canonical(self.to_dict()).decode()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with the format's name and version."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in _TIMES:
            content[name] = content[name] and content[name].isoformat()
        return {"format": FORMAT, **content}

    @classmethod
    def from_json(cls, text: str | bytes) -> "Performance":
        """Read `to_json` back. Raises DataError."""
        try:
            content = json.loads(text)
        except (ValueError, TypeError) as error:
            raise DataError(f"{text!r:.80} is not JSON", expected=FORMAT) from error
        return cls.from_dict(content)

    @classmethod
    def from_dict(cls, content: Any) -> "Performance":
        """Read `to_dict` back. Raises DataError."""
        content = dict(content) if isinstance(content, dict) else content
        found = content.pop("format", None) if isinstance(content, dict) else None
        if found != FORMAT:
            raise DataError(
                f"a performance of format {found!r}",
                expected=FORMAT,
                fix="Read it with the version of mlct that wrote it",
            )
        names = {field.name for field in fields(cls)}
        if content.keys() != names:
            raise DataError(
                f"a performance with the fields {sorted(content.keys() ^ names)} too many or few",
                expected=f"those of {FORMAT}",
            )
        checks: dict[str, Callable[[Any], bool]] = dict.fromkeys(_NUMBERS, _number)
        checks |= dict.fromkeys(_COUNTS, _count)
        for name, value in content.items():
            optional = name in _NUMBERS or name in (*_TIMES, "clusters")
            if not (optional and value is None) and not checks.get(name, _text)(value):
                raise DataError(f"a performance whose {name} is {value!r}", expected=FORMAT)
        try:
            times = {n: content[n] and datetime.fromisoformat(content[n]) for n in _TIMES}
        except ValueError as error:
            raise DataError(
                f"a performance with the times {content}", expected="ISO 8601"
            ) from error
        return cls(**(content | times))


def unknown(metric: str, reason: str, **fields: Any) -> Performance:
    """A performance that nobody knows, and why."""
    return Performance(kind="unknown", metric=metric, reason=reason, **fields)


def without_interval(found: Performance, reason: str) -> Performance:
    """The value alone, and why its error is not known."""
    nothing: dict[str, Any] = dict.fromkeys(("lower", "upper", "standard_error", "freedom"))
    told = f"{found.reason}; {reason}" if found.reason else reason
    return replace(found, **nothing, reason=told)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _text(value: Any) -> bool:
    return isinstance(value, str)
