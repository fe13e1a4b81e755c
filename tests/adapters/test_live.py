"""What scores is what the ledger names, byte for byte; when in doubt, the last good one."""

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlct
from mlct.errors import (
    LedgerError,
    LedgerTampered,
    LoadRefused,
    MlctError,
    SnapshotCorrupted,
    SnapshotMissing,
    SpecError,
)
from mlct.release.ledger import Ledger
from mlct.release.slot.rollback import STAYS
from mlct.training import fit


@pytest.fixture
def follow(request):
    """`follow(world, **words)`: load_live that is closed afterwards."""
    opened = []

    def load(world: Any, **words: Any) -> Any:
        words = {"refresh": None, "home": world.home} | words
        opened.append(mlct.load_live("late", **words))
        return opened[-1]

    yield load
    for live in opened:
        live.close()


def rows(world: Any) -> Any:
    return world.rows.slice(0, 40)


def spoil(root: Path, *, name: str = "", how: str = "changed") -> int:
    """Damage the objects of a store, or those of one digest; returns how many."""
    found = [p for p in root.rglob("*") if p.is_file() and p.parent.parent.name == "objects"]
    found = [p for p in found if not name or p.name == name]
    for path in found:
        if how == "changed":
            path.write_bytes(bytes(reversed(path.read_bytes())))
        else:
            path.unlink()
    return len(found)


def artifact(world: Any, version: int) -> str:
    return next(t["artifact"] for t in world.records("training") if t["version"] == version)


def roll_back(world: Any) -> None:
    code, _, error = world.mlct("rollback", "late", "--reason", "bad", "--yes")
    assert code == 0, error


def test_it_scores_as_the_live_version_and_says_who_approved_it(succeeded, follow):
    live = follow(succeeded)
    direct = fit.unpack(fit.kept(succeeded.home.store, artifact(succeeded, 2)))
    assert np.array_equal(live.score(rows(succeeded)), direct.score(rows(succeeded)))
    row = rows(succeeded).slice(3, 1).to_pylist()[0]
    assert live.score_row(row) == direct.score_row(row)
    assert (live.version, live.artifact) == (2, artifact(succeeded, 2))
    assert live.approvers == ("ana (model-risk)",)
    assert live.since == succeeded.home.ledger.head("late@production").recorded_at
    assert live.problem == ""


def test_it_follows_a_rollback_and_scores_like_the_old_version(succeeded, follow):
    live = follow(succeeded)
    before = live.current
    roll_back(succeeded)
    assert live.version == 2
    assert live.refresh()
    assert live.version == 1
    direct = fit.unpack(fit.kept(succeeded.home.store, artifact(succeeded, 1)))
    assert np.array_equal(live.score(rows(succeeded)), direct.score(rows(succeeded)))
    assert before.version == 2  # a request that took it goes on with it


def test_a_thread_follows_by_itself(succeeded, follow):
    switched = threading.Event()
    live = follow(succeeded, refresh="1s", watch=lambda live: live.version == 1 and switched.set())
    roll_back(succeeded)
    assert switched.wait(30)
    assert live.score(rows(succeeded)).shape == (40,)


@pytest.mark.parametrize("alias", [1, None], ids=["moved", "deleted"])
def test_the_alias_of_mlflow_changes_nothing(succeeded, follow, alias):
    live = follow(succeeded)
    registry = succeeded.home.registry
    registry.delete_alias("late", "production")
    if alias:
        registry.set_alias("late", "production", alias)
    assert live.refresh()
    assert live.version == follow(succeeded).version == 2


def own_mlflow(world: Any) -> None:
    """A copied world's MLflow still names the files of the first: name those of the copy."""
    with sqlite3.connect(world.root / "mlflow.db") as database:
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("logged_models", "artifact_location"),
        ):
            for (old,) in database.execute(f"SELECT {column} FROM {table}").fetchall():
                _, mark, rest = old.partition("/mlflow-artifacts")
                new = f"{world.root.as_uri()}{mark}{rest}"
                if mark:
                    update = f"UPDATE {table} SET {column} = ? WHERE {column} = ?"
                    database.execute(update, [new, old])
    database.close()


