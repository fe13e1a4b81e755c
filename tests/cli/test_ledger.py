"""`mlct checkpoint` and `mlct verify --checkpoint`, by the command line."""

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from mlct.adapters.home import Home
from mlct.cli import main
from mlct.errors import LedgerError, LedgerTampered
from mlct.release.ledger import statement


@pytest.fixture
def home(tmp_path):
    made = Home(root=str(tmp_path / "home"))
    for number in range(5):
        append(made, number)
    return made


def append(home, number):
    says = {"model": "m", "version": number}
    home.ledger.append(statement("training", {"artifact": str(number)}, says), actor="test")


@pytest.fixture
def key(tmp_path, write_key):
    public = write_key(tmp_path / "key")
    (tmp_path / "key.pub").write_text(public)
    return tmp_path / "key"


@pytest.fixture
def run(home, capsys):
    def call(*words):
        code = main([*words, "--home", home.root])
        told = capsys.readouterr()
        return code, told.out + told.err

    return call


def cut(home):
    with sqlite3.connect(home.ledger.path) as connection:
        for name in ("never_deleted", "subjects_never_deleted"):
            connection.execute(f"DROP TRIGGER {name}")
        for table in ("subjects", "statements"):
            connection.execute(f"DELETE FROM {table} WHERE sequence > 3")


def test_a_checkpoint_is_written_and_compared(home, key, run, tmp_path):
    where = str(tmp_path / "outside")
    code, told = run("checkpoint", "--key", str(key), "--to", where, "--json")
    assert code == 0
    told = json.loads(told)
    assert told["statements"] == 5
    assert Path(told["written"]).name == "000000000005.checkpoint"
    append(home, 6)
    for public in (f"{key}.pub", told["verifier"]):
        code, said = run("verify", "--checkpoint", where, "--key", public)
        assert (code, "the first 5 are those that were signed for" in said) == (0, True), said
    assert run("verify", "--checkpoint", told["written"], "--key", f"{key}.pub")[0] == 0


def test_a_ledger_cut_short_is_refused_and_not_signed_for(home, key, run, tmp_path):
    where = str(tmp_path / "outside")
    run("checkpoint", "--key", str(key), "--to", where)
    cut(home)
    assert run("verify")[0] == 0  # a prefix of a ledger is a ledger
    for words in (
        ("verify", "--checkpoint", where, "--key", f"{key}.pub"),
        ("checkpoint", "--key", str(key), "--to", where),
    ):
        code, told = run(*words)
        assert code == 1
        assert "the rows from 4 on were cut off" in told


@pytest.mark.parametrize("words", [("--checkpoint", "x"), ("--key", "x")])
def test_half_of_what_is_needed_is_refused(run, words):
    code, told = run("verify", *words)
    assert (code, "both, or neither" in told) == (1, True)


def test_a_place_without_checkpoints_is_refused(run, key, tmp_path):
    code, told = run("verify", "--checkpoint", str(tmp_path / "none"), "--key", f"{key}.pub")
    assert (code, "no checkpoint" in told) == (1, True)


def test_no_place_is_refused(run, key):
    code, told = run("checkpoint", "--key", str(key))
    assert (code, "MLCT_CHECKPOINT" in told) == (1, True)


def test_the_environment_names_checkpoints_for_whoever_promotes(
    home, key, run, tmp_path, monkeypatch
):
    assert home.require_checkpoint() is None
    monkeypatch.setenv("MLCT_CHECKPOINT", str(tmp_path / "outside"))
    monkeypatch.setenv("MLCT_CHECKPOINT_KEY", f"{key}.pub")
    told = replace(Home.from_environment(), root=home.root)
    with pytest.raises(LedgerError, match="no checkpoint"):
        told.require_checkpoint()
    assert run("checkpoint", "--key", str(key))[0] == 0
    assert told.require_checkpoint().size == 5
    cut(home)
    with pytest.raises(LedgerTampered, match="cut off"):
        told.require_checkpoint()
    assert run("verify")[0] == 1


def test_the_ledger_is_where_the_environment_says(postgres, monkeypatch, run, tmp_path):
    url = postgres()
    monkeypatch.setenv("MLCT_LEDGER", url)
    home = Home.from_environment()
    append(home, 1)
    assert run("verify") == (0, "1 statements hold\n")
    assert url not in repr(home)
    for where in (str(tmp_path / "l.db"), f"sqlite:///{tmp_path / 'l.db'}"):
        assert Home(root="x", ledger_url=where).ledger.path == tmp_path / "l.db"


def test_dagster_gets_the_whole_home_and_shows_no_secret():
    import mlct
    from mlct.defs.resources import MlctHome

    fields = {n: f"{n}-x" for n in Home.__dataclass_fields__}
    made = mlct.build_resources(Home(**fields))["mlct"].resource_fn(None)
    assert isinstance(made, MlctHome)
    assert made.home == Home(**fields)
    assert "ledger_url-x" not in repr(made)
