"""`m/evaluation`: challenger and champion on the same frozen holdout, and the gate's verdict."""

import base64
import json
from dataclasses import dataclass
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa

from mlct.adapters.home import Home
from mlct.data import snapshot
from mlct.data.digest import canonical, digest
from mlct.data.window import clusters
from mlct.defs.names import GATE, key, settings
from mlct.defs.resources import MlctHome
from mlct.errors import DataError, EvaluationError
from mlct.evaluation import plot
from mlct.evaluation.evaluate import evaluate
from mlct.evaluation.gate import GroupGap, decide
from mlct.evaluation.guardrail import latency
from mlct.release.ledger import statement
from mlct.release.slot import Live, live, quarantined
from mlct.spec import ModelSpec
from mlct.training import fit

LATENCY_ROWS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """What is compared: documents by digest, and the champion as the ledger names it."""

    training_set: str
    train: str
    holdout: str
    holdout_start: str
    version: int
    artifact: str
    champion: Live | None
    policy: dict[str, Any]

    @property
    def key(self) -> str:
        """Equal cases need no second look."""
        return digest(
            {
                "holdout": self.holdout,
                "train": self.train,
                "artifact": self.artifact,
                "head": self.champion.sequence if self.champion else 0,
                "policy": self.policy,
            }
        )


def build_evaluation(spec: ModelSpec) -> dg.AssetsDefinition:
    """The asset that compares, with the gate as a check of its own that cannot be re-run alone."""
    asset = key(spec, "evaluation")

    @dg.asset(
        key=asset,
        deps=[key(spec, "challenger"), key(spec, "training_set")],
        check_specs=[
            dg.AssetCheckSpec(
                GATE,
                asset=asset,
                description="PASS: people may be asked to approve. A warning: the challenger is "
                "refused, or the holdout does not decide. An error: no verdict can be trusted.",
            )
        ],
        description="Challenger, champion and baseline re-scored on one frozen holdout.",
        **settings(spec, "mlflow", "python"),
    )
    def evaluation(context: dg.AssetExecutionContext, mlct: MlctHome) -> dg.MaterializeResult:
        home = mlct.home
        ts_digest, ts = mlct.handed(spec.name, "training_set", context.run_id)
        _, challenger = mlct.handed(spec.name, "challenger", context.run_id)
        case = _Case(
            training_set=ts_digest,
            train=ts["train"],
            holdout=ts["holdout"],
            holdout_start=ts["holdout_start"],
            version=challenger["version"],
            artifact=challenger["artifact"],
            champion=live(home.ledger, spec.name, spec.slot),
            policy=spec.gate.to_dict(),
        )
        try:
            if challenger["training_set"] != ts_digest:
                raise EvaluationError(
                    f"version {case.version} was last made from another training set than the "
                    "newest one",
                    expected="challenger and training_set of one run",
                    fix=f"Run the job {spec.name}_retrain",
                )
            report, evidence, known = _report(home, spec, case, context.run_id)
        except EvaluationError as error:
            context.log.error("evaluation cannot be trusted: %s", error)
            return dg.MaterializeResult(
                metadata={"version": case.version, "error": str(error)},
                check_results=_selected(
                    context,
                    dg.AssetCheckResult(
                        check_name=GATE,
                        passed=False,
                        severity=dg.AssetCheckSeverity.ERROR,
                        description=f"This evaluation cannot be trusted: {error}",
                    ),
                ),
            )
        mlct.hand_on(
            spec.name,
            "evaluation",
            context.run_id,
            {"format": "mlct.evaluated/v1", "evidence": evidence, "version": case.version},
        )
        decision = report["decision"]
        return dg.MaterializeResult(
            data_version=dg.DataVersion(evidence),
            metadata=_metadata(home, report, evidence, known, spec),
            check_results=_selected(
                context,
                dg.AssetCheckResult(
                    check_name=GATE,
                    passed=decision["verdict"] == "PASS",
                    severity=dg.AssetCheckSeverity.WARN,
                    description=report["sentence"],
                    metadata={
                        "verdict": decision["verdict"],
                        "rules": _rules(decision),
                        "version": case.version,
                        "champion": case.champion.version if case.champion else "none",
                        "evidence": evidence,
                        "next": dg.MetadataValue.md(_next(spec, report)),
                    }
                    | {
                        f"{rule['rule']}: {rule['name']}": rule["value"]
                        for rule in decision["rules"]
                        if isinstance(rule["value"], float)
                    },
                ),
            ),
        )

    return evaluation