def overwrite_mlflow(world: Any) -> None:
    for path in (world.root / "mlflow-artifacts").rglob("model.txt"):
        path.write_text("evil")


def delete_mlflow(world: Any) -> None:
    shutil.rmtree(world.root / "mlflow-artifacts")


def collect_mlflow(world: Any) -> None:
    """`mlflow gc` takes the files of a registered version whose logged model was deleted."""
    client = world.home.registry.client
    for version in client.search_model_versions("name = 'late'"):
        client.delete_logged_model(version.source.removeprefix("models:/"))
        client.delete_run(version.run_id)
    uri = world.home.registry.tracking_uri
    gc = [str(Path(sys.executable).parent / "mlflow"), "gc", "--backend-store-uri", uri]
    done = subprocess.run(
        gc, env=os.environ | {"MLFLOW_TRACKING_URI": uri}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not list((world.root / "mlflow-artifacts").rglob("model.txt"))


def damage_training(world: Any) -> None:
    assert spoil(world.root / "store")


def clean_training(world: Any) -> None:
    shutil.rmtree(world.root / "store")


@pytest.mark.parametrize(
    "harm", [overwrite_mlflow, delete_mlflow, collect_mlflow, damage_training, clean_training]
)
def test_what_happens_to_mlflow_and_to_what_training_wrote_changes_nothing(live, follow, harm):
    own_mlflow(live)
    assert live.home.registry.artifact("late", 1) == artifact(live, 1)
    expected = fit.unpack(fit.kept(live.home.store, artifact(live, 1))).score(rows(live))
    harm(live)
    assert np.array_equal(follow(live).score(rows(live)), expected)
    assert live.home.approved_files(artifact(live, 1))


def test_without_the_approved_copy_the_cache_of_this_machine_serves(live, follow):
    first = follow(live)
    for name in ("approved", "store"):
        shutil.rmtree(live.root / name)
    again = follow(live)
    assert np.array_equal(again.score(rows(live)), first.score(rows(live)))


def test_a_damaged_cache_is_passed_over_and_mended(live, follow):
    follow(live)
    assert spoil(live.root / "cache") == 3
    follow(live)
    assert fit.kept(mlct.Home(root=str(live.root)).models.cache, artifact(live, 1))


@pytest.mark.parametrize(
    ("how", "error"), [("changed", SnapshotCorrupted), ("gone", SnapshotMissing)]
)
def test_bytes_that_nobody_has_right_are_not_loaded(live, follow, how, error):
    for name in ("approved", "store"):
        assert spoil(live.root / name, name=artifact(live, 1), how=how)
    with pytest.raises(error):
        follow(live)


def test_bytes_that_do_not_match_leave_the_last_good_version_and_one_warning(
    succeeded, follow, caplog
):
    live = follow(succeeded)
    expected = live.score(rows(succeeded))
    for name in ("approved", "store"):
        spoil(succeeded.root / name, name=artifact(succeeded, 1))
    shutil.rmtree(succeeded.root / "cache")
    # As a rollback by a machine that still had them.
    moved(succeeded, 1)
    seen = []
    live._watch = lambda live: seen.append((live.version, live.problem))
    with caplog.at_level(logging.WARNING, "mlct.live"):
        assert [live.refresh() for _ in range(3)] == [False] * 3
    assert live.version == 2
    assert live.problem.startswith("SnapshotCorrupted: ")
    assert np.array_equal(live.score(rows(succeeded)), expected)
    assert len(caplog.records) == 1
    assert "late@production keeps version 2" in caplog.text
    assert seen == [(2, live.problem)] * 3
    # Once the bytes are back it follows.
    shutil.rmtree(succeeded.root / "approved")
    files = repack(succeeded, 1)
    assert fit.keep(succeeded.home.approved_store, files) == artifact(succeeded, 1)
    assert live.refresh()
    assert (live.version, live.problem) == (1, "")


def repack(world: Any, version: int) -> dict[str, bytes]:
    """The files of a version as MLflow keeps them."""
    client = world.home.registry.client
    source = client.get_model_version("late", str(version)).source.removeprefix("models:/")
    (folder,) = (world.home.path / "mlflow-artifacts").rglob(f"{source}/**/mlct")
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def moved(world: Any, version: int, **changes: Any) -> Any:
    """A rollback statement, as `roll_back` writes it."""
    from mlct.release.ledger import statement

    head = world.home.ledger.head("late@production")
    origin = next(p for p in world.records("promotion") if p["version"] == version)
    says = {n: origin[n] for n in ("model", "slot", "version", *STAYS)}
    says |= {"replaces": head.predicate["version"], "reason": "test"}
    content = statement("rollback", {"artifact": says["artifact"]}, says | changes)
    slot = changes.get("ledger_slot", "late@production")
    return world.home.ledger.append(content, actor="x", slot=slot, supersedes=head.sequence)


def test_while_the_ledger_is_down_the_last_good_version_scores(succeeded, follow, monkeypatch):
    live = follow(succeeded)
    confirmed = live.checked

    def down(*_: Any) -> None:
        raise LedgerError("the ledger cannot be used: disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "head", down)
        assert not live.refresh()
        assert live.problem == "LedgerError: the ledger cannot be used: disk I/O error"
        assert (live.version, live.checked) == (2, confirmed)
        with pytest.raises(LedgerError):  # the first load has nothing to fall back to
            follow(succeeded)
    assert live.refresh()
    assert live.checked > confirmed


def tamper(world: Any, **columns: Any) -> None:
    """Write to the last move as somebody with the file does, past the triggers."""
    head = world.home.ledger.head("late@production").sequence
    with sqlite3.connect(world.root / "ledger.db") as database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            database.execute(f"DROP TRIGGER {name}")
        for name, value in columns.items():
            database.execute(f"UPDATE statements SET {name} = ? WHERE sequence = ?", [value, head])
    database.close()


def test_a_tampered_move_is_not_followed_and_not_loaded(succeeded, follow):
    live = follow(succeeded)
    roll_back(succeeded)
    head = succeeded.home.ledger.head("late@production")
    tamper(succeeded, body=head.body.replace(b'"reason":"bad"', b'"reason":"new"'))
    assert not live.refresh()
    assert (live.version, live.problem.partition(":")[0]) == (2, "LedgerTampered")
    with pytest.raises(LedgerTampered):
        follow(succeeded)


@pytest.mark.parametrize("changes", [{"model": "other"}, {"slot": "staging"}])
def test_a_move_that_speaks_of_something_else_is_refused(succeeded, follow, changes):
    live = follow(succeeded)
    moved(succeeded, 1, **changes)
    assert not live.refresh()
    assert "LoadRefused: statement" in live.problem
    assert live.version == 2


def test_it_never_goes_back_to_an_older_ledger(succeeded, follow, tmp_path):
    live = follow(succeeded)
    older = Ledger(succeeded.root / "ledger.db")
    with sqlite3.connect(succeeded.root / "ledger.db") as database:
        copied = sqlite3.connect(tmp_path / "copy.db")
        database.backup(copied)
        copied.close()
    database.close()
    roll_back(succeeded)
    assert live.refresh()
    assert live.version == 1
    older = mlct.Home(root=str(tmp_path))
    (tmp_path / "copy.db").rename(tmp_path / "ledger.db")
    live.home = older
    assert not live.refresh()
    assert (live.version, live.problem.partition(":")[0]) == (1, "LoadRefused")
    assert "restored from an older backup" in live.problem


def test_nothing_live_is_refused_by_name(trained, follow):
    with pytest.raises(LoadRefused, match="nothing live in 'production' of late"):
        follow(trained)
    with pytest.raises(LoadRefused, match="'staging'"):
        follow(trained, slot="staging")


@pytest.mark.parametrize("refresh", ["0s", "soon", 10])
def test_a_refresh_that_is_no_duration_is_refused(live, follow, refresh):
    with pytest.raises(SpecError, match="refresh"):
        follow(live, refresh=refresh)


def test_a_watch_that_fails_does_not_stop_it(succeeded, follow, caplog):
    def broken(_: Any) -> None:
        raise RuntimeError("no metrics today")

    live = follow(succeeded, watch=broken)
    roll_back(succeeded)
    assert live.refresh()
    assert live.version == 1
    assert "the watch of late@production failed" in caplog.text


def test_requests_never_wait_for_a_refresh_and_never_see_half_of_a_switch(
    succeeded, follow, monkeypatch
):
    live = follow(succeeded)
    table, known = rows(succeeded), {}
    for version in (1, 2):
        model = fit.unpack(fit.kept(succeeded.home.store, artifact(succeeded, version)))
        known[version] = model.score(table)
    roll_back(succeeded)
    entered, go_on = threading.Event(), threading.Event()
    unpack = fit.unpack

    def slow(*words: Any, **named: Any) -> Any:
        entered.set()
        assert go_on.wait(30)
        return unpack(*words, **named)

    monkeypatch.setattr(fit, "unpack", slow)
    wrong, done = [], threading.Event()

    def requests() -> None:
        while not done.is_set():
            now = live.current
            if not np.array_equal(now.score(table), known[now.version]):
                wrong.append(now.version)

    threads = [threading.Thread(target=requests) for _ in range(3)]
    threads += [threading.Thread(target=live.refresh)]
    for thread in threads:
        thread.start()
    assert entered.wait(30)
    for _ in range(20):  # the refresh hangs in the middle of loading
        assert np.array_equal(live.score(table), known[2])
    go_on.set()
    threads[-1].join(30)
    assert live.version == 1
    done.set()
    for thread in threads:
        thread.join(30)
    assert wrong == []


def test_a_forked_worker_goes_on_following(succeeded, follow):
    """A server that loads before it forks: without a thread of its own it would stay behind."""
    live = follow(succeeded, refresh="1s")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        ends = time.monotonic() + 30
        while live.version == 2 and time.monotonic() < ends:
            time.sleep(0.05)
        os.write(writer, b"%d" % live.version)
        os._exit(0)
    roll_back(succeeded)
    os.waitpid(child, 0)
    assert os.read(reader, 1) == b"1"


def test_what_nobody_uses_any_more_stops_following(live):
    name = "mlct-live-late@production"
    one = mlct.load_live("late", home=live.home, refresh="1s")
    two = mlct.load_live("late", home=live.home, refresh="1s")
    assert [t.name for t in threading.enumerate()].count(name) == 2
    one.close()
    del two
    ends = time.monotonic() + 30
    while name in [t.name for t in threading.enumerate()] and time.monotonic() < ends:
        time.sleep(0.05)
    assert name not in [t.name for t in threading.enumerate()]
    assert one.score(rows(live)).shape == (40,)


def test_it_needs_neither_mlflow_nor_dagster(live):
    code = """
import sys, mlct
live = mlct.load_live("late", home=mlct.Home(root=sys.argv[1]), refresh=None)
print(live.version, {"mlflow", "dagster", "great_expectations"} & set(sys.modules))
"""
    run = [sys.executable, "-c", code, str(live.root)]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.stdout == "1 set()\n", done.stderr


def test_every_refusal_is_an_error_of_mlct():
    assert issubclass(LoadRefused, MlctError)


def test_the_threshold_comes_and_goes_with_its_version(live, follow, boosted):
    serving = follow(live)
    assert serving.threshold is None
    live.declare(estimator=boosted, threshold=0.35)
    assert live.retrain().success
    live.approve(2)
    assert live.promote(2).success
    assert serving.refresh()
    assert (serving.version, serving.threshold, serving.current.threshold) == (2, 0.35, 0.35)
    code, _, error = live.mlct("rollback", "late", "--reason", "it was bad", "--yes")
    assert code == 0, error
    assert serving.refresh()
    assert (serving.version, serving.threshold) == (1, None)
