"""A replay says what policies would have done, by the code of the loop, the same every time."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from mlct.data.window import Columns, Windows
from mlct.errors import DataError, SpecError
from mlct.evaluation.gate import GatePolicy, Limit, Superiority
from mlct.monitoring.replay import replay
from mlct.monitoring.trigger import RetrainPolicy

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS, A_DAY, TURN = 147, 40, 63
COLUMNS = Columns(id="id", time="at", label="late", label_time="known")
WINDOWS = Windows(train="20d", holdout="21d", label_delay="1d")
GATE = GatePolicy(primary=Superiority("roc_auc", min_effect=0.01, confidence=0.8))
FREE = {"cooldown": "0d", "budget": "99/1d"}


def world(*, turn=TURN, shift=0.0, seed=0):
    """Late when x is high, until day `turn`; then when it is low, and it moves by `shift`."""
    random = np.random.default_rng(seed)
    rows = DAYS * A_DAY
    day = np.arange(rows) / A_DAY
    x, z = random.normal(size=rows) + shift * (day >= turn), random.normal(size=rows)
    sign = np.where(day < turn, 1, -1)
    chance = 1 / (1 + np.exp(-2 * sign * x))
    at = [START + timedelta(days=float(d)) for d in day]
    when = pa.timestamp("us", tz="UTC")
    return pa.table(
        {
            "id": range(rows),
            "at": pa.array(at, when),
            "known": pa.array([t + timedelta(hours=20) for t in at], when),
            "late": (random.random(rows) < chance).astype("int8"),
            "x": x,
            "z": z,
        }
    )


def estimator():
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression()


def play(rows, policies=None, **words):
    usual = {
        "columns": COLUMNS,
        "windows": WINDOWS,
        "estimator": estimator,
        "gate": GATE,
        "policies": policies or {},
        "step": "7d",
        "limit": 0.7,
    }
    return replay(rows, **usual | words)


@pytest.fixture(scope="module")
def turned():
    """One world that turns round, under policies that see it and policies that cannot."""
    return play(
        world(),
        {
            "realised": RetrainPolicy(on=["realised"], **FREE),
            "concept": RetrainPolicy(on=["concept"], **FREE),
            "drift": RetrainPolicy(on=["drift"], **FREE),
            "scores": RetrainPolicy(on=["scores"], **FREE),
            "estimated": RetrainPolicy(on=["estimated"], **FREE),
            "data": RetrainPolicy(on=["data"], **FREE),
            "cool": RetrainPolicy(on=["data"], cooldown="14d", budget="99/1d"),
        },
    )


def test_every_track_has_a_value_for_every_window(turned):
    assert set(turned.tracks) == {
        "static", "scheduled", "oracle", "realised", "concept", "drift", "scores", "estimated",
        "data", "cool",
    }  # fmt: skip
    assert {len(t.values) for t in turned.tracks.values()} == {len(turned.at) - 1}


def test_before_the_world_turns_all_tracks_are_alike(turned):
    turn = START + TURN * timedelta(days=1)
    before = [i for i, end in enumerate(turned.at[1:]) if end <= turn]
    assert before
    for i in before:
        assert all(t.values[i] > 0.8 for t in turned.tracks.values())


def test_the_static_model_stays_wrong_and_the_realised_signal_mends_it(turned):
    static, realised = turned.tracks["static"], turned.tracks["realised"]
    assert static.values[-1] < 0.2
    assert realised.values[-1] > 0.8
    assert realised.promotions >= 1
    first = realised.steps[0]
    assert first.at > START + TURN * timedelta(days=1)
    assert first.cause["signal"] == "realised"
    assert first.cause["columns"] == ["roc_auc"]
    assert "(at least 0.7 is wanted)" in first.cause["reason"]


def test_what_only_labels_show_is_missed_by_signals_without_labels(turned):
    for name in ("drift", "scores", "estimated"):
        track = turned.tracks[name]
        assert track.retrains == 0
        assert track.missed >= 1
    assert turned.tracks["concept"].retrains >= 1


def test_a_trigger_never_asks_before_the_labels_are_there(turned):
    """A window's labels count a day after its end: with steps of a week, one step later."""
    step, turn = timedelta(days=7), START + TURN * timedelta(days=1)
    wrong = next(e for e in turned.at[1:] if e > turn)
    assert turned.tracks["realised"].steps[0].at >= wrong + timedelta(days=1)
    assert turned.tracks["realised"].steps[0].at <= wrong + 2 * step


