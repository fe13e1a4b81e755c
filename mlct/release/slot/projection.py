"""The registry's alias as a projection of the ledger: written after a move, read back, repaired."""

from collections.abc import Mapping
from typing import Any, Protocol

from mlct.errors import MlctError, RegistryError
from mlct.release.ledger import Ledger, Record, statement
from mlct.release.slot.state import SLOT, live


class Registry(Protocol):
    """What the slot needs of a model registry. Every method may raise RegistryError."""

    def alias(self, model: str, alias: str) -> int | None:
        """The version that an alias points at."""

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Point an alias at a version."""

    def artifact(self, model: str, version: int) -> str:
        """Digest of a version's bytes as the registry would serve them now."""


def follow(ledger: Ledger, registry: Registry, record: Record, *, actor: str) -> None:
    """Project a move that is in the ledger already, and say so where the registry cannot follow."""
    says = record.predicate
    model, slot, version = says["model"], says["slot"], says["version"]
    try:
        project(ledger, registry, model, slot, actor=actor, usual=says["replaces"])
    except MlctError as error:
        raise RegistryError(
            f"{model}@{version} is live in {slot!r} by statement {record.sequence} of the ledger, "
            f"but the registry's alias is behind: {error.found}",
            expected="the alias on what the ledger says is live",
            fix=f"Do not repeat the {record.kind}, which is done: run `mlct reconcile {model}` "
            "when the registry answers",
            record=record,
        ) from error


def project(
    ledger: Ledger,
    registry: Registry,
    model: str,
    slot: str = SLOT,
    *,
    actor: str,
    usual: int | None = 0,
) -> Mapping[str, Any]:
    """Make the registry's alias equal the ledger; safe to run at any time, by anyone.

    Returns `{"ledger", "before", "after"}`. A repair is recorded with what was found (an alias
    moved by hand, or left behind by a crash), unless that is `usual`. Raises RegistryError when the
    alias cannot be made to agree.
    """
    before = registry.alias(model, slot)
    if live(ledger, model, slot) is None:
        if before is not None:
            raise RegistryError(
                f"alias {slot!r} of {model} points at version {before}, which nobody promoted",
                expected="no alias: the ledger says that nothing is live",
                fix="Delete the alias in the registry, and find out who set it",
            )
        return {"ledger": None, "before": None, "after": None}
    for _ in range(5):
        current = live(ledger, model, slot)
        assert current is not None, "a slot never empties"
        found = registry.alias(model, slot)
        if found == current.version:
            if before not in (current.version, usual):
                ledger.append(
                    statement(
                        "reconcile",
                        {"artifact": current.artifact},
                        {
                            "model": model,
                            "slot": slot,
                            "version": current.version,
                            "found": before,
                            "reason": "the alias did not point at what the ledger says is live",
                        },
                    ),
                    actor=actor,
                )
            return {"ledger": current.version, "before": before, "after": found}
        registry.set_alias(model, slot, current.version)
    raise RegistryError(
        f"alias {slot!r} of {model} does not stay where the ledger says",
        expected="one writer of the alias",
        fix=f"Find what else moves the alias, then run `mlct reconcile {model}`",
    )
