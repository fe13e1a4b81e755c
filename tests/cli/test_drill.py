"""`mlct drill`: every scenario in one table, or one; it says what failed."""

import json

from mlct.adapters import drill
from mlct.release.drill import SCENARIOS


def test_a_game_day_prints_every_scenario(succeeded):
    code, text, error = succeeded.mlct("drill", "late")
    assert (code, error) == (0, "")
    lines = text.splitlines()
    assert [line.split()[0] for line in lines] == ["SCENARIO", *SCENARIOS]
    assert all("as expected" in line for line in lines[1:])


def test_one_scenario_answers_in_json(succeeded):
    code, out, _ = succeeded.mlct("drill", "late", "--scenario", "missing-target", "--json")
    (found,) = json.loads(out)
    assert (code, found["scenario"], found["passed"]) == (0, "missing-target", True)


def test_a_drill_that_fails_is_a_refusal_that_shows_the_table(succeeded, monkeypatch):
    monkeypatch.setattr(drill, "act", lambda *_, **__: None)
    code, _, error = succeeded.mlct("drill", "late", "--scenario", "rollback")
    assert code == 1
    assert "rollback of late did not go as expected" in error
    assert "FAILED" in error


def test_a_model_without_a_target_is_refused(live):
    code, _, error = live.mlct("drill", "late")
    assert code == 1
    assert "no approved version to go back to" in error
