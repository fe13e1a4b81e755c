"""Seconds from a visible breach until the slot is re-pointed and a live loader has switched.

    python benchmarks/rollback.py [--runs 5] [--daemon 3]

Two paths over one small loop (MLflow on SQLite): `roll_back_on_breach`, which whoever reports a
signal calls, and the sensor `m_rollback_on_breach` of a real `dagster dev` with its daemon and
default intervals. The live loader is `mlct.load_live`, which here asks the ledger every second (by
default every ten, which adds up to ten). Printed are medians, their share of the five-minute bar,
and the ratio to the floor: moving MLflow's alias and reading the model's files, without any check.
Loopback only; every process that it starts is stopped.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
BAR, PORT, REFRESH = 300.0, 3917, "1s"

LOCATION = """
import conftest, dagster as dg, mlct

signals = [mlct.Signal("error_rate", max=0.05, min_samples=200, breaches=2, of=3)]
policy = mlct.RollbackPolicy(signals=signals)
specs = [conftest.declare(name=name, rollback=policy) for name in {names!r}]


@dg.asset(name="trips", io_manager_key="snapshots")
def trips(): ...


def on(spec):
    made = mlct.build_sensors(spec, default_status=dg.DefaultSensorStatus.RUNNING)
    return [s for s in made if s.name.endswith("rollback_on_breach")]


defs = mlct.guarded(
    dg.Definitions(
        assets=[trips, *(a for s in specs for a in mlct.build_assets(s))],
        asset_checks=[c for s in specs for c in mlct.build_checks(s)],
        jobs=[j for s in specs for j in mlct.build_jobs(s)],
        sensors=[x for s in specs for x in on(s)],
        resources=mlct.build_resources(mlct.Home(root={root!r})),
        executor=dg.in_process_executor,
    )
)
"""


def made(folder: Path, names: list[str]) -> Path:
    """The home of models with two approved versions each; the second is live."""
    import conftest
    import dagster as dg

    quiet = {"telemetry": {"enabled": False}}
    (folder / "made").mkdir(parents=True)
    with dg.DagsterInstance.local_temp(str(folder / "made"), overrides=quiet) as instance:
        world = conftest.World.fresh(folder / "world", instance)
        world.feed(conftest._trips())
        for name in names:
            for version, estimator in ((1, conftest.stump), (2, conftest.trees)):
                world.declare(name=name, estimator=estimator)
                assert world.retrain().success
                world.approve(version)
                assert world.promote(version).success
    return Path(world.root)


def watched(home: Any, name: str, seen: float, longest: float = 240) -> tuple[float, float]:
    """(slot moved, loader switched) to version 1, in seconds after `seen`; raises TimeoutError."""
    from mlct.release.slot import live

    moved = 0.0
    while time.monotonic() < seen + longest:
        if not moved and live(home.ledger, name, "production").version == 1:
            moved = time.monotonic() - seen
        if following[name].version == 1:
            following[name].score_row({"distance": 0.1, "load": 0.2, "stops": 3, "kind": "bus"})
            return moved, time.monotonic() - seen
        time.sleep(0.02)
    raise TimeoutError(name)


#: The loaders, one a model, which follow the ledger once a second.
following: dict[str, Any] = {}


def follow(home: Any, names: list[str]) -> None:
    import mlct

    for name in names:
        following[name] = mlct.load_live(name, home=home, refresh=REFRESH)
        assert following[name].version == 2


def report(home: Any, model: str) -> float:
    """Two breaching windows, just ended; returns when the second became visible."""
    import mlct

    now = home.ledger.clock()
    for microseconds in (2, 1):
        mlct.report_signal(
            model=model,
            name="error_rate",
            value=0.4,
            samples=500,
            window_end=now - timedelta(microseconds=microseconds),
            home=home,
        )
    return time.monotonic()


def event_path(root: Path, name: str) -> tuple[float, float]:
    """(slot moved, loader switched), in seconds after the breach was visible."""
    import conftest

    import mlct
    from mlct.adapters.home import Home

    home = Home(root=str(root))
    signals = [mlct.Signal("error_rate", max=0.05, min_samples=200, breaches=2, of=3)]
    spec = conftest.declare(name=name, rollback=mlct.RollbackPolicy(signals=signals))
    follow(home, [name])
    time.sleep(random.uniform(1, 2))
    seen = report(home, name)
    assert mlct.roll_back_on_breach(spec, home=home) is not None
    moved = time.monotonic() - seen
    return moved, watched(home, name, seen)[1]


def floor(root: Path, name: str, runs: int = 9) -> float:
    """Moving an alias and reading a model's files, without any check: median seconds."""
    from mlct.adapters.home import Home
    from mlct.training import fit

    home = Home(root=str(root))
    client, seconds = home.registry.client, []
    artifact = home.ledger.head(f"{name}@production").predicate["artifact"]
    for number in range(runs):
        began = time.monotonic()
        client.set_registered_model_alias(name, "floor", str(1 + number % 2))
        fit.kept(home.store, artifact)
        seconds.append(time.monotonic() - began)
    client.delete_registered_model_alias(name, "floor")
    return statistics.median(seconds)


