"""The drill job."""

from typing import Any

import dagster as dg

from mlct.defs.names import DRILLED, key
from mlct.spec import ModelSpec


def rollback_drill_job(spec: ModelSpec) -> Any:
    """Play a rollback on a stage and judge it; never the production slot."""
    drilled = dg.AssetCheckKey(key(spec, "rollback_drill"), DRILLED)
    return dg.define_asset_job(
        f"{spec.name}_rollback_drill",
        selection=dg.AssetSelection.assets(key(spec, "rollback_drill"))
        | dg.AssetSelection.checks(drilled),
        description=f"Roll {spec.name} back on a stage, for real, and take the time. Moves nothing "
        "in production.",
        executor_def=dg.in_process_executor,
    )
