"""A small loop that the tests of the edge share: forty days of trips, a fast model, one approver.

Everything is real (Dagster, MLflow on SQLite, Great Expectations, LightGBM). What takes seconds is
made once in a session and copied for each test that wants it.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

os.environ |= {
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_WAIT_POLICY": "passive",
}
for _name in (
    "DAGSTER_HOME",
    "MLCT_ACTOR",
    "MLCT_APPROVERS",
    "MLCT_CHECKPOINT",
    "MLCT_CHECKPOINT_KEY",
    "MLCT_HOME",
    "MLCT_LEDGER",
    "MLCT_NOTIFY",
    "MLCT_OBJECTS",
    "MLCT_PAGERDUTY_KEY",
    "MLCT_PAGERDUTY_URL",
):
    os.environ.pop(_name, None)
os.environ.pop("MLFLOW_TRACKING_URI", None)

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS, A_DAY = 40, 60


def _trips(days: int = DAYS, *, first: int = 0, seed: int = 0, shift: float = 0.0) -> Any:
    """A table of trips that end late or not, from day `first` on; `shift` moves their distance."""
    import numpy as np
    import pyarrow as pa

    random = np.random.default_rng([seed, first])
    rows = days * A_DAY
    number = np.arange(first * A_DAY, first * A_DAY + rows)
    started = [START + timedelta(minutes=int(n) * 24 * 60 // A_DAY) for n in number]
    distance, load = random.normal(size=rows), random.normal(size=rows)
    kind = random.choice(["bus", "tram"], size=rows)
    chance = 1 / (1 + np.exp(-(2 * distance + load + (kind == "bus"))))
    when = pa.timestamp("us", tz="UTC")
    return pa.table(
        {
            "trip_id": [f"t{n:06}" for n in number],
            "started_at": pa.array(started, when),
            "ended_at": pa.array([at + timedelta(hours=1) for at in started], when),
            "late": pa.array((random.random(rows) < chance).astype("int8")),
            "distance": distance + shift,
            "load": load,
            "stops": pa.array(random.integers(2, 20, rows)),
            "kind": kind,
        }
    )


def contract() -> Any:
    import great_expectations as gx

    e = gx.expectations
    return gx.ExpectationSuite(
        name="trips",
        expectations=[
            e.ExpectTableRowCountToBeBetween(min_value=100),
            e.ExpectColumnValuesToNotBeNull(column="late"),
            e.ExpectColumnValuesToBeBetween(column="stops", min_value=0, max_value=50),
            e.ExpectColumnMaxToBeBetween(
                column="started_at", min_value={"$PARAMETER": "fresh_after"}
            ),
        ],
    )


def stump() -> Any:
    """Better than the baseline, worse than `trees`."""
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=1, num_leaves=2, learning_rate=0.5, random_state=0)


def trees() -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=20, num_leaves=7, random_state=0)


#: What a model of medium or high risk must promise.
PRODUCT_SLO = {
    "apiVersion": "openslo/v1",
    "kind": "SLO",
    "metadata": {"name": "late-auc", "annotations": {"mlct.dev/class": "product"}},
    "spec": {
        "service": "transit",
        "indicator": {
            "metadata": {"name": "roc-auc"},
            "spec": {"thresholdMetric": {"metricSource": {"spec": {"metric": "roc_auc"}}}},
        },
        "budgetingMethod": "Occurrences",
        "objectives": [{"op": "gte", "value": 0.55, "target": 0.9}],
    },
}


def declare(**changes: Any) -> Any:
    """The spec of model `trips`, with changes."""
    import mlct

    fields: dict[str, Any] = {
        "name": "late",
        "owners": ["team:transit"],
        "risk_tier": "low",
        "features": "trips",
        "columns": mlct.Columns(
            id="trip_id", time="started_at", label="late", label_time="ended_at"
        ),
        "windows": mlct.Windows(train="25d", holdout="12d", label_delay="2h", cluster="1d"),
        "contract": contract,
        "estimator": stump,
        "gate": mlct.GatePolicy(
            primary=mlct.Superiority("roc_auc", min_effect=0.005),
            guardrails=[
                mlct.NonInferiority("log_loss", margin=0.05),
                mlct.Limit("latency_p99_ms", max=1_000),
                mlct.GroupGap("recall", by="kind", max=0.9),
            ],
        ),
        "slos": PRODUCT_SLO,
        "retrain": mlct.RetrainPolicy(on=["realised", "drift", "age"]),
    }
    return mlct.ModelSpec(**(fields | changes))


class World:
    """One installation: where mlct keeps things, a Dagster instance, the rows of asset `trips`."""

    def __init__(self, folder: Path, instance: Any, *, spec: Any = None, rows: Any = None) -> None:
        from mlct.adapters.home import Home

        self.folder, self.root = folder, folder / "home"
        self.home = Home(root=str(self.root))
        self.instance, self.rows = instance, rows
        self.declare(spec or declare())

    @classmethod
    def fresh(cls, folder: Path, instance: Any) -> "World":
        """Nothing trained yet; `ana` may approve."""
        world = cls(folder, instance)
        world.root.mkdir(parents=True)
        public = _write_key(world.key)
        people = f"people:\n  - {{name: ana, roles: [model-risk], keys: ['{public}']}}\n"
        (world.root / "approvals.yaml").write_text(people)
        return world

    def copy(self, folder: Path) -> "World":
        """The same ledger, store and registry in another place."""
        shutil.copytree(self.root, folder / "home")
        return World(folder, self.instance, spec=self.spec, rows=self.rows)

    @property
    def key(self) -> Path:
        return self.root / "ana"

    def declare(self, spec: Any = None, **changes: Any) -> None:
        """Take another spec, or change fields of this one."""
        import dagster as dg

        import mlct

        self.spec = replace(spec or self.spec, **changes)

        @dg.asset(name="trips", io_manager_key="snapshots")
        def features() -> Any:
            return self.rows

        own = dg.Definitions(assets=[features], resources=mlct.build_resources(self.home))
        self.defs = mlct.guarded(dg.Definitions.merge(own, mlct.build_definitions(self.spec)))

    def run(self, job: str, *, defs: Any = None, **words: Any) -> Any:
        """Execute a job in process, quietly; the result says whether it succeeded."""
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        config = words.pop("config", None) or {}
        return (
            (defs or self.defs)
            .resolve_job_def(job)
            .execute_in_process(
                instance=self.instance, raise_on_error=False, run_config=quiet | config, **words
            )
        )

    def materialize(self, *names: str, defs: Any = None, **words: Any) -> Any:
        """Materialise generated assets by their last name; "trips" is the feature asset."""
        import dagster as dg

        paths = [["trips"] if name == "trips" else [self.spec.name, name] for name in names]
        selection = dg.AssetSelection.assets(*(dg.AssetKey(path) for path in paths))
        job = dg.define_asset_job("some", selection, executor_def=dg.in_process_executor)
        defs = dg.Definitions.merge(defs or self.defs, dg.Definitions(jobs=[job]))
        return self.run("some", defs=defs, **words)

    def feed(self, rows: Any) -> None:
        self.rows = rows
        assert self.materialize("trips").success

    def monitor(self, day: str | None = None, *, as_of: str = "", defs: Any = None) -> Any:
        """Measure the week that holds a day, by default that of the newest row."""
        import pyarrow.compute as pc

        policy = self.spec.monitoring
        if day is None:
            time = self.spec.columns.time
            known = time in self.rows.column_names and self.rows.num_rows
            day = str(pc.max(self.rows[time]).as_py())[:10] if known else "2024-02-09"
        at = datetime.fromisoformat(f"{day}T00:00+00:00")
        first = datetime.fromisoformat(policy.start).replace(tzinfo=UTC)
        week = first + (at - first) // policy.step * policy.step
        name = f"{self.spec.name}__monitoring"
        config = {"ops": {name: {"config": {"as_of": as_of}}}}
        return self.run(
            f"{self.spec.name}_monitoring",
            partition_key=f"{week:%Y-%m-%d}",
            config=config,
            defs=defs,
        )

    def retrain(self, **words: Any) -> Any:
        return self.run(f"{self.spec.name}_retrain", **words)

    def promote(self, version: int, **words: Any) -> Any:
        name = self.spec.name
        config = {"ops": {f"{name}_promote": {"config": {"version": version}}}}
        return self.run(f"{name}_promotion", config=config, **words)

    def mlct(self, *words: str) -> tuple[int, str, str]:
        """The `mlct` command: exit code, standard output, standard error."""
        import contextlib
        import io

        from mlct.cli import main

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main([*words, "--home", str(self.root)])
            except SystemExit as end:  # argparse: wrong usage
                code = int(end.code or 0)
        return code, out.getvalue(), err.getvalue()

    def approve(self, version: int) -> None:
        target = f"{self.spec.name}@{version}"
        code, _, error = self.mlct("approve", target, "--key", str(self.key), "--yes")
        assert code == 0, error

    def records(self, kind: str) -> list[dict[str, Any]]:
        """What the ledger says, oldest first."""
        return [r.predicate for r in reversed(self.home.ledger.records(kind=kind))]

    def versions(self) -> int:
        """How many versions MLflow has."""
        return len(self.home.registry.client.search_model_versions(f"name = '{self.spec.name}'"))


def _write_key(path: Path) -> str:
    """A new private SSH key; returns the public line."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    path.touch(mode=0o600)
    form = (s.Encoding.PEM, s.PrivateFormat.OpenSSH, s.NoEncryption())
    path.write_bytes(private.private_bytes(*form))
    public = private.public_key().public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH)
    return public.decode()


