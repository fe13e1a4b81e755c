"""Content-addressed files under a root: a local path or any fsspec URL."""

import json
import re
import uuid
from contextlib import suppress
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs

from mlct.data.digest import sha256
from mlct.errors import MlctError, SnapshotCorrupted, SnapshotMissing


class ObjectStore:
    """Implements `mlct.data.snapshot.Store`.

    `objects/ab/abcd…` are named by the sha256 of their bytes and never change; `refs/NAME` are
    small files with a digest. A reader never meets half of a file: on disk it is written under
    another name and moved into place, and object stores show whole objects only.
    """

    def __init__(self, root: str) -> None:
        # Other processes write too: a remembered listing would hide what they wrote.
        self.fs, self.root = fsspec.core.url_to_fs(root, use_listings_cache=False)
        self._verified: dict[str, str] = {}

    def _path(self, digest: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise SnapshotMissing(
                f"{digest!r} names no object", expected="a sha256 of 64 hexadecimal digits"
            )
        return f"{self.root}/objects/{digest[:2]}/{digest}"

    def _write(self, path: str, data: bytes | memoryview) -> None:
        self.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        if not isinstance(self.fs, LocalFileSystem):
            self.fs.pipe_file(path, bytes(data))
            return
        staged = f"{path}.{uuid.uuid4().hex}.part"
        self.fs.pipe_file(staged, bytes(data))
        self.fs.mv(staged, path)

    def put(self, data: bytes | memoryview) -> str:
        digest = sha256(data)
        path = self._path(digest)
        # Damaged bytes under this name are replaced: the caller holds the right ones.
        if not self.fs.exists(path) or self.fs.size(path) != len(data):
            self._write(path, data)
        return digest

    def ensure(self, data: bytes) -> str:
        """`put`, and look: bytes of that name and size that are not these are replaced too."""
        digest = self.put(data)
        try:
            self.get(digest)
        except SnapshotCorrupted:
            self._write(self._path(digest), data)
            self.get(digest)
        return digest

    def get(self, digest: str) -> bytes:
        path = self._path(digest)
        try:
            data: bytes = self.fs.cat_file(path)
        except FileNotFoundError as error:
            raise SnapshotMissing(
                f"there is no object {path}",
                expected="bytes written earlier",
                fix="Restore it from a backup, or materialise the asset again",
                digest=digest,
                path=path,
            ) from error
        if sha256(data) != digest:
            raise SnapshotCorrupted(
                f"{path} hashes to {sha256(data)}",
                expected=digest,
                fix="The file was changed after it was written: restore it from a backup, or "
                "delete it and materialise the asset again",
                digest=digest,
                path=path,
            )
        return data

    def open(self, digest: str) -> tuple[Any, str]:
        path = self._path(digest)
        # One hash per file and process, unless the file changes.
        seen = self.fs.ukey(path) if self.fs.exists(path) else ""
        if not seen or self._verified.get(digest) != seen:
            self.get(digest)
            self._verified[digest] = seen
        if isinstance(self.fs, LocalFileSystem):
            return fs.LocalFileSystem(), path
        return fs.PyFileSystem(fs.FSSpecHandler(self.fs)), path

    def set_ref(self, name: str, digest: str) -> None:
        self._write(f"{self.root}/refs/{name}", digest.encode())

    def ref(self, name: str) -> str | None:
        path = f"{self.root}/refs/{name}"
        return self.fs.cat_file(path).decode() if self.fs.isfile(path) else None

    def refs(self, prefix: str) -> dict[str, str]:
        base = f"{self.root}/refs/"
        paths = self.fs.find(base + prefix) if self.fs.isdir(base + prefix) else []
        return {
            path[len(base) :]: self.fs.cat_file(path).decode()
            for path in sorted(paths)
            if not path.endswith(".part")
        }


class Nearest:
    """Reads objects from the first of several stores that has them right; writes to the last.

    Implements `mlct.data.snapshot.Store` for whoever reads models. `cache` comes first and keeps
    what was read elsewhere, so that the same bytes are there while the others are down. Every store
    verifies what it gives: which of them answers makes no difference to what is read.
    """

    def __init__(self, cache: ObjectStore, *stores: ObjectStore) -> None:
        self.cache, self.stores, self.last = cache, stores, stores[-1]

    def get(self, digest: str) -> bytes:
        """The bytes of a digest. Raises what the first store after the cache raised."""
        with suppress(MlctError, OSError):
            return self.cache.get(digest)
        problems = list[Exception]()
        for store in self.stores:
            try:
                data = store.get(digest)
            except Exception as error:  # missing, damaged, or whatever a store that is down raises
                problems.append(error)
                continue
            with suppress(OSError):  # a full disk, a folder of somebody else: only slower
                self.cache.ensure(data)
            return data
        raise problems[0]

    def put(self, data: bytes | memoryview) -> str:
        return self.last.put(data)

    def open(self, digest: str) -> tuple[Any, str]:
        return self.last.open(digest)

    def set_ref(self, name: str, digest: str) -> None:
        self.last.set_ref(name, digest)

    def ref(self, name: str) -> str | None:
        return self.last.ref(name)

    def refs(self, prefix: str) -> dict[str, str]:
        return self.last.refs(prefix)


def copy_artifact(source: ObjectStore, approved: ObjectStore, artifact: str) -> None:
    """Copy a packaged model, file by file, hashed when read and again when written.

    Raises SnapshotMissing or SnapshotCorrupted where the source does not hold it, or the copy does
    not hold.
    """
    files = source.get(artifact)
    for part in json.loads(files).values():
        approved.ensure(source.get(part))
    # The list of files last: who finds it finds them all.
    approved.ensure(files)
