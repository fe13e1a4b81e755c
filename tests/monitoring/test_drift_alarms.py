"""Drift is quiet on stable windows, as often as it says, and sees planted shifts."""

import numpy as np
import pytest

from benchmarks.drift_alarms import World, delays, stable

WINDOWS = 60
MOST = 8  # of 60 windows, at 0.05 each, more has a chance of 1 in 100


@pytest.mark.parametrize("rows", [500, 5_000])
@pytest.mark.parametrize("columns", [10, 60])
def test_independent_rows_raise_no_more_alarms_than_promised(rows, columns):
    found = stable(World(columns=columns), rows, WINDOWS if columns == 10 else 20)
    assert found.alarms <= MOST * found.windows / WINDOWS


def test_past_windows_quiet_rows_that_share_a_day():
    world = World(columns=10, clustered=True)
    loud, quiet = (stable(world, 2_000, WINDOWS, past=past) for past in (False, True))
    assert loud.alarms > 20
    assert quiet.alarms <= MOST
    assert quiet.lasting <= 3


def test_planted_shifts_are_seen_and_concept_drift_is_not():
    found = delays(World(columns=10), 2_000, 3, patience=4)
    for shift in ("mean", "variance", "null rate", "new category", "prior"):
        first, lasting = found[shift]
        assert np.median(first) <= 2, shift
        assert np.median(lasting) <= 3, shift
    assert found["concept"] == ([5] * 3, [5] * 3)
