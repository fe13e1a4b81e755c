"""What only a ledger in PostgreSQL can meet: roles, lost connections, secrets in its URL."""

import re
import secrets
import threading
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from benchmarks.postgres import PASSWORD
from mlct.errors import LedgerError, LedgerTampered
from mlct.release.ledger import Ledger, postgres, statement

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "postgres-ledger.md"
SLOT = "m@production"


def note(ledger, number, kind="training", **how):
    content = statement(kind, {"artifact": str(number)}, {"model": "m", "version": number})
    return ledger.append(content, actor="test", **how).sequence


@pytest.fixture
def url(postgres):
    return postgres()


@pytest.fixture
def ledger(url):
    return Ledger(url)


def as_superuser(url, sql):
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(sql).rowcount


def cut_off(url):
    """End every other session of the database."""
    as_superuser(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )


@pytest.fixture
def roles(postgres_server, url):
    """`(owner's URL, app's URL)`, after the commands of the guide."""
    database, suffix = re.search(r"/(fresh_\w+)\?", url)[1], secrets.token_hex(4)
    blocks = re.findall(r"^```sql\n(.*?)^```", HOW_TO.read_text(), re.MULTILINE | re.DOTALL)
    before, after = (
        re.sub(r"\b(mlct_owner|mlct_app)\b", rf"\1_{suffix}", block)
        .replace("team_db", database)
        .replace("'...'", f"'{PASSWORD}'")
        for block in blocks
    )
    postgres_server.execute(before, database)
    owner, app = (
        postgres_server.url(database, f"{role}_{suffix}") for role in ("mlct_owner", "mlct_app")
    )
    assert Ledger(owner).verify() == 0
    postgres_server.execute(after, database)
    return owner, app


def test_the_role_of_the_guide_may_append_and_read(roles):
    app = Ledger(roles[1])
    note(app, 1)
    note(app, 2, "promotion", slot=SLOT, supersedes=0)
    assert app.verify() == 2
    assert app.head(SLOT).sequence == 2


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE mlct.statements SET actor = 'eve'",
        "DELETE FROM mlct.statements",
        "TRUNCATE mlct.statements",
        "UPDATE mlct.subjects SET digest = 'x'",
        "DELETE FROM mlct.subjects",
        "TRUNCATE mlct.subjects",
        "UPDATE mlct.format SET version = 1",
    ],
)
def test_both_roles_lack_the_right_to_change_rows(roles, sql):
    owner, app = roles
    note(Ledger(app), 1)
    for role in (app, owner) if "format" not in sql else (app,):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            as_superuser(role, sql)
    assert Ledger(app).verify() == 1


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE mlct.statements DISABLE TRIGGER ALL",
        "DROP TRIGGER in_order ON mlct.statements",
        "CREATE OR REPLACE FUNCTION mlct.never() RETURNS trigger LANGUAGE sql AS 'SELECT 1'",
        "GRANT UPDATE ON mlct.statements TO CURRENT_USER",
        "DROP TABLE mlct.subjects",
        "CREATE TABLE mlct.other ()",
        "SET session_replication_role = replica",
    ],
)
def test_the_role_that_appends_cannot_disarm_the_ledger(roles, sql):
    app = roles[1]
    note(Ledger(app), 1)
    with suppress(psycopg.errors.InsufficientPrivilege):  # GRANT without the right only warns
        as_superuser(app, sql)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        as_superuser(app, "UPDATE mlct.statements SET actor = 'eve'")
    assert Ledger(app).verify() == 1


def test_an_owner_who_grants_itself_the_right_meets_the_trigger_and_then_the_chain(roles):
    owner, app = roles
    note(Ledger(app), 1)
    as_superuser(owner, "GRANT UPDATE ON mlct.statements TO CURRENT_USER")
    with pytest.raises(psycopg.IntegrityError, match="append-only"):
        as_superuser(owner, "UPDATE mlct.statements SET actor = 'eve'")
    as_superuser(owner, "ALTER TABLE mlct.statements DISABLE TRIGGER USER")
    assert as_superuser(owner, "UPDATE mlct.statements SET actor = 'eve'") == 1
    with pytest.raises(LedgerTampered, match="statement 1"):
        Ledger(app).verify()