def test_a_request_for_all_new_data_is_the_schedule_until_the_gate_refuses_it_twice(turned):
    data, scheduled = turned.tracks["data"], turned.tracks["scheduled"]
    assert scheduled.retrains == len(turned.at) - 2
    assert turned.share("scheduled") == 1
    assert [s.at for s in data.steps[:2]] == [s.at for s in scheduled.steps[:2]]
    assert data.retrains < scheduled.retrains


def test_a_cool_down_counts_in_simulated_time(turned):
    times = [s.at for s in turned.tracks["cool"].steps]
    assert len(times) >= 2
    assert min(b - a for a, b in pairwise(times)) >= timedelta(days=14)


def test_the_oracle_is_at_least_as_good_as_every_policy_and_never_wrong(turned):
    oracle = turned.tracks["oracle"]
    assert (oracle.false, oracle.missed) == (0, 0)
    assert all(s.better > turned.worth for s in oracle.steps)
    assert all(turned.gain("oracle") >= turned.gain(n) - 1e-9 for n in turned.tracks)


def test_a_retrain_that_brought_nothing_is_false_and_costs(turned):
    scheduled = turned.tracks["scheduled"]
    assert scheduled.false == sum(s.better <= 0 for s in scheduled.steps)
    assert scheduled.false >= 1
    assert scheduled.rows > turned.tracks["realised"].rows > turned.tracks["static"].rows


def test_a_stable_world_is_left_alone():
    found = play(world(turn=999), {"any": RetrainPolicy(
        on=["realised", "concept", "estimated", "scores", "drift"], max_psi=0.1, **FREE
    )})  # fmt: skip
    assert found.tracks["any"].retrains == 0
    assert found.tracks["any"].missed == found.tracks["static"].missed


def test_rows_that_move_are_seen_without_labels():
    found = play(
        world(turn=TURN, shift=1.5),
        {name: RetrainPolicy(on=[name], **FREE) for name in ("drift", "scores")},
    )
    for name in ("drift", "scores"):
        first = found.tracks[name].steps[0]
        assert START + TURN * timedelta(days=1) <= first.at
        assert first.at <= START + (TURN + 14) * timedelta(days=1)
    assert found.tracks["drift"].steps[0].cause["columns"] == ["x"]


def test_the_same_rows_and_policies_give_the_same_replay_whatever_their_order():
    rule = {"r": RetrainPolicy(on=["realised"], **FREE)}
    rows = world()
    mixed = rows.take(np.random.default_rng(5).permutation(rows.num_rows))
    first, second = play(rows, rule), play(mixed, rule)
    assert first.digest == second.digest
    assert first.tracks == second.tracks
    assert play(world(seed=1), rule).digest != first.digest


def test_nothing_of_the_future_reaches_a_decision():
    """What happens after an instant changes no step before it."""
    rule = {"r": RetrainPolicy(on=["realised", "concept", "drift", "scores"], **FREE)}
    rows = world()
    cut = START + 105 * timedelta(days=1)
    before = rows.filter(pa.array([t < cut for t in rows["at"].to_pylist()]))
    changed = pa.concat_tables([before, world(turn=0, shift=5, seed=3).slice(before.num_rows)])
    for name in ("r", "scheduled"):
        told = [
            [(s.at, s.cause, s.verdict) for s in play(r, rule).tracks[name].steps if s.at < cut]
            for r in (rows, changed)
        ]
        assert told[0] == told[1] != []


def test_a_product_objective_judges_the_realised_signal():
    from mlct.monitoring.slo import load
    from tests.conftest import PRODUCT_SLO

    rule = {"slo": RetrainPolicy(on=["realised"], **FREE)}
    found = play(world(), rule, limit=None, objectives=load([PRODUCT_SLO]))
    (first, *_) = found.tracks["slo"].steps
    assert first.at > START + TURN * timedelta(days=1)
    assert "late-auc" in first.cause["reason"]


def test_slices_shorter_than_a_step_are_judged_one_by_one():
    """A promise by the day, looked at each fortnight."""
    from mlct.monitoring.slo import load
    from tests.conftest import PRODUCT_SLO

    daily = json.loads(json.dumps(PRODUCT_SLO))
    daily["spec"]["budgetingMethod"] = "Timeslices"
    daily["spec"]["objectives"][0] |= {"timeSliceTarget": 1, "timeSliceWindow": "1d"}
    rule = {"slo": RetrainPolicy(on=["realised"], **FREE)}
    found = play(world(), rule, limit=None, objectives=load([daily]), step="14d")
    assert found.tracks["slo"].retrains >= 1
    assert found.tracks["slo"].values[-1] > 0.8


