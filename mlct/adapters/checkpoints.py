"""Where checkpoints are kept: one file each in a folder, in a git repository, or at any fsspec URL.

A file is named by the number of rows that it is over, and is never written twice: a store that
allows no overwriting (object lock, a protected branch) can hold them.
"""

import subprocess
import uuid
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from mlct.errors import LedgerError

_SUFFIX = ".checkpoint"


class Checkpoints:
    """`where` is a folder (created when first written to), a URL, or one checkpoint's file."""

    def __init__(self, where: str) -> None:
        # Others write too: a remembered listing would hide what they wrote.
        self.fs, self.root = fsspec.core.url_to_fs(where, use_listings_cache=False)

    def read(self) -> list[bytes]:
        """All notes, the oldest first."""
        try:
            if self.fs.isfile(self.root):
                return [self.fs.cat_file(self.root)]
            if not self.fs.isdir(self.root):
                return []
            paths = self.fs.ls(self.root, detail=False)
            return [self.fs.cat_file(p) for p in sorted(paths) if p.endswith(_SUFFIX)]
        except OSError as error:
            raise self._failed("read", error) from error

    def write(self, note: bytes, *, size: int) -> str:
        """Keep a note over `size` rows; returns its path. In a git repository it is committed.

        Safe to repeat: after a crash the same note is found again, and committed if it was not.
        """
        path = f"{self.root}/{size:012}{_SUFFIX}"
        try:
            self.fs.makedirs(self.root, exist_ok=True)
            if not self.fs.exists(path):
                self._put(path, note)
            elif (found := self.fs.cat_file(path)) != note:
                raise LedgerError(
                    f"{path} holds another note: {found[:60]!r}",
                    expected="one checkpoint for one number of rows, signed by one key",
                    fix="For a new key begin a new folder, and keep the old one with its key",
                )
        except OSError as error:
            raise self._failed("written", error) from error
        if isinstance(self.fs, LocalFileSystem) and Path(self.root, ".git").exists():
            self._commit(Path(path).name, f"ledger checkpoint of {size} statements")
        return path

    def _put(self, path: str, note: bytes) -> None:
        if not isinstance(self.fs, LocalFileSystem):
            self.fs.pipe_file(path, note)
            return
        staged = f"{path}.{uuid.uuid4().hex}.part"  # a reader never meets half of a note
        self.fs.pipe_file(staged, note)
        self.fs.mv(staged, path)

    def _commit(self, name: str, message: str) -> None:
        def git(*words: str) -> Any:
            run = ["git", "-C", str(self.root), *words]
            return subprocess.run(run, capture_output=True, text=True)

        done = git("add", "--", name)
        if not done.returncode and git("diff", "--cached", "--quiet", "--", name).returncode:
            done = git("commit", "--quiet", "--message", message, "--", name)
        if done.returncode:
            raise LedgerError(
                f"git did not commit {name} in {self.root}: {done.stderr.strip()}",
                expected="a repository that this user may commit to",
                fix="Mend it (user.name and user.email, say), and run `mlct checkpoint` again",
            )

    def _failed(self, done: str, error: OSError) -> LedgerError:
        return LedgerError(
            f"checkpoints at {self.root} cannot be {done}: {error}",
            expected="a folder or bucket that this user may use",
            fix="See its rights, and MLCT_CHECKPOINT",
        )
