"""The ledger's table in SQLite: what refuses any change to it, and what finds one afterwards."""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from mlct.data.digest import canonical
from mlct.errors import LedgerError, LedgerTampered, SlotMoved
from mlct.release.ledger.statement import (
    CHANGED,
    KINDS,
    MOVES,
    ORIGIN,
    Record,
    checked,
    filed,
    instant,
    now,
)

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
    CHECK ((slot IS NULL) = (supersedes IS NULL)),
    CHECK ((slot IS NOT NULL) = (kind IN ('promotion', 'rollback')))
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
    -- REPLACE deletes what it collides with and fires no delete trigger: nothing may collide.
    WHEN EXISTS (SELECT 1 FROM statements WHERE hash = NEW.hash)
    OR NEW.sequence IS NOT (SELECT coalesce(max(sequence), 0) + 1 FROM statements)
    OR NEW.previous_hash IS NOT coalesce(
        (SELECT hash FROM statements ORDER BY sequence DESC LIMIT 1), printf('%064d', 0))
    OR NEW.slot IS NOT NULL AND NEW.supersedes IS NOT
        (SELECT coalesce(max(sequence), 0) FROM statements WHERE slot = NEW.slot)
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: not the next statement'); END;
CREATE TRIGGER IF NOT EXISTS subjects_in_order BEFORE INSERT ON subjects
    WHEN NEW.sequence IS NOT (SELECT max(sequence) FROM statements)
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: not the last statement'); END;
CREATE TRIGGER IF NOT EXISTS subjects_never_updated BEFORE UPDATE ON subjects
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS subjects_never_deleted BEFORE DELETE ON subjects
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
PRAGMA user_version = 1;
"""
_VERSION = 1
_COLUMNS = tuple(Record.__dataclass_fields__)
_FIELDS = ", ".join(_COLUMNS)


class Ledger:
    """The append-only table. One file, safe for many processes and threads."""

    def __init__(self, path: str | Path, *, clock: Callable[[], datetime] = now) -> None:
        self.path, self.clock = Path(path), clock
        self._local = threading.local()

    def _connection(self) -> sqlite3.Connection:
        # SQLite forbids carrying a connection into a forked process.
        if getattr(self._local, "process", None) != os.getpid():
            with self._reported():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._local.connection = self._open()
            self._local.process, self._local.depth = os.getpid(), 0
        found: sqlite3.Connection = self._local.connection
        return found

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        connection.execute("PRAGMA synchronous = FULL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        foreign = connection.execute(
            "SELECT group_concat(name, ', ') FROM sqlite_master "
            "WHERE tbl_name NOT IN ('statements', 'subjects')"
        ).fetchone()[0]
        if foreign or version not in (0, _VERSION):
            raise LedgerError(
                f"{self.path} is a database of version {version} with {foreign or 'nothing else'}",
                expected=f"a ledger of version {_VERSION}, or no file",
                fix="Point MLCT_HOME elsewhere, or use the version of mlct that wrote it",
            )
        if not version:
            connection.executescript("BEGIN IMMEDIATE;" + _SCHEMA + "COMMIT;")
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            # Refused at once, without waiting, while another process is busy: then a later one.
            with suppress(sqlite3.OperationalError):
                connection.execute("PRAGMA journal_mode = WAL")
        return connection

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(
                f"{self.path} cannot be used: {error}",
                expected="a ledger written by mlct, on a disk with room, writable and not locked",
                fix="If it is locked, see who holds it; if it is damaged, restore it from a "
                "backup; or point MLCT_HOME elsewhere",
            ) from error

    @contextmanager
    def _holding(self, begin: str) -> Iterator[None]:
        connection = self._connection()
        if self._local.depth:
            yield
            return
        with self._reported():
            connection.execute(begin)
        self._local.depth = 1
        try:
            yield
            with self._reported():
                connection.execute("COMMIT")
        finally:
            self._local.depth = 0
            if connection.in_transaction:  # a full disk has rolled back already
                connection.execute("ROLLBACK")

    def transaction(self) -> AbstractContextManager[None]:
        """Hold the write lock: what is read inside is still true when it is appended to."""
        return self._holding("BEGIN IMMEDIATE")

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
        `signature` is over. Raises LedgerError for what could never be verified again.
        """
        try:
            kind, model, digests = filed(content)
            exact = canonical(content)
        except ValueError as error:
            raise LedgerError(
                f"no statement: it {error}", expected=f"a statement of kind {', '.join(KINDS)}"
            ) from error
        if body not in (None, exact):
            raise LedgerError("bytes that are not the statement's", expected="its canonical JSON")
        if (slot is not None) != (kind in MOVES):
            raise LedgerError(
                f"a statement of kind {kind!r} for slot {slot}",
                expected=f"a slot with {' and '.join(MOVES)}, and with nothing else",
            )
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
                model=model,
                slot=slot,
                supersedes=supersedes,
                body=exact,
                signature=signature,
                previous_hash=last[0].hash if last else ORIGIN,
                hash="",
            )
            values = {n: getattr(draft, n) for n in _COLUMNS}
            record = Record(**(values | {"hash": draft.expected_hash()}))
            marks = ", ".join("?" * len(_COLUMNS))
            connection = self._connection()
            with self._reported():
                connection.execute(
                    f"INSERT INTO statements ({_FIELDS}) VALUES ({marks})",
                    [getattr(record, n) for n in _COLUMNS],
                )
                connection.executemany(
                    "INSERT INTO subjects VALUES (?, ?)", [(d, record.sequence) for d in digests]
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
        connection = self._connection()
        with self._reported():
            rows = connection.execute(
                f"SELECT {_FIELDS} FROM statements WHERE {' AND '.join(clauses)} "
                f"ORDER BY sequence DESC LIMIT {-1 if limit is None else int(limit)}",
                values,
            ).fetchall()
        return [_record(row) for row in rows]

    def models(self) -> list[str]:
        """Names of all models that the ledger speaks of."""
        query = "SELECT DISTINCT model FROM statements ORDER BY model"
        connection = self._connection()
        with self._reported():
            return [row[0] for row in connection.execute(query)]

    def verify(self) -> int:
        """Check every row against the chain; returns how many there are.

        Raises LedgerTampered naming the first bad row. A chain rewritten from some row to its end,
        or cut short, needs a checkpoint kept elsewhere to be seen.
        """
        count, previous, heads = 0, ORIGIN, dict[str | None, int]()
        named = set[tuple[int, str]]()
        connection = self._connection()
        # One snapshot for both tables: others append meanwhile.
        with self._holding("BEGIN"), self._reported():
            for row in connection.execute(f"SELECT {_FIELDS} FROM statements ORDER BY sequence"):
                record = _record(row)
                count += 1
                try:
                    digests = checked(record, count, previous, heads.get(record.slot, 0))
                except ValueError as error:
                    raise self._tampered(record.sequence, str(error)) from error
                previous, heads[record.slot] = record.hash, count
                named |= {(count, digest) for digest in digests}
            stored = set(connection.execute("SELECT sequence, digest FROM subjects"))
        if stored != named:
            raise self._tampered(
                min(stored ^ named)[0], "is filed under other subjects than it has"
            )
        return count

    def require_intact(self, *records: Record) -> None:
        """Raises LedgerTampered for a record that does not hash to its recorded hash."""
        for record in records:
            if record.hash != record.expected_hash():
                raise self._tampered(record.sequence, CHANGED)

    def _tampered(self, sequence: int, problem: str) -> LedgerTampered:
        return LedgerTampered(
            f"statement {sequence} of {self.path} {problem}",
            expected="the row as it was written",
            fix="Trust nothing from this row on: restore the ledger from a backup and find out "
            "who can write to it",
            sequence=sequence,
        )


def _record(row: Sequence[Any]) -> Record:
    return Record(**dict(zip(_COLUMNS, row, strict=True)))
