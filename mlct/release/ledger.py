"""The ledger: append-only, hash-chained in-toto statements in SQLite.

Each row keeps the exact canonical bytes of one statement. Its hash covers the row before it, so
editing any stored row breaks every later one. Slot moves carry the sequence that they supersede,
and `UNIQUE (slot, supersedes)` lets one successor in: two promotions cannot both win.
"""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlct.data.digest import canonical, digest, sha256
from mlct.errors import ContractNotPassed, LedgerError, LedgerTampered, SlotMoved

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://mlct.dev/{kind}/v1"
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
_ORIGIN = "0" * 64
_SCHEMA = """
CREATE TABLE IF NOT EXISTS statements (
    sequence INTEGER PRIMARY KEY,
    recorded_at TEXT NOT NULL,
    actor TEXT NOT NULL,
    kind TEXT NOT NULL,
    model TEXT NOT NULL,
    slot TEXT,
    supersedes INTEGER,
    body BLOB NOT NULL,
    signature TEXT,
    previous_hash TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    UNIQUE (slot, supersedes),
    CHECK ((slot IS NULL) = (supersedes IS NULL))
) STRICT;
CREATE TABLE IF NOT EXISTS subjects (
    digest TEXT NOT NULL,
    sequence INTEGER NOT NULL REFERENCES statements,
    PRIMARY KEY (digest, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_slot ON statements (slot, sequence);
CREATE INDEX IF NOT EXISTS by_model ON statements (model, kind, sequence);
CREATE TRIGGER IF NOT EXISTS never_updated BEFORE UPDATE ON statements
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS never_deleted BEFORE DELETE ON statements
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS in_order BEFORE INSERT ON statements
    WHEN NEW.sequence IS NOT (SELECT coalesce(max(sequence), 0) + 1 FROM statements)
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: not the next sequence'); END;
CREATE TRIGGER IF NOT EXISTS subjects_never_updated BEFORE UPDATE ON subjects
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS subjects_never_deleted BEFORE DELETE ON subjects
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
PRAGMA user_version = 1;
"""


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


_FIELDS = ", ".join(Record.__dataclass_fields__)


