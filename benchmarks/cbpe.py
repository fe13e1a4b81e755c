"""How right is an estimate without labels, and how often does monitoring cry wolf?

    OMP_NUM_THREADS=1 python -m benchmarks.cbpe [--worlds 1000] [--data FOLDER]
    OMP_NUM_THREADS=1 python -m benchmarks.cbpe --speed [--peer PYTHON]

Simulated worlds have a known truth: coverage of the 95 % interval for the realised value, bias, and
the rates of false alarms with their 95 % limits (Clopper-Pearson). `--data` is a folder with
elec2.parquet and bike_sharing.parquet. `--peer` is a Python with nannyml; its time is told as a
ratio, in processor seconds, both in one run, imports and data left out.

tests/monitoring/test_performance_rates.py runs the same worlds, fewer of them.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import binomtest

from mlct.evaluation.metric import metric as find_metric
from mlct.monitoring.performance import (
    Performance,
    calibrate,
    estimate,
    fit_loss_model,
    gap,
    join_labels,
    loss_sequence,
    realised,
)

START = datetime(2024, 1, 1, tzinfo=UTC)
MONTH = (START, START + timedelta(days=30))


def scored(
    random: np.random.Generator,
    rows: int,
    *,
    days: int = 0,
    spread: float = 0.7,
    shift: float = 0.0,
    flip: float = 0.0,
) -> tuple[Any, Any, Any]:
    """Labels, miscalibrated scores and days (None: independent) of rows whose days differ.

    `shift` moves the inputs, `flip` of the labels are turned round: concept drift.
    """
    x = random.normal(size=rows) * 1.5 + shift - 1
    day, effect = None, np.zeros(rows)
    if days:
        day = np.arange(rows) * days // rows
        effect = random.normal(size=days)[day] * spread
    y = random.random(rows) < 1 / (1 + np.exp(-(x + effect)))
    y ^= random.random(rows) < flip
    return y * 1.0, 1 / (1 + np.exp(-(1.4 * x - 0.3))), day


def in_classes(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    """Labels 0 to 2 and their miscalibrated probabilities (rows, 3)."""
    logits = random.normal(size=(rows, 3)) * 1.2
    p, score = (np.exp(k * logits) for k in (1.0, 1.6))
    p, score = (each / each.sum(axis=1, keepdims=True) for each in (p, score))
    return (p.cumsum(axis=1) < random.random((rows, 1))).sum(axis=1) * 1.0, score


def covered(name: str, worlds: int, *, reference: int, rows: int, seed: int = 0, **how: Any) -> Any:
    """Worlds (n, 4): was the realised value in the 95 % interval, error, standard error, gap."""
    random, metric, found = np.random.default_rng(seed), find_metric(name), []
    classes, days = how.pop("classes", False), how.pop("days", 0)
    for _ in range(worlds):
        if classes:
            (y, s), (truth, score), code, day = (
                in_classes(random, reference),
                in_classes(random, rows),
                None,
                None,
            )
        else:
            y, s, code = scored(random, reference, days=days)
            truth, score, day = scored(random, rows, days=days and max(days // 2, 2), **how)
        known = calibrate(y, s, clusters=code)
        one = estimate(known, score, metric=metric, clusters=day, confidence=0.975)
        real = Performance(
            kind="realised", metric=metric.name, value=metric(truth, score), reason=""
        )
        drifted = gap(one, real, alpha=0.05).drifted
        inside = one.lower <= real.value <= one.upper
        found.append((inside, one.value - real.value, one.standard_error, drifted))
    return np.array(found, dtype=float)


def losses_covered(worlds: int, *, days: int = 0, seed: int = 0) -> Any:
    """Worlds (n, 3) of a regression: was the realised error inside; error; standard error."""
    random, found = np.random.default_rng(seed), []
    for _ in range(worlds):
        x = random.normal(size=(5000, 2)) + np.where(np.arange(5000) < 3000, 0, 0.5)[:, None]
        day = np.arange(5000) * (days or 5000) // 5000
        width = np.exp(0.5 * x[:, 0] + 0.3 * bool(days) * random.normal(size=5000)[day])
        score = x.sum(axis=1)
        y = score + width * random.normal(size=5000)
        old, new = slice(0, 3000), slice(3000, 5000)
        of = day if days else None
        known = fit_loss_model(
            x[old],
            y[old],
            score[old],
            clusters=None if of is None else of[old],
            estimator=linear,
        )
        one = known.estimate(
            x[new], score[new], clusters=None if of is None else of[new], confidence=0.975
        )
        real = float(np.abs(y - score)[new].mean())
        found.append((one.lower <= real <= one.upper, one.value - real, one.standard_error))
    return np.array(found, dtype=float)


def linear() -> Any:
    """A loss model that fits in a millisecond: least squares on squares of the inputs too."""
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures

    return make_pipeline(PolynomialFeatures(3), LinearRegression())


def sequence_alarms(
    worlds: int,
    *,
    rows: int = 20_000,
    days: int = 0,
    jump: float = 0.1,
    at: int | None = None,
    kind: str = "binary",
    seed: int = 0,
) -> tuple[int, list[int]]:
    """Alarms before anything changed, and the delays (rows, or days) of those after `at`."""
    random, false, delays = np.random.default_rng(seed), 0, []
    for _ in range(worlds):
        rate = np.full(rows, 0.1)
        if at is not None:
            rate[at:] = jump
        day = np.arange(rows) * days // rows if days else None
        rows_before = 5000
        before_day = np.arange(rows_before) * 60 // rows_before if days else None

        def draw(p: Any, code: Any, random: Any = random) -> Any:
            if code is not None:
                effect = np.exp(random.normal(size=code.max() + 1) * 0.3 - 0.045)[code]
                p = np.minimum(p * effect, 1)
            if kind == "binary":
                return (random.random(len(p)) < p) * 1.0
            return random.exponential(p)

        found = loss_sequence(
            draw(np.full(rows_before, 0.1), before_day),
            draw(rate, day),
            reference_clusters=before_day,
            clusters=day,
        )
        start = rows if at is None else at
        start = start * days // rows if days else start
        if found.alarm is not None and found.alarm < start:
            false += 1
        elif found.alarm is not None:
            delays.append(found.alarm - start)
    return false, delays


def early_log(random: np.random.Generator, *, days: int, a_day: int, bias: str) -> Any:
    """A churn-like log: positives leave within the month, negatives are known at its end.

    `bias` is "none" (labels arrive whatever they are), "class" (positives first) or "score" (those
    with high scores are looked at first).
    """
    n = days * a_day
    time = (np.arange(n) + 0.5) / a_day
    effect = (random.normal(size=days) * 0.4)[np.arange(n) // a_day]
    score = 1 / (1 + np.exp(-(random.normal(size=n) - 1 + effect)))
    y = random.random(n) < score
    delay = random.uniform(0, 20, n)
    if bias == "class":
        delay = np.where(y, delay * 0.3, delay)
    if bias == "score":
        delay = delay * (1 - score) ** 2
    when = pa.timestamp("us", "UTC")
    instants = pa.array([START + timedelta(days=float(t)) for t in time], when)
    known = pa.array([START + timedelta(days=float(t)) for t in time + delay], when)
    ids = pa.array(range(n))
    made = pa.table({"prediction_id": ids, "predicted_at": instants, "score": score})
    return made, pa.table({"prediction_id": ids, "label": y * 1.0, "label_time": known})


def cohorts_refused(worlds: int, bias: str, *, a_day: int = 100, seed: int = 0) -> int:
    """Windows of ten days, read ten days before their labels are due, that are refused."""
    random, refused = np.random.default_rng(seed), 0
    for _ in range(worlds):
        made, told = early_log(random, days=60, a_day=a_day, bias=bias)
        window = (START + timedelta(days=50), START + timedelta(days=60))
        joined = join_labels(made, told, as_of=window[1] + timedelta(days=3))
        (found,) = realised(
            joined, [window], metric="roc_auc", label_delay="20d", complete=0.2, confidence=0.975
        )
        refused += found.kind == "unknown"
    return refused


def limits(hits: int, worlds: int) -> str:
    low, high = binomtest(int(hits), worlds).proportion_ci(0.95, method="exact")
    return f"{hits / worlds:.3f} [{low:.3f}, {high:.3f}]"


def tell_coverage(worlds: int) -> None:
    print("estimate without labels: realised value in the 95 % interval, bias, gap alarms at 5 %")
    cases: list[tuple[str, dict[str, Any]]] = [
        *((name, {"reference": 5000, "rows": 2000}) for name in BINARY),
        ("roc_auc", {"reference": 500, "rows": 2000}),
        ("accuracy", {"reference": 500, "rows": 2000}),
        ("roc_auc", {"reference": 5000, "rows": 2000, "shift": 1.0}),
        ("accuracy", {"reference": 5000, "rows": 2000, "shift": 1.0}),
        ("roc_auc", {"reference": 6000, "rows": 3000, "days": 60}),
        ("accuracy", {"reference": 6000, "rows": 3000, "days": 60}),
        *((name, {"reference": 5000, "rows": 2000, "classes": True}) for name in CLASSES),
        ("accuracy", {"reference": 5000, "rows": 2000, "flip": 0.05}),
        ("accuracy", {"reference": 5000, "rows": 2000, "flip": 0.1}),
    ]
    for name, how in cases:
        inside, error, se, drifted = covered(name, worlds, **how).T
        print(
            f"  {name:18} {how}: {limits(inside.sum(), worlds)}, bias {error.mean():+.5f}, "
            f"sd {error.std():.5f}, se {se.mean():.5f}, gap alarms {limits(drifted.sum(), worlds)}"
        )
    for days in (0, 50):
        inside, error, se = losses_covered(worlds, days=days).T
        print(
            f"  model of the loss, mae, {days or 'no'} days: {limits(inside.sum(), worlds)}, "
            f"bias {error.mean():+.5f}, sd {error.std():.5f}, se {se.mean():.5f}"
        )


BINARY = (
    "roc_auc",
    "average_precision",
    "accuracy",
    "precision",
    "recall",
    "f1",
    "log_loss",
    "brier",
)
CLASSES = ("accuracy", "roc_auc", "f1", "log_loss")


def tell_sequence(worlds: int) -> None:
    print("sequence of losses: false alarms in 20,000 rows (200 days), level 5 %")
    for kind in ("binary", "exponential"):
        for days in (0, 200):
            false, _ = sequence_alarms(worlds, kind=kind, days=days)
            print(f"  {kind}, {f'{days} days' if days else 'rows'}: {limits(false, worlds)}")
    print("  delay after a jump from .10 at half time (median; share seen; before it)")
    for jump in (0.12, 0.15, 0.2):
        for days in (0, 200):
            some = max(worlds // 5, 20)
            false, delays = sequence_alarms(some, jump=jump, at=10_000, days=days)
            unit = "days of 100 rows" if days else "rows"
            middle = f"{np.median(delays):.0f}" if delays else "-"
            print(f"  to {jump}: {middle} {unit}, seen {len(delays) / some:.2f}, before {false}")


def tell_cohorts(worlds: int) -> None:
    print("early cohort, half of the labels there: refused at level 1 %")
    for bias in ("none", "class", "score"):
        some = worlds if bias == "none" else max(worlds // 10, 20)
        print(f"  arrival by {bias}: {limits(cohorts_refused(some, bias), some)}")


def quarters(rows: int, size: int) -> Iterator[slice]:
    yield from (slice(start, start + size) for start in range(0, rows - size + 1, size))


def tell_elec2(folder: Path) -> None:
    import pyarrow.parquet as pq
    from lightgbm import LGBMClassifier

    table = pq.read_table(folder / "elec2.parquet")
    names = ["period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer"]
    x = np.column_stack([table[n].to_numpy() for n in names])
    y, size = table["up"].to_numpy() * 1.0, 48 * 91
    model = LGBMClassifier(n_estimators=100, n_jobs=1, verbose=-1).fit(x[:size], y[:size])
    score, day = model.predict_proba(x)[:, 1], np.arange(len(y)) // 48
    known = calibrate(y[size : 2 * size], score[size : 2 * size], clusters=day[size : 2 * size])
    metric, before = find_metric("accuracy"), slice(size, 2 * size)
    print("Elec2: trained on the first 91 days, reference the next 91, by quarter")
    for number, rows in enumerate(list(quarters(len(y), size))[2:]):
        one = estimate(known, score[rows], metric=metric, clusters=day[rows])
        real = replace(one, kind="realised", value=metric(y[rows], score[rows]))
        print(f"  quarter {number + 3}: {gap(one, real).reason}")
    wrong = ((score >= 0.5) != y) * 1.0
    found = loss_sequence(
        wrong[before],
        wrong[2 * size :],
        reference_clusters=day[before],
        clusters=day[2 * size :],
    )
    print(f"  {found.reason}")


def tell_bikes(folder: Path) -> None:
    import pyarrow.parquet as pq
    from lightgbm import LGBMRegressor

    table = pq.read_table(folder / "bike_sharing.parquet")
    names = ["hr", "holiday", "weekday", "workingday", "weathersit", "temp", "hum", "windspeed"]
    x = np.column_stack([table[n].to_numpy() * 1.0 for n in names])
    y = table["cnt"].to_numpy() * 1.0
    day = np.unique(table["dteday"].to_numpy(), return_inverse=True)[1]
    train, old = day < 120, (day >= 120) & (day < 240)
    model = LGBMRegressor(n_estimators=100, n_jobs=1, verbose=-1).fit(x[train], y[train])
    score = model.predict(x)
    known = fit_loss_model(x[old], y[old], score[old], clusters=day[old])
    print("bike sharing: trained on 120 days, reference the next 120, absolute error by 60 days")
    for start in range(240, 731 - 30, 60):
        rows = (day >= start) & (day < start + 60)
        one = known.estimate(x[rows], score[rows], clusters=day[rows])
        real = replace(one, kind="realised", value=float(np.abs(y - score)[rows].mean()))
        bias = float((score - y)[rows].mean())
        print(f"  day {start}: bias {bias:+.0f}; {gap(one, real).reason}")
    off = np.abs(y - score)
    late = day >= 240
    found = loss_sequence(off[old], off[late], reference_clusters=day[old], clusters=day[late])
    print(f"  {found.reason}")


_PEER = """
import sys, time, warnings
warnings.simplefilter("ignore")
import os; os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
import pandas as pd, nannyml as nml
old, new = (pd.read_parquet(sys.argv[1] + f"/{n}.parquet") for n in ("old", "new"))
def run():
    start = time.process_time()
    known = nml.CBPE(metrics=[sys.argv[3]], y_pred_proba="score", y_pred="called", y_true="y",
                     problem_type="classification_binary", chunk_size=int(sys.argv[2]))
    found = known.fit(old).estimate(new)
    return time.process_time() - start, found
