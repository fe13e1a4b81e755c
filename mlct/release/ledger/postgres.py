"""The ledger's tables in PostgreSQL: schema `mlct` of a database, for teams.

Append-only by triggers and by rights: even the tables' owner has none to update, delete or truncate
until it grants them to itself. Appenders take turns by an advisory lock, which the trigger takes
too: what is the next statement is never decided by two at once.
"""

import re
from collections.abc import Generator, Sequence
from typing import Any
from urllib.parse import unquote

from mlct.errors import LedgerError

#: What each version added, oldest first; None where PostgreSQL was not offered yet. Published steps
#: never change. {lock} is the key of the appenders' lock.
STEPS: tuple[str | None, ...] = (
    None,
    """
CREATE SCHEMA mlct;
CREATE TABLE mlct.format (version integer NOT NULL);
INSERT INTO mlct.format VALUES (2);
CREATE TABLE mlct.statements (
    sequence bigint PRIMARY KEY,
    recorded_at text COLLATE "C" NOT NULL,
    actor text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    slot text COLLATE "C",
    supersedes bigint,
    body bytea NOT NULL,
    signature text COLLATE "C",
    previous_hash text COLLATE "C" NOT NULL,
    hash text COLLATE "C" NOT NULL UNIQUE,
    UNIQUE (slot, supersedes),
    CHECK ((slot IS NULL) = (supersedes IS NULL)),
    CHECK ((slot IS NOT NULL) = (kind IN ('promotion', 'rollback')))
);
CREATE TABLE mlct.subjects (
    digest text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL,
    PRIMARY KEY (digest, sequence)
);
CREATE INDEX by_slot ON mlct.statements (slot, sequence);
CREATE INDEX by_model ON mlct.statements (model, kind, sequence);
CREATE INDEX by_kind ON mlct.statements (kind, sequence);
CREATE FUNCTION mlct.never() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE integrity_constraint_violation USING MESSAGE = 'the ledger is append-only';
END $$;
CREATE FUNCTION mlct.in_order() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last record;
BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    SELECT sequence, hash INTO last FROM mlct.statements ORDER BY sequence DESC LIMIT 1;
    IF NEW.sequence IS DISTINCT FROM coalesce(last.sequence, 0) + 1
    OR NEW.previous_hash IS DISTINCT FROM coalesce(last.hash, repeat('0', 64))
    OR NEW.slot IS NOT NULL AND NEW.supersedes IS DISTINCT FROM
        (SELECT coalesce(max(sequence), 0) FROM mlct.statements WHERE slot = NEW.slot) THEN
        RAISE integrity_constraint_violation
        USING MESSAGE = 'the ledger is append-only: not the next statement';
    END IF;
    RETURN NEW;
END $$;
CREATE FUNCTION mlct.subjects_in_order() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    IF NEW.sequence IS DISTINCT FROM (SELECT max(sequence) FROM mlct.statements) THEN
        RAISE integrity_constraint_violation
        USING MESSAGE = 'the ledger is append-only: not the last statement';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER never BEFORE UPDATE OR DELETE OR TRUNCATE ON mlct.statements
    FOR EACH STATEMENT EXECUTE FUNCTION mlct.never();
CREATE TRIGGER never BEFORE UPDATE OR DELETE OR TRUNCATE ON mlct.subjects
    FOR EACH STATEMENT EXECUTE FUNCTION mlct.never();
CREATE TRIGGER in_order BEFORE INSERT ON mlct.statements
    FOR EACH ROW EXECUTE FUNCTION mlct.in_order();
CREATE TRIGGER in_order BEFORE INSERT ON mlct.subjects
    FOR EACH ROW EXECUTE FUNCTION mlct.subjects_in_order();
REVOKE ALL ON mlct.statements, mlct.subjects FROM PUBLIC;
REVOKE UPDATE, DELETE, TRUNCATE ON mlct.statements, mlct.subjects FROM CURRENT_USER;
""",
)
_LOCK = int.from_bytes(b"mlct")
#: libpq guesses where an unescaped password ends, and says the rest aloud.
_URL = re.compile(r"postgres(?:ql)?://(?:[^:@/?#]*(?::[^@/?#]*)?@)?[^@?#]*(?:\?[^@?#]*)?")
_SECRETS = ("password", "sslpassword")


