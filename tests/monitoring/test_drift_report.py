"""`mlct.drift`: what moved is found, what did not is left alone, what cannot be known is said."""

import math
from datetime import UTC, datetime, timedelta
from functools import reduce

import numpy as np
import pyarrow as pa
import pytest

import mlct
from mlct.data.profile import Profile, profile
from mlct.errors import DataError, SpecError
from mlct.monitoring.drift import (
    decide_drift,
    domain_classifier,
    drift,
    fixed_rule,
    reference_windows,
)
from mlct.monitoring.drift.decision import benjamini_hochberg

N, M = 20_000, 5_000


def rows(size, seed=0, **columns):
    """Ten columns of several kinds; `columns` replace some."""
    random = np.random.default_rng(seed)
    made = {f"x{i}": random.normal(size=size) for i in range(5)}
    made |= {f"p{i}": random.poisson(2, size).astype(float) for i in range(3)}
    made |= {f"s{i}": random.choice(list("abcde"), size) for i in range(2)}
    return pa.table(made | columns)


RANDOM = np.random.default_rng(7)
REFERENCE = profile(rows(N))


def seen(**columns):
    return drift(REFERENCE, rows(M, 1, **columns))


def test_a_window_of_the_same_kind_is_ok():
    report = seen()
    assert (report.drifted, report.status, report.weight) == (False, "ok", 0)
    assert {c.status for c in report.columns.values()} == {"ok"}
    assert report.rows == (N, M)


MOVES = {
    "mean": ("x0", RANDOM.normal(0.3, size=M)),
    "variance": ("x0", RANDOM.normal(0, 1.5, M)),
    "one outlier does not hide a shift": ("x0", np.append(RANDOM.normal(0.5, size=M - 1), 1e9)),
    "missing": ("x0", np.where(RANDOM.random(M) < 0.05, np.nan, RANDOM.normal(size=M))),
    "all NaN": ("x0", np.full(M, np.nan)),
    "all null": ("x0", pa.nulls(M)),
    "all null, typed": ("x0", pa.nulls(M, pa.float64())),
    "infinities": ("x0", np.where(RANDOM.random(M) < 0.3, np.inf, RANDOM.normal(size=M))),
    "a constant": ("x0", np.zeros(M)),
    "a discrete mean": ("p0", RANDOM.poisson(2.6, M).astype(float)),
    "a new category": (
        "s0",
        np.where(RANDOM.random(M) < 0.02, "new", RANDOM.choice(list("abcde"), M)),
    ),
    "the mix of categories": ("s0", RANDOM.choice(list("abcde"), M, p=[0.3, 0.3, 0.2, 0.1, 0.1])),
    "another kind": ("x0", pa.array(["1.5"] * M)),
    "a time": ("x0", pa.array([0] * M, pa.timestamp("us"))),
    "a list": ("x0", pa.array([[1.0]] * M)),
}


@pytest.mark.parametrize(("name", "column"), MOVES.values(), ids=MOVES)
def test_what_moved_is_found_and_nothing_else(name, column):
    report = seen(**{name: column})
    assert [n for n, c in report.columns.items() if c.drifted] == [name]
    assert report.drifted
    assert report.reason.startswith(f"1 of 10 columns: {name} ")
    assert len(report.columns) == 10


def test_a_column_that_is_gone_is_told_and_the_others_are_compared():
    report = drift(REFERENCE, rows(M, 1).drop_columns(["x0"]))
    assert report.columns["x0"].status == "missing"
    assert report.columns["x0"].broken
    assert {c.status for n, c in report.columns.items() if n != "x0"} == {"ok"}


def test_new_columns_are_told():
    assert seen(z=np.zeros(M)).new_columns == ("z",)


def test_how_values_are_held_is_no_drift():
    column = pa.array(RANDOM.poisson(2, M), pa.int16())
    assert not seen(p0=column).drifted
    texts = pa.array(RANDOM.choice(list("abcde"), M)).dictionary_encode()
    assert not seen(s0=texts).drifted