def daemon_path(root: Path, folder: Path, names: list[str]) -> list[tuple[float, float]]:
    """The same by the sensors of one `dagster dev`, a model a run."""
    from mlct.adapters.home import Home

    (folder / "dagster").mkdir(parents=True)
    (folder / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (folder / "location.py").write_text(LOCATION.format(names=names, root=str(root)))
    environment = os.environ | {
        "DAGSTER_HOME": str(folder / "dagster"),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }
    words = ["-m", "dagster", "dev", "-f", "location.py", "-p", str(PORT), "-h", "127.0.0.1"]
    log, found = folder / "log", []
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            _until(_answers, 240, "dagster dev to answer")
            _until(lambda: "Checking for new runs" in log.read_text(), 240, "a tick of a sensor")
            home = Home(root=str(root))
            follow(home, names)
            for name in names:
                time.sleep(random.uniform(4, 14))
                seen = report(home, name)
                try:
                    found.append(watched(home, name, seen))
                except TimeoutError as error:
                    told = log.read_text()[-3000:]
                    raise SystemExit(f"no rollback of {name}:\n{told}") from error
        finally:
            os.killpg(server.pid, signal.SIGINT)
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
    return found


def _answers() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/server_info", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _until(done: Any, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise SystemExit(f"gave up waiting for {what}")
        time.sleep(0.5)


def show(name: str, found: list[tuple[float, float]], floor_seconds: float, bar: float) -> None:
    moved, switched = (statistics.median(column) for column in zip(*found, strict=True))
    print(
        f"{name:14} slot moved {moved:8.3f} s   loader switched {switched:8.3f} s   "
        f"worst {max(s for _, s in found):.3f} s   {switched / BAR:.2%} of the bar of {BAR:g} s   "
        f"{switched / floor_seconds:,.0f} x the floor   wanted < {bar:g} s: "
        f"{'yes' if switched < bar else 'NO'} ({len(found)} runs)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of the event path")
    parser.add_argument("--daemon", type=int, default=3, help="of the sensor path; 0 for none")
    options = parser.parse_args()
    by_event = [f"event_{n}" for n in range(options.runs)]
    by_sensor = [f"sensor_{n}" for n in range(options.daemon)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        root = made(Path(name), [*by_event, *by_sensor])
        lowest = floor(root, by_event[0])
        print(f"{'floor':14} alias moved and files read {lowest:.4f} s")
        show("event path", [event_path(root, model) for model in by_event], lowest, 5)
        if by_sensor:
            show("sensor path", daemon_path(root, Path(name) / "dev", by_sensor), lowest, 60)


if __name__ == "__main__":
    main()