def _why(result: Any) -> str:
    """All messages of the steps that failed, the causes last."""
    told = []
    for event in result.all_events:
        error = event.step_failure_data.error if event.is_step_failure else None
        while error is not None:
            told.append(error.message)
            error = error.cause
    return "\n".join(told)


def _check(result: Any, name: str) -> Any:
    """The evaluation of a check in a run."""
    (found,) = [c for c in result.get_asset_check_evaluations() if c.check_name == name]
    return found


def _made(result: Any, name: str) -> dict[str, Any]:
    """Metadata of the materialisation of a generated asset, as plain values."""
    (event,) = [
        e.step_materialization_data.materialization
        for e in result.all_events
        if e.is_step_materialization and e.asset_key.path[-1] == name
    ]
    return {
        name: [row.data for row in value.records] if hasattr(value, "records") else value.value
        for name, value in event.metadata.items()
    }


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Dagster instance on disk. All tests share it: its tables take a second to make."""
    import dagster as dg

    folder = tmp_path_factory.mktemp("dagster")
    quiet = {"telemetry": {"enabled": False}}
    with dg.DagsterInstance.local_temp(str(folder), overrides=quiet) as made:
        yield made


@pytest.fixture(scope="session")
def _empty(instance: Any, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World.fresh(tmp_path_factory.mktemp("empty") / "world", instance)
    assert world.versions() == 0  # MLflow has its tables now: they take two seconds to make
    return world


@pytest.fixture(scope="session")
def _trained(_empty: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = _empty.copy(tmp_path_factory.mktemp("trained") / "world")
    world.feed(_trips())
    result = world.retrain()
    assert result.success, _why(result)
    return world


@pytest.fixture(scope="session")
def _live(_trained: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = _trained.copy(tmp_path_factory.mktemp("live") / "world")
    world.approve(1)
    result = world.promote(1)
    assert result.success, _why(result)
    return world


@pytest.fixture(scope="session")
def _succeeded(_live: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = _live.copy(tmp_path_factory.mktemp("succeeded") / "world")
    world.declare(estimator=trees)
    result = world.retrain()
    assert result.success, _why(result)
    world.approve(2)
    result = world.promote(2)
    assert result.success, _why(result)
    return world


@pytest.fixture(scope="session")
def why() -> Callable[..., str]:
    """`why(result)`: all messages of the steps that failed, the causes last."""
    return _why


@pytest.fixture(scope="session")
def check() -> Callable[..., Any]:
    """`check(result, name)`: the evaluation of a check in a run."""
    return _check


@pytest.fixture(scope="session")
def made() -> Callable[..., Any]:
    """`made(result, name)`: metadata of what a run materialised, as plain values."""
    return _made


@pytest.fixture(scope="session")
def trips() -> Callable[..., Any]:
    """`trips(days, first=, seed=, shift=)`: a table of trips."""
    return _trips


@pytest.fixture(scope="session")
def boosted() -> Callable[[], Any]:
    """An estimator that is better than what `live` serves."""
    return trees


@pytest.fixture
def spec() -> Any:
    """The spec of the model `late`: its first version is weak on purpose."""
    return declare()


@pytest.fixture(scope="session")
def fresh_world(instance: Any) -> Callable[[Path], World]:
    """`fresh_world(folder)`: nothing trained yet, `ana` may approve."""
    return lambda folder: World.fresh(folder, instance)


@pytest.fixture(scope="session")
def write_key() -> Callable[[Path], str]:
    """`write_key(path)`: a new private SSH key; returns the public line."""
    return _write_key


@pytest.fixture
def world(_empty: World, tmp_path: Path) -> World:
    """Nothing trained yet."""
    return _empty.copy(tmp_path / "world")


@pytest.fixture
def trained(_trained: World, tmp_path: Path) -> World:
    """Version 1 passed the gate and waits for approval."""
    return _trained.copy(tmp_path / "trained")


@pytest.fixture
def live(_live: World, tmp_path: Path) -> World:
    """Version 1 is live."""
    return _live.copy(tmp_path / "live")


@pytest.fixture
def succeeded(_succeeded: World, tmp_path: Path) -> World:
    """Version 2 is live and rolls back to version 1."""
    return _succeeded.copy(tmp_path / "succeeded")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Any]:
    """A PostgreSQL server of the tests' own: `url()`, `fresh()`, `execute(sql)`."""
    from benchmarks.postgres import binaries, server

    if binaries() is None:
        pytest.skip("needs a PostgreSQL server (Debian: apt-get install postgresql)")
    with server() as running:
        yield running


@pytest.fixture
def postgres(postgres_server: Any) -> Iterator[Callable[[], str]]:
    """`postgres()`: URL of an empty database, with its superuser's password."""
    given = list[str]()

    def fresh() -> str:
        given.append(postgres_server.fresh())
        return given[-1]

    yield fresh
    for url in given:
        postgres_server.take_back(url)
