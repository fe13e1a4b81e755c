"""Distances agree with scipy and with published numbers; what is not exact keeps its bound."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon

from mlct.data.profile import profile
from mlct.monitoring.drift import statistics as s
from mlct.monitoring.drift.decision import Spread, _noncentral, least_effect, least_index

exact = {"rel": 1e-12, "abs": 1e-12}
quick = settings(deadline=None, max_examples=60)


def two(x, y):
    reference = profile(pa.table({"x": x}))
    current = profile(pa.table({"x": y}), edges_from=reference)
    return reference.columns["x"].values, current.columns["x"].values


@pytest.mark.parametrize(
    ("p", "q", "index"),
    [
        ([0.1, 0.2, 0.3, 0.4], [0.2, 0.2, 0.3, 0.3], 0.1 * math.log(2) + 0.1 * math.log(4 / 3)),
        ([0.1] * 10, [0.05, 0.05, *[0.1] * 6, 0.15, 0.15], 0.1 * math.log(2) + 0.1 * math.log(1.5)),
    ],
)
def test_stability_of_shares_by_hand(p, q, index):
    p, q = np.array(p), np.array(q)
    assert s.stability(p, q) == pytest.approx(index, **exact)
    assert s.stability(q, p) == pytest.approx(index, **exact)


def test_stability_of_a_published_example_to_15_digits():
    """feature-engine's test of DropHighPSIFeatures: deciles of the first half, floor 1e-4."""
    from sklearn.datasets import make_classification

    x, _ = make_classification(
        n_samples=1000,
        n_features=6,
        n_redundant=2,
        n_clusters_per_class=1,
        weights=[0.5],
        class_sep=2,
        random_state=1,
    )
    wanted = [
        0.043828484052281,
        0.040929870747665,
        0.043304184951569,
        0.037732865325482,
        0.050473885156630,
        0.014717735595712,
    ]
    for column, index in zip(x.T, wanted, strict=True):
        old, new = column[:500], column[500:]
        ends = np.quantile(old, np.linspace(0, 1, 11))
        ends[0], ends[-1] = -np.inf, np.inf
        p, q = (np.maximum(np.histogram(h, ends)[0] / 500, 1e-4) for h in (old, new))
        assert s.stability(p, q) == pytest.approx(index, rel=1e-12)


A, B = np.array([16, 18, 16, 14, 12, 12]), np.array([16, 16, 16, 16, 16, 8])


def test_the_distances_of_two_histograms_agree_with_published_numbers():
    p, q = A / A.sum(), B / B.sum()
    assert s.stability(p, q) == pytest.approx(0.0372183816, abs=1e-10)
    assert s.jensen_shannon(p, q) == pytest.approx(0.0817342133, abs=1e-10)
    assert s.jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q, 2), **exact)
    statistic, p_value = s.chi_square(A, B)
    assert statistic == pytest.approx(1.6224089636, abs=1e-10)
    assert p_value == pytest.approx(0.8985262394, abs=1e-10)


COUNTS = st.lists(st.integers(0, 500), min_size=2, max_size=12).filter(any)


@quick
@given(st.data(), COUNTS)
def test_two_sample_chi_square_is_scipy_s(data, a):
    b = data.draw(st.lists(st.integers(0, 500), min_size=len(a), max_size=len(a)).filter(any))
    a, b = np.array(a), np.array(b)
    held = (a + b) > 0
    if held.sum() < 2:
        assert s.chi_square(a, b) == (0.0, 1.0)
        return
    wanted = stats.chi2_contingency(np.array([a[held], b[held]]), correction=False)
    assert s.chi_square(a, b) == pytest.approx((wanted.statistic, wanted.pvalue), **exact)


def test_disjoint_histograms_are_one_apart():
    p, q = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert s.jensen_shannon(p, q) == pytest.approx(1, **exact)
    assert s.jensen_shannon(p, p) == 0
    assert s.stability(p, q) == math.inf


SAMPLES = {
    "five": ([1.0, 2, 3, 4, 5], [3.0, 4, 5, 6, 7], 0.4, 2),
    "scipy's": ([0.0, 1, 3], [5.0, 6, 8], 1, 5),
    "halves": (np.arange(100.0), np.arange(50.0, 150), 0.5, 50),
}


@pytest.mark.parametrize(("x", "y", "ks", "far"), SAMPLES.values(), ids=SAMPLES)
def test_small_samples_are_exact(x, y, ks, far):
    a, b = two(x, y)
    assert s.kolmogorov_smirnov(a, b) == pytest.approx((ks, 0), **exact)
    assert s.wasserstein(a, b) == pytest.approx((far, 0), **exact)


