"""The last known label: only what was known counts. And Elec2, which it is famous for."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from mlct.errors import EvaluationError
from mlct.evaluation.baseline import no_change
from mlct.evaluation.evaluate import evaluate
from mlct.evaluation.gate import GatePolicy, Superiority, decide
from mlct.evaluation.metric import metric

ELEC2 = Path(__file__).parents[2].parent / "shared" / "data" / "elec2.parquet"


def test_the_previous_label_is_repeated():
    assert no_change([1, 0, 0, 1], [1, 2, 3, 4], before=0.3).tolist() == [0.3, 1, 0, 0]


def test_only_labels_known_before_the_row_was_scored_count():
    known_at = [10, 3, 4, 5]
    assert no_change([1, 0, 1, 0], [1, 2, 3, 4], known_at, before=0.5).tolist() == [
        0.5,
        0.5,
        0.5,
        0,
    ]
    assert no_change([1, 0, 1, 0], [1, 2, 4, 11], known_at).tolist() == [0, 0, 0, 1]


def test_rows_need_not_be_in_order_of_time():
    order = np.random.default_rng(0).permutation(50)
    y, times = np.arange(50) % 7, np.arange(50)
    assert (no_change(y[order], times[order]) == no_change(y, times)[order]).all()


def test_rows_of_one_time_do_not_tell_each_other():
    assert no_change([1, 0, 1], [1, 1, 2], before=0.5).tolist()[:2] == [0.5, 0.5]


def test_each_row_needs_a_time():
    with pytest.raises(EvaluationError, match="shapes"):
        no_change([0, 1], [1])


@pytest.fixture(scope="module")
def elec2():
    if not ELEC2.exists():
        pytest.skip("the shared data are not here")
    import pandas as pd

    table = pd.read_parquet(ELEC2)
    return table["up"].to_numpy().astype(int), table["ts"].to_numpy()


def test_no_change_has_its_published_accuracy_on_elec2(elec2):
    y, times = elec2
    assert metric("accuracy")(y, no_change(y, times, before=0.0)) == pytest.approx(0.8533, abs=5e-5)


POLICY = GatePolicy(primary=Superiority("accuracy"))


def _elec2_scores(elec2, right):
    """The last 60 days: a champion right 70 % of the time, a challenger as often as given."""
    y, times = (column[-60 * 48 :] for column in elec2)
    random = np.random.default_rng(0)

    def model(share):
        told = random.random(len(y)) < share
        return np.where(told, y, 1 - y) * 0.8 + 0.1

    scores = {"challenger": model(right), "champion": model(0.70)}
    scores["baseline"] = np.full(len(y), 0.42)
    days = times.astype("datetime64[D]")
    return y, scores, days, no_change(y, times, before=0.42)


def test_a_model_below_no_change_cannot_pass_when_the_last_label_is_known(elec2):
    y, scores, days, last = _elec2_scores(elec2, 0.80)
    kept = {"policy": POLICY, "clusters": days, "unit": "day"}
    blind = decide(evaluate(y, scores, **kept), POLICY)
    found = evaluate(y, scores | {"no_change": last}, **kept)
    decision = decide(found, POLICY)
    assert blind.verdict == "PASS"
    assert decision.verdict == "FAIL"
    assert "against repeating the last known label (0.8" in decision.sentence
    won = {rule.rule: rule.outcome for rule in decision.rules}
    assert won["superiority"] == "PASS"
    assert found.metrics["no_change"]["accuracy"] == pytest.approx(0.86, abs=0.03)


def test_a_model_above_no_change_passes(elec2):
    y, scores, days, last = _elec2_scores(elec2, 0.95)
    found = evaluate(y, scores | {"no_change": last}, policy=POLICY, clusters=days, unit="day")
    assert decide(found, POLICY).verdict == "PASS"


def test_labels_that_come_late_make_repeating_them_worse(elec2):
    y, times = elec2
    late = no_change(y, times, times + np.timedelta64(timedelta(hours=6)), before=0.0)
    assert metric("accuracy")(y, late) < 0.7
