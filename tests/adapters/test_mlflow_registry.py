"""MLflow as tracker and registry: what is logged comes back, and what fails says why."""

import os
import re
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlct.adapters.home import Home
from mlct.adapters.mlflow_registry import MlflowRegistry
from mlct.adapters.mlflow_registry.transport import reported
from mlct.errors import RegistryError
from mlct.release.slot import Standing
from mlct.training import fit


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> MlflowRegistry:
    """One for all: MLflow's tables take seconds to make. Each test has a model of its own."""
    return Home(root=str(tmp_path_factory.mktemp("home"))).registry


@pytest.fixture
def model(request) -> str:
    return request.node.name


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """A packaged model of one number and one word."""
    from lightgbm import LGBMClassifier

    random = np.random.default_rng(0)
    x = random.normal(size=400)
    word = random.choice(["a", "b"], size=400)
    rows = pa.table({"x": x, "word": word, "y": (x + (word == "a") > 0).astype("int8")})
    estimator = LGBMClassifier(n_estimators=3, n_jobs=1, verbose=-1)
    return fit.pack(fit.fit(estimator, rows, ["x", "word"], "y"))


def log(registry: MlflowRegistry, model: str, files: Any, recipe: str = "r", **changes: Any) -> Any:
    words: dict[str, Any] = {
        "recipe": recipe,
        "parameters": {"n_estimators": 3},
        "metrics": {"train_rows": 400.0},
        "tags": {"mlct.reason": "test"},
        "datasets": {"train": "d" * 64},
        "documents": {"recipe.json": "{}"},
        "requirements": ["lightgbm"],
    }
    return registry.log(model, files, **(words | changes))


def test_the_bytes_that_mlflow_serves_are_the_bytes_that_were_logged(registry, model, files):
    logged = log(registry, model, files)
    assert logged.version == 1
    assert registry.artifact(model, 1) == fit.artifact_digest(files)


def test_versions_count_up_and_the_newest_is_the_challenger(registry, model, files):
    assert [log(registry, model, files, recipe).version for recipe in ("a", "b")] == [1, 2]
    assert registry.alias(model, "challenger") == 2
    assert registry.alias(model, "production") is None
    registry.set_alias(model, "production", 1)
    assert registry.alias(model, "production") == 1


def test_versions_are_found_by_recipe_newest_first(registry, model, files):
    assert registry.find(model, "a") == []
    one, _, three = (log(registry, model, files, recipe) for recipe in ("a", "b", "a"))
    assert [v.version for v in registry.find(model, "a")] == [three.version, one.version]
    assert registry.find(model, "a")[0] == three
    assert registry.find(model, "c") == []


def test_an_alias_of_a_model_that_is_not_there_is_none(registry):
    assert registry.alias("nobody", "production") is None


def test_what_is_not_there_is_refused_by_name(registry, model, files):
    log(registry, model, files)
    with pytest.raises(RegistryError, match=f"{model}@7"):
        registry.artifact(model, 7)
    with pytest.raises(RegistryError, match="version 7"):
        registry.set_alias(model, "production", 7)
    with pytest.raises(RegistryError, match=f"{model}@7"):
        registry.record(model, 7, metrics={}, tags={})


def test_files_that_are_gone_are_named(registry, model, files):
    log(registry, model, files)
    (folder,) = Path(registry.artifacts.removeprefix("file://"), model).rglob("mlct")
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(RegistryError, match=f"the files of {model}@1 are gone"):
        registry.artifact(model, 1)


def test_results_are_shown_on_the_version_and_its_run(registry, model, files):
    logged = log(registry, model, files)
    registry.record(model, 1, metrics={"roc_auc": 0.9}, tags={"mlct.verdict": "PASS"})
    assert registry.client.get_run(logged.run_id).data.metrics["roc_auc"] == 0.9
    assert registry.client.get_model_version(model, "1").tags["mlct.verdict"] == "PASS"


def test_a_run_that_could_not_be_logged_is_failed_and_registers_nothing(registry, model, files):
    with pytest.raises(RegistryError, match=f"log a version of {model}"):
        log(registry, model, files, parameters={"not a name!": 1})
    (run,) = registry.client.search_runs([registry._experiment(model)])
    assert run.info.status == "FAILED"
    assert registry.find(model, "r") == []


