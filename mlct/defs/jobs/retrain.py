"""Asset jobs: retrain and monitoring."""

from typing import Any

import dagster as dg

from mlct.defs.assets.training_set import TrainingSetConfig
from mlct.defs.names import MODEL_TAG, key
from mlct.spec import ModelSpec


def retrain_job(spec: ModelSpec) -> Any:
    """training_set, challenger, evaluation: in one process, as each spawned step costs seconds."""
    names = ("training_set", "challenger", "evaluation")
    return dg.define_asset_job(
        f"{spec.name}_retrain",
        selection=dg.AssetSelection.assets(*(key(spec, n) for n in names)),
        description=f"Cut, validate, train and evaluate a challenger of {spec.name}. `as_of` "
        "replays history; newest is now, or the end of the data.",
        # Shown in the launchpad, where nobody would guess that it exists.
        config=dg.RunConfig(ops={f"{spec.name}__training_set": TrainingSetConfig()}),
        tags={MODEL_TAG: spec.name},
        executor_def=dg.in_process_executor,
    )


def monitoring_job(spec: ModelSpec) -> Any:
    """Log a window's predictions and measure it, for sensors to read; look at the slot."""
    return dg.define_asset_job(
        f"{spec.name}_monitoring",
        selection=dg.AssetSelection.assets(key(spec, "predictions"), key(spec, "monitoring"))
        | dg.AssetSelection.checks_for_assets(key(spec, "champion"), key(spec, "rollback_drill")),
        description=f"Score a window of {spec.name} with what is live, and measure it: drift, "
        "performance, labels, objectives. Check that the slot, MLflow's alias and the live bytes "
        "agree with the ledger, and that no drill is overdue.",
        # One after the other: a window counts on those before it.
        tags={MODEL_TAG: spec.name},
        executor_def=dg.in_process_executor,
    )
