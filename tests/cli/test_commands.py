"""Every `mlct` command: what it answers, in text and in JSON, and with which exit code."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

import mlct
from mlct.errors import RegistryError
from mlct.release.ledger import statement
from mlct.training.recipe import Code

COMMANDS = (
    ["status"],
    ["show", "late"],
    ["show", "late@1", "--evidence"],
    ["history", "late"],
    ["explain", "late"],
    ["reconcile", "late"],
    ["verify"],
)


def answer(world: Any, *words: str) -> Any:
    """The JSON answer of a command that is done."""
    code, out, error = world.mlct(*words, "--json")
    assert (code, error) == (0, "")
    return json.loads(out)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_answers_in_text_and_in_json(succeeded, words):
    code, text, error = succeeded.mlct(*words)
    assert (code, error) == (0, "")
    assert text.strip()
    assert answer(succeeded, *words)


def test_status_says_what_is_live_and_what_waits(succeeded, trained):
    (row,) = answer(succeeded, "status")
    assert (row["version"], row["rollback_target"], row["by"]) == (2, 1, "promotion")
    assert row["approved_by"] == ["ana (model-risk)"]
    (row,) = answer(trained, "status")
    assert (row["version"], row["waits_for_approval"]) == (None, [1])
    assert "nothing" in trained.mlct("status")[1]


def test_status_says_that_another_slot_took_out_what_is_live_here(succeeded):
    ledger = succeeded.home.ledger
    says = {"model": "late", "slot": "eu", "version": 2, "reason": "bad"}
    (artifact,) = {t["artifact"] for t in succeeded.records("training") if t["version"] == 2}
    ledger.append(statement("quarantine", {"artifact": artifact}, says), actor="test")
    (row,) = answer(succeeded, "status")
    assert (row["version"], row["quarantined"]) == (2, "bad")
    assert "version 2 (quarantined)" in succeeded.mlct("status")[1]


def test_what_was_judged_against_an_older_champion_waits_no_more(live, boosted, spec):
    live.declare(estimator=boosted)
    assert live.retrain().success
    live.declare(seed=1)  # another recipe
    assert live.retrain().success
    assert answer(live, "status")[0]["waits_for_approval"] == [2, 3]
    live.approve(3)
    assert live.promote(3).success
    assert answer(live, "status")[0]["waits_for_approval"] == []


def test_request_finds_the_version_that_waits_behind_a_refused_one(live, boosted):
    live.declare(estimator=boosted)
    assert live.retrain().success
    wanted = mlct.Superiority("roc_auc", min_effect=0.5)
    live.declare(seed=1, gate=mlct.GatePolicy(primary=wanted))
    assert live.retrain().success
    assert answer(live, "show", "late@3")["verdict"] == "FAIL"
    assert answer(live, "request", "late")["version"] == 2


def test_status_of_an_empty_ledger_is_no_error(world):
    code, text, _ = world.mlct("status")
    assert (code, text.strip()) == (0, "the ledger is empty: nothing was trained yet")
    assert answer(world, "status") == []


def test_show_is_about_what_is_live_unless_told_otherwise(succeeded):
    assert answer(succeeded, "show", "late")["version"] == 2
    retired = answer(succeeded, "show", "late@1")
    assert (retired["version"], retired["state"]) == (1, "retired")
    assert retired["training"]["rows"] == 1500
    _, text, _ = succeeded.mlct("show", "late@2", "--evidence")
    assert "superiority" in text
    assert "ana (model-risk)" in text


def test_history_has_every_move_oldest_first(succeeded):
    succeeded.mlct("rollback", "late", "--reason", "alerts doubled", "--yes")
    rows = answer(succeeded, "history", "late")
    assert [(r["move"], r["version"]) for r in rows] == [
        ("promotion", 1),
        ("promotion", 2),
        ("rollback", 1),
    ]
    assert rows[-1]["reason"] == "alerts doubled"
    assert "alerts doubled" in succeeded.mlct("history", "late")[1]


@pytest.mark.parametrize("words", [("status",), ("verify",), ("history", "late")])
def test_a_question_in_the_wrong_folder_makes_no_ledger_there(tmp_path, capsys, words):
    from mlct.cli import main

    assert main([*words, "--home", str(tmp_path / "wrong")]) == 1
    assert "wrong does not exist" in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()


def test_history_of_an_empty_slot_says_so(trained):
    assert "nothing was ever live" in trained.mlct("history", "late")[1]


def test_explain_says_what_why_and_what_changed(succeeded):
    found = answer(succeeded, "explain", "late")
    assert (found["version"], found["before"], found["rollback_target"]) == (2, 1, 1)
    assert found["changed"] == [
        "features, parameters or estimator (compare recipe.json of the two runs)"
    ]
    text = succeeded.mlct("explain", "late")[1]
    assert "Approved by ana (model-risk)." in text
    assert "roc_auc" in text


def test_explain_gives_the_reasons_of_the_promotion_and_not_of_a_later_look(succeeded):
    before = answer(succeeded, "explain", "late")["verdict"]
    assert succeeded.retrain().success  # judges version 2 against itself
    assert answer(succeeded, "explain", "late")["verdict"] == before
    shown = answer(succeeded, "show", "late@2")
    assert (shown["verdict"], shown["reasons"]) == ("PASS", before)


def test_explain_at_an_earlier_time_says_what_was_live_then(succeeded):
    first, second = (row["at"] for row in answer(succeeded, "history", "late"))
    then = answer(succeeded, "explain", "late", "--at", first)
    assert (then["version"], then["before"]) == (1, None)
    assert answer(succeeded, "explain", "late", "--at", second)["version"] == 2
    code, _, error = succeeded.mlct("explain", "late", "--at", "2001-01-01")
    assert code == 1
    assert "nothing was live in 'production' of late at 2001-01-01" in error


def test_request_prints_what_would_be_approved(trained):
    asked = answer(trained, "request", "late")
    assert (asked["version"], asked["verdict"], asked["approvals"]) == (1, "PASS", [])
    text = trained.mlct("request", "late@1")[1]
    for said in ("late@1 for slot 'production'", "risk tier", asked["evidence"], "roc_auc"):
        assert said in text


def test_approve_shows_the_evidence_signs_and_says_what_is_next(trained):
    code, text, _ = trained.mlct("approve", "late@1", "--key", str(trained.key), "--yes")
    assert code == 0
    assert "roc_auc" in text
    assert "ana (model-risk) signed: approve late@1. Approvals are complete." in text
    assert "launch late_promotion" in text
    assert "{ops: {late_promote: {config: {version: 1, slot: production}}}}" in text
    (given,) = answer(trained, "request", "late")["approvals"]
    assert (given["approver"], given["counts"]) == ("ana", True)


def test_where_the_author_counts_nobody_signs_in_vain(trained, monkeypatch):
    nobody = Code(commit="", dirty=False, author="")
    monkeypatch.setattr("mlct.defs.assets.challenger.code_state", lambda *_: nobody)
    trained.declare(risk_tier="medium", seed=1)
    assert trained.retrain().success
    told = "late@2 cannot be promoted: nobody is known as the author of late@2. Set MLCT_ACTOR"
    assert told in trained.mlct("request", "late@2")[1]
    code, text, _ = trained.mlct("approve", "late@2", "--key", str(trained.key), "--yes")
    assert code == 0
    assert f"ana (model-risk) signed: approve late@2, but {told}" in text
    assert "complete" not in text


def test_approve_in_json_prints_nothing_but_json(trained):
    found = answer(trained, "approve", "late@1", "--key", str(trained.key), "--yes")
    assert (found["approver"], found["counts"], found["problem"]) == ("ana", True, "")


def test_reject_keeps_a_version_out(trained, why):
    words = ["reject", "late@1", "--key", str(trained.key), "--yes", "--reason", "too few trams"]
    code, text, _ = trained.mlct(*words)
    assert code == 0
    assert "It will not be promoted" in text
    done = trained.promote(1)
    assert not done.success
    assert "rejected by ana: too few trams" in why(done)


def test_rollback_repoints_the_slot(succeeded):
    code, text, _ = succeeded.mlct("rollback", "late", "--reason", "alerts doubled", "--yes")
    assert code == 0
    assert text.startswith("late@1 is live in 'production'; version 2 is quarantined")
    assert "DAGSTER_HOME is not set" in text
    assert succeeded.home.registry.alias("late", "production") == 1


def test_rollback_tells_dagster_where_dagster_home_is_set(succeeded, tmp_path, monkeypatch):
    folder = tmp_path / "dagster_home"
    folder.mkdir()
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}")
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    code, text, _ = succeeded.mlct("rollback", "late", "--reason", "alerts doubled", "--yes")
    assert (code, "Dagster UI" in text) == (0, False)
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(["late", "champion"]))
    assert event.asset_materialization.metadata["version"].value == 1
    assert event.asset_materialization.metadata["move"].value == "rollback"


def test_a_rollback_is_done_also_when_dagster_cannot_be_told(succeeded, tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "nowhere"))
    code, text, _ = succeeded.mlct("rollback", "late", "--reason", "alerts doubled", "--yes")
    assert code == 0
    assert "late@1 is live" in text
    assert "the Dagster UI was not told: " in text


def test_a_rollback_is_done_also_when_mlflow_is_down(succeeded, monkeypatch):
    from mlct.adapters.mlflow_registry import MlflowRegistry

    def down(*_: Any) -> None:
        raise RegistryError("MLflow could not move the alias")

    monkeypatch.setattr(MlflowRegistry, "set_alias", down)
    code, text, _ = succeeded.mlct("rollback", "late", "--reason", "alerts doubled", "--yes")
    assert code == 0
    assert "late@1 is live" in text
    assert "MLflow stayed behind, run `mlct reconcile late`" in text
    monkeypatch.undo()
    found = answer(succeeded, "reconcile", "late")
    assert (found["ledger"], found["before"], found["after"]) == (1, 2, 1)


def test_reconcile_repairs_an_alias_that_somebody_moved(succeeded):
    succeeded.home.registry.set_alias("late", "production", 1)
    code, text, _ = succeeded.mlct("reconcile", "late")
    assert code == 0
    assert "pointed at 1; it points at version 2 again" in text
    assert succeeded.home.registry.alias("late", "production") == 2
    assert "as the ledger says" in succeeded.mlct("reconcile", "late")[1]


def test_reconcile_without_a_champion_has_nothing_to_do(trained):
    assert "no alias to repair" in trained.mlct("reconcile", "late")[1]


def test_verify_counts_statements_and_checks_the_live_bytes(live):
    found = answer(live, "verify")
    assert (found["statements"], found["live"]) == (live.home.ledger.verify(), ["late@1"])


def test_verify_names_the_row_that_was_tampered_with(live):
    with sqlite3.connect(live.root / "ledger.db") as ledger:
        ledger.execute("DROP TRIGGER never_updated")
        ledger.execute("UPDATE statements SET actor = 'mallory' WHERE sequence = 3")
    code, _, error = live.mlct("verify")
    assert code == 1
    assert "statement 3 of" in error
    code, out, _ = live.mlct("verify", "--json")
    refused = json.loads(out)
    assert (code, refused["error"]) == (1, "LedgerTampered")


def test_verify_names_bytes_that_were_changed(live):
    (said,) = live.records("training")
    path = live.root / "approved" / "objects" / said["artifact"][:2] / said["artifact"]
    path.write_text("{}")
    code, _, error = live.mlct("verify")
    assert code == 1
    assert said["artifact"] in error


KEY = ["--key", "KEY", "--yes"]
REFUSED = {
    "unknown model": (["show", "early"], "the ledger knows no model 'early'. Expected late"),
    "unknown model, history": (["history", "early"], "no model 'early'"),
    "unknown model, explain": (["explain", "early"], "no model 'early'"),
    "no such version": (["show", "late@7"], "late has no version 7. Expected one of 1"),
    "request of no version": (["request", "late@7"], "late@7 has no gate statement"),
    "approve no version": (["approve", "late@7", *KEY], "late@7 has no gate statement"),
    "nothing live": (["explain", "late"], "nothing was live in 'production' of late yet"),
    "another slot": (["explain", "late", "--slot", "canary"], "nothing was live in 'canary'"),
    "rollback to nowhere": (["rollback", "late", "--reason", "x", "--yes"], "nothing is live"),
    "no terminal": (["approve", "late@1", "--key", "KEY"], "standard input is not a terminal"),
    "unknown key": (["approve", "late@1", "--key", "STRANGER", "--yes"], "belongs to no approver"),
    "no key file": (["approve", "late@1", "--key", "/nowhere", "--yes"], "/nowhere"),
    "not their role": (["approve", "late@1", *KEY, "--role", "product"], "role 'product'"),
    "too long": (["approve", "late@1", *KEY, "--expires", "90d"], "a lifetime of 90 days"),
}


@pytest.mark.parametrize(("words", "told"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_refused_with_exit_code_1(trained, tmp_path, words, told):
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    stranger = tmp_path / "stranger"
    form = (s.Encoding.PEM, s.PrivateFormat.OpenSSH, s.NoEncryption())
    stranger.touch(mode=0o600)
    stranger.write_bytes(Ed25519PrivateKey.generate().private_bytes(*form))
    before = trained.home.ledger.verify()
    files = {"KEY": str(trained.key), "STRANGER": str(stranger)}
    words = [files.get(word, word) for word in words]
    code, out, error = trained.mlct(*words)
    assert code == 1
    assert error.startswith("refused: ")
    assert told in error
    code, out, _ = trained.mlct(*words, "--json")
    assert code == 1
    assert told in json.loads(out)["refused"]
    assert trained.home.ledger.verify() == before


USAGE = {
    "no command": [],
    "unknown command": ["deploy", "late"],
    "no model": ["show"],
    "malformed version": ["show", "late@x"],
    "empty version": ["show", "late@"],
    "negative version": ["show", "late@-1"],
    "empty model": ["show", "@1"],
    "approve without a version": ["approve", "late", "--key", "k"],
    "approve without a key": ["approve", "late@1"],
    "reject without a reason": ["reject", "late@1", "--key", "k"],
    "rollback without a reason": ["rollback", "late"],
    "rollback to a version": ["rollback", "late@1", "--reason", "x"],
    "history of a version": ["history", "late@1"],
    "no such time": ["explain", "late", "--at", "yesterday"],
    "no such lifetime": ["approve", "late@1", "--key", "k", "--expires", "soon"],
}


@pytest.mark.parametrize("words", USAGE.values(), ids=USAGE)
def test_wrong_usage_has_exit_code_2(world, words):
    code, _, error = world.mlct(*words)
    assert code == 2
    assert "usage: mlct" in error


@pytest.mark.parametrize(
    ("words", "meant"),
    [("shwo late", "show"), ("policy shw", "show"), ("drill late --scenario rolback", "rollback")],
)
def test_a_misspelt_word_is_told_the_nearest(world, words, meant):
    assert f"did you mean {meant!r}?" in world.mlct(*words.split())[2]
    assert "did you mean" not in world.mlct("xyz")[2]


def test_the_version_is_told(world):
    assert world.mlct("--version")[:2] == (0, f"mlct {mlct.__version__}\n")


def test_a_model_without_a_version_yet_says_so(world, trips):
    rows = trips()
    world.feed(rows.set_column(6, "stops", [[99] * rows.num_rows]))
    assert not world.retrain().success  # the contract: the ledger knows the model, nothing more
    code, _, error = world.mlct("show", "late")
    assert code == 1
    assert "late has no version yet" in error


def test_no_at_the_prompt_signs_nothing(trained, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    before = trained.home.ledger.verify()
    code, _, error = trained.mlct("approve", "late@1", "--key", str(trained.key))
    assert (code, error.strip()) == (1, "refused: nothing was signed or moved")
    assert trained.home.ledger.verify() == before


def test_yes_at_the_prompt_signs(trained, monkeypatch):
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "y")
    code, _, _ = trained.mlct("approve", "late@1", "--key", str(trained.key))
    assert code == 0
    assert asked == ["Approve late@1? [y/N] "]


def test_a_home_given_in_words_keeps_the_other_settings(trained, tmp_path, monkeypatch):
    elsewhere = tmp_path / "people.yaml"
    (trained.root / "approvals.yaml").rename(elsewhere)
    monkeypatch.setenv("MLCT_APPROVERS", str(elsewhere))
    code, _, error = trained.mlct("approve", "late@1", "--key", str(trained.key), "--yes")
    assert code == 0, error


READING = (
    "status",
    "show late --evidence",
    "history late",
    "explain late",
    "request late@2",
    "verify",
)


def test_reading_loads_no_heavy_library(succeeded):
    code = f"""
import sys
from mlct.cli import main
for line in {READING!r}:
    assert main([*line.split(), "--home", {str(succeeded.root)!r}]) in (0, 1), line
heavy = ["mlflow", "dagster", "lightgbm", "sklearn", "pandas", "great_expectations", "matplotlib"]
print("loaded:", *[name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "loaded:"


def test_the_command_is_installed(live):
    command = Path(sys.executable).with_name("mlct")
    done = subprocess.run(
        [command, "status", "--home", str(live.root)], capture_output=True, text=True, check=True
    )
    assert "version 1" in done.stdout