class Ledger:
    """The append-only table. One file, safe for many processes and threads."""

    def __init__(self, path: str | Path, *, clock: Callable[[], datetime] = now) -> None:
        self.path, self.clock = Path(path), clock
        self._local = threading.local()

    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._local, "connection"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                if not connection.execute("PRAGMA user_version").fetchone()[0]:
                    connection.execute("PRAGMA journal_mode = WAL")
                    connection.executescript("BEGIN IMMEDIATE;" + _SCHEMA + "COMMIT;")
            except sqlite3.DatabaseError as error:
                raise LedgerError(
                    f"{self.path} cannot be opened: {error}",
                    expected="a ledger written by mlct",
                    fix="Restore it from a backup, or point MLCT_HOME elsewhere",
                ) from error
            self._local.connection, self._local.depth = connection, 0
        found: sqlite3.Connection = self._local.connection
        return found

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the write lock: what is read inside is still true when it is appended to."""
        connection = self._connection()
        if self._local.depth:
            yield
            return
        connection.execute("BEGIN IMMEDIATE")
        self._local.depth = 1
        try:
            yield
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        else:
            connection.execute("COMMIT")
        finally:
            self._local.depth = 0

    def append(
        self,
        content: Mapping[str, Any],
        *,
        actor: str,
        slot: str | None = None,
        supersedes: int | None = None,
        signature: str | None = None,
        body: bytes | None = None,
    ) -> Record:
        """Append one statement, durably, and return its record.

        `slot` with `supersedes` (the sequence of the slot's last move, 0 for none) moves a slot and
        raises SlotMoved if somebody else moved it first. `body` gives the exact bytes that
        `signature` is over.
        """
        kind = str(content["predicateType"]).split("/")[-2]
        if kind not in KINDS:
            raise LedgerError(f"a statement of kind {kind!r}", expected=", ".join(KINDS))
        with self.transaction():
            if slot is not None and (head := self._head_sequence(slot)) != supersedes:
                raise SlotMoved(
                    f"slot {slot} was last moved by statement {head}",
                    expected=f"statement {supersedes}",
                    fix="Look at `mlct history`, evaluate against what is live now, approve again",
                    slot=slot,
                    head=head,
                )
            last = self.records(limit=1)
            draft = Record(
                sequence=last[0].sequence + 1 if last else 1,
                recorded_at=instant(self.clock()),
                actor=actor,
                kind=kind,
                model=str(content["predicate"]["model"]),
                slot=slot,
                supersedes=supersedes,
                body=body if body is not None else canonical(content),
                signature=signature,
                previous_hash=last[0].hash if last else _ORIGIN,
                hash="",
            )
            values = {n: getattr(draft, n) for n in Record.__dataclass_fields__}
            record = Record(**(values | {"hash": draft.expected_hash()}))
            marks = ", ".join("?" * len(Record.__dataclass_fields__))
            connection = self._connection()
            connection.execute(
                f"INSERT INTO statements ({_FIELDS}) VALUES ({marks})",
                [getattr(record, n) for n in Record.__dataclass_fields__],
            )
            connection.executemany(
                "INSERT INTO subjects VALUES (?, ?)",
                {(s["digest"]["sha256"], record.sequence) for s in content["subject"]},
            )
        return record

    def _head_sequence(self, slot: str) -> int:
        head = self.head(slot)
        return head.sequence if head else 0

    def head(self, slot: str) -> Record | None:
        """The statement that last moved a slot: what is live. One indexed query."""
        found = self.records(slot=slot, limit=1)
        return found[0] if found else None

    def records(
        self,
        *,
        kind: str | Sequence[str] | None = None,
        model: str | None = None,
        slot: str | None = None,
        subject: str | None = None,
        limit: int | None = None,
    ) -> list[Record]:
        """Matching records, newest first."""
        clauses, values = ["1"], list[Any]()
        if kind is not None:
            kinds = [kind] if isinstance(kind, str) else list(kind)
            clauses.append(f"kind IN ({', '.join('?' * len(kinds))})")
            values += kinds
        if model is not None:
            clauses.append("model = ?")
            values.append(model)
        if slot is not None:
            clauses.append("slot = ?")
            values.append(slot)
        if subject is not None:
            clauses.append("sequence IN (SELECT sequence FROM subjects WHERE digest = ?)")
            values.append(subject)
        rows = self._connection().execute(
            f"SELECT {_FIELDS} FROM statements WHERE {' AND '.join(clauses)} "
            f"ORDER BY sequence DESC LIMIT {-1 if limit is None else int(limit)}",
            values,
        )
        return [Record(**dict(zip(Record.__dataclass_fields__, row, strict=True))) for row in rows]

    def models(self) -> list[str]:
        """Names of all models that the ledger speaks of."""
        query = "SELECT DISTINCT model FROM statements ORDER BY model"
        return [row[0] for row in self._connection().execute(query)]

    def verify(self) -> int:
        """Check every row against the chain; returns how many there are.

        Raises LedgerTampered naming the first bad row. A chain rewritten from some row to its end,
        or cut short, needs a checkpoint kept elsewhere to be seen.
        """
        previous, count = _ORIGIN, 0
        connection = self._connection()
        rows = connection.execute(f"SELECT {_FIELDS} FROM statements ORDER BY sequence")
        for row in rows:
            record = Record(**dict(zip(Record.__dataclass_fields__, row, strict=True)))
            count += 1
            problem = _problem(record, count, previous)
            if problem:
                raise LedgerTampered(
                    f"statement {record.sequence} of {self.path} {problem}",
                    expected="the row as it was written",
                    fix="Trust nothing from this row on: restore the ledger from a backup and "
                    "find out who can write to it",
                    sequence=record.sequence,
                )
            previous = record.hash
        stray = connection.execute(
            "SELECT min(sequence) FROM statements s WHERE (SELECT count(*) FROM subjects x "
            "WHERE x.sequence = s.sequence) IS NOT (SELECT count(DISTINCT "
            "json_extract(j.value, '$.digest.sha256')) FROM json_each(CAST(s.body AS TEXT), "
            "'$.subject') j)"
        ).fetchone()[0]
        if stray is not None:
            raise LedgerTampered(
                f"the subject index of statement {stray} of {self.path} was changed",
                expected="the digests that the statement names",
                fix="Restore the ledger from a backup and find out who can write to it",
                sequence=stray,
            )
        return count


def _problem(record: Record, position: int, previous: str) -> str:
    if record.sequence != position:
        return f"stands where {position} should: rows are missing"
    if record.previous_hash != previous:
        return "does not continue the row before it"
    if record.hash != record.expected_hash():
        return "does not hash to its recorded hash: it was changed"
    content = record.statement
    if content["predicateType"] != PREDICATE.format(kind=record.kind):
        return f"is filed as {record.kind!r} but says {content['predicateType']!r}"
    if content["predicate"].get("model") != record.model:
        return f"is filed under {record.model!r} but speaks of another model"
    return ""


def require_contract(ledger: Ledger, *, training_set: str, contract: str) -> Record:
    """The passing verdict of a contract on a training set, by digest. Raises ContractNotPassed.

    Asked wherever the data is about to be used: a check in the UI can be deselected, re-run alone
    or belong to another run.
    """
    verdicts = [
        r
        for r in ledger.records(kind="contract", subject=training_set)
        if r.predicate["contract"] == contract
    ]
    if verdicts and verdicts[0].predicate["passed"]:
        return verdicts[0]
    broken = verdicts[0].predicate["violations"] if verdicts else []
    found = (
        "; ".join(f"{v['column']}: {v['rule']} saw {v['observed']}" for v in broken[:5])
        if verdicts
        else "no verdict of the contract as it stands now"
    )
    raise ContractNotPassed(
        f"training set {training_set[:12]} has {found}",
        expected=f"a passing verdict of contract {contract[:12]} in the ledger",
        fix="Repair the data at its source and materialise training_set again"
        if verdicts
        else "Materialise training_set, whose check records one",
        training_set=training_set,
        violations=broken,
    )
