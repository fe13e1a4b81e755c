"""How often is the gate wrong, and what can it see? Error rates under repeated sampling.

Two models of known area under the ROC curve score rows whose labels and errors may share a day
(intra-cluster correlation 0.3). Everything is judged by `compare`, or by `evaluate` and `decide`.
Each table prints the rate, its 95 % limits (Clopper-Pearson) and what it should be.

    OMP_NUM_THREADS=1 python -m benchmarks.gate_simulation [--worlds 4000]

tests/evaluation/test_simulation.py runs the same worlds, fewer of them.
"""

import argparse
import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri
from scipy.stats import binomtest

from mlct.evaluation.compare import compare
from mlct.evaluation.evaluate import evaluate
from mlct.evaluation.gate import GatePolicy, Superiority, decide
from mlct.evaluation.selection import level, select

AUC = 0.75
SPREAD = 0.002  # standard deviation of a retrained model's true area


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """How rows come about.

    `sizes` are the rows of each cluster, or of all (independent rows) when there is one number;
    `correlation` is the intra-cluster correlation of labels and errors; `agreement` the
    correlation of two models' errors.
    """

    sizes: tuple[int, ...]
    positives: float = 0.15
    correlation: float = 0.0
    agreement: float = 0.9

    @property
    def codes(self) -> Any:
        """The cluster of each row; None for independent rows."""
        return None if len(self.sizes) == 1 else np.repeat(np.arange(len(self.sizes)), self.sizes)

    def draw(self, random: np.random.Generator, areas: Mapping[str, float]) -> Any:
        """Labels (rows,) and each model's probabilities (rows,), of the given true areas.

        Scores are normal in each class, so that a model's area is the normal probability of half
        the squared distance (binormal).
        """
        codes, rows = self.codes, sum(self.sizes)

        def noise() -> Any:
            if codes is None:
                return random.standard_normal(rows)
            day = random.standard_normal(len(self.sizes))[codes]
            own = random.standard_normal(rows)
            return np.sqrt(self.correlation) * day + np.sqrt(1 - self.correlation) * own

        y = (noise() < ndtri(self.positives)) * 1.0
        common = np.sqrt(self.agreement) * noise()
        scores = {}
        for name, area in areas.items():
            error = common + np.sqrt(1 - self.agreement) * noise()
            scores[name] = 1 / (1 + np.exp(1.5 - np.sqrt(2) * ndtri(area) * y - error))
        return y, scores


