"""Pictures of a model in use: readable whatever comes in, and the same for the same numbers."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from io import BytesIO

import numpy as np
import pyarrow as pa
import pytest
from scipy import ndimage

import mlct
from mlct.errors import DataError
from mlct.monitoring.performance import Performance
from mlct.monitoring.plot import heat_map, overlays, timeline

START = datetime(2024, 1, 1, tzinfo=UTC)
BLUE, RED, GREY = "#0072b2", "#c1272d", "#d9d9d9"


def day(number):
    return START + timedelta(days=number)


def pixels(png):
    from matplotlib.image import imread

    assert png.startswith(b"\x89PNG")
    assert len(png) < 150_000
    found = imread(BytesIO(png))
    assert found.shape[1] == 704
    return (found[..., :3] * 255).round().astype(int)


def painted(png, colour):
    """Pixels of just this colour."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((pixels(png) == rgb).all(axis=2).sum())


def places(one, other):
    """In how many places two pictures differ."""
    one, other = pixels(one), pixels(other)
    if one.shape != other.shape:
        return None
    return ndimage.label((one != other).any(axis=2), np.ones((3, 3)))[1]


def cell(psi=0.01, threshold=0.05, status="ok", importance=0.1):
    return {"psi": psi, "threshold": threshold, "status": status, "importance": importance}


def windows(count=6, columns=4, **special):
    """All "ok", but for `name_number`: a cell of that window."""
    found = [
        {"end": day(n), "columns": {f"c{c}": cell(importance=1 / (c + 1)) for c in range(columns)}}
        for n in range(count)
    ]
    for at, changed in special.items():
        name, number = at.split("_")
        found[int(number)]["columns"][name] = changed
    return found


# heat_map


@pytest.mark.parametrize("status", ["drifted", "missing", "changed", "incomparable"])
def test_every_cell_that_drifted_or_broke_has_a_mark_and_no_other(status):
    marked = {"c0_0": cell(status=status), "c1_3": cell(status=status), "c3_5": cell(status=status)}
    assert places(heat_map(windows()), heat_map(windows(**marked))) == 3
    assert heat_map(windows(**marked)) == heat_map(windows(**marked))


def test_grey_is_what_is_not_known():
    plain = painted(heat_map(windows()), GREY)
    for unknown in (
        cell(status="insufficient"),
        cell(psi=None),
        cell(psi=np.nan),
        cell(threshold=None),
        cell(threshold=0.0),
        {},
    ):
        assert painted(heat_map(windows(c1_2=unknown)), GREY) > plain + 500, unknown


def test_above_its_threshold_a_cell_turns_red_however_small_its_index():
    small, large = cell(psi=0.002, threshold=0.001), cell(psi=0.5, threshold=0.6)

    def warm(png):
        rgb = pixels(png)
        return int((rgb[..., 0] > rgb[..., 2] + 60).sum())

    quiet = warm(heat_map(windows()))
    assert warm(heat_map(windows(c1_2=small))) > quiet + 500
    assert warm(heat_map(windows(c1_2=large))) == quiet
    assert warm(heat_map(windows(c1_2=cell(psi=np.inf)))) > quiet + 500


def test_without_thresholds_the_colour_is_the_index():
    found = [{"end": day(0), "columns": {n: cell(psi=p, threshold=None)}} for n, p in [("a", 0.3)]]
    other = [{"end": day(0), "columns": {"a": cell(psi=0.001, threshold=None)}}]
    assert heat_map(found) != heat_map(other)
    assert painted(heat_map(found), GREY) == painted(heat_map(other), GREY)


def test_the_most_important_column_is_on_top_and_windows_are_in_order():
    top, bottom = cell(status="drifted", importance=9), cell(status="drifted", importance=0.001)

    def height(special):
        changed = cell(importance=special["importance"])
        one, other = (pixels(heat_map(windows(c2_5=c))) for c in (special, changed))
        return np.nonzero((one != other).any(axis=2))[0].mean()

    assert height(top) < height(bottom) - 50
    assert heat_map(windows()[::-1]) == heat_map(windows())


def test_only_the_newest_windows_and_the_most_important_columns_are_drawn():
    many = windows(count=61, columns=31)
    drawn = heat_map(many)
    assert heat_map([{**many[0], "columns": {"c0": cell(status="drifted")}}, *many[1:]]) == drawn
    many[60]["columns"]["c29"] = cell(status="drifted", importance=1 / 30)
    assert places(drawn, heat_map(many)) == 1
    # It is said that a column which is left out drifted.
    many = windows(count=61, columns=31)
    many[60]["columns"]["c30"] = cell(status="drifted", importance=1 / 31)
    assert places(drawn, heat_map(many)) == 1
    assert heat_map(windows(count=60, columns=31)) != drawn
    assert pixels(heat_map(windows(columns=60))).shape == pixels(drawn).shape


