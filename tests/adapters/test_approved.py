"""What people approve is copied when they do, verified, and read from the copy."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import mlct
from mlct.adapters.object_store import Nearest, ObjectStore
from mlct.data.digest import sha256
from mlct.errors import SnapshotCorrupted, SnapshotMissing
from mlct.training import fit


@pytest.fixture
def home(tmp_path) -> mlct.Home:
    return mlct.Home(root=str(tmp_path))


FILES = {"serving.json": b"{}", "model.txt": b"tree" * 100}


def path(store: ObjectStore, digest: str) -> Path:
    return Path(store._path(digest))


def sign(world: Any, *words: str) -> tuple[int, str, str]:
    return world.mlct(*words, "late@1", "--key", str(world.key), "--yes")


def test_an_approval_copies_the_model_and_a_rejection_does_not(trained):
    (said,) = trained.records("training")
    assert sign(trained, "reject", "--reason", "no")[0] == 0
    assert not (trained.root / "approved").exists()
    assert sign(trained, "approve")[0] == 0
    files = trained.home.approved_files(said["artifact"])
    assert fit.artifact_digest(files) == said["artifact"]


@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_bytes_that_are_not_right_cannot_be_approved(trained, harm):
    (said,) = trained.records("training")
    damaged = path(trained.home.store, said["artifact"])
    damaged.unlink() if harm == "gone" else damaged.write_text("{}")
    code, _, error = sign(trained, "approve")
    assert (code, said["artifact"] in error) == (1, True)
    assert trained.records("approval") == []


def test_a_copy_that_cannot_be_written_means_no_approval(trained, monkeypatch):
    (trained.root / "file").write_text("not a folder")
    monkeypatch.setenv("MLCT_APPROVED", str(trained.root / "file" / "approved"))
    with pytest.raises(OSError, match="file"):
        sign(trained, "approve")
    assert trained.records("approval") == []


def test_the_copy_is_mended_by_approving_again(home):
    artifact = fit.keep(home.store, FILES)
    home.keep_approved(artifact)
    part = path(home.approved_store, sha256(FILES["model.txt"]))
    part.write_bytes(bytes(len(FILES["model.txt"])))  # of the right size
    with pytest.raises(SnapshotCorrupted):
        home.approved_files(artifact)
    home.keep_approved(artifact)
    assert home.approved_files(artifact) == FILES


def test_the_approved_copy_itself_is_asked_for_not_the_cache(home):
    artifact = fit.keep(home.store, FILES)
    home.keep_approved(artifact)
    assert fit.kept(home.models, artifact) == FILES
    shutil.rmtree(home.path / "approved")
    assert fit.kept(home.models, artifact) == FILES
    with pytest.raises(SnapshotMissing):
        home.approved_files(artifact)


def test_where_the_copies_lie(tmp_path, monkeypatch):
    assert mlct.Home(root="/x").approved_store.root == "/x/approved"
    assert mlct.Home(root="/x", objects="memory://m/").approved_store.root == "/m/approved"
    monkeypatch.setenv("MLCT_APPROVED", str(tmp_path))
    assert mlct.Home.from_environment().approved_store.root == str(tmp_path)


class Down(ObjectStore):
    """A store that does not answer."""

    def get(self, digest: str) -> bytes:
        raise TimeoutError("no answer")


@pytest.mark.parametrize("first", [ObjectStore, Down])
def test_the_nearest_store_that_has_them_right_gives_them(tmp_path, first):
    cache, near, far = (ObjectStore(str(tmp_path / n)) for n in ("cache", "near", "far"))
    near = first(near.root)
    digest = far.put(b"bytes")
    nearest = Nearest(cache, near, far)
    assert nearest.get(digest) == b"bytes"
    assert cache.get(digest) == b"bytes"


def test_what_no_store_has_is_said_by_the_first(tmp_path):
    cache, near, far = (ObjectStore(str(tmp_path / n)) for n in ("cache", "near", "far"))
    digest = near.put(b"bytes")
    path(near, digest).write_bytes(b"bites")
    with pytest.raises(SnapshotCorrupted):
        Nearest(cache, near, far).get(digest)
    with pytest.raises(SnapshotMissing):
        Nearest(cache, far, near).get(digest)


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path):
    (tmp_path / "cache").write_text("a file")
    store = ObjectStore(str(tmp_path / "store"))
    digest = store.put(b"bytes")
    assert Nearest(ObjectStore(str(tmp_path / "cache" / "deep")), store).get(digest) == b"bytes"
