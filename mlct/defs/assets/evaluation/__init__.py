"""`m/evaluation`: challenger and champion on the same frozen holdout, and the gate's verdict.

`case` compares, `display` shows; here is the asset, and what it records.
"""

import json
from typing import Any

import dagster as dg

from mlct.adapters.home import Home
from mlct.data.digest import canonical
from mlct.defs.assets.evaluation import display
from mlct.defs.assets.evaluation.case import Case, judge
from mlct.defs.assets.evaluation.forward import put_fallback_forward, put_forward
from mlct.defs.names import GATE, key, settings
from mlct.defs.resources import MlctHome
from mlct.errors import EvaluationError
from mlct.evaluation import plot
from mlct.release.approval.request import slot_key
from mlct.release.ledger import statement
from mlct.release.slot import live
from mlct.spec import ModelSpec

#: How many evaluations the metric's history goes back.
EARLIER = 40


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
        ts_digest, ts = mlct.handed(spec.name, "training_set", context.run.run_id)
        _, challenger = mlct.handed(spec.name, "challenger", context.run.run_id)
        case = Case(
            training_set=ts_digest,
            document=ts,
            version=challenger["version"],
            artifact=challenger["artifact"],
            champion=live(home.ledger, spec.name, spec.slot),
            spec=spec,
            selection=challenger.get("selection", {}),
        )
        put_fallback_forward(home, spec, actor=f"dagster:{context.run.run_id}")
        of_these = challenger["training_set"] == ts_digest
        if of_these and case.champion is not None and case.champion.version == case.version:
            return _nothing(case)
        try:
            if not of_these:
                raise EvaluationError(
                    f"version {case.version} was last made from another training set than the "
                    "newest one",
                    expected="challenger and training_set of one run",
                    fix=f"Run the job {spec.name}_retrain",
                )
            report, evidence, known = _report(home, case, context.run.run_id)
        except EvaluationError as error:
            context.log.error("evaluation cannot be trusted: %s", error)
            return dg.MaterializeResult(
                metadata={"version": case.version, "error": str(error)},
                check_results=[
                    dg.AssetCheckResult(
                        check_name=GATE,
                        passed=False,
                        severity=dg.AssetCheckSeverity.ERROR,
                        description=f"This evaluation cannot be trusted: {error}",
                    )
                ],
            )
        mlct.hand_on(
            spec.name,
            "evaluation",
            context.run.run_id,
            {"format": "mlct.evaluated/v1", "evidence": evidence, "version": case.version},
        )
        decision = report["decision"]
        return dg.MaterializeResult(
            data_version=dg.DataVersion(evidence),
            metadata=display.metadata(home, report, evidence, known, spec),
            check_results=[
                dg.AssetCheckResult(
                    check_name=GATE,
                    passed=decision["verdict"] == "PASS",
                    severity=dg.AssetCheckSeverity.WARN,
                    description=report["sentence"],
                    metadata={
                        "verdict": decision["verdict"],
                        "rules": display.rules(decision),
                        "version": str(case.version),
                        "champion": str(case.champion.version if case.champion else "none"),
                        "evidence": evidence,
                        "next": display.next_step(spec, report),
                    }
                    | {
                        f"{rule['rule']}: {rule['name']}": float(f"{rule['value']:.6g}")
                        for rule in decision["rules"]
                        if isinstance(rule["value"], float)
                    },
                )
            ],
        )

    return evaluation


def _nothing(case: Case) -> dg.MaterializeResult:
    """What is live is not judged against itself: that would spend a look at the holdout."""
    told = f"Nothing to decide: version {case.version} is live, and its recipe has not changed"
    return dg.MaterializeResult(
        metadata={"verdict": told, "version": case.version},
        check_results=[
            dg.AssetCheckResult(
                check_name=GATE,
                passed=True,
                severity=dg.AssetCheckSeverity.WARN,
                description=told,
                metadata={"version": str(case.version), "champion": str(case.version)},
            )
        ],
    )


def _looks(home: Home, case: Case) -> int:
    """The how-manieth decision on this holdout the case would be."""
    used = home.ledger.records(kind="evaluation", model=case.spec.name, subject=case.holdout)
    return 1 + len({r.predicate["case"] for r in used if r.predicate["case"] != case.key})


def _history(home: Home, case: Case, report: dict[str, Any]) -> bytes:
    """The first primary metric of the last versions, each as its own evaluation found it."""
    metric = case.spec.gate.primaries[0].name
    earlier = home.ledger.records(kind="evaluation", model=case.spec.name, limit=EARLIER)
    reports = {
        r.predicate["version"]: json.loads(home.store.get(r.predicate["evidence"]))
        for r in reversed(earlier)
    } | {case.version: report}
    moves = home.ledger.records(slot=slot_key(case.spec.name, case.spec.slot))
    return plot.metric_history(
        metric,
        {
            version: value
            for version, said in reports.items()
            if (value := said["evaluation"]["metrics"].get("challenger", {}).get(metric))
            is not None
        },
        live={move.predicate["version"] for move in moves},
    )


def _report(home: Home, case: Case, run_id: str) -> tuple[dict[str, Any], str, bool]:
    """`(report, its digest, whether it was known already)`; a new one is stored and recorded."""
    spec = case.spec
    for record in home.ledger.records(kind="evaluation", model=spec.name, subject=case.key):
        evidence = record.predicate["evidence"]
        report = json.loads(home.store.get(evidence))
        # Slot, deployment or approvers file may have changed since: that takes no second look.
        put_forward(home, case, report["decision"], evidence, actor=f"dagster:{run_id}")
        return report, evidence, True
    looks = _looks(home, case)
    report, plots = judge(home, case, looks=looks)
    plots["metric_history"] = _history(home, case, report)
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
        metrics={
            name: value
            for name, value in report["evaluation"]["metrics"].get("challenger", {}).items()
            if value is not None
        },
        tags={"mlct.verdict": decision["verdict"], "mlct.evidence": evidence},
    )
    with home.ledger.transaction():
        if _looks(home, case) != looks:
            raise EvaluationError(
                "another evaluation has used this holdout meanwhile",
                expected=f"to be number {looks} that decides on it",
                fix=f"Run the job {spec.name}_retrain again",
            )
        put_forward(home, case, decision, evidence, actor=f"dagster:{run_id}")
        home.ledger.append(
            statement(
                "evaluation",
                {"evidence": evidence, "holdout": case.holdout, "case": case.key},
                common
                | {
                    "holdout": case.holdout,
                    "looks": looks,
                    "case": case.key,
                    "dagster_run": run_id,
                },
            ),
            actor=f"dagster:{run_id}",
        )
    return report, evidence, False
