"""The gate: its table of verdicts, its sentences, and how often it is wrong."""

import json
from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest
from scipy import stats

from mlct.evaluation.compare import Comparison, Measure
from mlct.evaluation.evaluate import Evaluation, evaluate
from mlct.evaluation.gate import (
    GatePolicy,
    GroupGap,
    Limit,
    NonInferiority,
    Ratio,
    ReplaceWhenStale,
    SliceRegression,
    Superiority,
    decide,
    units_needed,
)
from mlct.evaluation.guardrail import Gap, Slice, SliceTable
from mlct.evaluation.leakage import Suspect
from mlct.evaluation.selection import spent

AUC = Superiority("roc_auc", min_effect=0.002)
LATENCY = Limit("latency_p99_ms", max=20)
LOG_LOSS = NonInferiority("log_loss", margin=0.005)
ECE = Limit("ece", max=0.05)
CARRIER = GroupGap("recall", by="carrier", max=0.10)
POLICY = GatePolicy(primary=AUC, guardrails=[LATENCY, LOG_LOSS, ECE, CARRIER])


def comparison(metric, lower, upper, champion="champion"):
    delta = (lower + upper) / 2
    return Comparison(
        metric=metric,
        model="challenger",
        champion=champion,
        delta=delta,
        lower=lower,
        upper=upper,
        standard_error=(upper - lower) / 2 / 1.7,
        p_value=0.01,
        method="clustered paired DeLong",
        rows=27_000,
        clusters=30,
        confidence=0.95,
        seed=None,
    )


def interval(value, lower, upper):
    return Measure(value=value, lower=lower, upper=upper, standard_error=0.01, confidence=0.95)


def gap(value, lower, upper, groups=None):
    return Gap(
        metric="recall",
        by="carrier",
        value=value,
        lower=lower,
        upper=upper,
        groups={"EV": 0.5, "UA": 0.45} if groups is None else groups,
        too_small=("HA",),
        confidence=0.95,
        method="all pairs",
    )


WON = Evaluation(
    task="binary",
    rows=27_000,
    clusters=30,
    unit="day",
    positives=8_500,
    champion="scored",
    metrics={"challenger": {"roc_auc": 0.765}, "champion": {"roc_auc": 0.702}},
    comparisons=(comparison("roc_auc", 0.0561, 0.0943), comparison("log_loss", 0.02, 0.06)),
    measures={"latency_p99_ms": {"challenger": Measure(value=3.0)},
              "ece": {"challenger": interval(0.02, 0.01, 0.03)}},
    gaps=(gap(0.05, 0.0, 0.08),),
    confidence=0.95,
    seed=0,
)  # fmt: skip


def changed(auc=None, log_loss=None, latency=None, ece=None, groups=None, **fields):
    """The evaluation of a clear winner, but for what is given."""
    won = {c.metric: c for c in WON.comparisons}
    if auc:
        won["roc_auc"] = comparison("roc_auc", *auc)
    if log_loss:
        won["log_loss"] = comparison("log_loss", *log_loss)
    measures = dict(WON.measures)
    if latency is not None:
        measures["latency_p99_ms"] = {"challenger": Measure(value=latency)}
    if ece:
        measures["ece"] = {"challenger": interval(*ece)}
    kept = {"comparisons": tuple(won.values()), "measures": measures}
    return replace(WON, **(kept | ({"gaps": (groups,)} if groups else {}) | fields))


