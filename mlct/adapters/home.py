"""Where mlct keeps things: object store, ledger, MLflow and the approvers file, from one root."""

import functools
import os
from dataclasses import dataclass
from pathlib import Path

from mlct.adapters.mlflow_registry import MlflowRegistry
from mlct.adapters.object_store import ObjectStore
from mlct.release.approval.approvers import Approvers, load
from mlct.release.ledger import Ledger


@dataclass(frozen=True)
class Home:
    """One installation. Empty fields follow from `root`.

    `root` is a folder; `objects` may be any fsspec URL; `tracking_uri` any MLflow URI (SQLite under
    the root by default); `approvers` the path of the approvers file.
    """

    root: str
    objects: str = ""
    tracking_uri: str = ""
    approvers_file: str = ""

    @classmethod
    def from_environment(cls) -> "Home":
        """From MLCT_HOME (default `.mlct`), MLCT_OBJECTS, MLFLOW_TRACKING_URI, MLCT_APPROVERS."""
        return cls(
            root=os.environ.get("MLCT_HOME", ".mlct"),
            objects=os.environ.get("MLCT_OBJECTS", ""),
            tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", ""),
            approvers_file=os.environ.get("MLCT_APPROVERS", ""),
        )

    @property
    def path(self) -> Path:
        return Path(self.root).expanduser().absolute()

    @functools.cached_property
    def store(self) -> ObjectStore:
        return ObjectStore(self.objects or str(self.path / "store"))

    @functools.cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.path / "ledger.db")

    @functools.cached_property
    def registry(self) -> MlflowRegistry:
        return MlflowRegistry(
            # MLflow resolves a relative path against whatever folder a worker runs in.
            tracking_uri=self.tracking_uri or f"sqlite:///{self.path / 'mlflow.db'}",
            artifacts="" if self.tracking_uri else (self.path / "mlflow-artifacts").as_uri(),
            lock=str(self.path / "mlflow.lock"),
        )

    @property
    def approvers(self) -> Approvers:
        """Read anew on each use: people leave."""
        return load(Path(self.approvers_file or self.path / "approvals.yaml"))
