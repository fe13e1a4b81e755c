"""A statement, the row that keeps it, and what makes that row right."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from mlct.data.digest import sha256

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
    "refusal",
)
CHANGED = "does not hash to its recorded hash: it was changed"
#: Text as RFC 8785 writes it, quoted.
_text = json.encoder.encode_basestring
#: The clocks of those who write may differ by this.
SKEW = timedelta(minutes=5)
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
        return row_hash(
            self.sequence,
            self.recorded_at,
            self.actor,
            self.slot,
            self.supersedes,
            self.body,
            self.signature,
            self.previous_hash,
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


def row_hash(
    sequence: int,
    recorded_at: str,
    actor: str,
    slot: str | None,
    supersedes: int | None,
    body: bytes,
    signature: str | None,
    previous_hash: str,
) -> str:
    """Hex sha256 of the canonical JSON of a row, with the sha256 of the body in its place.

    Written out, because of text, numbers and null alone the general form costs ten times as much,
    for each row of each audit.
    """
    return sha256(
        f'{{"actor":{_text(actor)},"body":"{sha256(body)}","previous_hash":{_text(previous_hash)},'
        f'"recorded_at":{_text(recorded_at)},"sequence":{sequence},'
        f'"signature":{"null" if signature is None else _text(signature)},'
        f'"slot":{"null" if slot is None else _text(slot)},'
        f'"supersedes":{"null" if supersedes is None else supersedes}}}'.encode()
    )


def checked(row: Sequence[Any], position: int, previous: str, heads: dict[str, int]) -> set[str]:
    """Subject digests of a row, in a record's order, that stands where it should.

    `heads` has the last move of each slot, and is kept up. Raises ValueError.
    """
    sequence, at, actor, kind, model, slot, supersedes, body, signature, before, found = row
    if sequence != position:
        raise ValueError(f"stands where {position} should: rows are missing")
    if before != previous:
        raise ValueError("does not continue the row before it")
    if found != row_hash(sequence, at, actor, slot, supersedes, body, signature, before):
        raise ValueError(CHANGED)
    is_kind, is_model, digests = filed(json.loads(body))
    if kind != is_kind or model != is_model:
        raise ValueError(f"is filed as {kind} of {model} but is {is_kind} of {is_model}")
    if slot is not None:
        if supersedes != (head := heads.get(slot, 0)):
            raise ValueError(f"supersedes {supersedes}, but {slot} stood at {head}")
        heads[slot] = position
    return digests
