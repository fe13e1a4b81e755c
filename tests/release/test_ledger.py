"""The ledger: nothing in it changes, and what was changed all the same is found."""

import json
import os
import sqlite3
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlct.data.digest import canonical, sha256
from mlct.errors import ContractNotPassed, LedgerError, LedgerTampered, SlotMoved
from mlct.release.ledger import Ledger, instant, require_contract, statement

SLOT = "m@production"
#: Rows 3, 5, 7 and 8 of `ledger` move the slot; row 4 has a signature.
MOVES = (3, 5, 7, 8)


def note(ledger, number, kind="training", **how):
    """Append a statement about one digest."""
    says = {"model": how.pop("model", "m"), "version": number, "slot": "production"}
    content = statement(kind, {"artifact": sha256(b"%d" % number)}, says)
    return ledger.append(content, actor=f"actor {number}", **how)


@pytest.fixture
def ledger(tmp_path):
    """Ten rows: trainings, a signed approval, four moves of one slot."""
    made, head = Ledger(tmp_path / "ledger.db"), 0
    for number in range(1, 11):
        if number in MOVES:
            kind = "rollback" if number == 8 else "promotion"
            head = note(made, number, kind, slot=SLOT, supersedes=head).sequence
        elif number == 4:
            note(made, number, "approval", signature="signed")
        else:
            note(made, number)
    return made


def rows(ledger):
    return [record.to_dict() for record in ledger.records()]


def raw(ledger):
    return sqlite3.connect(ledger.path, isolation_level=None)


def row(sequence, *, kind="training", slot="NULL", supersedes="NULL", previous=None, hash="'new'"):
    previous = previous or LAST
    where = f"{kind!r}, 'm', {slot}, {supersedes}"
    return (
        f"INTO statements VALUES ({sequence}, 't', 'a', {where}, x'00', NULL, {previous}, {hash})"
    )


LAST = "(SELECT hash FROM statements WHERE sequence = 10)"


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE statements SET actor = 'eve' WHERE sequence = 3",
        "UPDATE OR REPLACE statements SET sequence = 3 WHERE sequence = 4",
        "DELETE FROM statements WHERE sequence = 10",
        "DELETE FROM statements",
        "UPDATE subjects SET digest = 'x'",
        "DELETE FROM subjects",
        "INSERT INTO subjects VALUES ('x', 3)",
        "REPLACE INTO subjects VALUES ('x', 3)",
        "INSERT INTO subjects VALUES ('x', 99)",
        *(
            f"{verb} {row(sequence)}"
            for verb in ("INSERT", "REPLACE", "INSERT OR REPLACE", "INSERT OR IGNORE")
            for sequence in (3, 10, 12, 0, -1, "NULL")
        ),
        # The right sequence, but they would replace the row that they collide with.
        f"REPLACE {row(11, hash=LAST)}",
        *(
            f"REPLACE {row(11, kind='promotion', slot=repr(SLOT), supersedes=head)}"
            for head in (0, 3, 7)
        ),
        # Not what comes next.
        f"INSERT {row(11, previous=repr('x'))}",
        f"INSERT {row(11, kind='promotion', slot=repr(SLOT), supersedes=9)}",
    ],
)
def test_the_database_refuses_to_change_the_ledger(ledger, sql):
    before, connection = rows(ledger), raw(ledger)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(sql)
    assert rows(ledger) == before
    assert ledger.verify() == 10


@pytest.mark.parametrize(
    ("slot", "kind"), [("NULL", "promotion"), ("'s'", "gate"), ("'s'", "approval")]
)
def test_the_database_lets_only_moves_name_a_slot(ledger, slot, kind):
    supersedes = "NULL" if slot == "NULL" else 0
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        raw(ledger).execute(f"INSERT {row(11, kind=kind, slot=slot, supersedes=supersedes)}")


def tamper(ledger, *statements):
    """What the database's owner can do: drop the triggers, ignore the constraints."""
    connection = raw(ledger)
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("PRAGMA ignore_check_constraints = ON")
    for sql in statements:
        connection.execute(sql)
    connection.close()


def swap(first, second):
    """Exchange two rows, all columns but the sequence."""
    return (
        f"UPDATE statements SET sequence = -1 WHERE sequence = {first}",
        f"UPDATE statements SET sequence = {first} WHERE sequence = {second}",
        f"UPDATE statements SET sequence = {second} WHERE sequence = -1",
    )


def edit(column, value, row=5):
    return (f"UPDATE statements SET {column} = {value} WHERE sequence = {row}",)


