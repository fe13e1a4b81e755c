"""A packaged model as an MLflow pyfunc model: how it is logged, and loaded by whoever asks MLflow.

The bytes under `data/mlct/` are exactly those that mlct hashed; their digest stands in the
metadata of the MLmodel file.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlct.errors import RegistryError
from mlct.training.fit import SERVING, artifact_digest, unpack

#: Where the MLmodel file names the artifact digest.
DIGEST = "mlct.artifact"


def read(folder: Path) -> dict[str, bytes]:
    """The files below a folder, by their relative path."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def log(run_id: str, files: Mapping[str, bytes], requirements: Sequence[str]) -> str:
    """Log the files as a model of a run; returns its URI."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    features = json.loads(files[SERVING])["features"]
    signature = ModelSignature(
        inputs=Schema(
            [
                # MLflow would refuse whole numbers for a double, and the model takes both.
                ColSpec("string" if "categories" in f else AnyType(), f["name"], required=False)
                for f in features
            ]
        ),
        outputs=Schema([ColSpec("double")]),
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        mlflow.start_run(run_id=run_id, nested=True),  # user code may have left a run open
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message=".*input example.*")
        data = Path(folder) / "mlct"
        data.mkdir()
        for name, content in files.items():
            (data / name).write_bytes(content)
        # Inferring requirements or an example would load the model in a subprocess: 5 s.
        info = mlflow.pyfunc.log_model(
            name="model",
            loader_module="mlct.adapters.mlflow_registry",
            data_path=str(data),
            pip_requirements=list(requirements),
            signature=signature,
            metadata={DIGEST: artifact_digest(files)},
        )
    return str(info.model_uri)


class Scorer:
    """What pyfunc calls."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.model = unpack(files)

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Scores (rows,) of a frame."""
        import pyarrow as pa

        return self.model.score(pa.Table.from_pandas(model_input, preserve_index=False))


def load(path: str) -> Scorer:
    """The model under a local path, refused unless its bytes are those that were logged.

    They must hash to what the MLmodel file beside them says and, where MLCT_HOME says which
    installation this process belongs to, to something that its ledger saw trained. Raises
    RegistryError. Which version an alias should point at pyfunc cannot know: `mlct.load_live` does.
    """
    from mlflow.models import Model

    files = read(Path(path))
    found = artifact_digest(files)
    # As saved: ROOT/MLmodel and ROOT/data/mlct.
    beside = Path(path).parents[1] / "MLmodel"
    logged = (Model.load(str(beside)).metadata or {}).get(DIGEST) if beside.exists() else None
    if logged not in (None, found):
        raise _refused(found, f"{logged}, as they were logged")
    if os.environ.get("MLCT_HOME"):
        from mlct.adapters.home import Home

        ledger = Home.from_environment().ledger
        if not ledger.records(kind="training", subject=found, limit=1):
            raise _refused(found, "bytes that the ledger of MLCT_HOME saw trained")
    return Scorer(files)


def _refused(found: str, expected: str) -> RegistryError:
    return RegistryError(
        f"the files that MLflow serves hash to {found}",
        expected=expected,
        fix="Find out who can write to MLflow's artifacts; load what is approved with "
        "mlct.load_live",
    )
