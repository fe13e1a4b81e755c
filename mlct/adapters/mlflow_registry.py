"""MLflow as experiment tracker and model registry.

Packaged models are logged as pyfunc models whose loader is this module: the bytes under
`data/mlct/` are exactly those that mlct hashed, and `mlflow.pyfunc.load_model` works for whoever
has mlct installed. mlct itself never loads through pyfunc, which runs code named by the artifact.
"""

import functools
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlct.errors import RegistryError
from mlct.training.fit import SERVING, artifact_digest, unpack

CHALLENGER = "challenger"
_RECIPE_TAG = "mlct.recipe"


@dataclass(frozen=True, kw_only=True, slots=True)
class Logged:
    """A registered version and where MLflow keeps it."""

    version: int
    run_id: str
    model_uri: str


@contextmanager
def _reported(doing: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise RegistryError(
            f"MLflow could not {doing}: {error}",
            expected="a reachable tracking server with this model",
            fix="Check MLFLOW_TRACKING_URI and the server's log",
            code=error.error_code,
        ) from error


@dataclass(frozen=True)
class MlflowRegistry:
    """Implements `mlct.release.slot.Registry` and the logging of challengers.

    `artifacts` is where a database-backed store keeps files; leave it empty for a server, which
    has its own. `lock` is a path for the lock under which a fresh database gets its tables:
    MLflow's own set-up crashes when several processes start at once (mlflow#19299).
    """

    tracking_uri: str
    artifacts: str
    lock: str

    @functools.cached_property
    def client(self) -> Any:
        """An MlflowClient on an initialised store. Importing mlflow costs seconds: first use."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        import logging

        import filelock
        import mlflow

        for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.models.model"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        Path(self.lock).parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.lock):
            try:
                # Making the client makes the tables.
                client = mlflow.MlflowClient(tracking_uri=self.tracking_uri)
                client.search_experiments(max_results=1)
            except Exception as error:  # MLflow's, the database driver's or the file system's
                raise RegistryError(
                    f"MLflow could not open {self.tracking_uri}: {error}",
                    expected="a reachable tracking server or database",
                    fix="Check MLFLOW_TRACKING_URI and the server's log",
                ) from error
        return client

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Make this the MLflow of the process for a while, and what it was before afterwards.

        Logging a model knows no other way, and whatever starts with "models:/" is resolved through
        the global URI, not the client's. MLflow keeps that URI in the environment too: left there,
        other code in this process would write to our registry.
        """
        import mlflow

        before: Any = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
        mlflow.set_tracking_uri(self.tracking_uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)

    def _experiment(self, model: str) -> str:
        found = self.client.get_experiment_by_name(model)
        if found is None:
            from mlflow.exceptions import MlflowException

            location = f"{self.artifacts}/{model}" if self.artifacts else None
            try:
                created: str = self.client.create_experiment(model, artifact_location=location)
                return created
            except MlflowException:  # another process was first
                found = self.client.get_experiment_by_name(model)
                if found is None:
                    raise
        return str(found.experiment_id)

    def find(self, model: str, recipe: str) -> list[Logged]:
        """The versions made by a recipe, newest first."""
        with _reported(f"search versions of {model}"):
            versions = self.client.search_model_versions(
                f"name = '{model}' and tags.`{_RECIPE_TAG}` = '{recipe}'"
            )
        found = [
            Logged(version=int(v.version), run_id=str(v.run_id), model_uri=str(v.source))
            for v in versions
        ]
        return sorted(found, key=lambda logged: -logged.version)

    def log(
        self,
        model: str,
        files: Mapping[str, bytes],
        *,
        recipe: str,
        parameters: Mapping[str, Any],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        datasets: Mapping[str, str],
        documents: Mapping[str, str],
        requirements: Sequence[str],
    ) -> Logged:
        """Log a packaged model in a run of its own and register it under alias `challenger`.

        `datasets` maps a context ("train") to a digest, `documents` file names to text.
        """
        from mlflow.entities import Metric, Param, RunTag

        with _reported(f"log a version of {model}"), self._current():
            run = self.client.create_run(self._experiment(model), run_name=f"{model} {recipe[:8]}")
            run_id = run.info.run_id
            status = "FAILED"
            try:
                stamp = run.info.start_time
                self.client.log_batch(
                    run_id,
                    metrics=[Metric(k, v, stamp, 0) for k, v in metrics.items()],
                    params=[Param(k, str(v)[:6000]) for k, v in parameters.items()][:100],
                    tags=[RunTag(k, v) for k, v in tags.items()],
                )
                self._log_inputs(run_id, model, datasets)
                for name, text in documents.items():
                    self.client.log_text(run_id, text, name)
                uri = self._log_files(run_id, files, requirements)
                version = self._register(model, uri, run_id, {**tags, _RECIPE_TAG: recipe})
                status = "FINISHED"
            finally:
                self.client.set_terminated(run_id, status)
        return Logged(version=version, run_id=run_id, model_uri=uri)

    def _log_inputs(self, run_id: str, model: str, datasets: Mapping[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        self.client.log_inputs(
            run_id,
            [
                DatasetInput(
                    # MLflow allows a dataset digest 36 characters: the whole one is in the source.
                    Dataset(
                        name=f"{model}/{context}",
                        digest=digest[:36],
                        source_type="mlct",
                        source=json.dumps({"sha256": digest}),
                    ),
                    tags=[InputTag("mlflow.data.context", context)],
                )
                for context, digest in datasets.items()
            ],
        )

    def _log_files(
        self, run_id: str, files: Mapping[str, bytes], requirements: Sequence[str]
    ) -> str:
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
            )
        return str(info.model_uri)

    def _register(self, model: str, uri: str, run_id: str, tags: Mapping[str, str]) -> int:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        created = self.client.create_model_version(model, uri, run_id=run_id, tags=dict(tags))
        self.client.set_registered_model_alias(model, CHALLENGER, created.version)
        return int(created.version)

    def record(
        self, model: str, version: int, *, metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> None:
        """Show evaluation results on a version and its run."""
        with _reported(f"record results on {model}@{version}"):
            found = self.client.get_model_version(model, str(version))
            for name, value in metrics.items():
                self.client.log_metric(found.run_id, name, value)
            for name, text in tags.items():
                self.client.set_model_version_tag(model, str(version), name, text)

    def alias(self, model: str, alias: str) -> int | None:
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_registered_model(model).aliases.get(alias)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise RegistryError(
                f"MLflow could not read alias {alias!r} of {model}: {error}",
                fix="Check MLFLOW_TRACKING_URI and the server's log",
            ) from error
        return None if found is None else int(found)

    def set_alias(self, model: str, alias: str, version: int) -> None:
        with _reported(f"move alias {alias!r} of {model} to version {version}"):
            self.client.set_registered_model_alias(model, alias, str(version))

    def artifact(self, model: str, version: int) -> str:
        """Digest of the bytes that MLflow serves for a version now. Raises RegistryError."""
        import mlflow.artifacts

        gone = RegistryError(
            f"the files of {model}@{version} are gone",
            expected="the artifact as it was logged",
            fix="Restore MLflow's artifact store, or train a new version",
        )
        with tempfile.TemporaryDirectory() as folder:
            try:
                with _reported(f"read the files of {model}@{version}"), self._current():
                    path = mlflow.artifacts.download_artifacts(
                        artifact_uri=f"models:/{model}/{version}",
                        dst_path=folder,
                        tracking_uri=self.tracking_uri,
                    )
            except OSError as error:
                raise gone from error
            files = _files(Path(path) / "data" / "mlct")
        if not files:
            raise gone
        return artifact_digest(files)


def _files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


class _Scorer:
    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.model = unpack(files)

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        import pyarrow as pa

        return self.model.score(pa.Table.from_pandas(model_input, preserve_index=False))


def _load_pyfunc(path: str) -> _Scorer:
    return _Scorer(_files(Path(path)))
