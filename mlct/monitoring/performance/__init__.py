"""How a model performs: measured where labels have matured, estimated where they have not.

    predictions + labels -> join -> realised (windows)     -> gap -> concept
                                 -> estimated, loss (no labels)
                                 -> behaviour (functions of the user)

Everything is a function on plain tables and arrays, and gives `Performance`, one value of one
metric on one window: realised, estimated, or unknown and until when.
"""

from mlct.monitoring.performance.behaviour import behaviour
from mlct.monitoring.performance.calibration import Calibration, calibrate
from mlct.monitoring.performance.concept import Gap, LossSequence, gap, loss_sequence
from mlct.monitoring.performance.estimated import cbpe, estimate
from mlct.monitoring.performance.join import Joined, LogColumns, join_labels
from mlct.monitoring.performance.labels import LabelState, label_state
from mlct.monitoring.performance.loss import LossModel, fit_loss_model
from mlct.monitoring.performance.realised import RESIDUAL_BIAS, estimated, realised
from mlct.monitoring.performance.result import Performance

__all__ = [
    "RESIDUAL_BIAS",
    "Calibration",
    "Gap",
    "Joined",
    "LabelState",
    "LogColumns",
    "LossModel",
    "LossSequence",
    "Performance",
    "behaviour",
    "calibrate",
    "cbpe",
    "estimate",
    "estimated",
    "fit_loss_model",
    "gap",
    "join_labels",
    "label_state",
    "loss_sequence",
    "realised",
]
