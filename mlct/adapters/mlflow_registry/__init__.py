"""MLflow as experiment tracker and model registry.

Packaged models are logged as pyfunc models whose loader is this package, so that
`mlflow.pyfunc.load_model` works for whoever has mlct installed. mlct itself never loads through
pyfunc, which runs code named by the artifact.

`transport` says how MLflow is asked, `package` how a model lies there, `stage` mirrors a slot to
stage Production.
"""

import functools
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlct.adapters.mlflow_registry import package, stage
from mlct.adapters.mlflow_registry.package import load as _load_pyfunc
from mlct.adapters.mlflow_registry.transport import (
    again,
    bounded,
    cause,
    reported,
    settled,
    shown,
    transient,
)
from mlct.errors import RegistryError
from mlct.release.slot import Live, Standing
from mlct.training.fit import artifact_digest

__all__ = ["CHALLENGER", "Logged", "MlflowRegistry", "_load_pyfunc"]

CHALLENGER = "challenger"
_RECIPE_TAG = "mlct.recipe"


@dataclass(frozen=True, kw_only=True, slots=True)
class Logged:
    """A registered version and where MLflow keeps it."""

    version: int
    run_id: str
    model_uri: str


@dataclass(frozen=True)
class MlflowRegistry:
    """Implements `mlct.release.slot.Registry` and the logging of challengers.

    `artifacts` is where a database-backed store keeps files; leave it empty for a server, which
    has its own. `lock` is a path for the lock under which a fresh database gets its tables:
    MLflow's own set-up crashes when several processes start at once (mlflow#19299).
    """

    tracking_uri: str = field(repr=False)  # may hold a password
    artifacts: str
    lock: str

    @functools.cached_property
    def client(self) -> Any:
        """An MlflowClient on an initialised store. Importing mlflow costs seconds: first use."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        import logging

        import filelock
        import mlflow

        for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.models.model"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        Path(self.lock).parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.lock), bounded():
            try:
                # Making the client makes the tables.
                client = mlflow.MlflowClient(tracking_uri=self.tracking_uri)
                client.search_experiments(max_results=1)
            except Exception as error:  # MLflow's, the database driver's or the file system's
                raise RegistryError(
                    f"MLflow could not open {shown(self.tracking_uri)}: {shown(error)}",
                    expected="a reachable tracking server or database",
                    fix="Check MLFLOW_TRACKING_URI and the server's log",
                ) from cause(error)
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
        environment = os.environ.get("MLFLOW_TRACKING_URI")
        point: Any = (
            mlflow.set_tracking_uri
        )  # at None, which its annotation lacks, it points nowhere
        point(self.tracking_uri)
        try:
            yield
        finally:  # what stood in the environment alone must not outlive it
            point(None if before == environment else before)
            os.environ.pop("MLFLOW_TRACKING_URI", None)
            if environment is not None:
                os.environ["MLFLOW_TRACKING_URI"] = environment

    def _experiment(self, model: str) -> str:
        def found() -> Any:
            return again(lambda: self.client.get_experiment_by_name(model))

        experiment = found()
        if experiment is None:
            from mlflow.exceptions import MlflowException

            location = f"{self.artifacts}/{model}" if self.artifacts else None
            try:
                created: str = self.client.create_experiment(model, artifact_location=location)
                return created
            except MlflowException:  # another process was first, or only the answer was lost
                experiment = found()
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def find(self, model: str, recipe: str) -> list[Logged]:
        """The versions made by a recipe, newest first."""
        wanted = f"name = '{model}' and tags.`{_RECIPE_TAG}` = '{recipe}'"
        with reported(f"search versions of {model}"):
            versions = again(lambda: self.client.search_model_versions(wanted))
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

        `datasets` maps a context ("train") to a digest, `documents` file names to text. A failure
        leaves at most a run without a version; logging again is safe. Where the answer to the
        registration was lost, the version may be there: `find` it before logging again.
        """
        from mlflow.entities import Metric, Param, RunTag

        def log_run() -> tuple[str, str]:
            run = self.client.create_run(self._experiment(model), run_name=f"{model} {recipe[:8]}")
            run_id, stamp = run.info.run_id, run.info.start_time
            status = "FAILED"
            try:
                self.client.log_batch(
                    run_id,
                    metrics=[Metric(k, v, stamp, 0) for k, v in metrics.items()],
                    params=[Param(k, str(v)[:6000]) for k, v in parameters.items()][:100],
                    tags=[RunTag(k, v) for k, v in tags.items()],
                )
                self._log_inputs(run_id, model, datasets)
                for name, text in documents.items():
                    self.client.log_text(run_id, text, name)
                uri = package.log(run_id, files, requirements)
                status = "FINISHED"
            finally:
                with suppress(MlflowException):  # the run stays open, as a run of a dead process
                    again(lambda: self.client.set_terminated(run_id, status))
            return run_id, uri

        from mlflow.exceptions import MlflowException

        with reported(f"log a version of {model}"), self._current():
            run_id, uri = again(log_run)
            version = self._register(model, uri, run_id, {**tags, _RECIPE_TAG: recipe})
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

    def _register(self, model: str, uri: str, run_id: str, tags: Mapping[str, str]) -> int:
        from mlflow.exceptions import MlflowException

        def model_there() -> None:
            try:
                self.client.create_registered_model(model)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise

        def version_there() -> int:
            try:
                made = self.client.create_model_version(
                    model,
                    uri,
                    run_id=run_id,
                    tags=dict(tags),
                    model_id=uri.removeprefix("models:/"),  # a server asks for it
                )
                return int(made.version)
            except MlflowException as error:
                if not transient(error):
                    raise
                # It may be there, and only the answer was lost.
                for found in self.find(model, tags[_RECIPE_TAG]):
                    if found.run_id == run_id:
                        return found.version
                if settled(error):
                    raise
                raise _Lost(str(error)) from error

        again(model_there)
        version = again(version_there)
        again(lambda: self.client.set_registered_model_alias(model, CHALLENGER, str(version)))
        return version

    def record(
        self, model: str, version: int, *, metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> None:
        """Show evaluation results on a version and its run."""
        with reported(f"record results on {model}@{version}"):
            found = again(lambda: self.client.get_model_version(model, str(version)))
            for name, value in metrics.items():
                again(functools.partial(self.client.log_metric, found.run_id, name, value))
            tag = functools.partial(self.client.set_model_version_tag, model, str(version))
            for name, text in tags.items():
                again(functools.partial(tag, name, text))

    def _model(self, model: str) -> Any:
        """The registered model with its aliases and tags, None if there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return again(lambda: self.client.get_registered_model(model))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def alias(self, model: str, alias: str) -> int | None:
        with reported(f"read alias {alias!r} of {model}"):
            found = self._model(model)
        return None if found is None else _number(found.aliases.get(alias))

    def standing(self, model: str, alias: str) -> Standing:
        with reported(f"read alias {alias!r} of {model}"):
            found = self._model(model)
            if found is None:
                return Standing(alias=None)
            follows = found.tags.get(stage.TAG) == alias
            return Standing(
                alias=_number(found.aliases.get(alias)),
                pointed=_number(found.tags.get(_pointed(alias))),
                stage=stage.versions(self.client, model) if follows else None,
            )

    def set_alias(self, model: str, alias: str, version: int) -> None:
        with reported(f"move alias {alias!r} of {model} to version {version}"):
            again(lambda: self.client.set_registered_model_alias(model, alias, str(version)))
            if alias == CHALLENGER:
                return
            found = self._model(model)
            if found.tags.get(stage.TAG) == alias:
                stage.move(self.client, model, version)
            # Last: until then, what mlct did before still explains what is found.
            self._tag(model, _pointed(alias), str(version))

    def delete_alias(self, model: str, alias: str) -> None:
        with reported(f"delete alias {alias!r} of {model}"):
            again(lambda: self.client.delete_registered_model_alias(model, alias))
            found = self._model(model)
            if found is not None and found.tags.get(stage.TAG) == alias:
                stage.move(self.client, model, None)

    def mirror(
        self, model: str, slot: str, current: Live | None = None, *, wanted: bool = True
    ) -> None:
        """Let stage Production of a model follow a slot from now on, or no longer.

        It begins with what is live there (`current`), whatever the alias points at. Nothing happens
        where it follows already, or before something is live. Raises RegistryError when this MLflow
        has no stages, or the stage follows another slot.
        """
        with reported(f"let stage Production of {model} follow {slot!r}"):
            found = self._model(model)
            follows = "" if found is None else found.tags.get(stage.TAG, "")
            if found is None or (follows == slot) == wanted:
                return
            if not wanted:
                again(lambda: self.client.delete_registered_model_tag(model, stage.TAG))
                return
            stage.offered(self.client)
            if follows:
                raise RegistryError(
                    f"stage Production of {model} follows slot {follows!r}",
                    expected="one slot for it: a model has one such stage",
                    fix=f"Take registry_stage out of one of the specs {follows!r} and {slot!r}",
                )
            if current is not None:
                self._tag(model, stage.TAG, slot)
                stage.move(self.client, model, current.version)

    def _tag(self, model: str, name: str, text: str) -> None:
        again(lambda: self.client.set_registered_model_tag(model, name, text))

    def artifact(self, model: str, version: int) -> str:
        """Digest of the bytes that MLflow serves for a version now. Raises RegistryError."""
        import mlflow.artifacts

        def download() -> dict[str, bytes]:
            with tempfile.TemporaryDirectory() as folder:
                path = mlflow.artifacts.download_artifacts(
                    artifact_uri=f"models:/{model}/{version}",
                    dst_path=folder,
                    tracking_uri=self.tracking_uri,
                )
                return package.read(Path(path) / "data" / "mlct")

        files, missing = dict[str, bytes](), None
        with reported(f"read the files of {model}@{version}"), self._current():
            try:
                files = again(download)
            except FileNotFoundError as error:
                missing = error
        if not files:
            raise RegistryError(
                f"the files of {model}@{version} are gone",
                expected="the artifact as it was logged",
                fix="Restore MLflow's artifact store, or train a new version",
            ) from missing
        return artifact_digest(files)


class _Lost(OSError):
    """A request to which no answer came, and which may still be carried out: not to be repeated."""

    error_code = "ABORTED"


def _number(text: Any) -> int | None:
    return None if text in (None, "") else int(text)


def _pointed(alias: str) -> str:
    """The tag of a registered model that says where mlct pointed an alias last."""
    return f"mlct.alias.{alias}"