def test_a_model_of_many_and_long_parameters_is_logged(registry, model, files):
    many = {f"p{n}": "x" * 7_000 for n in range(150)}
    assert log(registry, model, files, parameters=many).version == 1


def test_pyfunc_gives_the_same_scores(trained):
    import mlflow

    version = trained.home.registry.client.get_model_version("late", "1")
    (said,) = trained.records("training")
    rows = trained.rows.slice(0, 50)
    direct = fit.unpack(fit.kept(trained.home.store, said["artifact"])).score(rows)
    with trained.home.registry._current():
        loaded = mlflow.pyfunc.load_model(version.source)
        by_name = mlflow.pyfunc.load_model("models:/late@challenger")
    for model in (loaded, by_name):
        assert np.array_equal(model.predict(rows.to_pandas()), direct)


def folder_of(registry: MlflowRegistry, model: str) -> Path:
    (found,) = Path(registry.artifacts.removeprefix("file://"), model).rglob("data/mlct")
    return found


def test_pyfunc_refuses_bytes_that_are_not_those_that_were_logged(registry, model, files):
    import mlflow

    log(registry, model, files)
    file = folder_of(registry, model) / "model.txt"
    file.write_bytes(file.read_bytes().replace(b"num_leaves", b"num_leeves"))
    with registry._current(), pytest.raises(RegistryError, match="as they were logged"):
        mlflow.pyfunc.load_model(f"models:/{model}/1")


def test_pyfunc_loads_what_was_logged_before_digests_stood_in_the_mlmodel_file(
    registry, model, files
):
    import mlflow

    log(registry, model, files)
    file = folder_of(registry, model).parents[1] / "MLmodel"
    file.write_text(re.sub(r"metadata:\n( .*\n)+", "", file.read_text()))
    assert "mlct.artifact" not in file.read_text()
    with registry._current():
        assert mlflow.pyfunc.load_model(f"models:/{model}/1").predict is not None


def test_pyfunc_refuses_what_the_ledger_of_this_installation_never_saw_trained(
    trained, registry, model, files, monkeypatch
):
    import mlflow

    log(registry, model, files)
    monkeypatch.setenv("MLCT_HOME", str(trained.root))
    with registry._current(), pytest.raises(RegistryError, match="saw trained"):
        mlflow.pyfunc.load_model(f"models:/{model}/1")
    with trained.home.registry._current():
        assert mlflow.pyfunc.load_model("models:/late/1").predict is not None


def test_an_alias_that_mlct_sets_is_remembered_and_one_that_others_set_is_not(
    registry, model, files
):
    log(registry, model, files)
    log(registry, model, files, "again")
    assert registry.standing(model, "production") == Standing(alias=None)
    registry.set_alias(model, "production", 1)
    registry.client.set_registered_model_alias(model, "production", "2")
    assert registry.standing(model, "production") == Standing(alias=2, pointed=1)
    registry.delete_alias(model, "production")
    assert registry.standing(model, "production") == Standing(alias=None, pointed=1)
    registry.delete_alias(model, "production")  # gone already
    assert registry.standing("nobody", "production") == Standing(alias=None)


def test_two_registries_in_one_process_do_not_mix(registry, model, files, tmp_path):
    one, two = registry, Home(root=str(tmp_path)).registry
    assert (log(one, model, files).version, log(two, model, files).version) == (1, 1)
    assert log(one, model, files, "again").version == 2
    assert one.artifact(model, 2) == two.artifact(model, 1)


def test_the_mlflow_of_the_process_stays_what_it_was(registry, model, files, tmp_path, monkeypatch):
    """MLflow keeps its URI in the environment: other code would write to our registry."""
    import mlflow

    log(registry, model, files)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    mine = f"sqlite:///{tmp_path / 'mine.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mine)
    log(registry, model, files, "again")
    registry.artifact(model, 1)
    assert mlflow.get_tracking_uri() == os.environ["MLFLOW_TRACKING_URI"] == mine
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert not mlflow.is_tracking_uri_set(), "what stood in the environment outlives it"


def test_a_run_that_other_code_left_open_is_no_obstacle(registry, model, files, tmp_path):
    import mlflow

    with registry._current():
        registry.client.create_experiment("theirs", artifact_location=tmp_path.as_uri())
        theirs = mlflow.start_run(
            experiment_id=mlflow.get_experiment_by_name("theirs").experiment_id
        )
        try:
            assert log(registry, model, files).version == 1
            assert mlflow.active_run().info.run_id == theirs.info.run_id
        finally:
            mlflow.end_run()


