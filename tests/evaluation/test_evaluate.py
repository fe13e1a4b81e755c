"""The record of one holdout: complete, exact through JSON, refused when it cannot be trusted."""

import json
from dataclasses import replace
from math import inf, isnan, nan
from pathlib import Path

import numpy as np
import pytest

from mlct.errors import EvaluationError
from mlct.evaluation.compare import Measure, compare
from mlct.evaluation.evaluate import Evaluation, evaluate
from mlct.evaluation.gate import (
    GatePolicy,
    GroupGap,
    Limit,
    NonInferiority,
    SliceRegression,
    Superiority,
    decide,
)
from mlct.evaluation.leakage import Suspect
from mlct.evaluation.metric import METRICS, Metric
from mlct.evaluation.selection import spent

GOLDEN = Path(__file__).parent / "golden" / "evaluation_v1.json"
POLICY = GatePolicy(
    primary=Superiority("roc_auc", min_effect=0.002),
    guardrails=[
        Limit("latency_p99_ms", max=20),
        NonInferiority("log_loss", margin=0.005, confidence=0.9),
        Limit("ece", max=0.05),
        GroupGap("recall", by="carrier", max=0.10, threshold=0.3),
    ],
)


def holdout_rows(seed=0, rows=1200):
    random = np.random.default_rng(seed)
    chance = random.beta(2, 4, rows)
    y = (random.random(rows) < chance) * 1
    noisy = np.clip(chance + random.normal(size=rows) * 0.15, 0.01, 0.99)
    scores = {"challenger": chance, "champion": noisy, "baseline": np.full(rows, y.mean())}
    groups = {"carrier": random.choice(["AA", "UA", "HA"], p=[0.5, 0.48, 0.02], size=rows)}
    return y, scores, {"clusters": np.arange(rows) % 24, "groups": groups}


def _evaluation(**changes):
    y, scores, rest = holdout_rows()
    measured = {"latency_p99_ms": {"challenger": 3.5, "champion": 4.0}}
    kept = {"policy": POLICY, "measured": measured, "unit": "day", "seed": 7}
    return evaluate(y, scores, **(rest | kept | changes))


def test_every_model_has_every_usual_metric_and_the_policys():
    y, scores, _ = holdout_rows()
    found = _evaluation()
    assert set(found.metrics) == {"challenger", "champion", "baseline"}
    usual = {name for name, entry in METRICS.items() if entry.task == "binary"}
    assert set(found.metrics["champion"]) == usual | {"recall@0.3"}
    assert found.metrics["champion"]["brier"] == METRICS["brier"](y, scores["champion"])


def test_the_holdouts_size_is_recorded():
    found = _evaluation()
    y, _, _ = holdout_rows()
    assert (found.rows, found.clusters, found.positives) == (1200, 24, y.sum())
    assert (found.unit, found.champion, found.seed) == ("day", "scored", 7)


def test_the_comparisons_are_those_of_compare():
    y, scores, rest = holdout_rows()
    found = _evaluation().comparison("log_loss", confidence=0.9)
    pair = {name: scores[name] for name in ("challenger", "champion")}
    kept = {"metric": "log_loss", "clusters": rest["clusters"], "confidence": 0.9, "seed": 7}
    assert found == compare(y, pair, champion="champion", **kept)["challenger"]


def test_the_challenger_is_compared_with_the_baseline_on_the_primary_metric():
    found = _evaluation().comparison("roc_auc", champion="baseline")
    assert found.lower > 0
    assert _evaluation().comparison("log_loss", champion="baseline") is None


def test_limits_on_metrics_have_intervals_and_measured_values_keep_theirs():
    measured = {"latency_p99_ms": {"challenger": Measure(value=3.0, lower=2.0, upper=4.0)}}
    found = _evaluation(measured=measured).measures
    assert found["ece"]["challenger"].lower < found["ece"]["challenger"].upper
    assert found["latency_p99_ms"]["challenger"].upper == 4.0


def test_a_gap_is_measured_where_its_column_is_given():
    (gap,) = _evaluation().gaps
    assert (gap.metric, gap.by, gap.too_small) == ("recall@0.3", "carrier", ("HA",))
    assert _evaluation(groups=None).gaps == ()


