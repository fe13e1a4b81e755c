"""Promotion: the only way in."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from mlct.errors import LedgerError, LedgerTampered, MlctError, PromotionRefused
from mlct.release.approval.approvers import Approvers
from mlct.release.approval.deployment import Deployment
from mlct.release.approval.request import Approval, Request, slot_key
from mlct.release.ledger import Ledger, Record, statement
from mlct.release.slot.checks import (
    CHECKS,
    Attempt,
    champion_is_unmoved,
    gate_passed,
    nothing_is_quarantined,
)
from mlct.release.slot.projection import Registry, follow
from mlct.release.slot.state import SLOT


def request(ledger: Ledger, model: str, version: int | None = None, slot: str = SLOT) -> Request:
    """The request for a version, refused where no approval could carry it."""
    asked = Request.of(ledger, model, version, slot)
    nothing_is_quarantined(ledger, asked)
    gate_passed(asked)
    champion_is_unmoved(ledger, asked)
    return asked


def promote(
    ledger: Ledger,
    registry: Registry,
    approvers: Approvers,
    evidence: Callable[[str], bytes],
    *,
    model: str,
    version: int,
    actor: str,
    slot: str = SLOT,
    approved: Callable[[str], object],
    deployment: Deployment | None = None,
    declared: Mapping[str, str] | None = None,
    verify: Callable[[], object] | None = None,
) -> Record:
    """Move a slot to an approved version; the only function that puts something new there.

    Asks every check of `CHECKS`, in their order; then, in one transaction, those that the ledger
    alone answers again, and writes the statement that moves the slot. It is the durable intent:
    the alias follows it and is read back. `evidence(digest)` reads the evidence's bytes,
    `approved(artifact)` the copy that was made at approval, verified; `deployment` is what the spec
    declares for the slot now, `declared` its risk `tier` and the digests of its `gate` and
    `contract`, as far as there is a spec; `verify` proves the ledger, by what is kept outside of it
    too where there is something (by default, its own chain).

    Raises an MlctError whose `check` says which one stopped it. Nothing moved then, and a `refusal`
    is in the ledger, unless that does not verify. If only the alias is behind, raises a
    RegistryError whose `record` is the promotion.
    """
    attempt = Attempt(
        ledger=ledger,
        registry=registry,
        approvers=approvers,
        evidence=evidence,
        verify=verify or ledger.verify,
        deployment=deployment or Deployment(),
        approved=approved,
        model=model,
        version=version,
        slot=slot,
        declared=declared or {},
    )
    with refusals_recorded(ledger, model=model, version=version, slot=slot, actor=actor):
        for check in CHECKS:
            check(attempt)
        with ledger.transaction():
            record = _move(attempt, replace(attempt), actor)
    follow(ledger, registry, record, actor=actor)
    return record


def _move(seen: Attempt, now: Attempt, actor: str) -> Record:
    asked = now.asked
    if asked != seen.asked:
        raise PromotionRefused(
            f"{asked.name} was evaluated again while its bytes were checked",
            expected="one evaluation",
            fix=f"Look at it: `mlct request {asked.name}`",
            check="evaluated",
        )
    for check in CHECKS:
        if check.by_ledger:
            check(now)
    return now.ledger.append(
        statement(
            "promotion",
            {"artifact": asked.artifact, "evidence": asked.evidence},
            promoted(asked, now.approvers, now.approvals),
        ),
        actor=actor,
        slot=slot_key(asked.model, asked.slot),
        supersedes=asked.head,
    )


def promoted(asked: Request, approvers: Approvers, given: Sequence[Approval]) -> dict[str, Any]:
    """What a promotion by these approvals says."""
    return {
        "model": asked.model,
        "slot": asked.slot,
        "version": asked.version,
        "replaces": asked.champion,
        "rollback_target": asked.rollback_target,
        "artifact": asked.artifact,
        "evidence": asked.evidence,
        "gate": asked.gate,
        "policy": approvers.digest,
        "deployment": asked.deployment,
        "approvals": [a.record.hash for a in given],
        "approvers": [f"{a.says['approver']} ({a.says['role']})" for a in given],
    }


@contextmanager
def refusals_recorded(
    ledger: Ledger, *, model: str, version: int, slot: str, actor: str
) -> Iterator[None]:
    """Around an attempt to promote: whatever refuses it is told to the ledger, and goes on.

    A ledger that does not verify is told nothing: another row would only cover up the damage.
    """
    try:
        yield
    except MlctError as error:
        says = {
            "model": model,
            "slot": slot,
            "version": version,
            "check": error.check,
            "error": type(error).__name__,
            "found": error.found,
            "expected": error.expected,
        }
        try:
            if isinstance(error, LedgerTampered):
                raise error
            ledger.verify()
            ledger.append(statement("refusal", {}, says), actor=actor)
        except LedgerError as problem:
            error.add_note(f"This refusal is not in the ledger: {problem.found}")
        raise