@pytest.mark.parametrize(
    ("change", "verdict", "named"),
    [
        ({}, "PASS", "roc_auc"),
        # superiority: the lower bound must exceed the required effect
        ({"auc": (0.0021, 0.01)}, "PASS", "roc_auc"),
        ({"auc": (0.002, 0.01)}, "INCONCLUSIVE", "roc_auc"),
        ({"auc": (-0.01, 0.01)}, "INCONCLUSIVE", "roc_auc"),
        ({"auc": (-0.01, 0.002)}, "INCONCLUSIVE", "roc_auc"),
        ({"auc": (-0.01, 0.0019)}, "FAIL", "roc_auc"),
        ({"auc": (-0.03, -0.01)}, "FAIL", "roc_auc"),
        ({"auc": (0.0, 0.0)}, "FAIL", "roc_auc"),
        # non-inferiority: the lower bound must exceed minus the margin
        ({"log_loss": (-0.0049, 0.0)}, "PASS", "log_loss"),
        ({"log_loss": (-0.005, 0.0)}, "INCONCLUSIVE", "log_loss"),
        ({"log_loss": (-0.02, 0.02)}, "INCONCLUSIVE", "log_loss"),
        ({"log_loss": (-0.02, -0.0051)}, "FAIL", "log_loss"),
        # limits: the whole interval, or the value where there is none
        ({"latency": 20.0}, "PASS", "latency_p99_ms"),
        ({"latency": 20.1}, "FAIL", "latency_p99_ms"),
        ({"ece": (0.04, 0.03, 0.05)}, "PASS", "ece"),
        ({"ece": (0.04, 0.03, 0.051)}, "INCONCLUSIVE", "ece"),
        ({"ece": (0.06, 0.05, 0.07)}, "INCONCLUSIVE", "ece"),
        ({"ece": (0.07, 0.051, 0.09)}, "FAIL", "ece"),
        # gaps between groups likewise
        ({"groups": gap(0.09, 0.05, 0.10)}, "PASS", "recall by carrier"),
        ({"groups": gap(0.09, 0.05, 0.11)}, "INCONCLUSIVE", "recall by carrier"),
        ({"groups": gap(0.15, 0.11, 0.2)}, "FAIL", "recall by carrier"),
        ({"groups": gap(nan, nan, nan, {"EV": 0.5})}, "INCONCLUSIVE", "recall by carrier"),
        ({"groups": gap(0.05, 0.0, nan)}, "INCONCLUSIVE", "recall by carrier"),
        # evidence: too little never passes
        ({"rows": 99}, "INCONCLUSIVE", "99 rows"),
        ({"clusters": 9}, "INCONCLUSIVE", "9 days"),
        ({"positives": 29}, "INCONCLUSIVE", "29 positives"),
        ({"clusters": None}, "PASS", "roc_auc"),
        ({"positives": None}, "PASS", "roc_auc"),
        # missing measurements fail
        ({"comparisons": ()}, "FAIL", "roc_auc was not measured"),
        ({"measures": {}}, "FAIL", "latency_p99_ms was not measured"),
        ({"gaps": ()}, "FAIL", "recall by carrier was not measured"),
        # one failed rule outweighs an undecided one
        ({"auc": (-0.01, 0.01), "latency": 30.0}, "FAIL", "latency_p99_ms"),
    ],
)
def test_the_table_of_verdicts(change, verdict, named):
    decision = decide(changed(**change), POLICY)
    assert decision.verdict == verdict
    assert any(named in reason for reason in decision.reasons)
    if verdict != "PASS":
        assert named in decision.sentence
        assert named in decision.reasons[0]


@pytest.mark.parametrize(
    ("limits", "value", "verdict"),
    [
        ({"min": 0.7}, (0.75, 0.7, 0.8), "PASS"),
        ({"min": 0.7}, (0.72, 0.69, 0.75), "INCONCLUSIVE"),
        ({"min": 0.7}, (0.65, 0.6, 0.69), "FAIL"),
        ({"min": 0.7, "max": 0.9}, (0.85, 0.8, 0.9), "PASS"),
        ({"min": 0.7, "max": 0.9}, (0.85, 0.8, 0.91), "INCONCLUSIVE"),
    ],
)
def test_limits_from_below_and_on_both_sides(limits, value, verdict):
    policy = GatePolicy(primary=AUC, guardrails=[Limit("roc_auc", **limits)])
    evaluation = replace(WON, measures={"roc_auc": {"challenger": interval(*value)}})
    assert decide(evaluation, policy).verdict == verdict


@pytest.mark.parametrize("on_missing", ["fail", "inconclusive"])
@pytest.mark.parametrize("number", [nan, inf, -inf])
@pytest.mark.parametrize("place", ["delta", "lower", "upper"])
def test_no_comparison_with_a_number_that_is_not_finite_passes(place, number, on_missing):
    policy = replace(POLICY, on_missing=on_missing)
    for index in range(2):
        rows = list(WON.comparisons)
        rows[index] = replace(rows[index], **{place: number})
        assert decide(replace(WON, comparisons=tuple(rows)), policy).verdict != "PASS"


@pytest.mark.parametrize("number", [nan, inf, -inf])
@pytest.mark.parametrize("place", ["value", "lower", "upper"])
def test_no_measure_with_a_number_that_is_not_finite_passes(place, number):
    for name in ("ece", "latency_p99_ms"):
        measure = replace(WON.measures[name]["challenger"], **{place: number})
        measures = {**WON.measures, name: {"challenger": measure}}
        assert decide(replace(WON, measures=measures), POLICY).verdict == "FAIL"


@pytest.mark.parametrize("place", ["value", "upper"])
def test_no_gap_with_a_number_that_is_not_finite_passes(place):
    for number in (nan, inf):
        gaps = (replace(WON.gaps[0], **{place: number}),)
        assert decide(replace(WON, gaps=gaps), POLICY).verdict != "PASS"


def test_bounds_at_another_confidence_are_not_the_ones_required():
    strict = replace(POLICY, primary=Superiority("roc_auc", min_effect=0.002, confidence=0.99))
    assert decide(WON, strict).verdict == "FAIL"
    limit = GatePolicy(primary=AUC, guardrails=[Limit("ece", max=0.05, confidence=0.99)])
    assert decide(WON, limit).verdict == "FAIL"


def test_a_missing_measurement_may_be_declared_inconclusive():
    policy = replace(POLICY, on_missing="inconclusive")
    assert decide(replace(WON, gaps=()), policy).verdict == "INCONCLUSIVE"


FIRST = replace(
    WON, champion="none", comparisons=(comparison("roc_auc", 0.2, 0.3, champion="baseline"),)
)