@pytest.mark.parametrize("champion", ["scored", "none", "column wind_gust is gone"])
def test_an_evaluation_survives_json_exactly(champion):
    y, scores, rest = holdout_rows()
    if champion != "scored":
        del scores["champion"]
    problem = champion if "gone" in champion else None
    found = evaluate(y, scores, policy=POLICY, champion_problem=problem, **rest)
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["format"] == "mlct.evaluation/v1"
    assert Evaluation.from_dict(record) == found
    assert found.champion == champion


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("inf")])
def test_a_value_that_is_not_finite_survives_json_as_not_a_number(value):
    found = _evaluation(measured={"latency_p99_ms": {"challenger": value}})
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    read = Evaluation.from_dict(record)
    assert isnan(read.measures["latency_p99_ms"]["challenger"].value)
    assert read.to_dict() == found.to_dict()


def test_a_bound_that_is_not_a_number_does_not_become_no_bound():
    found = _evaluation()
    unbounded = replace(found.measures["ece"]["challenger"], upper=nan)
    record = replace(found, measures={"ece": {"challenger": unbounded}}).to_dict()
    read = Evaluation.from_dict(json.loads(json.dumps(record, allow_nan=False)))
    assert isnan(read.measures["ece"]["challenger"].upper)


def test_a_measured_interval_with_an_infinite_end_was_not_measured():
    wide = Measure(value=3.0, lower=2.0, upper=inf)
    found = _evaluation(measured={"latency_p99_ms": {"challenger": wide}})
    assert isnan(found.measures["latency_p99_ms"]["challenger"].value)


def test_a_measured_value_whose_bound_nobody_knows_keeps_the_value_and_does_not_pass():
    wide = Measure(value=3.0, lower=2.0, upper=nan, confidence=0.95)
    found = _evaluation(measured={"latency_p99_ms": {"challenger": wide}})
    assert found.measures["latency_p99_ms"]["challenger"].value == 3.0
    read = Evaluation.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    (limit,) = [r for r in decide(read, POLICY).rules if r.name == "latency_p99_ms"]
    assert limit.outcome == "FAIL"


@pytest.mark.parametrize("problem", ["", "none", "scored"])
def test_a_champion_with_a_problem_needs_its_reason(problem):
    y, scores, rest = holdout_rows()
    del scores["champion"]
    with pytest.raises(EvaluationError, match="champion_problem"):
        evaluate(y, scores, policy=POLICY, champion_problem=problem, **rest)


def test_undefined_numbers_come_back_as_not_a_number():
    found = _evaluation()
    broken = replace(found.comparisons[0], delta=nan, lower=nan)
    record = replace(found, comparisons=(broken,)).to_dict()
    read = Evaluation.from_dict(json.loads(json.dumps(record, allow_nan=False)))
    assert isnan(read.comparisons[0].lower)


def test_records_of_version_1_are_read_for_ever():
    record = json.loads(GOLDEN.read_text())
    assert Evaluation.from_dict(record).to_dict() == record


def test_another_format_is_refused():
    with pytest.raises(EvaluationError, match=r"mlct\.evaluation/v2"):
        Evaluation.from_dict(_evaluation().to_dict() | {"format": "mlct.evaluation/v2"})


def test_the_same_holdout_and_seed_give_the_same_record():
    assert _evaluation().to_dict() == _evaluation().to_dict()


def test_a_regression_is_judged_by_errors():
    random = np.random.default_rng(0)
    y = random.gamma(2, 100, 900)
    scores = {"challenger": y + random.normal(0, 20, 900), "champion": y + 30}
    policy = GatePolicy(
        primary=Superiority("mae", min_effect=1), guardrails=[NonInferiority("rmse", margin=2)]
    )
    found = evaluate(y, scores, policy=policy, task="regression")
    assert found.positives is None
    assert found.comparison("mae").delta == pytest.approx(
        30 - np.abs(scores["challenger"] - y).mean()
    )
    assert set(found.metrics["champion"]) == {"rmse", "mae", "mse", "r2"}


