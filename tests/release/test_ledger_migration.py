"""A ledger of an older version is brought forward in one transaction, and what it says stays."""

import re
import shutil
import sqlite3 as database
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mlct.data.digest import sha256
from mlct.errors import LedgerError
from mlct.release.ledger import Ledger, sqlite

GOLDEN = Path(__file__).parent / "golden" / "ledger_v1.db"
MODEL = "flight_delay"


@pytest.fixture
def golden(tmp_path: Path) -> Ledger:
    """A copy of what the first release wrote."""
    shutil.copy(GOLDEN, tmp_path / "golden.db")
    return Ledger(tmp_path / "golden.db")


def schema(path: Path) -> list[Any]:
    """What a database is made of, and its version."""
    with closing(database.connect(path)) as connection:
        found = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 2")
        lines = [(*row[:3], re.sub(r"IF NOT EXISTS |\s+", " ", row[3] or "")) for row in found]
        return [(*a, " ".join(b.split())) for *a, b in lines] + [
            connection.execute("PRAGMA user_version").fetchone()
        ]


def test_the_first_ledger_is_migrated_to_what_a_new_one_is(golden, tmp_path):
    before = schema(golden.path)
    assert before[-1] == (1,)
    rows = [record.to_dict() for record in golden.records()]
    Ledger(tmp_path / "new.db").records()
    assert schema(golden.path) == schema(tmp_path / "new.db") != before
    assert schema(golden.path)[-1] == (len(sqlite.STEPS),)
    assert [record.to_dict() for record in golden.records()] == rows


def test_the_first_ledger_is_migrated_once_by_all_who_open_it(golden, at_once):
    assert at_once(6, lambda number: Ledger(golden.path).verify()) == [17] * 6
    assert schema(golden.path)[-1] == (len(sqlite.STEPS),)


@pytest.mark.parametrize("broken", ["CREATE INDEX x ON nothing (y)", "no SQL"])
def test_a_migration_that_fails_changes_nothing(golden, monkeypatch, broken):
    before, steps = schema(golden.path), sqlite.STEPS
    monkeypatch.setattr(sqlite, "STEPS", (*steps, f"CREATE TABLE z (y)\n\n{broken}"))
    with pytest.raises(LedgerError, match=r"cannot be used: (no such table|near)"):
        golden.verify()
    assert schema(golden.path) == before
    monkeypatch.setattr(sqlite, "STEPS", steps)
    assert golden.verify() == 17


def test_a_migrated_ledger_is_refused_by_what_is_older(golden, monkeypatch):
    assert golden.verify() == 17
    monkeypatch.setattr(sqlite, "STEPS", sqlite.STEPS[:1])
    with pytest.raises(LedgerError, match=r"of version 2 .* Expected a ledger of version 1 or"):
        Ledger(golden.path).verify()


@pytest.mark.parametrize(
    "query",
    [
        lambda ledger: ledger.head(f"{MODEL}@production"),
        lambda ledger: ledger.records(slot=f"{MODEL}@production"),
        lambda ledger: ledger.records(kind="refusal"),
        lambda ledger: ledger.records(kind=["incident", "drill"], limit=5),
        lambda ledger: ledger.records(kind="approval", model=MODEL),
        lambda ledger: ledger.records(kind="contract", subject=sha256(b"train 1")),
        lambda ledger: ledger.records(kind="gate", model=MODEL, subject=sha256(b"x"), limit=1),
        lambda ledger: ledger.records(limit=1),
        lambda ledger: ledger.models(),
    ],
)
def test_no_question_reads_the_whole_table(golden, query):
    asked, connection = list[str](), golden._connection()
    connection.set_trace_callback(asked.append)
    query(golden)
    connection.set_trace_callback(None)
    plan = [step[3] for sql in asked for step in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
    table = [step for step in plan if re.search(r"\b(statements|s|subjects)\b", step)]
    assert table
    for step in table:
        assert step.startswith("SEARCH") or "LIMIT 1" in asked[0], plan