DAYS = {
    "equal days": lambda days, rows: np.full(days, rows // days),
    "log-normal days": lambda days, rows: _share(
        np.exp(ndtri((np.arange(days) + 0.5) / days)), rows
    ),
    "one in ten is ninefold": lambda days, rows: _share(np.where(np.arange(days) % 10, 1, 9), rows),
}


def _share(weights: Any, rows: int) -> Any:
    return np.maximum(1, rows * weights / weights.sum()).astype(int)


def clustered(days: int, rows: int, shape: str = "equal days", **fields: Any) -> World:
    """Rows in days with intra-cluster correlation 0.3."""
    sizes = tuple(int(size) for size in DAYS[shape](days, rows))
    return World(sizes=sizes, correlation=0.3, **fields)


def called_better(
    world: World, metric: str, worlds: int, *, gain: float = 0.0, seed: int = 0, **changes: Any
) -> int:
    """In how many worlds the lower bound is above zero; `gain` is the true difference of areas."""
    random = np.random.default_rng(seed)
    found = 0
    for _ in range(worlds):
        y, scores = world.draw(random, {"old": AUC, "new": AUC + gain})
        if not 0 < y.sum() < len(y):
            continue  # nothing to compare: nobody is called better
        kept = {"champion": "old", "clusters": world.codes, "replicates": 500} | changes
        found += compare(y, scores, metric=metric, **kept)["new"].lower > 0
    return found


def verdicts(world: World, challengers: int, *, seed: int = 0) -> tuple[int, int]:
    """How many equally good challengers, each on a fresh holdout, pass the gate; and a `>=`.

    The gate as it is wired: this is the first decision on each holdout.
    """
    policy = GatePolicy(primary=Superiority("roc_auc"))
    random = np.random.default_rng(seed)
    passed = at_least = 0
    for _ in range(challengers):
        y, scores = world.draw(random, {"champion": AUC, "challenger": AUC})
        found = evaluate(y, scores, policy=policy, clusters=world.codes, looks=1)
        passed += decide(found, policy).verdict == "PASS"
        area = {name: values["roc_auc"] for name, values in found.metrics.items()}
        at_least += area["challenger"] >= area["champion"]
    return passed, at_least


def year(
    world: World,
    *,
    candidates: int,
    confirm: bool,
    min_effect: float,
    seed: int,
    retrains: int = 52,
) -> tuple[int, int]:
    """Promotions and false ones in a year without improvement.

    A retrained model's true area varies around the same value; the best of the candidates on the
    selection window is judged there, or on a confirmation window that nobody selected on. A
    promotion is false when the model is truly no better than the champion it replaces. Bounds are
    those of the first decision on a holdout.
    """
    random = np.random.default_rng(seed)
    live, promoted, false = AUC, 0, 0
    for _ in range(retrains):
        areas = {f"c{k}": AUC + SPREAD * random.standard_normal() for k in range(candidates)}
        y, scores = world.draw(random, areas | {"old": live})
        best = select(y, {name: scores[name] for name in areas}, "roc_auc")
        if confirm:
            y, scores = world.draw(random, {best: areas[best], "old": live})
        found = compare(
            y,
            scores,
            champion="old",
            metric="roc_auc",
            clusters=world.codes,
            confidence=level(0.95, looks=1),
        )[best]
        if found.lower > min_effect:
            promoted, false, live = promoted + 1, false + (areas[best] <= live), areas[best]
    return promoted, false


def _rate(label: str, found: int, of: int, wanted: str) -> None:
    low, high = binomtest(found, of).proportion_ci()
    print(f"  {label:52} {found / of:7.2%}  [{low:.2%} to {high:.2%}]  {wanted}")


def type_one() -> Iterator[tuple[str, World, str]]:
    """The settings in which two equal models are compared."""
    days = clustered(30, 1500)
    for metric in ("roc_auc", "log_loss", "average_precision"):
        yield f"{metric}, 1,000 independent rows", World(sizes=(1000,)), metric
        yield f"{metric}, 30 days of 50 rows, ICC .3", days, metric
        yield f"{metric}, 5,000 rows, 1 % positive", World(sizes=(5000,), positives=0.01), metric
    for positives, rows in ((0.15, 60), (0.01, 300)):
        for shape in DAYS:
            for count in (10, 20, 30):
                world = clustered(count, rows * count, shape, positives=positives)
                yield f"roc_auc, {count} {shape}, {positives:.0%} positive", world, "roc_auc"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=4000)
    worlds = parser.parse_args().worlds
    start = time.perf_counter()
    first = level(0.95, looks=1)
    print(f"Equal models called better by the gate, at its first look ({worlds:,} worlds):")
    for label, world, metric in type_one():
        found = called_better(world, metric, worlds, confidence=first)
        _rate(label, found, worlds, "at most 5 %")
    print("\nThe same by `compare` at 95 %, which nobody tightens:")
    for label, world, metric in itertools.islice(type_one(), 9):
        _rate(label, called_better(world, metric, worlds), worlds, "about 5 %")
    days = clustered(10, 3000)
    wrong = called_better(days, "roc_auc", worlds // 4, clusters=None)
    _rate("roc_auc, 10 days taken for independent rows", wrong, worlds // 4, "what clusters avoid")
    print("\nA challenger truly better by .01 called better (power):")
    for agreement in (0.9, 0.97):
        for rows in (1000, 5000, 20_000):
            world = World(sizes=(rows,), agreement=agreement)
            count = worlds // 8
            found = called_better(world, "roc_auc", count, gain=0.01)
            _rate(f"{rows:,} independent rows, errors agree {agreement}", found, count, "")
    print("\nForty challengers as good as the champion, each on a fresh holdout:")
    runs = [verdicts(World(sizes=(2000,)), 40, seed=seed) for seed in range(max(1, worlds // 200))]
    passed, at_least = np.array(runs).T
    print(f"  pass the gate: {passed.mean():.1f} of 40, at most 5 in {np.mean(passed <= 5):.0%}")
    print(f"  pass a >= gate: {at_least.mean():.1f} of 40")
    print("\nFalse promotions a year (52 retrains, 6,000 rows, no improvement to be had):")
    fresh = World(sizes=(6000,), agreement=0.95)
    for candidates, confirm, min_effect in (
        (1, False, 0.0),
        (10, False, 0.0),
        (10, False, 0.001),
        (10, True, 0.0),
        (10, True, 0.001),
        (10, True, 0.002),
    ):
        years = np.array(
            [
                year(fresh, candidates=candidates, confirm=confirm, min_effect=min_effect, seed=s)
                for s in range(max(1, worlds // 20))
            ]
        )
        where = "confirmed elsewhere" if confirm else "judged where selected"
        promoted, false = years.mean(axis=0)
        error = years[:, 1].std() / np.sqrt(len(years))
        print(
            f"  best of {candidates:2}, {where}, min_effect {min_effect}: "
            f"{promoted:.2f} promotions, {false:.2f} +- {1.96 * error:.2f} false"
        )
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
