"""Content-addressed files under a root: a local path or any fsspec URL."""

import uuid
from typing import Any

import fsspec
from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

from mlct.data.digest import sha256
from mlct.errors import SnapshotCorrupted, SnapshotMissing


class ObjectStore:
    """Implements `mlct.data.snapshot.Store`.

    `objects/ab/abcd…` are named by the sha256 of their bytes and never change; `refs/NAME` are
    small files with a digest. A file is written under another name and moved into place, so a
    reader never meets half of one.
    """

    def __init__(self, root: str) -> None:
        self.fs, self.root = fsspec.core.url_to_fs(root)
        self._verified: dict[str, Any] = {}

    def _path(self, digest: str) -> str:
        return f"{self.root}/objects/{digest[:2]}/{digest}"

    def _write(self, path: str, data: bytes | memoryview) -> None:
        self.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
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

    def get(self, digest: str) -> bytes:
        path = self._path(digest)
        try:
            data: bytes = self.fs.cat_file(path)
        except FileNotFoundError as error:
            raise SnapshotMissing(
                f"the store {self.root} has no object {digest}",
                expected="bytes written earlier",
                fix="Restore it from a backup, or materialise the asset again",
                digest=digest,
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
        info = self.fs.info(path) if self.fs.exists(path) else {}
        stamp = (info.get("size"), str(info.get("mtime") or info.get("ETag")))
        # One hash per file and process, unless the file changes.
        if not info or self._verified.get(digest) != stamp:
            self.get(digest)
            self._verified[digest] = stamp
        if "file" in (
            self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,)
        ):
            return LocalFileSystem(), path
        return PyFileSystem(FSSpecHandler(self.fs)), path

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
