"""Pictures: PNG, small, the same bytes for the same numbers, no global state."""

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO

import numpy as np
import pytest

from mlct.errors import EvaluationError
from mlct.evaluation import plot
from mlct.evaluation.guardrail import slices

BINARY = {"roc", "precision_recall", "calibration", "score_distribution"}


def _binary(rows=30_000):
    random = np.random.default_rng(0)
    chance = random.beta(2, 5, rows)
    y = (random.random(rows) < chance) * 1
    noisy = np.clip(chance + random.normal(0, 0.1, rows), 0, 1)
    return y, {"challenger": chance, "champion": noisy, "baseline": np.full(rows, y.mean())}


def _regression(rows=30_000):
    random = np.random.default_rng(0)
    y = random.gamma(2, 100, rows)
    models = {"challenger": 40, "champion": 80}
    return y, {name: y + random.normal(0, spread, rows) for name, spread in models.items()}


def _classes(rows=30_000, classes=3):
    random = np.random.default_rng(0)
    chance = random.dirichlet(np.ones(classes), rows)
    y = (chance.cumsum(axis=1) < random.random((rows, 1))).sum(axis=1)
    even = np.full((rows, classes), 1 / classes)
    return y, {"challenger": chance, "champion": (chance + even) / 2}


@pytest.mark.parametrize(
    ("task", "rows", "names"),
    [
        ("binary", _binary, BINARY),
        ("regression", _regression, {"predicted_actual", "residuals"}),
        ("quantile", _regression, {"predicted_actual", "residuals"}),
        ("multiclass", _classes, {"confusion", "confidence"}),
        ("multiclass", lambda: _classes(500, 12), {"confusion", "confidence"}),
    ],
)
def test_a_task_has_its_pictures_small_and_always_the_same(task, rows, names):
    found = plot.plots(task, *rows())
    assert set(found) == names
    assert all(png.startswith(b"\x89PNG") and len(png) <= 60_000 for png in found.values())
    assert plot.plots(task, *rows()) == found


def test_a_picture_holds_no_date_and_no_software():
    png = plot.roc(*_binary(500))
    assert b"tEXt" not in png
    assert b"tIME" not in png


@pytest.mark.parametrize("scores", [{"only": 0.3}, {"a": 0.0, "b": 1.0}, {"challenger": 0.3}])
def test_constant_scores_can_be_drawn(scores):
    y = np.arange(50) % 2
    arrays = {name: np.full(50, value) for name, value in scores.items()}
    assert set(plot.plots("binary", y, arrays)) == BINARY
    assert set(plot.plots("regression", y, arrays)) == {"predicted_actual", "residuals"}


@pytest.mark.parametrize("draw", [plot.roc, plot.calibration, plot.residuals])
def test_scores_that_are_not_finite_are_not_drawn(draw):
    with pytest.raises(EvaluationError, match="challenger"):
        draw([0, 1, 1], {"challenger": [0.1, np.nan, 0.3]})


def test_the_room_loads_neither_matplotlib_nor_scipy_until_they_are_used():
    code = (
        "import sys, mlct.evaluation.plot, mlct.evaluation.gate; "
        "print(sorted({'matplotlib', 'scipy', 'pandas', 'sklearn'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_pyplot_is_never_loaded():
    code = (
        "import sys; from mlct.evaluation import plot; "
        "plot.roc([0, 1], {'a': [0.1, 0.2]}); print('matplotlib.pyplot' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def _table(count=40):
    random = np.random.default_rng(0)
    group = random.integers(count, size=20_000)
    y = random.normal(size=20_000)
    scores = {name: y + random.normal(size=20_000) for name in ("challenger", "champion")}
    scores["challenger"] += np.where(group == 3, 2 * random.normal(size=20_000), 0)
    return slices(y, scores, {"carrier": group}, "mae", margin=0.01)


@pytest.mark.parametrize("table", [_table(), _table(5), replace(_table(5), slices=())])
def test_slices_are_drawn_small_and_always_the_same(table):
    png = plot.slice_forest(table)
    assert png.startswith(b"\x89PNG")
    assert len(png) <= 60_000
    assert plot.slice_forest(table) == png


def test_a_slice_without_bounds_can_be_drawn():
    table = _table(5)
    unknown = replace(table.slices[0], lower=np.nan, upper=np.nan)
    assert plot.slice_forest(replace(table, slices=(unknown,))).startswith(b"\x89PNG")


@pytest.mark.parametrize("values", [{}, {"a": [0.7, None, 0.6]}, {"b": [None] * 3, "c": [1, 2, 3]}])
def test_timelines_may_have_gaps_and_marks(values):
    at = [datetime(2024, month, 1, tzinfo=UTC) for month in (1, 2, 3)]
    png = plot.timelines("roc_auc", at, values, {"a": at[1:], "c": at})
    assert png.startswith(b"\x89PNG")
    assert plot.timelines("roc_auc", at, values, {"a": at[1:], "c": at}) == png


@pytest.mark.parametrize("values", [{}, {1: 0.7}, {3: 0.72, 1: 0.7, 2: np.nan, 10: 0.71}])
def test_a_history_of_any_length_can_be_drawn(values):
    png = plot.metric_history("roc_auc", values, live={1}, margin=0.01)
    assert png.startswith(b"\x89PNG")
    assert plot.metric_history("roc_auc", values, live={1}, margin=0.01) == png


def test_no_line_joins_versions_that_were_measured_on_different_holdouts():
    def ink(values):
        from matplotlib.image import imread

        drawn = imread(BytesIO(plot.metric_history("roc_auc", values)))[..., :3]
        return int((np.ptp(drawn, axis=2) > 0.1).sum())

    one = ink({1: 0.7})
    assert ink({1: 0.77, 2: 0.62}) < 2 * one
