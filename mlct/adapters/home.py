"""Where mlct keeps things: object store, ledger, MLflow and the approvers file, from one root."""

import functools
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlct.adapters.checkpoints import Checkpoints
from mlct.adapters.mlflow_registry import MlflowRegistry
from mlct.adapters.object_store import Nearest, ObjectStore, copy_artifact
from mlct.errors import LedgerError
from mlct.release.approval.approvers import Approvers, load
from mlct.release.ledger import Checkpoint, Ledger, Verifier, require_checkpoint
from mlct.training.fit import kept


@dataclass(frozen=True)
class Home:
    """One installation. Empty fields follow from `root`.

    `root` is a folder; `objects` may be any fsspec URL; `tracking_uri` any MLflow URI (SQLite under
    the root by default); `approvers_file` the path of the approvers file. `promotion_uri` is a
    second MLflow URI, or the same server with other credentials in it, for what moves slots.
    `approved` is the path or URL of approved models, which only approvers should be able to write.
    `ledger_url` is a path, `sqlite:///PATH` or `postgresql://...` (SQLite under the root by
    default). `checkpoint` is where signed checkpoints of it are kept, `checkpoint_key` the verifier
    key they are signed with, or its file. `pagerduty_key` is who is paged, and `notify` who else is
    told, as in `mlct.adapters.pager.channels`.
    """

    root: str
    objects: str = ""
    tracking_uri: str = field(default="", repr=False)  # may hold a password
    approvers_file: str = ""
    promotion_uri: str = field(default="", repr=False)  # does hold one
    approved: str = ""
    ledger_url: str = field(default="", repr=False)  # may hold a password
    checkpoint: str = ""
    checkpoint_key: str = ""
    pagerduty_key: str = field(default="", repr=False)
    pagerduty_url: str = ""
    notify: str = field(default="", repr=False)  # its URLs hold passwords

    @classmethod
    def from_environment(cls) -> "Home":
        """From MLCT_HOME (default `.mlct`), MLCT_OBJECTS, MLFLOW_TRACKING_URI, MLCT_APPROVERS,
        MLCT_PROMOTION_TRACKING_URI, MLCT_APPROVED, MLCT_LEDGER, MLCT_CHECKPOINT,
        MLCT_CHECKPOINT_KEY, MLCT_PAGERDUTY_KEY, MLCT_PAGERDUTY_URL and MLCT_NOTIFY."""
        return cls(
            root=os.environ.get("MLCT_HOME", ".mlct"),
            objects=os.environ.get("MLCT_OBJECTS", ""),
            tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", ""),
            approvers_file=os.environ.get("MLCT_APPROVERS", ""),
            approved=os.environ.get("MLCT_APPROVED", ""),
            promotion_uri=os.environ.get("MLCT_PROMOTION_TRACKING_URI", ""),
            ledger_url=os.environ.get("MLCT_LEDGER", ""),
            checkpoint=os.environ.get("MLCT_CHECKPOINT", ""),
            checkpoint_key=os.environ.get("MLCT_CHECKPOINT_KEY", ""),
            pagerduty_key=os.environ.get("MLCT_PAGERDUTY_KEY", ""),
            pagerduty_url=os.environ.get("MLCT_PAGERDUTY_URL", ""),
            notify=os.environ.get("MLCT_NOTIFY", ""),
        )

    @property
    def path(self) -> Path:
        return Path(self.root).expanduser().absolute()

    @functools.cached_property
    def store(self) -> ObjectStore:
        return ObjectStore(self.objects or str(self.path / "store"))

    @functools.cached_property
    def approved_store(self) -> ObjectStore:
        """Where the bytes that people approved are kept, apart from what training can write."""
        beside = f"{self.objects.rstrip('/')}/approved" if self.objects else None
        return ObjectStore(self.approved or beside or str(self.path / "approved"))

    @functools.cached_property
    def models(self) -> Nearest:
        """Where models are read: this machine's cache, the approved copies, then the store."""
        return Nearest(ObjectStore(str(self.path / "cache")), self.approved_store, self.store)

    def keep_approved(self, artifact: str) -> None:
        """Copy a packaged model to the approved ones, verified; copying it again is safe.

        Raises SnapshotMissing or SnapshotCorrupted where the store does not hold it right.
        """
        copy_artifact(self.store, self.approved_store, artifact)

    def approved_files(self, artifact: str) -> dict[str, bytes]:
        """The approved copy itself, verified. Raises SnapshotMissing, SnapshotCorrupted."""
        return kept(self.approved_store, artifact)

    @functools.cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.ledger_url or self.path / "ledger.db")

    def require_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint, once the ledger verifies and continues all; None if none are kept.

        Raises LedgerTampered with the first bad row, or LedgerError.
        """
        if not self.checkpoint and not self.checkpoint_key:
            return None
        if not self.checkpoint or not self.checkpoint_key:
            raise LedgerError(
                f"checkpoints at {self.checkpoint!r} by the key {self.checkpoint_key!r}",
                expected="both, or neither",
                fix="Set MLCT_CHECKPOINT and MLCT_CHECKPOINT_KEY (for `mlct verify`, --checkpoint "
                "and --key)",
            )
        key = Path(self.checkpoint_key).expanduser()
        text = key.read_text() if key.is_file() else self.checkpoint_key
        notes = Checkpoints(self.checkpoint).read()
        return require_checkpoint(self.ledger, notes, Verifier.parse(text))

    @functools.cached_property
    def registry(self) -> MlflowRegistry:
        return MlflowRegistry(
            # MLflow resolves a relative path against whatever folder a worker runs in.
            tracking_uri=self.tracking_uri or f"sqlite:///{self.path / 'mlflow.db'}",
            artifacts="" if self.tracking_uri else (self.path / "mlflow-artifacts").as_uri(),
            lock=str(self.path / "mlflow.lock"),
        )

    @functools.cached_property
    def promoter(self) -> MlflowRegistry:
        """The registry with the credentials that may move aliases."""
        if not self.promotion_uri:
            return self.registry
        return replace(self.registry, tracking_uri=self.promotion_uri)

    @property
    def approvers(self) -> Approvers:
        """Read anew on each use: people leave."""
        return load(Path(self.approvers_file or self.path / "approvals.yaml"))