def test_a_metric_of_ones_own_is_computed_and_compared():
    def saved(y_true, score, weights=None):
        return float(np.average((score >= 0.3) * (150 * y_true - 40), weights=weights))

    policy = GatePolicy(primary=Superiority(Metric("saved", saved)))
    found = _evaluation(policy=policy)
    assert found.comparison("saved").method == "paired bootstrap of clusters, t"
    y, scores, _ = holdout_rows()
    assert found.metrics["baseline"]["saved"] == pytest.approx(saved(y, scores["baseline"]))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"task": "ranking"}, "ranking"),
        ({"champion_problem": "gone"}, "scores and a problem"),
        ({"measured": {"ece": {"challenger": 0.1}}}, "measured from outside"),
        ({"measured": {"latency_p99_ms": {"challenger": "fast"}}}, "fast"),
        ({"clusters": np.arange(7)}, "one cluster a row"),
    ],
)
def test_what_cannot_be_trusted_is_no_evaluation(change, told):
    with pytest.raises(EvaluationError, match=told):
        _evaluation(**change)


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        ({"champion": 0.5}, "expected challenger|Expected challenger"),
        ({"challenger": 0.5, "rival": 0.5}, "rival"),
        ({"challenger": 0.5, "baseline": nan}, "'baseline': 1200 of 1200 values are NaN"),
        ({"challenger": 7.0}, "probabilities"),
    ],
)
def test_scores_that_cannot_be_trusted_are_no_evaluation(scores, told):
    y, _, _ = holdout_rows()
    arrays = {name: np.full(len(y), value) for name, value in scores.items()}
    with pytest.raises(EvaluationError, match=told):
        evaluate(y, arrays, policy=POLICY)


@pytest.mark.parametrize("label", [0, 2])
def test_any_one_class_of_several_has_the_same_verdict(label):
    scores = {"challenger": np.random.default_rng(0).dirichlet([2, 1, 1], 300)}
    policy = GatePolicy(primary=Superiority("log_loss"))
    found = evaluate(np.full(300, label), scores, policy=policy, task="multiclass")
    decision = decide(found, policy)
    assert decision.verdict == "INCONCLUSIVE"
    assert "all 300 labels of the holdout are of one class" in decision.sentence


def test_other_tasks_say_that_nobody_looked_for_leakage():
    y = np.random.default_rng(0).normal(size=300)
    policy = GatePolicy(primary=Superiority("mae"))
    decision = decide(evaluate(y, {"challenger": y + 1}, policy=policy, task="regression"), policy)
    assert "features are searched for leakage in binary tasks only" in decision.reasons
    assert "leakage" not in {r.name for r in decide(_evaluation(), POLICY).rules}


def test_missing_scores_of_any_kind_are_the_models_fault():
    y, scores, rest = holdout_rows()
    scores["challenger"] = np.where(np.arange(len(y)) < 5, None, scores["challenger"])
    decision = decide(evaluate(y, scores, policy=POLICY, **rest), POLICY)
    assert decision.verdict == "FAIL"
    assert "5 of its 1,200 scores are NaN" in decision.sentence


def test_a_holdout_of_one_class_has_a_verdict_of_its_own():
    y, scores, _ = holdout_rows()
    for labels, told in ((np.zeros_like(y), "class 0"), (np.ones_like(y), "class 1")):
        found = evaluate(labels, scores, policy=POLICY)
        decision = decide(found, POLICY)
        assert decision.verdict == "INCONCLUSIVE"
        assert f"all 1,200 labels of the holdout are of {told}" in decision.sentence
        assert Evaluation.from_dict(found.to_dict()).to_dict() == found.to_dict()


def test_a_challenger_with_scores_that_are_not_numbers_is_refused_for_it():
    y, scores, rest = holdout_rows()
    scores["challenger"] = np.where(np.arange(1200) < 3, nan, scores["challenger"])
    decision = decide(evaluate(y, scores, policy=POLICY, **rest), POLICY)
    assert decision.verdict == "FAIL"
    assert decision.reasons[0] == (
        "the challenger cannot be judged: 3 of its 1,200 scores are NaN or infinite"
    )


