"""The rollback sensor asks once for each breach; a drill shows its seconds and its verdict."""

from datetime import timedelta

import dagster as dg
import pytest

import mlct
from mlct.release.incident import incidents

POLICY = mlct.RollbackPolicy(signals=[mlct.Signal("error_rate", max=0.05)])
DRILL = dg.AssetKey(["late", "rollback_drill"])


@pytest.fixture
def watched(succeeded):
    """Version 2 is live and its error rate is watched; runs of other tests are not seen."""
    succeeded.declare(rollback=POLICY)
    with dg.DagsterInstance.ephemeral() as instance:
        succeeded.instance = instance
        yield succeeded


def tick(world):
    sensor = world.defs.resolve_sensor_def("late_rollback_on_breach")
    with dg.build_sensor_context(
        instance=world.instance, resources=world.defs.resources, definitions=world.defs
    ) as context:
        return sensor.evaluate_tick(context)


def breach(world, value=0.4):
    end = world.home.ledger.clock()
    mlct.report_signal(
        model="late", name="error_rate", value=value, samples=9, window_end=end, home=world.home
    )


def run(world, request):
    config = dict(request.run_config)
    return world.run("late_rollback", config=config, tags=dict(request.tags))


def test_without_a_breach_it_says_what_it_saw(watched):
    assert tick(watched).skip_message == "error_rate: no window yet"
    breach(watched, 0.01)
    assert "0 of the last 1 windows breached" in tick(watched).skip_message


def test_a_breach_asks_for_the_version_to_be_taken_out_and_says_why(watched):
    breach(watched)
    (request,) = tick(watched).run_requests
    config = request.run_config["ops"]["late_roll_back"]["config"]
    assert config["version"] == 2
    assert config["reason"].startswith("signal error_rate: error_rate: 1 of the last 1 windows")
    done = run(watched, request)
    assert done.success
    assert watched.records("rollback")[-1]["version"] == 1
    (found,) = incidents(watched.home.ledger, "late")
    assert [s["what"] for s in found.timeline][:2] == [
        "the breach was reported",
        "decided by late_rollback_on_breach",
    ]
    assert not found.pages


def test_further_windows_of_one_breach_have_the_same_run_key(watched):
    breach(watched)
    first = tick(watched).run_requests[0].run_key
    breach(watched)
    assert tick(watched).run_requests[0].run_key == first


def test_a_run_that_comes_late_does_not_go_back_twice(watched, why):
    breach(watched)
    (request,) = tick(watched).run_requests
    assert run(watched, request).success
    done = run(watched, request)
    assert not done.success
    assert "SlotMoved: late@1 is live" in why(done)
    assert len(watched.records("rollback")) == 1


def test_after_a_rollback_it_waits_for_people(watched):
    breach(watched)
    run(watched, tick(watched).run_requests[0])
    breach(watched)
    assert "came by rollback and breaches too: a person is paged" in tick(watched).skip_message
    assert any(i.pages for i in incidents(watched.home.ledger, "late"))


def test_a_rollback_whose_run_died_before_its_incident_still_has_one(watched, monkeypatch):
    from mlct.adapters import rollback

    breach(watched)
    with monkeypatch.context() as died:
        died.setattr(rollback, "tell", lambda *_, **__: None)
        run(watched, tick(watched).run_requests[0])
    assert incidents(watched.home.ledger, "late") == []
    tick(watched)
    assert len(incidents(watched.home.ledger, "late")) == 1


def test_a_failed_run_is_asked_for_again_and_given_up_with_a_page(watched):
    (target,) = [t for t in watched.records("training") if t["version"] == 1]
    path = watched.root / "store" / "objects" / target["artifact"][:2] / target["artifact"]
    approved = list(watched.root.glob(f"*/objects/*/{target['artifact']}"))
    for copy in {path, *approved}:
        copy.unlink()
    breach(watched)
    keys = []
    for _ in range(3):
        (request,) = tick(watched).run_requests
        keys.append(request.run_key)
        assert not run(watched, request).success
    assert len(set(keys)) == 3
    assert "failed 3 times for version 2" in tick(watched).skip_message
    (found,) = incidents(watched.home.ledger, "late")
    assert (found.pages, found.open) == (True, True)


def test_a_run_that_hangs_is_waited_for_no_longer_and_somebody_is_paged(watched, monkeypatch):
    """Its worker was killed, or nothing ever started it."""
    breach(watched)
    (request,) = tick(watched).run_requests
    tags, status = dict(request.tags), dg.DagsterRunStatus.STARTED
    watched.instance.add_run(dg.DagsterRun(job_name="late_rollback", tags=tags, status=status))
    assert "late_rollback is under way" in tick(watched).skip_message
    assert incidents(watched.home.ledger, "late") == []
    monkeypatch.setattr("mlct.defs.sensors.rollback.LONGEST", timedelta(0))
    (again,) = tick(watched).run_requests
    assert again.run_key != request.run_key
    (found,) = incidents(watched.home.ledger, "late")
    assert (found.pages, found.open) == (True, True)
    assert "hangs (1 of 1 runs have not ended) for version 2" in found.summary
    monkeypatch.undo()
    watched.instance.add_run(dg.DagsterRun(job_name="late_rollback", tags=tags, status=status))
    assert "late_rollback is under way" in tick(watched).skip_message  # one at a time
    assert run(watched, again).success
    assert watched.records("rollback")[-1]["version"] == 1


def test_the_rollback_sensor_may_only_roll_back(watched):
    (sensor,) = [s for s in watched.defs.sensors if s.name == "late_rollback_on_breach"]
    assert [target.job_name for target in sensor.targets] == ["late_rollback"]


def test_a_rollback_job_has_its_config_filled_in_and_goes_first(world):
    job = world.defs.resolve_job_def("late_rollback")
    assert job.tags["dagster/priority"] == "100"
    assert dg.validate_run_config(job, {})["ops"]["late_roll_back"]["config"]["version"] is None


def test_the_drill_job_shows_seconds_and_a_green_check(succeeded, made, check):
    done = succeeded.run("late_rollback_drill")
    assert done.success
    told = made(done, "rollback_drill")
    assert 0 < told["seconds"] < told["bar"] == 300
    assert told["passed"]
    assert check(done, "drilled_lately").passed


def test_a_failed_drill_is_a_red_check_and_the_run_stays_green(succeeded, made, check, monkeypatch):
    from mlct.adapters import drill

    monkeypatch.setattr(drill, "act", lambda *_, **__: None)
    done = succeeded.run("late_rollback_drill")
    assert done.success
    assert not made(done, "rollback_drill")["passed"]
    found = check(done, "drilled_lately")
    assert not found.passed
    assert "the last drill failed: version 2 is live" in found.description


def test_an_overdue_drill_is_a_red_check_and_one_incident(succeeded, check, monkeypatch):
    ledger = succeeded.home.ledger
    later = ledger.clock() + timedelta(days=11)
    monkeypatch.setattr("mlct.defs.resources._home", lambda *_: succeeded.home)
    monkeypatch.setattr(ledger, "clock", lambda: later)
    for _ in range(2):
        found = check(succeeded.monitor(), "drilled_lately")
        assert not found.passed
        assert "never drilled, overdue since" in found.description
    (opened,) = incidents(ledger, "late")
    assert (opened.kind, opened.episode) == ("drill", "overdue")


def test_a_model_that_cannot_go_back_is_not_drilled_and_says_why(live, made, check):
    done = live.run("late_rollback_drill")
    assert done.success
    assert "no approved version to go back to" in made(done, "rollback_drill")["skipped"]
    assert check(done, "drilled_lately").passed
