"""`kill -9` of a Dagster run worker in the middle of a promotion; then Dagster starts again."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mlct.release.incident import incidents
from mlct.release.slot import live

TESTS = Path(__file__).parents[1]
CHAMPION = dg.AssetKey(["late", "champion"])
BEFORE, BETWEEN, AFTER = "before the move", "between ledger and alias", "before the event"

#: A code location whose MLflow is stopped at one place, until the process is killed.
LOCATION = """
import sys, time
from pathlib import Path

sys.path[:0] = [{tests!r}]
import conftest, dagster as dg, mlct
from mlct.adapters.mlflow_registry import MlflowRegistry

set_alias, alias = MlflowRegistry.set_alias, MlflowRegistry.alias


def here(place):
    if place == {place!r}:
        Path({reached!r}).touch()
        time.sleep(600)


def set_alias_and_stop(self, model, name, version):
    here("between ledger and alias")
    set_alias(self, model, name, version)
    here("before the event")


def alias_or_stop(self, model, name):
    here("before the move")
    return alias(self, model, name)


MlflowRegistry.set_alias, MlflowRegistry.alias = set_alias_and_stop, alias_or_stop


@dg.asset(name="trips", io_manager_key="snapshots")
def trips(): ...


spec = conftest.declare(estimator=conftest.trees)
defs = mlct.guarded(
    dg.Definitions.merge(
        dg.Definitions(assets=[trips], resources=mlct.build_resources(mlct.Home(root={root!r}))),
        mlct.build_definitions(spec),
    )
)
"""


@dataclass
class Worker:
    """A run worker of Dagster that promotes version 2, and what it works on."""

    world: Any
    folder: Path
    place: str
    process: Any = None

    def start(self) -> None:
        root, reached = str(self.world.root), str(self.folder / "reached")
        code = LOCATION.format(tests=str(TESTS), place=self.place, root=root, reached=reached)
        (self.folder / "location.py").write_text(code)
        config = {"ops": {"late_promote": {"config": {"version": 2}}}}
        (self.folder / "run.yaml").write_text(json.dumps(config))
        words = ["job", "execute", "-f", "location.py", "-j", "late_promotion", "-c", "run.yaml"]
        with (self.folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dagster", *words],
                cwd=self.folder,
                env=os.environ | {"DAGSTER_HOME": str(self.folder)},
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """When it has come to the place."""
        for _ in range(2400):
            if (self.folder / "reached").exists():
                break
            assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
            time.sleep(0.05)
        self.process.kill()
        assert self.process.wait(20) == -9


@pytest.fixture(scope="module")
def killed(_live: Any, tmp_path_factory: Any, boosted: Any) -> Iterator[dict[str, Worker]]:
    """By place: version 1 was live, version 2 approved, its promotion killed there."""
    folder = tmp_path_factory.mktemp("killed")
    made = _live.copy(folder / "made")
    made.declare(estimator=boosted)
    assert made.retrain().success
    made.approve(2)
    workers = dict[str, Worker]()
    for place in (BEFORE, BETWEEN, AFTER):
        at = folder / place.replace(" ", "-")
        at.mkdir()
        (at / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        world = made.copy(at)
        world.instance = dg.DagsterInstance.from_config(str(at))
        workers[place] = Worker(world=world, folder=at, place=place)
    try:
        for worker in workers.values():
            worker.start()
        for worker in workers.values():
            worker.kill()
        yield workers
    finally:
        for worker in workers.values():
            if worker.process is not None and worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait(20)
            worker.world.instance.dispose()


@pytest.fixture(params=[BEFORE, BETWEEN, AFTER])
def after(request: Any, killed: dict[str, Worker], tmp_path: Path) -> Iterator[Worker]:
    """What the worker left, copied: each test starts it again."""
    worker = killed[request.param]
    world = worker.world.copy(tmp_path)
    at = tmp_path / "dagster"
    shutil.copytree(worker.folder, at, ignore=shutil.ignore_patterns("home"))
    with dg.DagsterInstance.from_config(str(at)) as world.instance:
        yield Worker(world=world, folder=at, place=worker.place)


def slot(world: Any) -> tuple[int, int | None]:
    """What is live by the ledger, and MLflow's alias."""
    found = live(world.home.ledger, "late", "production")
    assert found is not None
    return found.version, world.home.registry.alias("late", "production")


def tick(world: Any, monkeypatch: Any, **later: float) -> Any:
    """The reconcile sensor looks, some time later."""
    ledger = world.home.ledger
    at = ledger.clock() + timedelta(**later)
    monkeypatch.setattr("mlct.defs.resources._home", lambda *_: world.home)
    monkeypatch.setattr(ledger, "clock", lambda: at)
    sensor = world.defs.resolve_sensor_def("late_reconcile_slot")
    with dg.build_sensor_context(
        instance=world.instance, resources=world.defs.resources, definitions=world.defs
    ) as context:
        found = sensor.evaluate_tick(context)
        return found


def shown(world: Any) -> list[str]:
    """What the catalog says of the champion, oldest first."""
    found = world.instance.fetch_materializations(CHAMPION, limit=10).records
    return [r.asset_materialization.description for r in reversed(found)]


def test_the_ledger_moved_or_did_not_and_nobody_reads_a_third_thing(after):
    ledger = after.world.home.ledger
    assert ledger.verify() == len(ledger.records())
    assert slot(after.world) == {BEFORE: (1, 1), BETWEEN: (2, 1), AFTER: (2, 2)}[after.place]
    assert shown(after.world) == []
    assert incidents(ledger, "late") == []
    (run,) = after.world.instance.get_runs(dg.RunsFilter(job_name="late_promotion"))
    assert run.status == dg.DagsterRunStatus.STARTED  # until run monitoring, or a person, ends it


def test_the_next_look_of_reconcile_puts_all_right_without_an_incident(after, monkeypatch):
    world = after.world
    tick(world, monkeypatch, seconds=70)
    version = 1 if after.place == BEFORE else 2
    assert slot(world) == (version, version)
    assert incidents(world.home.ledger, "late") == []
    assert world.home.ledger.verify() > 0


def test_the_catalog_is_told_of_a_move_whose_run_died_once(after, monkeypatch):
    world = after.world
    first = tick(world, monkeypatch, seconds=70)
    version = 1 if after.place == BEFORE else 2
    events = [e for e in first.asset_events if isinstance(e, dg.AssetMaterialization)]
    assert [e.description for e in events] == [
        f"promotion: version {version} is live in production"
    ]
    for event in first.asset_events:  # as the daemon does
        world.instance.report_runless_asset_event(event)
    assert list(tick(world, monkeypatch, seconds=130).asset_events) == []


def test_launched_again_it_completes_or_is_live_already(after, monkeypatch, why):
    world = after.world
    if after.place == BETWEEN:  # the alias is behind: the last move is not done
        tick(world, monkeypatch)
    done = world.promote(2)
    assert slot(world) == (2, 2)
    assert len(world.records("promotion")) == 2
    if after.place == BEFORE:
        assert done.success
        assert shown(world)[-1] == "promotion: version 2 is live in production"
    else:
        assert not done.success
        assert "late@2 is live in 'production'" in why(done)
