"""How often does a monitored model cry wolf? Stable windows, through the whole of `observe`.

Each world draws features whose rows share a day (intra-day correlation 0.1), and a label that
depends on two of them and on the day; nothing ever changes. A LightGBM classifier learns from 70
days, 28 are its holdout, then `--windows` windows are observed one after the other, each with
those before it, as `m/monitoring` does. Printed is the share of windows in which a signal is
breached, with its 95 % limits (Clopper-Pearson); for concept drift, which is looked at for ever,
the share of models that ever alarm. `one window` is a feature that moved in a window, sustained or
not; `gap` is what the check of concept drift adds to the signal.

    OMP_NUM_THREADS=1 python -m benchmarks.monitoring_alarms [--models 5] [--days 7] [--alone]
        [--tau 0.02] [--reference training]
"""

import argparse
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from benchmarks.drift_alarms import World, limits
from mlct.data.window import Columns, Windows
from mlct.evaluation.metric import metric
from mlct.monitoring.observe import observe, predict, reference_of
from mlct.monitoring.observe.observation import past
from mlct.monitoring.policy import Choice, MonitoringPolicy
from mlct.monitoring.trigger import RetrainPolicy
from mlct.training.fit import fit

START = datetime(2024, 1, 1, tzinfo=UTC)
COLUMNS = Columns(id="id", time="at", label="y")
TRAIN, HELD = 70, 28  # days
JOINED = 4
TAU = RetrainPolicy().max_psi
NAMED: dict[str, Any] = {"columns": COLUMNS, "artifact": "f" * 64}
SIGNALS = ("drift", "scores", "realised", "estimated")


def draw(world: World, random: Any, first: int, count: int, rows: int, days: int) -> pa.Table:
    """`count` windows of `rows` rows, from window `first` on, in the order of time."""
    total, over = rows * count, days * count
    table = world.draw(random, total, over).drop_columns(["score"])
    day = np.arange(total) % over
    chance = table["c0"].to_numpy() + 0.5 * (table["c3"].to_numpy() > 0)
    chance += 0.2 * random.standard_normal(over)[day] - 0.5
    label = random.random(total) < 1 / (1 + np.exp(-chance))
    offset = np.datetime64(START.replace(tzinfo=None), "us") + np.timedelta64(first * days, "D")
    at = offset + day * np.timedelta64(1, "D")
    at = at + random.integers(0, 86_400_000_000, total).astype("timedelta64[us]")
    table = table.append_column("y", pa.array(label.astype(np.int8)))
    table = table.append_column("at", pa.array(at).cast(pa.timestamp("us", "UTC")))
    ids = pa.array(np.arange(total) + first * rows)
    return table.append_column("id", ids).sort_by("at")


def alarms(
    world: World,
    rows: int,
    windows: int,
    days: int,
    seed: int,
    *,
    tau: float = TAU,
    choice: Any = "training",
) -> tuple[Counter[str], float]:
    """In how many of the windows each signal breached, of one model; seconds a window."""
    import lightgbm

    random = np.random.default_rng([seed, rows, world.columns])
    lengths = Windows(train=f"{TRAIN}d", holdout=f"{HELD}d", label_delay="1d", cluster="1d")
    learned, held = TRAIN // days, HELD // days
    train = draw(world, random, 0, learned, rows, days)
    features = [n for n in train.column_names if n.startswith("c")]
    learner = lightgbm.LGBMClassifier(n_estimators=30, num_leaves=7, verbose=-1, random_state=0)
    model = fit(learner, train, features, "y")
    step = timedelta(days=days)
    reference = reference_of(
        model,
        train,
        draw(world, random, learned, held, rows, days),
        version=1,
        windows=lengths,
        learned_until=START + learned * step,
        step=step,
        **NAMED,
    )
    found: Counter[str] = Counter()
    before: list[Any] = []
    begun = time.process_time()
    for at in range(learned + held, learned + held + windows):
        table = draw(world, random, at, 1, rows, days)
        seen = observe(
            model,
            reference,
            table,
            predict(model, table, None, version=1, **NAMED),
            start=START + at * step,
            end=START + (at + 1) * step,
            as_of=START + (at + 3) * step,
            windows=lengths,
            policy=MonitoringPolicy(every="week" if days == 7 else "day", reference=choice),
            primary=metric("roc_auc"),
            tau=tau,
            before=before,
            **NAMED,
        )
        found.update(s.signal for s in seen.signals if s.breached)
        found["one window"] += bool(seen.drift and seen.drift.drifted)
        found["gap"] += bool(seen.gap and seen.gap.drifted)
        found["labels"] += seen.labels.late
        found["refused"] += bool(seen.refused)
        profile = None if choice == "training" else seen.profile
        told = seen.to_dict(profile="", joined="")
        before.append(past(told, profile=profile, joined=seen.joined))
        before[:-JOINED] = [replace(one, joined=None) for one in before[:-JOINED]]
    found["ever concept"] = int(found["concept"] > 0)
    return found, (time.process_time() - begun) / windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--windows", type=int, default=25)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--rows", type=int, nargs="+", default=[500, 5_000, 50_000])
    parser.add_argument("--tau", type=float, default=TAU)
    parser.add_argument("--reference", choices=get_args(Choice), default="training")
    parser.add_argument("--alone", action="store_true", help="rows of a day are independent")
    given = parser.parse_args()
    count = given.models * given.windows
    for rows in given.rows:
        for columns in (10, 60):
            world = World(columns=columns + 1, clustered=not given.alone)
            total: Counter[str] = Counter()
            spent = 0.0
            for seed in range(given.models):
                words = {"tau": given.tau, "choice": given.reference}
                found, seconds = alarms(world, rows, given.windows, given.days, seed, **words)
                total += found
                spent += seconds / given.models
            print(f"{rows:,} rows a window, {columns} columns ({spent * 1000:.0f} ms a window)")
            for name in (*SIGNALS, "one window", "gap", "labels", "refused"):
                print(f"  {name:12} {limits(total[name], count)}")
            print(f"  {'concept':12} {limits(total['ever concept'], given.models)} of models, ever")


if __name__ == "__main__":
    main()
