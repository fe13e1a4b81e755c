"""Who is better, on the same rows; a refusal is a normal night, a doubt is an error."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

import mlct
from mlct.cli.answers import evidence_text
from mlct.data.digest import canonical
from mlct.evaluation.evaluate import Evaluation
from mlct.release.ledger import statement

GATE = "champion_challenger_gate"
KEY = dg.AssetCheckKey(dg.AssetKey(["late", "evaluation"]), GATE)
WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


def blind() -> Any:
    """Worse than any: it says the same of every trip."""
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="prior")


def test_the_first_challenger_passes_for_a_reason_of_its_own_and_still_waits(trained, check):
    again = check(trained.retrain(), GATE)
    assert again.passed
    assert "no champion yet" in again.description
    assert trained.home.registry.alias("late", "production") is None
    done = trained.promote(1)
    assert not done.success  # nobody has signed


def test_a_better_challenger_passes_and_the_next_step_is_told(live, boosted, check):
    live.declare(estimator=boosted)
    found = check(live.retrain(), GATE)
    assert found.passed
    assert "beats the required" in found.description
    assert "mlct approve late@2" in found.metadata["next"].value
    assert "late_promotion" in found.metadata["next"].value


def test_a_worse_challenger_is_a_warning_with_reasons_and_the_run_is_green(live, check):
    live.declare(estimator=blind)
    done = live.retrain()
    found = check(done, GATE)
    assert done.success
    assert (found.passed, found.severity) == (False, WARN)
    assert found.metadata["verdict"].value == "FAIL"
    assert "roc_auc" in found.description
    assert live.records("gate")[-1]["verdict"] == "FAIL"


def test_an_undecided_challenger_is_a_warning_that_says_how_much_more_it_takes(
    live, boosted, check
):
    live.declare(
        estimator=boosted,
        gate=mlct.GatePolicy(primary=mlct.Superiority("roc_auc"), min_clusters=99),
    )
    done = live.retrain()
    found = check(done, GATE)
    assert done.success
    assert (found.passed, found.severity) == (False, WARN)
    assert found.metadata["verdict"].value == "INCONCLUSIVE"
    assert "at least 99 are required" in found.description


def test_what_is_live_is_not_judged_against_itself(live, check):
    """It takes no look at the holdout, and refuses nothing."""
    rows = live.home.ledger.verify()
    done = live.retrain()
    found = check(done, GATE)
    assert done.success
    assert found.description.startswith("Nothing to decide: version 1 is live")
    assert found.passed
    assert live.home.ledger.verify() == rows


def test_an_unchanged_second_run_adds_nothing_anywhere(trained, made):
    trained.retrain()
    rows, versions = trained.home.ledger.verify(), trained.versions()
    for _ in range(2):
        shown = made(trained.retrain(), "evaluation")
        assert shown["reused"]
    assert (trained.home.ledger.verify(), trained.versions()) == (rows, versions)


def test_another_risk_tier_is_another_case(trained):
    trained.declare(risk_tier="high")
    assert trained.retrain().success
    assert trained.records("gate")[-1]["tier"] == "high"


def test_a_version_of_equal_bytes_has_a_gate_statement_of_its_own(trained):
    trained.declare(seed=1)  # another recipe; the estimator has its own random state
    assert trained.retrain().success
    first, second = trained.records("gate")
    assert first["artifact"] == second["artifact"]
    assert (first["version"], second["version"]) == (1, 2)


def test_another_slot_is_another_case(trained):
    trained.declare(slot="canary")
    assert trained.retrain().success
    assert trained.records("gate")[-1]["slot"] == "canary"


def test_tables_and_plots_are_shown(trained, made, check):
    done = trained.retrain()
    shown = made(done, "evaluation")
    plots = {n: v for n, v in shown.items() if str(v).startswith(f"![{n}](data:image/png;base64,")}
    assert {"roc", "calibration"} < plots.keys()
    assert max(map(len, plots.values())) < 150_000  # they are kept in Dagster's event log
    metrics = {row["metric"]: row for row in shown["metrics"]}
    assert set(metrics["roc_auc"]) == {"metric", "challenger", "baseline"}
    assert shown["roc_auc"] == pytest.approx(float(metrics["roc_auc"]["challenger"]), abs=1e-4)
    # The sentence, then the rules, then the pictures.
    first, *later = [list(shown).index(name) for name in ("sentence", "rules", *sorted(plots))]
    assert first < later[0] < min(later[1:])
    rules = {row.data["rule"] for row in check(done, GATE).metadata["rules"].records}
    assert {"baseline", "limit", "group_gap"} <= rules


def test_the_numbers_of_each_rule_can_be_plotted_over_time(trained, check):
    metadata = check(trained.retrain(), GATE).metadata
    assert isinstance(metadata["baseline: roc_auc"].value, float)
    assert isinstance(metadata["limit: latency_p99_ms"].value, float)


def test_results_are_on_the_mlflow_version_too(trained):
    version = trained.home.registry.client.get_model_version("late", "1")
    (gate,) = trained.records("gate")
    assert version.tags["mlct.verdict"] == "PASS"
    assert version.tags["mlct.evidence"] == gate["evidence"]


def test_the_gate_has_no_step_of_its_own_that_could_be_run_again(trained):
    graph = trained.defs.resolve_asset_graph()
    assert graph.get_check_spec(KEY).name == GATE
    alone = dg.define_asset_job("alone", dg.AssetSelection.checks(KEY))
    defs = dg.Definitions.merge(trained.defs, dg.Definitions(jobs=[alone]))
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="alone"):
        defs.resolve_job_def("alone")


def untrusted(world: Any, check: Any, **words: Any) -> str:
    """What the gate says of an evaluation that cannot be trusted; nothing may be recorded."""
    before = len(world.records("gate"))
    done = world.retrain(**words)
    found = check(done, GATE)
    assert done.success
    assert (found.passed, found.severity) == (False, ERROR)
    assert found.description.startswith("This evaluation cannot be trusted")
    assert len(world.records("gate")) == before
    return found.description


def test_a_champion_that_has_seen_the_holdout_cannot_be_compared(live, check):
    config = {"ops": {"late__training_set": {"config": {"as_of": "2024-02-05T00:00:00Z"}}}}
    told = untrusted(live, check, config=config)
    assert "the champion, version 1, was trained on rows up to 2024-01-28" in told


def relabelled(rows: pa.Table, label: Any) -> pa.Table:
    return rows.set_column(rows.column_names.index("late"), "late", [label])


def undecided(world: Any, check: Any) -> str:
    """What the gate says of rows or scores from which nothing can be told."""
    done = world.retrain()
    found = check(done, GATE)
    assert done.success
    assert not found.passed
    assert "PASS" not in {gate["verdict"] for gate in world.records("gate")}
    return found.description


def test_a_holdout_of_one_class_never_passes(world, trips, check):
    rows = trips()
    label = rows["late"].to_numpy().copy()
    label[26 * 60 :] = 1
    world.feed(relabelled(rows, label))
    assert "class" in undecided(world, check)


def test_a_label_that_the_model_never_saw_cannot_be_judged(world, trips, check):
    rows = trips()
    label = rows["late"].to_numpy().copy()
    label[-300] = 2
    world.feed(relabelled(rows, label))
    assert re.search("labels .*2.* never saw", untrusted(world, check))


def test_scores_that_are_not_numbers_never_pass(world, trips, check, monkeypatch):
    from mlct.training import fit

    def score(self: Any, rows: pa.Table) -> Any:
        return np.where(rows["load"].to_numpy() > 1, np.nan, 0.5)

    monkeypatch.setattr(fit.Model, "score", score)
    world.feed(trips())
    assert "NaN" in undecided(world, check)


def test_a_group_that_is_no_column_cannot_be_judged(world, trips, check):
    rule = mlct.GroupGap("recall", by="line", max=0.1)
    world.declare(gate=replace(world.spec.gate, guardrails=[rule]))
    world.feed(trips())
    assert "no column 'line' to group by" in untrusted(world, check)


def test_a_challenger_of_another_training_set_cannot_be_judged(live, trips, check):
    live.feed(trips(seed=2))
    assert live.materialize("training_set").success
    done = live.materialize("evaluation")
    found = check(done, GATE)
    assert done.success
    assert found.severity == ERROR
    assert "another training set" in found.description


def test_a_champion_that_cannot_read_the_new_columns_has_a_reason_of_its_own(
    live, boosted, trips, check
):
    rows = trips()
    live.declare(estimator=boosted)
    live.feed(rows.rename_columns(["miles" if n == "distance" else n for n in rows.column_names]))
    done = live.retrain()
    found = check(done, GATE)
    assert done.success
    assert found.severity == WARN
    assert found.metadata["verdict"].value == "INCONCLUSIVE"
    assert "the champion cannot be scored" in found.description
    assert "distance" in found.description


def flagged(y_true: Any, score: Any, weights: Any = None) -> float:
    return float("nan")


def test_a_metric_that_is_not_defined_is_shown_as_such(world, trips, made, check):
    odd = mlct.Metric("oddity", flagged)
    world.declare(gate=replace(world.spec.gate, guardrails=[mlct.Limit(odd, max=1)]))
    world.feed(trips())
    done = world.retrain()
    assert done.success
    assert check(done, GATE).metadata["verdict"].value == "FAIL"
    (row,) = [r for r in made(done, "evaluation")["metrics"] if r["metric"] == "oddity"]
    assert row["challenger"] == "not defined"


# What the evaluation is told of the holdout, the champion and the features


def report(world: Any) -> Any:
    return json.loads(world.home.store.get(world.records("evaluation")[-1]["evidence"]))


def outcome(world: Any, name: str, kind: str = "") -> Any:
    """The one outcome of that name in the newest report."""
    rules = report(world)["decision"]["rules"]
    (found,) = [r for r in rules if r["name"] == name and kind in ("", r["rule"])]
    return found


def test_a_second_case_on_one_holdout_is_counted_and_judged_at_a_higher_level(live, boosted):
    live.declare(estimator=boosted)
    assert live.retrain().success
    first, second = live.records("evaluation")
    assert first["holdout"] == second["holdout"]
    assert (first["looks"], second["looks"]) == (1, 2)
    seen = report(live)["evaluation"]
    assert (seen["looks"], round(seen["confidence"], 4)) == (2, 0.9939)
    assert "decision 2 on this holdout: bounds are at 99.39 %" in outcome(live, "looks")["reason"]


def test_an_evaluation_that_shared_its_holdout_meanwhile_is_not_trusted(live, boosted, check):
    """Both would have counted themselves as the second look."""
    from mlct.defs.assets import evaluation

    def judge(home: Any, case: Any, **words: Any) -> Any:
        found = right(home, case, **words)
        says = live.records("evaluation")[0] | {"case": "0" * 64}
        home.ledger.append(statement("evaluation", {"holdout": case.holdout}, says), actor="other")
        return found

    live.declare(estimator=boosted)
    right = evaluation.judge
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "judge", judge)
        assert "another evaluation has used this holdout" in untrusted(live, check)
    live.retrain()
    assert outcome(live, "looks")["observed"] == "3"


def test_a_champion_grown_old_may_be_replaced_by_what_is_not_worse(live, trips):
    stale = mlct.ReplaceWhenStale(after="10d", margin=0.5)
    live.declare(gate=replace(live.spec.gate, stale=stale))
    live.feed(trips(55))
    assert live.retrain().success
    assert report(live)["evaluation"]["champion_age_days"] == pytest.approx(15, abs=0.1)
    found = outcome(live, "roc_auc", "stale")
    assert found["outcome"] == "PASS"
    assert "15 days old, more than 10d" in found["reason"]


def test_a_feature_made_of_the_label_is_suspected(world, trips):
    rows = trips()
    rows = rows.append_column("delay", pa.array(rows["late"].to_numpy() * 20.0))
    world.feed(rows)
    assert world.retrain().success
    assert outcome(world, "leakage delay")["outcome"] == "FAIL"
    assert report(world)["decision"]["verdict"] == "FAIL"


def test_rows_that_repeat_an_id_are_told(world, trips):
    rows = trips()
    ids = rows["trip_id"].to_pylist()
    ids[-300:-297] = [ids[-301]] * 3
    world.feed(rows.set_column(rows.column_names.index("trip_id"), "trip_id", [ids]))
    assert world.retrain().success
    assert outcome(world, "duplicates")["outcome"] == "INCONCLUSIVE"
    assert "3 rows of the holdout repeat an id" in report(world)["sentence"]


def test_the_labels_delay_is_added_to_the_day_on_which_it_could_be_decided(trained):
    gate = replace(trained.spec.gate, min_clusters=24)
    trained.declare(gate=gate)
    assert trained.retrain().success
    seen = report(trained)["evaluation"]
    assert seen["label_delay_days"] == pytest.approx(2 / 24)
    assert "if Windows.holdout is raised to" in outcome(trained, "days")["reason"]


def test_the_command_prints_the_sentence_and_the_rules_of_the_interface(trained, check):
    shown = check(trained.retrain(), GATE)
    code, text, _ = trained.mlct("show", "late@1", "--evidence")
    assert code == 0
    assert shown.description in text
    lines = {" ".join(line.split()) for line in text.splitlines()}
    for row in shown.metadata["rules"].records:
        told = [row.data[c] for c in ("rule", "on", "observed", "required", "outcome")]
        assert " ".join(" ".join(told).split()) in lines


GOLDEN = Path(__file__).parent / "golden" / "report_v1.json"


def shape(value: Any) -> Any:
    """The names in a document, and the kinds of its values."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    return [shape(v) for v in value] if isinstance(value, list) else type(value).__name__


def test_the_document_that_approvals_bind_to_is_the_golden_one_in_form(live, boosted):
    live.declare(estimator=boosted)
    assert live.retrain().success
    assert shape(report(live)) == shape(json.loads(GOLDEN.read_text()))


def test_reports_of_version_1_keep_their_digest_and_are_read_for_ever(live):
    golden = json.loads(GOLDEN.read_text())
    known = "086839aab66588d6b6da0984a16c594305f89dc34424b0fb45bb250364f00b2e"
    assert live.home.store.put(canonical(golden)) == known
    seen = Evaluation.from_dict(golden["evaluation"])
    assert seen.to_dict() == golden["evaluation"]
    policy = mlct.GatePolicy.from_dict(golden["policy"])
    again = mlct.decide(seen, policy)
    assert again.verdict == golden["decision"]["verdict"]
    assert [r.outcome for r in again.rules] == [r["outcome"] for r in golden["decision"]["rules"]]
    for rule in golden["decision"]["rules"]:
        assert rule["required"] in evidence_text(golden)
