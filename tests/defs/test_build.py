"""From specs to definitions: what is generated, how it is named, and what no team may plant."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

import mlct
from mlct.errors import SpecError

# What is planted is old-fashioned or young on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*superseded")


def names(things: Any) -> set[str]:
    return {thing.name for thing in things}


SIGNALS = (
    "feature_drift",
    "score_drift",
    "realised_performance",
    "estimated_performance",
    "concept_drift",
    "labels",
    "contract",
    "objectives",
    "staleness",
)


def keys(defs: dg.Definitions) -> set[str]:
    return {spec.key.to_user_string() for spec in defs.resolve_all_asset_specs()}


def test_every_generated_name_is_the_one_of_the_design(world):
    defs = world.defs
    assert keys(defs) == {
        "trips",
        *(f"late/{n}" for n in ("training_set", "challenger", "evaluation", "champion")),
        "late/predictions",
        "late/monitoring",
        "late/rollback_drill",
    }
    assert names(defs.jobs) == {
        f"late_{n}" for n in ("retrain", "monitoring", "promotion", "rollback", "rollback_drill")
    }
    assert names(defs.sensors) == {
        "late_retrain_on_drift",
        "late_rollback_on_breach",
        "late_reconcile_slot",
        "late_notify",
    }
    checks = {
        (key.asset_key.to_user_string(), key.name)
        for key in defs.resolve_asset_graph().asset_check_keys
    }
    assert checks == {
        ("late/training_set", "contract"),
        ("late/evaluation", "champion_challenger_gate"),
        ("late/champion", "slot_matches_ledger"),
        ("late/champion", "alert_budget"),
        ("late/champion", "incidents_told"),
        ("late/predictions", "scored"),
        *(("late/monitoring", name) for name in SIGNALS),
        ("late/rollback_drill", "drilled_lately"),
    }


def test_a_model_is_monitored_daily_and_retrained_when_its_policy_says(spec):
    plain, planned = (
        mlct.build_schedules(replace(spec, retrain=mlct.RetrainPolicy(schedule=line)))
        for line in (None, "0 6 3 * *")
    )
    assert [(s.name, s.job_name, s.cron_schedule) for s in planned] == [
        ("late_monitoring_schedule", "late_monitoring", "@daily"),
        ("late_rollback_drill_schedule", "late_rollback_drill", "0 5 * * 1"),
        ("late_retrain_schedule", "late_retrain", "0 6 3 * *"),
    ]
    assert names(plain) == {"late_monitoring_schedule", "late_rollback_drill_schedule"}


def test_nothing_starts_by_itself_unless_asked_for(spec):
    running = dg.DefaultSensorStatus.RUNNING
    stopped = mlct.build_sensors(spec)
    started = mlct.build_sensors(spec, default_status=running)
    assert {s.default_status for s in stopped} == {dg.DefaultSensorStatus.STOPPED}
    assert {s.default_status for s in started} == {running}
    planned = mlct.build_schedules(spec)
    assert {s.default_status for s in planned} == {dg.DefaultScheduleStatus.STOPPED}


def test_everything_generated_says_whose_it_is(world):
    for spec in world.defs.resolve_all_asset_specs():
        if spec.key.path[0] == "late":
            assert spec.group_name == "late"
            assert spec.owners == ["team:transit"]
            assert spec.tags["mlct/risk_tier"] == "low"


def test_the_parts_make_up_the_whole(spec):
    parts = dg.Definitions(
        assets=mlct.build_assets(spec),
        asset_checks=mlct.build_checks(spec),
        jobs=mlct.build_jobs(spec),
        sensors=mlct.build_sensors(spec),
        schedules=mlct.build_schedules(spec),
    )
    whole = mlct.build_definitions(spec)
    for kind in ("jobs", "sensors", "schedules"):
        assert names(getattr(parts, kind)) == names(getattr(whole, kind))
    assert len(parts.assets) == len(whole.assets)
    assert len(parts.asset_checks) == len(whole.asset_checks)


def test_merged_with_a_users_definitions_everything_loads(world):
    dg.Definitions.validate_loadable(world.defs)


def test_two_models_share_one_feature_asset_and_one_set_of_resources(world, spec):
    other = replace(spec, name="very_late", contract=spec.contract)
    own = dg.Definitions.merge(world.defs, mlct.build_definitions(other))
    dg.Definitions.validate_loadable(mlct.guarded(own))
    both = mlct.build_definitions(spec, other)
    assert names(both.jobs) >= {"late_retrain", "very_late_retrain"}


def test_builders_bring_no_resources_unless_given(spec):
    assert not mlct.build_definitions(spec).resources
    given = mlct.build_resources()
    assert mlct.build_definitions(spec, resources=given).resources == given


def test_two_models_of_one_name_are_refused(spec):
    with pytest.raises(SpecError, match=r"two models of one name.*late"):
        mlct.build_definitions(spec, spec)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Late Trips"),
        ("owners", []),
        ("risk_tier", "extreme"),
        ("features", 7),
        ("columns", {"id": "trip_id"}),
        ("contract", None),
        ("estimator", "LGBMClassifier"),
        ("gate", None),
        ("promotion", "automatic"),
        ("slot", "production@eu"),
        ("seed", -1),
    ],
)
def test_a_wrong_spec_fails_while_definitions_load_and_names_the_field(spec, field, value):
    with pytest.raises(SpecError, match=f"ModelSpec.{field} of .* Expected") as refused:
        replace(spec, **{field: value})
    assert (refused.value.field, refused.value.value) == (field, value)


def test_a_wrong_cron_line_fails_while_definitions_load(spec):
    wrong = replace(spec, retrain=mlct.RetrainPolicy(schedule="61 * * * *"))
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="61"):
        mlct.build_definitions(wrong)


def sensor(**targets: Any) -> dg.Definitions:
    planted = dg.SensorDefinition("planted", evaluation_fn=lambda _: None, **targets)
    return dg.Definitions(sensors=[planted])


def schedule(**target: Any) -> dg.Definitions:
    planted = dg.ScheduleDefinition(name="planted", cron_schedule="@daily", **target)
    return dg.Definitions(schedules=[planted])


def decorated(decorator: Any) -> dg.Definitions:
    def planted(context: Any) -> None: ...

    return dg.Definitions(sensors=[decorator(planted)])


def on_event(decorator: Any) -> dg.Definitions:
    def planted(context: Any, event: Any) -> None: ...

    return dg.Definitions(sensors=[decorator(planted)])


KEY, DONE = dg.AssetKey("trips"), dg.DagsterRunStatus.SUCCESS
PLANTS = {
    "sensor job": lambda j: sensor(job=j.promotion),
    "sensor jobs": lambda j: sensor(jobs=[j.retrain, j.promotion]),
    "sensor job_name": lambda j: sensor(job_name="late_promotion"),
    "sensor target": lambda j: sensor(target=j.promotion),
    "sensor graph": lambda j: sensor(job=j.promotion.graph),
    "schedule job": lambda j: schedule(job=j.promotion),
    "schedule job_name": lambda j: schedule(job_name="late_promotion"),
    "schedule target": lambda j: schedule(target=j.promotion),
    "run status, request_job": lambda j: decorated(
        dg.run_status_sensor(run_status=DONE, request_job=j.promotion)
    ),
    "run status, request_jobs": lambda j: decorated(
        dg.run_status_sensor(run_status=DONE, request_jobs=[j.retrain, j.promotion])
    ),
    "run failure": lambda j: decorated(dg.run_failure_sensor(request_job=j.promotion)),
    "asset sensor, job": lambda j: on_event(dg.asset_sensor(asset_key=KEY, job=j.promotion)),
    "asset sensor, jobs": lambda j: on_event(dg.asset_sensor(asset_key=KEY, jobs=[j.promotion])),
    "asset sensor, job_name": lambda j: on_event(
        dg.asset_sensor(asset_key=KEY, job_name="late_promotion")
    ),
    "multi asset sensor": lambda j: decorated(
        dg.multi_asset_sensor(monitored_assets=[KEY], job=j.promotion)
    ),
}


@pytest.fixture
def jobs(world) -> SimpleNamespace:
    return SimpleNamespace(**{j.name.removeprefix("late_"): j for j in world.defs.jobs})


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_automation_that_targets_a_promotion_fails_at_load_and_is_named(world, jobs, plant):
    planted = dg.Definitions.merge(world.defs, plant(jobs))
    with pytest.raises(SpecError, match=r"planted targets late_promotion.*only people") as refused:
        mlct.guarded(planted)
    assert len(refused.value.violations) == 1


def test_a_copy_of_a_promotion_under_another_name_is_seen_too(world, jobs):
    copied = sensor(job=jobs.promotion.graph.to_job(name="nightly"))
    with pytest.raises(SpecError, match="sensor planted targets nightly"):
        mlct.guarded(dg.Definitions.merge(world.defs, copied))


def test_a_human_job_with_an_automation_condition_is_refused(world):
    condition = dg.AutomationCondition.any_job_root_assets_match(
        dg.AutomationCondition.newly_updated()
    )
    job = dg.define_asset_job(
        "sign_off", ["trips"], tags={"mlct/human_only": "true"}, automation_condition=condition
    )
    with pytest.raises(SpecError, match="job sign_off has an automation condition"):
        mlct.guarded(dg.Definitions.merge(world.defs, dg.Definitions(jobs=[job])))


def test_every_plant_is_named_at_once(world, jobs):
    planted = dg.Definitions.merge(world.defs, sensor(job=jobs.promotion))
    planted = dg.Definitions.merge(planted, schedule(job=jobs.promotion))
    with pytest.raises(SpecError) as refused:
        mlct.guarded(planted)
    assert refused.value.violations == [
        "schedule planted targets late_promotion",
        "sensor planted targets late_promotion",
    ]


def test_automation_may_retrain_and_roll_back(world, jobs):
    planted = dg.Definitions.merge(world.defs, sensor(jobs=[jobs.retrain, jobs.rollback]))
    assert mlct.guarded(planted) is planted


CHAMPION = dg.AssetKey(["late", "champion"])
PICKS = {
    "alone": [CHAMPION],
    "among others": [CHAMPION, dg.AssetKey(["late", "evaluation"])],
}


@pytest.mark.parametrize("picked", PICKS.values(), ids=PICKS)
@pytest.mark.parametrize("plant", [sensor, schedule])
def test_automation_that_selects_the_champion_does_not_load(world, plant, picked):
    planted = dg.Definitions.merge(world.defs, plant(target=picked))
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="planted") as refused:
        dg.Definitions.validate_loadable(planted)
    assert "champion" in str(refused.value.__cause__)


def test_a_second_champion_that_could_be_materialised_does_not_load(world):
    @dg.asset(key=CHAMPION)
    def champion() -> None: ...

    planted = dg.Definitions.merge(world.defs, dg.Definitions(assets=[champion]))
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="champion"):
        dg.Definitions.validate_loadable(planted)


def test_materialising_everything_leaves_the_champion_out(world):
    everything = world.defs.resolve_job_def("__ASSET_JOB")
    steps = {node.name for node in everything.nodes}
    assert "late__challenger" in steps
    assert "late__champion" not in steps
    assert not any("promot" in step for step in steps)
