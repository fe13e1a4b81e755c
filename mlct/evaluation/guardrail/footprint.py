"""What a model takes up besides time: memory while it scores, money per thousand predictions."""

import tracemalloc
from collections.abc import Callable
from math import isfinite
from typing import Any

from mlct.errors import EvaluationError

MB = 1_000_000


def peak_memory_mb(score: Callable[[], Any]) -> float:
    """Megabytes allocated at the peak of one call beyond those before it.

    Sees what Python and NumPy allocate (`tracemalloc`), not what a library takes straight from
    the system. Warm the model up first, or the first call's caches are counted.
    """
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        score()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        if not was_tracing:
            tracemalloc.stop()
    return max(peak - before, 0) / MB


def cost_per_thousand(
    milliseconds: float, *, price_per_cpu_hour: float, cpus: float = 1.0, rows: int = 1
) -> float:
    """What a thousand predictions cost, in the currency of `price_per_cpu_hour`.

    `milliseconds` is the time of one call that scores `rows` rows on `cpus` processors.

    >>> cost_per_thousand(3.6, price_per_cpu_hour=0.05)
    5e-05
    """
    numbers = (milliseconds, price_per_cpu_hour, cpus)
    if not all(isfinite(number) and number >= 0 for number in numbers) or rows < 1:
        raise EvaluationError(
            f"a cost was asked for {milliseconds} ms, {price_per_cpu_hour} an hour, {cpus} CPUs, "
            f"{rows} rows",
            expected="finite numbers >= 0 and at least one row",
        )
    hours = milliseconds / rows / 3600  # of a thousand calls: their milliseconds are seconds
    return hours * cpus * price_per_cpu_hour