@pytest.mark.parametrize(
    ("lower", "upper", "verdict"),
    [(0.001, 0.1, "PASS"), (-0.01, 0.1, "INCONCLUSIVE"), (-0.1, -0.01, "FAIL")],
)
def test_without_a_champion_the_baseline_must_be_beaten(lower, upper, verdict):
    against = comparison("roc_auc", lower, upper, champion="baseline")
    decision = decide(replace(FIRST, comparisons=(against,)), POLICY)
    assert decision.verdict == verdict
    assert any(reason.startswith("no champion yet:") for reason in decision.reasons)


def test_without_a_champion_absolute_guardrails_still_hold():
    decision = decide(replace(FIRST, measures={}), POLICY)
    assert decision.verdict == "FAIL"
    outcomes = {(rule.rule, rule.name): rule.outcome for rule in decision.rules}
    assert outcomes["superiority", "roc_auc"] == "NOT JUDGED"
    assert outcomes["non_inferiority", "log_loss"] == "NOT JUDGED"


def test_without_champion_and_baseline_nothing_passes():
    assert decide(replace(FIRST, comparisons=()), POLICY).verdict == "FAIL"


def test_the_first_pass_says_that_there_was_no_champion():
    assert decide(FIRST, POLICY).sentence.startswith("PASS: no champion yet:")


def test_a_champion_that_cannot_be_scored_leaves_it_undecided():
    decision = decide(replace(FIRST, champion="column wind_gust is gone"), POLICY)
    assert decision.verdict == "INCONCLUSIVE"
    assert "cannot be scored on this holdout: column wind_gust is gone" in decision.reasons[0]


@pytest.mark.parametrize(
    ("lower", "upper", "verdict"), [(0.1, 0.2, "PASS"), (-0.2, -0.1, "FAIL"), (-0.1, 0.1, None)]
)
def test_with_a_champion_the_baseline_must_be_beaten_too(lower, upper, verdict):
    against = comparison("roc_auc", lower, upper, champion="baseline")
    decision = decide(replace(WON, comparisons=(*WON.comparisons, against)), POLICY)
    assert decision.verdict == (verdict or "INCONCLUSIVE")


def test_the_reason_of_a_pass_reads_like_a_sentence():
    assert decide(WON, POLICY).reasons[0] == (
        "roc_auc +0.0752 (95 % lower bound +0.0561) beats the required +0.002: "
        "30 days, clustered paired DeLong"
    )


def test_a_refusal_names_the_guardrail_and_shows_the_primary_as_won():
    decision = decide(changed(latency=43.0), POLICY)
    assert decision.sentence == "FAIL: latency_p99_ms 43 is outside the limit <= 20"
    assert decision.reasons[0] == "latency_p99_ms 43 is outside the limit <= 20"
    assert any("roc_auc" in reason and "beats" in reason for reason in decision.reasons)


def test_inconclusive_says_how_many_clusters_would_decide():
    decision = decide(changed(auc=(-0.002, 0.012)), POLICY)
    (rule,) = [rule for rule in decision.rules if rule.outcome == "INCONCLUSIVE"]
    assert rule.needed == units_needed(30, 0.007 / 1.7, 0.005 - 0.002, 0.95)
    assert f"about {rule.needed:,} days would show it with power 0.8" in rule.reason


def test_an_effect_that_is_too_small_is_not_blamed_on_the_sample():
    (reason, *_) = decide(changed(auc=(-0.01, 0.01)), POLICY).reasons
    assert "more days alone are not expected to help" in reason
    assert "a true effect of +0.00788 would take about" in reason


def test_the_size_that_is_needed_has_the_power_that_is_promised():
    error, effect = 0.01, 0.008
    needed = units_needed(30, error, effect, 0.95)
    then = error * np.sqrt(30 / needed)
    power = stats.norm.sf(stats.norm.ppf(0.95) - effect / then)
    assert power == pytest.approx(0.8, abs=0.005)


def test_identical_models_are_called_identical():
    decision = decide(changed(auc=(0.0, 0.0)), POLICY)
    assert "the models score these rows identically" in decision.sentence


def test_groups_that_are_not_judged_are_named():
    (reason,) = [r for r in decide(WON, POLICY).reasons if "carrier" in r]
    assert reason.endswith("too small to judge: HA")


def test_a_decision_is_plain_json():
    decision = decide(replace(WON, gaps=(gap(nan, nan, nan, {}),)), POLICY)
    record = json.loads(json.dumps(decision.to_dict(), allow_nan=False))
    assert record["format"] == "mlct.gate_decision/v1"
    assert record["verdict"] == "INCONCLUSIVE"
    assert [rule["name"] for rule in record["rules"]][:3] == ["rows", "days", "positives"]


def test_a_decision_prints_as_a_table():
    table = decide(WON, POLICY).to_markdown()
    assert table.startswith("PASS: roc_auc +0.0752")
    assert "| limit | latency_p99_ms | 3 | <= 20 | PASS |" in table


def rule(decision, kind, name=None):
    """The one outcome of that kind of rule."""
    (found,) = [r for r in decision.rules if r.rule == kind and name in (None, r.name)]
    return found


# Several primary rules

