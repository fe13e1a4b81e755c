"""`m/challenger`: the fitted model, logged to MLflow with its recipe, or the version it equals."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg
import pyarrow as pa

from mlct import __version__
from mlct.adapters.home import Home
from mlct.adapters.mlflow_registry import CHALLENGER, Logged
from mlct.data import snapshot
from mlct.data.contract import contract_digest, suite_of
from mlct.data.digest import digest as sha256_of
from mlct.defs.assets.selection import Choice, choose
from mlct.defs.names import CAUSE_TAG, PERSON_TAG, REASON_TAG, TRIGGER_TAG, key, settings
from mlct.defs.resources import MlctHome
from mlct.errors import ApprovalInvalid, DataError
from mlct.release.ledger import Record, require_contract, statement
from mlct.release.slot import live
from mlct.release.slot.state import FALLBACK, banned
from mlct.spec import ModelSpec
from mlct.training import fit, smoke
from mlct.training.recipe import Code, Recipe, code_state, environment_lock, recipe, seeded


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
        if spec.fallback is not None:  # first: alias `challenger` ends on the challenger
            _keep_fallback(home, spec, context, spec.fallback, names, digest, document)
        choice = _pinned(spec, choose(home, spec, document, names))
        known = _known(home, spec, choice.recipe)
        tags = context.run.tags
        # What nobody is known as the author of is trained again by whoever is known.
        nobody = known is not None and not known.predicate["authors"]
        if known is None or (nobody and _authors(tags, code_state())):
            rows = data.to_table()
            model = fit.fit(choice.estimator, rows, names, spec.columns.label)
            known = _log(home, spec, context, choice, model, rows, digest, document)
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
            {
                "format": "mlct.challenger/v1",
                "training": known.hash,
                "training_set": digest,
                # Not the training statement's, which an earlier choice may have written.
                "selection": choice.document,
            }
            | {n: says[n] for n in ("version", "artifact", "recipe")},
        )
        _warn_of_no_author(context, home, spec, known)
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
            }
            | _shown(choice.document),
        )

    return challenger


def _shown(selection: dict[str, Any]) -> dict[str, Any]:
    """What the candidates had on the selection window; nothing where there was no choice."""
    if not selection:
        return {}
    rows = [
        dg.TableRecord({"candidate": n, selection["metric"]: round(v, 6)})
        for n, v in selection["values"].items()
    ]
    return {"chosen": selection["chosen"], "candidates": dg.MetadataValue.table(rows)}


def _pinned(spec: ModelSpec, choice: Choice) -> Choice:
    """The choice by a recipe that names the feature code and the threshold too, where declared.

    They go back together with a version, so another one of them is another version.
    """
    if not spec.feature_version and spec.threshold is None:
        return choice
    code = sha256_of([choice.recipe.code, spec.feature_version, spec.threshold])
    return replace(choice, recipe=replace(choice.recipe, code=code))


def _keep_fallback(
    home: Home,
    spec: ModelSpec,
    context: dg.AssetExecutionContext,
    factory: Callable[[], Any],
    names: Sequence[str],
    training_set: str,
    document: dict[str, Any],
) -> None:
    """Train what a rollback falls back to, unless one of this code and these features is live."""
    data = snapshot.read(home.store, document["train"])
    estimator = seeded(factory(), spec.seed)
    made = recipe(
        factory,
        estimator,
        snapshot=document["train"],
        features=tuple((n, str(data.schema.field(n).type)) for n in names),
        label=spec.columns.label,
        seed=spec.seed,
    )
    # Of its own, even where the estimator is a challenger's: a fallback is none.
    code = sha256_of([made.code, spec.feature_version, spec.threshold, FALLBACK])
    choice = Choice(estimator=estimator, recipe=replace(made, code=code), document={})
    form = choice.recipe.to_dict()
    mark = sha256_of({n: form[n] for n in ("features", "parameters", "code")})
    current = live(home.ledger, spec.name, FALLBACK)
    trained = home.ledger.records(
        kind="training", model=spec.name, subject=current.artifact if current else ""
    )
    if (
        current is not None
        and any(t.predicate.get("fallback") == mark for t in trained)
        and not banned(home.ledger, spec.name, current.version, current.artifact)
    ) or _known(home, spec, choice.recipe) is not None:
        return
    rows = data.to_table()
    model = fit.fit(estimator, rows, names, spec.columns.label)
    record = _log(home, spec, context, choice, model, rows, training_set, document, fallback=mark)
    context.log.info("trained fallback %s version %s", spec.name, record.predicate["version"])


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


def _warn_of_no_author(
    context: dg.AssetExecutionContext, home: Home, spec: ModelSpec, trained: Record
) -> None:
    """Say early what a promotion will refuse."""
    says = trained.predicate
    try:
        counts = home.approvers.tiers[spec.risk_tier].author
    except ApprovalInvalid:  # training needs no approvers file: what one without tiers would say
        counts = spec.risk_tier == "low"
    if not says["authors"] and not counts:
        context.log.warning(
            "nobody is known as the author of %s version %s, so that risk tier %r will refuse it: "
            "set MLCT_ACTOR, or commit the code to git, and run this job again",
            spec.name,
            says["version"],
            spec.risk_tier,
        )


def _authors(tags: Mapping[str, str], code: Code) -> list[str]:
    """Who launched or committed the training; nobody of these may approve it at higher tiers."""
    committed = f"{code.name} <{code.author}>" if code.name else code.author
    launched = tags.get(PERSON_TAG), os.environ.get("MLCT_ACTOR")
    return sorted({a for a in (committed, *launched) if a})


def _trigger(tags: Mapping[str, str]) -> Any:
    """The cause that a sensor put on the run; None where there is none."""
    try:
        return json.loads(tags.get(TRIGGER_TAG, "null"))
    except ValueError as error:
        raise DataError(
            f"the run's tag {TRIGGER_TAG} is {tags[TRIGGER_TAG]!r}",
            expected="JSON, as the retrain sensor writes it",
            fix="Leave the tag out of runs that you launch by hand",
        ) from error


def _log(
    home: Home,
    spec: ModelSpec,
    context: dg.AssetExecutionContext,
    choice: Choice,
    model: fit.Model,
    table: pa.Table,
    training_set: str,
    document: dict[str, Any],
    *,
    fallback: str = "",
) -> Record:
    """`fallback` marks a version that is one, by the digest of its code and features."""
    made, chosen = choice.recipe, choice.document
    trigger = _trigger(context.run.tags)
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
        }
        | ({"mlct.trigger": tags[TRIGGER_TAG]} if trigger else {}),
        datasets={"train": document["train"], "holdout": document["holdout"]},
        documents={
            "recipe.json": json.dumps(made.to_dict(), indent=2),
            "environment.lock": environment_lock(),
        }
        | ({"selection.json": json.dumps(chosen, indent=2)} if chosen else {}),
        requirements=[
            f"{name}=={version}"
            for name, version in {"mlct": __version__, **made.environment}.items()
            if name not in ("python", "machine")
        ],
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
                "authors": _authors(tags, code),
                "reason": reason,
                "cause": tags.get(CAUSE_TAG, ""),
                "importance": model.importance(),
                "selection": chosen,
                "features": list(spec.features),
                "feature_version": spec.feature_version,
                "threshold": spec.threshold,
                "trusted_types": list(spec.trusted_types),
                "smoke": smoke.keep(home.store, files, table, trusted=spec.trusted_types),
                "mlflow_run": logged.run_id,
                "dagster_run": context.run.run_id,
            }
            | ({"trigger": trigger} if trigger else {})
            | ({"refused": document["refused"]} if "refused" in document else {})
            | ({"fallback": fallback} if fallback else {}),
        ),
        actor=f"dagster:{context.run.run_id}",
    )
