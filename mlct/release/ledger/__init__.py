"""The ledger: append-only, hash-chained in-toto statements.

Each row keeps the exact canonical bytes of one statement. Its hash covers the row before it, so
editing any stored row breaks every later one. Slot moves carry the sequence that they supersede,
and `UNIQUE (slot, supersedes)` lets one successor in: two promotions cannot both win.

`statement` says what a row is, `chain` appends, answers and verifies, `sqlite` and `postgres` keep
the rows, `contract` asks for a verdict among them. `checkpoint` signs for all of them, as a `note`
over the root of a `merkle` tree, to be kept where the database's owner cannot write.
"""

from mlct.release.ledger.chain import Ledger
from mlct.release.ledger.checkpoint import Checkpoint, checkpoint, require_checkpoint
from mlct.release.ledger.contract import require_contract
from mlct.release.ledger.note import NAME, Signer, Verifier
from mlct.release.ledger.statement import (
    KINDS,
    MOVES,
    PREDICATE,
    SKEW,
    STATEMENT,
    Record,
    instant,
    now,
    statement,
)

__all__ = [
    "KINDS",
    "MOVES",
    "NAME",
    "PREDICATE",
    "SKEW",
    "STATEMENT",
    "Checkpoint",
    "Ledger",
    "Record",
    "Signer",
    "Verifier",
    "checkpoint",
    "instant",
    "now",
    "require_checkpoint",
    "require_contract",
    "statement",
]
