"""`m/challenger`: the fitted model, logged to MLflow with its recipe, or the version it equals."""

import json
import os
from typing import Any

import dagster as dg

from mlct import __version__
from mlct.adapters.home import Home
from mlct.adapters.mlflow_registry import CHALLENGER, Logged
from mlct.data import snapshot
from mlct.data.contract import contract_digest, suite_of
from mlct.defs.names import CAUSE_TAG, REASON_TAG, key, settings
from mlct.defs.resources import MlctHome
from mlct.release.ledger import Record, require_contract, statement
from mlct.spec import ModelSpec
from mlct.training import fit
from mlct.training.recipe import Recipe, code_state, environment_lock, recipe, seeded


def build_challenger(spec: ModelSpec) -> dg.AssetsDefinition:
    """The asset that trains. Refuses data without a passing contract statement."""

    @dg.asset(
        key=key(spec, "challenger"),
        deps=[key(spec, "training_set")],
        description="The model fitted on the training set. Same recipe, same version.",
        **settings(spec, "mlflow", "python"),
    )
    def challenger(context: dg.AssetExecutionContext, mlct: MlctHome) -> dg.MaterializeResult:
        home = mlct.home
        digest, document = mlct.handed(spec.name, "training_set", context.run.run_id)
        contract = contract_digest(suite_of(spec.contract))
        require_contract(home.ledger, training_set=digest, contract=contract)
        data = snapshot.read(home.store, document["train"])
        names = spec.columns.features(data.schema)
        estimator = seeded(spec.estimator(), spec.seed)
        made = recipe(
            spec.estimator,
            estimator,
            snapshot=document["train"],
            features=tuple((n, str(data.schema.field(n).type)) for n in names),
            label=spec.columns.label,
            seed=spec.seed,
        )
        known = _known(home, spec, made)
        if known is None:
            model = fit.fit(estimator, data.to_table(), names, spec.columns.label)
            known = _log(home, spec, context, made, model, digest, document)
            context.log.info("trained %s version %s", spec.name, known.predicate["version"])
            reused = False
        else:
            if home.registry.alias(spec.name, CHALLENGER) != known.predicate["version"]:
                home.registry.set_alias(spec.name, CHALLENGER, known.predicate["version"])
            context.log.info(
                "the recipe is that of version %s: nothing to train", known.predicate["version"]
            )
            reused = True
        says = known.predicate
        mlct.hand_on(
            spec.name,
            "challenger",
            context.run.run_id,
            {"format": "mlct.challenger/v1", "training": known.hash, "training_set": digest}
            | {n: says[n] for n in ("version", "artifact", "recipe")},
        )
        return dg.MaterializeResult(
            data_version=dg.DataVersion(says["artifact"]),
            metadata={
                "version": says["version"],
                "reused": reused,
                "train_rows": says["rows"],
                "recipe": says["recipe"],
                "artifact": says["artifact"],
                "git": (says["code"]["commit"] or "no repository")
                + (" (dirty)" if says["code"]["dirty"] else ""),
                "importance": dg.MetadataValue.table(
                    [
                        dg.TableRecord({"feature": name, "share": round(share, 4)})
                        for name, share in sorted(says["importance"].items(), key=lambda p: -p[1])
                    ]
                    or [
                        dg.TableRecord(
                            {"feature": "(not reported by this estimator)", "share": 0.0}
                        )
                    ]
                ),
                "mlflow_run": says["mlflow_run"],
                "reason": says["reason"],
            },
        )

    return challenger


def _known(home: Home, spec: ModelSpec, made: Recipe) -> Record | None:
    """The training statement of an earlier version by this recipe that MLflow still has."""
    records = home.ledger.records(kind="training", model=spec.name, subject=made.digest)
    there = {v.version for v in home.registry.find(spec.name, made.digest)} if records else set()
    return next((r for r in records if r.predicate["version"] in there), None)


def _orphan(home: Home, spec: ModelSpec, made: Recipe, artifact: str) -> Logged | None:
    """A version with these very bytes whose run died before the ledger heard of it."""
    for version in home.registry.find(spec.name, made.digest):
        if home.registry.artifact(spec.name, version.version) == artifact:
            home.registry.set_alias(spec.name, CHALLENGER, version.version)
            return version
    return None


def _log(
    home: Home,
    spec: ModelSpec,
    context: dg.AssetExecutionContext,
    made: Recipe,
    model: fit.Model,
    training_set: str,
    document: dict[str, Any],
) -> Record:
    files = fit.pack(model, trusted=spec.trusted_types)
    artifact = fit.keep(home.store, files)
    code = code_state()
    tags = context.run.tags
    reason = tags.get(REASON_TAG, "launched by hand")
    rows = document["counts"]["train"]["matured"]
    logged = _orphan(home, spec, made, artifact) or home.registry.log(
        spec.name,
        files,
        recipe=made.digest,
        parameters={"estimator": made.estimator, "seed": made.seed} | dict(made.parameters),
        metrics={"train_rows": float(rows)},
        tags={
            "mlct.artifact": artifact,
            "mlct.training_set": training_set,
            "mlct.train": document["train"],
            "mlct.holdout": document["holdout"],
            "mlct.as_of": document["as_of"],
            "mlct.git_commit": code.commit,
            "mlct.git_dirty": str(code.dirty).lower(),
            "mlct.reason": reason,
            "mlct.cause": tags.get(CAUSE_TAG, ""),
            "mlct.dagster_run": context.run.run_id,
        },
        datasets={"train": document["train"], "holdout": document["holdout"]},
        documents={
            "recipe.json": json.dumps(made.to_dict(), indent=2),
            "environment.lock": environment_lock(),
        },
        requirements=[
            f"{name}=={version}"
            for name, version in {"mlct": __version__, **made.environment}.items()
            if name not in ("python", "machine")
        ],
    )
    # Who launched or committed the training; nobody of these may approve it at higher tiers.
    authors = sorted(
        {a for a in (code.author, tags.get("user"), os.environ.get("MLCT_ACTOR")) if a}
    )
    return home.ledger.append(
        statement(
            "training",
            {"artifact": artifact, "recipe": made.digest, "train": document["train"]},
            {
                "model": spec.name,
                "version": logged.version,
                "artifact": artifact,
                "recipe": made.digest,
                "training_set": training_set,
                "rows": rows,
                **{n: document[n] for n in ("train", "as_of", "train_start")},
                "train_end": document["holdout_start"],
                "code": {"commit": code.commit, "dirty": code.dirty},
                "environment": dict(made.environment),
                "authors": authors,
                "reason": reason,
                "cause": tags.get(CAUSE_TAG, ""),
                "importance": model.importance(),
                "mlflow_run": logged.run_id,
                "dagster_run": context.run.run_id,
            },
        ),
        actor=f"dagster:{context.run.run_id}",
    )