class Postgres:
    """Implements `mlct.release.ledger.chain.Database`."""

    schema = "mlct"

    def __init__(self, url: str) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise LedgerError(
                "a ledger in PostgreSQL, but psycopg is not installed",
                expected="the extra `postgres`",
                fix="pip install 'mlct[postgres]'",
            ) from error
        self._psycopg = psycopg
        self.errors: tuple[type[Exception], ...] = (psycopg.Error, OSError)
        options = None
        if _URL.fullmatch(url):
            try:
                options = psycopg.conninfo.conninfo_to_dict(url)
            except psycopg.Error:
                options = None
        if options is None:
            raise LedgerError(
                "a ledger URL that PostgreSQL cannot read (not shown: it may hold a password)",
                expected="postgresql://USER@HOST/DATABASE",
                fix="Write @ / : ? # in a password as %40 %2F %3A %3F %23, or leave it to "
                "PGPASSFILE, which keeps it out of the environment",
            )
        self._secrets = [str(options[name]) for name in _SECRETS if options.get(name)]
        place = {"user": "", "host": "", "port": "", "dbname": ""} | options
        user = f"{place['user']}@" if place["user"] else ""
        port = f":{place['port']}" if place["port"] else ""
        self.name = f"postgresql://{user}{unquote(str(place['host']))}{port}/{place['dbname']}"
        self._conninfo = psycopg.conninfo.make_conninfo(
            "", **{"connect_timeout": 10, "application_name": "mlct", **options}
        )

    def connect(self) -> Any:
        connection: Any = self._psycopg.connect(self._conninfo, autocommit=True)
        try:
            connection.execute("SET lock_timeout = '60s'; SET client_encoding = 'UTF8'")
            if connection.execute("SHOW synchronous_commit").fetchone()[0] == "off":
                connection.execute("SET synchronous_commit = on")
            if self._version(connection) < len(STEPS):
                self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _version(self, connection: Any) -> int:
        """0 where there is no ledger yet."""
        found = connection.execute(
            "SELECT string_agg(relname, ', ') FROM pg_class c JOIN pg_namespace n "
            "ON n.oid = relnamespace WHERE nspname = 'mlct' AND relkind IN ('r', 'p', 'v', 'm')"
        ).fetchone()[0]
        if found is None:
            return 0
        tables, version = set(found.split(", ")), None
        if "format" in tables:
            version = connection.execute("SELECT max(version) FROM mlct.format").fetchone()[0]
        foreign = ", ".join(sorted(tables - {"format", "statements", "subjects"}))
        if foreign or version is None or version > len(STEPS):
            raise LedgerError(
                f"schema mlct of {self.name} is of version {version} with "
                f"{foreign or 'nothing else'}",
                expected=f"a ledger of version {len(STEPS)} or older, or no schema of that name",
                fix="Point MLCT_LEDGER at another database, or use the version of mlct that wrote "
                "it",
            )
        return int(version)

    def _migrate(self, connection: Any) -> None:
        self.begin(connection, write=True)
        for step in STEPS[self._version(connection) :]:  # others may have been faster
            if step:
                connection.execute(step.replace("{lock}", str(_LOCK)))
        connection.execute(f"UPDATE mlct.format SET version = {len(STEPS)}")
        self.commit(connection)

    def begin(self, connection: Any, *, write: bool) -> None:
        if write:
            # What is read after the lock was got is what others committed before giving it back.
            connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
            connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        else:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def commit(self, connection: Any) -> None:
        # PostgreSQL answers ROLLBACK, and no error, where a statement failed before.
        if connection.execute("COMMIT").statusmessage != "COMMIT":
            raise self._psycopg.errors.InFailedSqlTransaction(
                "a statement of this transaction had failed: nothing of it was kept"
            )

    def roll_back(self, connection: Any) -> None:
        idle = self._psycopg.pq.TransactionStatus.IDLE
        if not connection.closed and connection.info.transaction_status != idle:
            connection.execute("ROLLBACK")

    def lost(self, connection: Any) -> bool:
        return bool(connection.closed)

    def rows(self, connection: Any, sql: str, values: Sequence[Any] = ()) -> Generator[Any]:
        idle = self._psycopg.pq.TransactionStatus.IDLE
        if values or connection.info.transaction_status == idle:
            cursor = connection.execute(sql.replace("?", "%s"), values, binary=True)
            if cursor.description:
                yield from cursor
            return
        # Within a transaction the server holds the rows: a ledger need not fit into memory.
        with connection.cursor(name="mlct", binary=True) as cursor:
            cursor.itersize = 5000
            cursor.execute(sql)
            yield from cursor

    def reported(self, error: Exception) -> LedgerError:
        told = " ".join(str(error).split())
        for secret in self._secrets:
            told = told.replace(secret, "***")
        return LedgerError(
            f"{self.name} cannot be used: {told}",
            expected="a PostgreSQL server that answers, and a role that may append to the ledger "
            "(or, to make or migrate it, may create its schema)",
            fix="See that the server runs and what MLCT_LEDGER names; a transaction that was cut "
            "off is kept whole or not at all: look at `mlct history` before repeating it",
        )