LOSS = Superiority("log_loss", min_effect=0.001)
EITHER = GatePolicy(primary=[AUC, LOSS])
REACH = {confidence: stats.norm.ppf(confidence) for confidence in (0.975, 0.95)}


def two(auc, loss):
    """Comparisons on two primaries; `auc` and `loss` are (delta, standard error)."""
    found = []
    for name, (delta, error) in (("roc_auc", auc), ("log_loss", loss)):
        for confidence in (0.975, 0.95):
            reach = REACH[confidence] * error
            row = comparison(name, delta - reach, delta + reach)
            found.append(replace(row, confidence=confidence, standard_error=error))
    return replace(WON, comparisons=tuple(found))


@pytest.mark.parametrize(
    ("auc", "loss", "verdict", "outcomes"),
    [
        ((0.05, 0.01), (0.05, 0.01), "PASS", ["PASS", "PASS"]),
        ((0.05, 0.01), (0.0, 0.01), "PASS", ["PASS", "NOT NEEDED"]),
        ((0.05, 0.01), (-0.05, 0.01), "PASS", ["PASS", "NOT NEEDED"]),
        # 1.85 standard errors: enough alone, not enough for one of two
        ((0.0205, 0.01), (0.0, 0.01), "INCONCLUSIVE", ["INCONCLUSIVE", "INCONCLUSIVE"]),
        # but enough once the other one has won
        ((0.0205, 0.01), (0.05, 0.01), "PASS", ["PASS", "PASS"]),
        ((0.0, 0.01), (-0.05, 0.01), "INCONCLUSIVE", ["INCONCLUSIVE", "NOT NEEDED"]),
        ((-0.05, 0.01), (-0.05, 0.01), "FAIL", ["FAIL", "FAIL"]),
    ],
)
def test_any_primary_rule_may_promote_after_holms_correction(auc, loss, verdict, outcomes):
    decision = decide(two(auc, loss), EITHER)
    assert decision.verdict == verdict
    assert [r.outcome for r in decision.rules if r.rule == "superiority"] == outcomes


def test_a_primary_rule_that_is_not_needed_says_why():
    decision = decide(two((0.05, 0.01), (0.0, 0.01)), EITHER)
    assert decision.sentence.startswith("PASS: roc_auc +0.05")
    assert decision.reasons[-1].endswith("not needed, as roc_auc (superiority) decides")


def test_a_primary_that_nobody_measured_is_still_missing():
    only = replace(WON, comparisons=two((0.05, 0.01), (0, 0.01)).comparisons[:2])
    assert decide(only, EITHER).verdict == "FAIL"


def test_two_primaries_without_an_effect_do_not_pass_more_often_than_one():
    random, worlds, passed = np.random.default_rng(5), 3000, 0
    for auc, loss in random.normal(size=(worlds, 2)) * 0.01:
        passed += decide(two((auc + 0.002, 0.01), (loss + 0.001, 0.01)), EITHER).verdict == "PASS"
    assert passed <= stats.binom(worlds, 0.05).ppf(0.999)


# A champion that is old

STALE = replace(POLICY, stale=ReplaceWhenStale(after="45d", margin=0.01))


@pytest.mark.parametrize(
    ("auc", "age", "verdict"),
    [
        ((-0.005, 0.005), 46, "PASS"),
        ((-0.005, 0.005), 45, "INCONCLUSIVE"),
        ((-0.005, 0.005), None, "INCONCLUSIVE"),
        ((-0.02, 0.001), 46, "INCONCLUSIVE"),
        ((-0.03, -0.02), 46, "FAIL"),
        ((0.01, 0.02), 3, "PASS"),
        ((0.01, 0.02), 46, "PASS"),
    ],
)
def test_not_worse_is_enough_against_an_old_champion_only(auc, age, verdict):
    assert decide(changed(auc=auc, champion_age_days=age), STALE).verdict == verdict


def test_the_staleness_rule_has_its_own_reason():
    decision = decide(changed(auc=(-0.005, 0.005), champion_age_days=46.0), STALE)
    assert decision.sentence.startswith(
        "PASS: the champion is 46 days old, more than 45d, so not being worse is enough: "
        "roc_auc +0 (95 % lower bound -0.005) stays within the margin -0.01"
    )
    assert rule(decision, "superiority").outcome == "NOT NEEDED"


def test_a_young_champion_is_not_replaced_for_its_age():
    reason = rule(decide(replace(WON, champion_age_days=12.0), STALE), "stale").reason
    assert reason == (
        "the champion is 12 days old: only beyond 45d would not being worse on roc_auc be enough "
        "to replace it"
    )


def test_age_alone_does_not_excuse_a_guardrail():
    old = changed(auc=(-0.005, 0.005), latency=43.0, champion_age_days=90)
    assert decide(old, STALE).sentence == "FAIL: latency_p99_ms 43 is outside the limit <= 20"


# Special cases, each with a reason of its own


