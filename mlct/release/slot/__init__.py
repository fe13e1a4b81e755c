"""The slot state machine: what is live, promotion, rollback, quarantine, reconcile.

The ledger is the authority: one statement moves a slot. The registry's alias is a projection of
it, written afterwards, read back, and repaired by `project` whenever the two differ; `reconcile`
also tells of whoever moved it by hand.
"""

from mlct.release.slot.projection import Reconciled, Registry, Standing, project, reconcile
from mlct.release.slot.promotion import promote, request
from mlct.release.slot.rollback import roll_back
from mlct.release.slot.state import SLOT, Live, live, quarantined, rollback_target, states

__all__ = [
    "SLOT",
    "Live",
    "Reconciled",
    "Registry",
    "Standing",
    "live",
    "project",
    "promote",
    "quarantined",
    "reconcile",
    "request",
    "roll_back",
    "rollback_target",
    "states",
]