def test_windows_are_named_by_their_start_as_partitions_are():
    week, longer, later = (
        [{**windows(1)[0], **w}]
        for w in (
            {"start": day(0), "end": day(7)},
            {"start": day(0), "end": day(9)},
            {"start": day(1), "end": day(7)},
        )
    )
    assert heat_map(week) == heat_map(longer) != heat_map(later)
    longer, later = (result("realised", 7, 0.7, **w) for w in ({"end": day(9)}, {"start": day(1)}))
    others = [result("realised", 21, 0.7), result("realised", 28, 0.7)]
    week = result("realised", 7, 0.7)
    assert timeline([week, *others]) == timeline([longer, *others]) != timeline([later, *others])


def test_one_window_alone_does_not_stand_among_years():
    week, hour = (result("realised", 7, 0.7, start=day(0), end=e) for e in (day(7), day(1 / 24)))
    assert timeline([week]) != timeline([hour])


def test_a_heat_map_of_nothing_says_so():
    assert heat_map([]) == heat_map([{"end": START, "columns": {}}])
    assert pixels(heat_map([])).min() < 150


@pytest.mark.parametrize("window", [{}, {"end": "2024-01-01", "columns": {}}, {"end": START}])
def test_a_window_that_is_none_is_refused(window):
    with pytest.raises(DataError, match="a window with"):
        heat_map([window])


# overlays


def table(rows=4_000, seed=0, shift=0.0):
    random = np.random.default_rng(seed)
    text = random.choice(["UA", "AA", "DL", "$\\bad$"], rows, p=[0.4, 0.3, 0.2, 0.1]).astype(object)
    text[random.random(rows) < 0.1 * shift] = "unheard of"
    number = random.normal(size=rows) + shift
    return pa.table(
        {
            "number": number,
            "whole": random.integers(0, 24, rows) + int(shift),
            "flag": random.random(rows) < 0.2,
            "text": pa.array(text.tolist()),
            "time": pa.array(random.integers(10**15, 2 * 10**15, rows), pa.timestamp("us")),
            "waited": pa.array(random.integers(0, 10**9, rows), pa.duration("us")),
            "gone": pa.array(np.where(random.random(rows) < 0.2, np.nan, number), from_pandas=True),
            "infinite": np.where(random.random(rows) < 0.3, np.inf, number),
            "huge": np.where(random.random(rows) < 0.5, 1e308, -1e308),
            "constant": np.full(rows, 1e16),
            "empty": pa.array([None] * rows, pa.float64()),
            "list": pa.array([[1]] * rows),
        }
    )


REFERENCE = mlct.profile(table())
WINDOW = mlct.profile(table(1_000, 1, 1.0), edges_from=REFERENCE)


@pytest.mark.parametrize("name", sorted(REFERENCE.columns))
def test_a_column_of_any_kind_has_a_panel_or_a_reason(name):
    png = overlays(REFERENCE, WINDOW, [name])
    drawn = painted(png, BLUE) - painted(overlays(REFERENCE, WINDOW, ["list"]), BLUE)
    assert (drawn > 300) == (name not in ("list", "empty"))
    assert overlays(REFERENCE, WINDOW, [name]) == png


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_column_that_is_asked_for_is_drawn(count):
    names = ["number", "text", "flag", "gone"][:count]
    least = painted(overlays(REFERENCE, WINDOW, ["list"] * count), BLUE) + 200 * count
    assert painted(overlays(REFERENCE, WINDOW, names), BLUE) > least


def test_more_than_four_columns_are_cut_and_that_is_said():
    four = overlays(REFERENCE, WINDOW, ["number", "text", "flag", "gone"])
    five = overlays(REFERENCE, WINDOW, ["number", "text", "flag", "gone", "whole"])
    six = overlays(REFERENCE, WINDOW, ["number", "text", "flag", "gone", "whole", "time"])
    assert pixels(five).shape == pixels(four).shape
    assert five != four
    assert places(five, six) == 1


def test_missing_values_and_unseen_categories_have_a_bar_where_there_are_any():
    same = table(1_000, 2)
    lacking = same.set_column(0, "number", pa.array([None, *same["number"].to_pylist()[1:]]))
    unheard = same.set_column(3, "text", pa.array(["new", *same["text"].to_pylist()[1:]]))
    for name, changed in (("number", lacking), ("text", unheard)):
        before, after = (mlct.profile(t, edges_from=REFERENCE) for t in (same, changed))
        assert overlays(REFERENCE, before, [name]) != overlays(REFERENCE, after, [name])


