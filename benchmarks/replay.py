"""Does a trigger keep the gain of retraining all the time, with half of the retrains or fewer?

Replays history on four real data sets: flights of 2013, bike sharing, Elec2, metro traffic. Each is
played by the code of the loop: never retrained, retrained at every step, by policies, and by an
oracle. The policies are the same for every data set, in words of its step; `limit` is the metric of
the first holdout, less a tenth of what lies between it and the metric of knowing nothing. "share"
is the gain over never retraining as a part of the gain of retraining at each step; a policy is
wanted that has 95 % of it with half of the retrains. The flights are every third one. Run from the
root of the repository:

    OMP_WAIT_POLICY=passive python -m benchmarks.replay --data FOLDER [--only NAME] [--plots FOLDER]
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from mlct.data.window import Columns, Windows, cut
from mlct.evaluation.gate import GatePolicy, Superiority
from mlct.evaluation.metric import metric as find_metric
from mlct.monitoring.policy import MonitoringPolicy
from mlct.monitoring.replay import Replay, replay
from mlct.monitoring.trigger import RetrainPolicy
from mlct.training import fit


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A data set, and how it is played."""

    rows: Callable[[Path], pa.Table]
    columns: Columns
    windows: Windows
    step: str
    start: datetime
    metric: str
    classifier: bool


def flights(folder: Path) -> pa.Table:
    """Every third flight of the year: 112,000 rows."""
    from assets.flight_features import features
    from assets.nycflights import read_flights, read_planes, read_weather

    table = features(read_flights(), read_weather(), read_planes())
    return table.take(np.arange(0, table.num_rows, 3))


def bikes(folder: Path) -> pa.Table:
    """Hourly rentals; the parts that add up to the label are dropped."""
    table = pq.read_table(folder / "bike_sharing.parquet")
    return _numbered(table, ["cnt", "hr", "weekday", "workingday", "holiday", "weathersit",
                             "temp", "atemp", "hum", "windspeed", "season", "mnth"])  # fmt: skip


def elec2(folder: Path) -> pa.Table:
    """Half-hours of a market; without the price that all but tells the label."""
    table = pq.read_table(folder / "elec2.parquet")
    return _numbered(
        table, ["up", "day", "period", "nswdemand", "vicprice", "vicdemand", "transfer"]
    )


def metro(folder: Path) -> pa.Table:
    """Hourly traffic, the first row of each hour: weather is told once for each kind."""
    table = pq.read_table(folder / "metro_traffic.parquet")
    table = table.sort_by("ts")
    ts = table["ts"]
    times = ts.to_numpy()
    first = np.append(True, times[1:] != times[:-1])
    table = table.append_column("hour", pc.cast(pc.hour(ts), pa.int64()))
    table = table.append_column("weekday", pc.cast(pc.day_of_week(ts), pa.int64()))
    table = table.append_column("month", pc.cast(pc.month(ts), pa.int64()))
    kept = table.filter(pa.array(first))
    names = ["traffic_volume", "hour", "weekday", "month", "temp", "rain_1h", "snow_1h",
             "clouds_all", "weather_main"]  # fmt: skip
    return _numbered(kept, names)


def _numbered(table: pa.Table, names: list[str]) -> pa.Table:
    number = pa.array(range(table.num_rows))
    return pa.table({"row": number, "ts": table["ts"], **{n: table[n] for n in names}})


def _columns(label: str) -> Columns:
    return Columns(id="row", time="ts", label=label)


CASES = {
    "flights": Case(
        rows=flights,
        columns=Columns(
            id="flight_id", time="scheduled_departure", label="late", label_time="arrived_at"
        ),
        windows=Windows(train="365d", holdout="21d", label_delay="2d"),
        step="14d",
        start=datetime(2013, 3, 11, tzinfo=UTC),
        metric="roc_auc",
        classifier=True,
    ),
    "bike_sharing": Case(
        rows=bikes,
        columns=_columns("cnt"),
        windows=Windows(train="730d", holdout="21d"),
        step="30d",
        start=datetime(2011, 3, 22, tzinfo=UTC),
        metric="mae",
        classifier=False,
    ),
    "elec2": Case(
        rows=elec2,
        columns=_columns("up"),
        windows=Windows(train="180d", holdout="21d"),
        step="28d",
        start=datetime(1996, 11, 19, tzinfo=UTC),
        metric="roc_auc",
        classifier=True,
    ),
    "metro_traffic": Case(
        rows=metro,
        columns=_columns("traffic_volume"),
        windows=Windows(train="730d", holdout="28d"),
        step="60d",
        start=datetime(2013, 7, 29, tzinfo=UTC),
        metric="mae",
        classifier=False,
    ),
}


