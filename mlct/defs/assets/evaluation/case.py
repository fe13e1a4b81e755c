"""What is compared, and the comparison itself, out of store and ledger."""

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from mlct.adapters.home import Home
from mlct.data import snapshot
from mlct.data.digest import digest
from mlct.data.window import clusters, duration, parse_instant
from mlct.defs.assets.evaluation.measure import measure
from mlct.errors import DataError, EvaluationError
from mlct.evaluation import plot
from mlct.evaluation.baseline import featureless, no_change
from mlct.evaluation.evaluate import evaluate
from mlct.evaluation.gate import decide
from mlct.evaluation.leakage import leakage_suspects
from mlct.release.slot import Live, quarantined
from mlct.spec import ModelSpec
from mlct.training import fit


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What is compared: the training set's document, and the champion as the ledger names it."""

    training_set: str
    document: dict[str, Any]
    version: int
    artifact: str
    champion: Live | None
    spec: ModelSpec
    selection: dict[str, Any]

    @property
    def holdout(self) -> str:
        found: str = self.document["holdout"]
        return found

    @property
    def key(self) -> str:
        """Equal cases need no second look."""
        return digest(
            {
                "holdout": self.holdout,
                "train": self.document["train"],
                "version": self.version,
                "artifact": self.artifact,
                "head": self.champion.sequence if self.champion else 0,
                "slot": self.spec.slot,
                "tier": self.spec.risk_tier,
                "policy": self.spec.gate.to_dict(),
            }
            | ({"selection": self.selection} if self.selection else {})
            | ({"no_change": True} if self.spec.no_change else {})
        )