@pytest.mark.parametrize(
    ("fields", "verdict", "told"),
    [
        ({"identical": True}, "FAIL", "scores every row exactly as the champion does"),
        ({"constant": ("challenger",)}, "FAIL", "the challenger gives every row the same score"),
        ({"constant": ("champion",)}, "PASS", "the champion gives every row the same score"),
        ({"duplicates": 12}, "INCONCLUSIVE", "12 rows of the holdout repeat an id"),
        ({"duplicates": 0}, "PASS", None),
        ({"single_class": True, "positives": 0}, "INCONCLUSIVE", "are of class 0"),
        ({"unscored": {"challenger": "3 are NaN"}}, "FAIL", "cannot be judged: 3 are NaN"),
        (
            {"suspects": (Suspect(column="delay", reason="delay alone tells it", value=1.0),)},
            "FAIL",
            "leakage is suspected, so no result can be believed: delay alone tells it; remove",
        ),
        ({"selected_among": 10}, "INCONCLUSIVE", "on a window nobody recorded"),
        (
            {"selected_among": 10, "selected_on": "ab", "holdout_digest": "ab"},
            "INCONCLUSIVE",
            "chosen among 10 candidates on this very holdout",
        ),
        (
            {"selected_among": 10, "selected_on": "ab", "holdout_digest": "cd"},
            "PASS",
            "chosen among 10 candidates on another window and is confirmed on this one",
        ),
        ({"selected_among": 1, "selected_on": "ab", "holdout_digest": "ab"}, "PASS", None),
    ],
)
def test_special_cases_have_reasons_of_their_own(fields, verdict, told):
    decision = decide(replace(WON, **fields), POLICY)
    assert decision.verdict == verdict
    assert told is None or any(told in reason for reason in decision.reasons)
    if verdict != "PASS":
        assert told in decision.sentence


def test_without_usable_scores_no_rule_is_judged():
    decision = decide(replace(WON, unscored={"challenger": "3 are NaN"}), POLICY)
    assert {r.rule for r in decision.rules} == {"evidence"}


@pytest.mark.parametrize("looks", [1, 2, 7])
def test_a_counted_look_needs_bounds_at_its_own_level(looks):
    assert decide(replace(WON, looks=looks), POLICY).verdict == "FAIL"  # bounds at 95 %
    confidence = 1 - (1 - spent(1 - 0.95, looks))
    tight = [replace(c, confidence=spent(1 - 0.95, looks)) for c in WON.comparisons]
    ece = replace(WON.measures["ece"]["challenger"], confidence=confidence)
    again = replace(
        WON,
        looks=looks,
        comparisons=tuple(tight),
        measures=WON.measures | {"ece": {"challenger": ece}},
        gaps=(replace(WON.gaps[0], confidence=spent(1 - 0.95, looks)),),
    )
    decision = decide(again, POLICY)
    assert decision.verdict == "PASS"
    shown = rule(decision, "holdout", "looks")
    assert shown.observed == str(looks)
    assert shown.reason in decision.reasons


def test_the_count_of_looks_reads_like_a_sentence():
    shown = rule(decide(replace(WON, looks=3), POLICY), "holdout", "looks").reason
    assert shown == (
        "this is decision 3 on this holdout: bounds are at 99.85 %, so that all decisions on it "
        "together keep 95 %"
    )


# When it could be decided


def test_inconclusive_says_when_there_will_be_enough():
    month = {"holdout_start": "2013-06-01", "holdout_end": "2013-07-01"}
    found = rule(decide(changed(auc=(-0.002, 0.012), **month), POLICY), "superiority")
    assert found.ready == "2014-05-18"
    assert found.reason.endswith(
        "if the observed value is real, about 351 days would show it with power 0.8: "
        "by 2014-05-18 at the present rate, if Windows.holdout is raised to 351d"
    )


MONTH = {"holdout_start": "2013-06-01", "holdout_end": "2013-07-01"}


def undecided(policy=POLICY, **change):
    """The one rule that the holdout does not decide."""
    (found,) = [
        rule
        for rule in decide(changed(**(MONTH | change)), policy).rules
        if rule.outcome == "INCONCLUSIVE"
    ]
    return found


@pytest.mark.parametrize(
    ("change", "least", "needed", "ready"),
    [
        ({"rows": 80}, {"min_rows": 800}, 800, "2014-03-28"),
        ({"clusters": 30}, {"min_clusters": 60}, 60, "2013-07-31"),
        ({"positives": 10}, {"min_positives": 20}, 20, "2013-07-31"),
    ],
)
def test_a_holdout_that_is_too_small_says_when_it_will_not_be(change, least, needed, ready):
    found = undecided(replace(POLICY, **least), **change)
    assert (found.needed, found.ready) == (needed, ready)
    assert f"by {ready} at the present rate, if Windows.holdout is raised to" in found.reason


def test_nothing_is_promised_of_what_never_came():
    found = undecided(positives=0)
    assert (found.needed, found.ready) == (30, None)
    assert found.reason.endswith("at least 30 are required")


def test_rows_count_from_when_their_labels_are_known():
    early, late = (undecided(clusters=5, label_delay_days=days) for days in (0.0, 14.0))
    assert (early.ready, late.ready) == ("2013-07-31", "2013-08-14")