@pytest.mark.parametrize(
    ("first_bad", "statements"),
    [
        (5, edit("body", "CAST(replace(CAST(body AS TEXT), '5', '6') AS BLOB)")),
        (5, edit("body", "CAST(CAST(body AS TEXT) || ' ' AS BLOB)")),
        (5, edit("body", "x'00'")),
        (5, edit("actor", "'eve'")),
        (5, edit("recorded_at", "'2000-01-01T00:00:00.000000Z'")),
        (5, edit("slot", "'m@staging'")),
        (5, edit("slot", "NULL")),
        (5, edit("supersedes", "4")),
        (5, edit("supersedes", str(2**60))),
        (4, edit("signature", "'forged'", 4)),
        (4, edit("signature", "NULL", 4)),
        (6, edit("signature", "'added'", 6)),
        (5, edit("kind", "'rollback'")),
        (5, edit("model", "'n'")),
        (5, edit("previous_hash", "'x'")),
        (5, edit("hash", "'x'")),
        (2, ("DELETE FROM statements WHERE sequence = 1",)),
        (7, ("DELETE FROM statements WHERE sequence IN (5, 6)",)),
        (11, edit("sequence", "11", 10)),
        (2, swap(2, 6)),
        (9, swap(9, 10)),
        (5, ("DELETE FROM subjects WHERE sequence = 5",)),
        (5, ("INSERT INTO subjects VALUES ('x', 5)",)),
        (5, ("UPDATE subjects SET digest = 'x' WHERE sequence = 5",)),
        (5, ("UPDATE subjects SET sequence = sequence + 1 WHERE sequence >= 5",)),
        (99, ("INSERT INTO subjects VALUES ('x', 99)",)),
        (1, ("DELETE FROM subjects",)),
    ],
)
def test_verify_names_the_first_bad_row(ledger, first_bad, statements):
    tamper(ledger, *statements)
    with pytest.raises(LedgerTampered, match=f"statement {first_bad} of .*ledger.db") as found:
        ledger.verify()
    assert found.value.sequence == first_bad


def test_a_row_that_was_hashed_anew_does_not_fit_the_next_one(ledger):
    (record,) = ledger.records(subject=sha256(b"5"))
    changed = replace(record, actor="eve")
    tamper(ledger, *edit("actor", "'eve'"), *edit("hash", repr(changed.expected_hash())))
    with pytest.raises(LedgerTampered, match=r"statement 6 of .* does not continue the row before"):
        ledger.verify()


def test_missing_rows_are_said_to_be_missing(ledger):
    tamper(ledger, "DELETE FROM statements WHERE sequence IN (5, 6)")
    with pytest.raises(LedgerTampered, match=r"statement 7 of .* stands where 5 should: rows are"):
        ledger.verify()


def rewrite(ledger, change, since=1):
    """Recompute the chain after `change(row)`, as an owner who knows the format can."""
    records, previous = list(reversed(ledger.records())), "0" * 64
    for record in records:
        values = {name: getattr(record, name) for name in type(record).__dataclass_fields__}
        values |= change(values) if record.sequence >= since else {}
        made = type(record)(**(values | {"previous_hash": previous}))
        previous = made.expected_hash()
        tamper(ledger)
        connection = raw(ledger)
        connection.execute(
            "UPDATE statements SET body = ?, kind = ?, supersedes = ?, previous_hash = ?, hash = ? "
            "WHERE sequence = ?",
            (made.body, made.kind, made.supersedes, made.previous_hash, previous, made.sequence),
        )


def test_a_rewritten_chain_is_not_seen_without_a_checkpoint_kept_elsewhere(ledger):
    """By design: hashes without a secret show an edit, not a forgery by who knows the format."""
    before = ledger.records(limit=1)[0].hash
    rewrite(ledger, lambda row: {"body": row["body"].replace(b"production", b"staging")}, since=4)
    assert ledger.verify() == 10
    assert ledger.records(limit=1)[0].hash != before


def test_a_ledger_cut_short_is_not_seen_without_a_checkpoint_kept_elsewhere(ledger):
    """By design: a prefix of a ledger is a ledger."""
    tail = "WHERE sequence > 7"
    tamper(ledger, f"DELETE FROM subjects {tail}", f"DELETE FROM statements {tail}")
    assert ledger.verify() == 7


