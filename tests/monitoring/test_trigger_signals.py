"""Several signals, attempts, back-off and refusals of the retrain trigger."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlct.data.contract import ContractReport
from mlct.errors import DataError, SpecError
from mlct.evaluation.metric import metric
from mlct.monitoring.drift import drift
from mlct.monitoring.performance import Performance
from mlct.monitoring.trigger import (
    SIGNALS,
    Asked,
    RetrainPolicy,
    WindowResult,
    decide_trigger,
    drift_results,
    label_flips,
    performance_result,
    refusal,
)

START = datetime(2013, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
MEASURED = ("realised", "concept", "estimated", "scores", "drift")


def window(day, signal="drift", breached=True, **words):
    return WindowResult(
        key=f"{signal}{day}",
        ended_at=START + day * DAY,
        breached=breached,
        reason=f"{signal} of day {day}",
        signal=signal,
        **words,
    )


def policy(**words):
    return RetrainPolicy(**{"cooldown": "0d", "budget": "99/1d", "on": MEASURED} | words)


def decide(rule, *windows, retrained=(), **words):
    return decide_trigger(rule, windows, trained_until=START, retrained_at=list(retrained), **words)


def test_by_default_a_realised_breach_retrains_and_all_other_signals_warn():
    rule = RetrainPolicy()
    assert decide(rule, window(1, "realised")).cause == "realised:realised1"
    for signal in MEASURED[1:]:
        found = decide(rule, window(1, signal))
        assert not found.retrain
        assert found.reason.startswith(f"{signal} only warns (it is not in RetrainPolicy.on)")


@pytest.mark.parametrize("signal", MEASURED)
def test_a_signal_that_is_configured_asks(signal):
    found = decide(policy(on=[signal]), window(1, signal))
    assert (found.retrain, found.signal) == (True, signal)


def test_the_surest_signal_is_the_cause():
    for n in range(len(MEASURED)):
        rest = [window(1, s) for s in reversed(MEASURED[n:])]
        assert decide(policy(), *rest).signal == MEASURED[n]


def test_windows_of_each_signal_are_counted_apart():
    rule = policy(breaches=2, of=2)
    assert not decide(rule, window(1, "scores"), window(2, "drift")).retrain
    found = decide(rule, window(1, "scores"), window(1, "drift"), window(2, "scores"))
    assert (found.signal, found.windows) == ("scores", ("scores1", "scores2"))


def test_a_window_that_was_measured_anew_counts_once():
    rule = policy(breaches=2, of=2)
    again = window(2, breached=False)
    assert not decide(rule, window(1), window(2), again).retrain
    assert decide(rule, window(1), again, window(2)).retrain


def test_data_that_nobody_has_learned_from_asks_once():
    rule = policy(on=["data"])
    quiet = window(3, breached=False)
    assert decide(rule, quiet).cause == "data:drift3"
    assert not decide(rule, quiet, retrained=[START + 3 * DAY]).retrain
    assert decide(rule, quiet, retrained=[START + 2 * DAY]).retrain


@pytest.mark.parametrize(
    ("code", "asks"), [(("a", "b"), True), (("a", "a"), False), (("", "b"), False), (None, False)]
)
def test_other_code_asks(code, asks):
    found = decide(policy(on=["code"]), window(1, breached=False), code=code)
    assert (found.retrain, found.cause) == (asks, "code:b" if asks else "")


def test_the_cause_is_plain_json_that_names_signal_columns_and_windows():
    found = decide(policy(breaches=2, of=2), window(1), window(2, columns=("temp", "wind")))
    said = json.loads(json.dumps(found.to_dict()))
    assert said["format"] == "mlct.trigger/v1"
    assert (said["signal"], said["columns"]) == ("drift", ["temp", "wind"])
    assert (said["windows"], said["attempt"]) == (["drift1", "drift2"], 1)


def test_the_tags_of_a_wide_model_stay_small():
    wide = window(1, columns=tuple(f"column_{n:050}" for n in range(2_000)))
    assert len(json.dumps(decide(policy(), wide).to_dict())) < 5_000


def test_a_failed_run_is_asked_for_again_under_another_key_and_not_for_ever():
    states, seen = [], []
    for _ in range(3):
        found = decide(policy(), window(1), asked=states)
        assert found.retrain
        seen.append((found.cause, found.request, found.attempt))
        states.append(Asked(cause=found.cause, state="failed"))
    cause = "drift:drift1"
    assert seen == [(cause, cause, 1), (cause, f"{cause}#2", 2), (cause, f"{cause}#3", 3)]
    found = decide(policy(), window(1), asked=states)
    assert not found.retrain
    assert "failed 3 times" in found.incident
    assert found.problem == "failed"


@pytest.mark.parametrize(("state", "says"), [("open", "under way"), ("done", "already")])
def test_what_is_under_way_or_done_is_not_asked_for(state, says):
    found = decide(policy(), window(1), asked=[Asked(cause="drift:drift1", state=state)])
    assert not found.retrain
    assert says in found.reason


def test_another_cause_is_asked_for_when_the_first_was_done():
    asked = [Asked(cause="realised:realised1", state="done")]
    found = decide(policy(), window(1, "realised"), window(2, "drift"), asked=asked)
    assert (found.retrain, found.signal) == (True, "drift")


@pytest.mark.parametrize(
    ("refused", "days"), [(0, 1), (1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 32), (50, 32)]
)
def test_retrains_that_never_pass_wait_twice_as_long_each_time(refused, days):
    """Windows a day apart: the wait is counted in them where the cool-down is shorter."""
    last = START + 100 * DAY

    def after(n):
        windows = [window(day) for day in range(90, 101 + n)]
        return decide(policy(), *windows, retrained=[last], refused=refused)

    assert after(days).retrain
    if days > 1:
        early = after(days - 1)
        assert not early.retrain
        assert early.reason.startswith(f"back-off until {last + days * DAY:%Y-%m-%d %H:%M} UTC")
    assert after(days).problem == ("gate" if refused >= 3 else "")
    assert bool(after(days).incident) is (refused >= 3)


def test_changed_code_does_not_wait_for_the_back_off():
    rule = policy(on=["code"])
    windows = [window(day, breached=False) for day in range(9)]
    found = decide(rule, *windows, retrained=[START + 7 * DAY], refused=4, code=("a", "b"))
    assert found.retrain


def test_nobody_learns_from_a_window_that_is_refused_until_it_is_mended():
    bad = window(1, "drift", refused="its contract failed")
    found = decide(policy(), bad, window(2, "realised"))
    assert (found.retrain, found.cause) == (False, "realised:realised2")
    assert "its contract failed" in found.reason
    assert "its contract failed" in found.incident
    mended = window(1, "drift", breached=False)
    assert decide(policy(), bad, mended, window(2, "realised")).retrain


def test_a_refused_window_before_the_training_data_ended_does_not_matter():
    old = WindowResult(key="k", ended_at=START, breached=False, reason="", refused="broken")
    assert decide(policy(), old, window(2)).retrain


def test_what_a_retrain_would_learn_from_may_be_told_apart_from_what_asks():
    """Windows of another version are refused too; one that is not learned from holds nothing."""
    asks, bad = window(2, "realised"), window(1, "drift", refused="its contract failed")
    held = decide(policy(), asks, learning=[bad])
    assert (held.retrain, held.problem) == (False, "refused")
    assert decide(policy(), bad, asks, learning=[]).retrain


@given(
    st.lists(
        st.tuples(st.sampled_from(MEASURED), st.integers(1, 6), st.booleans(), st.booleans()),
        max_size=25,
    ),
    st.integers(0, 6),
    st.lists(st.sampled_from(["open", "failed", "done"]), max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_a_request_always_has_a_cause_and_a_refusal_a_reason(told, refused, states):
    windows = [window(d, s, b, refused="bad" if r else "") for s, d, b, r in told]
    windows.sort(key=lambda w: w.ended_at)
    first = decide(policy(), *windows, refused=refused)
    asked = [Asked(cause=first.cause, state=s) for s in states]
    found = decide(policy(), *windows, refused=refused, asked=asked)
    assert found.reason
    assert not found.retrain or (found.cause and found.windows)
    assert not found.retrain or not any(w.refused for w in _newest(windows))
    tried = [a.state for a in asked if a.cause == found.cause]
    assert not found.retrain or (set(tried) <= {"failed"} and found.attempt == len(tried) + 1 <= 3)


def _newest(windows):
    return {(w.signal, w.ended_at): w for w in windows}.values()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"on": "drift"}, "RetrainPolicy.on is 'drift'.*realised, concept"),
        ({"on": ["psi"]}, "RetrainPolicy.on"),
        ({"on": ["drift", "drift"]}, "distinct"),
        ({"on": None}, "RetrainPolicy.on is None"),
        ({"on": ["drift"], "max_age": "9d"}, "max_age is '9d'.*'age' in on"),
    ],
    ids=str,
)
def test_a_wrong_list_of_signals_is_named(wrong, says):
    with pytest.raises(SpecError, match=says):
        RetrainPolicy(**wrong)


def test_a_list_of_signals_is_kept_as_a_tuple():
    assert RetrainPolicy(on=list(SIGNALS)).on == SIGNALS
    hash(RetrainPolicy(on=["drift"]))


def table(n, *, seed=0, shift=0.0, columns=("a", "b")):
    random = np.random.default_rng(seed)
    return {name: random.normal(size=n) + shift * (name == "a") for name in columns}


def report(before, after, **words):
    import pyarrow as pa

    return drift(pa.table(before), pa.table(after), **words)


def test_drift_breaches_only_when_what_moved_matters():
    before, after = table(4_000), table(4_000, seed=1, shift=1.0)
    for weight, breached in ((0.05, False), (0.5, True)):
        found = report(before, after, importance={"a": weight, "b": 1 - weight})
        (result,) = drift_results(found, ended_at=START)
        assert (result.signal, result.breached, result.columns) == ("drift", breached, ("a",))


def test_scores_are_a_signal_of_their_own():
    found = report(table(4_000), table(4_000, seed=1, shift=1.0), predictions=["a"])
    features, scores = drift_results(found, ended_at=START)
    assert (features.breached, scores.signal, scores.breached) == (False, "scores", True)


def test_a_column_that_is_gone_does_not_ask_for_a_retrain_but_refuses_one():
    after = table(4_000, seed=1)
    del after["a"]
    found = report(table(4_000), after)
    assert not drift_results(found, ended_at=START)[0].breached
    assert refusal(drift=found).startswith("out of plan: a is missing")
    assert refusal(drift=found, planned=["a"]) == ""


def test_a_column_that_goes_half_missing_is_out_of_plan_and_one_that_moves_is_not():
    after = table(4_000, seed=1, shift=1.0)
    assert refusal(drift=report(table(4_000), after)) == ""
    after["b"][::2] = np.nan
    assert "out of plan: b moved" in refusal(drift=report(table(4_000), after))


def test_a_failed_contract_refuses():
    report_ = ContractReport(passed=False, contract="c", expectations=3, violations=())
    assert refusal(contract=report_) == "its contract failed"


@pytest.mark.parametrize(
    ("name", "value", "bounds", "limit", "breached"),
    [
        ("roc_auc", 0.70, (0.65, 0.75), 0.72, False),
        ("roc_auc", 0.70, (0.65, 0.75), 0.76, True),
        ("mae", 10.0, (9.0, 11.0), 9.5, False),
        ("mae", 10.0, (9.0, 11.0), 8.5, True),
        ("mae", 10.0, (None, None), 9.5, True),
        ("mae", None, (None, None), 9.5, False),
    ],
)
def test_a_metric_breaches_only_where_its_bound_does(name, value, bounds, limit, breached):
    found = Performance(
        kind="unknown" if value is None else "realised",
        metric=name,
        reason="",
        value=value,
        lower=bounds[0],
        upper=bounds[1],
    )
    told = performance_result(found, metric=metric(name), limit=limit, ended_at=START)
    assert told.breached is breached


def labelled(n, *, seed, flip=0.0, days=None, sway=0.0):
    """Calibrated scores with labels, some flipped; `sway` lets the rate differ by day."""
    random = np.random.default_rng(seed)
    score = random.beta(0.4, 0.8, n)
    day = np.arange(n) * (days or 1) // n
    odds = np.log(score / (1 - score)) + sway * random.normal(size=(days or 1))[day]
    label = (random.random(n) < 1 / (1 + np.exp(-odds))).astype(int)
    swap = random.random(n) < flip
    return np.where(swap, 1 - label, label), score, day


@pytest.mark.parametrize(("flip", "suspicious"), [(0.0, False), (0.2, True), (0.5, True)])
def test_flipped_labels_are_told_by_the_confident_scores(flip, suspicious):
    y0, s0, _ = labelled(5_000, seed=1)
    y, s, _ = labelled(2_000, seed=2, flip=flip)
    found = label_flips(y, s, reference_labels=y0, reference_scores=s0)
    assert found.suspicious is suspicious
    assert ("poisoned" in refusal(flips=found)) is suspicious


def test_of_few_confident_rows_nothing_is_said():
    found = label_flips([0, 1] * 50, [0.5] * 100, reference_labels=[0], reference_scores=[0.1])
    assert (found.p_value, found.suspicious) == (None, False)
    assert "0 confident rows" in found.reason


@pytest.mark.parametrize("sway", [0.0, 0.5])
def test_honest_labels_are_rarely_suspected_also_when_days_differ(sway):
    """At alpha 0.05 without a margin: at most 5 % of 300 windows, by its upper 99.9 % limit."""
    hits = 0
    for seed in range(300):
        y0, s0, d0 = labelled(3_000, seed=2 * seed, days=60, sway=sway)
        y, s, d = labelled(1_000, seed=2 * seed + 1, days=20, sway=sway)
        clusters = {"clusters": d, "reference_clusters": d0} if sway else {}
        hits += label_flips(
            y, s, reference_labels=y0, reference_scores=s0, margin=0, alpha=0.05, **clusters
        ).suspicious
    assert hits <= 29


@pytest.mark.parametrize(
    ("labels", "scores", "words"),
    [
        ([0, 2], [0.1, 0.2], {}),
        ([0, 1], [0.1], {}),
        ([0, 1], [0.1, 1.5], {}),
        ([0, 1], [0.1, 0.2], {"clusters": [1]}),
    ],
)
def test_input_that_cannot_be_read_is_named(labels, scores, words):
    with pytest.raises(DataError):
        label_flips(labels, scores, reference_labels=[0], reference_scores=[0.1], **words)


def test_settings_out_of_range_are_named():
    with pytest.raises(SpecError, match=r"confident 0\.4"):
        label_flips([0], [0.1], reference_labels=[0], reference_scores=[0.1], confident=0.4)
