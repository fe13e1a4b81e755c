"""One window of a model in production: everything that is looked at, on plain tables.

`predict` keeps the prediction log of a window, `reference_of` makes what a version is compared with
once, `observe` measures a window against it and says what each signal shows. Stores, Dagster and
the ledger are whoever's calls it.
"""

from mlct.monitoring.observe.log import LOG, empty_log, labels_of, predict
from mlct.monitoring.observe.observation import Observation
from mlct.monitoring.observe.observe import observe
from mlct.monitoring.observe.reference import Reference, reference_of

__all__ = [
    "LOG",
    "Observation",
    "Reference",
    "empty_log",
    "labels_of",
    "observe",
    "predict",
    "reference_of",
]