@pytest.mark.parametrize("path", ["pg_temp, evil, pg_catalog", "evil, pg_catalog"])
def test_names_that_a_writer_brings_along_do_not_mislead_the_triggers(ledger, url, path):
    ledger.records()
    with psycopg.connect(url, autocommit=True) as raw:
        raw.execute("CREATE SCHEMA evil")
        raw.execute("CREATE TEMP TABLE statements (sequence bigint, hash text, slot text)")
        raw.execute(
            "CREATE FUNCTION evil.repeat(text, int) RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$"
        )
        raw.execute(f"SET search_path = {path}")
        with pytest.raises(psycopg.IntegrityError, match="not the next"):
            raw.execute(
                "INSERT INTO mlct.statements VALUES "
                "(1, 't', 'a', 'gate', 'm', NULL, NULL, '', NULL, 'x', 'y')"
            )
        raw.execute("DROP SCHEMA evil CASCADE")


def test_a_role_without_rights_is_told_so(roles, postgres_server):
    database = re.search(r"/(fresh_\w+)\?", roles[0])[1]
    name = f"nobody_{secrets.token_hex(4)}"
    postgres_server.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    with pytest.raises(LedgerError, match="permission denied"):
        Ledger(postgres_server.url(database, name)).records()


def test_writers_outside_mlct_take_turns_too(ledger, url):
    """The trigger takes the appenders' lock: a second INSERT waits, and then is not the next."""
    note(ledger, 1)
    (last,) = ledger.records()
    row = (
        "INSERT INTO mlct.statements VALUES "
        f"(2, 't', 'a', 'gate', 'm', NULL, NULL, '', NULL, '{last.hash}', %s)"
    )
    problems, started = [], threading.Event()

    def second():
        with psycopg.connect(url, autocommit=True) as raw:
            started.set()
            try:
                raw.execute(row, ["y"])
            except psycopg.Error as error:
                problems.append(str(error))

    with psycopg.connect(url) as first:
        first.execute(row, ["x"])
        other = threading.Thread(target=second)
        other.start()
        started.wait(10)
        other.join(0.2)
        assert other.is_alive()
        first.commit()
        other.join(10)
    assert "not the next statement" in problems[0]


def test_a_connection_lost_in_a_transaction_leaves_nothing_half_done(ledger, url):
    note(ledger, 1)

    def lose():
        with ledger.transaction():
            note(ledger, 2)
            cut_off(url)
            note(ledger, 3)

    with pytest.raises(LedgerError, match=r"cannot be used.*look at `mlct history`"):
        lose()
    assert ledger.verify() == 1
    assert note(ledger, 2) == 2


def test_a_connection_lost_before_the_commit_is_not_taken_for_success(ledger, url):
    note(ledger, 1)

    def lose():
        with ledger.transaction():
            note(ledger, 2)
            cut_off(url)

    with pytest.raises(LedgerError, match="cannot be used"):
        lose()
    assert ledger.verify() == 1


def test_what_follows_a_lost_connection_in_a_transaction_is_not_done_alone(ledger, url):
    def lose():
        with ledger.transaction():
            note(ledger, 1)
            cut_off(url)
            for number in (2, 3):
                with pytest.raises(LedgerError):
                    note(ledger, number)

    with pytest.raises(LedgerError):
        lose()
    assert ledger.verify() == 0


@pytest.mark.parametrize(
    "work", [lambda ledger: ledger.verify(), Ledger.records, Ledger.models, lambda x: note(x, 2)]
)
def test_a_connection_lost_between_two_calls_is_made_again(ledger, url, work):
    note(ledger, 1)
    cut_off(url)
    work(ledger)


def test_an_error_that_was_swallowed_inside_a_transaction_is_not_committed_as_success(ledger):
    """PostgreSQL answers COMMIT of a failed transaction with ROLLBACK, and no error."""

    def swallow():
        with ledger.transaction():
            note(ledger, 1)
            with pytest.raises(psycopg.Error):
                ledger._connection().execute("SELECT 1 / 0")

    with pytest.raises(LedgerError, match="nothing of it was kept"):
        swallow()
    assert ledger.verify() == 0
    assert note(ledger, 1) == 1


