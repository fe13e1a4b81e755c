"""The ledger: what is appended to it, what is asked of it, and what finds a changed row."""

import copy
import os
import re
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from mlct.data.digest import canonical
from mlct.errors import LedgerError, LedgerTampered, SlotMoved
from mlct.release.ledger.sqlite import Sqlite
from mlct.release.ledger.statement import (
    CHANGED,
    KINDS,
    MOVES,
    ORIGIN,
    SKEW,
    Record,
    checked,
    filed,
    instant,
    now,
)

_COLUMNS = tuple(Record.__dataclass_fields__)
_FIELDS = ", ".join(_COLUMNS)
_UNKEPT = re.compile("[\0\ud800-\udfff]")


class Database(Protocol):
    """What differs between databases. `?` marks a value in SQL; the name may be shown to anyone."""

    name: str
    schema: str
    errors: tuple[type[Exception], ...]

    def connect(self) -> Any:
        """A connection to a ledger of this version, made or migrated first where need be."""

    def begin(self, connection: Any, *, write: bool) -> None:
        """Begin a transaction: alone with the right to append, or reading one snapshot."""

    def commit(self, connection: Any) -> None:
        """Make what was appended durable. Raises one of `errors` if it was not."""

    def roll_back(self, connection: Any) -> None:
        """End the transaction, if there is one."""

    def lost(self, connection: Any) -> bool:
        """Whether the connection is gone for good."""

    def rows(self, connection: Any, sql: str, values: Sequence[Any] = ()) -> Generator[Any]:
        """Rows as they come."""

    def reported(self, error: Exception) -> LedgerError:
        """What to tell of an error, without secrets."""


