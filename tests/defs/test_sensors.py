"""The drift sensor: asks once for each cause, says why, and why not."""

import json
import logging
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

import mlct
from mlct.data.digest import canonical
from mlct.defs.resources import MlctHome
from mlct.release.incident import incidents
from mlct.release.ledger import instant, statement


@pytest.fixture
def instance_of_its_own(live):
    """Runs of other tests must not look like runs under way."""
    with dg.DagsterInstance.ephemeral() as instance:
        live.instance = instance
        yield instance


def tick(world: Any) -> Any:
    """What the daemon would get from the sensor now."""
    sensor = world.defs.resolve_sensor_def("late_retrain_on_drift")
    with dg.build_sensor_context(
        instance=world.instance, resources=world.defs.resources, definitions=world.defs
    ) as context:
        return sensor.evaluate_tick(context)


@pytest.fixture
def drifted(live, trips, instance_of_its_own):
    """Two weeks in which every trip is longer: what moves once only is not told."""
    live.feed(pa.concat_tables([trips(), trips(14, first=40, shift=3.0)]))
    assert live.monitor("2024-02-12").success
    assert live.monitor().success
    return live


def test_before_the_first_champion_it_waits(trained):
    asked = tick(trained)
    assert not asked.run_requests
    assert "No champion yet" in asked.skip_message


def test_before_the_first_window_it_waits(live):
    assert "No window was monitored yet: run late_monitoring" in tick(live).skip_message


def test_without_drift_it_says_what_it_saw(live):
    live.monitor()
    asked = tick(live)
    assert not asked.run_requests
    assert asked.skip_message.startswith("0 of the last 1 windows breached")


def test_drift_asks_for_a_retrain_and_says_why(drifted):
    (request,) = tick(drifted).run_requests
    said = request.tags["mlct/reason"]
    assert "100% of importance moved in 2 of 3 windows: distance moved" in said
    assert request.tags["mlct/cause"].startswith("drift:")
    assert request.run_key == f"late:{request.tags['mlct/cause']}"
    # What a promotion recognises automation by.
    assert request.tags["dagster/sensor_name"] == "late_retrain_on_drift"


def test_the_same_cause_has_the_same_run_key(drifted):
    """Dagster launches a run key once; a restarted daemon asks anew and gets the same."""
    first, second = (tick(drifted).run_requests[0] for _ in range(2))
    assert first.run_key == second.run_key
    assert drifted.monitor().success  # the same window again
    assert tick(drifted).run_requests[0].run_key == first.run_key


def test_while_a_retrain_is_under_way_it_waits(drifted):
    job = drifted.defs.resolve_job_def("late_retrain")
    run = drifted.instance.create_run_for_job(job, status=dg.DagsterRunStatus.NOT_STARTED)
    asked = tick(drifted)
    assert not asked.run_requests
    assert asked.skip_message.startswith("late_retrain is under way; then: ")
    assert "100% of importance" in asked.skip_message
    drifted.instance.report_run_canceled(run)
    assert tick(drifted).run_requests


def test_the_reason_ends_on_the_run_the_version_and_the_ledger(drifted, boosted):
    (request,) = tick(drifted).run_requests
    drifted.declare(estimator=boosted)
    done = drifted.retrain(tags=request.tags)
    assert done.success
    assert done.dagster_run.tags["mlct/reason"] == request.tags["mlct/reason"]
    version = drifted.home.registry.client.get_model_version("late", "2")
    assert version.tags["mlct.reason"] == request.tags["mlct/reason"]
    assert drifted.records("training")[-1]["cause"] == request.tags["mlct/cause"]


def test_after_a_retrain_it_cools_down(drifted, boosted):
    drifted.declare(
        estimator=boosted,
        retrain=mlct.RetrainPolicy(cooldown="30d", schedule="@weekly", on=["drift"]),
    )
    drifted.retrain(tags=tick(drifted).run_requests[0].tags)
    asked = tick(drifted)
    assert not asked.run_requests
    assert asked.skip_message.startswith("cool-down until 2024-03-")


