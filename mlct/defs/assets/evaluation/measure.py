"""What is measured on the models themselves, rather than computed from their scores."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mlct.adapters.home import Home
from mlct.adapters.served import served_scores
from mlct.errors import RegistryError
from mlct.evaluation.business import bound
from mlct.evaluation.guardrail import (
    agreement,
    cost_per_thousand,
    latencies,
    peak_memory_mb,
    robustness,
    rows_for,
)
from mlct.training import fit

if TYPE_CHECKING:
    from mlct.defs.assets.evaluation.case import Case

#: At 95 %, just enough for a bound of p99; rules that ask for more take more.
LATENCY_ROWS = 300
BATCHES, BATCH_ROWS = 20, 1_000
#: What a disturbance costs needs no more; it scores them some five times a feature.
ROBUSTNESS_ROWS = 20_000
DROPS = ("noise_drop", "missing_drop", "unseen_drop")

Found = dict[str, Mapping[str, Any]]


def measure(
    home: Home,
    case: "Case",
    models: Mapping[str, fit.Model],
    scores: Mapping[str, Any],
    rows: pa.Table,
    y_true: Any,
) -> tuple[Found, str]:
    """Measured values by name and model, and what the packaged model said in a clean process.

    Latency of one row and size always; what costs more only where a rule of the gate asks for it.
    """
    spec = case.spec
    able = {n: m for n, m in models.items() if n in scores}
    asked = spec.gate.measured
    levels = [rule.confidence for rule in spec.gate.guardrails if rule.metric in asked]
    kept: Any = {"confidence": max(levels, default=0.95), "seed": spec.seed}
    sample = rows.slice(0, max(LATENCY_ROWS, rows_for(kept["confidence"]))).to_pylist()
    one = {n: m.score_row for n, m in able.items()}
    found: Found = {**latencies(one, sample, **kept)}
    names = [feature.name for feature in models["challenger"].features]
    cost = "cost_per_thousand" in asked
    if cost or any(name.startswith("batch_latency") for name in asked):
        batches = [rows.slice(i * BATCH_ROWS, BATCH_ROWS) for i in range(BATCHES)]
        filled = [b for b in batches if b.num_rows]
        many = {n: m.score for n, m in able.items()}
        found |= latencies(many, filled, name="batch_latency", **kept)
    if cost and spec.cpu_hour_price is not None:
        found["cost_per_thousand"] = {
            name: cost_per_thousand(
                value.value, price_per_cpu_hour=spec.cpu_hour_price, rows=filled[0].num_rows
            )
            for name, value in found["batch_latency_p50_ms"].items()
        }
    if "peak_memory_mb" in asked:
        found["peak_memory_mb"] = {
            n: peak_memory_mb(functools.partial(m.score, rows)) for n, m in able.items()
        }
    if asked.intersection(DROPS):
        found |= _robust(case, models["challenger"], rows, y_true)
    served = ""
    if "score_mismatches" in asked:
        found["score_mismatches"], served = _served(
            home, case, scores["challenger"], rows.select(names)
        )
    found["model_mb"] = _sizes(home, case)
    return found, served


def _sizes(home: Home, case: "Case") -> dict[str, float]:
    files = {"challenger": fit.kept(home.store, case.artifact)}
    if case.champion is not None:
        files["champion"] = fit.kept(home.models, case.champion.artifact)
    return {n: sum(map(len, of.values())) / 1e6 for n, of in files.items()}


def _robust(case: "Case", model: fit.Model, rows: pa.Table, y_true: Any) -> Found:
    """The worst drop of the primary metric under noise, missing values and unseen categories."""
    step = max(1, -(-rows.num_rows // ROBUSTNESS_ROWS))
    few = rows.take(pa.array(range(0, rows.num_rows, step)))
    names = [feature.name for feature in model.features]
    table = {name: few[name].to_numpy(zero_copy_only=False) for name in names}

    def score(disturbed: Mapping[str, Any]) -> Any:
        return model.score(
            pa.table({n: pa.array(v, from_pandas=True) for n, v in disturbed.items()})
        )

    frame = {n: few[n].to_numpy() for n in few.column_names}
    metric = bound(case.spec.gate.primaries[0].of_metric, frame)
    drops = robustness(score, table, y_true[::step], metric, seed=case.spec.seed).measures()
    # Without texts there is nothing unseen, and nothing lost by it.
    return {name: drops.get(name, {"challenger": 0.0}) for name in DROPS}


def _served(home: Home, case: "Case", score: Any, rows: pa.Table) -> tuple[Mapping[str, Any], str]:
    """How many rows the packaged model scores otherwise once it is reloaded elsewhere."""
    registry = home.registry
    try:
        again = served_scores(registry.tracking_uri, case.spec.name, case.version, rows)
    except RegistryError as error:
        return {"challenger": float(rows.num_rows)}, error.found
    found = agreement(score, again)
    return found.measures()["score_mismatches"], found.sentence