def test_without_a_promise_the_holdout_s_bound_is_the_limit():
    found = play(world(), {"r": RetrainPolicy(on=["realised"], **FREE)}, limit=None)
    assert "the holdout showed at least" in found.tracks["r"].steps[0].cause["reason"]


def test_the_error_of_a_regression_is_estimated_too():
    """Rows move to where the model was never good."""
    from lightgbm import LGBMRegressor

    rows = world()
    x = rows["x"].to_numpy() + 1.5 * (np.arange(rows.num_rows) / A_DAY >= TURN)
    y = np.random.default_rng(1).normal(scale=0.2 + (x > 0.7) * 3.0)
    rows = rows.set_column(3, "late", pa.array(y)).set_column(4, "x", pa.array(x))
    found = play(
        rows,
        {"e": RetrainPolicy(on=["estimated"], **FREE)},
        gate=GatePolicy(primary=Superiority("mae", min_effect=0.0, confidence=0.6)),
        estimator=lambda: LGBMRegressor(n_estimators=10, verbose=-1, random_state=0, n_jobs=1),
        limit=None,
        step="14d",
    )
    first = found.tracks["e"].steps[0]
    assert first.at > START + TURN * timedelta(days=1)
    assert first.cause["signal"] == "estimated"


def test_scores_that_differ_from_week_to_week_raise_no_alarm():
    """Each day has a level of its own: what training rows show of it is known."""
    rows = world(turn=999)
    day = (np.arange(rows.num_rows) / A_DAY).astype(int)
    level = np.random.default_rng(2).normal(scale=0.6, size=DAYS)[day]
    rows = rows.set_column(4, "x", pa.array(rows["x"].to_numpy() + level))
    words = {"windows": replace(WINDOWS, train="60d"), "step": "2d", "limit": 0.0}
    rule = {"s": RetrainPolicy(on=["scores", "drift"], max_psi=0.05, **FREE)}
    start = START + timedelta(days=85)
    assert play(rows, rule, start=start, **words).tracks["s"].retrains <= 1


def test_rules_on_measured_values_are_left_out():
    gate = GatePolicy(
        primary=Superiority("roc_auc", min_effect=0.01, confidence=0.8),
        guardrails=[Limit("latency_p99_ms", max=5)],
    )
    assert play(world(), gate=gate).tracks["scheduled"].verdicts["PASS"] >= 1


def test_a_hole_in_history_is_an_error_of_a_step_and_not_the_end():
    rows = world()
    days = np.arange(rows.num_rows) // A_DAY
    holed = rows.filter(pa.array((days < 70) | (days >= 105)))
    found = play(holed)
    assert None in found.tracks["static"].values
    assert found.tracks["scheduled"].verdicts["ERROR"] >= 1
    assert found.tracks["scheduled"].values[-1] is not None


def test_a_retrain_that_the_gate_refuses_again_and_again_backs_off():
    """Noise that no model learns: every request is refused, and requests get rarer."""
    rows = world(turn=999)
    noise = np.random.default_rng(0).integers(0, 2, rows.num_rows).astype("int8")
    rows = rows.set_column(rows.column_names.index("late"), "late", pa.array(noise))
    found = play(rows, {"r": RetrainPolicy(on=["realised"], **FREE)}, step="3d")
    track = found.tracks["r"]
    assert track.promotions == 0
    gaps = [b - a for a, b in pairwise(s.at for s in track.steps)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= 4 * gaps[0]
    assert any("did not pass the gate" in i for i in track.incidents)


def test_the_table_and_the_picture_name_every_track(turned):
    lines = turned.table().splitlines()
    assert [line.split("  ")[0].strip() for line in lines[1:]] == list(turned.tracks)
    assert turned.plot().startswith(b"\x89PNG")
    assert turned.plot() == turned.plot()


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        ({"policies": {"static": RetrainPolicy()}}, SpecError, "names other than static"),
        ({"policies": {"r": "weekly"}}, SpecError, "RetrainPolicy by names"),
        ({"step": "0d"}, DataError, "step of a replay is zero"),
        ({"step": "90d"}, DataError, "whole steps"),
        ({"start": START}, DataError, "no first model can be trained"),
        ({"columns": Columns(id="id", time="at", label="gone")}, DataError, "no column 'gone'"),
    ],
    ids=str,
)
def test_what_cannot_be_played_is_named(words, error, says):
    with pytest.raises(error, match=says):
        play(world(), **words)


def test_a_history_without_rows_is_named():
    with pytest.raises(DataError, match="no rows"):
        play(world().slice(0, 0))