def test_the_bars_of_a_text_hold_every_row_once():
    from mlct.monitoring.plot.overlay import _bars

    usual = [chr(97 + n) for n in range(10) for _ in range(10 + n)]
    reference = mlct.profile(pa.table({"t": [*usual, None]}))
    rows = ["a"] * 50 + ["j"] * 3 + ["b", "c", None, None, "x", "x", "y"]
    window = mlct.profile(pa.table({"t": rows}), edges_from=reference)
    bars = _bars(reference.columns["t"], window.columns["t"])
    found = {name: (before, now) for name, before, now in bars}
    assert list(found)[:2] == ["a", "j"]
    assert list(found)[8:] == ["(other)", "(unseen)", "(missing)"]
    assert found["(other)"] == (11 + 12, 2)  # b and c
    assert found["(unseen)"] == (0, 3)
    assert found["(missing)"] == (1, 2)
    assert [sum(side) for side in zip(*found.values(), strict=True)] == [len(usual) + 1, len(rows)]


def test_a_histogram_loses_no_row():
    from mlct.monitoring.plot.overlay import _edges, _shares, _whole

    for name in ("number", "whole", "flag", "time", "gone", "infinite", "huge", "constant"):
        old, new = REFERENCE.columns[name], WINDOW.columns[name]
        edges = _edges([old.values, new.values], whole=_whole(old.values))
        assert (np.diff(edges) > 0).all(), name
        for column in (old, new):
            shares = _shares(column, edges)
            assert (shares >= 0).all()
            assert shares.sum() + column.missing / column.rows == pytest.approx(1), name


def test_whole_numbers_have_bins_of_as_many_values():
    from mlct.monitoring.plot.overlay import _edges, _shares

    column = REFERENCE.columns["whole"]
    edges = _edges([column.values], whole=True)
    assert edges.tolist() == [n - 0.5 for n in range(25)]
    counts = np.bincount(table()["whole"].to_numpy())
    assert _shares(column, edges) == pytest.approx(counts / counts.sum())


def test_a_far_window_does_not_flatten_the_reference():
    from mlct.monitoring.plot.overlay import _edges

    far = mlct.profile(pa.table({"number": np.full(100, 1e9)}), edges_from=REFERENCE)
    old = REFERENCE.columns["number"].values
    edges = _edges([old, far.columns["number"].values], whole=False)
    assert np.ptp(edges) < 4 * (old.high - old.low)


@pytest.mark.parametrize(
    ("window", "name"),
    [
        (WINDOW, "nowhere"),
        (mlct.profile(pa.table({"flag": [True]})), "number"),
        (mlct.profile(pa.table({"number": ["text"]})), "number"),
        (mlct.profile(pa.table({"number": [1.0, 2.0]})), "number"),
        (mlct.profile(table().slice(0, 0), edges_from=REFERENCE), "number"),
        (mlct.profile(table().slice(0, 0), edges_from=REFERENCE), "text"),
    ],
)
def test_a_column_that_cannot_be_drawn_leaves_the_others(window, name):
    alone, nothing = (overlays(REFERENCE, window, n) for n in ([name], ["list"]))
    assert abs(painted(alone, BLUE) - painted(nothing, BLUE)) < 100
    both = overlays(REFERENCE, WINDOW, ["number", name if name == "nowhere" else "list"])
    assert painted(both, BLUE) > painted(alone, BLUE) + 200


def test_a_column_that_went_missing_altogether_is_a_bar_of_its_own():
    lost = pa.table({n: pa.nulls(100) for n in ("number", "text")})
    window = mlct.profile(lost, edges_from=REFERENCE)
    for name in ("number", "text"):
        nothing = painted(overlays(REFERENCE, window, ["list"]), BLUE)
        assert painted(overlays(REFERENCE, window, [name]), BLUE) > nothing + 200


def test_reasons_are_written_and_no_formula():
    reasons = {"number": "number moved: PSI $\\bad$ " + "very " * 60}
    assert overlays(REFERENCE, WINDOW, ["number"], reasons=reasons) != overlays(
        REFERENCE, WINDOW, ["number"]
    )


def test_overlays_of_nothing_say_so():
    assert pixels(overlays(REFERENCE, WINDOW, [])).min() < 150


def test_coarse_profiles_can_be_drawn():
    coarse = REFERENCE.coarse()
    window = mlct.profile(table(500, 3), edges_from=coarse)
    names = ["number", "flag", "gone", "infinite"]
    assert painted(overlays(coarse, window, names), BLUE) > 1_000


# timeline


