"""Where checkpoints are kept: a folder, a git repository, an object store."""

import subprocess
import uuid

import pytest

from mlct.adapters.checkpoints import Checkpoints
from mlct.errors import LedgerError


@pytest.fixture(params=["folder", "url"])
def place(request, tmp_path):
    if request.param == "url":
        return f"memory://{uuid.uuid4().hex}/anchors"
    return str(tmp_path / "new" / "anchors")


def test_notes_are_read_back_in_order(place):
    kept = Checkpoints(place)
    assert kept.read() == []
    for size in (9, 10, 100):
        kept.write(b"note %d" % size, size=size)
    assert Checkpoints(place).read() == [b"note 9", b"note 10", b"note 100"]


def test_one_file_is_one_note(place):
    path = Checkpoints(place).write(b"note", size=3)
    where = place.rpartition("/anchors")[0] + "/anchors/" + path.rpartition("/")[2]
    assert Checkpoints(where).read() == [b"note"]


def test_a_note_is_never_replaced(place):
    kept = Checkpoints(place)
    path = kept.write(b"note", size=3)
    assert kept.write(b"note", size=3) == path
    with pytest.raises(LedgerError, match="holds another note"):
        kept.write(b"other", size=3)
    assert kept.read() == [b"note"]


def test_a_crash_while_writing_leaves_no_half_note(tmp_path, monkeypatch):
    kept = Checkpoints(str(tmp_path))
    monkeypatch.setattr(type(kept.fs), "mv", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(LedgerError, match="cannot be written"):
        kept.write(b"note", size=3)
    assert kept.read() == []


def git(folder, *words):
    run = ["git", "-C", str(folder), *words]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout.split("\n")[:-1]


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "--quiet")
    for name, value in (("name", "x"), ("email", "x@example.org")):
        git(tmp_path, "config", f"user.{name}", value)
    return tmp_path


def test_a_git_repository_gets_a_commit_for_each(repository):
    kept = Checkpoints(str(repository))
    for size in (1, 2, 2):
        kept.write(b"note %d" % size, size=size)
    assert git(repository, "log", "--format=%s") == [
        "ledger checkpoint of 2 statements",
        "ledger checkpoint of 1 statements",
    ]
    assert git(repository, "status", "--porcelain") == []


def test_what_others_staged_is_not_committed(repository):
    (repository / "theirs").write_text("x")
    git(repository, "add", "theirs")
    Checkpoints(str(repository)).write(b"note\n", size=1)
    assert git(repository, "status", "--porcelain") == ["A  theirs"]
    assert git(repository, "show", "HEAD:000000000001.checkpoint") == ["note"]


def test_a_commit_that_failed_is_made_the_next_time(repository):
    hook = repository / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho not today >&2\nexit 1\n")
    hook.chmod(0o755)
    kept = Checkpoints(str(repository))
    with pytest.raises(LedgerError, match="not today"):
        kept.write(b"note", size=1)
    hook.unlink()
    kept.write(b"note", size=1)
    assert len(git(repository, "log", "--format=%s")) == 1
