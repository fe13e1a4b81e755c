"""What a tick of the retrain sensors of a whole location costs: 500 models in one process.

Each model has ten trainings, ten verdicts and a promotion in one ledger, sixty stored windows of
three signals, and twenty runs of its job in Dagster. Half of the models breach and ask for a
retrain. The same tick of sensors that do nothing is what Dagster itself takes; the ratio says what
the decision costs beside it. Run from the root of the repository:

    OMP_WAIT_POLICY=passive python -m benchmarks.sensors [--models 500]
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

import mlct
from mlct.adapters.home import Home
from mlct.defs.names import CAUSE_TAG
from mlct.defs.resources import MlctHome
from mlct.defs.sensors import retrain_on_drift
from mlct.release.ledger import instant, statement

START = datetime(2024, 1, 1, tzinfo=UTC)
WINDOWS, TRAININGS, RUNS = 60, 10, 20
REASON = "distance moved: PSI 0.31, threshold 0.08, importance 40%"


def spec(name: str) -> mlct.ModelSpec:
    """A model that listens to several signals."""
    return mlct.ModelSpec(
        name=name,
        owners=["team:bench"],
        risk_tier="low",
        features="rows",
        columns=mlct.Columns(id="id", time="at", label="late"),
        windows=mlct.Windows(train="30d", holdout="7d"),
        contract=lambda: None,
        estimator=lambda: None,
        gate=mlct.GatePolicy(primary=mlct.Superiority("roc_auc")),
        retrain=mlct.RetrainPolicy(
            breaches=2, of=3, on=["realised", "scores", "drift", "age"], max_age="999d"
        ),
    )


def fill(home: Home, store: MlctHome, instance: Any, name: str, *, breached: bool) -> None:
    """What a year of one model leaves behind."""
    ledger = home.ledger
    for version in range(1, TRAININGS + 1):
        digest = f"{version:064x}"
        common = {"model": name, "version": version, "artifact": digest}
        says = {"as_of": instant(START), "train_end": instant(START), "cause": "", "authors": []}
        subjects = {"artifact": digest}
        code = {"code": {"commit": "", "dirty": False}}
        ledger.append(statement("training", subjects, common | says | code), actor="bench")
        gate = common | {"slot": "production", "verdict": "PASS"}
        ledger.append(statement("gate", subjects, gate), actor="bench")
    move = common | {"slot": "production", "rollback_target": None}
    ledger.append(
        statement("promotion", subjects, move),
        actor="bench",
        slot=f"{name}@production",
        supersedes=0,
    )
    windows = [
        {
            "key": f"k{n}",
            "champion": TRAININGS,
            "end": instant(START + timedelta(days=n + 1)),
            "start": instant(START + timedelta(days=n)),
            "rows": 1000,
            "max_psi": 0.31,
            "values": {"roc_auc": [0.71, 990]},
            "until": None,
            "detail": f"{n:064x}",
            "signals": [
                {"signal": s, "breached": s == "drift" and breached, "reason": REASON}
                | {"columns": ["distance"], "refused": ""}
                for s in ("drift", "scores", "realised", "estimated", "concept")
            ],
        }
        for n in range(WINDOWS)
    ]
    document = {"format": "mlct.monitoring/v1", "model": name, "windows": windows}
    store.hand_on(name, "monitoring", "bench", document)
    for n in range(RUNS):
        instance.add_run(
            dg.DagsterRun(
                job_name=f"{name}_retrain",
                run_id=f"{name}-{n}",
                status=dg.DagsterRunStatus.SUCCESS,
                tags={CAUSE_TAG: f"drift:old{n}"},
            )
        )


def idle(name: str) -> dg.SensorDefinition:
    """A sensor that does nothing, with the same resource."""

    @dg.sensor(name=f"{name}_idle", job_name=f"{name}_retrain")
    def sensor(context: dg.SensorEvaluationContext, mlct: MlctHome) -> dg.SkipReason:
        return dg.SkipReason("nothing to do")

    return sensor


def tick(sensors: Sequence[Any], instance: Any, store: MlctHome) -> tuple[float, int]:
    """`(seconds, requests)` of one tick of every sensor, one after the other."""
    began, asked = time.perf_counter(), 0
    for sensor in sensors:
        with dg.build_sensor_context(instance=instance, resources={"mlct": store}) as context:
            asked += len(sensor.evaluate_tick(context).run_requests or ())
    return time.perf_counter() - began, asked


def main() -> None:
    """Print seconds and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=500)
    count = parser.parse_args().models
    names = [f"model_{n:03}" for n in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        home = Home(root=str(Path(folder) / "home"))
        os.makedirs(home.root)
        store = MlctHome(root=home.root)
        overrides = {"telemetry": {"enabled": False}}
        with dg.DagsterInstance.local_temp(folder, overrides=overrides) as instance:
            for n, name in enumerate(names):
                fill(home, store, instance, name, breached=n % 2 == 0)
            ours = [retrain_on_drift(spec(name)) for name in names]
            nothing = [idle(name) for name in names]
            best = {}
            for label, sensors in (("retrain", ours), ("idle", nothing)) * 3:
                seconds, asked = tick(sensors, instance, store)
                best[label] = min(best.get(label, (seconds, asked)), (seconds, asked))
    seconds, asked = best["retrain"]
    plain, _ = best["idle"]
    print(
        f"{count} models, best of 3: {seconds:.2f} s a tick of all ({1000 * seconds / count:.1f} ms"
        f" each, {asked} requests); sensors that do nothing {plain:.2f} s: {seconds / plain:.1f}x"
    )


if __name__ == "__main__":
    main()
