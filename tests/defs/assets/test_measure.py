"""What a rule asks for is measured on the models themselves."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

import mlct
from mlct.adapters.served import served_scores
from mlct.errors import RegistryError, SpecError
from mlct.training import fit


def report(world):
    return json.loads(world.home.store.get(world.records("evaluation")[-1]["evidence"]))


def rule(world, name):
    (found,) = [r for r in report(world)["decision"]["rules"] if r["name"] == name]
    return found


def ask(world, *guardrails, **changes):
    gate = mlct.GatePolicy(primary=mlct.Superiority("roc_auc"), guardrails=list(guardrails))
    world.declare(gate=gate, **changes)
    done = world.retrain()
    assert done.success


def test_latency_is_bounded_at_the_level_that_a_rule_asks_for(live, boosted):
    ask(
        live,
        mlct.Limit("latency_p99_ms", max=1_000, confidence=0.99),
        mlct.Ratio("latency_p50_ms", max=1_000, confidence=0.9),
        mlct.Limit("batch_latency_p50_ms", max=10_000),
        mlct.Limit("batch_latency_p99_ms", max=10_000),
        estimator=boosted,
    )
    assert rule(live, "latency_p99_ms")["outcome"] == "PASS"
    assert rule(live, "latency_p50_ms")["outcome"] == "PASS"
    found = report(live)["evaluation"]["measures"]["latency_p99_ms"]["challenger"]
    assert found["method"] == "order statistics of 459 rows"
    # One batch of 720 rows bounds nothing, and says so.
    assert "an upper bound takes 459" in rule(live, "batch_latency_p99_ms")["reason"]


def test_robustness_is_measured_where_a_rule_asks(trained, boosted):
    ask(
        trained,
        mlct.Limit("noise_drop", max=0.2),
        mlct.Limit("missing_drop", max=0.0),
        mlct.Limit("unseen_drop", max=0.2),
        estimator=boosted,
    )
    assert rule(trained, "noise_drop")["outcome"] == "PASS"
    # Ten per cent of missing values cost something, and nothing was allowed.
    assert rule(trained, "missing_drop")["outcome"] == "FAIL"
    assert rule(trained, "unseen_drop")["outcome"] == "PASS"


def test_the_packaged_model_scores_the_same_bits_in_a_process_of_its_own(trained):
    ask(trained, mlct.Limit("score_mismatches", max=0))
    assert rule(trained, "score_mismatches")["outcome"] == "PASS"
    assert "same scores bit for bit on" in report(trained)["served"]


def test_a_packaged_model_that_scores_otherwise_is_refused(trained, monkeypatch):
    right = fit.Model.score

    def nearly(self, rows):
        return np.nextafter(right(self, rows), 1)

    monkeypatch.setattr(fit.Model, "score", nearly)
    ask(trained, mlct.Limit("score_mismatches", max=0))
    assert rule(trained, "score_mismatches")["outcome"] == "FAIL"
    assert "what was judged is not what would serve" in report(trained)["served"]


def test_rows_that_do_not_fit_the_signature_are_told(trained, trips):
    rows = trips(1).drop_columns(["distance"])
    rows = rows.set_column(
        rows.schema.get_field_index("kind"), "kind", pa.array(np.arange(rows.num_rows))
    )
    with pytest.raises(RegistryError, match="does not score in a process of its own"):
        served_scores(trained.home.registry.tracking_uri, "late", 1, rows)


def test_cost_follows_from_time_and_price(trained):
    ask(trained, mlct.Limit("cost_per_thousand", max=1.0), cpu_hour_price=0.04)
    assert rule(trained, "cost_per_thousand")["outcome"] == "PASS"
    seen = report(trained)["evaluation"]["measures"]
    rows, milliseconds = 720, seen["batch_latency_p50_ms"]["challenger"]["value"]
    cost = seen["cost_per_thousand"]["challenger"]["value"]
    assert cost == pytest.approx(milliseconds / rows * 0.04 / 3600)


def test_a_cost_without_a_price_is_refused_when_declared(spec):
    gate = mlct.GatePolicy(
        primary=mlct.Superiority("roc_auc"), guardrails=[mlct.Limit("cost_per_thousand", max=1)]
    )
    with pytest.raises(SpecError, match="cpu_hour_price"):
        replace(spec, gate=gate)


def test_a_label_that_hardly_changes_is_a_baseline_to_beat(trained, trips, boosted):
    """Long runs of one label: repeating it is hard to beat, and without it the model looks fine."""
    rows = trips()
    runs = (np.arange(rows.num_rows) // 200 % 2).astype("int8")
    column = rows.schema.get_field_index("late")
    rows = rows.set_column(column, "late", pa.array(runs))
    trained.feed(rows)
    ask(trained, estimator=boosted, no_change=True)
    said = report(trained)["evaluation"]["metrics"]["no_change"]["accuracy"]
    # One wrong at each change, and the labels of one hour are not known yet: 3 rows of 200.
    assert said == pytest.approx(1 - 3 / 200, abs=0.005)
    assert report(trained)["decision"]["verdict"] == "FAIL"
    (told,) = [r for r in report(trained)["decision"]["rules"] if r["rule"] == "no_change"]
    assert told["outcome"] == "FAIL"
    assert "repeating the last known label" in told["reason"]


def test_the_history_of_the_metric_is_drawn(live, boosted):
    live.declare(estimator=boosted)
    assert live.retrain().success
    picture = live.home.store.get(report(live)["plots"]["metric_history"])
    assert picture.startswith(b"\x89PNG")
