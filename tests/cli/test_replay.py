"""`mlct replay`: a spec and its stored features are enough."""

import json

import pytest

SPEC = "tests.cli.test_replay:late"
POLICIES = {"drift": {"on": ["drift"], "cooldown": "0d", "budget": "99/1d"}}


def __getattr__(name):
    """`late`, made when the command imports it: loading this module declares nothing."""
    if name != "late":
        raise AttributeError(name)
    import mlct
    from tests.conftest import declare

    # The stump of the other tests has one split: it cannot be told from the baseline's luck.
    return declare(windows=mlct.Windows(train="8d", holdout="10d", label_delay="2h"))


def told(world, *words):
    code, out, error = world.mlct("replay", SPEC, *words)
    assert code == 0, error
    return out


def test_the_declared_policy_is_played_on_what_the_store_has(live):
    found = json.loads(told(live, "--step", "4d", "--json"))
    assert list(found["tracks"]) == ["static", "scheduled", "declared", "oracle"]
    assert found["metric"] == "roc_auc"
    assert len(found["tracks"]["declared"]["values"]) == len(found["at"]) - 1


def test_it_touches_neither_ledger_nor_registry(live):
    before = live.home.ledger.verify(), live.versions()
    told(live, "--step", "4d")
    assert (live.home.ledger.verify(), live.versions()) == before


def test_policies_of_a_file_are_compared_and_drawn(live, tmp_path):
    (tmp_path / "policies.json").write_text(json.dumps(POLICIES))
    words = ("--policies", str(tmp_path / "policies.json"), "--plot", str(tmp_path / "p.png"))
    text = told(live, "--step", "4d", *words)
    assert "late: " in text
    assert "the gate without latency_p99_ms" in text
    assert "\ndrift " in text
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_parquet_file_is_taken_too(live, trips, tmp_path):
    import pyarrow.parquet as pq

    pq.write_table(trips(), tmp_path / "trips.parquet")
    stored = told(live, "--step", "4d", "--json")
    assert told(live, "--step", "4d", "--json", "--features", str(tmp_path / "trips.parquet"))
    assert json.loads(stored)["at"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere:late"], "'nowhere:late' cannot be imported"),
        (["tests.cli.test_replay"], "cannot be imported"),
        (["tests.cli.test_replay:POLICIES"], "is a dict. Expected a mlct.ModelSpec"),
        ([SPEC, "--features", "gone.parquet"], "gone.parquet cannot be read"),
        ([SPEC, "--policies", "gone.json"], "gone.json cannot be read"),
        ([SPEC, "--step", "soon"], "--step is 'soon'"),
    ],
    ids=str,
)
def test_what_cannot_be_played_is_refused(live, words, says):
    code, _, error = live.mlct("replay", *words)
    assert code == 1
    assert says in error


def test_an_empty_store_is_named(world):
    code, _, error = world.mlct("replay", SPEC)
    assert code == 1
    assert "has no snapshot of trips" in error


def test_a_strange_field_of_a_policy_is_named(live, tmp_path):
    (tmp_path / "p.json").write_text('{"x": {"psi": 1}}')
    code, _, error = live.mlct("replay", SPEC, "--policies", str(tmp_path / "p.json"))
    assert code == 1
    assert "policy 'x' has psi" in error
