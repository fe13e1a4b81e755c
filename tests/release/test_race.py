"""Eight processes promote approved versions at once: one wins, and everybody sees which."""

import os
from pathlib import Path
from typing import Any

import pytest

from mlct.errors import PromotionRefused, SlotMoved
from mlct.release.ledger import Ledger

ROUNDS = 20


class FolderRegistry:
    """Aliases as files, so that processes share them; versions as the memory registry has them."""

    def __init__(self, folder: Path, artifacts: dict[tuple[str, int], str]) -> None:
        self.folder, self.artifacts = folder, artifacts

    def alias(self, model: str, alias: str) -> int | None:
        path = self.folder / f"{model}@{alias}"
        return int(path.read_text()) if path.exists() else None

    def set_alias(self, model: str, alias: str, version: int) -> None:
        staged = self.folder / f"{model}@{alias}.{os.getpid()}"
        staged.write_text(str(version))
        staged.replace(self.folder / f"{model}@{alias}")

    def artifact(self, model: str, version: int) -> str:
        return self.artifacts[model, version]


@pytest.fixture
def crowd(put_forward, tmp_path):
    """Versions 2 and 3 were both evaluated against version 1, and both are approved."""
    put_forward.registry = FolderRegistry(tmp_path, put_forward.registry.artifacts)
    put_forward.project()
    put_forward.train(3)
    put_forward.evaluate(3)
    for version in (2, 3):
        put_forward.approve(version)
    return put_forward


#: What a promotion that came too late is told: the winner came before its checks, or meanwhile.
LATE = ("is live in", "evaluated against", "points at version", "used by an earlier promotion")


def test_one_of_eight_promotions_wins_every_round(world, where, tmp_path, at_once):
    """Of one version, and of two by turns; each was evaluated against what the last round left."""
    world.ledger = Ledger(where, clock=world.clock)
    world.registry = FolderRegistry(tmp_path, world.registry.artifacts)
    world.put_live(1)
    newest = 1
    for round in range(ROUNDS):
        versions = [newest + 1, newest + 1 + round % 2]
        for newest in sorted({*versions}):
            world.train(newest)
            world.evaluate(newest)
            world.approve(newest)

        def work(number: int, versions: list[int] = versions) -> Any:
            return world.promote(versions[number % 2]).predicate["version"]

        found = at_once(8, work)
        (winner,) = [version for version in found if isinstance(version, int)]
        refusals = [error.found for error in found if isinstance(error, PromotionRefused)]
        assert len(refusals) == 7
        assert all(any(words in text for words in LATE) for text in refusals)
        assert world.live == world.alias == winner
        assert winner in versions
    assert world.kinds().count("promotion") == 1 + ROUNDS
    assert world.kinds().count("refusal") == 7 * ROUNDS
    assert world.ledger.verify() == len(world.kinds())


def test_one_of_four_rollbacks_that_name_the_bad_version_wins(crowd, at_once):
    crowd.promote(2)
    crowd.put_live(4)

    def work(number):
        return crowd.roll_back(version=4).predicate["version"]

    found = at_once(4, work)
    assert [version for version in found if isinstance(version, int)] == [2]
    assert len([error for error in found if isinstance(error, SlotMoved)]) == 3
    assert crowd.live == crowd.alias == 2
    assert crowd.kinds().count("quarantine") == 1


def test_promotions_rollbacks_and_repairs_at_once_leave_alias_and_ledger_equal(crowd, at_once):
    crowd.promote(2)

    def work(number):
        crowd.registry.set_alias("m", "production", 3)
        return crowd.roll_back(version=2).kind if number == 0 else crowd.project()["after"]

    found = at_once(4, work)
    assert "rollback" in found
    crowd.project()
    assert crowd.live == crowd.alias == 1
    assert crowd.ledger.verify() == len(crowd.kinds())
