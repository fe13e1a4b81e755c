"""Predictions joined with labels, windows that wait for them, and the record of a result."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlct.errors import DataError, SpecError
from mlct.evaluation.compare import measure_on
from mlct.evaluation.holdout import holdout
from mlct.evaluation.metric import metric
from mlct.monitoring.performance import (
    RESIDUAL_BIAS,
    LogColumns,
    Performance,
    behaviour,
    calibrate,
    estimated,
    join_labels,
    label_state,
    realised,
)
from mlct.monitoring.performance.join import COUNTS

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WHEN = pa.timestamp("us", tz="UTC")


def day(number: float) -> datetime:
    return START + number * DAY


def predictions(times, scores, ids=None, **columns):
    ids = [f"p{i}" for i in range(len(times))] if ids is None else ids
    return pa.table(
        {
            "prediction_id": ids if isinstance(ids, pa.Array) else pa.array(ids, pa.string()),
            "predicted_at": pa.array(times, WHEN),
            "score": pa.array(scores, pa.float64()),
            **columns,
        }
    )


def labels(ids, values, times):
    return pa.table(
        {
            "prediction_id": pa.array(ids, pa.string()),
            "label": pa.array(values, pa.float64()),
            "label_time": pa.array(times, WHEN),
        }
    )


def log(days=30, a_day=100, *, seed=0, arrives=None, share=1.0):
    """A log of `days` whose labels come `arrives(y, random)` days later, a share of them."""
    random = np.random.default_rng(seed)
    n = days * a_day
    times = [START + DAY * float(x) for x in (np.arange(n) + 0.5) / a_day]
    score = random.beta(1, 3, n)
    y = (random.random(n) < score) * 1.0
    delay = np.full(n, 1.0) if arrives is None else arrives(y, random)
    kept = np.flatnonzero(random.random(n) < share)
    told = labels(
        [f"p{i}" for i in kept],
        y[kept],
        [times[i] + DAY * float(delay[i]) for i in kept],
    )
    return predictions(times, score), told


MONTH = (day(0), day(30))


# The join


def test_each_prediction_gets_its_own_label():
    times = [day(0.1), day(0.2), day(0.3)]
    joined = join_labels(
        predictions(times, [0.1, 0.2, 0.3]),
        labels(["p2", "p0"], [1, 0], [day(1), day(1)]),
        as_of=day(2),
    )
    assert joined.label.tolist()[::2] == [0.0, 1.0]
    assert np.isnan(joined.label[1])
    assert joined.counts["labelled"] == 2


@pytest.mark.parametrize(
    ("told", "label", "counted"),
    [
        ([("p0", 1, 1)], 1.0, {}),
        ([("p0", 1, 1), ("p0", 1, 2)], 1.0, {"repeated_labels": 1}),
        ([("p0", 0, 1), ("p0", 1, 2)], 1.0, {"corrected_labels": 1}),
        ([("p0", 0, 1), ("p0", 1, 1)], None, {"conflicting_labels": 1}),
        ([("p0", None, 1)], None, {"empty_labels": 1}),
        ([("p0", float("nan"), 1)], None, {"empty_labels": 1}),
        ([("p0", float("inf"), 1)], None, {"empty_labels": 1}),
        ([(None, 1, 1)], None, {"empty_labels": 1}),
        ([("p0", 1, None)], None, {"empty_labels": 1}),
        ([("p0", 1, 9)], None, {"later_labels": 1}),
        ([("p0", 0, 1), ("p0", 1, 9)], 0.0, {"later_labels": 1}),
        ([("other", 1, 1)], None, {"unknown_labels": 1}),
        ([("p0", 1, 0)], None, {"early_labels": 1}),
        ([("p0", 1, 0.099)], 1.0, {}),
    ],
)
def test_labels_that_cannot_count_are_counted(told, label, counted):
    ids, values, times = zip(*told, strict=True)
    joined = join_labels(
        predictions([day(0.1)], [0.5]),
        labels(ids, values, [None if t is None else day(t) for t in times]),
        as_of=day(5),
    )
    assert [None if np.isnan(x) else x for x in joined.label] == [label]
    off = {name: n for name, n in joined.counts.items() if n and name.endswith("labels")}
    assert off == {"labels": len(told), **counted}


def test_a_correction_is_dated_by_when_its_value_was_first_told():
    told = labels(["p0"] * 3, [0, 1, 1], [day(1), day(2), day(3)])
    joined = join_labels(predictions([day(0)], [0.5]), told, as_of=day(5))
    assert joined.labelled_at[0] - joined.time[0] == 2 * 86_400_000_000


@pytest.mark.parametrize(
    ("ids", "scores", "times", "kept", "counted"),
    [
        (["a", "a"], [0.5, 0.5], [0, 0], 1, {"repeated": 1}),
        (["a", "a"], [0.5, 0.6], [0, 0], 0, {"conflicting": 2}),
        (["a", "a", "a"], [0.5, 0.5, 0.6], [0, 0, 0], 0, {"conflicting": 3}),
        (["a", "a"], [0.5, 0.5], [0, 1], 0, {"conflicting": 2}),
        (["a", "a"], [float("nan")] * 2, [0, 0], 1, {"repeated": 1, "unscored": 1}),
        ([None, "b"], [0.5, 0.5], [0, 0], 1, {"without_id": 1}),
        (["a", "b"], [0.5, 0.5], [0, None], 1, {"without_id": 1}),
        (["a", "b"], [0.5, 0.5], [0, 9], 1, {"future": 1}),
        (["a", "b"], [0.5, float("inf")], [0, 0], 2, {"unscored": 1}),
        (["a", "b"], [0.5, None], [0, 0], 2, {"unscored": 1}),
    ],
)
def test_predictions_that_cannot_count_are_counted(ids, scores, times, kept, counted):
    table = predictions([None if t is None else day(t) for t in times], scores, ids)
    joined = join_labels(table, labels([], [], []), as_of=day(5))
    assert len(joined.time) == kept
    names = ("without_id", "repeated", "conflicting", "future", "unscored")
    assert {n: joined.counts[n] for n in names if joined.counts[n]} == counted


@settings(max_examples=60, deadline=None)
@given(
    made=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), max_size=12),
    told=st.lists(
        st.tuples(st.integers(0, 8), st.sampled_from([0, 1, None]), st.integers(-1, 6)), max_size=20
    ),
    seed=st.integers(0, 3),
)
def test_every_row_is_kept_or_counted_once_whatever_the_order(made, told, seed):
    def run(order):
        random = np.random.default_rng(order)
        p, t = (random.permutation(len(x)) if order else range(len(x)) for x in (made, told))
        return join_labels(
            predictions(
                [day(0)] * len(made), [made[i][1] / 2 for i in p], [f"{made[i][0]}" for i in p]
            ),
            labels(
                [f"{told[i][0]}" for i in t], [told[i][1] for i in t], [day(told[i][2]) for i in t]
            ),
            as_of=day(4),
        )

    joined, other = run(0), run(seed)
    c = joined.counts
    assert set(c) == set(COUNTS)
    assert c["predictions"] == len(joined.time) + sum(
        c[n] for n in ("without_id", "repeated", "conflicting", "future")
    )
    left = ("empty_labels", "later_labels", "unknown_labels", "early_labels")
    assert c["labels"] - sum(c[n] for n in left) >= c["labelled"] + c["conflicting_labels"]
    assert c == other.counts
    np.testing.assert_array_equal(joined.label, other.label)


def test_ids_compare_by_content_whatever_their_encoding():
    told = labels(["p0"], [1], [day(1)])
    told = told.set_column(0, "prediction_id", told["prediction_id"].dictionary_encode())
    assert join_labels(predictions([day(0)], [0.5]), told, as_of=day(2)).label.tolist() == [1.0]
    numbers = predictions([day(0)], [0.5], pa.array([7], pa.int32()))
    told = told.set_column(0, "prediction_id", pa.array([7], pa.int64()))
    assert join_labels(numbers, told, as_of=day(2)).label.tolist() == [1.0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p, t: (p.drop_columns("score"), t), "no column score"),
        (lambda p, t: (p, t.drop_columns("label_time")), "no column label_time"),
        (lambda p, t: (p.set_column(2, "score", pa.array(["a"])), t), "type string"),
        (lambda p, t: (p.set_column(1, "predicted_at", pa.array([1])), t), "type int64"),
        (lambda p, t: (p, t.set_column(1, "label", pa.array(["yes"]))), "type string"),
        (lambda p, t: (p.set_column(0, "prediction_id", pa.array([1])), t), "ids are int64"),
        (lambda p, t: (p.to_pandas(), t), "a DataFrame"),
    ],
)
def test_a_wrong_schema_says_what_was_found(change, says):
    tables = change(predictions([day(0)], [0.5]), labels(["p0"], [1], [day(1)]))
    with pytest.raises(DataError, match=says):
        join_labels(*tables, as_of=day(2))


def test_scores_of_classes_are_columns_or_a_list():
    table = predictions([day(0), day(1)], [0.5, 0.5]).drop_columns("score")
    both = {"a": pa.array([0.2, 0.3]), "b": pa.array([0.8, 0.7])}
    wide = table.append_column("a", both["a"]).append_column("b", both["b"])
    lists = table.append_column("score", pa.array([[0.2, 0.8], [0.3, 0.7]]))
    none = labels([], [], [])
    x = join_labels(wide, none, as_of=day(2), columns=LogColumns(score=("a", "b")))
    y = join_labels(lists, none, as_of=day(2))
    np.testing.assert_array_equal(x.score, y.score)
    ragged = table.append_column("score", pa.array([[0.2, 0.8], [0.3]]))
    assert join_labels(ragged, none, as_of=day(2)).counts["unscored"] == 1


# Windows


def test_a_window_is_unknown_until_its_labels_have_matured():
    made, told = log(30)
    (found,) = realised(
        join_labels(made, told, as_of=day(30.2)), [MONTH], metric="roc_auc", label_delay="2d"
    )
    assert (found.kind, found.value, found.until) == ("realised", found.value, None)  # 97 % are in
    early = join_labels(made, told, as_of=day(20))
    (found,) = realised(early, [MONTH], metric="roc_auc", label_delay="2d")
    assert (found.kind, found.value, found.until) == ("unknown", None, day(32))
    assert found.reason == "the window has not ended at 2024-01-21 00:00 UTC"
    early = join_labels(made, told, as_of=day(30.1))
    (found,) = realised(early, [MONTH], metric="roc_auc", label_delay="2d", complete=0.99)
    assert (found.kind, found.until) == ("unknown", day(32))
    assert "97.0% of 3000 rows are labelled, 99% are wanted before 2024-02-02" in found.reason


def test_a_realised_value_is_that_of_the_evaluation():
    made, told = log(30)
    joined = join_labels(made, told, as_of=day(40))
    (found,) = realised(joined, [MONTH], metric="log_loss", label_delay="2d")
    days = (joined.time // 86_400_000_000).astype(int)
    known = measure_on(
        holdout(joined.label, clusters=days),
        joined.score,
        metric=metric("log_loss"),
        confidence=0.95,
        seed=0,
    )
    assert (found.value, found.lower, found.upper) == (known.value, known.lower, known.upper)
    assert (found.rows, found.labelled, found.clusters) == (3000, 3000, 30)


def test_windows_are_half_open_and_miss_no_row():
    joined = join_labels(*log(30), as_of=day(40))
    parts = [joined.window(day(d), day(d + 1)) for d in range(30)]
    assert sum(p.stop - p.start for p in parts) == len(joined.time)
    exact = predictions([day(1)], [0.5])
    joined = join_labels(exact, labels([], [], []), as_of=day(5))
    assert joined.window(day(0), day(1)) == slice(0, 0)
    assert joined.window(day(1), day(2)) == slice(0, 1)


def test_late_labels_change_the_key_of_their_window_only():
    made, told = log(30)
    weeks = [(day(7 * k), day(7 * k + 7)) for k in range(4)]
    late = np.zeros(len(told), dtype=bool)
    late[700:750] = True  # of the second week
    before = join_labels(made, told.filter(pa.array(~late)), as_of=day(40))
    after = join_labels(made, told, as_of=day(50))

    def run(joined, **more):
        return realised(joined, weeks, metric="roc_auc", label_delay="2d", **more)

    first, second = run(before), run(after)
    assert [a.key == b.key for a, b in zip(first, second, strict=True)] == [True, False, True, True]
    assert first[1].value != second[1].value
    marked = {p.key: replace(p, reason="from before") for p in first}
    again = run(after, known=marked)
    assert [p.reason == "from before" for p in again] == [True, False, True, True]
    assert again[1] == second[1]


def test_a_key_is_of_the_settings_too():
    joined = join_labels(*log(30), as_of=day(40))
    keys = {
        realised(joined, [MONTH], metric=m, label_delay="2d", confidence=c, cluster=u)[0].key
        for m in ("roc_auc", "log_loss")
        for c in (0.9, 0.95)
        for u in ("1d", "2d")
    }
    assert len(keys) == 8


@pytest.mark.parametrize(
    ("rows", "share", "says"),
    [
        (0, 1.0, "no prediction with a usable score among 0"),
        (1, 1.0, "insufficient data: 1 labelled rows, 20"),
        (19, 1.0, "insufficient data: 19"),
        (200, 0.3, "are wanted"),
        (200, 0.0, "0.0% of 200"),
    ],
)
def test_a_window_without_enough_is_unknown_for_good(rows, share, says):
    made, told = log(2, 100, share=share)
    joined = join_labels(made.slice(0, rows), told, as_of=day(40))
    (found,) = realised(joined, [(day(0), day(2))], metric="roc_auc", label_delay="2d")
    assert (found.kind, found.until) == ("unknown", None)
    assert says in found.reason


def test_one_class_one_cluster_and_scores_of_nan_are_defined():
    made, told = log(2, 100)
    zeros = told.set_column(1, "label", pa.array(np.zeros(len(told))))
    joined = join_labels(made, zeros, as_of=day(9))
    (found,) = realised(joined, [(day(0), day(2))], metric="roc_auc", label_delay="2d")
    assert found.kind == "unknown"
    assert "single class" in found.reason

    joined = join_labels(made, told, as_of=day(9))
    (found,) = realised(joined, [(day(0), day(1))], metric="roc_auc", label_delay="2d")
    assert (found.kind, found.lower, found.upper) == ("realised", None, None)
    assert "one cluster" in found.reason

    empty = made.set_column(2, "score", pa.array(np.full(len(made), np.nan)))
    (found,) = realised(
        join_labels(empty, told, as_of=day(9)), [(day(0), day(2))], metric="mae", label_delay="2d"
    )
    assert found.reason == "no prediction with a usable score among 200 in the window"


def test_a_reversed_window_and_a_share_beyond_one_are_refused():
    joined = join_labels(*log(2), as_of=day(9))
    with pytest.raises(DataError, match="holds no time"):
        realised(joined, [(day(1), day(0))], metric="mae", label_delay="2d")
    with pytest.raises(SpecError, match="complete is 2"):
        realised(joined, [MONTH], metric="mae", label_delay="2d", complete=2)


def test_residual_bias_over_time_shows_a_trend():
    random = np.random.default_rng(1)
    n = 3000
    times = [day(30 * (i + 0.5) / n) for i in range(n)]
    truth = 100 + np.linspace(0, 20, n) + random.normal(size=n)
    told = labels([f"p{i}" for i in range(n)], truth, [t + DAY for t in times])
    joined = join_labels(predictions(times, np.full(n, 100.0)), told, as_of=day(40))
    thirds = [(day(10 * k), day(10 * k + 10)) for k in range(3)]
    found = realised(joined, thirds, metric=RESIDUAL_BIAS, label_delay="2d")
    assert [round(p.value) for p in found] == [-3, -10, -17]
    assert all(p.upper < 0 for p in found)


def test_an_estimate_of_a_window_needs_no_label():
    made, told = log(60)
    joined = join_labels(made, told.slice(0, 3000), as_of=day(61))
    old = joined.window(day(0), day(30))
    known = calibrate(joined.label[old], joined.score[old], clusters=joined.units("1d")[old])
    (found,) = estimated(joined, [(day(30), day(60))], known, metric="roc_auc")
    (truth,) = realised(
        join_labels(made, told, as_of=day(70)),
        [(day(30), day(60))],
        metric="roc_auc",
        label_delay="2d",
    )
    assert (found.kind, found.labelled, found.clusters) == ("estimated", 0, 30)
    assert found.lower < truth.value < found.upper
    assert "cannot see concept drift" in found.assumption


# Labels that come slowly


def test_delay_and_completeness_are_told():
    made, told = log(30, arrives=lambda y, r: r.uniform(0, 4, len(y)))
    joined = join_labels(made, told, as_of=day(31))
    last, first = label_state(
        joined, [(day(28), day(30)), (day(0), day(20))], label_delay="4d", cluster="1d"
    )
    assert first.share == 1.0
    assert first.delay[0.5] == pytest.approx(2 * 86_400, rel=0.1)
    assert last.share == pytest.approx(0.5, abs=0.1)
    assert last.usual == pytest.approx(0.5, abs=0.05)
    assert not last.late


def test_labels_that_stop_coming_are_late():
    made, told = log(40, arrives=lambda y, r: r.uniform(0, 2, len(y)))
    joined = join_labels(made, told.slice(0, 3000), as_of=day(40))
    state = label_state(joined, [(day(25), day(30)), (day(30), day(36))], label_delay="2d")
    assert [s.late for s in state] == [False, True]
    assert (
        state[1].reason == "0 of 600 rows are labelled; after as long, matured rows were at 100.0%"
    )


def test_an_empty_window_has_no_share():
    (state,) = label_state(join_labels(*log(3), as_of=day(9)), [(day(5), day(6))], label_delay="2d")
    assert (state.rows, state.share, state.delay, state.late) == (0, None, {}, False)


# Functions of the user


def acted(predictions, labels, context):
    hits = np.asarray(predictions["score"]) > context["cut"]
    return float(hits.mean())


def broken(predictions, labels, context):
    raise KeyError("no such column")


def test_one_failing_function_never_loses_the_others():
    joined = join_labels(*log(30), as_of=day(40))
    found = behaviour(
        {
            "broken": broken,
            "acted": acted,
            "text": lambda p, t, c: "many",
            "nan": lambda p, t, c: float("nan"),
            "true": lambda p, t, c: True,
        },
        joined,
        MONTH,
        context={"cut": 0.5},
    )
    assert found["acted"].value == pytest.approx(float((joined.score > 0.5).mean()))
    assert found["acted"].lower < found["acted"].value < found["acted"].upper
    assert found["broken"].reason == "it failed: KeyError: 'no such column'"
    assert "'many' (str); a number is expected" in found["text"].reason
    assert "a finite number is expected" in found["nan"].reason
    assert {n for n, p in found.items() if p.kind == "unknown"} == {"broken", "text", "nan", "true"}


def test_what_is_no_function_of_three_is_refused_before_any_is_called():
    joined = join_labels(*log(3), as_of=day(9))
    for wrong in (1, lambda p: 0.0):
        with pytest.raises(SpecError, match="'m' is"):
            behaviour({"m": wrong}, joined, MONTH)


def test_labels_of_a_function_are_row_by_row_those_of_the_predictions():
    made, told = log(3)
    joined = join_labels(made, told.slice(0, 150), as_of=day(9))
    seen = {}

    def look(predictions, labels, context):
        seen.setdefault("first", (predictions, labels))
        return 1.0

    behaviour({"look": look}, joined, (day(0), day(3)), replicates=0)
    rows, known = seen["first"]
    assert len(rows) == len(known) == 300
    assert known["label"].null_count == known["label_time"].null_count == 150


def test_an_empty_window_of_functions_is_unknown():
    found = behaviour({"acted": acted}, join_labels(*log(3), as_of=day(9)), (day(5), day(6)))
    assert found["acted"].reason == "no prediction in the window"


# The record

numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
instants = st.none() | st.datetimes(timezones=st.just(UTC))


@settings(max_examples=50, deadline=None)
@given(
    value=st.floats(allow_nan=False, allow_infinity=False),
    lower=numbers,
    clusters=st.none() | st.integers(0, 10**9),
    start=instants,
    until=instants,
    reason=st.text(st.characters(codec="utf-8")),
)
def test_a_result_survives_json(value, lower, clusters, start, until, reason):
    found = Performance(
        kind="realised",
        metric="mae",
        value=value,
        lower=lower,
        clusters=clusters,
        start=start,
        until=until,
        reason=reason,
    )
    assert Performance.from_json(found.to_json()) == found


GOLDEN = (
    '{"assumption":"","clusters":30,"confidence":0.95,"end":"2024-01-31T00:00:00+00:00",'
    '"format":"mlct.performance/v1","freedom":null,"key":"abc","kind":"realised","labelled":990,'
    '"lower":0.7,"method":"DeLong","metric":"roc_auc","reason":"as it is","rows":1000,'
    '"standard_error":0.01,"start":"2024-01-01T00:00:00+00:00","until":null,"upper":0.8,'
    '"value":0.75}'
)


def test_a_result_of_the_first_format_reads_for_ever():
    found = Performance.from_json(GOLDEN)
    assert (found.value, found.labelled_share, found.end) == (0.75, 0.99, day(30))
    assert found.to_json() == GOLDEN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        GOLDEN.replace("/v1", "/v2"),
        GOLDEN.replace('"rows":1000', '"rows":"many"'),
        GOLDEN.replace('"rows":1000', '"rows":-1'),
        GOLDEN.replace('"rows":1000,', ""),
        GOLDEN.replace('"value":0.75', '"value":null'),
        GOLDEN.replace("realised", "guessed"),
        GOLDEN.replace("2024-01-31T", "soon"),
    ],
)
def test_a_result_that_is_not_one_is_refused(text):
    with pytest.raises(DataError):
        Performance.from_json(text)
