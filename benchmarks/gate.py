"""What a decision costs on 1,000,000 rows, as ratios against scikit-learn in the same run.

Two models, 5 % positive, 400 days. Times are the best of three; a loop over scikit-learn with
random weights is timed on a few calls and multiplied. Memory is what numpy and Python allocate at
the peak beyond the arrays given (labels, scores, clusters, groups), in sizes of the score arrays:
those of challenger and champion, 16 MB together; the report has the baseline's too, 24 MB.

The default report is what the asset asks for: the usual metrics of three models, superiority and
non-inferiority, calibration, slices, two gaps, a latency measured before, and the baseline.

    OMP_NUM_THREADS=1 python -m benchmarks.gate [--rows 1000000]
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import sklearn.metrics as sk

from mlct.evaluation.compare import compare
from mlct.evaluation.evaluate import evaluate
from mlct.evaluation.gate import (
    GatePolicy,
    GroupGap,
    Limit,
    NonInferiority,
    SliceRegression,
    Superiority,
    decide,
)
from mlct.evaluation.metric import METRICS

REPLICATES = 1000


def data(rows: int) -> tuple[Any, dict[str, Any], Any, Any]:
    """Labels, two related probabilities, days and airports."""
    random = np.random.default_rng(0)
    y = (random.random(rows) < 0.05) * 1.0
    shared = random.normal(size=rows) + 1.5 * y
    scores = {
        name: 1 / (1 + np.exp(3 - shared - 0.5 * random.normal(size=rows)))
        for name in ("challenger", "champion")
    }
    return y, scores, np.arange(rows) * 400 // rows, random.choice(["EWR", "JFK", "LGA"], rows)


def seconds(work: Callable[[], Any], times: int = 3) -> float:
    """The fastest of some calls."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def peak(work: Callable[[], Any]) -> int:
    """Bytes allocated at the worst moment."""
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def points(y: Any, scores: dict[str, Any], groups: Any) -> None:
    """The same numbers without their uncertainty, as scikit-learn gives them."""
    for score in scores.values():
        called = score >= 0.5
        for metric in (sk.roc_auc_score, sk.average_precision_score, sk.log_loss):
            metric(y, score)
        sk.brier_score_loss(y, score)
        for metric in (sk.accuracy_score, sk.f1_score, sk.recall_score):
            metric(y, called)
        sk.precision_score(y, called, zero_division=0)
        sk.precision_recall_curve(y, score)  # precision at k, recall at a precision
        np.histogram(score, np.quantile(score, np.linspace(0, 1, 16)), weights=y)  # calibration
    for group in np.unique(groups):
        mine = groups == group
        called = scores["challenger"][mine] >= 0.5
        sk.recall_score(y[mine], called)
        sk.confusion_matrix(y[mine], called)  # equalised odds
        for model in ("challenger", "champion"):
            sk.log_loss(y[mine], scores[model][mine])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    y, scores, days, airports = data(rows)
    size = sum(score.nbytes for score in scores.values())
    auc = METRICS["roc_auc"]
    drawn = replace(auc, function=lambda *arrays: auc.function(*arrays))  # never DeLong
    kept = {"champion": "champion", "replicates": REPLICATES}
    weights = np.random.default_rng(1).poisson(1, rows)

    one = seconds(lambda: sk.roc_auc_score(y, scores["challenger"]))
    print(f"{'one sklearn.metrics.roc_auc_score':58} {one:8.3f} s")
    for label, clusters in (("400 days", days), ("independent rows", None)):

        def delong(clusters: Any = clusters) -> Any:
            return compare(y, scores, metric="roc_auc", clusters=clusters, **kept)

        took, most = seconds(delong), peak(delong) / size
        print(
            f"{'paired DeLong of two models, ' + label:58} {took:8.3f} s  "
            f"{took / one:6.1f} x one call     peak {most:.1f} x the scores"
        )
    for name, metric, function in (
        ("roc_auc", drawn, sk.roc_auc_score),
        ("average_precision", "average_precision", sk.average_precision_score),
    ):
        call = seconds(lambda f=function: f(y, scores["challenger"], sample_weight=weights))
        loop = 2 * REPLICATES * call
        for label, clusters in (("400 days", days), ("independent rows", None)):

            def bootstrap(metric: Any = metric, clusters: Any = clusters) -> Any:
                return compare(y, scores, metric=metric, clusters=clusters, **kept)

            took, most = seconds(bootstrap), peak(bootstrap) / size
            print(
                f"{f'bootstrap of {name}, B = {REPLICATES:,}, {label}':58} {took:8.3f} s  "
                f"{loop / took:6.0f} x faster than a loop ({loop:.0f} s)  peak {most:.1f} x"
            )
    policy = GatePolicy(
        primary=Superiority("roc_auc", min_effect=0.002),
        guardrails=[
            NonInferiority("log_loss", margin=0.005),
            Limit("latency_p99_ms", max=20),
            Limit("ece", max=0.05),
            GroupGap("recall", by="origin", max=0.25),
            GroupGap("equalised_odds", by="origin", max=0.25),
            SliceRegression("log_loss", by="origin", margin=0.01),
        ],
    )
    all_three = scores | {"baseline": np.full(rows, y.mean())}

    def report() -> Any:
        found = evaluate(
            y,
            all_three,
            policy=policy,
            clusters=days,
            groups={"origin": airports},
            measured={"latency_p99_ms": {"challenger": 3.0}},
        )
        return decide(found, policy)

    plain = seconds(lambda: points(y, all_three, airports))
    took, most = seconds(report), peak(report) / sum(s.nbytes for s in all_three.values())
    print(f"{'plain scikit-learn point metrics of three models':58} {plain:8.3f} s")
    print(
        f"{'the whole default report and its decision':58} {took:8.3f} s  "
        f"{took / plain:6.1f} x plain metrics  peak {most:.1f} x the scores"
    )


if __name__ == "__main__":
    main()
