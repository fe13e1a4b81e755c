"""How long a model takes to score: warm, each row by its fastest call, paired with the champion."""

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    Percentiles p50, p95, p99 over rows carry one-sided bounds at `confidence` from a bootstrap of
    rows; with both models `<name>_p99_ms_ratio` is the challenger's over the champion's, from the
    same resampled rows.

    >>> found = latencies({"challenger": abs, "champion": abs}, [1, 2, 3], warm_up=0)
    >>> sorted(found)[:2]
    ['latency_p50_ms', 'latency_p50_ms_ratio']
    """
    rows = list(rows)
    timed = _fastest(models, rows, repeats, warm_up, clock)
    random = np.random.default_rng(seed)
    drawn = random.integers(len(rows), size=(REPLICATES, len(rows)))
    known = {model: np.percentile(ms, PERCENTILES) for model, ms in timed.items()}
    draws = {model: np.percentile(ms[drawn], PERCENTILES, axis=1) for model, ms in timed.items()}
    found: dict[str, dict[str, Measure]] = {}
    for index, percentile in enumerate(PERCENTILES):
        key = f"{name}_p{percentile}_ms"
        found[key] = {
            model: _measure(known[model][index], draws[model][index], confidence) for model in timed
        }
        if {"challenger", "champion"} <= set(timed) and known["champion"][index] > 0:
            ratio = known["challenger"][index] / known["champion"][index]
            ratios = draws["challenger"][index] / draws["champion"][index]
            found[f"{key}_ratio"] = {
                "challenger": _measure(ratio, ratios, confidence, "paired bootstrap of rows")
            }
    return found


def _measure(
    value: float, draws: Floats, confidence: float, method: str = "bootstrap of rows"
) -> Measure:
    lower, upper = np.quantile(draws, [1 - confidence, confidence])
    return Measure(
        value=float(value),
        lower=float(lower),
        upper=float(upper),
        standard_error=float(draws.std(ddof=1)),
        confidence=confidence,
        method=method,
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
