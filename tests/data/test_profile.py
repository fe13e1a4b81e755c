"""Profiles: what is counted is exact, merging is addition, and no input is too odd."""

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import reduce
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlct
from mlct.data.profile import Profile, categories, edges, profile
from mlct.errors import DataError

quick = settings(deadline=None, max_examples=40)
GOLDEN = Path(__file__).parent / "golden" / "profile-v1.json"


def rows(size, seed=0):
    random = np.random.default_rng(seed)
    return pa.table(
        {
            "x": random.normal(size=size),
            "f": random.lognormal(size=size).astype(np.float32),
            "i": random.poisson(2, size),
            "b": random.random(size) < 0.1,
            "s": random.choice(list("abcde"), size),
            "id": [f"user {n}" for n in random.integers(0, 10**6, size)],
            "t": pa.array(random.integers(0, 10**15, size), pa.timestamp("us", "UTC")),
        }
    )


ROWS = rows(5000)
REFERENCE = profile(ROWS)


def on(column, other):
    """The values of a window's column on the edges of a reference's."""
    reference = profile(pa.table({"x": column}))
    return profile(pa.table({"x": other}), edges_from=reference).columns["x"].values


def test_a_window_costs_no_edges_and_the_reference_is_a_window_of_itself():
    assert profile(ROWS, edges_from=REFERENCE) == REFERENCE


def test_moments_agree_with_numpy():
    for name in ("x", "f", "i", "b"):
        values = ROWS[name].to_numpy().astype(float)
        found = REFERENCE.columns[name].values
        assert found.mean == pytest.approx(values.mean(), rel=1e-12)
        assert found.variance == pytest.approx(values.var(), rel=1e-12)
        assert (found.low, found.high) == (values.min(), values.max())
        assert found.zeros == (values == 0).sum()


def test_moments_are_stable_far_from_zero():
    values = 1e9 + np.random.default_rng(0).normal(size=10_000)
    found = on(values, values)
    assert found.mean == pytest.approx(values.mean(), rel=1e-15)
    assert found.variance == pytest.approx(values.var(), rel=1e-9)


@pytest.mark.parametrize("name", ["x", "f", "i", "b"])
def test_counts_agree_with_numpy(name):
    values = ROWS[name].to_numpy().astype(float)
    found = REFERENCE.columns[name].values
    ends = np.concatenate([[-np.inf], found.edges.knots, [np.inf]])
    assert found.counts.tolist() == [
        ((values >= a) & (values < b)).sum() for a, b in pairwise(ends)
    ]


def test_bins_are_equally_full():
    assert REFERENCE.columns["x"].values.bins.tolist() == pytest.approx([500] * 10, abs=1)


def test_coarse_profiles_count_the_same_bins():
    coarse = profile(ROWS, edges_from=REFERENCE.coarse())
    for name in ("x", "f", "i", "b", "t"):
        a, b = coarse.columns[name].values, REFERENCE.columns[name].values
        assert a.counts.tolist() == b.bins.tolist()
        assert (a.zeros, a.low, a.high, a.finite) == (b.zeros, b.low, b.high, b.finite)
        assert a.variance == pytest.approx(b.variance, rel=1e-12)


FLOATS = st.floats(width=32) | st.sampled_from(
    [-0.0, math.inf, -math.inf, math.nan, 1.7976931348623157e308, -1e308, 3.4028234663852886e38]
)
TABLES = st.lists(
    st.tuples(st.none() | FLOATS, st.none() | st.sampled_from(["a", "b", "ü", "", "z" * 99])),
    max_size=30,
).map(
    lambda pairs: pa.table(
        {
            "x": pa.array([x for x, _ in pairs], pa.float64()),
            "s": pa.array([s for _, s in pairs], pa.string()),
        }
    )
)


@quick
@given(st.data(), st.booleans())
def test_merging_is_associative_commutative_and_survives_bytes(data, coarse):
    tables = data.draw(st.lists(TABLES, min_size=2, max_size=4))
    reference = profile(data.draw(TABLES))
    reference = reference.coarse() if coarse else reference
    windows = [profile(t, edges_from=reference) for t in tables]
    whole = reduce(Profile.merge, windows).to_bytes()
    shuffled = [Profile.from_bytes(w.to_bytes()) for w in data.draw(st.permutations(windows))]
    head, *rest = shuffled
    assert head.merge(reduce(Profile.merge, rest)).to_bytes() == whole
    assert reduce(Profile.merge, shuffled).to_bytes() == whole
    assert Profile.from_bytes(whole).to_bytes() == whole