def test_windows_of_an_earlier_champion_do_not_count(live, boosted):
    assert live.monitor().success
    live.declare(estimator=boosted)
    assert live.retrain().success
    live.approve(2)
    assert live.promote(2).success
    assert "Version 2 is live; none of its windows" in tick(live).skip_message


def test_a_tick_reads_only_what_is_stored(drifted):
    drifted.rows = None  # the features are not touched
    assert tick(drifted).run_requests


def test_the_sensor_may_only_retrain(world):
    (sensor,) = [s for s in world.defs.sensors if s.name == "late_retrain_on_drift"]
    assert [target.job_name for target in sensor.targets] == ["late_retrain"]


def test_a_scheduled_retrain_says_so(world):
    world.declare(retrain=mlct.RetrainPolicy(schedule="0 6 3 * *"))
    schedule = world.defs.resolve_schedule_def("late_retrain_schedule")
    with dg.build_schedule_context(instance=world.instance) as context:
        (request,) = schedule.evaluate_tick(context).run_requests
    assert request.tags["mlct/cause"] == "schedule"
    assert request.tags["mlct/reason"] == "schedule 0 6 3 * *"


def launched(world: Any, request: Any, status: dg.DagsterRunStatus) -> Any:
    """A run for a request that stands so."""
    job = world.defs.resolve_job_def("late_retrain")
    return world.instance.create_run_for_job(job, status=status, tags=request.tags)


def test_a_failed_run_is_asked_for_again_a_bounded_number_of_times(drifted):
    keys = []
    for _ in range(3):
        (request,) = tick(drifted).run_requests
        keys.append(request.run_key)
        launched(drifted, request, dg.DagsterRunStatus.FAILURE)
    assert keys == [keys[0], f"{keys[0]}#2", f"{keys[0]}#3"]
    asked = tick(drifted)
    assert not asked.run_requests
    assert asked.skip_message.startswith("its retrain failed 3 times: ")
    assert "100% of importance" in asked.skip_message
    assert "an incident" in asked.skip_message
    (opened,) = drifted.records("incident")
    assert (opened["kind"], opened["pages"]) == ("retrain", False)
    tick(drifted)
    assert len(drifted.records("incident")) == 1


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED])
def test_what_was_done_or_cancelled_is_not_asked_for_again(drifted, status):
    (request,) = tick(drifted).run_requests
    launched(drifted, request, status)
    assert "retrained for already" in tick(drifted).skip_message


def test_the_whole_cause_travels_to_the_run_the_version_and_the_ledger(drifted, boosted):
    (request,) = tick(drifted).run_requests
    cause = json.loads(request.tags["mlct/trigger"])
    assert (cause["signal"], cause["attempt"]) == ("drift", 1)
    assert cause["windows"] == [cause["cause"].partition(":")[2]]
    drifted.declare(estimator=boosted)
    assert drifted.retrain(tags=request.tags).success
    version = drifted.home.registry.client.get_model_version("late", "2")
    assert json.loads(version.tags["mlct.trigger"]) == cause
    assert drifted.records("training")[-1]["trigger"] == cause


def test_drift_only_warns_unless_the_policy_names_it(drifted):
    drifted.declare(retrain=mlct.RetrainPolicy())
    asked = tick(drifted)
    assert not asked.run_requests
    assert "drift only warns (it is not in RetrainPolicy.on): " in asked.skip_message
    assert "100% of importance" in asked.skip_message


def test_a_stored_window_holds_its_signals(drifted):
    from mlct.defs.sensors.retrain import _results

    said = {"signal": "realised", "breached": True, "reason": "r", "columns": ["auc"]}
    quiet = {"signal": "drift", "breached": False, "reason": "quiet", "columns": []}
    signals = [s | {"refused": ""} for s in (quiet, said)]
    drift, realised = _results({"key": "k", "end": "2024-01-02", "signals": signals})
    assert (drift.signal, drift.breached) == ("drift", False)
    assert (realised.signal, realised.columns, realised.key) == ("realised", ("auc",), "k")