run()
spent, found = min((run() for _ in range(3)), key=lambda r: r[0])
value = found.filter(period="analysis").to_df()[sys.argv[3]]["value"].mean()
print(spent, value)
"""


def tell_speed(peer: str | None) -> None:
    import pyarrow.parquet as pq

    random, chunk = np.random.default_rng(0), 10_000
    old, new = scored(random, 50_000), scored(random, 200_000)

    def run(name: str) -> tuple[float, float]:
        start = time.process_time()
        known = calibrate(old[0], old[1])
        parts = quarters(len(new[1]), chunk)
        values = [estimate(known, new[1][part], metric=name).value for part in parts]
        return time.process_time() - start, float(np.mean(values))

    with tempfile.TemporaryDirectory() as folder:
        for file, (y, s, _) in (("old", old), ("new", new)):
            columns = {"score": s, "called": (s >= 0.5) * 1, "y": y.astype(int)}
            pq.write_table(pa.table(columns), f"{folder}/{file}.parquet")
        for name in ("roc_auc", "f1"):
            run(name)
            spent, value = min(run(name) for _ in range(3))
            print(
                f"{name}: reference 50,000, 20 windows of 10,000: {spent:.3f} s, mean {value:.5f}"
            )
            if peer:
                done = subprocess.run(
                    [peer, "-c", _PEER, folder, str(chunk), name],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                other, same = (float(x) for x in done.stdout.split()[-2:])
                print(
                    f"  nannyml {other:.3f} s, mean {same:.5f}: {other / spent:.1f} times as long"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--peer")
    options = parser.parse_args()
    if options.speed:
        tell_speed(options.peer)
        return
    tell_coverage(options.worlds)
    tell_sequence(options.worlds)
    tell_cohorts(options.worlds)
    if options.data:
        tell_elec2(options.data)
        tell_bikes(options.data)


if __name__ == "__main__":
    main()
