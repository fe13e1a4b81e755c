"""The gate statements: what puts a version forward for each slot."""

from collections.abc import Mapping
from typing import Any

from mlct.adapters.home import Home
from mlct.data.digest import canonical, digest
from mlct.defs.assets.evaluation.case import Case
from mlct.errors import ApprovalInvalid
from mlct.evaluation.decision import NOT_COMPARED
from mlct.release.approval import policy
from mlct.release.ledger import statement
from mlct.release.slot import Live, live
from mlct.release.slot.state import FALLBACK
from mlct.spec import ModelSpec


def put_forward(
    home: Home, case: Case, decision: Mapping[str, Any], evidence: str, *, actor: str
) -> None:
    """A gate statement for each slot, unless the newest one there says the same.

    Each pins the slot's head, its deployment and the approvers file in force. Further slots are
    put forward by the comparison with the main slot's champion, which `compared` names; what is
    that champion is compared with itself, which says nothing of them.
    """
    spec = case.spec
    itself = case.champion is not None and case.champion.artifact == case.artifact
    pinned = _pinned(home, actor)
    compared = case.champion.version if case.champion else None
    with home.ledger.transaction():
        for slot in spec.deployments:
            if itself and slot != spec.slot:
                continue
            champion = case.champion if slot == spec.slot else live(home.ledger, spec.name, slot)
            says = {"version": case.version, "artifact": case.artifact, "evidence": evidence}
            says |= {"compared": compared, "approvers_policy": pinned}
            _state(home, spec, slot, champion, decision, says, actor)


def put_fallback_forward(home: Home, spec: ModelSpec, *, actor: str) -> None:
    """A gate statement for the newest fallback: it was compared with nothing, and says so."""
    trained = home.ledger.records(kind="training", model=spec.name)
    made = next((t.predicate for t in trained if t.predicate.get("fallback")), None)
    champion = live(home.ledger, spec.name, FALLBACK)
    if spec.fallback is None or made is None:
        return
    if champion is not None and champion.artifact == made["artifact"]:
        return
    reason = "fallback: not compared. People answer for what it does when nothing else is fit"
    rule = {"rule": "fallback", "name": FALLBACK, "observed": "not compared", "reason": reason}
    rule |= {"required": "approvals", "outcome": NOT_COMPARED}
    decision = {"verdict": NOT_COMPARED, "reasons": [reason], "rules": [rule]}
    report = {
        "format": "mlct.report/v1",
        "model": spec.name,
        "champion": None,
        "sentence": f"{NOT_COMPARED}: {reason}",
        "decision": decision,
        **{n: made[n] for n in ("version", "artifact", "training_set")},
    }
    says = {n: made[n] for n in ("version", "artifact")}
    says |= {"evidence": home.store.put(canonical(report)), "compared": None}
    says |= {"approvers_policy": _pinned(home, actor)}
    with home.ledger.transaction():
        _state(home, spec, FALLBACK, champion, decision, says, actor)


def _state(
    home: Home,
    spec: ModelSpec,
    slot: str,
    champion: Live | None,
    decision: Mapping[str, Any],
    says: Mapping[str, Any],
    actor: str,
) -> None:
    """The gate statement for one slot, unless the newest one of this version there says the same.

    The newest counts: what was evaluated under other rules in between has to be stated again.
    """
    says = {
        "model": spec.name,
        "slot": slot,
        "champion": champion.version if champion else None,
        "head": champion.sequence if champion else 0,
        "tier": spec.risk_tier,
        "verdict": decision["verdict"],
        "reasons": list(decision["reasons"]),
        "policy": digest(spec.gate.to_dict()),
        "deployment": spec.deployments[slot].digest(slot),
        **says,
    }
    known = home.ledger.records(kind="gate", model=spec.name, subject=says["artifact"])
    stated = (g.predicate for g in known)
    of_this = (g for g in stated if (g["version"], g["slot"]) == (says["version"], slot))
    if next(of_this, None) != says:
        subjects = {n: says[n] for n in ("artifact", "evidence")}
        home.ledger.append(statement("gate", subjects, says), actor=actor)


def _pinned(home: Home, actor: str) -> str | None:
    """Digest of the approvers file in force; None while there is none, which training allows."""
    try:
        found: policy.Policy | None = policy.pin(home.ledger, home.approvers, actor=actor)
    except ApprovalInvalid:
        found = policy.in_force(home.ledger)
    return found.approvers.digest if found else None
