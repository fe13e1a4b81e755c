"""The object store: bytes named by their digest, on a disk and behind any fsspec URL."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlct.adapters.object_store import ObjectStore
from mlct.data import snapshot
from mlct.data.digest import sha256
from mlct.errors import SnapshotCorrupted, SnapshotMissing


@pytest.fixture(params=["disk", "memory", "a [b]*? ü#%20/ф"])
def root(request, tmp_path):
    at = "memory://" + uuid4().hex if request.param == "memory" else str(tmp_path)
    return f"{at}/{request.param}"


@pytest.fixture
def store(root):
    return ObjectStore(root)


def names(store):
    return {path.rsplit("/", 1)[-1] for path in store.fs.find(store.root)}


@settings(deadline=None, max_examples=30)
@given(st.binary())
def test_what_is_put_can_be_got_by_its_sha256(tmp_path_factory, data):
    store = ObjectStore(str(tmp_path_factory.getbasetemp() / "objects"))
    assert store.put(data) == store.put(memoryview(data)) == sha256(data)
    assert store.get(sha256(data)) == data


def test_another_process_or_a_restart_sees_the_same(store, root):
    name = store.put(b"rows")
    store.set_ref("a/b", name)
    again = ObjectStore(root)
    assert again.get(again.ref("a/b")) == b"rows"


def test_what_others_write_is_seen_after_a_listing(store, root):
    store.set_ref("a/one", "1")
    assert store.refs("a") == {"a/one": "1"}
    ObjectStore(root).set_ref("a/two", "2")
    assert store.ref("a/two") == "2"
    assert store.refs("a") == {"a/one": "1", "a/two": "2"}


def test_a_snapshot_reads_lazily_from_any_store(store):
    table = pa.table({"n": range(1000), "s": ["x"] * 1000})
    back = snapshot.read(store, snapshot.write(store, table).digest)
    assert back.to_table(columns=["n"]).num_rows == 1000
    assert back.to_table().equals(table)


def test_a_ref_moves_and_one_that_was_never_set_is_none(store):
    assert store.ref("model/live") is None
    for digest in "abc":
        store.set_ref("model/live", digest * 64)
        assert store.ref("model/live") == digest * 64
    assert store.ref("model") is None


def test_refs_are_those_below_a_prefix(store):
    for name in ("assets/a/@1", "assets/a/@2", "assets/ab/@", "other/x"):
        store.set_ref(name, "d" + name)
    assert store.refs("assets/a") == {"assets/a/@1": "dassets/a/@1", "assets/a/@2": "dassets/a/@2"}
    assert set(store.refs("assets")) == {"assets/a/@1", "assets/a/@2", "assets/ab/@"}
    assert store.refs("nothing") == {}


@pytest.mark.parametrize("name", ["", "ab", "../../passwd", "A" * 64, "g" * 64, "0" * 63, "0" * 65])
def test_a_name_that_is_no_digest_finds_nothing(store, name):
    with pytest.raises(SnapshotMissing, match="64 hexadecimal digits"):
        store.get(name)


def test_bytes_that_were_never_put_are_missing(store):
    with pytest.raises(SnapshotMissing, match=r"objects/00/0000.*Restore it from a backup"):
        store.get("0" * 64)
    with pytest.raises(SnapshotMissing):
        store.open("0" * 64)


@pytest.mark.parametrize("read", ["get", "open"])
def test_changed_bytes_are_refused_also_after_they_were_right_once(store, read):
    name = store.put(b"rows")
    getattr(store, read)(name)
    path = f"{store.root}/objects/{name[:2]}/{name}"
    store.fs.pipe_file(path, b"ROWS")
    with pytest.raises(SnapshotCorrupted, match=sha256(b"ROWS")) as found:
        getattr(store, read)(name)
    assert found.value.path == path


def test_a_file_is_hashed_once_and_again_when_it_changes(store, monkeypatch):
    name, hashed = store.put(b"rows"), []
    get = store.get
    monkeypatch.setattr(store, "get", lambda digest: hashed.append(digest) or get(digest))
    for _ in range(3):
        store.open(name)
    assert hashed == [name]


def test_writers_of_the_same_bytes_do_not_disturb_each_other(store):
    data = os.urandom(200_000)
    found, start = [], threading.Barrier(8)

    def work():
        start.wait()
        found.append(store.get(store.put(data)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [data] * 8
    assert names(store) == {sha256(data)}


WRITER = """
import sys
from mlct.adapters.object_store import ObjectStore
store = ObjectStore(sys.argv[1])
for turn in range(200):
    store.set_ref("live", sys.argv[2] * 64)
"""


def test_a_reader_never_meets_half_of_a_ref(tmp_path):
    store = ObjectStore(str(tmp_path))
    store.set_ref("live", "0" * 64)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), letter]) for letter in "12"
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        seen.add(store.ref("live"))
    assert [writer.wait() for writer in writers] == [0, 0]
    assert seen <= {letter * 64 for letter in "012"}
    assert len(seen) > 1
    assert names(store) == {"live"}


def test_half_written_files_of_a_killed_process_are_invisible(store):
    store.set_ref("a/live", "1")
    store.fs.pipe_file(f"{store.root}/refs/a/live.0123.part", b"2")
    assert store.refs("a") == {"a/live": "1"}


def test_a_relative_root_does_not_follow_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = ObjectStore("store")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    name = store.put(b"rows")
    assert Path(tmp_path, "store", "objects", name[:2], name).read_bytes() == b"rows"
