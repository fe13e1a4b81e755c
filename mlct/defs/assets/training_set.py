"""`m/training_set`: train and holdout snapshots cut at `as_of`, and the contract's verdict."""

from datetime import datetime
from typing import Any

import dagster as dg

from mlct.data import snapshot
from mlct.data.contract import (
    ContractReport,
    contract_digest,
    in_words,
    parameters_of,
    suite_of,
    validate,
)
from mlct.data.window import Cut, as_utc, cut, data_end, duration, parse_instant
from mlct.defs.assets.refused import refused_windows, told
from mlct.defs.io_manager import as_dataset
from mlct.defs.names import AUTOMATION_TAGS, CAUSE_TAG, CONTRACT, key, settings
from mlct.defs.resources import MlctHome
from mlct.errors import DataError
from mlct.release.ledger import Ledger, instant, now, statement
from mlct.spec import ModelSpec

NEWEST = "newest"


class TrainingSetConfig(dg.Config):
    """`as_of`: the instant to stand at, ISO 8601; "newest" is now, or the end of the data."""

    as_of: str = NEWEST


def build_training_set(spec: ModelSpec) -> dg.AssetsDefinition:
    """The asset that cuts, stores and validates the rows to learn from."""
    asset = key(spec, "training_set")

    @dg.asset(
        key=asset,
        ins={
            "features": dg.AssetIn(
                key=dg.AssetKey(list(spec.features)), metadata={"allow_missing_partitions": True}
            )
        },
        check_specs=[
            dg.AssetCheckSpec(
                CONTRACT,
                asset=asset,
                blocking=True,
                description="Great Expectations suite on the rows to learn from. The challenger "
                "asks the ledger for this verdict, whatever the run selects.",
            )
        ],
        description="Train and holdout rows whose label had matured by `as_of`.",
        **settings(spec, "parquet", "greatexpectations"),
    )
    def training_set(
        context: dg.AssetExecutionContext, config: TrainingSetConfig, mlct: MlctHome, features: Any
    ) -> dg.MaterializeResult:
        home = mlct.home
        data = as_dataset(features)
        as_of = (
            parse_instant(config.as_of)
            if config.as_of != NEWEST
            else min(now(), data_end(data, spec.columns, spec.windows))
        )
        rows = cut(data, spec.columns, spec.windows, as_of=as_of)
        first = _first(rows, spec.columns.time)
        if first - rows.train_start > duration(spec.windows.train) / 10:
            context.log.warning(
                "Windows.train is %s: the data has %sd of them, from %s on",
                spec.windows.train,
                (rows.holdout_start - first).days,
                f"{first:%Y-%m-%d}",
            )
        refused = _refused(context, mlct, spec, rows)
        train, holdout = (snapshot.write(home.store, part) for part in (rows.train, rows.holdout))
        document = {
            "format": "mlct.training_set/v1",
            "model": spec.name,
            "train": train.digest,
            "holdout": holdout.digest,
            "as_of": instant(rows.as_of),
            "train_start": instant(max(rows.train_start, first)),
            "holdout_start": instant(rows.holdout_start),
            "holdout_end": instant(rows.holdout_end),
            "counts": rows.counts,
        } | ({"refused": refused} if refused else {})
        digest = mlct.hand_on(spec.name, "training_set", context.run.run_id, document)
        report, fresh = _verdict(spec, home.ledger, digest, rows, document, context.run.run_id)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(digest),
            metadata=_metadata(document, rows),
            check_results=[_check(report, fresh)],
        )

    return training_set


def _first(rows: Cut, time: str) -> datetime:
    """Time of the first training row: the window may reach back further than the data."""
    return as_utc(rows.train[time][0].as_py())