@pytest.mark.parametrize(
    ("value", "side"), [((0.04, 0.03, 0.056), "inside"), ((0.06, 0.044, 0.07), "outside")]
)
def test_an_undecided_limit_says_what_would_show_on_which_side_it_lies(value, side):
    found = undecided(ece=value)
    assert found.needed == units_needed(30, 0.01, 0.01, 0.95)
    assert f"would show that it is {side} with power 0.8: by {found.ready}" in found.reason


def test_a_value_on_the_limit_itself_is_not_blamed_on_the_sample():
    found = undecided(ece=(0.05, 0.04, 0.06))
    assert found.needed is None
    assert "on the limit itself, more days are not expected to help" in found.reason


def test_an_undecided_latency_is_not_blamed_on_the_sample():
    slow = Measure(value=20.0, lower=19.0, upper=21.0, confidence=0.95)
    found = undecided(measures={**WON.measures, "latency_p99_ms": {"challenger": slow}})
    assert found.reason.endswith("measured on a fixed number of rows, more of them do not help")


@pytest.mark.parametrize(("value", "side"), [(0.08, "inside"), (0.12, "outside")])
def test_an_undecided_gap_says_what_would_show_on_which_side_it_lies(value, side):
    found = undecided(groups=gap(value, value - 0.05, value + 0.05))
    # The reach of the bounds has to shrink to the room there is, with power to spare.
    assert found.needed == units_needed(30, 0.05 / stats.norm.ppf(0.95), 0.02, 0.95)
    assert f"would show that it is {side} with power 0.8: by {found.ready}" in found.reason


def test_groups_that_are_too_small_say_how_many_days_it_takes():
    small = replace(gap(nan, nan, nan, {"EV": 0.5}), times=2.5)
    found = undecided(groups=small)
    assert (found.needed, found.ready) == (75, "2013-08-15")
    assert "about 75 days would have them: by 2013-08-15" in found.reason


def test_a_gap_whose_error_is_not_known_says_so():
    assert "is not known" in undecided(groups=gap(0.05, 0.0, nan)).reason


def test_what_a_later_holdout_needs_does_not_depend_on_how_often_this_one_was_used():
    def needed(looks):
        confidence = spent(0.05, looks)
        wide = replace(comparison("roc_auc", -0.01, 0.02), confidence=confidence)
        loss = replace(WON.comparisons[1], confidence=confidence)
        policy = GatePolicy(primary=AUC)
        found = replace(WON, comparisons=(wide, loss), looks=looks)
        return rule(decide(found, policy), "superiority").needed

    assert needed(1) == needed(6) > units_needed(30, 0.015 / 1.7, 0.003, 0.95)


def test_without_the_holdouts_dates_no_date_is_named():
    found = rule(decide(changed(auc=(-0.002, 0.012)), POLICY), "superiority")
    assert found.ready is None
    assert found.reason.endswith("with power 0.8")


# Ratios and slices


def ratio(*, paired=None, values=None, champion="scored"):
    policy = GatePolicy(primary=AUC, guardrails=[Ratio("latency_p99_ms", max=1.5)])
    measures = {}
    if paired:
        measures["latency_p99_ms_ratio"] = {"challenger": interval(*paired)}
    if values:
        measures["latency_p99_ms"] = {
            model: Measure(value=value)
            for model, value in zip(("challenger", "champion"), values, strict=True)
        }
    base = WON if champion == "scored" else replace(FIRST, champion=champion)
    return rule(decide(replace(base, measures=measures), policy), "ratio")


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        ({"paired": (1.2, 1.1, 1.4)}, "PASS"),
        ({"paired": (1.4, 1.2, 1.6)}, "INCONCLUSIVE"),
        ({"paired": (2.0, 1.8, 2.2)}, "FAIL"),
        ({"values": (3.0, 2.0)}, "PASS"),
        ({"values": (4.0, 2.0)}, "FAIL"),
        ({"values": (4.0, 0.0)}, "FAIL"),  # nothing to compare with is not measured
        ({}, "FAIL"),
        ({"champion": "none"}, "NOT JUDGED"),
    ],
)
def test_a_measured_value_is_judged_against_the_champions(given, outcome):
    assert ratio(**given).outcome == outcome


def test_a_doubled_latency_is_told_in_times():
    assert ratio(paired=(2.0, 1.8, 2.2)).reason == (
        "latency_p99_ms against the champion's 2 times (95 % bounds 1.8 to 2.2) is outside the "
        "limit <= 1.5 times"
    )


def sliced(*slices, too_small=(), champion="scored"):
    policy = GatePolicy(
        primary=AUC, guardrails=[SliceRegression("log_loss", by=["carrier"], margin=0.01)]
    )
    table = SliceTable(
        metric="log_loss",
        by=("carrier",),
        margin=0.01,
        confidence=0.95,
        slices=tuple(
            Slice(
                column="carrier", value=value, rows=500, challenger=0.5, champion=0.4,
                delta=delta, lower=delta - 0.02, upper=delta + 0.02, p_value=p, adjusted=p,
            )
            for value, delta, p in slices
        ),
        too_small=too_small,
    )  # fmt: skip
    base = WON if champion == "scored" else replace(FIRST, champion=champion)
    return rule(decide(replace(base, slices=(table,)), policy), "slice_regression")