@pytest.mark.parametrize(
    "change",
    [
        lambda row: {"body": b"no json"},
        lambda row: {"body": b"[]"},
        lambda row: {"body": b"\xff"},
        lambda row: {"body": b"{}"},
        lambda row: {"body": row["body"].replace(b"mlct.dev", b"evil.example")},
        lambda row: {"body": row["body"].replace(b"in-toto.io", b"evil.example")},
        lambda row: {"kind": "gate"} if row["sequence"] == 6 else {},
        lambda row: {"supersedes": 6} if row["sequence"] == 7 else {},
    ],
)
def test_even_a_rewritten_chain_must_be_of_right_statements(ledger, change):
    rewrite(ledger, change, since=6)
    with pytest.raises(LedgerTampered, match=r"statement [67] of"):
        ledger.verify()


@pytest.mark.parametrize(
    "content",
    [
        {},
        statement("gossip", {}, {"model": "m"}),
        statement("gate", {}, {}),
        statement("gate", {}, {"model": 7}),
        statement("gate", {"artifact": 7}, {"model": "m"}),
        statement("gate", {}, {"model": "m"}) | {"_type": "https://in-toto.io/Statement/v0.1"},
        statement("gate", {}, {"model": "m"}) | {"predicateType": "https://evil/gate/v1"},
        statement("gate", {}, {"model": "m"}) | {"predicateType": None},
        statement("gate", {}, {"model": "m"}) | {"subject": [{"name": "artifact"}]},
        statement("gate", {}, {"model": "m", "score": float("nan")}),
        statement("gate", {}, {"model": "m", "rows": 2**60}),
        statement("gate", {}, {"model": "m", "at": datetime(2030, 1, 1, tzinfo=UTC)}),
    ],
)
def test_what_could_never_be_verified_again_is_refused(ledger, content):
    with pytest.raises(LedgerError, match=r"no statement: it .* Expected a"):
        ledger.append(content, actor="test")
    assert ledger.verify() == 10


def test_a_signature_is_kept_only_over_the_bytes_of_its_statement(ledger):
    content = statement("approval", {}, {"model": "m"})
    for body in (b"", canonical(content) + b"\n", canonical(statement("gate", {}, {"model": "m"}))):
        with pytest.raises(LedgerError, match="not the statement's"):
            ledger.append(content, actor="test", signature="signed", body=body)
    record = ledger.append(content, actor="test", signature="signed", body=canonical(content))
    assert (record.body, record.signature) == (canonical(content), "signed")


@pytest.mark.parametrize(("kind", "slot"), [("gate", SLOT), ("promotion", None)])
def test_only_moves_name_a_slot(ledger, kind, slot):
    supersedes = None if slot is None else 8
    with pytest.raises(LedgerError, match="promotion and rollback"):
        note(ledger, 11, kind, slot=slot, supersedes=supersedes)


@pytest.mark.parametrize("supersedes", [0, 3, 7, 9, 10, 99, None])
def test_a_move_must_know_the_one_before_it(ledger, supersedes):
    with pytest.raises(SlotMoved, match="last moved by statement 8") as refused:
        note(ledger, 11, "promotion", slot=SLOT, supersedes=supersedes)
    assert (refused.value.slot, refused.value.head) == (SLOT, 8)
    assert note(ledger, 11, "promotion", slot=SLOT, supersedes=8).sequence == 11


def test_slots_move_apart(ledger):
    other = note(ledger, 11, "promotion", slot="m@staging", supersedes=0)
    assert ledger.head("m@staging") == other
    assert ledger.head(SLOT).sequence == 8
    assert ledger.head("n@production") is None
    assert ledger.verify() == 11


def test_the_stored_bytes_are_the_canonical_ones(ledger):
    record = ledger.records(limit=1)[0]
    (stored,) = raw(ledger).execute("SELECT body FROM statements WHERE sequence = 10").fetchone()
    assert stored == record.body == canonical(json.loads(stored))
    assert record.predicate["version"] == 10


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # RFC 8785 section 3.2.2, 3.2.3 and appendix B.
        ({"b": 1, "a": [True, None, {}]}, '{"a":[true,null,{}],"b":1}'),
        (
            [333333333.33333329, 1e30, 4.50, 2e-3, 1e-27],
            "[333333333.3333333,1e+30,4.5,0.002,1e-27]",
        ),
        ([1.0, -0.0, 1e21, 1e-7, 9007199254740991], "[1,0,1e+21,1e-7,9007199254740991]"),
        ('€$\u000f\nA\'B"\\\\"/', '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'),
        (
            {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "ö": 7},
            '{"\\r":2,"1":4,"\u0080":6,"ö":7,"€":1,"\U0001f600":5,"\ufb33":3}',
        ),
    ],
)
def test_canonical_bytes_are_those_of_rfc_8785(value, expected):
    assert canonical(value) == expected.encode()


