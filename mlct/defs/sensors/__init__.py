"""Sensors of a model. They only read stored results; a tick costs milliseconds."""

from mlct.defs.sensors.notify import notify_on_incident
from mlct.defs.sensors.reconcile import reconcile_slot
from mlct.defs.sensors.retrain import retrain_on_drift
from mlct.defs.sensors.rollback import rollback_on_breach

__all__ = ["notify_on_incident", "reconcile_slot", "retrain_on_drift", "rollback_on_breach"]
