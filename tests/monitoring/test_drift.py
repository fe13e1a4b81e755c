"""Population stability: what the formula says, zero without change, and no blind spot."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlct.monitoring.drift import population_stability

quick = settings(deadline=None, max_examples=40)


def psi(reference, current):
    tables = (pa.table({"x": column}) for column in (reference, current))
    return population_stability(*tables, ["x"])["x"]


def formula(*counts):
    """As the docstring has it, over bins that hold a row."""
    a, b = (np.array(c, float) for c in counts)
    shares = [(c + 0.5) / (c.sum() + 0.5 * len(c)) for c in (a, b)]
    return sum((q - p) * math.log(q / p) for p, q in zip(*shares, strict=True))


def test_categories_agree_with_a_computation_by_hand():
    """1 and 3 of 4 against 2 and 2 of 4: shares 0.3 and 0.7, 0.5 and 0.5."""
    by_hand = (0.5 - 0.3) * math.log(0.5 / 0.3) + (0.5 - 0.7) * math.log(0.5 / 0.7)
    assert psi(list("abbb"), list("aabb")) == pytest.approx(by_hand, rel=1e-12)


def test_numbers_agree_with_a_computation_by_hand():
    """Tenths of 0..99 hold 9, 10, ... and 11 values; of the newer rows 20 are 10, 80 are 90."""
    newer = [10.0] * 20 + [90.0] * 80
    old = [9, 10, 10, 10, 10, 10, 10, 10, 10, 11]
    assert psi(np.arange(100.0), newer) == pytest.approx(
        formula(old, [0, 20, 0, 0, 0, 0, 0, 0, 0, 80]), rel=1e-12
    )


def test_missing_values_are_a_bin_of_their_own():
    reference, current = [0.0] * 50 + [None] * 50, [0.0] * 90 + [None] * 10
    wanted = formula([50, 50], [90, 10])
    assert psi(reference, current) == pytest.approx(wanted, rel=1e-12)
    nan = pa.array([0.0] * 90 + [math.nan] * 10)
    assert psi(reference, nan) == pytest.approx(wanted, rel=1e-12)
    texts = [["a" if v is not None else None for v in column] for column in (reference, current)]
    assert psi(*texts) == pytest.approx(wanted, rel=1e-12)


def test_unseen_categories_fall_into_the_rest():
    wanted = formula([60, 40, 0], [60, 20, 20])
    reference = ["a"] * 60 + ["b"] * 40
    assert psi(reference, ["a"] * 60 + ["b"] * 20 + ["c"] * 20) == pytest.approx(wanted)
    assert psi(reference, ["a"] * 60 + ["b"] * 20 + ["c", "d"] * 10) == pytest.approx(wanted)


def test_beyond_the_most_frequent_categories_is_the_rest():
    reference = [f"c{n:03}" for n in range(100) for _ in range(100 - n)]
    moved = [f"c{149 - int(c[1:]):03}" if c >= "c050" else c for c in reference]
    assert psi(reference, moved) == 0
    assert psi(reference, ["c000"] * 5050) > 1


COLUMNS = st.one_of(
    st.lists(st.none() | st.floats(allow_nan=False), min_size=1, max_size=40),
    st.lists(st.none() | st.sampled_from("abc"), min_size=1, max_size=40),
    st.lists(st.none() | st.integers(-(2**62), 2**62), min_size=1, max_size=40),
    st.lists(st.none() | st.booleans(), min_size=1, max_size=40),
)


@quick
@given(COLUMNS, st.randoms(use_true_random=False))
def test_the_same_rows_in_any_order_have_exactly_no_drift(column, chance):
    assert psi(column, column) == 0
    assert psi(column, chance.sample(column, len(column))) == 0


@quick
@given(COLUMNS, st.data())
def test_an_index_is_finite_and_never_negative(column, data):
    other = data.draw(st.lists(st.sampled_from(column) | st.none(), min_size=1, max_size=40))
    found = psi(column, pa.array(other, pa.array(column).type))
    assert 0 <= found < math.inf


@quick
@given(st.lists(st.sampled_from("abc"), min_size=1), st.lists(st.sampled_from("abc"), min_size=1))
def test_the_index_is_symmetric(one, other):
    both = list("abc")
    assert psi(both + one, both + other) == pytest.approx(psi(both + other, both + one), abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(1000, 1000), (4000, 400), (400, 4000)])
@pytest.mark.parametrize(
    ("draw", "bins"),
    [
        (lambda random, rows: random.normal(size=rows), 10),
        (lambda random, rows: random.choice(list("abcde"), rows), 5),
        (lambda random, rows: random.choice([0.0, 0.0, 0.0, 1.0], rows), 2),
    ],
    ids=["normal", "category", "flag"],
)
def test_without_drift_the_mean_is_that_of_the_docstring(n, m, draw, bins):
    """Yurdakul (2018): (B - 1)(1/n + 1/m)."""
    random = np.random.default_rng(0)
    found = [psi(draw(random, n), draw(random, m)) for _ in range(150)]
    expected = (bins - 1) * (1 / n + 1 / m)
    error = np.std(found) / math.sqrt(150)
    assert abs(np.mean(found) - expected) < 5 * error + 0.1 * expected


def test_a_shift_has_the_index_of_its_distribution():
    """Deciles of N(0, 1) against a shift of half a standard deviation: 0.2377."""
    random = np.random.default_rng(0)
    found = psi(random.normal(size=100_000), random.normal(0.5, size=100_000))
    assert found == pytest.approx(0.2377, abs=0.01)


MOVES = {
    "a constant grows": ([5.0] * 100, [7.0] * 100),
    "a constant shrinks": ([5.0] * 100, [3.0] * 100),
    "a constant moves by one bit": ([5.0] * 100, [math.nextafter(5.0, 6.0)] * 100),
    "a rare flag comes up": ([0.0] * 95 + [1.0] * 5, [1.0] * 100),
    "a usual flag goes down": ([1.0] * 95 + [0.0] * 5, [0.0] * 100),
    "zeros become negative": ([0.0] * 95 + [1.0] * 5, [-1.0] * 100),
    "the least value shrinks": ([0.0] * 15 + [*range(1, 86)], [-1.0] * 15 + [*range(1, 86)]),
    "the largest value grows": ([*range(85)] + [85.0] * 15, [*range(85)] + [99.0] * 15),
    "a bool comes up": ([False] * 95 + [True] * 5, [True] * 100),
    "infinities go": ([math.inf] * 50 + [0.0] * 50, [0.0] * 100),
    "numbers come": ([None] * 100, [1.0] * 100),
    "numbers go": ([1.0] * 100, [None] * 100),
    "a category changes": (["a"] * 100, ["b"] * 100),
    "texts go": (["a"] * 100, [None] * 100),
    "nulls go": ([None, "a"] * 50, ["a"] * 100),
}


@pytest.mark.parametrize(("reference", "current"), MOVES.values(), ids=MOVES)
def test_no_column_can_move_unseen(reference, current):
    both = pa.array([*current, *reference])
    assert psi(both[len(current) :], both[: len(current)]) > 0.2


def test_a_constant_that_stays_has_no_drift():
    assert psi([5.0] * 100, [5.0] * 10) == 0
    assert psi(["a"] * 100, ["a"] * 10) == 0


@pytest.mark.parametrize(
    "current",
    [
        pa.table({"y": [1.0]}),
        pa.table({"x": ["1"]}),
        pa.table({"x": pa.array([1], pa.timestamp("us"))}),
        pa.table({"x": [[1.0]]}),
    ],
    ids=["missing", "text", "time", "list"],
)
def test_a_column_that_is_missing_or_of_another_kind_is_infinite(current):
    reference = pa.table({"x": [1.0, 2.0]})
    assert population_stability(reference, current, ["x"]) == {"x": math.inf}
    assert population_stability(current, reference, ["x"]) == {"x": math.inf}


@pytest.mark.parametrize(
    ("reference", "current"),
    [
        (pa.array([1, 2], pa.int8()), pa.array([1.0, 2.0])),
        (pa.array([2**60 + 1, 0]), pa.array([0, 2**60 + 1], pa.uint64())),
        (pa.array(["a", "b"]).dictionary_encode(), pa.array(["a", "b"], pa.large_string())),
        (pa.array(["a", "b"]), pa.array(["b", "a"], pa.string_view())),
        (pa.array([1, 2]).dictionary_encode(), pa.array([2, 1])),
    ],
)
def test_how_values_are_held_does_not_count(reference, current):
    assert psi(reference, current) == 0


def test_only_the_columns_asked_for_are_measured():
    rows = pa.table({"x": [1.0], "y": ["a"], "z": pa.array([1], pa.timestamp("us"))})
    assert population_stability(rows, rows, ["y", "x"]) == {"y": 0.0, "x": 0.0}