def _selected(
    context: dg.AssetExecutionContext, result: dg.AssetCheckResult
) -> list[dg.AssetCheckResult]:
    return [result] if context.selected_asset_check_keys else []


def _next(spec: ModelSpec, report: dict[str, Any]) -> str:
    if report["decision"]["verdict"] != "PASS":
        return "Nothing to do: the champion stays."
    name = f"{spec.name}@{report['version']}"
    return (
        f"`mlct request {spec.name}`, then `mlct approve {name} --key ~/.ssh/id_ed25519`, then "
        f"launch the job `{spec.name}_promotion`."
    )


def _report(
    home: Home, spec: ModelSpec, case: _Case, run_id: str
) -> tuple[dict[str, Any], str, bool]:
    """`(report, its digest, whether it was known already)`; a new one is stored and recorded."""
    for record in home.ledger.records(kind="evaluation", model=spec.name, subject=case.key):
        evidence = record.predicate["evidence"]
        return json.loads(home.store.get(evidence)), evidence, True
    report, plots = _evaluate(home, spec, case)
    report["plots"] = {name: home.store.put(png) for name, png in plots.items()}
    evidence = home.store.put(canonical(report))
    decision = report["decision"]
    common = {
        "model": spec.name,
        "version": case.version,
        "slot": spec.slot,
        "artifact": case.artifact,
        "evidence": evidence,
        "champion": case.champion.version if case.champion else None,
        "head": case.champion.sequence if case.champion else 0,
    }
    home.registry.record(
        spec.name,
        case.version,
        metrics=report["evaluation"]["metrics"]["challenger"],
        tags={"mlct.verdict": decision["verdict"], "mlct.evidence": evidence},
    )
    with home.ledger.transaction():
        home.ledger.append(
            statement(
                "gate",
                {"artifact": case.artifact, "evidence": evidence},
                common
                | {
                    "tier": spec.risk_tier,
                    "verdict": decision["verdict"],
                    "reasons": decision["reasons"],
                    "policy": digest(case.policy),
                },
            ),
            actor=f"dagster:{run_id}",
        )
        home.ledger.append(
            statement(
                "evaluation",
                {"evidence": evidence, "holdout": case.holdout, "case": case.key},
                common | {"holdout": case.holdout, "dagster_run": run_id},
            ),
            actor=f"dagster:{run_id}",
        )
    return report, evidence, False


def _evaluate(home: Home, spec: ModelSpec, case: _Case) -> tuple[dict[str, Any], dict[str, bytes]]:
    rows = snapshot.read(home.store, case.holdout).to_table()
    models = {
        "challenger": fit.unpack(fit.kept(home.store, case.artifact), trusted=spec.trusted_types)
    }
    problem = None
    if case.champion is not None:
        _no_overlap(home, spec, case)
        kept = fit.kept(home.store, case.champion.artifact)
        models["champion"] = fit.unpack(kept, trusted=spec.trusted_types)
    task = models["challenger"].task
    scores: dict[str, Any] = {}
    for name, model in models.items():
        try:
            scores[name] = model.score(rows)
        except DataError as error:
            if name == "challenger":
                raise EvaluationError(
                    f"the challenger cannot score its own holdout: {error.found}"
                ) from error
            problem = error.found
    y_true = _truth(rows, models["challenger"])
    # What a model without features would say: the training rows' mean label.
    train = snapshot.read(home.store, case.train).to_table(columns=[spec.columns.label])
    prior = float(np.mean(_truth(train, models["challenger"])))
    scores["baseline"] = np.full(rows.num_rows, prior)
    sample = rows.slice(0, LATENCY_ROWS).to_pylist()
    timed = {
        name: latency(model.score_row, sample) for name, model in models.items() if name in scores
    }
    measured = {
        name: {model: values[name] for model, values in timed.items()}
        for name in timed["challenger"]
    }
    groups = {
        rule.by: _group(rows, rule.by)
        for rule in spec.gate.guardrails
        if isinstance(rule, GroupGap)
    }
    found = evaluate(
        y_true,
        scores,
        policy=spec.gate,
        task=task,
        clusters=clusters(rows[spec.columns.time], spec.windows.cluster),
        unit={"1d": "day", "1h": "hour", "1w": "week"}.get(spec.windows.cluster, "cluster"),
        groups=groups,
        measured=measured,
        champion_problem=problem,
        seed=spec.seed,
    )
    decision = decide(found, spec.gate)
    same = case.champion is not None and case.champion.artifact == case.artifact
    sentence = (
        f"{decision.verdict}: the challenger is version {case.version}, which is live: nothing to "
        "decide"
        if same
        else decision.sentence
    )
    if reason := quarantined(home.ledger, spec.name).get(case.version):
        sentence += f" (version {case.version} is quarantined and cannot come back: {reason})"
    report = {
        "format": "mlct.report/v1",
        "model": spec.name,
        "version": case.version,
        "champion": case.champion.version if case.champion else None,
        "training_set": case.training_set,
        "holdout": case.holdout,
        "sentence": sentence,
        "decision": decision.to_dict(),
        "policy": case.policy,
        "evaluation": found.to_dict(),
    }
    shown = {n: s for n, s in scores.items() if n != "baseline"}
    return report, plot.plots(task, y_true, shown)


