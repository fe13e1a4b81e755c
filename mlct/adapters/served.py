"""What a packaged model scores where it serves: loaded by MLflow, in a process of its own."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather

from mlct.adapters.mlflow_registry.transport import shown
from mlct.errors import RegistryError

_SCORE = """
import sys
import mlflow, numpy, pyarrow.feather
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
numpy.save(sys.argv[4], model.predict(pyarrow.feather.read_feather(sys.argv[3])))
"""
_LONGEST = 600


def served_scores(tracking_uri: str, model: str, version: int, rows: pa.Table) -> Any:
    """Scores (rows,) of a registered version in a clean process, through its signature.

    Nothing of this process is in that one: what training left in memory cannot help. Raises
    RegistryError with what that process said where the model does not load or its signature does
    not fit the rows. Costs seconds, most of them for importing MLflow.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, scored = Path(folder, "rows.feather"), Path(folder, "scores.npy")
        feather.write_feather(rows, given, compression="uncompressed")
        uri = f"models:/{model}/{version}"
        done = subprocess.run(
            [sys.executable, "-c", _SCORE, tracking_uri, uri, str(given), str(scored)],
            env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_WAIT_POLICY": "passive"},
            capture_output=True,
            text=True,
            timeout=_LONGEST,
        )
        if done.returncode:
            raise RegistryError(
                f"{model}@{version} does not score in a process of its own: "
                + shown((done.stderr.strip().splitlines() or ["it said nothing"])[-1]),
                expected="the packaged model to load and its signature to fit the holdout",
                fix="Load it with mlflow.pyfunc.load_model in a fresh Python and see",
            )
        return np.load(scored)