def judge(home: Home, case: Case, *, looks: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """`(report, plots)` of a case. Raises EvaluationError where no verdict can be trusted."""
    spec = case.spec
    rows = snapshot.read(home.store, case.holdout).to_table()
    models = _models(home, case)
    challenger = models["challenger"]
    scores, problem = _scores(models, rows)
    y_true = _truth(rows, challenger)
    train = snapshot.read(home.store, case.document["train"]).to_table(columns=_known_by(spec))
    classes = len(challenger.classes) if challenger.task == "multiclass" else 0
    scores["baseline"] = featureless(_truth(train, challenger), rows.num_rows, classes)
    if spec.no_change:
        scores["no_change"] = _repeated(spec, train, rows, challenger)
    measured, served = measure(home, case, models, scores, rows, y_true)
    found = evaluate(
        y_true,
        scores,
        policy=spec.gate,
        task=challenger.task,
        clusters=clusters(rows[spec.columns.time], spec.windows.cluster),
        unit={"1d": "day", "1h": "hour", "1w": "week"}.get(spec.windows.cluster, "cluster"),
        groups={column: _group(rows, column) for column in spec.gate.columns},
        frame={n: rows[n].to_numpy() for n in rows.column_names},
        measured=measured,
        champion_problem=problem,
        champion_age_days=_age(home, case),
        holdout_digest=case.holdout,
        holdout_start=case.document["holdout_start"],
        holdout_end=case.document["holdout_end"],
        label_delay_days=duration(spec.windows.label_delay) / timedelta(days=1),
        looks=looks,
        selected_among=len(case.selection.get("values", "1")),
        selected_on=case.selection.get("rows"),
        duplicates=sum(n - 1 for n in Counter(rows[spec.columns.id].to_pylist()).values()),
        # A number may well follow from one feature; a class that does was probably made from it.
        suspects=leakage_suspects(
            y_true,
            {f.name: rows[f.name].to_numpy() for f in challenger.features},
            limit=spec.gate.max_feature_auc,
        )
        if challenger.task == "binary"
        else (),
        seed=spec.seed,
    )
    decision = decide(found, spec.gate)
    report = {
        "format": "mlct.report/v1",
        "model": spec.name,
        "version": case.version,
        "artifact": case.artifact,
        "champion": case.champion.version if case.champion else None,
        "training_set": case.training_set,
        "holdout": case.holdout,
        "sentence": _sentence(home, case, decision),
        "decision": decision.to_dict(),
        "policy": spec.gate.to_dict(),
        "evaluation": found.to_dict(),
    }
    if case.selection:
        report["selection"] = case.selection
    if served:
        report["served"] = served
    if found.single_class or "challenger" in found.unscored:
        return report, {}
    drawn = {n: scores[n] for n in models if n in scores and n not in found.unscored}
    pictures = plot.plots(challenger.task, y_true, drawn)
    for number, table in enumerate(found.slices, 1):
        pictures[f"slices_{number}"] = plot.slice_forest(table)
    return report, pictures


def _known_by(spec: ModelSpec) -> list[str]:
    """The columns that tell a label and when it was known."""
    columns = spec.columns
    return [c for c in (columns.time, columns.label, columns.label_time) if c is not None]


def _repeated(spec: ModelSpec, train: pa.Table, rows: pa.Table, model: fit.Model) -> Any:
    """The last label known when each row of the holdout was scored, those of training included."""
    both = pa.concat_tables([train, rows.select(_known_by(spec))])
    times, labels = both[spec.columns.time].to_numpy(), _truth(both, model)
    if spec.columns.label_time:
        known = both[spec.columns.label_time].to_numpy()
    else:
        known = times + np.timedelta64(duration(spec.windows.label_delay))
    # Before the first known label, the first one: the holdout begins after many.
    last = no_change(labels, times, known, before=float(labels[0]))[train.num_rows :]
    if model.task != "multiclass":
        return last
    return np.eye(len(model.classes))[last.astype(np.int64)]


def _sentence(home: Home, case: Case, decision: Any) -> str:
    reason = quarantined(home.ledger, case.spec.name).get(case.version)
    banned = f" (version {case.version} is quarantined and cannot come back: {reason})"
    return str(decision.sentence) + (banned if reason else "")


def _models(home: Home, case: Case) -> dict[str, fit.Model]:
    trusted = case.spec.trusted_types
    models = {"challenger": fit.unpack(fit.kept(home.store, case.artifact), trusted=trusted)}
    if case.champion is not None:
        _no_overlap(home, case, case.champion)
        kept = fit.kept(home.models, case.champion.artifact)
        models["champion"] = fit.unpack(kept, trusted=trusted)
    return models


def _scores(models: dict[str, fit.Model], rows: pa.Table) -> tuple[dict[str, Any], str | None]:
    """Scores by model, and why the champion has none, if so."""
    scores: dict[str, Any] = {}
    problem = None
    for name, model in models.items():
        try:
            if model.classes != models["challenger"].classes:
                raise DataError(
                    f"it knows the classes {list(model.classes)}, the challenger "
                    f"{list(models['challenger'].classes)}"
                )
            scores[name] = model.score(rows)
        except DataError as error:
            if name == "challenger":
                raise EvaluationError(
                    f"the challenger cannot score its own holdout: {error.found}"
                ) from error
            problem = error.found
    return scores, problem


def _training(home: Home, case: Case, artifact: str) -> dict[str, Any]:
    records = home.ledger.records(kind="training", model=case.spec.name, subject=artifact)
    return records[0].predicate


def _age(home: Home, case: Case) -> float | None:
    """Days in the data's time between the champion's training set and this one."""
    if case.champion is None:
        return None
    made = parse_instant(_training(home, case, case.champion.artifact)["as_of"])
    return (parse_instant(case.document["as_of"]) - made).total_seconds() / 86_400


def _no_overlap(home: Home, case: Case, champion: Live) -> None:
    start = case.document["holdout_start"]
    for record in home.ledger.records(
        kind="training", model=case.spec.name, subject=champion.artifact
    ):
        until = record.predicate["train_end"]
        if until > start:
            raise EvaluationError(
                f"the champion, version {champion.version}, was trained on rows up to {until}, "
                f"inside the holdout that starts at {start}",
                expected="a holdout that none of the compared models has seen",
                fix="Choose an as_of later than the champion's, or keep Windows.holdout as it was",
            )


def _truth(rows: pa.Table, model: fit.Model) -> Any:
    try:
        return model.truth(rows)
    except DataError as error:
        raise EvaluationError(f"the holdout: {error.found}", expected=error.expected) from error


def _group(rows: pa.Table, column: str) -> Any:
    if column not in rows.column_names:
        raise EvaluationError(
            f"the holdout has no column {column!r} to group by",
            expected=f"one of {', '.join(rows.column_names)}",
            fix="Correct GroupGap(by=...) in the gate policy",
        )
    return np.array([str(v) for v in rows[column].to_pylist()])