def test_a_shift_too_small_to_matter_is_no_drift_however_many_rows():
    """0.1 standard deviations: 0.0096, below tau; a plain chi-square sees it with certainty."""
    old = pa.table({"x": RANDOM.normal(size=400_000)})
    report = drift(old, pa.table({"x": RANDOM.normal(0.1, size=400_000)}))
    assert not report.drifted
    assert report.columns["x"].psi == pytest.approx(0.0096, abs=0.001)
    assert report.columns["x"].chi_square_p < 1e-12
    assert drift(old, pa.table({"x": RANDOM.normal(0.2, size=400_000)})).drifted


@pytest.mark.parametrize("size", [0, 1, 30, 199])
def test_too_few_rows_are_insufficient_and_never_ok(size):
    report = drift(REFERENCE, rows(size, 1))
    assert report.status == "insufficient"
    assert report.columns["x0"].status == "insufficient"
    assert not report.drifted
    assert "too few" in report.reason


def test_a_reference_of_too_few_rows_is_insufficient_too():
    assert drift(rows(100), rows(M, 1)).columns["x0"].status == "insufficient"


def test_few_rows_still_see_what_is_missing():
    assert drift(REFERENCE, rows(100, 1, x0=np.full(100, np.nan))).columns["x0"].drifted


def test_constants_that_stay_are_ok_and_those_that_move_are_not():
    old = pa.table({"x": [5.0] * 500, "s": ["a"] * 500})
    report = drift(old, old)
    assert {c.status for c in report.columns.values()} == {"ok"}
    assert (report.columns["x"].wasserstein, report.columns["x"].psi) == (0, 0)
    moved = drift(old, pa.table({"x": [5.5] * 500, "s": ["b"] * 500}))
    assert all(c.drifted for c in moved.columns.values())
    assert moved.columns["x"].wasserstein == math.inf


def test_one_row_of_a_new_category_is_no_drift():
    texts = np.append(RANDOM.choice(list("abcde"), M - 1), "new")
    column = seen(s0=texts).columns["s0"]
    assert column.status == "ok"
    assert column.new_values == ("new",)


@pytest.mark.parametrize("many", [2_000, 200_000])
def test_an_open_vocabulary_is_no_drift(many):
    """Categories by Zipf: thousands of the window's were never in the reference."""
    share = np.arange(1, many + 1) ** -1.1
    draw = lambda size: [f"v{i}" for i in RANDOM.choice(many, size, p=share / share.sum())]  # noqa: E731
    reference = profile(pa.table({"s": draw(N)}))
    found = [drift(reference, pa.table({"s": draw(N)})).columns["s"] for _ in range(5)]
    assert not any(c.drifted for c in found)
    assert all(c.unseen > 0.001 for c in found)


def test_categories_that_small_windows_cannot_tell_apart_are_insufficient():
    names = [f"v{i % 100}" for i in range(N)]
    assert drift(pa.table({"s": names}), pa.table({"s": names[:300]})).status == "insufficient"


def test_an_identifier_has_nothing_to_compare_but_what_is_missing():
    ids = [f"u{i}" for i in range(N)]
    report = drift(pa.table({"s": ids}), pa.table({"s": [f"w{i}" for i in range(M)]}))
    assert report.columns["s"].status == "ok"


def test_importance_weighs_and_ranks():
    words = {"x0": RANDOM.normal(0.5, size=M), "x1": RANDOM.normal(0.4, size=M)}
    report = drift(REFERENCE, rows(M, 1, **words), importance={"x0": 1, "x1": 30, "s0": 69})
    assert list(report.columns)[:2] == ["x1", "x0"]
    assert report.weight == pytest.approx(0.31)
    assert "importance 30%" in report.reason


def test_predictions_rank_above_features():
    words = {"x0": RANDOM.normal(0.5, size=M), "x4": RANDOM.normal(0.3, size=M)}
    report = drift(REFERENCE, rows(M, 1, **words), predictions=["x4"])
    assert list(report.columns)[:2] == ["x4", "x0"]
    assert report.weight == pytest.approx(1 / 9)


def test_p_value_and_threshold_tell_the_same():
    for by in (0.1, 0.15, 0.2, 0.25):
        column = seen(x0=np.random.default_rng(3).normal(by, size=M)).columns["x0"]
        assert column.drifted == (column.psi >= column.threshold)


def test_profiles_and_data_give_the_same_report():
    assert mlct.drift(rows(N), rows(M, 1)) == drift(
        REFERENCE, mlct.profile(rows(M, 1), edges_from=REFERENCE)
    )