def estimator(classifier: bool) -> Any:
    """The same small trees for all."""
    from lightgbm import LGBMClassifier, LGBMRegressor

    kind = LGBMClassifier if classifier else LGBMRegressor
    return kind(
        n_estimators=80, learning_rate=0.1, num_leaves=31, min_child_samples=50,
        n_jobs=1, random_state=0, verbose=-1,
    )  # fmt: skip


def policies(case: Case) -> dict[str, RetrainPolicy]:
    """In words of the step, so that they mean the same for all."""
    days, behind = int(case.step[:-1]), int(case.windows.holdout[:-1])
    free: dict[str, Any] = {"cooldown": "1d", "budget": "999/365d"}
    rare: dict[str, Any] = {"cooldown": f"{days + days // 2}d", "budget": "999/365d"}
    return {
        "realised": RetrainPolicy(on=["realised"], **free),
        "concept": RetrainPolicy(on=["concept"], **free),
        "scores": RetrainPolicy(on=["scores"], max_psi=0.05, **free),
        "drift 0.25": RetrainPolicy(on=["drift"], max_psi=0.25, **free),
        "realised or concept": RetrainPolicy(on=["realised", "concept"], **free),
        "scores, every other": RetrainPolicy(on=["scores"], max_psi=0.05, **rare),
        "drift, every other": RetrainPolicy(on=["drift"], max_psi=0.25, **rare),
        "any, every other": RetrainPolicy(
            on=["realised", "concept", "scores", "drift"], max_psi=0.05, **rare
        ),
        "age": RetrainPolicy(on=["age"], max_age=f"{behind + days + days // 2}d", **free),
    }


def limit_of(case: Case, rows: pa.Table) -> float:
    """What the first holdout gave, less a tenth of the way to knowing nothing."""
    first = cut(ds.dataset(rows), case.columns, case.windows, as_of=case.start)
    names = case.columns.features(rows.schema)
    model = fit.fit(estimator(case.classifier), first.train, names, case.columns.label)
    truth = model.truth(first.holdout)
    metric = find_metric(case.metric)
    found = metric(truth, model.score(first.holdout))
    plain = float(np.mean(model.truth(first.train)))
    nothing = metric(truth, np.full(len(truth), plain))
    return found + (nothing - found) / 10


def play(name: str, folder: Path) -> Replay:
    """One data set under every policy."""
    case = CASES[name]
    rows = case.rows(folder)
    return replay(
        rows,
        columns=case.columns,
        windows=case.windows,
        estimator=lambda: estimator(case.classifier),
        # A challenger that is more likely better than not: what is compared is when to ask.
        gate=GatePolicy(
            primary=Superiority(case.metric, min_effect=0.0, confidence=0.6), max_feature_auc=1.0
        ),
        policies=policies(case),
        step=case.step,
        start=case.start,
        # Steps of weeks to months speak for themselves.
        monitoring=MonitoringPolicy(sustained=(1, 1)),
        limit=limit_of(case, rows),
    )


def main() -> None:
    """Print a table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--plots", type=Path)
    options = parser.parse_args()
    for name in [options.only] if options.only else CASES:
        began = time.process_time()
        found = play(name, options.data)
        print(f"\n{name}: {len(found.at) - 1} steps, {time.process_time() - began:.0f} s of CPU")
        print(found.table())
        most = found.tracks["scheduled"].retrains / 2
        good = [
            n
            for n, t in found.tracks.items()
            if n != "oracle" and t.retrains <= most and (found.share(n) or 0) >= 0.95
        ]
        print(f"95 % of the gain with half of the retrains: {', '.join(good) or 'none'}")
        if options.plots:
            options.plots.mkdir(parents=True, exist_ok=True)
            (options.plots / f"{name}.png").write_bytes(found.plot())


if __name__ == "__main__":
    main()
