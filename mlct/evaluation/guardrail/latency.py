"""How long a model takes to score: warm, each row by its fastest call, paired with the champion."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil, log, nan
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from mlct.errors import EvaluationError
from mlct.evaluation.compare import Measure
from mlct.evaluation.metric import Floats

PERCENTILES = (50, 95, 99)
REPLICATES = 2000


def latencies(
    models: Mapping[str, Callable[[Any], Any]],
    rows: Iterable[Any],
    *,
    name: str = "latency",
    repeats: int = 3,
    warm_up: int = 20,
    clock: Callable[[], float] = perf_counter,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, Measure]]:
    """Milliseconds of every model on the same rows, as `evaluate` takes them in `measured`.

    `models` maps "challenger" and "champion" to a function of one row, or of one batch where
    `rows` are batches (then `name="batch_latency"`). They take turns on each row, so that what
    slows the machine down slows both. A row counts with its fastest of `repeats` calls, after
    `warm_up` that do not count: the machine's noise only adds. `clock` returns seconds.
    Percentiles p50, p95, p99 over rows carry one-sided bounds at `confidence` that are order
    statistics (Hahn & Meeker 1991): the bound of p99 is at most the slowest row, and of fewer than
    `rows_for(confidence)` rows it has none (NaN). With both models `<name>_p99_ms_ratio` is the
    challenger's over the champion's, with bounds from a bootstrap of the rows they share.

    >>> found = latencies({"challenger": abs, "champion": abs}, [1, 2, 3], warm_up=0)
    >>> sorted(found)[:2]
    ['latency_p50_ms', 'latency_p50_ms_ratio']
    """
    rows = list(rows)
    timed = _fastest(models, rows, repeats, warm_up, clock)
    random = np.random.default_rng(seed)
    drawn = random.integers(len(rows), size=(REPLICATES, len(rows)))
    found: dict[str, dict[str, Measure]] = {}
    for percentile in PERCENTILES:
        key = f"{name}_p{percentile}_ms"
        found[key] = {m: _measure(np.sort(ms), percentile, confidence) for m, ms in timed.items()}
        known = {model: measure.value for model, measure in found[key].items()}
        if {"challenger", "champion"} <= set(timed) and known["champion"] > 0:
            draws = {m: np.percentile(ms[drawn], percentile, axis=1) for m, ms in timed.items()}
            ends = np.quantile(
                draws["challenger"] / draws["champion"], [1 - confidence, confidence]
            )
            least = rows_for(confidence, percentile)
            found[f"{key}_ratio"] = {
                "challenger": Measure(
                    value=known["challenger"] / known["champion"],
                    lower=float(ends[0]),
                    # Where one model's percentile has no upper bound, two have none.
                    upper=float(ends[1]) if len(rows) >= least else nan,
                    confidence=confidence,
                    method=_method("paired bootstrap", len(rows), least),
                )
            }
    return found


def rows_for(confidence: float, percentile: int = 99) -> int:
    """How many rows it takes for the slowest one to bound a percentile from above.

    >>> rows_for(0.95), rows_for(0.99)
    (299, 459)
    """
    return ceil(log(1 - confidence) / log(percentile / 100))


def _method(name: str, rows: int, least: int) -> str:
    return f"{name} of {rows:,} rows" + f", an upper bound takes {least:,}" * (rows < least)


def _measure(ordered: Floats, percentile: int, confidence: float) -> Measure:
    """A percentile of the `ordered` times, between two of them."""
    from scipy.special import bdtr

    rows = len(ordered)
    # At least, and at most, so many rows lie below the percentile, each with that confidence.
    below = bdtr(np.arange(rows), rows, percentile / 100)
    least, most = np.searchsorted(below, [1 - confidence, confidence])
    return Measure(
        value=float(np.percentile(ordered, percentile)),
        lower=float(ordered[least - 1]) if least > 0 else 0.0,
        upper=float(ordered[most]) if most < rows else nan,
        confidence=confidence,
        method=_method("order statistics", rows, rows_for(confidence, percentile)),
    )


def _fastest(
    models: Mapping[str, Callable[[Any], Any]],
    rows: Sequence[Any],
    repeats: int,
    warm_up: int,
    clock: Callable[[], float],
) -> dict[str, npt.NDArray[np.float64]]:
    """Milliseconds of each model on each row, the fastest of its calls."""
    if not rows or repeats < 1:
        raise EvaluationError(
            f"latency was asked for on {len(rows)} rows, {repeats} times",
            expected="at least one row, once",
        )
    for index in range(warm_up):
        for call in models.values():
            call(rows[index % len(rows)])
    seconds = {name: np.full(len(rows), np.inf) for name in models}
    turns = list(models.items())
    for _ in range(repeats):
        for index, row in enumerate(rows):
            for name, call in turns:
                start = clock()
                call(row)
                seconds[name][index] = min(seconds[name][index], clock() - start)
            turns.reverse()  # who goes first finds the row cold: they take turns in that too
    return {name: taken * 1000 for name, taken in seconds.items()}
