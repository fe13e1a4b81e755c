"""Comparisons: published values, laws, and error rates under repeated sampling."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mlct.errors import EvaluationError, SpecError
from mlct.evaluation.business import BusinessMetric
from mlct.evaluation.compare import Comparison, compare
from mlct.evaluation.estimate import estimates, placements
from mlct.evaluation.holdout import holdout
from mlct.evaluation.metric import METRICS, Metric
from mlct.evaluation.replicate import prepare

ORACLES = Path(__file__).parents[3] / "shared" / "oracles"
PUBLISHED = ORACLES / "delong_asah.json"
needs_published = pytest.mark.skipif(not PUBLISHED.exists(), reason="no shared oracles here")


def _asah():
    with (ORACLES / "delong_asah.csv").open() as file:
        rows = list(csv.DictReader(file))
    y = [row["outcome"] == "Poor" for row in rows]
    return y, {name: [float(r[name]) for r in rows] for name in ("wfns", "s100b", "ndka")}


def _models(rows=400, clusters=None, seed=0, noise=0.5):
    """Labels, two related probabilities and clusters whose rows share part of both errors."""
    random = np.random.default_rng(seed)
    y = (random.random(rows) < 0.3) * 1.0
    codes = np.arange(rows) % (clusters or rows)
    shared = random.normal(size=(2, rows))[:, codes] * 0.5
    raw = y + random.normal(size=(2, rows)) * noise + shared + random.normal(size=rows) * 0.5
    a, b = 1 / (1 + np.exp(-(raw - 0.7)))
    return y, {"a": a, "b": b}, None if clusters is None else codes


@needs_published
@pytest.mark.parametrize("pair", [0, 1, 2])
def test_delong_agrees_with_proc(pair):
    oracle = json.loads(PUBLISHED.read_text())["paired"][pair]
    y, scores = _asah()
    found = compare(y, scores, champion=oracle["b"], metric="roc_auc", confidence=0.975)[
        oracle["a"]
    ]
    assert found.delta / found.standard_error == pytest.approx(oracle["z"], rel=1e-9)
    assert found.p_value == pytest.approx(oracle["p"], rel=1e-9)
    assert [found.lower, found.upper] == pytest.approx(oracle["ci_diff"], rel=1e-9)


@needs_published
def test_areas_agree_with_proc():
    oracle = json.loads(PUBLISHED.read_text())["auc"]
    y, scores = _asah()
    for name, area in oracle.items():
        assert METRICS["roc_auc"](y, scores[name]) == pytest.approx(area, abs=5e-8)


def test_placements_are_the_shares_of_the_other_class_outranked():
    y, scores, _ = _models(60)
    s = scores["a"].round(1)
    value, effect = placements(holdout(y), s)
    one, zero = s[y == 1], s[y == 0]
    wins = (one[:, None] > zero) + 0.5 * (one[:, None] == zero)
    assert value == pytest.approx(wins.mean(), rel=1e-12)
    assert effect[y == 1] * len(one) + value == pytest.approx(wins.mean(axis=1), rel=1e-12)
    assert effect[y == 0] * len(zero) + value == pytest.approx(wins.mean(axis=0), rel=1e-12)


def test_clustered_delong_of_equal_clusters_follows_obuchowski():
    y, scores, _ = _models(121)
    y = np.sort(y)[::-1].copy()
    y[:33], y[33:] = 1, 0  # three positives and eight negatives in each cluster
    codes = np.arange(121) % 11
    found = compare(y, scores, champion="b", metric="roc_auc", clusters=codes)["a"]
    one, zero = y == 1, y == 0
    v10, v01 = 0.0, 0.0
    for name, sign in (("a", 1), ("b", -1)):
        _, effect = placements(holdout(y), scores[name])
        v10 = v10 + sign * effect[one] * one.sum()
        v01 = v01 + sign * effect[zero] * zero.sum()
    x = np.array([v10[codes[one] == c].sum() for c in range(11)])
    z = np.array([v01[codes[zero] == c].sum() for c in range(11)])
    m, n, factor = one.sum(), zero.sum(), 11 / 10
    s10, s01, s11 = factor * (x @ x) / m, factor * (z @ z) / n, factor * (x @ z)
    variance = s10 / m + s01 / n + 2 * s11 / (m * n)
    assert found.standard_error == pytest.approx(np.sqrt(variance), rel=1e-12)
    assert found.lower == pytest.approx(found.delta - stats.t(10).ppf(0.95) * np.sqrt(variance))
    assert found.method == "clustered paired DeLong, t"


def test_unequal_clusters_are_corrected_as_bell_and_mccaffrey_do():
    sizes = [40, 9, 7, 5, 3, 2]
    codes = np.repeat(np.arange(6), sizes)
    y, scores, _ = _models(66)
    found = compare(y, scores, champion="b", metric="brier", clusters=codes)["a"]
    difference = (y - scores["b"]) ** 2 - (y - scores["a"]) ** 2
    # By hand with matrices: the hat matrix of a constant, and the working model of equal variances.
    within = [np.flatnonzero(codes == c) for c in range(6)]
    hat = np.full((66, 66), 1 / 66)
    rest = np.eye(66) - hat
    columns = []
    for rows in within:
        own = np.eye(len(rows)) - hat[np.ix_(rows, rows)]
        values, vectors = np.linalg.eigh(own)
        root = vectors @ np.diag(values**-0.5) @ vectors.T
        columns.append(rest[:, rows] @ root.sum(axis=1) / 66)
    g = np.column_stack(columns)
    assert found.standard_error == pytest.approx(np.linalg.norm(difference @ g), rel=1e-9)
    eigenvalues = np.linalg.eigvalsh(g.T @ g)
    freedom = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    reach = stats.t(freedom).ppf(0.95) * found.standard_error
    assert found.lower == pytest.approx(found.delta - reach, rel=1e-9)
    assert found.method == f"cluster-robust paired differences, t as of {freedom + 1:.0f}"


@pytest.mark.parametrize("name", ["roc_auc", "log_loss", "accuracy", "brier"])
def test_rows_in_clusters_of_their_own_are_independent_rows(name):
    y, scores, _ = _models()
    alone = compare(y, scores, champion="b", metric=name, clusters=np.arange(len(y)))["a"]
    free = compare(y, scores, champion="b", metric=name)["a"]
    assert (alone.lower, alone.upper) == pytest.approx((free.lower, free.upper), rel=1e-9)


def test_differences_of_a_mean_are_a_paired_t_test():
    y, scores, _ = _models(25)
    found = compare(y, scores, champion="b", metric="brier")["a"]
    oracle = stats.ttest_rel((y - scores["b"]) ** 2, (y - scores["a"]) ** 2)
    assert found.p_value == pytest.approx(oracle.pvalue, rel=1e-9)
    assert found.lower == pytest.approx(oracle.confidence_interval(0.90).low, rel=1e-9)


@pytest.mark.parametrize("clusters", [None, 12, 40])
@pytest.mark.parametrize("name", [name for name in METRICS if name != "r2"])
def test_identical_scores_differ_by_nothing(name, clusters):
    y, scores, codes = _models(clusters=clusters)
    same = {"old": scores["a"], "new": scores["a"].copy()}
    found = compare(y, same, champion="old", metric=name, clusters=codes, replicates=50)["new"]
    assert (found.delta, found.lower, found.upper, found.p_value) == (0, 0, 0, 1)
    assert "-0.0" not in f"{found.delta} {found.lower} {found.upper}"
    assert found.method


@pytest.mark.parametrize("clusters", [None, 12, 40])
@pytest.mark.parametrize("name", METRICS)
def test_swapping_the_roles_mirrors_the_result(name, clusters):
    y, scores, codes = _models(clusters=clusters)
    kept = {"metric": name, "clusters": codes, "replicates": 200}
    one = compare(y, scores, champion="b", **kept)["a"]
    two = compare(y, scores, champion="a", **kept)["b"]
    assert one.delta == pytest.approx(-two.delta)
    assert (one.lower, one.upper) == pytest.approx((-two.upper, -two.lower), abs=1e-12)
    assert one.lower <= one.delta <= one.upper
    assert one.p_value == two.p_value


@pytest.mark.parametrize("name", METRICS)
def test_positive_means_better_whatever_the_direction(name):
    y, scores, _ = _models(2000, noise=0.3)
    worse = np.random.default_rng(0).permutation(scores["a"])
    found = compare(y, {"good": scores["a"], "bad": worse}, champion="bad", metric=name)["good"]
    assert found.delta > 0 or name == "ece"


def test_a_smaller_bound_needs_less_confidence():
    y, scores, codes = _models(clusters=40)
    kept = {"champion": "b", "metric": "roc_auc", "clusters": codes}
    strict, loose = (compare(y, scores, confidence=c, **kept)["a"] for c in (0.99, 0.9))
    assert strict.lower < loose.lower < loose.upper < strict.upper


@pytest.mark.parametrize("name", ["f1", "rmse", "average_precision"])
def test_few_clusters_take_the_t_distribution_and_many_the_percentiles(name):
    y, scores, _ = _models(1600)
    kept = {"champion": "b", "metric": name, "replicates": 300}
    few = compare(y, scores, clusters=np.arange(len(y)) % 8, **kept)["a"]
    many = compare(y, scores, clusters=np.arange(len(y)) % 80, **kept)["a"]
    assert few.method.startswith("paired bootstrap of clusters, t")
    assert many.method == "paired bootstrap of clusters, percentile"
    reach = stats.t(7).ppf(0.95) * few.standard_error
    assert few.delta - few.lower >= reach * (1 - 1e-9)


def test_real_clusters_take_the_t_distribution_at_any_number():
    y, scores, codes = _models(clusters=60)
    y, scores, codes = y[:360], {m: s[:360] for m, s in scores.items()}, codes[:360]
    found = compare(y, scores, champion="b", metric="brier", clusters=codes)["a"]
    reach = stats.t(59).ppf(0.95) * found.standard_error
    assert found.lower == pytest.approx(found.delta - reach, rel=1e-12)


def test_percentiles_are_widened_for_the_number_of_clusters():
    y, scores, codes = _models(3000, clusters=30)
    kept = {"champion": "b", "metric": "rmse", "clusters": codes}
    found = compare(y, scores, replicates=60_000, **kept)["a"]
    reach = (found.upper - found.lower) / 2
    assert reach == pytest.approx(stats.t(29).ppf(0.95) * found.standard_error, rel=0.01)


@pytest.mark.parametrize("clusters", [None, 9, 300])
@pytest.mark.parametrize("name", ["average_precision", "f1", "ece", "rmse"])
def test_the_vectorised_bootstrap_is_the_plain_one(name, clusters):
    y, scores, codes = _models(600, clusters=clusters)
    fast = METRICS[name]
    plain = replace(fast, per_row=None, sums=None, curve=None)  # one call for each replicate
    kept = {"champion": "b", "clusters": codes, "replicates": 60, "seed": 4}
    one, two = (compare(y, scores, metric=m, **kept)["a"] for m in (fast, plain))
    if name != "ece":  # whose bins stay those of the holdout
        assert (one.lower, one.upper) == pytest.approx((two.lower, two.upper), rel=1e-9)
    assert one.delta == pytest.approx(two.delta)


@pytest.mark.parametrize("name", ["roc_auc", "average_precision"])
@pytest.mark.parametrize("positives", [0.3, 0.05])
def test_fewer_thresholds_keep_the_value_and_the_error(name, positives, monkeypatch):
    random = np.random.default_rng(0)
    y = (random.random(100_000) < positives) * 1.0
    base = random.normal(size=len(y)) + 1.5 * y
    scores = [base + 0.5 * random.normal(size=len(y)) for _ in range(2)]
    rows, metric = holdout(y, clusters=np.arange(len(y)) // 100), METRICS[name]
    counts = np.concatenate(list(rows.resamples(64, seed=0, width=1)))

    def draws():
        one, two = (prepare(rows, metric, score)(counts) for score in scores)
        return two - one

    thinned = prepare(rows, metric, scores[0])(np.ones((1, rows.units)))
    assert thinned == pytest.approx(metric.function(y, scores[0]), rel=1e-9)
    few = draws()
    monkeypatch.setattr("mlct.evaluation.replicate._PRODUCT", 0)
    every = draws()
    assert (few != every).any()
    assert few.std() == pytest.approx(every.std(), rel=0.02)
    assert np.abs(few - every).max() < 0.1 * every.std()


@pytest.mark.parametrize("interval", ["percentile", "bca"])
def test_a_bound_beyond_the_replicates_keeps_its_level(interval):
    """At 99.95 % not one of 100 replicates lies beyond the bound: they alone are wrong in 1 %."""
    random, rows, worlds = np.random.default_rng(0), 60, 1000
    wrong = 0
    for seed in range(worlds):
        y = random.normal(size=rows)
        two = {name: y + random.normal(size=rows) for name in ("old", "new")}
        kept = {"champion": "old", "metric": "rmse", "replicates": 100, "interval": interval}
        found = compare(y, two, confidence=0.9995, seed=seed, **kept)["new"]
        wrong += found.lower > 0
        assert found.method.endswith("or t where wider")
    assert wrong <= stats.binom(worlds, 0.0005).ppf(0.999)


def test_bca_finds_the_skew_that_scipy_finds():
    random = np.random.default_rng(2)
    y = random.exponential(size=60)
    root = Metric("root", lambda y, s, w=None: float(np.average(y, weights=w)) ** 2, False)
    rows = holdout(y, clusters=np.arange(60))
    (found,) = estimates(
        rows, root, [y], paired=False, confidence=0.95, seed=0, replicates=20_000, interval="bca"
    )
    oracle = stats.bootstrap(
        (y,),
        lambda sample, axis: sample.mean(axis=axis) ** 2,
        n_resamples=20_000,
        confidence_level=0.9,
        method="BCa",
        rng=1,
    )
    reach = oracle.confidence_interval.high - oracle.confidence_interval.low
    assert found.method == "bootstrap of clusters, BCa"
    # Ours is widened for the sample size (t of 59 degrees, and 60/59), so a little further out.
    assert found.lower == pytest.approx(oracle.confidence_interval.low, abs=0.03 * reach)
    assert found.upper == pytest.approx(oracle.confidence_interval.high, abs=0.05 * reach)
    assert found.upper - found.value > found.value - found.lower


def test_bca_and_percentile_agree_on_what_is_not_skewed():
    y, scores, codes = _models(4000, clusters=200)
    kept = {"champion": "b", "metric": "rmse", "clusters": codes, "replicates": 4000}
    one, two = (compare(y, scores, interval=i, **kept)["a"] for i in ("percentile", "bca"))
    assert one.method.endswith("percentile")
    assert two.method.endswith("BCa")
    reach = one.upper - one.lower
    assert (one.lower, one.upper) == pytest.approx((two.lower, two.upper), abs=0.05 * reach)
    assert one.p_value == pytest.approx(two.p_value, abs=0.05)


@pytest.mark.parametrize("name", ["roc_auc", "log_loss", "accuracy", "f1", "average_precision"])
@pytest.mark.parametrize("clusters", [None, 40])
def test_models_of_several_classes_are_compared(name, clusters):
    random = np.random.default_rng(1)
    y = random.integers(0, 3, 900)
    codes = None if clusters is None else np.arange(900) % clusters

    def model(noise):
        raw = np.exp(2 * np.eye(3)[y] + noise * random.normal(size=(900, 3)))
        return raw / raw.sum(axis=1, keepdims=True)

    scores = {"good": model(0.5), "bad": model(3.0)}
    kept = {"champion": "bad", "metric": name, "clusters": codes, "replicates": 200}
    found = compare(y, scores, **kept)["good"]
    assert 0 < found.lower < found.delta < found.upper


def test_delong_of_several_classes_finds_the_error_of_the_bootstrap():
    random = np.random.default_rng(1)
    y = random.integers(0, 3, 1500)
    scores = {n: np.eye(3)[y] + random.normal(size=(1500, 3)) for n in "ab"}
    scores = {n: np.exp(s) / np.exp(s).sum(axis=1, keepdims=True) for n, s in scores.items()}
    auc = METRICS["roc_auc"]
    drawn = replace(auc, function=lambda *arrays: auc.function(*arrays))
    kept = {"champion": "b", "clusters": np.arange(1500) % 100}
    exact, boot = (compare(y, scores, metric=m, **kept)["a"] for m in (auc, drawn))
    assert exact.standard_error == pytest.approx(boot.standard_error, rel=0.1)
    assert exact.delta == boot.delta


def test_two_columns_are_the_binary_task():
    y, scores, codes = _models(clusters=40)
    wide = {name: np.column_stack([1 - s, s]) for name, s in scores.items()}
    for name in ("roc_auc", "log_loss", "accuracy"):
        kept = {"champion": "b", "metric": name, "clusters": codes}
        one, two = compare(y, scores, **kept)["a"], compare(y, wide, **kept)["a"]
        assert one.delta == pytest.approx(two.delta, rel=1e-9), name
        assert one.standard_error == pytest.approx(two.standard_error, rel=0.05), name


@pytest.mark.parametrize("name", ["roc_auc", "log_loss", "f1"])
def test_independent_rows_are_named_as_such(name):
    y, scores, codes = _models(clusters=40)
    kept = {"champion": "b", "metric": name, "replicates": 50}
    assert "independent rows" in compare(y, scores, **kept)["a"].method
    assert "cluster" in compare(y, scores, clusters=codes, **kept)["a"].method


def test_a_mean_by_clusters_has_the_error_that_statsmodels_finds():
    api = pytest.importorskip("statsmodels.api")
    y, scores, codes = _models(600, clusters=30)
    found = compare(y, scores, champion="b", metric="brier", clusters=codes)["a"]
    difference = (y - scores["b"]) ** 2 - (y - scores["a"]) ** 2
    fit = api.OLS(difference, np.ones(600)).fit(
        cov_type="cluster", cov_kwds={"groups": codes, "use_correction": False}, use_t=True
    )
    assert found.delta == pytest.approx(fit.params[0], rel=1e-9)
    assert found.standard_error == pytest.approx(fit.bse[0] * np.sqrt(30 / 29), rel=1e-9)


def test_a_class_of_one_cluster_has_no_error():
    y = np.repeat([1.0, 0.0], [10, 90])
    scores = {n: np.random.default_rng(k).random(100) for k, n in enumerate("ab")}
    found = compare(y, scores, champion="b", metric="roc_auc", clusters=np.arange(100) // 10)["a"]
    assert np.isnan([found.lower, found.upper, found.standard_error]).all()


def test_the_bootstrap_finds_the_error_of_a_mean():
    y, scores, codes = _models(900, clusters=60)
    mean = METRICS["brier"]
    drawn = Metric("brier", mean.function, bigger_is_better=False)
    kept = {"champion": "b", "clusters": codes}
    found = compare(y, scores, metric=drawn, replicates=1000, **kept)["a"]
    exact = compare(y, scores, metric=mean, **kept)["a"]
    assert found.standard_error == pytest.approx(exact.standard_error, rel=0.1)


def test_random_groups_of_rows_find_the_error_of_independent_rows():
    y, scores, _ = _models(9000)
    grouped = compare(y, scores, champion="b", metric="rmse")["a"]
    each = (y - scores["a"]) ** 2, (y - scores["b"]) ** 2
    slopes = [e / (2 * np.sqrt(e.mean())) for e in each]
    exact = (slopes[1] - slopes[0]).std() / np.sqrt(9000)  # delta method
    assert grouped.standard_error == pytest.approx(exact, rel=0.1)
    assert "2,000 random groups" in grouped.method
    assert grouped.clusters is None


def test_the_seed_alone_decides_the_draws():
    y, scores, codes = _models(clusters=40)
    kept = {"champion": "b", "metric": "f1", "clusters": codes, "replicates": 100}
    one, again, other = (compare(y, scores, seed=s, **kept)["a"] for s in (1, 1, 2))
    assert one == again
    assert one.lower != other.lower
    assert one.seed == 1


def test_weights_of_two_count_rows_twice():
    y, scores, _ = _models(300)
    doubled = {name: np.repeat(score, 2) for name, score in scores.items()}
    for name in ("roc_auc", "log_loss"):
        two = compare(y, scores, champion="b", metric=name, weights=np.full(300, 2.0))["a"]
        clusters = np.repeat(np.arange(300), 2)
        kept = {"champion": "b", "metric": name, "clusters": clusters}
        repeated = compare(np.repeat(y, 2), doubled, **kept)["a"]
        assert two.delta == pytest.approx(repeated.delta)
        assert two.standard_error == pytest.approx(repeated.standard_error)


def test_the_result_does_not_depend_on_the_order_of_rows_or_names_of_clusters():
    y, scores, codes = _models(clusters=12)
    order = np.random.default_rng(3).permutation(len(y))
    moved = {name: score[order] for name, score in scores.items()}
    kept = {"champion": "b", "metric": "roc_auc"}
    one = compare(y, scores, clusters=codes, **kept)["a"]
    two = compare(y[order], moved, clusters=[f"day {c}" for c in codes[order]], **kept)["a"]
    assert (one.lower, one.upper) == pytest.approx((two.lower, two.upper), rel=1e-9)


def test_several_models_are_compared_in_one_call():
    y, scores, _ = _models()
    scores["c"] = scores["a"][::-1]
    found = compare(y, scores, champion="b", metric="f1", replicates=50)
    assert set(found) == {"a", "c"}
    alone = compare(y, {k: scores[k] for k in "ab"}, champion="b", metric="f1", replicates=50)
    assert found["a"] == alone["a"]


@pytest.mark.parametrize(("metric", "old"), [("roc_auc", 0.5), ("accuracy", 0.0)])
def test_rows_that_all_say_the_same_do_not_tell_their_error(metric, old):
    y = np.repeat([0, 1], 2)
    two = {"old": np.where(y, old, 1 - old if old else 1.0), "new": [0.1, 0.2, 0.8, 0.9]}
    found = compare(y, two, champion="old", metric=metric)["new"]
    assert found.method.endswith("without any spread: the error is not known")
    same = compare(y, two | {"new": two["old"]}, champion="old", metric=metric)["new"]
    assert "not known" not in same.method


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"champion": "x"}, "champion 'x' has no scores"),
        ({"scores": {"a": [0.1] * 399, "b": [0.1] * 400}}, "'a' have 399 rows, the labels 400"),
        ({"scores": {"a": [np.nan] * 400, "b": [0.1] * 400}}, "400 of 400 values are NaN"),
        ({"scores": {"a": [np.inf] * 400, "b": [0.1] * 400}}, "infinite"),
        ({"scores": {"a": [1.5] * 400, "b": [0.1] * 400}, "metric": "log_loss"}, "probabilities"),
        ({"y_true": np.zeros(400)}, "single class"),
        ({"y_true": np.arange(400) % 3}, "labels 0 and 1"),
        ({"clusters": np.zeros(400)}, "1 cluster"),
        (
            {"clusters": pd.Series([pd.NA] + ["a", "b", "c"] * 133, dtype="string")},
            "1 rows have no",
        ),
        ({"clusters": np.array(["a", 1] * 200, dtype=object)}, "of the types int, str"),
        ({"scores": [[0.1] * 400] * 2}, "the scores are a list"),
        ({"metric": BusinessMetric("saved", lambda y, s, f: 1.0, columns=("a",))}, "not given a"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, told):
    y, scores, _ = _models()
    with pytest.raises(EvaluationError, match=told):
        compare(**{"y_true": y, "scores": scores, "champion": "b", "metric": "roc_auc"} | change)


@pytest.mark.parametrize(
    "change",
    [
        {"metric": "auc"},
        {"interval": "basic"},
        {"confidence": 95},
        {"confidence": "x"},
        {"metric": "f1", "replicates": 0},
        {"metric": "f1", "replicates": 1},
        {"metric": "f1", "seed": None},
    ],
)
def test_a_wrong_question_is_a_wrong_declaration(change):
    y, scores, _ = _models()
    with pytest.raises(SpecError):
        compare(y, scores, **{"champion": "b", "metric": "roc_auc"} | change)


def _clustered_world(random, rows, clusters, correlation):
    """Two models of equal skill; labels and both models' errors are correlated in clusters."""
    codes = np.repeat(np.arange(clusters), rows // clusters)

    def noise():
        common = random.normal(size=clusters)[codes]
        own = random.normal(size=rows)
        return np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own

    latent = noise()
    y = (latent > np.quantile(latent, 0.7)) * 1.0
    raw = [latent + random.normal(size=rows) + noise() for _ in range(2)]
    return y, {name: 1 / (1 + np.exp(1 - r)) for name, r in zip("ab", raw, strict=True)}, codes


def _wrongly_better(name, worlds, rows, clusters, correlation, *, ignore=False) -> int:
    """How often one of two equal models is called better."""
    random = np.random.default_rng(7)
    wrong = 0
    for _ in range(worlds):
        y, scores, codes = _clustered_world(random, rows, clusters, correlation)
        found: Comparison = compare(
            y, scores, champion="b", metric=name, clusters=None if ignore else codes, replicates=300
        )["a"]
        wrong += found.lower > 0
    return wrong


@pytest.mark.parametrize(
    ("name", "rows", "clusters", "correlation"),
    [
        ("roc_auc", 400, 400, 0.0),
        ("roc_auc", 1500, 30, 0.3),
        ("log_loss", 400, 400, 0.0),
        ("log_loss", 1500, 30, 0.3),
        ("log_loss", 600, 8, 0.3),
        ("f1", 600, 20, 0.3),
        ("f1", 1500, 50, 0.3),
    ],
)
def test_equal_models_are_called_better_one_time_in_twenty(name, rows, clusters, correlation):
    worlds = 1000
    wrong = _wrongly_better(name, worlds, rows, clusters, correlation)
    low, high = stats.binom(worlds, 0.05).ppf([0.0005, 0.9995])
    assert low <= wrong <= high


def test_ignoring_the_clusters_breaks_it():
    wrong = _wrongly_better("roc_auc", 200, 3000, 10, 0.3, ignore=True)
    assert wrong > stats.binom(200, 0.05).ppf(0.9999)
