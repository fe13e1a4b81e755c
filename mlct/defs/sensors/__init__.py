"""Sensors of a model. They only read stored results; a tick costs milliseconds."""

from mlct.defs.sensors.retrain import retrain_on_drift

__all__ = ["retrain_on_drift"]