def test_records_are_found_newest_first_by_kind_model_slot_and_subject(ledger):
    note(ledger, 11, model="n")

    def found(**what):
        return [record.sequence for record in ledger.records(**what)]

    assert found() == list(range(11, 0, -1))
    assert found(limit=2) == [11, 10]
    assert found(kind="approval") == [4]
    assert found(kind=["promotion", "rollback"], model="m") == found(slot=SLOT) == [8, 7, 5, 3]
    assert found(subject=sha256(b"6")) == [6]
    assert found(model="n") == [11]
    assert ledger.models() == ["m", "n"]


def test_a_failed_transaction_leaves_nothing(ledger):
    def fails():
        with ledger.transaction():
            note(ledger, 11)
            with ledger.transaction():
                note(ledger, 12)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert ledger.verify() == 10
    assert note(ledger, 11).sequence == 11


def test_verify_sees_what_its_own_transaction_appended(ledger):
    with ledger.transaction():
        note(ledger, 11)
        assert ledger.verify() == 11


def test_the_clock_is_the_ledgers(tmp_path):
    at = datetime(2030, 1, 31, 12, tzinfo=UTC)
    record = note(Ledger(tmp_path / "new" / "ledger.db", clock=lambda: at), 1)
    assert record.recorded_at == instant(at) == "2030-01-31T12:00:00.000000Z"


def other_database(path):
    sqlite3.connect(path).execute("CREATE TABLE runs (id)")


def newer_ledger(path):
    note(Ledger(path), 1)
    sqlite3.connect(path).execute("PRAGMA user_version = 2")


def damaged_ledger(path):
    for number in range(50):
        note(Ledger(path), number)
    raw(Ledger(path)).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: path.write_bytes(b"not a database" * 100), "not a database"),
        (lambda path: path.mkdir(), "unable to open"),
        (other_database, "with runs"),
        (newer_ledger, "version 2"),
        (damaged_ledger, "malformed|not a database"),
    ],
)
def test_what_is_no_ledger_says_so(tmp_path, make, problem):
    path = tmp_path / "ledger.db"
    make(path)
    with pytest.raises(LedgerError, match=problem) as refused:
        Ledger(path).verify()
    assert not isinstance(refused.value, LedgerTampered)
    assert "ledger.db" in refused.value.found
    assert refused.value.fix


def test_a_path_through_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="file"):
        Ledger(tmp_path / "file" / "ledger.db").records()


def test_another_database_is_left_alone(tmp_path):
    path = tmp_path / "ledger.db"
    other_database(path)
    with pytest.raises(LedgerError):
        note(Ledger(path), 1)
    tables = sqlite3.connect(path).execute("SELECT name FROM sqlite_master").fetchall()
    assert tables == [("runs",)]


def test_a_locked_ledger_says_so(ledger, monkeypatch):
    impatient = Ledger(ledger.path)
    impatient._connection().execute("PRAGMA busy_timeout = 1")
    with ledger.transaction(), pytest.raises(LedgerError, match="locked"):
        note(impatient, 11)
    assert note(impatient, 11).sequence == 11


def test_a_read_only_ledger_says_why_it_takes_nothing(ledger, in_child):
    ledger.path.parent.chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)
    for file in ledger.path.parent.iterdir():
        file.chmod(stat.S_IRUSR | stat.S_IROTH)

    def use():
        reader = Ledger(ledger.path)
        with pytest.raises(LedgerError, match=r"readonly|unable to open"):
            note(reader, 11)

    assert in_child(use, nobody=True) == 0


def verdict(ledger, passed, contract="c", violations=()):
    says = {"model": "m", "contract": contract, "passed": passed, "violations": list(violations)}
    ledger.append(statement("contract", {"training_set": "t"}, says), actor="test")


def test_the_newest_verdict_of_the_contract_counts(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    with pytest.raises(ContractNotPassed, match="no verdict"):
        require_contract(ledger, training_set="t", contract="c")
    verdict(ledger, True)
    assert require_contract(ledger, training_set="t", contract="c").sequence == 1
    with pytest.raises(ContractNotPassed, match="no verdict"):
        require_contract(ledger, training_set="t", contract="another")
    verdict(ledger, False, violations=[{"column": "late", "rule": "not null", "observed": 7}])
    with pytest.raises(ContractNotPassed, match="late: not null saw 7") as refused:
        require_contract(ledger, training_set="t", contract="c")
    assert refused.value.training_set == "t"


def test_paths_may_be_text(tmp_path):
    assert Ledger(str(tmp_path / "ledger.db")).path == Path(tmp_path / "ledger.db")