class Ledger:
    """The append-only table, safe for many processes and threads.

    `where` is a path, `sqlite:///PATH` or `postgresql://...`.
    """

    def __init__(self, where: str | Path, *, clock: Callable[[], datetime] = now) -> None:
        self._database, self.clock = _database(where), clock
        self._local = threading.local()
        self._end: int | None = None

    def __repr__(self) -> str:
        return f"Ledger({self.name!r})"

    @property
    def name(self) -> str:
        """Where the ledger is, without a password."""
        return self._database.name

    @property
    def path(self) -> Path | None:
        """The file of a ledger in SQLite."""
        return self._database.path if isinstance(self._database, Sqlite) else None

    def _connection(self) -> Any:
        # A connection must not be carried into a forked process, nor closed there.
        if getattr(self._local, "process", None) != os.getpid():
            self._local.inherited = getattr(self._local, "held", None)
            with self._reported():
                self._local.held = _Held(self._database.connect())
            self._local.process, self._local.depth = os.getpid(), 0
        return self._local.held.connection

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except self._database.errors as error:
            raise self._database.reported(error) from error

    def _first(self, work: Callable[[Any], Any]) -> Any:
        """`work(connection)`; over a new connection if the last one was lost while nobody used it.

        Inside a transaction a lost connection stays lost: what was done before it is not done.
        """
        connection = self._connection()
        with self._reported():
            try:
                return work(connection)
            except self._database.errors:
                if self._local.depth or not self._database.lost(connection):
                    raise
        self._local.process = None
        connection = self._connection()
        with self._reported():
            return work(connection)

    @contextmanager
    def _holding(self, *, write: bool) -> Iterator[None]:
        self._connection()
        if self._local.depth:
            yield
            return
        try:
            self._first(lambda connection: self._database.begin(connection, write=write))
            self._local.depth = 1
            yield
            with self._reported():
                self._database.commit(self._local.held.connection)
        finally:
            connection, self._local.depth = self._local.held.connection, 0
            with suppress(*self._database.errors):
                self._database.roll_back(connection)  # unless committed, or lost by itself

    def before(self, record: Record) -> "Ledger":
        """The ledger as it stood before one of its statements: to be asked, not to be written."""
        then = copy.copy(self)
        then._end = record.sequence
        return then

    def transaction(self) -> AbstractContextManager[None]:
        """Hold the write lock: what is read inside is still true when it is appended to."""
        return self._holding(write=True)

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        return self._first(lambda connection: list(self._database.rows(connection, sql, values)))

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
        `signature` is over. Raises LedgerError for what could never be verified again, and for what
        is signed where the clock is behind the ledger's last row: it says when somebody might sign.
        What nobody signed is taken from any clock, so that none can stop a rollback.
        """
        try:
            kind, model, digests = filed(content)
            exact = canonical(content)
            if _UNKEPT.search("\n".join([actor, slot or "", signature or "", model, *digests])):
                raise ValueError("has a character in a name that not every database can keep")
        except ValueError as error:
            raise LedgerError(
                f"no statement: it {error}", expected=f"a statement of kind {', '.join(KINDS)}"
            ) from error
        if body not in (None, exact):
            raise LedgerError("bytes that are not the statement's", expected="its canonical JSON")
        if self._end is not None:
            raise LedgerError("a look at how the ledger stood", expected="the ledger itself")
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
            at = self.clock()
            if signature is not None and last and instant(at + SKEW) < last[0].recorded_at:
                raise LedgerError(
                    f"the clock says {instant(at)}, but statement {last[0].sequence} by "
                    f"{last[0].actor} is of {last[0].recorded_at}",
                    expected="clocks that agree to five minutes where people sign",
                    fix="Set this machine's clock; or if theirs was ahead, sign again after the "
                    "next statement",
                )
            draft = Record(
                sequence=last[0].sequence + 1 if last else 1,
                recorded_at=instant(at),
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
            self._insert("statements", [[getattr(record, n) for n in _COLUMNS]])
            self._insert("subjects", [[d, record.sequence] for d in sorted(digests)])
        return record

    def _insert(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            marks = ", ".join(f"({', '.join('?' * len(row))})" for row in rows)
            sql = f"INSERT INTO {self._database.schema}.{table} VALUES {marks}"
            self._rows(sql, [value for row in rows for value in row])

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
        schema, clauses, values = self._database.schema, ["1 = 1"], list[Any]()
        if self._end is not None:
            clauses.append("sequence < ?")
            values.append(self._end)
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
            clauses.append(f"sequence IN (SELECT sequence FROM {schema}.subjects WHERE digest = ?)")
            values.append(subject)
        rows = self._rows(
            f"SELECT {_FIELDS} FROM {schema}.statements WHERE {' AND '.join(clauses)} "
            f"ORDER BY sequence DESC" + ("" if limit is None else f" LIMIT {int(limit)}"),
            values,
        )
        return [Record(**dict(zip(_COLUMNS, row, strict=True))) for row in rows]

    def models(self) -> list[str]:
        """Names of all models that the ledger speaks of."""
        table = f"{self._database.schema}.statements"
        # From one name to the next over the index, whatever stands between them.
        return [
            row[0]
            for row in self._rows(
                "WITH RECURSIVE names (model) AS ("
                f"SELECT min(model) FROM {table} UNION ALL SELECT (SELECT min(s.model) "
                f"FROM {table} s WHERE s.model > names.model) FROM names WHERE model IS NOT NULL"
                ") SELECT model FROM names WHERE model > '' ORDER BY model"
            )
        ]

    def verify(self, each: Callable[[str], object] | None = None) -> int:
        """Check every row against the chain; returns how many there are.

        `each` is given the hash of every row, in order. Raises LedgerTampered naming the first bad
        row. A chain rewritten from some row to its end, or cut short, needs a checkpoint kept
        elsewhere to be seen: `require_checkpoint`.
        """
        count, previous, heads = 0, ORIGIN, dict[str, int]()
        named, schema = set[tuple[int, str]](), self._database.schema
        # One snapshot for both tables: others append meanwhile.
        with self._holding(write=False), self._reported():
            connection = self._connection()
            query = f"SELECT {_FIELDS} FROM {schema}.statements ORDER BY sequence"
            with closing(self._database.rows(connection, query)) as rows:
                for row in rows:
                    count += 1
                    try:
                        digests = checked(row, count, previous, heads)
                    except ValueError as error:
                        raise self._tampered(row[0], str(error)) from error
                    previous = row[-1]
                    for digest in digests:
                        named.add((count, digest))
                    if each is not None:
                        each(previous)
            query = f"SELECT sequence, digest FROM {schema}.subjects"
            with closing(self._database.rows(connection, query)) as rows:
                stored = set(rows)
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
            f"statement {sequence} of {self.name} {problem}",
            expected="the row as it was written",
            fix="Trust nothing from this row on: restore the ledger from a backup and find out "
            "who can write to it",
            sequence=sequence,
        )


class _Held:
    """A thread's connection: closed with the thread, but only by the process that opened it."""

    def __init__(self, connection: Any) -> None:
        self.connection, self.process = connection, os.getpid()

    def __del__(self, process: Callable[[], int] = os.getpid) -> None:
        if self.process == process():
            with suppress(Exception):  # SQLite closes only what its own thread opened
                self.connection.close()


def _database(where: str | Path) -> Database:
    if isinstance(where, str) and "://" in where:
        scheme, _, rest = where.partition("://")
        if scheme in ("postgresql", "postgres"):
            from mlct.release.ledger.postgres import Postgres

            return Postgres(where)
        if scheme != "sqlite" or not rest.startswith("/") or len(rest) < 2:
            raise LedgerError(
                f"a ledger at {scheme}://...",
                expected="a path, sqlite:///PATH or postgresql://HOST/DATABASE",
                fix="Set MLCT_LEDGER to one of these, or leave it out",
            )
        where = rest[1:]
    return Sqlite(Path(where).expanduser())
