"""An incident: opened once an episode, told in order, closed once."""

import pytest

from mlct.errors import LedgerError
from mlct.release.incident import close_incident, incidents, note_incident, open_incident, step


def opened(world, **how):
    says = {"model": "m", "slot": "production", "kind": "alias", "summary": "it moved"}
    says |= {"timeline": [step(world.ledger, "seen")], "severity": "high", "pages": False}
    return open_incident(world.ledger, **(says | {"actor": "test"} | how))


def test_the_same_episode_is_opened_once(world):
    first = opened(world)
    assert opened(world, summary="again").hash == first.hash
    (found,) = incidents(world.ledger, "m")
    assert (found.summary, found.open, found.pages) == ("it moved", True, False)


@pytest.mark.parametrize("other", [{"slot": "eu"}, {"kind": "drill"}, {"episode": "2"}], ids=str)
def test_another_slot_kind_or_episode_is_another_incident(world, other):
    assert opened(world).hash != opened(world, **other).hash
    assert len(incidents(world.ledger, "m")) == 2


def test_after_it_was_closed_the_same_is_a_new_one(world):
    first = opened(world)
    close_incident(world.ledger, first, summary="repaired", actor="test")
    assert opened(world).hash != first.hash
    assert [i.open for i in incidents(world.ledger, "m")] == [True, False]


def test_the_timeline_is_told_in_order(world):
    first = opened(world)
    note_incident(world.ledger, first, timeline=[step(world.ledger, "moved again")], actor="test")
    close_incident(world.ledger, first, summary="repaired", actor="test")
    close_incident(world.ledger, first, summary="once more", actor="test")
    (found,) = incidents(world.ledger, "m")
    assert [s["what"] for s in found.timeline] == ["seen", "moved again", "repaired"]
    assert sorted(s["at"] for s in found.timeline) == [s["at"] for s in found.timeline]


def test_an_open_incident_may_begin_to_page(world):
    first = opened(world)
    assert opened(world, pages=True).hash == first.hash
    assert opened(world, pages=True).hash == first.hash
    (found,) = incidents(world.ledger, "m")
    assert found.pages
    assert len(world.kinds()) == 2


def test_an_unknown_severity_is_refused(world):
    with pytest.raises(LedgerError, match="severity 'red'"):
        opened(world, severity="red")
    assert world.kinds() == []
