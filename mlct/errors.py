"""Every error that mlct raises on purpose: what was found, what was expected, what to do."""

from typing import Any


class MlctError(Exception):
    """Base of all mlct errors.

    `found` is what is wrong, `expected` what would have been right, `fix` the next step for
    whoever reads it. Any further keyword becomes an attribute, so that callers never parse text.
    """

    #: Which check of the promotion procedure it stopped, if it did.
    check: str = ""

    def __init__(self, found: str, *, expected: str = "", fix: str = "", **fields: Any) -> None:
        self.found, self.expected, self.fix = found, expected, fix
        for name, value in fields.items():
            setattr(self, name, value)
        parts = [found, f"Expected {expected}" if expected else "", fix]
        super().__init__(". ".join(part for part in parts if part))


class SpecError(MlctError):
    """A declaration that cannot work; raised while definitions load."""


class DataError(MlctError):
    """The data cannot be used as declared: a missing column, a wrong type, an empty window."""


class SnapshotMissing(MlctError):
    """No object or reference of that name is in the store."""


class SnapshotCorrupted(MlctError):
    """Stored bytes do not hash to the digest they are named by."""


class ContractNotPassed(MlctError):
    """Training was asked for on data without a passing contract statement."""


class TrainingError(MlctError):
    """The estimator could not be fitted, written or read back."""


class EvaluationError(MlctError):
    """An evaluation that cannot be trusted: no verdict may be drawn from it."""


class LedgerError(MlctError):
    """The ledger refused a statement or cannot be read."""


class LedgerTampered(LedgerError):
    """A stored statement does not match its hash chain; `sequence` is the first bad row."""


class SlotMoved(LedgerError):
    """Somebody else moved the slot first; nothing was written."""


class ApprovalInvalid(MlctError):
    """An approval that does not count: unknown approver, wrong signature, wrong role, expired."""


class PromotionRefused(MlctError):
    """The promotion procedure stopped; nothing was moved."""


class RollbackRefused(MlctError):
    """There is nothing safe to roll back to; nothing was moved."""


class LoadRefused(MlctError):
    """No model may be loaded for scoring: the ledger names none, or another than is served."""


class DrillFailed(MlctError):
    """A rollback drill did not go as expected; `outcomes` says what each scenario showed."""


class RegistryError(MlctError):
    """The model registry does not hold what was asked for."""


class NotifyError(MlctError):
    """A channel did not take a message, or cannot be used as it is set up."""

    #: Trying again cannot help.
    final: bool = False
    #: So many seconds the other side asked to be left alone.
    wait: float = 0.0