def test_a_slice_that_got_worse_is_named():
    found = sliced(("HA", -0.1, 0.001), ("UA", 0.0, 0.4))
    assert found.outcome == "FAIL"
    assert found.reason == (
        "log_loss over carrier: worse by more than 0.01 in 1 of 2 slices: carrier=HA -0.1, 500 rows"
    )


def test_slices_that_held_say_which_was_the_most_doubtful():
    found = sliced(("UA", -0.02, 0.4), too_small=("carrier=HA",))
    assert found.outcome == "PASS"
    assert found.reason == (
        "log_loss over carrier: shown to be worse by more than 0.01 in none of 1 slices; the most "
        "doubtful is carrier=UA -0.02, adjusted p 0.4; too small to judge: carrier=HA"
    )


def test_without_a_slice_to_judge_it_is_undecided_and_without_a_champion_not_judged():
    assert sliced(too_small=("carrier=HA",)).outcome == "INCONCLUSIVE"
    assert sliced(("UA", 0, 1), champion="none").outcome == "NOT JUDGED"


def test_slices_that_nobody_measured_are_missing():
    policy = GatePolicy(primary=AUC, guardrails=[SliceRegression("log_loss", by=["origin"])])
    assert decide(WON, policy).verdict == "FAIL"


def latency(**changes):
    """What the gate says of a measured latency."""
    measure = replace(Measure(value=3.0, lower=2.0, upper=4.0, confidence=0.95), **changes)
    policy = GatePolicy(primary=AUC, guardrails=[Limit("latency_p99_ms", max=20, confidence=0.99)])
    return rule(
        decide(replace(WON, measures={"latency_p99_ms": {"challenger": measure}}), policy), "limit"
    )


def test_a_measured_interval_at_a_lower_confidence_says_so():
    found = latency()
    assert found.outcome == "FAIL"
    assert "was measured at 95 %, the rule asks for 99 %" in found.reason
    assert latency(confidence=0.99).outcome == "PASS"


def test_a_measured_value_without_the_bound_it_should_have_says_why():
    found = latency(confidence=0.99, upper=nan, method="order statistics of 20 rows")
    assert found.outcome == "FAIL"
    assert "has no bound at 99 % (order statistics of 20 rows)" in found.reason


def test_a_measured_interval_at_a_higher_confidence_is_good_enough():
    policy = GatePolicy(primary=AUC, guardrails=[Limit("ece", max=0.05, confidence=0.9)])
    assert decide(WON, policy).verdict == "PASS"


def test_the_calibration_error_is_set_beside_what_chance_adds():
    decision = decide(replace(WON, by_chance={"ece": 0.026}), POLICY)
    assert (
        "a perfect model would show about 0.026 here by chance"
        in rule(decision, "limit", "ece").reason
    )


def _world(random, skill=0.0, rows=1500, clusters=30):
    """A champion and a challenger that sees the labels a little better, by `skill`."""
    codes = np.arange(rows) % clusters
    latent = random.normal(size=rows) + 0.5 * random.normal(size=clusters)[codes]
    y = (latent > 0.7) * 1
    scores = {
        name: 1 / (1 + np.exp(1.2 - (1 + more) * latent - random.normal(size=rows)))
        for name, more in (("champion", 0.0), ("challenger", skill))
    }
    scores["baseline"] = np.full(rows, y.mean())
    return y, scores, codes


def _verdicts(skill, worlds, policy):
    random = np.random.default_rng(21)
    for _ in range(worlds):
        y, scores, codes = _world(random, skill)
        yield decide(evaluate(y, scores, policy=policy, clusters=codes), policy).verdict


def test_challengers_of_equal_skill_rarely_pass():
    policy = GatePolicy(primary=Superiority("roc_auc"))
    verdicts = list(_verdicts(0.0, 40, policy))
    assert verdicts.count("PASS") <= 5
    assert verdicts.count("INCONCLUSIVE") > 20


def test_a_clear_winner_passes_and_a_clear_loser_fails():
    policy = GatePolicy(primary=AUC, guardrails=[NonInferiority("average_precision", margin=0.01)])
    assert set(_verdicts(1.0, 5, policy)) == {"PASS"}
    assert set(_verdicts(-0.5, 5, policy)) == {"FAIL"}


def test_a_better_ranking_with_bad_calibration_is_refused_for_its_calibration():
    policy = GatePolicy(primary=AUC, guardrails=[ECE, NonInferiority("log_loss", margin=0.005)])
    y, scores, codes = _world(np.random.default_rng(0), skill=1.0)
    scores["challenger"] = np.clip(scores["challenger"] ** 0.3, 0, 1)  # the ranking stays
    decision = decide(evaluate(y, scores, policy=policy, clusters=codes), policy)
    outcomes = {(rule.rule, rule.name): rule.outcome for rule in decision.rules}
    assert decision.verdict == "FAIL"
    assert outcomes["superiority", "roc_auc"] == "PASS"
    assert outcomes["limit", "ece"] == "FAIL"