def test_retrains_that_the_gate_refuses_are_counted_up_to_the_last_that_passed(drifted):
    from mlct.defs.sensors.retrain import _refused

    ledger, subjects = drifted.home.ledger, {"artifact": "0" * 64}
    trainings = []

    def judged(version, verdict, cause="drift:x"):
        says = {"model": "late", "version": version, "slot": "production", "verdict": verdict}
        ledger.append(statement("gate", subjects, says), actor="test")
        trainings.insert(0, {"version": version, "cause": cause})
        return _refused(ledger, drifted.spec, trainings)

    assert judged(11, "FAIL") == 1
    assert judged(12, "INCONCLUSIVE") == 2
    assert judged(13, "FAIL", cause="schedule") == 2
    assert judged(14, "PASS") == 0
    assert judged(15, "FAIL") == 1
    assert judged(15, "PASS") == 0


def window(version: int, first: str, days: int = 7, *, breached: bool = True, refused: str = ""):
    """A stored window of a version, as `m/monitoring` keeps it."""
    start = datetime.fromisoformat(f"{first}T00:00+00:00")
    said = {"signal": "realised", "breached": breached, "reason": f"auc from {first}"}
    return {
        "key": f"k{version}-{first}",
        "calendar": "week from 2024-01-01",
        "champion": version,
        "start": instant(start),
        "end": instant(start + timedelta(days=days)),
        "signals": [said | {"columns": ["roc_auc"], "refused": refused}],
    }


def store(world: Any, *windows: Any) -> None:
    document = {"format": "mlct.monitoring/v1", "model": "late", "windows": list(windows)}
    MlctHome(root=world.home.root).hand_on("late", "monitoring", "test", document)


def incidents_of(world: Any) -> list[tuple[str, bool]]:
    """`(episode, open)` of each incident of retraining, newest first."""
    known = incidents(world.home.ledger, "late")
    return [(i.episode, i.open) for i in known if i.kind == "retrain"]


POISON = "labels look poisoned: 40 % of 200"


def test_a_window_that_another_version_served_holds_a_retrain(succeeded, instance_of_its_own):
    assert succeeded.run("late_rollback").success
    succeeded.instance = instance_of_its_own
    bad = window(2, "2024-02-12", refused=POISON)
    store(succeeded, bad, window(1, "2024-02-19"))
    asked = tick(succeeded)
    assert not asked.run_requests
    assert asked.skip_message.startswith(
        f"refused to learn from the window that ended 2024-02-19 00:00: {POISON}; then: auc"
    )
    assert incidents_of(succeeded) == [("version 1: refused", True)]
    store(succeeded, window(2, "2024-02-12"), window(1, "2024-02-19"))  # measured anew
    assert tick(succeeded).run_requests
    assert incidents_of(succeeded) == [("version 1: refused", False)]


def test_a_refused_window_holds_only_while_a_retrain_would_learn_from_it(live, instance_of_its_own):
    """25 days of training, 12 of holdout and two hours before the newest window's end."""
    bad = window(1, "2024-02-12", refused=POISON)
    store(live, bad, window(1, "2024-03-18"))
    assert not tick(live).run_requests
    store(live, bad, window(1, "2024-03-25"))
    assert tick(live).run_requests


def test_a_refused_window_is_found_beyond_those_that_a_tick_reads(live, instance_of_its_own):
    bad = window(1, "2024-02-12", refused=POISON)
    home = live.home.store
    store(live, window(1, "2024-02-26"))
    assert tick(live).run_requests
    place = "documents/late/monitoring/windows/2024-02-12T00"
    home.set_ref(place, home.put(canonical(bad)))
    assert not tick(live).run_requests
    home.set_ref(place, home.put(canonical(bad | {"calendar": "day from 2024-01-01"})))
    assert tick(live).run_requests


def test_what_a_version_learned_from_it_cannot_judge(live, instance_of_its_own):
    store(live, window(1, "2024-01-15", refused="out of plan"), window(1, "2024-02-12"))
    assert tick(live).run_requests


@pytest.fixture
def poisoned(live, trips, instance_of_its_own):
    """A week after the champion's data looks poisoned, and a retrain would learn from it."""
    live.feed(pa.concat_tables([trips(), trips(14, first=40)]))
    store(live, window(1, "2024-02-12", refused=POISON))
    return live


