"""`m/monitoring`: the newest rows against those that the champion was trained on."""

import math
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pyarrow.compute as pc

from mlct.data import snapshot
from mlct.data.digest import digest
from mlct.data.window import as_utc, duration, instants, scalar
from mlct.defs.io_manager import as_dataset
from mlct.defs.names import DRIFT, key, settings
from mlct.defs.resources import MlctHome
from mlct.errors import DataError
from mlct.monitoring.drift import population_stability
from mlct.release.ledger import instant
from mlct.release.slot import Live, live
from mlct.spec import ModelSpec

KEEP = 60


def build_monitoring(spec: ModelSpec) -> dg.AssetsDefinition:
    """The asset that measures drift and keeps the last windows' results for the sensor to read."""
    asset = key(spec, "monitoring")

    @dg.asset(
        key=asset,
        ins={
            "features": dg.AssetIn(
                key=dg.AssetKey(list(spec.features)), metadata={"allow_missing_partitions": True}
            )
        },
        deps=[key(spec, "champion")],
        check_specs=[
            dg.AssetCheckSpec(
                DRIFT,
                asset=asset,
                description="Population stability of each feature between the champion's training "
                "rows and the newest holdout-sized window. A warning: look.",
            )
        ],
        description="Drift of the newest window against the champion's training rows.",
        **settings(spec, "python"),
    )
    def monitoring(
        context: dg.AssetExecutionContext, mlct: MlctHome, features: Any
    ) -> dg.MaterializeResult:
        champion = live(mlct.home.ledger, spec.name, spec.slot)
        if champion is None:
            return dg.MaterializeResult(
                metadata={"skipped": "no champion yet: there is nothing to compare with"},
                check_results=[
                    dg.AssetCheckResult(
                        check_name=DRIFT,
                        passed=True,
                        description="No champion yet: there is nothing to compare with",
                    )
                ],
            )
        data = as_dataset(features)
        window = _newest(mlct, spec, data, champion)
        history = _history(mlct, spec)
        if not history or history[-1]["key"] != window["key"]:
            history = [*history, window][-KEEP:]
        content = {"format": "mlct.monitoring/v1", "model": spec.name, "windows": history}
        found = mlct.hand_on(spec.name, "monitoring", context.run.run_id, content)
        worst = sorted(window["psi"].items(), key=lambda p: -(math.inf if p[1] is None else p[1]))
        return dg.MaterializeResult(
            data_version=dg.DataVersion(found),
            metadata={
                "window": f"[{_minute(window['start'])}, {_minute(window['end'])}) UTC",
                "champion": str(champion.version),
                "rows": window["rows"],
                "stability": dg.MetadataValue.table(
                    [
                        dg.TableRecord(
                            {
                                "feature": n,
                                "psi": "missing" if v is None else f"{v:.4f}",
                                "limit": f"{spec.retrain.max_psi:g}",
                                "importance": f"{window['importance'].get(n, 0):.1%}",
                                "moved": "yes" if v is None or v > spec.retrain.max_psi else "",
                            }
                        )
                        for n, v in worst
                    ]
                ),
                "max_psi": float(worst[0][1] if worst[0][1] is not None else -1.0),
            },
            check_results=[
                dg.AssetCheckResult(
                    check_name=DRIFT,
                    passed=not window["breached"],
                    severity=dg.AssetCheckSeverity.WARN,
                    description=window["reason"],
                    metadata={f"psi {n}": v for n, v in worst if v is not None},
                )
            ],
        )

    return monitoring


def _minute(text: str) -> str:
    return text[:16].replace("T", " ")


def _history(mlct: MlctHome, spec: ModelSpec) -> list[dict[str, Any]]:
    try:
        windows: list[dict[str, Any]] = mlct.handed(spec.name, "monitoring")[1]["windows"]
    except DataError:  # the first window ever
        return []
    return windows


def _newest(mlct: MlctHome, spec: ModelSpec, data: Any, champion: Live) -> dict[str, Any]:
    """The drift of the newest `Windows.holdout` of rows, with or without labels."""
    store = mlct.home.store
    training = next(
        r.predicate
        for r in mlct.home.ledger.records(
            kind="training", model=spec.name, subject=champion.artifact
        )
    )
    kind = instants(data.schema, spec.columns)
    time = spec.columns.time
    newest = pc.max(data.to_table(columns=[time])[time]).as_py()
    if newest is None:
        raise DataError(
            "the features have no rows", expected="at least one", fix="Materialise them"
        )
    # Half-open, and the newest row is inside.
    end = as_utc(newest) + timedelta(microseconds=1)
    start: datetime = end - duration(spec.windows.holdout)
    current = data.to_table(filter=pc.field(time) >= scalar(start, kind))
    reference = snapshot.read(store, training["train"]).to_table()
    found = population_stability(reference, current, spec.columns.features(reference.schema))
    over = {n: v for n, v in found.items() if not v <= spec.retrain.max_psi}
    importance = training["importance"]

    def told(name: str) -> str:
        share = f", importance {importance[name]:.0%}" if name in importance else ""
        return f"{name} moved: PSI {found[name]:.2f}{share}"

    # What is missing comes first, and has no importance to weigh it by.
    worst = sorted(over, key=lambda n: (math.isfinite(found[n]), -found[n] * importance.get(n, 1)))
    reason = (
        f"{len(over)} of {len(found)} features above PSI {spec.retrain.max_psi:g}: "
        + "; ".join(map(told, worst[:3]))
        if over
        else f"no feature above PSI {spec.retrain.max_psi:g}"
    )
    shown = {n: (round(v, 6) if math.isfinite(v) else None) for n, v in found.items()}
    return {
        "key": digest({"champion": champion.artifact, "psi": shown, "rows": current.num_rows})[:16],
        "champion": champion.version,
        "start": instant(start),
        "end": instant(end),
        "rows": current.num_rows,
        "psi": shown,
        "importance": importance,
        "breached": bool(over),
        "columns": worst,
        "reason": reason,
    }
