"""The ledger: nothing in it changes, and what was changed all the same is found."""

import json
import os
import re
import sqlite3
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlct.data.digest import canonical, digest, sha256
from mlct.errors import ContractNotPassed, LedgerError, LedgerTampered, SlotMoved
from mlct.release.ledger import KINDS, Ledger, instant, require_contract, statement
from mlct.release.ledger import MOVES as MOVING
from mlct.release.ledger.statement import row_hash

SLOT = "m@production"
#: Rows 3, 5, 7 and 8 of `ledger` move the slot; row 4 has a signature.
MOVES = (3, 5, 7, 8)


def about(number, kind="training", model="m"):
    """A statement about one digest."""
    says = {"model": model, "version": number, "slot": "production"}
    return statement(kind, {"artifact": sha256(b"%d" % number)}, says)


def note(ledger, number, kind="training", *, model="m", **how):
    return ledger.append(about(number, kind, model), actor=f"actor {number}", **how)


def body_of(number):
    return canonical(about(number, "promotion"))


@pytest.fixture
def ledger(where):
    """Ten rows: trainings, a signed approval, four moves of one slot."""
    made, head = Ledger(where), 0
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


def row(sequence, *, kind="training", slot="NULL", supersedes="NULL", previous=None, hash="'new'"):
    previous = previous or LAST
    where = f"{kind!r}, 'm', {slot}, {supersedes}"
    return (
        f"INTO statements VALUES ({sequence}, 't', 'a', {where}, x'00', NULL, {previous}, {hash})"
    )


AND_CHANGE = " ON CONFLICT (sequence) DO UPDATE SET actor = 'eve'"
LAST = "(SELECT hash FROM statements WHERE sequence = 10)"


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE statements SET actor = 'eve' WHERE sequence = 3",
        "DELETE FROM statements WHERE sequence = 10",
        "DELETE FROM statements",
        "UPDATE subjects SET digest = 'x'",
        "DELETE FROM subjects",
        "INSERT INTO subjects VALUES ('x', 3)",
        "INSERT INTO subjects VALUES ('x', 99)",
        *(
            f"INSERT {row(sequence)}{clash}"
            for sequence in (3, 10, 12, 0, -1, "NULL")
            for clash in ("", " ON CONFLICT DO NOTHING", AND_CHANGE)
        ),
        # Not what comes next.
        f"INSERT {row(11, previous=repr('x'))}",
        f"INSERT {row(11, kind='promotion', slot=repr(SLOT), supersedes=9)}",
    ],
)
def test_the_database_refuses_to_change_the_ledger(ledger, owner_of, sql):
    refused(ledger, owner_of(ledger), sql)


def refused(ledger, owner, sql, why="append-only"):
    before = rows(ledger)
    with pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError), match=why):
        owner.execute(sql)
    assert rows(ledger) == before
    assert ledger.verify() == 10


@pytest.mark.parametrize("where", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE OR REPLACE statements SET sequence = 3 WHERE sequence = 4",
        "REPLACE INTO subjects VALUES ('x', 3)",
        *(
            f"{verb} {row(sequence)}"
            for verb in ("REPLACE", "INSERT OR REPLACE", "INSERT OR IGNORE")
            for sequence in (3, 10, 12, 0, -1, "NULL")
        ),
        # The right sequence, but they would replace the row that they collide with.
        f"REPLACE {row(11, hash=LAST)}",
        *(
            f"REPLACE {row(11, kind='promotion', slot=repr(SLOT), supersedes=head)}"
            for head in (0, 3, 7)
        ),
    ],
)
def test_sqlite_refuses_to_replace_rows(ledger, owner_of, sql):
    refused(ledger, owner_of(ledger), sql)


