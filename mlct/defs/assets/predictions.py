"""`m/predictions`: the prediction log of a window, by what was live when it was made."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from mlct.adapters.live import load_live
from mlct.data import snapshot
from mlct.defs.assets.windows import bounds_of, freshness, window_check, windows_of
from mlct.defs.io_manager import as_dataset, ref_of
from mlct.defs.names import SCORED, key, settings
from mlct.defs.resources import MlctHome
from mlct.errors import DataError
from mlct.monitoring.observe.log import empty_log, predict, within
from mlct.release.slot import live
from mlct.spec import ModelSpec


def build_predictions(spec: ModelSpec) -> dg.AssetsDefinition:
    """The asset that scores a window's rows in batch with what the ledger says is live."""
    asset = key(spec, "predictions")

    @dg.asset(
        key=asset,
        partitions_def=windows_of(spec),
        io_manager_key="snapshots",
        freshness_policy=freshness(spec),
        ins={
            "features": dg.AssetIn(
                key=dg.AssetKey(list(spec.features)), metadata={"allow_missing_partitions": True}
            )
        },
        deps=[key(spec, "champion")],
        check_specs=[window_check(spec, asset, SCORED, "Every row of the window has a score.")],
        description="What was predicted of each row, and by which version. A row is scored once: "
        "running a window again scores only the rows that came since.",
        **settings(spec, "parquet"),
    )
    def predictions(
        context: dg.AssetExecutionContext, mlct: MlctHome, features: Any
    ) -> Iterator[Any]:
        home, store = mlct.home, mlct.home.store
        window = bounds_of(spec, context)
        rows = within(as_dataset(features), spec.columns, *window)
        kept = store.ref(ref_of(asset, context.partition_key))
        log = None if kept is None else snapshot.read(store, kept).to_table()
        current = live(home.ledger, spec.name, spec.slot)
        said, passed = "", True
        if current is None:
            said = "no version is live yet: nobody predicts"
        else:
            # A batch job asks the ledger once; what it names is verified before it scores.
            model = load_live(
                spec.name, slot=spec.slot, home=home, refresh=None, trusted=spec.trusted_types
            )
            try:
                log = predict(
                    model.current.model,
                    rows,
                    log,
                    columns=spec.columns,
                    version=model.version,
                    artifact=model.artifact,
                )
            except DataError as error:  # monitoring must still see what is wrong with the rows
                said, passed = f"version {model.version} cannot score them: {error}", False
        log = empty_log(rows.schema, spec.columns) if log is None else log
        said = f"{log.num_rows} of {rows.num_rows} rows are scored{'; ' * bool(said)}{said}"
        yield dg.Output(
            log,
            metadata={
                "window": f"[{window[0]:%Y-%m-%d %H:%M}, {window[1]:%Y-%m-%d %H:%M}) UTC",
                "version": str(current.version if current else "none"),
                "rows": rows.num_rows,
            },
        )
        yield dg.AssetCheckResult(
            check_name=SCORED,
            passed=passed,
            severity=dg.AssetCheckSeverity.ERROR,
            description=said,
            metadata={"scored": log.num_rows, "rows": rows.num_rows},
        )

    return predictions