def test_a_scheduled_run_does_not_learn_from_a_refused_window(poisoned, boosted, why):
    poisoned.declare(estimator=boosted, retrain=mlct.RetrainPolicy(schedule="@daily"))
    schedule = poisoned.defs.resolve_schedule_def("late_retrain_schedule")
    with dg.build_schedule_context(instance=poisoned.instance) as context:
        (request,) = schedule.evaluate_tick(context).run_requests
    done = poisoned.retrain(tags=request.tags)
    assert not done.success
    assert f"refused to learn from the window that ended 2024-02-19 00:00 UTC: {POISON}" in why(
        done
    )
    assert [t["version"] for t in poisoned.records("training")] == [1]


@pytest.mark.parametrize(
    "tag", ["dagster/from_automation_condition", ".dagster/scheduled_execution_time"]
)
def test_no_automation_learns_from_a_refused_window(poisoned, boosted, why, tag):
    poisoned.declare(estimator=boosted)
    done = poisoned.retrain(tags={tag: "x"})
    assert not done.success
    assert "refused to learn from" in why(done)


def test_a_person_lets_a_refused_window_through_and_with_the_version_it_stays_so(
    poisoned, boosted, made
):
    poisoned.declare(estimator=boosted)
    done = poisoned.retrain()
    assert done.success
    assert POISON in made(done, "training_set")["refused"]
    logs = poisoned.instance.all_logs(done.run_id)
    assert any(e.level == logging.WARNING and POISON in e.user_message for e in logs)
    (let,) = poisoned.records("training")[-1]["refused"]
    assert (let["key"], let["why"]) == ("k1-2024-02-12", POISON)
    bad = window(1, "2024-02-12", refused=POISON)
    store(poisoned, bad, window(1, "2024-02-26"))
    assert not tick(poisoned).run_requests  # nobody approved the version
    poisoned.approve(2)
    assert poisoned.promote(2).success
    store(poisoned, bad, window(2, "2024-02-26"))
    assert tick(poisoned).run_requests
    assert incidents_of(poisoned) == [("version 1: refused", False)]


@pytest.fixture
def breached(live, instance_of_its_own):
    """The window that ended on 26 February breaches."""
    store(live, window(1, "2024-02-19"))
    return live


def retrained(world: Any, version: int, as_of: str, *, cause: str = "drift:x", **more: Any) -> None:
    """A retrain that the ledger knows of, and the gate's verdict on it."""
    ledger, first = world.home.ledger, world.records("training")[0]
    says = first | {"version": version, "as_of": as_of, "cause": cause} | more
    verdict = {"model": "late", "version": version, "slot": "production", "verdict": "FAIL"}
    for kind, content in (("training", says), ("gate", verdict)):
        ledger.append(statement(kind, {"artifact": f"{version:064x}"}, content), actor="test")


def test_a_tick_backs_off_when_the_gate_keeps_refusing(breached):
    """Three refusals make a cool-down of a day four."""
    for version in (11, 12, 13):
        retrained(breached, version, f"2024-02-{version + 11}T00:00:00Z")
    asked = tick(breached)
    assert not asked.run_requests
    assert asked.skip_message.startswith("back-off until 2024-02-28 00:00 UTC, as the gate did not")
    assert "an incident: 3 triggered retrains in a row did not pass the gate" in asked.skip_message
    assert incidents_of(breached) == [("version 1: gate", True)]


@pytest.mark.parametrize("cause", ["schedule", "drift:x"])
def test_a_daily_schedule_spends_no_budget(breached, cause):
    breached.declare(retrain=mlct.RetrainPolicy(budget="2/30d"))
    for day in (20, 21, 22):
        retrained(breached, day, f"2024-02-{day}T00:00:00Z", cause=cause)
        verdict = {"model": "late", "version": day, "slot": "production", "verdict": "PASS"}
        subjects = {"artifact": f"{day:064x}"}
        breached.home.ledger.append(statement("gate", subjects, verdict), actor="test")
    asked = tick(breached)
    assert bool(asked.run_requests) is (cause == "schedule")
    assert cause == "schedule" or asked.skip_message.startswith("budget 2/30d is spent")