@pytest.mark.parametrize("where", ["postgres"], indirect=True)
@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("TRUNCATE statements", "append-only"),
        ("TRUNCATE subjects CASCADE", "append-only"),
        ("UPDATE statements SET actor = 'eve' WHERE false", "append-only"),
        ("DELETE FROM ONLY subjects USING statements", "append-only"),
        (f"INSERT {row(11, hash=LAST)}", "append-only|unique"),
        ("INSERT INTO statements SELECT * FROM statements", "append-only"),
    ],
)
def test_postgres_refuses_what_only_it_knows(ledger, owner_of, sql, why):
    refused(ledger, owner_of(ledger), sql, why)


@pytest.mark.parametrize(
    ("slot", "kind"), [("NULL", "promotion"), ("'s'", "gate"), ("'s'", "approval")]
)
def test_the_database_lets_only_moves_name_a_slot(ledger, owner_of, slot, kind):
    supersedes = "NULL" if slot == "NULL" else 0
    sql = f"INSERT {row(11, kind=kind, slot=slot, supersedes=supersedes)}"
    refused(ledger, owner_of(ledger), sql, "(?i)check")


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
        (5, edit("body", f"x'{body_of(5).replace(b'5', b'6').hex()}'")),
        (5, edit("body", f"x'{body_of(5).hex()}20'")),
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
def test_verify_names_the_first_bad_row(ledger, owner_of, first_bad, statements):
    owner_of(ledger).tamper(*statements)
    said = f"statement {first_bad} of {re.escape(ledger.name)} "
    with pytest.raises(LedgerTampered, match=said) as found:
        ledger.verify()
    assert found.value.sequence == first_bad


def test_a_row_that_was_hashed_anew_does_not_fit_the_next_one(ledger, owner_of):
    (record,) = ledger.records(subject=sha256(b"5"))
    changed = replace(record, actor="eve")
    owner_of(ledger).tamper(*edit("actor", "'eve'"), *edit("hash", repr(changed.expected_hash())))
    with pytest.raises(LedgerTampered, match=r"statement 6 of .* does not continue the row before"):
        ledger.verify()


def test_missing_rows_are_said_to_be_missing(ledger, owner_of):
    owner_of(ledger).tamper("DELETE FROM statements WHERE sequence IN (5, 6)")
    with pytest.raises(LedgerTampered, match=r"statement 7 of .* stands where 5 should: rows are"):
        ledger.verify()


def test_a_rewritten_chain_is_not_seen_without_a_checkpoint_kept_elsewhere(ledger, owner_of):
    """By design: hashes without a secret show an edit, not a forgery by who knows the format."""
    before = ledger.records(limit=1)[0].hash
    owner_of(ledger).rewrite(
        lambda row: {"body": row["body"].replace(b"production", b"staging")}, since=4
    )
    assert ledger.verify() == 10
    assert ledger.records(limit=1)[0].hash != before


def test_a_ledger_cut_short_is_not_seen_without_a_checkpoint_kept_elsewhere(ledger, owner_of):
    """By design: a prefix of a ledger is a ledger."""
    owner_of(ledger).cut(7)
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
def test_even_a_rewritten_chain_must_be_of_right_statements(ledger, owner_of, change):
    owner_of(ledger).rewrite(change, since=6)
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


def test_the_stored_bytes_are_the_canonical_ones(ledger, owner_of):
    record = ledger.records(limit=1)[0]
    (stored,) = (
        owner_of(ledger).execute("SELECT body FROM statements WHERE sequence = 10").fetchone()
    )
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


TEXT = st.text()
MAYBE = st.none() | TEXT


