"""A metric of many bootstrap replicates at once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from mlct.evaluation.holdout import Holdout
from mlct.evaluation.metric import Floats, Metric, mean_of, one_vs_rest, ranked

STEPS = (512, 8192)
"""Curves with more thresholds are resampled on this many of them: all the fewer the more units
there are. Two thirds are equal steps along the ROC curve, the rest close up towards the top. The
value stays exact, and the standard error to about a hundredth, less than the noise of 1,000
replicates (`tests/evaluation/test_compare.py`); of recall at a precision, which hangs on a single
threshold, to some hundredths."""

_CELLS = 2_000_000  # of a table of units and thresholds
_PRODUCT = 50  # a row's work in one replicate, in multiplications of a matrix product


def prepare(rows: Holdout, metric: Metric, score: Floats) -> Callable[[Floats], Floats]:
    """A function from counts (b, units) of resampled units to the metric's values (b,)."""
    y, mass = rows.y_true, rows.mass
    sums = metric.sums or (None if metric.per_row is None else mean_of(metric.per_row))
    if sums is not None:
        columns = (rows.sums(column * mass) for column in sums.columns(y, score))
        totals = np.column_stack([*columns, rows.sums(mass)])
        return lambda counts: sums.value(counts @ totals)
    if (curve := metric.curve) is None:
        codes = np.arange(rows.rows) if rows.codes is None else rows.codes
        return lambda counts: np.array(
            [metric.function(y, score, count[codes] * mass) for count in counts]
        )
    if score.ndim == 1:
        return _prepare_curve(rows, curve, score)
    classes = [_prepare_curve(replace(rows, y_true=y), curve, s) for y, s in one_vs_rest(y, score)]
    return lambda counts: np.mean([each(counts) for each in classes], axis=0)


def _prepare_curve(
    rows: Holdout, curve: Callable[[Floats, Floats], Floats], score: Floats
) -> Callable[[Floats], Floats]:
    order, ends = ranked(rows.y_true, score)
    codes = order if rows.codes is None else rows.codes[order]
    positive = rows.y_true[order] == 1
    mass = None if rows.weights is None else rows.weights[order]
    del order
    steps = min(len(ends), STEPS[1], max(STEPS[0], _CELLS // rows.units))
    if rows.units * steps <= _PRODUCT * rows.rows:
        chosen, moved = _thinned(curve, positive, mass, ends, steps)
        from_table = _from_table(rows.units, curve, codes, positive, mass, chosen)
        return lambda counts: from_table(counts) + moved
    ones = np.flatnonzero(positive)
    until = np.searchsorted(ones, ends, side="right")  # positives up to each threshold

    def from_rows(counts: Floats) -> Floats:
        drawn = counts[:, codes]
        if mass is not None:
            drawn *= mass
        true = np.zeros((len(drawn), len(ones) + 1))
        np.cumsum(drawn[:, ones], axis=1, out=true[:, 1:])
        true = true[:, until]
        return curve(true, np.cumsum(drawn, axis=1, out=drawn)[:, ends] - true)

    return from_rows


def _thinned(
    curve: Callable[[Floats, Floats], Floats],
    positive: Any,
    mass: Floats | None,
    ends: Any,
    steps: int,
) -> tuple[Any, float]:
    """About `steps` of the thresholds, and how much the others add to the curve's value."""
    if len(ends) <= steps:
        return ends, 0.0
    every = [down_to(side, mass, ends) for side in (positive, ~positive)]
    along = np.log1p(ends) / np.log1p(ends[-1])
    for side in every:
        along += side / side[-1]
    along *= steps / 3
    last = np.append(np.flatnonzero(np.diff(np.ceil(along, out=along))), len(ends) - 1)
    moved = curve(*every) - curve(*(side[last] for side in every))
    return ends[last], float(moved)


def _from_table(
    units: int,
    curve: Callable[[Floats, Floats], Floats],
    codes: Any,
    positive: Any,
    mass: Floats | None,
    ends: Any,
) -> Callable[[Floats], Floats]:
    """Replicates as products of their counts and each unit's mass between two thresholds.

    `codes` are overwritten.
    """
    steps = len(ends)
    cell = codes
    cell *= steps
    cell += np.repeat(np.arange(steps), np.diff(ends, prepend=-1))
    tables = []
    for side in (positive, ~positive):
        held = side if mass is None else np.where(side, mass, 0.0)
        table = np.bincount(cell, held, units * steps).reshape(units, steps)
        # Whole numbers of rows are exact in single precision.
        tables.append(table.astype(np.float32) if mass is None else table)
        del held, table

    def from_table(counts: Floats) -> Floats:
        counts = counts.astype(tables[0].dtype)
        true, false = (np.cumsum(counts @ table, axis=1, dtype=np.float64) for table in tables)
        return curve(true, false)

    return from_table


def down_to(side: Any, mass: Floats | None, ends: Any) -> Floats:
    """Mass of one side's rows down to each threshold."""
    each = side.astype(np.float64) if mass is None else np.where(side, mass, 0.0)
    return np.cumsum(each, out=each)[ends]