OPEN = """
import multiprocessing, sys
import mlflow  # once for all: it takes seconds
from mlct.adapters.home import Home

def opened(root):
    return Home(root=root).registry.alias("m", "production")

with multiprocessing.get_context("fork").Pool(4) as pool:
    print(pool.map(opened, [sys.argv[1]] * 4, chunksize=1))
"""


def test_several_processes_may_open_a_fresh_database_at_once(tmp_path):
    start = [sys.executable, "-c", OPEN, str(tmp_path)]
    done = subprocess.run(start, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[None, None, None, None]\n"), done.stderr


def test_a_server_that_is_down_is_named_quickly(tmp_path, model, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    down = MlflowRegistry(
        tracking_uri=f"http://127.0.0.1:{port}", artifacts="", lock=str(tmp_path / "lock")
    )
    for ask in (
        lambda: down.alias(model, "production"),
        lambda: down.find(model, "r"),
        lambda: down.set_alias(model, "production", 1),
        lambda: down.artifact(model, 1),
    ):
        began = time.monotonic()
        with pytest.raises(RegistryError, match=f"127.0.0.1.*{port}.*MLFLOW_TRACKING_URI"):
            ask()
        assert time.monotonic() - began < 30  # with MLflow's own retries it takes minutes


@pytest.mark.parametrize("uri", ["ftp://somewhere", "sqlite:////dev/null/mlflow.db"])
def test_a_place_that_cannot_be_opened_is_named(tmp_path, model, uri):
    wrong = MlflowRegistry(tracking_uri=uri, artifacts="", lock=str(tmp_path / "lock"))
    with pytest.raises(RegistryError, match=uri):
        wrong.alias(model, "production")


@pytest.mark.parametrize("uri", ["http://ana:s3cr@et@127.0.0.1:1", "ftp://ana:s3cr@et@somewhere"])
def test_no_error_and_no_repr_shows_the_password_of_a_server(tmp_path, model, uri):
    home = Home(root=str(tmp_path), tracking_uri=uri, promotion_uri=uri)
    for registry in (home.registry, home.promoter):
        with pytest.raises(RegistryError, match=r"open \w+://\*\*\*@") as refused:
            registry.alias(model, "production")
        told = traceback.format_exception(refused.value)
        assert "et@" not in "".join(told) + repr(registry) + repr(home)


def test_an_error_on_the_way_shows_no_password_either():
    from mlflow.exceptions import MlflowException

    def fail(reason):
        with reported("ask"):
            raise MlflowException(f"{reason} failed") from OSError(reason)

    for reason in ("POST http://ana:s3cret@host/api", "postgresql+psycopg://ana:s3cret@host:5/db"):
        with pytest.raises(RegistryError, match=r"\*\*\*@host") as refused:
            fail(reason)
        assert "s3cret" not in "".join(traceback.format_exception(refused.value))
    with pytest.raises(RegistryError, match="http://host/a@b failed") as refused:
        fail("GET http://host/a@b")
    assert refused.value.__cause__ is not None  # what tells no secret is kept


def test_everything_follows_from_one_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = Home(root="here")
    monkeypatch.chdir("/")
    assert home.path == Path("/here")  # of the process that asks: give an absolute path
    home = Home(root=str(tmp_path / "there"))
    assert home.registry.tracking_uri == f"sqlite:///{tmp_path / 'there' / 'mlflow.db'}"
    assert home.registry.artifacts == (tmp_path / "there" / "mlflow-artifacts").as_uri()
    assert home.store.root == str(tmp_path / "there" / "store")
    assert home.ledger.path == tmp_path / "there" / "ledger.db"


def test_each_place_may_be_given_by_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCT_HOME", str(tmp_path))
    monkeypatch.setenv("MLCT_OBJECTS", "memory://objects")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    monkeypatch.setenv("MLCT_APPROVERS", str(tmp_path / "people.yaml"))
    home = Home.from_environment()
    assert home.registry.tracking_uri == "http://mlflow.example"
    assert home.registry.artifacts == ""  # a server has its own
    assert home.store.root == "/objects"
    assert home.approvers_file == str(tmp_path / "people.yaml")