@quick
@given(st.lists(TABLES, min_size=1, max_size=4))
def test_merged_windows_count_what_their_rows_together_do(tables):
    reference = profile(tables[0])
    merged = reduce(Profile.merge, [profile(t, edges_from=reference) for t in tables])
    whole = profile(pa.concat_tables(tables), edges_from=reference)
    assert merged.rows == whole.rows
    for name in ("x", "s"):
        a, b = merged.columns[name], whole.columns[name]
        assert (a.nulls, a.missing, a.types) == (b.nulls, b.missing, b.types)
        assert a.values.counts.tolist() == b.values.counts.tolist()
    a, b = merged.columns["x"].values, whole.columns["x"].values
    for field in ("finite", "nan", "negative", "positive", "zeros", "low", "high"):
        assert getattr(a, field) == getattr(b, field)


def test_the_day_s_profiles_make_the_week_s():
    days = [profile(rows(700, seed), edges_from=REFERENCE) for seed in range(7)]
    week = reduce(Profile.merge, days)
    whole = profile(pa.concat_tables([rows(700, seed) for seed in range(7)]), edges_from=REFERENCE)
    for name, column in week.columns.items():
        other = whole.columns[name].values
        assert column.values.counts.tolist() == other.counts.tolist()
        if name in ("s", "id"):
            assert (column.values.new, column.values.limit) == (other.new, other.limit)
        else:
            assert column.values.variance == pytest.approx(other.variance, rel=1e-12)


def test_windows_on_other_edges_do_not_merge():
    other = profile(rows(5000, seed=1))
    with pytest.raises(DataError, match="edges_from"):
        REFERENCE.merge(other)
    with pytest.raises(DataError, match="'b'"):
        REFERENCE.merge(profile(ROWS, edges_from=REFERENCE.coarse()))


def test_a_window_of_another_kind_does_not_lose_the_others():
    odd = ROWS.set_column(0, "x", ROWS["s"])
    merged = profile(odd, edges_from=REFERENCE).merge(REFERENCE)
    assert merged.columns["x"].kind == "mixed"
    assert merged.columns["x"].types == ("double", "string")
    assert merged.columns["f"].values.finite == 10_000


def test_a_column_that_is_absent_or_empty_merges():
    empty = profile(pa.table({"x": [None] * 3}), edges_from=REFERENCE)
    merged = empty.merge(REFERENCE)
    assert merged == REFERENCE.merge(empty)
    assert (merged.rows, merged.columns["x"].nulls, merged.columns["f"].rows) == (5003, 3, 5000)


# --- categories beyond what fits ---


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(categories, "KNOWN", 50)
    monkeypatch.setattr(categories, "NEW", 20)
    monkeypatch.setattr(categories, "_FREQUENT", 5)


def names(random, size, many, offset=0):
    return [f"v{n + offset}" for n in random.integers(0, many, size)]


@pytest.mark.usefixtures("few")
def test_of_too_many_categories_a_fair_sample_and_the_frequent_ones_are_counted():
    random = np.random.default_rng(0)
    texts = names(random, 4000, 1000) + ["often"] * 400
    found = profile(pa.table({"s": texts})).columns["s"].values
    assert 50 <= len(found.vocabulary.values) <= 55
    known = dict(zip(found.vocabulary.values, found.counts.tolist(), strict=True))
    assert all(texts.count(name) == count for name, count in known.items())
    assert known["often"] == 400
    assert found.rest == len(texts) - sum(known.values())
    distinct = sum(
        h < found.limit for h in categories.hashes(pa.array(sorted(set(texts)))).tolist()
    )
    assert distinct == sum(h < found.limit for h in found.vocabulary.hashes.tolist())


