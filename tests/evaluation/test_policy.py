"""A wrong policy fails when it is declared, naming the field, what was found, what is allowed."""

import json

import pytest

from mlct.errors import SpecError
from mlct.evaluation.gate import (
    GatePolicy,
    GroupGap,
    Limit,
    NonInferiority,
    Ratio,
    ReplaceWhenStale,
    SliceRegression,
    Superiority,
)
from mlct.evaluation.metric import Metric

AUC = Superiority("roc_auc", min_effect=0.002, confidence=0.95)
LOSS, LOSS_99 = Superiority("log_loss"), Superiority("log_loss", confidence=0.99)
STALE = ReplaceWhenStale(after="45d", margin=0.002)
POLICY = GatePolicy(
    primary=AUC,
    guardrails=[
        Limit("latency_p99_ms", max=20),
        NonInferiority("log_loss", margin=0.005),
        Limit("ece", max=0.05),
        GroupGap("recall", by="carrier", max=0.10),
    ],
)


@pytest.mark.parametrize(
    ("declare", "field"),
    [
        (lambda: Superiority("auc"), "Superiority.metric"),
        (lambda: Superiority(None), "Superiority.metric"),
        (lambda: Superiority("roc_auc", min_effect=-0.1), "Superiority.min_effect"),
        (lambda: Superiority("roc_auc", min_effect=float("nan")), "Superiority.min_effect"),
        (lambda: Superiority("roc_auc", min_effect="0.1"), "Superiority.min_effect"),
        (lambda: Superiority("roc_auc", confidence=95), "Superiority.confidence"),
        (lambda: Superiority("roc_auc", confidence=0.3), "Superiority.confidence"),
        (lambda: Superiority("roc_auc", confidence=True), "Superiority.confidence"),
        (lambda: Superiority("roc_auc", threshold=0.5), "Superiority.threshold"),
        (lambda: NonInferiority("recall", margin=-1), "NonInferiority.margin"),
        (lambda: NonInferiority("recall", margin=0.1, threshold=2), "NonInferiority.threshold"),
        (lambda: Limit("latency_p99_ms"), "Limit.max"),
        (lambda: Limit("", max=1), "Limit.metric"),
        (lambda: Limit("recall@7", max=1), "Limit.metric"),
        (lambda: Limit("latency_p99_ms", max=1, threshold=0.3), "Limit.threshold"),
        (lambda: Limit("ece", max=float("inf")), "Limit.max"),
        (lambda: Limit("ece", min=0.2, max=0.1), "Limit.min"),
        (lambda: GroupGap("recall", by="", max=0.1), "GroupGap.by"),
        (lambda: GroupGap("recall", by="carrier", max=None), "GroupGap.max"),
        (lambda: GatePolicy(primary="roc_auc"), "GatePolicy.primary"),
        (lambda: GatePolicy(primary=AUC, guardrails=[AUC]), "GatePolicy.guardrails"),
        (lambda: GatePolicy(primary=AUC, guardrails="ece"), "GatePolicy.guardrails"),
        (
            lambda: GatePolicy(primary=AUC, guardrails=[Limit("ece", max=1), Limit("ece", min=0)]),
            "GatePolicy.guardrails",
        ),
        (lambda: GatePolicy(primary=AUC, min_rows=-1), "GatePolicy.min_rows"),
        (lambda: GatePolicy(primary=AUC, min_group=2.5), "GatePolicy.min_group"),
        (lambda: GatePolicy(primary=AUC, on_missing="pass"), "GatePolicy.on_missing"),
        (lambda: GatePolicy(primary=[]), "GatePolicy.primary"),
        (lambda: GatePolicy(primary=[AUC, AUC]), "GatePolicy.primary"),
        (lambda: GatePolicy(primary=[AUC, LOSS_99]), "GatePolicy.primary"),
        (lambda: GatePolicy(primary=AUC, max_feature_auc=0.5), "GatePolicy.max_feature_auc"),
        (lambda: GatePolicy(primary=AUC, stale="45d"), "GatePolicy.stale"),
        (lambda: GatePolicy(primary=[AUC, LOSS], stale=STALE), "GatePolicy.stale"),
        (lambda: ReplaceWhenStale(after="soon", margin=0.1), "ReplaceWhenStale.after"),
        (lambda: ReplaceWhenStale(after="45d", margin=-0.1), "ReplaceWhenStale.margin"),
        (lambda: ReplaceWhenStale("45d", 0.1, metric="auc"), "ReplaceWhenStale.metric"),
        (lambda: Ratio("", max=1.5), "Ratio.metric"),
        (lambda: Ratio("latency_p99_ms", max=-1), "Ratio.max"),
        (lambda: GroupGap("recall", by=(), max=0.1), "GroupGap.by"),
        (lambda: GroupGap("recall", by=("a", "a"), max=0.1), "GroupGap.by"),
        (lambda: GroupGap("recall", by=("a", 7), max=0.1), "GroupGap.by"),
        (lambda: SliceRegression("log_loss", by=[]), "SliceRegression.by"),
        (lambda: SliceRegression("log_loss", by="a", fdr=0.9), "SliceRegression.fdr"),
        (lambda: SliceRegression("loss", by="a"), "SliceRegression.metric"),
    ],
)
def test_a_wrong_policy_fails_when_declared(declare, field):
    with pytest.raises(SpecError, match=r"Expected") as refused:
        declare()
    assert refused.value.field == field
    assert field in str(refused.value)