def _no_overlap(home: Home, spec: ModelSpec, case: _Case) -> None:
    assert case.champion is not None
    for record in home.ledger.records(
        kind="training", model=spec.name, subject=case.champion.artifact
    ):
        until = record.predicate["train_end"]
        if until > case.holdout_start:
            raise EvaluationError(
                f"the champion, version {case.champion.version}, was trained on rows up to "
                f"{until}, inside the holdout that starts at {case.holdout_start}",
                expected="a holdout that none of the compared models has seen",
                fix="Choose an as_of later than the champion's, or keep Windows.holdout as it was",
            )


def _truth(rows: pa.Table, model: fit.Model) -> Any:
    values = rows[model.label].to_numpy()
    if model.task != "binary":
        return values.astype(np.float64)
    strange = set(np.unique(values).tolist()) - set(model.classes)
    if strange:
        raise EvaluationError(
            f"the holdout has labels {sorted(strange)[:5]} that the model never saw",
            expected=f"the classes {list(model.classes)}",
        )
    return (values == model.classes[1]).astype(np.int64)


def _group(rows: pa.Table, column: str) -> Any:
    if column not in rows.column_names:
        raise EvaluationError(
            f"the holdout has no column {column!r} to group by",
            expected=f"one of {', '.join(rows.column_names)}",
            fix="Correct GroupGap(by=...) in the gate policy",
        )
    return np.array([str(v) for v in rows[column].to_pylist()])


def _rules(decision: dict[str, Any]) -> dg.MetadataValue:
    columns = ("rule", "name", "observed", "required", "outcome")
    return dg.MetadataValue.table(
        [dg.TableRecord({c: str(rule[c]) for c in columns}) for rule in decision["rules"]],
        schema=dg.TableSchema(columns=[dg.TableColumn(c, "string") for c in columns]),
    )


def _metadata(
    home: Home, report: dict[str, Any], evidence: str, known: bool, spec: ModelSpec
) -> dict[str, Any]:
    metrics = report["evaluation"]["metrics"]
    models = [m for m in ("challenger", "champion", "baseline") if m in metrics]
    shown: dict[str, Any] = {
        "verdict": report["sentence"],
        "version": report["version"],
        "champion": str(report["champion"] or "none"),
        "rules": _rules(report["decision"]),
        "metrics": dg.MetadataValue.table(
            [
                dg.TableRecord({"metric": name} | {m: f"{metrics[m][name]:.4f}" for m in models})
                for name in metrics["challenger"]
            ]
        ),
        "holdout_rows": report["evaluation"]["rows"],
        "evidence": evidence,
        "reused": known,
    }
    for name, stored in report["plots"].items():
        picture = base64.b64encode(home.store.get(stored)).decode()
        shown[name] = dg.MetadataValue.md(f"![{name}](data:image/png;base64,{picture})")
    primary = spec.gate.primary.name
    if primary in metrics["challenger"]:
        shown[primary] = metrics["challenger"][primary]
    return shown
