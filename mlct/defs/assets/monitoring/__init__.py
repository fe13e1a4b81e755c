"""`m/monitoring`: one window of the model in production, against what its version was made from."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import dagster as dg
import pyarrow as pa

from mlct.adapters.home import Home
from mlct.adapters.signals import SLO_BREACHES, alone, reported_windows
from mlct.data import snapshot
from mlct.data.contract import ContractReport, parameters_of, row_rules, suite_of, validate
from mlct.data.digest import canonical
from mlct.data.profile import Profile
from mlct.data.window import duration, labelled, parse_instant
from mlct.defs.assets.monitoring import display
from mlct.defs.assets.monitoring.incidents import tell
from mlct.defs.assets.windows import bounds_of, freshness, windows_of
from mlct.defs.io_manager import as_dataset
from mlct.defs.names import key, settings
from mlct.defs.resources import MlctHome
from mlct.errors import DataError, SnapshotMissing
from mlct.monitoring.observe import Observation, Reference, observe, reference_of
from mlct.monitoring.observe.log import served_by, within
from mlct.monitoring.observe.observation import Past, past
from mlct.monitoring.slo import SloWindow
from mlct.release.approval.request import slot_key
from mlct.release.ledger import instant
from mlct.release.ledger.statement import MOVES
from mlct.release.slot import live
from mlct.spec import ModelSpec
from mlct.training import fit

FORMAT = "mlct.monitoring/v1"
#: Windows that are kept for sensors and plots.
KEEP = 60
#: Windows before this one whose labels show how labels arrive.
JOINED = 4
#: Labelled rows of which a contract's rules ("at most 1 % missing") can be judged.
LEAST_JUDGED = 100


class MonitoringConfig(dg.Config):
    """`as_of` (ISO 8601) replays history: labels that came later are not seen. Empty is now."""

    as_of: str = ""


def build_monitoring(spec: ModelSpec) -> dg.AssetsDefinition:
    """The asset that measures a window and keeps what sensors, later windows and people read."""
    asset = key(spec, "monitoring")

    @dg.asset(
        key=asset,
        partitions_def=windows_of(spec),
        freshness_policy=freshness(spec),
        ins={
            "features": dg.AssetIn(
                key=dg.AssetKey(list(spec.features)), metadata={"allow_missing_partitions": True}
            ),
            "predictions": dg.AssetIn(key=key(spec, "predictions")),
        },
        check_specs=display.check_specs(spec, asset),
        description="Drift, realised and estimated performance, labels and objectives of one "
        "window of what is live.",
        **settings(spec, "python"),
    )
    def monitoring(
        context: dg.AssetExecutionContext,
        config: MonitoringConfig,
        mlct: MlctHome,
        features: Any,
        predictions: pa.Table,
    ) -> dg.MaterializeResult:
        home = mlct.home
        start, end = bounds_of(spec, context)
        current = live(home.ledger, spec.name, spec.slot)
        version = served_by(predictions) or (current.version if current else None)
        if version is None:
            return display.nothing(spec, "No champion yet: there is nothing to compare with")
        as_of = parse_instant(config.as_of) if config.as_of else home.ledger.clock()
        known = [w for w in windows_kept(mlct, spec) if w["calendar"] == _calendar(spec)]
        details = _details(home, spec, [w for w in known if w["start"] < instant(start)])
        same = [w for w in known if w["start"] == instant(start)]
        seen = _seen(
            home,
            spec,
            version,
            features,
            predictions,
            start,
            end,
            as_of,
            [p for _, p in details],
            _told(home, same),
        )
        stored = _keep(mlct, spec, seen, context.run.run_id)
        if not config.as_of:
            tell(home, spec, seen, newest=seen.end >= max(parse_instant(w["end"]) for w in stored))
        return display.result(spec, seen, [c for c, _ in details], _moves(home, spec))

    return monitoring


def windows_kept(mlct: MlctHome, spec: ModelSpec) -> list[dict[str, Any]]:
    """The windows that were measured, oldest first: what sensors read."""
    try:
        windows: list[dict[str, Any]] = mlct.handed(spec.name, "monitoring")[1]["windows"]
    except DataError:  # the first window ever
        return []
    return windows


def _moves(home: Home, spec: ModelSpec) -> list[tuple[datetime, str]]:
    """When the slot went where, oldest first."""
    moves = home.ledger.records(kind=MOVES, model=spec.name, slot=slot_key(spec.name, spec.slot))
    words = {"promotion": "version {}", "rollback": "rollback to {}"}
    return [
        (parse_instant(r.recorded_at), words[r.kind].format(r.predicate["version"]))
        for r in moves[::-1]
    ]


def _calendar(spec: ModelSpec) -> str:
    return f"{spec.monitoring.every} from {spec.monitoring.start}"


def _details(
    home: Home, spec: ModelSpec, windows: list[dict[str, Any]]
) -> list[tuple[dict[str, Any], Past]]:
    """Earlier windows as they were kept, with profiles and labels as far as they are needed."""
    store, found = home.store, []
    profiles = 0 if spec.monitoring.reference == "training" else len(windows)
    for place, window in enumerate(reversed(windows)):
        content = json.loads(store.get(window["detail"]))
        profile = joined = None
        if place < profiles and content["profile"]:
            profile = Profile.from_bytes(store.get(content["profile"]))
        if place < JOINED:
            joined = snapshot.read(store, content["joined"]).to_table()
        found.append((content, past(content, profile=profile, joined=joined)))
    return found[::-1]


def _told(home: Home, same: list[dict[str, Any]]) -> dict[str, Sequence[SloWindow]]:
    """What was known of the window's indicators; of a window that was lost nothing."""
    try:
        contents = [json.loads(home.store.get(w["detail"])) for w in same]
    except SnapshotMissing:
        return {}
    return {n: w for c in contents for n, w in past(c).slo_windows.items()}


