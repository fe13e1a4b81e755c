"""Slices: which got worse, and how often one is named that did not."""

import numpy as np
import pytest
from scipy import stats

from mlct.errors import EvaluationError
from mlct.evaluation.compare import compare
from mlct.evaluation.guardrail import slices
from mlct.evaluation.guardrail.slices import false_discovery


def _rows(random, worse=(), groups=12, rows=6000, clusters=40):
    """The champion errs a little everywhere; the challenger as much, more in the groups `worse`."""
    group = random.integers(groups, size=rows)
    codes = random.integers(clusters, size=rows)
    y = random.normal(size=rows) + 0.3 * random.normal(size=clusters)[codes]
    scores = {name: y + random.normal(size=rows) for name in ("challenger", "champion")}
    scores["challenger"] += np.where(np.isin(group, worse), 1.5 * random.normal(size=rows), 0)
    return y, scores, {"carrier": group.astype(str)}, codes


def test_the_slices_that_got_worse_are_named_the_worst_first():
    y, scores, groups, codes = _rows(np.random.default_rng(0), worse=(3, 7))
    table = slices(y, scores, groups, "mse", clusters=codes)
    assert {s.name for s in table.regressions()} == {"carrier=3", "carrier=7"}
    assert table.worst.value in ("3", "7")
    assert table.worst.delta < 0
    assert len(table.slices) == 12


def test_a_slice_is_compared_like_a_holdout_of_its_own():
    y, scores, groups, codes = _rows(np.random.default_rng(1))
    found = {s.value: s for s in slices(y, scores, groups, "mae", clusters=codes).slices}["5"]
    mine = groups["carrier"] == "5"
    own = {name: score[mine] for name, score in scores.items()}
    expected = compare(y[mine], own, champion="champion", metric="mae", clusters=codes[mine])
    assert found.delta == pytest.approx(expected["challenger"].delta)
    assert found.lower == pytest.approx(expected["challenger"].lower)
    assert min(found.p_value, 1 - found.p_value) == pytest.approx(
        expected["challenger"].p_value / 2, rel=0.05
    )


def test_a_margin_forgives_what_is_smaller():
    y, scores, groups, codes = _rows(np.random.default_rng(0), worse=(3, 7))
    assert slices(y, scores, groups, "mse", clusters=codes, margin=9.0).regressions() == ()


def test_slices_that_are_alike_are_rarely_named():
    random, worlds = np.random.default_rng(2), 100
    named = sum(
        bool(slices(y, scores, groups, "mse", clusters=codes).regressions())
        for y, scores, groups, codes in (_rows(random, rows=2400) for _ in range(worlds))
    )
    assert named <= stats.binom(worlds, 0.05).ppf(0.999)


def test_small_and_one_sided_slices_are_named_not_judged():
    y = np.arange(400) % 2
    group = np.repeat(["big", "small", "zeros"], [250, 50, 100])
    y[group == "zeros"] = 0
    score = np.random.default_rng(0).random(400)
    scores = {"challenger": score, "champion": score[::-1]}
    table = slices(y, scores, {"g": group}, "roc_auc", min_group=60)
    assert table.too_small == ("g=small", "g=zeros")
    assert [s.value for s in table.slices] == ["big"]


def test_models_that_are_alike_are_no_regression():
    y, scores, groups, codes = _rows(np.random.default_rng(0))
    scores["challenger"] = scores["champion"]
    table = slices(y, scores, groups, "mse", clusters=codes)
    assert {s.p_value for s in table.slices} == {1.0}


def test_adjusted_p_values_are_scipys():
    p = np.random.default_rng(0).random(50) ** 3
    np.testing.assert_allclose(false_discovery(p), stats.false_discovery_control(p))
    assert false_discovery(np.array([])).tolist() == []


@pytest.mark.parametrize(
    ("scores", "groups", "told"),
    [
        ({"challenger": [0.1, 0.2]}, {"g": ["a", "b"]}, "challenger and champion"),
        ({"challenger": [0.1, 0.2], "champion": [0.1, 0.2]}, {"g": ["a"]}, "'g'"),
    ],
)
def test_what_cannot_be_sliced_is_refused(scores, groups, told):
    with pytest.raises(EvaluationError, match=told):
        slices([0, 1], scores, groups, "brier")
