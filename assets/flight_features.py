"""What the desk knows about a flight two hours before its scheduled departure."""

import warnings
from datetime import timedelta

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assets.nycflights import MINUTE, months, of_month

LEAD = 120 * MINUTE  # a flight is scored this long before its scheduled departure
RECENT = 180 * MINUTE  # the departures of these hours show how the airport is running
STALE = 240 * MINUTE  # an older weather report says nothing
LATE = 15  # minutes after the scheduled arrival

KEYS = ("flight_id", "scheduled_departure", "arrived_at", "late")
CATEGORIES = ("carrier", "origin", "dest")
SCHEDULE = ("hour", "minute", "weekday", "distance")
PLANE = ("plane_age", "seats")
WIND = ("wind_dir", "wind_speed", "wind_gust")
WEATHER = ("temp", "dewp", "humid", *WIND, "precip", "pressure", "visib")
FEATURES = (*CATEGORIES, *SCHEDULE, *PLANE, *WEATHER, "recent_delay")

with warnings.catch_warnings(action="ignore", category=dg.BetaWarning):
    with_previous_month = dg.TimeWindowPartitionMapping(
        start_offset=-1,
        allow_nonexistent_upstream_partitions=True,  # beta, but January has no month before it
    )


@dg.asset(
    partitions_def=months,
    io_manager_key="snapshots",
    group_name="nycflights",
    # A month comes within two weeks of its end.
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=45)),
    ins={
        "flights": dg.AssetIn(partition_mapping=with_previous_month),
        "weather": dg.AssetIn(partition_mapping=with_previous_month),
    },
)
def flight_features(
    context: dg.AssetExecutionContext, flights: pa.Table, weather: pa.Table, planes: pa.Table
) -> pa.Table:
    """One row a flight, as known two hours before; the month before feeds its first hours."""
    rows = features(flights, weather, planes)
    return of_month(rows, "scheduled_departure", context.partition_key)


def features(flights: pa.Table, weather: pa.Table, planes: pa.Table) -> pa.Table:
    """The feature table, sorted by (scheduled_departure, flight_id).

    Let T be the scheduled departure. A row holds what is known at T - 2 h: the schedule, the
    aircraft, the newest weather report of the origin, and `recent_delay`, the mean departure
    delay in minutes of the flights that left the origin in [T - 5 h, T - 2 h). The label `late`
    (1 = 15 minutes or more at arrival) becomes known at `arrived_at`; both are null for the
    flights that never arrive. Knows nothing of Dagster.
    """
    flights = flights.sort_by([("scheduled_departure", "ascending"), ("flight_id", "ascending")])
    scheduled = flights["scheduled_departure"]
    local = scheduled.cast(pa.timestamp("us", tz="America/New_York"))
    plane = planes.take(pc.index_in(flights["tailnum"], planes["tailnum"].combine_chunks()))
    columns = {
        "flight_id": flights["flight_id"],
        "scheduled_departure": scheduled,
        "arrived_at": flights["arrived_at"],
        "late": pc.greater_equal(flights["arr_delay"], LATE).cast(pa.int8()),
        **{name: flights[name] for name in CATEGORIES},
        "hour": flights["hour"],
        "minute": flights["minute"],
        "weekday": pc.day_of_week(local),  # Monday is 0
        "distance": flights["distance"].cast(pa.float64()),
        "plane_age": pc.subtract(pc.year(local), plane["year"]).cast(pa.float64()),
        "seats": plane["seats"].cast(pa.float64()),
    }
    report = weather.take(_newest_report(flights, weather))
    columns |= {name: report[name].cast(pa.float64()) for name in WEATHER}
    return pa.table(columns | {"recent_delay": _recent_delay(flights)})


def _newest_report(flights: pa.Table, weather: pa.Table) -> pa.Array:
    """For each flight the row of the newest report of its origin at T - 2 h, null if stale."""
    airports = flights["origin"].unique()
    now = _timeline(flights["origin"], flights["scheduled_departure"], airports) - LEAD
    times = _timeline(weather["origin"], weather["observed_at"], airports)
    order = np.argsort(times)
    times = np.concatenate([[-(2**62)], times[order]])  # no report at all is a very old one
    newest = np.searchsorted(times, now, side="right") - 1
    row = np.concatenate([[0], order])[newest]
    return pa.array(row, mask=now - times[newest] > STALE)


def _recent_delay(flights: pa.Table) -> pa.Array:
    """For each flight the mean delay of the flights that left its origin in [T - 5 h, T - 2 h)."""
    airports = flights["origin"].unique()
    now = _timeline(flights["origin"], flights["scheduled_departure"], airports) - LEAD
    left = flights.filter(pc.is_valid(flights["departed_at"]))
    times = _timeline(left["origin"], left["departed_at"], airports)
    order = np.argsort(times)
    total = np.concatenate([[0], np.cumsum(left["dep_delay"].to_numpy()[order])])
    start, end = (np.searchsorted(times[order], instant) for instant in (now - RECENT, now))
    count = end - start
    return pa.array((total[end] - total[start]) / np.maximum(count, 1), mask=count == 0)


def _timeline(airport: pa.ChunkedArray, time: pa.ChunkedArray, airports: pa.Array) -> np.ndarray:
    """Puts the airports' times end to end on one axis of microseconds, centuries apart.

    One binary search along it then looks every flight up at its own airport.
    """
    lane = pc.index_in(airport, airports).fill_null(len(airports)).to_numpy().astype(np.int64)
    return (lane << 53) + time.cast(pa.int64()).to_numpy()