def _seen(
    home: Home,
    spec: ModelSpec,
    version: int,
    features: Any,
    log: pa.Table,
    start: datetime,
    end: datetime,
    as_of: datetime,
    before: list[Past],
    known: Mapping[str, Sequence[SloWindow]],
) -> Observation:
    """The window; what others reported of it once is kept when it is measured again."""
    told = reported_windows(home, spec.name, spec.slot, spec.slos)
    reported = {
        name: list(
            {
                w.start: w
                for w in (*known.get(name, ()), *told.get(name, ()))
                if start <= w.start and w.end <= end
            }.values()
        )
        for name in {*told, *known}
    }
    training = next(
        r.predicate
        for r in home.ledger.records(kind="training", model=spec.name)
        if r.predicate["version"] == version
    )
    artifact = training["artifact"]
    model = fit.unpack(fit.kept(home.models, artifact), trusted=spec.trusted_types)
    rows = within(as_dataset(features), spec.columns, start, end)
    return observe(
        model,
        _reference(home, spec, model, training),
        rows,
        log,
        artifact=artifact,
        start=start,
        end=end,
        as_of=as_of,
        columns=spec.columns,
        windows=spec.windows,
        policy=spec.monitoring,
        primary=spec.gate.primaries[0].of_metric,
        tau=spec.retrain.max_psi,
        objectives=spec.slos,
        before=before,
        reported=reported,
        contract=_contract(spec, rows, start, end, as_of),
        seed=spec.seed,
    )


def _contract(
    spec: ModelSpec, rows: pa.Table, start: datetime, end: datetime, as_of: datetime
) -> ContractReport | None:
    """What the contract's rules on values say of the rows that a retrain would learn from; None
    where they are too few for a share, or there is no such rule."""
    rows = rows.filter(labelled(rows[spec.columns.label]))
    rules = row_rules(suite_of(spec.contract)) if rows.num_rows >= LEAST_JUDGED else None
    if rules is None:
        return None
    instants = parameters_of(
        rows.schema.field(spec.columns.time).type,
        as_of=as_of,
        train_start=start,
        holdout_start=start,
        holdout_end=end,
        fresh_after=end - duration(spec.windows.cluster),
    )
    return validate(rules, rows, parameters=instants)


def _reference(
    home: Home, spec: ModelSpec, model: fit.Model, training: dict[str, Any]
) -> Reference:
    """What a version is compared with: made once, then read."""
    store, artifact = home.store, training["artifact"]
    # Two recipes may give one artifact, of which each version has its own training rows.
    place = f"documents/{spec.name}/reference/{artifact}/"
    place += f"{training['version']}-{spec.monitoring.every}"
    kept = store.ref(place)
    if kept is not None:
        return Reference.kept(store, kept)
    holdout = json.loads(store.get(training["training_set"]))["holdout"]
    made = reference_of(
        model,
        snapshot.read(store, training["train"]).to_table(),
        snapshot.read(store, holdout).to_table(),
        version=training["version"],
        artifact=artifact,
        columns=spec.columns,
        windows=spec.windows,
        learned_until=parse_instant(training["train_end"]),
        step=spec.monitoring.step,
    )
    store.set_ref(place, made.keep(store))
    return made


def _keep(mlct: MlctHome, spec: ModelSpec, seen: Observation, run: str) -> list[dict[str, Any]]:
    """Store the window, in place of what was known of it; returns all windows that are kept."""
    store = mlct.home.store
    profile = None if seen.profile is None else store.put(seen.profile.to_bytes())
    detail = seen.to_dict(profile=profile, joined=snapshot.write(store, seen.joined).digest)
    features = seen.drift.columns.values() if seen.drift is not None else ()
    first = seen.realised[0]
    window = {
        "key": seen.key,
        "calendar": _calendar(spec),
        "slot": spec.slot,
        "champion": seen.version,
        "start": instant(seen.start),
        "end": instant(seen.end),
        "rows": seen.rows,
        "max_psi": max((c.psi for c in features if c.psi is not None), default=None),
        "values": {
            p.metric: [p.value, p.labelled or p.rows] for p in (*seen.realised, *seen.behaviour)
        }
        | {SLO_BREACHES: [seen.slo_breaches, seen.slo_samples]},
        "until": instant(first.until) if first.until is not None else None,
        "detail": store.put(canonical(detail)),
        "signals": [
            {
                "signal": s.signal,
                "breached": s.breached,
                "reason": s.reason,
                "columns": list(s.columns),
                "refused": s.refused,
            }
            for s in seen.signals
        ],
    }
    place = f"documents/{spec.name}/monitoring/windows/"
    store.set_ref(place + seen.start.strftime("%Y-%m-%dT%H"), store.put(canonical(window)))
    with alone(mlct.home):  # windows of a backfill end at once: none takes another's place
        newest = (json.loads(store.get(d)) for _, d in sorted(store.refs(place).items())[::-1])
        # Windows of another calendar overlap these. Of a long history only the last are read.
        same = (w for w in newest if w["calendar"] == window["calendar"])
        windows = list(islice(same, KEEP))[::-1]
        content = {"format": FORMAT, "model": spec.name, "windows": windows}
        mlct.hand_on(spec.name, "monitoring", run, content)
    return windows
