"""The retrain loop against a bare script that does the same work on the same rows.

Both read nine months of flight features, cut them, validate them with the same Great Expectations
suite, fit the same LightGBM, score the same holdout, draw the same three plots and log and register
the model in a fresh MLflow on SQLite. The loop adds Dagster's events, digests, the ledger, the
baseline, paired intervals by day and guardrails. Each is a process of its own; the best of the
runs counts, in CPU seconds (user and system) and wall seconds.

    python -m benchmarks.loop_overhead [--runs 3]
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

AS_OF = "2013-10-01T00:00:00+00:00"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def prepare(folder: Path) -> None:
    """Nine months of features, as snapshots for the loop and as one file for the bare script."""
    import dagster as dg
    import pyarrow.parquet as pq

    from assets.flight_features import features
    from assets.nycflights import read_flights, read_planes, read_weather
    from definitions import defs
    from mlct.data.window import Columns, Windows, cut
    from mlct.defs.io_manager import as_dataset

    table = features(read_flights(), read_weather(), read_planes())
    instance = dg.DagsterInstance.get()
    job = defs.resolve_job_def("ingest")
    for month in range(1, 10):
        job.execute_in_process(
            instance=instance, partition_key=f"2013-{month:02}-01", run_config=QUIET
        )
    rows = cut(
        as_dataset(table),
        Columns(id="flight_id", time="scheduled_departure", label="late", label_time="arrived_at"),
        Windows(train="365d", holdout="28d", label_delay="2d"),
        as_of=datetime.fromisoformat(AS_OF),
    )
    pq.write_table(rows.train, folder / "train.parquet")
    pq.write_table(rows.holdout, folder / "holdout.parquet")


def loop() -> None:
    """One run of the retrain job."""
    import dagster as dg

    from definitions import defs

    config = {"ops": {"flight_delay__training_set": {"config": {"as_of": AS_OF}}}}
    done = defs.resolve_job_def("flight_delay_retrain").execute_in_process(
        instance=dg.DagsterInstance.get(), run_config=QUIET | config
    )
    assert done.success


def bare(folder: Path) -> None:
    """What a notebook turned script would do."""
    import lightgbm
    import matplotlib
    import pandas as pd

    matplotlib.use("Agg")
    import great_expectations as gx
    import matplotlib.pyplot as plt
    import mlflow
    import numpy as np
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from mlflow.models import infer_signature
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score, roc_curve

    from assets.contract import flight_contract

    train, holdout = (pd.read_parquet(folder / f"{n}.parquet") for n in ("train", "holdout"))
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    batch = (
        context.data_sources.add_pandas("flights")
        .add_dataframe_asset("rows")
        .add_batch_definition_whole_dataframe("all")
        .get_batch({"dataframe": pd.concat([train, holdout])})
    )
    fresh = holdout["scheduled_departure"].max() - pd.Timedelta("1d")
    verdict = batch.validate(flight_contract(), expectation_parameters={"fresh_after": fresh})
    assert verdict.success
    names = [
        c for c in train if c not in ("flight_id", "scheduled_departure", "arrived_at", "late")
    ]
    for name in ("carrier", "origin", "dest"):
        levels = sorted(train[name].unique())
        for frame in (train, holdout):
            frame[name] = pd.Categorical(frame[name], categories=levels)
    model = lightgbm.LGBMClassifier(
        n_estimators=120,
        learning_rate=0.08,
        num_leaves=31,
        min_child_samples=50,
        random_state=0,
        deterministic=True,
        force_row_wise=True,
        n_jobs=1,
        verbose=-1,
    ).fit(train[names], train["late"].astype(int))
    truth, scores = holdout["late"].astype(int), model.predict_proba(holdout[names])[:, 1]
    metrics = {
        "roc_auc": float(roc_auc_score(truth, scores)),
        "log_loss": float(log_loss(truth, scores)),
        "brier": float(brier_score_loss(truth, scores)),
    }
    for name, (x, y) in {
        "roc": roc_curve(truth, scores)[:2],
        "calibration": calibration_curve(truth, scores, n_bins=10),
        "scores": np.histogram(scores, bins=40)[::-1],
    }.items():
        figure, axes = plt.subplots()
        axes.plot(x[: len(y)], y)
        figure.savefig(folder / f"{name}.png")
    mlflow.set_tracking_uri(f"sqlite:///{os.environ['MLCT_HOME']}/mlflow.db")
    mlflow.create_experiment("bare", artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment("bare")
    with mlflow.start_run():
        mlflow.log_params(model.get_params())
        mlflow.log_metrics(metrics)
        for name in ("roc", "calibration", "scores"):
            mlflow.log_artifact(str(folder / f"{name}.png"))
        mlflow.lightgbm.log_model(
            model.booster_,
            name="model",
            registered_model_name="bare",
            pip_requirements=[f"lightgbm=={lightgbm.__version__}"],
            signature=infer_signature(holdout[names].head(), scores[:5]),
        )


def measured(folder: Path, what: str) -> tuple[float, float]:
    """`(CPU seconds, wall seconds)` of a child process."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.loop_overhead", "--part", what],
        check=True,
        env=os.environ | {"BENCHMARK_FOLDER": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.monotonic() - began


def compare(runs: int) -> dict[str, tuple[float, float]]:
    """The best of `runs` of each, every one on a fresh MLflow and ledger."""
    best: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("mlct", "dagster"):
            (folder / "seed" / part).mkdir(parents=True)
            os.environ[f"{part.upper()}_HOME"] = str(folder / "seed" / part)
        os.environ |= {"OMP_WAIT_POLICY": "passive", "DAGSTER_DISABLE_TELEMETRY": "1"}
        shutil.copy("dagster.yaml", folder / "seed" / "dagster")
        measured(folder, "prepare")
        for number in range(runs):
            fresh = folder / str(number)
            shutil.copytree(folder / "seed", fresh)
            for part in ("mlct", "dagster"):
                os.environ[f"{part.upper()}_HOME"] = str(fresh / part)
            for what, part in (("loop", "loop"), ("unchanged", "loop")):
                best[what] = min(best.get(what, (9e9, 9e9)), measured(folder, part))
            shutil.rmtree(fresh)
            shutil.copytree(folder / "seed", fresh)
            best["bare"] = min(best.get("bare", (9e9, 9e9)), measured(folder, "bare"))
            shutil.rmtree(folder / "artifacts", ignore_errors=True)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--part", choices=("prepare", "loop", "bare"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.part:
        folder = Path(os.environ["BENCHMARK_FOLDER"])
        {"prepare": lambda: prepare(folder), "loop": loop, "bare": lambda: bare(folder)}[
            options.part
        ]()
        return
    best = compare(options.runs)
    if options.json:
        print(json.dumps(best))
        return
    cpu, wall = best["bare"]
    print(f"{'':26}{'CPU s':>8}{'ratio':>8}{'wall s':>9}{'ratio':>8}")
    for what, label in (
        ("bare", "bare script"),
        ("loop", "mlct, first run"),
        ("unchanged", "mlct, unchanged second run"),
    ):
        c, w = best[what]
        print(f"{label:26}{c:8.1f}{c / cpu:8.2f}{w:9.1f}{w / wall:8.2f}")


if __name__ == "__main__":
    main()