def test_two_laboratories():
    """Exact for Kolmogorov-Smirnov; Wasserstein within its bound, as samples interleave."""
    x = [38.7, 41.5, 43.8, 44.5, 45.5, 46.0, 47.7, 58.0]
    y = [39.2, 39.3, 39.7, 41.4, 41.8, 42.9, 43.3, 45.8]
    a, b = two(x, y)
    assert s.kolmogorov_smirnov(a, b) == pytest.approx((0.625, 0), **exact)
    low, error = s.wasserstein(a, b)
    assert low <= 4.1625 <= low + error


VALUES = st.lists(
    st.floats(-1e6, 1e6, allow_nan=False) | st.integers(-3, 3).map(float), min_size=1, max_size=40
)


@quick
@given(VALUES, VALUES)
def test_distances_keep_their_bounds(x, y):
    a, b = two(x, y)
    ks, ks_error = s.kolmogorov_smirnov(a, b)
    assert (ks, ks_error) == pytest.approx((stats.ks_2samp(x, y).statistic, 0), **exact)
    low, error = s.wasserstein(a, b)
    wanted, unit = stats.wasserstein_distance(x, y), 1e-9 + 1e-12 * max(map(abs, [*x, *y]))
    assert low - unit <= wanted <= low + error + unit


@quick
@given(st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=60), st.data())
def test_on_the_reference_s_own_values_everything_is_exact(x, data):
    y = data.draw(st.lists(st.sampled_from(x), min_size=1, max_size=60))
    a, b = two(x, y)
    assert s.kolmogorov_smirnov(a, b)[0] == pytest.approx(stats.ks_2samp(x, y).statistic, **exact)
    assert s.wasserstein(a, b)[0] == pytest.approx(stats.wasserstein_distance(x, y), **exact)


@pytest.mark.parametrize("name", ["normal", "lognormal", "exponential"])
def test_large_samples_are_close_and_inside_the_bound(name):
    random = np.random.default_rng(0)
    x, y = getattr(random, name)(size=50_000), getattr(random, name)(size=50_000) * 1.1
    a, b = two(x, y)
    ks, ks_error = s.kolmogorov_smirnov(a, b)
    wanted = stats.ks_2samp(x, y).statistic
    assert wanted - 3e-4 <= ks <= wanted + 1e-12
    assert wanted <= ks + ks_error
    assert ks_error < 2e-3
    low, error = s.wasserstein(a, b)
    wanted = stats.wasserstein_distance(x, y)
    assert low == pytest.approx(wanted, rel=0.01)
    assert low - 1e-12 <= wanted <= low + error


def test_infinities_count_for_one_distance_and_not_for_the_other():
    a, b = two([1.0, 2, 3, 4], [1.0, 2, 3, math.inf])
    assert s.kolmogorov_smirnov(a, b)[0] == pytest.approx(0.25, **exact)
    assert s.wasserstein(a, b)[0] == pytest.approx(
        stats.wasserstein_distance([1, 2, 3, 4], [1, 2, 3]), abs=0.5
    )


def test_a_coarse_profile_has_no_wasserstein_and_a_wider_bound():
    random = np.random.default_rng(0)
    reference = profile(pa.table({"x": random.normal(size=5000)})).coarse()
    y = random.normal(0.5, size=5000)
    window = profile(pa.table({"x": y}), edges_from=reference)
    a, b = reference.columns["x"].values, window.columns["x"].values
    assert s.wasserstein(a, b) is None
    found, error = s.kolmogorov_smirnov(a, b)
    assert 0.05 < error < 0.3
    assert found <= 0.25 <= found + error


@pytest.mark.parametrize("shift", [0, 1, 40, 900, 9_999])
@pytest.mark.parametrize("x", [0.5, 3, 20, 60, 1000, 11_000])
@pytest.mark.parametrize("freedom", [1, 2.5, 9, 49])
def test_the_tail_is_scipy_s(x, freedom, shift):
    wanted = stats.ncx2.sf(x, freedom, shift) if shift else stats.chi2.sf(x, freedom)
    assert _noncentral(x, freedom, shift) == pytest.approx(wanted, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("x", [19_000, 20_000, 20_500, 21_000])
def test_far_out_the_tail_is_close(x):
    assert _noncentral(x, 9, 20_000) == pytest.approx(stats.ncx2.sf(x, 9, 20_000), rel=1e-3)


@pytest.mark.parametrize("p", [0.05, 1e-3, 1e-6])
@pytest.mark.parametrize("rows", [300, 10_000, 10**6, 10**8])
def test_the_threshold_is_the_index_at_which_the_test_turns(rows, p):
    words = {"bins": 10, "n": rows, "m": rows, "tau": 0.02, "spread": Spread()}
    index = least_index(p, **words)
    assert least_effect(index * 1.001, **words) < p < least_effect(index * 0.999, **words)
