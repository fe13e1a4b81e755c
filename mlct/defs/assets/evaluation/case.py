"""What is compared, and the comparison itself, out of store and ledger."""

import functools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mlct.adapters.home import Home
from mlct.data import snapshot
from mlct.data.digest import digest
from mlct.data.window import clusters, parse_instant
from mlct.errors import DataError, EvaluationError
from mlct.evaluation import plot
from mlct.evaluation.evaluate import evaluate
from mlct.evaluation.gate import decide
from mlct.evaluation.guardrail import latencies, peak_memory_mb
from mlct.evaluation.leakage import leakage_suspects
from mlct.release.slot import Live, quarantined
from mlct.spec import ModelSpec
from mlct.training import fit

LATENCY_ROWS = 200
BATCHES, BATCH_ROWS = 20, 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What is compared: the training set's document, and the champion as the ledger names it."""

    training_set: str
    document: dict[str, Any]
    version: int
    artifact: str
    champion: Live | None
    spec: ModelSpec

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
        )


def judge(home: Home, case: Case, *, looks: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """`(report, plots)` of a case. Raises EvaluationError where no verdict can be trusted."""
    spec = case.spec
    rows = snapshot.read(home.store, case.holdout).to_table()
    models = _models(home, case)
    challenger = models["challenger"]
    scores, problem = _scores(models, rows)
    y_true = _truth(rows, challenger)
    # What a model without features would say: the training rows' mean label.
    train = snapshot.read(home.store, case.document["train"]).to_table(columns=[spec.columns.label])
    scores["baseline"] = np.full(rows.num_rows, float(np.mean(_truth(train, challenger))))
    found = evaluate(
        y_true,
        scores,
        policy=spec.gate,
        task=challenger.task,
        clusters=clusters(rows[spec.columns.time], spec.windows.cluster),
        unit={"1d": "day", "1h": "hour", "1w": "week"}.get(spec.windows.cluster, "cluster"),
        groups={column: _group(rows, column) for column in spec.gate.columns},
        frame={n: rows[n].to_numpy() for n in rows.column_names},
        measured=_measured(home, case, models, scores, rows),
        champion_problem=problem,
        champion_age_days=_age(home, case),
        holdout_digest=case.holdout,
        holdout_start=case.document["holdout_start"],
        holdout_end=case.document["holdout_end"],
        looks=looks,
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
    if found.single_class or "challenger" in found.unscored:
        return report, {}
    drawn = {n: scores[n] for n in models if n in scores and n not in found.unscored}
    pictures = plot.plots(challenger.task, y_true, drawn)
    for number, table in enumerate(found.slices, 1):
        pictures[f"slices_{number}"] = plot.slice_forest(table)
    return report, pictures


def _sentence(home: Home, case: Case, decision: Any) -> str:
    if case.champion is not None and case.champion.artifact == case.artifact:
        return (
            f"{decision.verdict}: the challenger is version {case.version}, which is live: nothing "
            "to decide"
        )
    reason = quarantined(home.ledger, case.spec.name).get(case.version)
    banned = f" (version {case.version} is quarantined and cannot come back: {reason})"
    return str(decision.sentence) + (banned if reason else "")


def _models(home: Home, case: Case) -> dict[str, fit.Model]:
    trusted = case.spec.trusted_types
    models = {"challenger": fit.unpack(fit.kept(home.store, case.artifact), trusted=trusted)}
    if case.champion is not None:
        _no_overlap(home, case, case.champion)
        kept = fit.kept(home.store, case.champion.artifact)
        models["champion"] = fit.unpack(kept, trusted=trusted)
    return models


def _scores(models: dict[str, fit.Model], rows: pa.Table) -> tuple[dict[str, Any], str | None]:
    """Scores by model, and why the champion has none, if so."""
    scores: dict[str, Any] = {}
    problem = None
    for name, model in models.items():
        try:
            scores[name] = model.score(rows)
        except DataError as error:
            if name == "challenger":
                raise EvaluationError(
                    f"the challenger cannot score its own holdout: {error.found}"
                ) from error
            problem = error.found
    return scores, problem


def _measured(
    home: Home,
    case: Case,
    models: dict[str, fit.Model],
    scores: dict[str, Any],
    rows: pa.Table,
) -> dict[str, Any]:
    """Latency of one row always; what costs more only where a rule asks for it."""
    able = {n: m for n, m in models.items() if n in scores}
    sample = rows.slice(0, LATENCY_ROWS).to_pylist()
    one = {n: m.score_row for n, m in able.items()}
    found: dict[str, Any] = latencies(one, sample, seed=case.spec.seed)
    asked = " ".join(str(getattr(rule, "metric", "")) for rule in case.spec.gate.guardrails)
    if "batch_latency" in asked:
        batches = [rows.slice(i * BATCH_ROWS, BATCH_ROWS) for i in range(BATCHES)]
        filled = [b for b in batches if b.num_rows]
        many = {n: m.score for n, m in able.items()}
        found |= latencies(many, filled, name="batch_latency", seed=case.spec.seed)
    if "peak_memory_mb" in asked:
        found["peak_memory_mb"] = {
            n: peak_memory_mb(functools.partial(m.score, rows)) for n, m in able.items()
        }
    digests = {"challenger": case.artifact}
    if case.champion is not None:
        digests["champion"] = case.champion.artifact
    found["model_mb"] = {
        n: sum(map(len, fit.kept(home.store, artifact).values())) / 1e6
        for n, artifact in digests.items()
    }
    return found


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