def test_a_champion_with_scores_that_are_not_numbers_cannot_be_scored():
    y, scores, rest = holdout_rows()
    scores["champion"] = np.where(np.arange(1200) < 3, inf, scores["champion"])
    found = evaluate(y, scores, policy=POLICY, **rest)
    assert found.champion == "3 of its 1,200 scores are NaN or infinite"
    assert "champion" not in found.metrics
    assert decide(found, POLICY).verdict == "FAIL"  # no latency was measured


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("holdout_digest", "ab12"),
        ("holdout_start", "2013-06-01"),
        ("holdout_end", "2013-07-01"),
        ("looks", 3),
        ("selected_among", 10),
        ("selected_on", "cd34"),
        ("champion_age_days", 46.5),
        ("duplicates", 2),
        ("suspects", (Suspect(column="delay", reason="it knows", value=0.999),)),
    ],
)
def test_what_else_is_known_is_part_of_the_record(field, value):
    found = _evaluation(**{field: value})
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert getattr(Evaluation.from_dict(record), field) == value
    assert Evaluation.from_dict(record) == found
    assert field not in _evaluation().to_dict()


@pytest.mark.parametrize(("field", "value"), [("looks", 0), ("looks", True), ("selected_among", 0)])
def test_counts_start_at_one(field, value):
    with pytest.raises(EvaluationError, match=field):
        _evaluation(**{field: value})


def test_slices_survive_json():
    policy = replace(POLICY, guardrails=[SliceRegression("log_loss", by="carrier", margin=0.01)])
    found = _evaluation(policy=policy)
    (table,) = found.slices
    assert [s.name for s in table.slices] == ["carrier=AA", "carrier=UA"]
    assert table.too_small == ("carrier=HA",)
    assert Evaluation.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_identical_and_constant_models_are_recognised():
    y, scores, rest = holdout_rows()
    scores["champion"] = scores["challenger"]
    assert evaluate(y, scores, policy=POLICY, **rest).identical
    scores["champion"] = np.full(len(y), 0.3)
    assert evaluate(y, scores, policy=POLICY, **rest).constant == ("champion",)


def test_repeated_looks_tighten_every_bound_of_the_holdout():
    first, second = _evaluation(looks=1), _evaluation(looks=2)
    levels = sorted({c.confidence for c in first.comparisons})
    assert levels == pytest.approx([spent(0.1, 1), spent(0.05, 1)])
    assert second.comparisons[0].lower < first.comparisons[0].lower
    assert second.measures["ece"]["challenger"].confidence == pytest.approx(spent(0.05, 2))
    assert second.gaps[0].confidence == pytest.approx(spent(0.05, 2))


def test_several_classes_are_judged():
    random = np.random.default_rng(3)
    y = random.integers(3, size=900)
    near = np.eye(3)[y]

    def scored(noise):
        raw = near + noise * random.random((900, 3))
        return raw / raw.sum(axis=1, keepdims=True)

    policy = GatePolicy(primary=Superiority("log_loss"), guardrails=[Limit("accuracy", min=0.6)])
    scores = {"challenger": scored(1.0), "champion": scored(3.0)}
    decision = decide(evaluate(y, scores, policy=policy, task="multiclass"), policy)
    assert decision.verdict == "PASS"


FULL = Path(__file__).parent / "golden" / "evaluation_v1_full.json"


def full_record():
    """A record with everything that there is to know."""
    policy = replace(
        POLICY,
        primary=[POLICY.primary, Superiority("brier")],
        guardrails=[
            *POLICY.guardrails,
            GroupGap("equalised_odds", by=("carrier", "origin"), max=0.1),
            SliceRegression("log_loss", by=["carrier", "origin"], margin=0.01),
        ],
    )
    y, scores, rest = holdout_rows()
    scores["no_change"] = np.append(0.0, y[:-1])
    rest["groups"]["origin"] = np.where(np.arange(len(y)) % 2, "EWR", "JFK")
    return evaluate(
        y,
        scores,
        policy=policy,
        measured={"latency_p99_ms_ratio": {"challenger": Measure(value=1.2, lower=1.1, upper=1.3)}},
        holdout_digest="ab12",
        holdout_start="2013-06-01",
        holdout_end="2013-06-25",
        looks=2,
        selected_among=10,
        selected_on="cd34",
        champion_age_days=46.5,
        duplicates=0,
        suspects=[Suspect(column="delay", reason="it knows", value=0.999)],
        unit="day",
        seed=7,
        **rest,
    )


def test_full_records_of_version_1_are_read_for_ever():
    record = json.loads(FULL.read_text())
    assert Evaluation.from_dict(record).to_dict() == record


def test_the_full_golden_record_has_every_field():
    assert set(json.loads(FULL.read_text())) == set(full_record().to_dict())
