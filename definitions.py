"""The reference code location: composition only."""

import dagster as dg

import mlct
from assets.flight_delay import flight_delay
from assets.flight_features import flight_features
from assets.nycflights import flights, planes, weather
from sensors.approvals import approval_wanted

ingest = dg.define_asset_job("ingest", selection=[flights, weather, planes, flight_features])

defs = mlct.guarded(
    dg.Definitions.merge(
        dg.Definitions(
            assets=[flights, weather, planes, flight_features],
            jobs=[ingest],
            sensors=[approval_wanted],
            resources=mlct.build_resources(),
            executor=dg.in_process_executor,
        ),
        mlct.build_definitions(flight_delay),
    )
)
