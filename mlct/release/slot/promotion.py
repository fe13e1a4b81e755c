"""Promotion: the only way in."""

import json
from collections.abc import Callable
from typing import Any

from mlct.data.digest import sha256
from mlct.errors import PromotionRefused
from mlct.release.approval.approvers import Approvers
from mlct.release.approval.request import Request, judge, require, slot_key
from mlct.release.ledger import Ledger, Record, statement
from mlct.release.slot.projection import Registry, follow
from mlct.release.slot.state import SLOT, banned, live


def request(ledger: Ledger, model: str, version: int | None = None, slot: str = SLOT) -> Request:
    """The request for a version, refused where no approval could carry it."""
    asked = Request.of(ledger, model, version, slot)
    name = f"{model}@{asked.version}"
    if reason := banned(ledger, model, asked.version, asked.artifact):
        raise PromotionRefused(
            f"{name} is quarantined: {reason}",
            expected="a version that was never rolled back",
            fix="Train a new version",
        )
    if asked.verdict != "PASS":
        raise PromotionRefused(
            f"the gate says {asked.verdict} for {name}: {'; '.join(asked.reasons)}",
            expected="PASS",
            fix="Train a better version, or gather the rows that the gate asks for",
        )
    current = live(ledger, model, slot)
    head, champion = (current.sequence, current.version) if current else (0, None)
    if current and champion == asked.version:
        raise PromotionRefused(
            f"{name} is live in {slot!r} since {current.since}", expected="another version"
        )
    if (head, champion) != (asked.head, asked.champion):
        raise PromotionRefused(
            f"{name} was evaluated against {_champion(asked.champion)}, but {slot!r} now serves "
            f"{_champion(champion)} by statement {head}",
            expected="the champion of the evaluation, unmoved since",
            fix=f"Run {model}_retrain to evaluate it against what is live now, then approve again",
        )
    return asked


def _champion(version: int | None) -> str:
    return "nothing" if version is None else f"version {version}"


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
) -> Record:
    """Move a slot to an approved version; the only function that puts something new there.

    Checks, in this order: the ledger's chain, the gate, quarantine, the champion unmoved, the
    evidence (`evidence(digest)` reads its bytes), the artifact's bytes in the registry, the
    approvals, and again inside the transaction that nobody moved the slot. Raises an MlctError with
    nothing written; if only the alias is behind, a RegistryError whose `record` is the promotion.
    """
    ledger.verify()
    asked = request(ledger, model, version, slot)
    _agrees(evidence(asked.evidence), asked)
    held = registry.artifact(model, version)
    if held != asked.artifact:
        raise PromotionRefused(
            f"the registry's bytes of {model}@{version} hash to {held}",
            expected=asked.artifact,
            fix="Somebody changed the artifact after its evaluation: train a new version and find "
            "out who can write to the artifact store",
        )
    with ledger.transaction():
        if request(ledger, model, version, slot) != asked:
            raise PromotionRefused(
                f"{model}@{version} was evaluated again while its bytes were checked",
                expected="one evaluation",
                fix=f"Look at it: `mlct request {model}@{version}`",
            )
        counted = require(judge(ledger, asked, approvers, at=ledger.clock()), asked, approvers)
        record = ledger.append(
            statement(
                "promotion",
                {"artifact": asked.artifact, "evidence": asked.evidence},
                {
                    "model": model,
                    "slot": slot,
                    "version": version,
                    "replaces": asked.champion,
                    "rollback_target": asked.rollback_target,
                    "artifact": asked.artifact,
                    "evidence": asked.evidence,
                    "gate": asked.gate,
                    "policy": approvers.digest,
                    "approvals": [a.record.hash for a in counted],
                    "approvers": [f"{a.says['approver']} ({a.says['role']})" for a in counted],
                },
            ),
            actor=actor,
            slot=slot_key(model, slot),
            supersedes=asked.head,
        )
    follow(ledger, registry, record, actor=actor)
    return record


def _agrees(evidence: bytes, asked: Request) -> None:
    """The evidence, whose digest people signed, must itself say what the gate statement says."""
    wanted = {n: getattr(asked, n) for n in ("model", "version", "artifact", "champion")}
    said, verdict = dict[str, Any](), f"other bytes ({sha256(evidence)[:12]})"
    if sha256(evidence) == asked.evidence:
        report = json.loads(evidence)
        said, verdict = {n: report.get(n) for n in wanted}, report["decision"]["verdict"]
    if said != wanted or verdict != "PASS":
        raise PromotionRefused(
            f"the evidence {asked.evidence[:12]} says {verdict} about {said}",
            expected=f"PASS about {wanted}",
            fix="The gate statement does not come from this evaluation: find out who can write "
            f"to the ledger and the store, then run {asked.model}_retrain",
        )
