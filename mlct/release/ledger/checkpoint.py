"""Checkpoints: what the ledger held, signed, to be kept where its owner cannot write.

The form is that of c2sp.org/tlog-checkpoint: an origin, the number of rows, and the root of the
Merkle tree (RFC 6962) over their hashes. A hash chain shows an edit; only something kept elsewhere
shows a chain that was rewritten from some row on, or cut short.
"""

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass

from mlct.errors import LedgerError, LedgerTampered
from mlct.release.ledger.chain import Ledger
from mlct.release.ledger.merkle import Tree
from mlct.release.ledger.note import Signer, Verifier


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """The first `size` rows of the ledger `origin`, by the root of their tree (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def open(cls, note: bytes, verifier: Verifier) -> "Checkpoint":
        """From a note that this key signed. Raises LedgerError."""
        text = verifier.open(note)
        # Lines after the third belong to extensions, which are not ours.
        found = re.match(r"([^\n]+)\n(0|[1-9][0-9]{0,17})\n([^\n]+)\n", text)
        try:
            root = base64.b64decode(found[3], validate=True) if found else b""
        except binascii.Error:
            root = b""
        if found is None or len(root) != 32 or found[1] != verifier.name:
            raise LedgerError(
                f"{text[:60]!r} is signed, but no checkpoint of {verifier.name}",
                expected="origin, number of rows and root of a ledger",
                fix="Use one key for one ledger; see where this note comes from",
            )
        return cls(origin=found[1], size=int(found[2]), root=root)


def checkpoint(ledger: Ledger, signer: Signer, earlier: Iterable[bytes] = ()) -> bytes:
    """A signed checkpoint of the ledger as it stands, once it continues all `earlier` ones.

    Never signs for a ledger that contradicts what was signed before. Raises LedgerTampered.
    """
    tree = _continued(ledger, [Checkpoint.open(note, signer.verifier) for note in earlier])
    name = signer.verifier.name
    return signer.sign(Checkpoint(origin=name, size=tree.size, root=tree.root()).text())


def require_checkpoint(ledger: Ledger, notes: Iterable[bytes], verifier: Verifier) -> Checkpoint:
    """The newest of these checkpoints, once the ledger verifies and continues every one.

    Reads the ledger once, as `ledger.verify()` does, which it replaces. Raises LedgerTampered, with
    the first row that may be wrong as `sequence`; LedgerError for a note that the key did not sign,
    or for none at all.
    """
    signed = [Checkpoint.open(note, verifier) for note in notes]
    if not signed:
        raise LedgerError(
            f"there is no checkpoint of {ledger.name}",
            expected="one or more, kept where the ledger's owner cannot write",
            fix="Write the first with `mlct checkpoint`; if there was one, find out who removed it",
        )
    _continued(ledger, signed)
    return max(signed, key=lambda c: c.size)


def _continued(ledger: Ledger, signed: list[Checkpoint]) -> Tree:
    tree, sizes = Tree(), {c.size for c in signed}
    roots = {0: tree.root()}

    def grow(row_hash: str) -> None:
        tree.append(bytes.fromhex(row_hash))
        if tree.size in sizes:
            roots[tree.size] = tree.root()

    ledger.verify(grow)
    good = 0
    for found in sorted(signed, key=lambda c: c.size):
        if found.size > tree.size:
            raise _contradicted(
                f"{ledger.name} ends with statement {tree.size}, but a checkpoint was signed over "
                f"{found.size}: the rows from {tree.size + 1} on were cut off",
                tree.size + 1,
            )
        if roots[found.size] != found.root:
            raise _contradicted(
                f"statements {good + 1} to {found.size} of {ledger.name} are not those that a "
                "checkpoint was signed over: the chain was rewritten",
                good + 1,
            )
        good = found.size
    return tree


def _contradicted(found: str, sequence: int) -> LedgerTampered:
    return LedgerTampered(
        found,
        expected="the rows that were there when the checkpoint was signed",
        fix="Promote nothing: keep the database as evidence, restore a backup that continues the "
        "checkpoint, and find out who can write to it",
        sequence=sequence,
    )