def test_a_server_that_is_not_there_says_so():
    with pytest.raises(LedgerError, match="cannot be used") as refused:
        Ledger("postgresql://ana:hunter2@127.0.0.1:1/db").records()
    assert "ana@127.0.0.1:1/db" in refused.value.found
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ana:hun@ter2@host/db",
        "postgresql://ana:hun/ter2@host/db",
        "postgresql://ana:hun?ter2@host/db",
        "postgresql://ana:hun#ter2@host/db",
        "postgresql://ana:hun:ter2@host/db",
        "postgresql://ana:hunter2@host/db?pasword=hunter2",
        "postgresql://ana:hunter2@host:port/db",
        "postgresql://ana:%zzter2@host/db",
        "redis://ana:hunter2@host/db",
        "sqlite://hunter2",
    ],
)
def test_a_url_that_cannot_be_read_is_not_repeated(url):
    with pytest.raises(LedgerError) as refused:
        Ledger(url).records()
    chain = [refused.value, refused.value.__cause__, refused.value.__context__]
    for text in ("hun", "ter2"):
        assert [error for error in chain if error and text in str(error)] == []


def test_the_password_is_never_shown(url, caplog):
    forms = (PASSWORD, PASSWORD.replace("@", "%40"))
    wrong = url.replace("s3cret", "s4cret")
    ledger, told = Ledger(url), []
    note(ledger, 1)
    told += [repr(ledger), str(ledger), ledger.name]
    for broken in (wrong, url.replace("fresh_", "none_"), url.replace("host=", "host=/none")):
        with pytest.raises(LedgerError) as refused:
            Ledger(broken).records()
        told += [str(refused.value), repr(Ledger(broken))]
    as_superuser(url, "ALTER TABLE mlct.statements DISABLE TRIGGER USER")
    as_superuser(url, "UPDATE mlct.statements SET actor = 'eve'")
    with pytest.raises(LedgerTampered) as refused:
        ledger.verify()
    told += [str(refused.value), caplog.text]
    told.append(str(ledger._database.reported(psycopg.Error(f"libpq said {PASSWORD}"))))
    for text in told:
        assert not any(s in text for s in (*forms, "s4cret"))


def test_a_schema_of_that_name_that_is_no_ledger_is_left_alone(url):
    as_superuser(url, "CREATE SCHEMA mlct CREATE TABLE mlct.runs (id int)")
    with pytest.raises(LedgerError, match="with runs"):
        note(Ledger(url), 1)
    assert as_superuser(url, "SELECT * FROM pg_tables WHERE schemaname = 'mlct'") == 1


def test_a_newer_ledger_is_refused(ledger, url):
    note(ledger, 1)
    as_superuser(url, "UPDATE mlct.format SET version = 99")
    with pytest.raises(LedgerError, match="version 99"):
        Ledger(url).verify()


def test_an_older_ledger_is_migrated_by_its_owner_only(roles, monkeypatch):
    owner, app = roles
    note(Ledger(app), 1)
    later = (*postgres.STEPS, "CREATE INDEX later ON mlct.statements (actor);")
    monkeypatch.setattr(postgres, "STEPS", later)
    with pytest.raises(LedgerError, match=r"must be owner|permission denied"):
        Ledger(app).verify()
    assert Ledger(owner).verify() == 1
    assert note(Ledger(app), 2) == 2
    found = "SELECT 1 FROM mlct.format WHERE version = 3"
    assert as_superuser(owner, found) == 1


def test_a_migration_that_fails_changes_nothing(ledger, url, monkeypatch):
    note(ledger, 1)
    steps = postgres.STEPS
    broken = "CREATE INDEX later ON mlct.statements (actor); SELECT 1 / 0;"
    monkeypatch.setattr(postgres, "STEPS", (*steps, broken))
    with pytest.raises(LedgerError, match="division by zero"):
        Ledger(url).verify()
    monkeypatch.setattr(postgres, "STEPS", steps)
    assert Ledger(url).verify() == 1
    assert as_superuser(url, "SELECT 1 FROM pg_class WHERE relname = 'later'") == 0


def test_rows_of_a_large_ledger_are_not_all_in_memory(ledger):
    with ledger.transaction():
        for number in range(20):
            note(ledger, number)
        rows = ledger._database.rows(ledger._connection(), "SELECT sequence FROM mlct.statements")
        assert next(rows) == (1,)
        names = ledger._connection().execute("SELECT name FROM pg_cursors").fetchall()
        assert names == [("mlct",)]
        rows.close()