@pytest.mark.usefixtures("few")
@quick
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_memory_stays_bounded_and_order_does_not_matter(seed, parts):
    random = np.random.default_rng(seed)
    reference = profile(pa.table({"s": names(random, 500, 200)}))
    texts = names(random, 600, 400, offset=150)
    whole = profile(pa.table({"s": texts}), edges_from=reference)
    size = 600 // parts
    windows = [
        profile(pa.table({"s": texts[at : at + size]}), edges_from=reference)
        for at in range(0, 600, size)
    ]
    random.shuffle(windows)
    assert reduce(Profile.merge, windows) == whole
    assert len(whole.columns["s"].values.new) <= 20


def test_hashes_do_not_depend_on_where_a_text_stands():
    texts = pa.array(["", "a", "ab", "ü", "a" * 70, "b"])
    found = categories.hashes(texts)
    assert len(set(found.tolist())) == 6
    assert categories.hashes(texts.slice(2, 3)).tolist() == found[2:5].tolist()
    assert found[1] == 0xD80391FFB30D1390  # stored limits are of these


def test_long_texts_are_shortened_and_told_apart():
    texts = ["x" * 500 + end for end in "aab"]
    found = profile(pa.table({"s": texts})).columns["s"].values
    assert sorted(found.counts.tolist()) == [1, 2]
    assert max(map(len, found.vocabulary.values)) < 64


# --- inputs ---


def inputs(folder):
    pq.write_table(ROWS, folder / "a.parquet", row_group_size=700)
    pq.write_table(ROWS.slice(0, 2000), folder / "part-0.parquet")
    pq.write_table(ROWS.slice(2000), folder / "part-1.parquet")
    yield "file", ds.dataset(folder / "a.parquet")
    yield "files", ds.dataset([str(folder / "part-0.parquet"), str(folder / "part-1.parquet")])
    yield "in memory", ds.dataset(ROWS)
    yield (
        "filtered",
        ds.dataset([str(folder / "a.parquet"), str(folder / "a.parquet")]).filter(
            pc.field("x") > math.inf
        ),
    )
    yield "reader", pa.RecordBatchReader.from_batches(ROWS.schema, ROWS.to_batches(700))
    yield "frame", ROWS.to_pandas()
    yield "batch", ROWS.combine_chunks().to_batches()[0]


def test_every_input_gives_the_same_profile(tmp_path):
    for name, data in inputs(tmp_path):
        found = mlct.profile(data)
        if name == "filtered":
            assert found.rows == 0
            continue
        assert found.rows == 5000, name
        for column, wanted in REFERENCE.columns.items():
            values = found.columns[column].values
            assert values.counts.tolist() == wanted.values.counts.tolist(), (name, column)


def test_batches_of_any_size_are_counted_on_given_edges():
    reader = pa.RecordBatchReader.from_batches(ROWS.schema, ROWS.to_batches(17))
    found = profile(reader, edges_from=REFERENCE)
    for column, wanted in REFERENCE.columns.items():
        assert found.columns[column].values.counts.tolist() == wanted.values.counts.tolist()


def test_a_reader_s_temporary_file_goes(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    profile(pa.RecordBatchReader.from_batches(ROWS.schema, ROWS.to_batches()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([1, None, 3], pa.uint64()), "number"),
        (pa.array([1.5, math.nan, math.inf], pa.float16()), "number"),
        (pa.array([Decimal("1.50"), None]), "number"),
        (pa.array([True, False, None]), "number"),
        (pa.array([1, 2, 1]).dictionary_encode(), "number"),
        (pa.array([datetime(2013, 1, 1, tzinfo=UTC)]), "time"),
        (pa.array([datetime(2013, 1, 1, tzinfo=UTC).date(), None]), "time"),
        (pa.array([timedelta(days=1)]), "time"),
        (pa.array(["a", None, "b"]).dictionary_encode(), "category"),
        (pa.array(["a", None], pa.large_string()), "category"),
        (pa.array(["a", None], pa.string_view()), "category"),
        (pa.array([None, None]), "missing"),
        (pa.array([[1], None]), "other"),
        (pa.array([b"a", None]), "other"),
        (pa.array([], pa.float64()), "number"),
    ],
    ids=lambda v: str(v.type) if isinstance(v, pa.Array) else v,
)
def test_every_type_has_a_kind(column, kind):
    found = profile(pa.table({"x": column, "y": pa.array([1.0] * len(column), pa.float64())}))
    assert found.columns["x"].kind == kind
    assert found.columns["x"].nulls == column.null_count
    assert found.columns["y"].values.finite == len(column)
    assert Profile.from_bytes(found.to_bytes()) == found


