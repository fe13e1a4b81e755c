"""A metric in money: on the rows it was asked about, resampled with their columns."""

import numpy as np
import pytest

from mlct.errors import EvaluationError, SpecError
from mlct.evaluation.business import BusinessMetric, bound
from mlct.evaluation.evaluate import evaluate
from mlct.evaluation.gate import GatePolicy, GroupGap, Limit, NonInferiority, Superiority, decide
from mlct.evaluation.metric import METRICS


def saved(y_true, score, frame):
    """Each call costs 40 and saves the amount at stake if the row is positive."""
    return float(((score > 0.5) * (y_true * frame["amount"] - 40)).mean())


SAVED = BusinessMetric("money_saved", saved, columns=("amount",))


def _rows(rows=1500):
    random = np.random.default_rng(0)
    amount = random.gamma(2, 60, rows)
    y = (random.random(rows) < 0.4) * 1
    scores = {
        "challenger": np.clip(0.2 + 0.5 * y + 0.2 * random.normal(size=rows), 0, 1),
        "champion": np.clip(0.3 + 0.2 * y + 0.2 * random.normal(size=rows), 0, 1),
    }
    return y, scores, {"amount": amount}, np.arange(rows) % 30


def test_the_function_sees_the_holdouts_columns():
    y, scores, frame, _ = _rows()
    assert SAVED.on(frame)(y, scores["champion"]) == saved(y, scores["champion"], frame)


def test_a_row_counted_twice_is_there_twice():
    y, scores, frame, _ = _rows()
    twice = np.arange(len(y)) % 3
    drawn = np.repeat(np.arange(len(y)), twice)
    expected = saved(y[drawn], scores["champion"][drawn], {"amount": frame["amount"][drawn]})
    assert SAVED.on(frame)(y, scores["champion"], twice) == pytest.approx(expected)
    assert np.isnan(SAVED.on(frame)(y, scores["champion"], np.zeros(len(y))))


def test_the_gate_judges_it_on_its_interval():
    y, scores, frame, codes = _rows()
    policy = GatePolicy(
        primary=Superiority(SAVED),
        guardrails=[Limit(SAVED, min=0.0), NonInferiority("roc_auc", margin=0.01)],
    )
    found = evaluate(y, scores, policy=policy, clusters=codes, frame=frame)
    decision = decide(found, policy)
    assert decision.verdict == "PASS"
    measure = found.measures["money_saved"]["challenger"]
    assert measure.lower < measure.value < measure.upper
    assert found.metrics["champion"]["money_saved"] == saved(y, scores["champion"], frame)
    assert found.comparison("money_saved").clusters == 30


def test_its_error_is_that_of_a_mean():
    y, scores, frame, _ = _rows()
    policy = GatePolicy(primary=Superiority("roc_auc"), guardrails=[Limit(SAVED, min=0.0)])
    found = evaluate(y, scores, policy=policy, frame=frame).measures["money_saved"]["challenger"]
    each = (scores["challenger"] > 0.5) * (y * frame["amount"] - 40)
    assert found.standard_error == pytest.approx(each.std() / np.sqrt(len(y)), rel=0.06)


def test_without_its_columns_there_is_no_evaluation():
    y, scores, _, _ = _rows()
    with pytest.raises(EvaluationError, match="was not given amount"):
        evaluate(y, scores, policy=GatePolicy(primary=Superiority(SAVED)))


def test_it_takes_no_sample_weights():
    y, scores, frame, _ = _rows()
    with pytest.raises(EvaluationError, match="sample weights"):
        SAVED.on(frame)(y, scores["champion"], np.full(len(y), 0.5))


def test_groups_cannot_be_judged_by_it():
    with pytest.raises(SpecError, match="labels and scores alone"):
        GroupGap(SAVED, by="carrier", max=1)


def test_columns_are_names():
    with pytest.raises(SpecError, match="a tuple of column names"):
        BusinessMetric("saved", saved, columns="amount")


def test_other_metrics_are_left_as_they_are():
    assert bound(METRICS["roc_auc"], None) is METRICS["roc_auc"]