def test_rules_are_named_by_what_they_judge():
    names = [rule.name for rule in POLICY.guardrails]
    assert names == ["latency_p99_ms", "log_loss", "ece", "recall by carrier"]
    assert GroupGap("recall", by="carrier", max=0.1, threshold=0.3).name == "recall@0.3 by carrier"


def test_a_policy_survives_json():
    record = json.loads(json.dumps(POLICY.to_dict()))
    assert GatePolicy.from_dict(record) == POLICY
    assert GatePolicy.from_dict(record).to_dict() == record


def test_a_policy_is_a_value():
    assert hash(POLICY) == hash(GatePolicy.from_dict(POLICY.to_dict()))
    with pytest.raises(AttributeError):
        POLICY.min_rows = 1


def test_a_metric_of_ones_own_is_written_by_name():
    own = Metric("money_saved", lambda y, s, w=None: 0.0)
    assert Superiority(own).to_dict()["metric"] == "money_saved"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": "mlct.gate_policy/v9"}, "mlct.gate_policy/v9"),
        ({"primary": {"rule": "supremacy"}}, "supremacy"),
        ({"primary": {"rule": "superiority", "metric": "roc_auc", "effect": 1}}, "effect"),
        ({"guardrails": [{"rule": "non_inferiority", "metric": "ece"}]}, "no margin"),
        ({"guardrails": [7]}, "7"),
        ({"min_row": 3}, "min_row"),
        ({"guardrails": None}, "guardrails is None"),
        ({"guardrails": {"metric": "ece"}}, "guardrails is"),
        ({"stale": "45d"}, "stale is '45d'"),
    ],
)
def test_a_record_that_is_no_policy_is_refused(change, told):
    with pytest.raises(SpecError, match=told):
        GatePolicy.from_dict(POLICY.to_dict() | change)


@pytest.mark.parametrize("record", ["x", None, [1]])
def test_what_is_no_record_at_all_is_refused(record):
    with pytest.raises(SpecError, match="the gate policy is"):
        GatePolicy.from_dict(record)


FULL = GatePolicy(
    primary=[AUC, LOSS],
    guardrails=[
        Ratio("latency_p99_ms", max=1.5),
        GroupGap("equalised_odds", by=("carrier", "origin"), max=0.1, threshold=0.3),
        SliceRegression("log_loss", by=["carrier", "month"], margin=0.01),
    ],
    stale=ReplaceWhenStale(after="45d", margin=0.002, metric="roc_auc"),
    max_feature_auc=0.95,
)