def test_a_scheduled_retrain_is_followed_by_a_cool_down(breached):
    retrained(breached, 11, "2024-02-25T12:00:00Z", cause="schedule")
    assert tick(breached).skip_message.startswith("cool-down until 2024-02-26 12:00 UTC")


def test_a_fallback_that_is_trained_beside_spends_nothing(breached):
    retrained(breached, 11, "2024-02-25T12:00:00Z", fallback="f")
    assert tick(breached).run_requests


def test_other_code_asks_for_a_retrain(live, monkeypatch, instance_of_its_own):
    from mlct.defs.sensors import retrain
    from mlct.training.recipe import Code

    (said,) = live.records("training")
    store(live, window(1, "2024-02-12", breached=False))
    for commit, asks in (("f" * 40, bool(said["code"]["commit"])), (said["code"]["commit"], False)):
        code = Code(commit=commit, dirty=False, author="")
        monkeypatch.setattr(retrain, "code_state", lambda code=code: code)
        live.declare(retrain=mlct.RetrainPolicy(on=["code"]))
        assert bool(tick(live).run_requests) is asks


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (dg.DagsterRunStatus.STARTED, "its retrain is under way"),
        (dg.DagsterRunStatus.SUCCESS, "it was retrained for already"),
    ],
)
def test_a_request_that_ran_under_another_location_is_not_doubled(breached, status, says):
    (request,) = tick(breached).run_requests
    old = {".dagster/repository": "__repository__@before_it_was_renamed"}
    job = breached.defs.resolve_job_def("late_retrain")
    breached.instance.create_run_for_job(job, status=status, tags=request.tags | old)
    asked = tick(breached)
    assert not asked.run_requests
    assert asked.skip_message.startswith(says)


def test_three_runs_that_a_broken_contract_failed_name_it(breached):
    says = {"model": "late", "passed": False, "contract": "c", "training_set": "a" * 64}
    says |= {"violations": [{"column": "(table)", "rule": "row count", "observed": "0"}]}
    for _ in range(3):
        launched(breached, tick(breached).run_requests[0], dg.DagsterRunStatus.FAILURE)
    subjects = {"training_set": "a" * 64}
    breached.home.ledger.append(statement("contract", subjects, says), actor="test")
    assert not tick(breached).run_requests
    (found,) = incidents(breached.home.ledger, "late")
    assert found.episode == "version 1: failed"
    assert found.summary.startswith(
        "its retrain failed 3 times and is not asked for again (realised:"
    )
    assert "contract failed on training set aaaaaaaaaaaa (statement" in found.summary
    assert found.summary.endswith("(table) row count saw 0")


def test_an_incident_of_one_kind_neither_hides_nor_outlives_another(live, instance_of_its_own):
    store(live, window(1, "2024-02-12"))
    for _ in range(3):
        launched(live, tick(live).run_requests[0], dg.DagsterRunStatus.FAILURE)
    tick(live)
    assert incidents_of(live) == [("version 1: failed", True)]
    newer = window(1, "2024-02-26")
    store(live, window(1, "2024-02-12", refused=POISON), newer)
    tick(live)
    assert incidents_of(live) == [("version 1: refused", True), ("version 1: failed", True)]
    store(live, window(1, "2024-02-12"), newer)
    assert tick(live).run_requests
    assert incidents_of(live) == [("version 1: refused", False), ("version 1: failed", False)]


def test_the_incident_of_a_version_ends_with_it(succeeded, instance_of_its_own):
    store(succeeded, window(1, "2024-02-12", refused=POISON), window(2, "2024-02-19"))
    assert not tick(succeeded).run_requests
    assert succeeded.run("late_rollback").success
    tick(succeeded)
    assert incidents_of(succeeded) == [("version 1: refused", True), ("version 2: refused", False)]
    (ended,) = [i for i in incidents(succeeded.home.ledger, "late") if "2: r" in i.episode]
    assert ended.timeline[-1]["what"] == "version 1 is live now"


def test_the_sensor_names_what_it_retrains_on(world):
    sensor = world.defs.resolve_sensor_def("late_retrain_on_drift")
    assert "breached by realised, drift, age," in sensor.description
    assert "other signals only warn" in sensor.description