@given(
    st.integers(1, 2**53 - 1), TEXT, TEXT, MAYBE, st.none() | st.integers(0, 2**53 - 1),
    st.binary(), MAYBE, TEXT,
)  # fmt: skip
def test_a_row_is_hashed_as_the_canonical_json_of_its_parts(
    sequence, at, actor, slot, supersedes, body, signature, previous
):
    found = row_hash(sequence, at, actor, slot, supersedes, body, signature, previous)
    parts = {"sequence": sequence, "recorded_at": at, "actor": actor, "slot": slot}
    parts |= {"supersedes": supersedes, "body": sha256(body), "signature": signature}
    assert found == digest(parts | {"previous_hash": previous})


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_names_that_not_every_database_can_keep_are_refused(ledger, name):
    for content, actor in (
        (about(11), name),
        (about(11, model=name), "test"),
        (statement("gate", {"artifact": name}, {"model": "m"}), "test"),
    ):
        with pytest.raises(LedgerError, match="no statement"):
            ledger.append(content, actor=actor)
    for how in ({"slot": name}, {"slot": SLOT, "signature": name}):
        with pytest.raises(LedgerError, match="no statement"):
            note(ledger, 11, "promotion", supersedes=8, **how)
    assert ledger.verify() == 10


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


def test_the_clock_is_the_ledgers(where):
    at = datetime(2030, 1, 31, 12, tzinfo=UTC)
    record = note(Ledger(where, clock=lambda: at), 1)
    assert record.recorded_at == instant(at) == "2030-01-31T12:00:00.000000Z"


def other_database(path):
    sqlite3.connect(path).execute("CREATE TABLE runs (id)")


def newer_ledger(path):
    note(Ledger(path), 1)
    sqlite3.connect(path).execute("PRAGMA user_version = 99")


def damaged_ledger(path):
    for number in range(50):
        note(Ledger(path), number)
    sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: path.write_bytes(b"not a database" * 100), "not a database"),
        (lambda path: path.mkdir(), "unable to open"),
        (other_database, "with runs"),
        (newer_ledger, "version 99"),
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


def test_a_locked_ledger_says_so(ledger, where):
    impatient = Ledger(where)
    wait = "PRAGMA busy_timeout = 1" if ledger.path else "SET lock_timeout = 1"
    impatient._connection().execute(wait)
    with ledger.transaction(), pytest.raises(LedgerError, match=r"locked|lock timeout"):
        note(impatient, 11)
    assert note(impatient, 11).sequence == 11


@pytest.mark.parametrize("where", ["sqlite"], indirect=True)
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


def test_a_ledger_shows_where_it_is(tmp_path):
    path = tmp_path / "ledger.db"
    assert repr(Ledger(path)) == f"Ledger('{path}')"


def test_a_ledger_in_sqlite_has_a_url_too(tmp_path):
    path = tmp_path / "ledger.db"
    note(Ledger(path), 1)
    assert Ledger(f"sqlite:///{path}").path == path
    assert Ledger(f"sqlite:///{path}").verify() == 1


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_ledger_in_postgres_has_no_path_and_shows_no_password(scheme):
    ledger = Ledger(f"{scheme}://ana:secret@localhost/ledgers")
    assert ledger.path is None
    assert "secret" not in repr(ledger)


@pytest.mark.parametrize("url", ["mysql:///a", "sqlite://a", "sqlite://", "sqlite:///", "://a"])
def test_a_url_of_something_else_is_refused(url):
    with pytest.raises(LedgerError, match=r"a ledger at .*://") as refused:
        Ledger(url)
    assert refused.value.fix


def test_the_kinds_of_statements_are_for_ever():
    first = "contract training evaluation gate shadow approval promotion rollback quarantine drill"
    assert set(KINDS) >= {*first.split(), "incident", "reconcile", "policy", "refusal"}
    assert MOVING == ("promotion", "rollback")


def test_a_record_is_plain_json(tmp_path):
    record = note(Ledger(tmp_path / "l"), 3, "promotion", slot=SLOT, supersedes=0, signature="s")
    plain = json.loads(json.dumps(record.to_dict()))
    assert plain.pop("statement") == about(3, "promotion")
    names = "sequence recorded_at actor slot supersedes signature previous_hash hash"
    assert plain == {n: getattr(record, n) for n in names.split()}


def test_a_ledger_makes_the_folders_that_it_lies_in(tmp_path):
    assert note(Ledger(tmp_path / "a" / "b" / "ledger.db"), 1).sequence == 1