def test_a_week_is_compared_by_merging_its_days():
    days = [rows(800, seed) for seed in range(1, 8)]
    week = reduce(Profile.merge, [profile(d, edges_from=REFERENCE) for d in days])
    whole = drift(REFERENCE, pa.concat_tables(days))
    for name, column in drift(REFERENCE, week).columns.items():
        assert column.psi == whole.columns[name].psi
        if column.ks is not None:
            assert column.wasserstein == pytest.approx(whole.columns[name].wasserstein, rel=1e-9)


def test_a_window_on_other_edges_is_refused():
    with pytest.raises(DataError, match="edges_from"):
        drift(REFERENCE, profile(rows(M, 1).select(["x0", "x1"])))


@pytest.mark.parametrize(
    "words",
    [{"alpha": 0}, {"alpha": 1}, {"tau": -1}, {"tau": math.nan}, {"importance": {"x0": math.nan}}],
)
def test_bad_arguments_are_refused(words):
    with pytest.raises(DataError):
        drift(REFERENCE, rows(M, 1), **words)


def test_benjamini_hochberg_by_hand():
    """The example of the paper, table 1: four of fifteen at 0.05."""
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240]
    p += [0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    limit = benjamini_hochberg(dict(enumerate(p)), 0.05)
    assert limit == pytest.approx(0.05 * 4 / 15)
    assert sum(v <= limit for v in p) == 4
    assert benjamini_hochberg({}, 0.05) == 0.05


def test_the_fixed_rule_prints_its_own_false_alarms():
    """At 1,000 and 100 rows, 0.1 is exceeded in 39 % of windows without drift (10 bins)."""
    random = np.random.default_rng(0)
    reference = profile(pa.table({"x": random.normal(size=1000)})).coarse()
    fired, told = 0, 0.0
    for _ in range(300):
        rule = fixed_rule(drift(reference, pa.table({"x": random.normal(size=100)})), limit=0.1)
        fired += rule.moved == ("x",)
        told = rule.any_false_alarm
    assert told == pytest.approx(0.43, abs=0.03)
    assert fired / 300 == pytest.approx(told, abs=0.1)
    assert f"{told:.2g} of windows" in rule.reason


def reports(*moved, **words):
    """Reports of successive windows, in each of which the named columns moved."""
    by = {name: np.random.default_rng(5).normal(0.5, size=M) for names in moved for name in names}
    return [
        drift(REFERENCE, rows(M, at, **{n: by[n] for n in names}), **words)
        for at, names in enumerate(moved, 1)
    ]


@pytest.mark.parametrize(
    ("moved", "trigger"),
    [
        ([["x0"]], False),
        ([["x0"], ["x0"]], True),
        ([["x0"], [], ["x0"]], True),
        ([["x0"], [], [], ["x0"]], False),
        ([["x0"], ["x0"], []], False),
        ([["x0"], ["x1"]], False),
    ],
)
def test_drift_must_last_in_one_column(moved, trigger):
    decision = decide_drift(reports(*moved))
    assert decision.trigger is trigger
    assert decision.columns == (("x0",) if trigger else ())


def test_drift_of_what_the_model_does_not_use_does_not_trigger():
    light = decide_drift(reports(["x0"], ["x0"], importance={"x0": 5, "x1": 95}))
    assert (light.trigger, light.columns) == (False, ("x0",))
    assert decide_drift(reports(["x0"], ["x0"], importance={"x0": 5, "x1": 10})).trigger
    assert decide_drift(reports(["x0"], ["x0"], predictions=["x0"])).prediction


def test_a_report_of_scores_alone_says_scores():
    found = drift(REFERENCE, rows(M, 1), predictions=list(REFERENCE.columns))
    assert found.reason == "scores did not move"


def test_a_broken_column_is_for_people():
    gone = drift(REFERENCE, rows(M, 1).drop_columns(["x0"]))
    decision = decide_drift([gone, gone, gone])
    assert (decision.trigger, decision.broken) == (False, ("x0",))
    assert "broken: x0" in decision.reason


def test_no_window_decides_nothing():
    assert not decide_drift([]).trigger
    with pytest.raises(SpecError):
        decide_drift([], breaches=3, of=2)


WEEKS = [datetime(2013, 1, 1, tzinfo=UTC) + timedelta(days=d) for d in range(60)]


def test_the_trailing_reference_is_the_last_windows_before():
    assert reference_windows(WEEKS, WEEKS[30], count=3) == [27, 28, 29]
    assert reference_windows(WEEKS, WEEKS[1], count=3) == [0]
    assert reference_windows(WEEKS[::-1], WEEKS[30], count=2) == [31, 30]
    assert reference_windows(WEEKS, WEEKS[0]) == []


def test_the_season_s_reference_is_the_same_weekday():
    words = {"choice": "season", "period": "7d"}
    assert reference_windows(WEEKS, WEEKS[30], count=3, **words) == [9, 16, 23]
    assert reference_windows(WEEKS, WEEKS[10], count=3, **words) == [3]
    holes = [w for i, w in enumerate(WEEKS) if i != 16]
    assert len(reference_windows(holes, WEEKS[30], count=3, **words)) == 2
    with pytest.raises(SpecError, match="'season'"):
        reference_windows(WEEKS, WEEKS[3], choice="lunar")


def test_a_seasonal_reference_sees_no_drift_in_weekends():
    """Weekends differ from the week: against all days they drift, against weekends they do not."""
    random = np.random.default_rng(0)
    days = [pa.table({"x": random.normal(1.5 * (d % 7 > 4), size=2000)}) for d in range(28)]
    reference = profile(pa.concat_tables(days[:21])).coarse()
    windows = [profile(day, edges_from=reference) for day in days]
    assert drift(reference, windows[26]).drifted
    same = reference_windows(WEEKS[:28], WEEKS[26], choice="season", count=3)
    assert same == [5, 12, 19]
    assert not drift(reduce(Profile.merge, [windows[i] for i in same]), windows[26]).drifted


def test_a_classifier_sees_what_single_columns_do_not():
    """The correlation of two columns turns; each alone stays."""

    def joined(sign, seed):
        random = np.random.default_rng(seed)
        x = random.normal(size=3000)
        return pa.table({"x": x, "y": sign * 0.8 * x + 0.6 * random.normal(size=3000)})

    same, turned = joined(1, 1), joined(-1, 2)
    assert not drift(joined(1, 0), turned).drifted
    found = domain_classifier(joined(1, 0), turned)
    assert found.drifted
    assert 0.7 < found.low < found.auc < found.high < 1
    quiet = domain_classifier(joined(1, 0), same)
    assert not quiet.drifted
    assert quiet.low < 0.5 < quiet.high


def test_a_classifier_takes_texts_gaps_and_another_estimator():
    from sklearn.dummy import DummyClassifier

    table = rows(300, 1, x0=pa.nulls(300, pa.float64()))
    found = domain_classifier(rows(300), table, columns=["x0", "s0", "gone"])
    assert found.drifted
    assert found.importance["x0"] > 0.5
    dummy = domain_classifier(rows(300), table, estimator=lambda: DummyClassifier(strategy="prior"))
    assert (dummy.auc, dummy.low, dummy.high) == (0.5, 0.5, 0.5)


def test_a_classifier_refuses_too_few_rows_and_nothing_in_common():
    with pytest.raises(DataError, match="20 a fold"):
        domain_classifier(rows(99), rows(300))
    with pytest.raises(DataError, match="no column"):
        domain_classifier(rows(300), pa.table({"z": [1.0] * 300}))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"importance": {"x0": "a"}}, "importances .*finite numbers"),
        ({"importance": "x0"}, "importances .*by column"),
        ({"alpha": "a"}, "alpha 'a'"),
        ({"tau": None}, "tau None"),
        ({"tau": -1}, "tau -1"),
    ],
    ids=str,
)
def test_what_drift_cannot_be_asked_for_is_named(words, says):
    with pytest.raises(DataError, match=says):
        drift(REFERENCE, rows(M, 1), **words)


def test_what_was_stored_of_windows_before_counts_like_their_reports():
    first, second = reports(["x0"], ["x0"])
    stored = {name: column.status for name, column in first.columns.items()}
    both = decide_drift([first, second])
    assert decide_drift([second], before=[stored]) == both
    assert both.trigger
    alone = decide_drift([second])
    assert not alone.trigger
    assert alone.reason.startswith("moved in this window, not yet in 2 of 3: ")
