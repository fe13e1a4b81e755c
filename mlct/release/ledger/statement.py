"""A statement, the row that keeps it, and what makes that row right."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlct.data.digest import digest, sha256

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://mlct.dev/{kind}/v1"
#: The kinds that move a slot.
MOVES = ("promotion", "rollback")
KINDS = (
    "contract",
    "training",
    "evaluation",
    "gate",
    "shadow",
    "approval",
    "promotion",
    "rollback",
    "quarantine",
    "drill",
    "incident",
    "reconcile",
    "policy",
)
CHANGED = "does not hash to its recorded hash: it was changed"
#: What the first row continues.
ORIGIN = "0" * 64


def now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


def instant(at: datetime) -> str:
    """ISO 8601 UTC text with microseconds: sorts as it reads."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def statement(
    kind: str, subjects: Mapping[str, str], predicate: Mapping[str, Any]
) -> dict[str, Any]:
    """An in-toto Statement v1 about digests. `predicate` names its `model`."""
    return {
        "_type": STATEMENT,
        "subject": [{"name": n, "digest": {"sha256": d}} for n, d in sorted(subjects.items())],
        "predicateType": PREDICATE.format(kind=kind),
        "predicate": dict(predicate),
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One row of the ledger. `slot` and `supersedes` are set on statements that move a slot."""

    sequence: int
    recorded_at: str
    actor: str
    kind: str
    model: str
    slot: str | None
    supersedes: int | None
    body: bytes
    signature: str | None
    previous_hash: str
    hash: str

    @property
    def statement(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed

    @property
    def predicate(self) -> dict[str, Any]:
        content: dict[str, Any] = self.statement["predicate"]
        return content

    def expected_hash(self) -> str:
        """The hash that this row's contents should have."""
        return digest(
            {
                "sequence": self.sequence,
                "recorded_at": self.recorded_at,
                "actor": self.actor,
                "slot": self.slot,
                "supersedes": self.supersedes,
                "body": sha256(self.body),
                "signature": self.signature,
                "previous_hash": self.previous_hash,
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: the statement and its envelope."""
        return {
            "sequence": self.sequence,
            "recorded_at": self.recorded_at,
            "actor": self.actor,
            "slot": self.slot,
            "supersedes": self.supersedes,
            "signature": self.signature,
            "previous_hash": self.previous_hash,
            "hash": self.hash,
            "statement": self.statement,
        }


def filed(content: Any) -> tuple[str, str, set[str]]:
    """Kind, model and subject digests of a statement. Raises ValueError if it is none."""
    try:
        kind = content["predicateType"].split("/")[-2]
        model = content["predicate"]["model"]
        digests = {s["digest"]["sha256"] for s in content["subject"]}
        form = (content["_type"], content["predicateType"])
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"lacks a part: {error}") from error
    if kind not in KINDS or form != (STATEMENT, PREDICATE.format(kind=kind)):
        raise ValueError(f"says that it is {form[1]!r}")
    if not all(isinstance(text, str) for text in (model, *digests)):
        raise ValueError("names its model or a subject by something else than text")
    return kind, model, digests


def checked(record: Record, position: int, previous: str, head: int) -> set[str]:
    """Subject digests of a row that stands where it should. Raises ValueError."""
    if record.sequence != position:
        raise ValueError(f"stands where {position} should: rows are missing")
    if record.previous_hash != previous:
        raise ValueError("does not continue the row before it")
    if record.hash != record.expected_hash():
        raise ValueError(CHANGED)
    kind, model, digests = filed(json.loads(record.body))
    if (kind, model) != (record.kind, record.model):
        raise ValueError(f"is filed as {record.kind} of {record.model} but is {kind} of {model}")
    if record.slot is not None and record.supersedes != head:
        raise ValueError(f"supersedes {record.supersedes}, but {record.slot} stood at {head}")
    return digests
