"""The reference code location: it loads, it is light, and nothing in it can promote by itself."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

import mlct

ROOT = Path(__file__).parents[2]
HEAVY = ("mlflow", "sklearn", "lightgbm", "pandas", "great_expectations", "matplotlib")


@pytest.fixture(scope="module")
def defs() -> dg.Definitions:
    from definitions import defs

    return defs


def test_it_loads(defs):
    dg.Definitions.validate_loadable(defs)


def test_it_holds_the_whole_loop_of_the_flight_model(defs):
    keys = {spec.key.to_user_string() for spec in defs.resolve_all_asset_specs()}
    assert keys >= {"flights", "weather", "planes", "flight_features", "flight_delay/champion"}
    jobs = {job.name for job in defs.jobs}
    assert jobs >= {"ingest", "flight_delay_retrain", "flight_delay_promotion"}
    schedules = {schedule.name for schedule in defs.schedules}
    assert "flight_delay_retrain_schedule" in schedules


def test_it_is_guarded(defs):
    (promotion,) = [job for job in defs.jobs if job.name == "flight_delay_promotion"]
    nightly = dg.ScheduleDefinition(name="nightly", job=promotion, cron_schedule="@daily")
    planted = dg.Definitions.merge(defs, dg.Definitions(schedules=[nightly]))
    with pytest.raises(mlct.MlctError, match="schedule nightly targets flight_delay_promotion"):
        mlct.guarded(planted)


def run(*words: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_loading_it_loads_no_heavy_library():
    loaded = run("-c", "import definitions, sys; print(*sys.modules)").split()
    assert "dagster" in loaded
    assert set(HEAVY).isdisjoint(loaded)


def test_dagsters_own_validation_passes(tmp_path):
    run("-m", "dagster", "definitions", "validate", DAGSTER_HOME=str(tmp_path))