def test_times_count_alike_in_every_unit():
    stamps = pa.array([datetime(2013, 1, day, tzinfo=UTC) for day in range(1, 20)])
    for unit in ("s", "ms", "ns"):
        assert on(stamps, stamps.cast(pa.timestamp(unit, "UTC"))).counts.max() == 1


def test_slices_and_nulls_are_read_where_they_stand():
    column = pa.array([None, 1.0, None, 2.0, 3.0, math.nan, -math.inf]).slice(1)
    found = profile(pa.table({"x": column})).columns["x"]
    assert (found.nulls, found.missing, found.values.finite) == (1, 2, 3)
    assert (found.values.low, found.values.high, found.values.negative) == (1, 3, 1)
    coded = pa.array(["z", "a", None, "b", "a"]).dictionary_encode().slice(1)
    values = profile(pa.table({"x": coded})).columns["x"].values
    assert dict(zip(values.vocabulary.values, values.counts.tolist(), strict=True)) in (
        {"a": 2, "b": 1},
        {"a": 2, "b": 1, "z": 0},
    )


def test_a_frame_with_a_column_of_mixed_objects_keeps_the_others():
    found = profile(pd.DataFrame({"x": [1.0, 2.0], "o": [object(), None], 3: [1, 2]}))
    assert (found.columns["o"].kind, found.columns["o"].nulls) == ("other", 1)
    assert found.columns["x"].values.finite == found.columns["3"].values.finite == 2


def test_a_sample_chooses_edges_but_counts_are_exact(monkeypatch):
    monkeypatch.setattr(edges, "SAMPLE", 1000)
    found = profile(ROWS).columns["x"].values
    assert found.counts.sum() == 5000
    assert found.bins.tolist() == pytest.approx([500] * 10, abs=150)


def test_sums_beyond_a_double_are_unknown_rather_than_wrong():
    found = on([1.0, 2.0], [1e308] * 20)
    assert (found.finite, found.high, found.variance) == (20, 1e308, None)


@pytest.mark.parametrize("data", [[1, 2], {"x": [1]}, None, "rows.parquet"])
def test_other_inputs_are_refused(data):
    with pytest.raises(DataError, match="cannot be profiled"):
        profile(data)


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(DataError, match="two columns 'x'"):
        profile(pa.table([[1], [2]], names=["x", "x"]))


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"format": "mlct.profile/v9"}'])
def test_other_bytes_are_refused(data):
    with pytest.raises(DataError, match=r"mlct\.profile/v1"):
        Profile.from_bytes(data)


def golden():
    table = pa.table(
        {
            "x": [0.0, -1.5, 2.25, None, math.nan, math.inf, 1e9],
            "s": ["a", "b", "a", None, "ü", "", "a"],
            "t": pa.array([0, 1, 2, 3, 4, 5, None], pa.timestamp("us")),
            "l": [[1]] * 7,
        }
    )
    window = pa.table({"x": [1.0, 3.0], "s": ["new", "a"]})
    reference = profile(table)
    return reference.merge(profile(window, edges_from=reference))


def test_the_format_stays_readable():
    """Stored profiles outlive the code that wrote them."""
    assert Profile.from_bytes(GOLDEN.read_bytes()) == golden()
    assert golden().to_bytes() == GOLDEN.read_bytes()


@pytest.mark.parametrize("other", ["training rows", None, pa.table({"x": [1.0]})], ids=type)
def test_what_is_no_profile_is_named(other):
    one = profile(pa.table({"x": [1.0, 2.0]}))
    with pytest.raises(DataError, match=r"merge is a .*Expected a Profile"):
        one.merge(other)
    if other is not None:
        with pytest.raises(DataError, match=r"edges_from is a .*Expected a Profile"):
            profile(pa.table({"x": [1.0]}), edges_from=other)