def test_a_gap_between_groups_is_refused_for_the_gap():
    policy = GatePolicy(primary=AUC, guardrails=[CARRIER])
    y, scores, codes = _world(np.random.default_rng(0), skill=1.0, rows=6000)
    carrier = np.random.default_rng(1).choice(["AA", "UA"], len(y))
    late = (carrier == "UA") & (y == 1)
    scores["challenger"][late & (np.random.default_rng(2).random(len(y)) < 0.4)] = 0.3
    kept = {"policy": policy, "clusters": codes, "groups": {"carrier": carrier}}
    decision = decide(evaluate(y, scores, **kept), policy)
    assert decision.verdict == "FAIL"
    assert "recall by carrier" in decision.sentence


@pytest.fixture(scope="module")
def better():
    """A challenger whose AUC is truly some 0.03 higher, on 30 days."""
    return _world(np.random.default_rng(3), skill=0.2, rows=6000)


GUARDED = GatePolicy(
    primary=AUC,
    guardrails=[
        ECE,
        Ratio("latency_p99_ms", max=1.5),
        GroupGap("equal_opportunity", by="carrier", max=0.1),
        SliceRegression("log_loss", by=["carrier"], margin=0.01),
    ],
)


def _guarded(better, spoil=lambda scores, y, carrier: None, slower=1.0):
    y, scores, codes = better
    scores = {name: score.copy() for name, score in scores.items()}
    for name in ("challenger", "champion"):  # honest to begin with: calibrated by day
        order = np.argsort(scores[name])
        scores[name][order] = _rising(y[order].astype(float))
    carrier = np.random.default_rng(1).choice(["AA", "UA"], len(y))
    spoil(scores, y, carrier)
    ratio = Measure(value=slower, lower=slower * 0.9, upper=slower * 1.1, confidence=0.95)
    found = evaluate(
        y,
        scores,
        policy=GUARDED,
        clusters=codes,
        unit="day",
        groups={"carrier": carrier},
        measured={"latency_p99_ms_ratio": {"challenger": ratio}},
    )
    return decide(found, GUARDED)


def _rising(y):
    from scipy.optimize import isotonic_regression

    return np.clip(isotonic_regression(y).x, 0.001, 0.999)


def _bad_calibration(scores, y, carrier):
    scores["challenger"] = scores["challenger"] ** 0.4  # the ranking stays


def _fairness_gap(scores, y, carrier):
    missed = (carrier == "UA") & (y == 1) & (np.random.default_rng(2).random(len(y)) < 0.4)
    scores["challenger"][missed] = np.minimum(scores["challenger"][missed], 0.49)


@pytest.mark.parametrize(
    ("change", "guardrail"),
    [
        ({"spoil": _bad_calibration}, ("limit", "ece")),
        ({"slower": 2.0}, ("ratio", "latency_p99_ms")),
        ({"spoil": _fairness_gap}, ("group_gap", "equal_opportunity by carrier")),
    ],
)
def test_a_better_ranking_is_refused_by_the_guardrail_it_breaks(better, change, guardrail):
    decision = _guarded(better, **change)
    assert decision.verdict == "FAIL"
    assert rule(decision, *guardrail).outcome == "FAIL"
    assert rule(decision, "superiority").outcome == "PASS"
    assert any("roc_auc" in reason and "beats" in reason for reason in decision.reasons)


def test_the_same_challenger_passes_unspoilt(better):
    decision = _guarded(better)
    assert decision.verdict == "PASS"
    assert rule(decision, "superiority").value == pytest.approx(0.03, abs=0.015)


@pytest.mark.parametrize("looks", [None, 1, 3])
@pytest.mark.parametrize("champion", [True, False])
def test_an_evaluation_measures_all_that_its_policy_asks_for(looks, champion):
    policy = GatePolicy(
        primary=[AUC, LOSS, Superiority("brier")],
        guardrails=[
            ECE,
            NonInferiority("average_precision", margin=0.01),
            GroupGap("equalised_odds", by=("carrier", "origin"), max=0.9, threshold=0.3),
            SliceRegression("brier", by=["carrier", "origin"], margin=0.01),
        ],
        stale=ReplaceWhenStale(after="45d", margin=0.01, metric="roc_auc"),
    )
    y, scores, codes = _world(np.random.default_rng(0), skill=1.0, rows=3000)
    if not champion:
        del scores["champion"]
    random = np.random.default_rng(1)
    groups = {
        "carrier": random.choice(["AA", "UA"], 3000),
        "origin": random.choice(list("EJ"), 3000),
    }
    kept = {"clusters": codes, "groups": groups, "looks": looks, "champion_age_days": 90}
    found = evaluate(y, scores, policy=policy, **kept)
    read = Evaluation.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    decision = decide(read, policy)
    assert decision == decide(found, policy)
    assert not [r.reason for r in decision.rules if "not measured" in r.reason]
    assert {r.outcome for r in decision.rules if r.rule == "baseline"} == {"PASS"}
    if champion:
        assert [r.outcome for r in decision.rules if r.rule == "superiority"] == ["PASS"] * 3
        assert rule(decision, "stale").outcome == "PASS"