def result(kind, number, value=None, half=0.02, **rest):
    bounds = {} if value is None or half is None else {"lower": value - half, "upper": value + half}
    given = {"metric": "roc_auc", "reason": "", "start": day(number - 7), "end": day(number)}
    return Performance(kind=kind, value=value, **{**given, **bounds, **rest})


def history(realised=6, estimated=8):
    return [
        *(result("realised", 7 * n, 0.74 - 0.01 * n) for n in range(realised)),
        *(result("estimated", 7 * n, 0.73) for n in range(estimated)),
        *(
            result("unknown", 7 * n, until=day(7 * n + 30))
            for n in range(realised, max(realised, estimated))
        ),
    ]


@pytest.mark.parametrize("limit", [None, 0.71])
@pytest.mark.parametrize("moves", [(), [(day(3), "version 2"), (day(20), "version 3")]])
@pytest.mark.parametrize(("realised", "estimated"), [(6, 8), (1, 0), (0, 1), (0, 0)])
def test_any_history_can_be_drawn_and_is_always_the_same(realised, estimated, limit, moves):
    found = history(realised, estimated)
    png = timeline(found, limit=limit, moves=moves)
    assert pixels(png).min() < 150
    assert timeline(found[::-1], limit=limit, moves=moves) == png


@pytest.mark.parametrize(
    ("value", "half", "bigger_is_better", "red"),
    [
        (0.60, 0.02, True, True),
        (0.60, None, True, True),
        (0.60, 0.2, True, False),
        (0.60, 0.02, False, False),
        (0.80, 0.02, True, False),
        (0.80, 0.02, False, True),
        (0.80, 0.2, False, False),
    ],
)
def test_red_is_a_value_that_is_shown_to_be_beyond_the_limit(value, half, bigger_is_better, red):
    found = [result("realised", 7, value, half)]
    how = {"limit": 0.7, "bigger_is_better": bigger_is_better}
    estimate = [result("estimated", 7, value, half)]  # never red: it has only the limit's line
    more = painted(timeline(found, **how), RED) - painted(timeline(estimate, **how), RED)
    assert (more > 20) == red


def test_an_unknown_window_is_a_mark_until_its_labels_are_there():
    open_, closed = result("unknown", 7, until=day(40)), result("realised", 7, 0.7)
    before = [result("realised", 0, 0.7)]
    marked = timeline([*before, open_])
    assert marked != timeline([*before, result("unknown", 7, until=day(50))])
    assert marked != timeline([*before, result("unknown", 7)])
    assert timeline([*before, closed, open_]) == timeline([*before, closed])


def test_a_result_that_is_computed_again_counts_once():
    first, again = result("realised", 7, 0.6), result("realised", 7, 0.7)
    assert timeline([first, again]) == timeline([again])


def test_one_wide_interval_does_not_flatten_the_others():
    found = [result("realised", 7 * n, 0.7 + 0.01 * (n % 2)) for n in range(8)]
    wide = [*found[:-1], result("realised", 49, 0.71, half=0.5)]

    def tallest(png):
        blue = (pixels(png) == [0x00, 0x72, 0xB2]).all(axis=2)
        return max(
            np.ptp(np.flatnonzero(column)) for column in blue[:300, 80:500].T if column.any()
        )

    assert tallest(timeline(wide)) > 30


def test_moves_are_marked_where_the_windows_are():
    found = history()
    bare = timeline(found)
    assert timeline(found, moves=[(day(10), "version 2")]) != bare
    near = [(day(10), "version 2"), (day(10), "version 3")]
    assert timeline(found, moves=near) == timeline(found, moves=near[::-1])
    old = [(day(-90), "version 1"), (day(-80), "version 2")]
    assert timeline(found, moves=old) == timeline(found, moves=old[1:])
    assert timeline(found, moves=[(day(10), "$\\bad$ " * 20)]) != bare


@pytest.mark.parametrize(
    ("performances", "how", "found"),
    [
        ([result("realised", 0, 0.7), result("realised", 0, 0.7, metric="mae")], {}, "mae"),
        ([result("realised", 0, 0.7, end=None)], {}, "no window"),
        ([result("realised", 0, 0.7)], {"limit": np.nan}, "nan"),
        ([], {"limit": np.inf}, "inf"),
    ],
)
def test_what_cannot_be_one_line_is_refused(performances, how, found):
    with pytest.raises(DataError, match=found):
        timeline(performances, **how)


def test_a_timeline_of_nothing_says_so():
    assert pixels(timeline([])).min() < 150


def test_matplotlib_is_loaded_when_it_is_used_and_pyplot_never():
    code = (
        "import sys; from mlct.monitoring import plot; print('matplotlib' in sys.modules); "
        "plot.heat_map([]); print('matplotlib.pyplot' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]
