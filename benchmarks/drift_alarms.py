"""How often does drift cry wolf, and how soon does it see a shift? Windows of known distributions.

Windows are tables of numbers (normal, log-normal, Poisson, mostly zero) and texts, profiled and
judged as in production. Stable: all windows come from one process, with independent rows or with
rows that share a day (7 days a window, intra-day correlation 0.1). Each rate is printed with its
95 % limits (Clopper-Pearson).

    OMP_NUM_THREADS=1 python -m benchmarks.drift_alarms [--windows 200]

tests/monitoring/test_drift_alarms.py runs the same worlds, fewer of them.
"""

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import binomtest

from mlct.data.profile import Profile, profile
from mlct.monitoring.drift import Spread, decide_drift, drift, fixed_rule, spreads

DAYS, PAST = 7, 30
CATEGORIES = np.array([f"v{i}" for i in range(20)])
SHARES = np.arange(1, 21) ** -1.0 / (np.arange(1, 21) ** -1.0).sum()

#: What is planted in the first column of its kind.
SHIFTS = {
    "mean": "the mean of c0 by 0.3 standard deviations",
    "variance": "the standard deviation of c0 by 1.4",
    "null rate": "5 % of c0 missing",
    "new category": "3 % of c4 in a category that was never seen",
    "prior": "the share of positives from 0.2 to 0.4: the score moves",
    "concept": "the label's dependence on c0 turns; no column changes",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Where windows come from: `columns` columns, rows that share a day when `clustered`."""

    columns: int
    clustered: bool = False
    correlation: float = 0.1

    def draw(self, random: np.random.Generator, rows: int, days: int, shift: str = "") -> pa.Table:
        """A window of `rows` rows; the last column is a score."""
        day = np.arange(rows) % days
        columns: dict[str, Any] = {}
        for i in range(self.columns - 1):
            z = random.standard_normal(rows)
            if self.clustered:
                common = random.standard_normal(days)[day]
                z = np.sqrt(self.correlation) * common + np.sqrt(1 - self.correlation) * z
            if i == 0:
                z = z * (1.4 if shift == "variance" else 1) + (0.3 if shift == "mean" else 0)
            columns[f"c{i}"] = self._column(i, z, random, shift)
        first = random.random(rows) < (0.4 if shift == "prior" else 0.2)
        columns["score"] = random.normal(np.where(first, 1.5, 0))
        return pa.table(columns)

    def _column(self, i: int, z: Any, random: np.random.Generator, shift: str) -> Any:
        match i % 5:
            case 0 if i == 0 and shift == "null rate":
                return np.where(random.random(len(z)) < 0.05, np.nan, z)
            case 0:
                return z
            case 1:
                return np.exp(z).astype(np.float32)
            case 2:
                return np.floor(np.exp(z + 1))
            case 3:
                return np.where(z > 0.8, z, 0)
            case _:
                code = np.searchsorted(np.cumsum(SHARES), _normal(z)).clip(0, 19)
                texts = CATEGORIES[code]
                fresh = i == 4 and shift == "new category"
                return np.where(random.random(len(z)) < 0.03, "new", texts) if fresh else texts


def _normal(z: Any) -> Any:
    from scipy.special import ndtr

    return ndtr(z)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stable:
    """Windows of a stable world that raised an alarm, of `windows`."""

    windows: int
    alarms: int
    lasting: int
    fixed: int
    promised: float


def stable(world: World, rows: int, windows: int, *, seed: int = 0, past: bool = False) -> Stable:
    """Judge stable windows; with `past`, thirty earlier ones show how much days move by chance."""
    random = np.random.default_rng(seed)
    reference, before = _history(world, rows, random, PAST if past else 0)
    reports = []
    for _ in range(windows):
        window = profile(world.draw(random, rows, DAYS), edges_from=reference)
        reports.append(drift(reference, window, predictions=["score"], past=before))
    lasting = (
        bool(decide_drift(reports[max(0, at - 2) : at + 1], floor=0).columns)
        for at in range(windows)
    )
    rules = [fixed_rule(report) for report in reports]
    return Stable(
        windows=windows,
        alarms=sum(r.drifted for r in reports),
        lasting=sum(lasting),
        fixed=sum(bool(rule.moved) for rule in rules),
        promised=float(np.mean([rule.any_false_alarm for rule in rules])),
    )


def _history(
    world: World, rows: int, random: np.random.Generator, past: int
) -> tuple[Profile, dict[str, Spread]]:
    reference = profile(world.draw(random, 10 * rows, 10 * DAYS)).coarse()
    windows = [profile(world.draw(random, rows, DAYS), edges_from=reference) for _ in range(past)]
    return reference, spreads(reference, windows)


def delays(
    world: World, rows: int, repeats: int, *, seed: int = 0, patience: int = 10
) -> Mapping[str, tuple[list[int], list[int]]]:
    """Windows from each shift's start to the first alarm, and to one that lasted (2 of 3).

    `patience` + 1 stands for never.
    """
    found: dict[str, tuple[list[int], list[int]]] = {}
    for shift in SHIFTS:
        random = np.random.default_rng(seed)
        first, lasting = [], []
        for _ in range(repeats):
            reference, before = _history(world, rows, random, PAST if world.clustered else 0)
            reports = []
            for _ in range(patience):
                window = profile(world.draw(random, rows, DAYS, shift), edges_from=reference)
                reports.append(drift(reference, window, predictions=["score"], past=before))
                if decide_drift(reports, floor=0).columns:
                    break
            alarms = [at for at, r in enumerate(reports, 1) if r.drifted]
            first.append(min(alarms, default=patience + 1))
            lasted = bool(decide_drift(reports, floor=0).columns)
            lasting.append(len(reports) if lasted else patience + 1)
        found[shift] = first, lasting
    return found


def limits(hits: int, of: int) -> str:
    low, high = binomtest(hits, of).proportion_ci()
    return f"{hits / of:6.3f} [{low:.3f}, {high:.3f}]"


def cells() -> Iterator[tuple[int, int, bool, bool]]:
    for clustered, past in ((False, False), (True, False), (True, True)):
        for rows in (500, 5_000, 50_000):
            for columns in (10, 60):
                yield rows, columns, clustered, past


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=200)
    given = parser.parse_args()
    start = time.process_time()
    print("False alarms a window on stable data, alpha 0.05\n")
    print(
        "rows      rows/window  columns  any alarm               2 of 3                  PSI > 0.2"
    )
    for rows, columns, clustered, past in cells():
        windows = given.windows if rows < 50_000 else max(given.windows // 2, 1)
        world = World(columns=columns, clustered=clustered)
        found = stable(world, rows, windows, past=past)
        kind = ("days+past" if past else "days") if clustered else "alone"
        print(
            f"{kind:9} {rows:11,}  {columns:7}  {limits(found.alarms, windows)}  "
            f"{limits(found.lasting, windows)}  {found.fixed / windows:.3f} "
            f"(says {found.promised:.3f})",
            flush=True,
        )
    print("\nDelay in windows (median, worst of 20) to the first alarm, and to 2 of 3; 11 is never")
    for clustered in (False, True):
        print(f"\n{'rows share a day' if clustered else 'independent rows'}, 20 columns")
        for rows in (500, 5_000):
            world = World(columns=20, clustered=clustered)
            for shift, (first, lasting) in delays(world, rows, 20).items():
                print(
                    f"{rows:6,} rows  {shift:13} {np.median(first):4.0f} {max(first):3}   "
                    f"{np.median(lasting):4.0f} {max(lasting):3}"
                )
    print(f"\n{time.process_time() - start:.0f} s of CPU")


if __name__ == "__main__":
    main()