def _refused(
    context: dg.AssetExecutionContext, mlct: MlctHome, spec: ModelSpec, rows: Cut
) -> list[dict[str, str]]:
    """Windows that were refused, and whose rows a person's run learns from all the same.

    Raises DataError in a run that nobody launched by hand.
    """
    found = refused_windows(mlct, spec, rows.train_start, rows.holdout_end)
    for window in found:
        if {CAUSE_TAG, *AUTOMATION_TAGS} & context.run.tags.keys():
            raise DataError(
                f"refused to learn from {told(window)}",
                expected="rows that people may learn from, in a run that nobody launched by hand",
                fix="Mend the rows and measure that window again; or launch the job by hand, "
                "which lets it through",
            )
        context.log.warning("learns from %s", told(window))
    return [{"key": w.key, "end": instant(w.ended_at), "why": w.refused} for w in found]


def _verdict(
    spec: ModelSpec, ledger: Ledger, digest: str, rows: Cut, document: dict[str, Any], run_id: str
) -> tuple[dict[str, Any], bool]:
    """The contract's verdict on this digest, from the ledger or made and recorded now."""
    suite = suite_of(spec.contract)
    contract = contract_digest(suite)
    for record in ledger.records(kind="contract", subject=digest):
        if record.predicate["contract"] == contract:
            return record.predicate, False
    report = _validate(spec, suite, rows)
    content = report.to_dict() | {
        "model": spec.name,
        "training_set": digest,
        "as_of": document["as_of"],
        "dagster_run": run_id,
    }
    subjects = {n: document[n] for n in ("train", "holdout")} | {"training_set": digest}
    ledger.append(statement("contract", subjects, content), actor=f"dagster:{run_id}")
    return content, True


def _validate(spec: ModelSpec, suite: Any, rows: Cut) -> ContractReport:
    import pyarrow as pa

    both = pa.concat_tables([rows.train, rows.holdout])
    instants = parameters_of(
        both.schema.field(spec.columns.time).type,
        as_of=rows.as_of,
        train_start=rows.train_start,
        holdout_start=rows.holdout_start,
        holdout_end=rows.holdout_end,
        fresh_after=rows.holdout_end - duration(spec.windows.cluster),
    )
    return validate(suite, both, parameters=instants)


def _metadata(document: dict[str, Any], rows: Cut) -> dict[str, Any]:
    return {
        "as_of": dg.MetadataValue.timestamp(rows.as_of),
        "train": f"[{rows.train_start:%Y-%m-%d %H:%M}, {rows.holdout_start:%Y-%m-%d %H:%M}) UTC",
        "holdout": f"[{rows.holdout_start:%Y-%m-%d %H:%M}, {rows.holdout_end:%Y-%m-%d %H:%M}) UTC",
        "train_rows": rows.train.num_rows,
        "holdout_rows": rows.holdout.num_rows,
        "label_maturity": dg.MetadataValue.table(
            [dg.TableRecord({"window": window, **counts}) for window, counts in rows.counts.items()]
        ),
        "train_digest": document["train"],
        "holdout_digest": document["holdout"],
    } | ({"refused": refused} if (refused := _told(document)) else {})


def _told(document: dict[str, Any]) -> str:
    return "; ".join(f"until {w['end']}: {w['why']}" for w in document.get("refused", ()))


def _check(report: dict[str, Any], fresh: bool) -> dg.AssetCheckResult:
    violations = report["violations"]
    known = "" if fresh else " (recorded earlier for these very rows)"
    metadata: dict[str, Any] = {
        "expectations": str(report["expectations"]),
        "failed": len(violations),
        "contract": report["contract"],
    }
    if violations:
        metadata["violations"] = dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {n: v[n] for n in ("column", "rule", "expected", "observed", "count")}
                )
                for v in violations
            ]
        )
    return dg.AssetCheckResult(
        check_name=CONTRACT,
        passed=report["passed"],
        severity=dg.AssetCheckSeverity.ERROR,
        description=(
            f"All {report['expectations']} expectations hold{known}"
            if report["passed"]
            else f"{len(violations)} of {report['expectations']} expectations failed{known}: "
            + "; ".join(map(in_words, violations[:3]))
        ),
        metadata=metadata,
    )
