"""The ledger: append-only, hash-chained in-toto statements.

Each row keeps the exact canonical bytes of one statement. Its hash covers the row before it, so
editing any stored row breaks every later one. Slot moves carry the sequence that they supersede,
and `UNIQUE (slot, supersedes)` lets one successor in: two promotions cannot both win.

`statement` says what a row is, `sqlite` keeps them, `contract` asks for a verdict among them.
"""

from mlct.release.ledger.contract import require_contract
from mlct.release.ledger.sqlite import Ledger
from mlct.release.ledger.statement import (
    KINDS,
    MOVES,
    PREDICATE,
    STATEMENT,
    Record,
    instant,
    now,
    statement,
)

__all__ = [
    "KINDS",
    "MOVES",
    "PREDICATE",
    "STATEMENT",
    "Ledger",
    "Record",
    "instant",
    "now",
    "require_contract",
    "statement",
]