def test_every_rule_survives_json():
    record = json.loads(json.dumps(FULL.to_dict()))
    assert GatePolicy.from_dict(record) == FULL
    assert hash(GatePolicy.from_dict(record)) == hash(FULL)


def test_the_columns_that_rules_group_by_are_known():
    assert FULL.columns == ("carrier", "origin", "month")
    assert GroupGap("equalised_odds", by=("a", "b"), max=1, threshold=0.3).name == (
        "equalised_odds@0.3 by a x b"
    )


def test_a_single_primary_is_the_same_in_a_list():
    assert GatePolicy(primary=[AUC]) == GatePolicy(primary=AUC)
    assert GatePolicy(primary=AUC).primaries == (AUC,)


def test_a_policy_without_the_new_rules_is_written_as_before():
    assert set(POLICY.to_dict()) == {
        "format", "primary", "guardrails", "min_rows", "min_clusters", "min_positives",
        "min_group", "on_missing",
    }  # fmt: skip


def test_the_staleness_rule_takes_the_primary_metric():
    policy = GatePolicy(primary=Superiority("recall", threshold=0.3), stale=STALE)
    assert policy.stale_rule.name == "recall@0.3"
    assert policy.stale_rule.days == 45


def test_a_policy_may_be_read_from_yaml_without_its_format():
    record = {"primary": {"metric": "roc_auc", "min_effect": 0.002}}
    assert GatePolicy.from_dict(record) == GatePolicy(primary=AUC)


@pytest.mark.parametrize(
    ("primary", "guardrails", "expected"),
    [
        ({"metric": "roc_auc", "min_absolute_change": 0.002}, [], ([AUC], [])),
        (
            {"metric": "roc_auc", "threshold": 0.7, "greater_is_better": True},
            [],
            ([Superiority("roc_auc")], [Limit("roc_auc", min=0.7)]),
        ),
        (
            {"metric": "log_loss", "threshold": 0.6, "greater_is_better": False},
            [],
            ([LOSS], [Limit("log_loss", max=0.6)]),
        ),
        (
            [AUC.to_dict(), {"metric": "log_loss", "greater_is_better": False}],
            [{"metric": "latency_p99_ms", "threshold": 20, "greater_is_better": False}],
            ([AUC, LOSS], [Limit("latency_p99_ms", max=20)]),
        ),
    ],
)  # fmt: skip
def test_mlflows_words_are_understood(primary, guardrails, expected):
    rules, limits = expected
    read = GatePolicy.from_dict({"primary": primary, "guardrails": guardrails})
    assert read == GatePolicy(primary=rules, guardrails=limits)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"metric": "roc_auc", "min_relative_change": 0.01}, "min_absolute_change, in the metric"),
        ({"metric": "roc_auc", "greater_is_better": False}, "greater_is_better is False"),
        ({"metric": "latency_p99_ms", "threshold": 9, "greater_is_better": "false"}, "is 'false'"),
        ({"metric": "roc_auc", "higher_is_better": 1}, "greater_is_better is 1"),
        ({"metric": "roc_auc", "higher_is_better": [True]}, "greater_is_better is .True."),
        ({"metric": "recall", "threshold": 0.7}, "which kind is meant"),
        ({"metric": "roc_auc", "greater_is_better": True, "margin": 1}, "come with margin"),
    ],
)
def test_mlflows_words_that_are_not_sound_are_explained(said, told):
    with pytest.raises(SpecError, match=told):
        GatePolicy.from_dict({"primary": said})


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"metric": "log_loss", "min_absolute_change": 0.1}, "an improvement to show"),
        ({"metric": "size_mb", "threshold": 1, "min_absolute_change": 1}, "an improvement to show"),
        ({"metric": "log_loss", "greater_is_better": False}, "asks for nothing"),
    ],
)
def test_an_improvement_is_no_guardrail(said, told):
    with pytest.raises(SpecError, match=told):
        GatePolicy.from_dict({"primary": AUC.to_dict(), "guardrails": [said]})
