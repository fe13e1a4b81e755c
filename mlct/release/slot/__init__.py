"""The slot state machine: what is live, promotion, rollback, quarantine, reconcile.

The ledger is the authority: one statement moves a slot. The registry's alias is a projection of
it, written afterwards, read back, and repaired by `project` whenever the two differ.
"""

from mlct.release.slot.projection import Registry, project
from mlct.release.slot.promotion import promote, request
from mlct.release.slot.rollback import roll_back
from mlct.release.slot.state import SLOT, Live, live, quarantined, rollback_target, states

__all__ = [
    "SLOT",
    "Live",
    "Registry",
    "live",
    "project",
    "promote",
    "quarantined",
    "request",
    "roll_back",
    "rollback_target",
    "states",
]
