"""Metrics of the product: functions of the user over predictions, labels and context."""

import inspect
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from mlct.errors import SpecError
from mlct.monitoring.performance.join import Joined
from mlct.monitoring.performance.result import Performance, unknown

Function = Callable[[pa.Table, pa.Table, Mapping[str, Any]], float]

REPLICATES = 200


def behaviour(
    functions: Mapping[str, Function],
    joined: Joined,
    window: tuple[datetime, datetime],
    *,
    context: Mapping[str, Any] | None = None,
    cluster: str | None = "1d",
    confidence: float = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, Performance]:
    """Call each `function(predictions, labels, context) -> float` on the rows of one window.

    `predictions` are the logged rows; `labels` has the columns `label` and `label_time`, row by
    row the same, null where there is none yet; `context` is handed through. Bounds, one-sided at
    `confidence`, come from `replicates` draws of whole clusters (0: no bounds). A function that
    fails, or gives something else than a finite number, is "unknown" with what went wrong, and the
    others are computed all the same. Raises SpecError for what is no such function.
    """
    for name, function in functions.items():
        _check(name, function)
    rows = joined.window(*window)
    predictions = joined.table.slice(rows.start, rows.stop - rows.start)
    label, at = joined.label[rows], joined.labelled_at[rows]
    missing = np.isnan(label)
    labels = pa.table(
        {
            "label": pa.array(label, mask=missing),
            "label_time": pa.array(at, pa.timestamp("us"), mask=missing).cast(
                pa.timestamp("us", "UTC")
            ),
        }
    )
    units = joined.units(cluster)
    code = np.arange(len(label)) if units is None else _numbered(units[rows])
    told: dict[str, Any] = {
        "rows": len(label),
        "labelled": int((~missing).sum()),
        "clusters": None if units is None else int(code.max(initial=-1)) + 1,
        "start": window[0],
        "end": window[1],
    }
    found = {}
    for name, function in functions.items():
        if not len(label):
            found[name] = unknown(name, "no prediction in the window", **told)
            continue
        value, wrong = _call(function, predictions, labels, context or {})
        if wrong:
            found[name] = unknown(name, wrong, **told)
            continue
        draws = _draws(function, predictions, labels, context or {}, code, replicates, seed)
        found[name] = _result(name, value, draws, int(code.max()) + 1, confidence, told)
    return found


def _check(name: str, function: Any) -> None:
    right = callable(function)
    if right:
        try:
            inspect.signature(function).bind(None, None, None)
        except TypeError:
            right = False
        except ValueError:  # some built-in functions have no signature to read
            pass
    if not right:
        raise SpecError(
            f"the behaviour metric {name!r} is {function!r}",
            expected="a function (predictions, labels, context) -> float",
        )


def _call(
    function: Function, predictions: pa.Table, labels: pa.Table, context: Mapping[str, Any]
) -> tuple[float, str]:
    """The function's value, or what went wrong."""
    try:
        value = function(predictions, labels, context)
    except Exception as error:  # whatever a user's function raises is its own result
        return np.nan, f"it failed: {type(error).__name__}: {error}"
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        kind = type(value).__name__
        return np.nan, f"it returned {value!r:.60} ({kind}); a number is expected"
    if not np.isfinite(value):
        return np.nan, f"it returned {value}; a finite number is expected"
    return float(value), ""


def _draws(
    function: Function,
    predictions: pa.Table,
    labels: pa.Table,
    context: Mapping[str, Any],
    code: Any,
    replicates: int,
    seed: int,
) -> Any:
    """Values on whole clusters, drawn with replacement; those that fail are left out."""
    order, count = np.argsort(code, kind="stable"), int(code.max()) + 1
    bounds = np.searchsorted(code[order], np.arange(count + 1))
    random = np.random.default_rng(seed)
    values = []
    for _ in range(replicates if count > 1 else 0):
        chosen = random.integers(count, size=count)
        rows = np.concatenate([order[bounds[c] : bounds[c + 1]] for c in chosen])
        value, wrong = _call(function, predictions.take(rows), labels.take(rows), context)
        values += [] if wrong else [value]
    return np.array(values)


def _result(
    name: str, value: float, draws: Any, units: int, confidence: float, told: dict[str, Any]
) -> Performance:
    share = f"{told['labelled']} of {told['rows']} rows are labelled"
    if len(draws) < 2:
        reason = (
            f"{share}; no interval from {units} cluster{'s' * (units > 1)} and {len(draws)} draws"
        )
        return Performance(kind="realised", metric=name, value=value, reason=reason, **told)
    from scipy.special import stdtrit

    error = float(draws.std(ddof=1)) * float(np.sqrt(units / (units - 1)))
    reach = float(stdtrit(units - 1, confidence)) * error
    return Performance(
        kind="realised",
        metric=name,
        value=value,
        lower=value - reach,
        upper=value + reach,
        standard_error=error,
        freedom=units - 1,
        confidence=confidence,
        method=f"bootstrap of {'clusters' if told['clusters'] else 'independent rows'}, t",
        reason=share,
        **told,
    )


def _numbered(units: Any) -> Any:
    return np.unique(units, return_inverse=True)[1].reshape(-1)
