"""The ledger's tables in SQLite: one file, whose triggers refuse any change to what it holds."""

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path

from mlct.errors import LedgerError

#: What each version added, oldest first. Published steps never change; statements are parted by
#: blank lines.
STEPS = (
    """
CREATE TABLE statements (
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

CREATE TABLE subjects (
    digest TEXT NOT NULL,
    sequence INTEGER NOT NULL REFERENCES statements,
    PRIMARY KEY (digest, sequence)
) STRICT, WITHOUT ROWID;

CREATE INDEX by_slot ON statements (slot, sequence);

CREATE INDEX by_model ON statements (model, kind, sequence);

CREATE TRIGGER never_updated BEFORE UPDATE ON statements
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER never_deleted BEFORE DELETE ON statements
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER in_order BEFORE INSERT ON statements
    -- REPLACE deletes what it collides with and fires no delete trigger: nothing may collide.
    WHEN EXISTS (SELECT 1 FROM statements WHERE hash = NEW.hash)
    OR NEW.sequence IS NOT (SELECT coalesce(max(sequence), 0) + 1 FROM statements)
    OR NEW.previous_hash IS NOT coalesce(
        (SELECT hash FROM statements ORDER BY sequence DESC LIMIT 1), printf('%064d', 0))
    OR NEW.slot IS NOT NULL AND NEW.supersedes IS NOT
        (SELECT coalesce(max(sequence), 0) FROM statements WHERE slot = NEW.slot)
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: not the next statement'); END;

CREATE TRIGGER subjects_in_order BEFORE INSERT ON subjects
    WHEN NEW.sequence IS NOT (SELECT max(sequence) FROM statements)
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: not the last statement'); END;

CREATE TRIGGER subjects_never_updated BEFORE UPDATE ON subjects
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER subjects_never_deleted BEFORE DELETE ON subjects
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
""",
    # All incidents, refusals or drills, of whatever model, without reading the whole table.
    """
CREATE INDEX by_kind ON statements (kind, sequence);
""",
)


class Sqlite:
    """Implements `mlct.release.ledger.chain.Database`."""

    schema = "main"
    errors: tuple[type[Exception], ...] = (sqlite3.Error, OSError)

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)

    def connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            if self._version(connection) < len(STEPS):
                self._migrate(connection)
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                # Refused at once, without waiting, while another process is busy: then a later one.
                with suppress(sqlite3.OperationalError):
                    connection.execute("PRAGMA journal_mode = WAL")
        except BaseException:
            connection.close()
            raise
        return connection

    def _version(self, connection: sqlite3.Connection) -> int:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        foreign = connection.execute(
            "SELECT group_concat(name, ', ') FROM sqlite_master "
            "WHERE tbl_name NOT IN ('statements', 'subjects')"
        ).fetchone()[0]
        if foreign or version > len(STEPS):
            raise LedgerError(
                f"{self.name} is a database of version {version} with {foreign or 'nothing else'}",
                expected=f"a ledger of version {len(STEPS)} or older, or no file",
                fix="Point MLCT_LEDGER or MLCT_HOME elsewhere, or use the version of mlct that "
                "wrote it",
            )
        return version

    def _migrate(self, connection: sqlite3.Connection) -> None:
        self.begin(connection, write=True)
        for step in STEPS[self._version(connection) :]:  # others may have been faster
            for statement in step.split("\n\n"):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(STEPS)}")
        self.commit(connection)

    def begin(self, connection: sqlite3.Connection, *, write: bool) -> None:
        connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")

    def commit(self, connection: sqlite3.Connection) -> None:
        connection.execute("COMMIT")

    def roll_back(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:  # a full disk has rolled back already
            connection.execute("ROLLBACK")

    def lost(self, connection: sqlite3.Connection) -> bool:
        return False

    def rows(
        self, connection: sqlite3.Connection, sql: str, values: Sequence[object] = ()
    ) -> Generator[tuple[object, ...]]:
        yield from connection.execute(sql, values)

    def reported(self, error: Exception) -> LedgerError:
        return LedgerError(
            f"{self.name} cannot be used: {error}",
            expected="a ledger written by mlct, on a disk with room, writable and not locked",
            fix="If it is locked, see who holds it; if it is damaged, restore it from a backup; or "
            "point MLCT_LEDGER or MLCT_HOME elsewhere",
        )
