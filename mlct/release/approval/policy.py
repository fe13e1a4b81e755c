"""Which approvers file counts: the first that was used, or one that the last one's people signed.

The chain of `policy` statements keeps every file whole. The first is trusted on first use; each
later one is signed by people who govern the file before it, each in a row that names the one that
it replaces, and is in force with the last signature that it needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from mlct.data.digest import canonical
from mlct.errors import ApprovalInvalid
from mlct.release.approval import signature
from mlct.release.approval.approvers import Approvers, Person, parse
from mlct.release.ledger import SKEW, Ledger, Record, statement

NAMESPACE = "mlct-policy@v1"
#: Policy statements are about the whole ledger, not about one model.
EVERY_MODEL = ""
_SAYS = {"model", "policy", "replaces", "document", "signer", "comment"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """An approvers file in force, the statement that put it there, and who signed for it."""

    approvers: Approvers
    record: Record
    signers: tuple[str, ...] = ()

    @property
    def first(self) -> bool:
        """Whether it was trusted on first use."""
        return not self.signers


def quorum(approvers: Approvers, at: datetime) -> int:
    """How many who govern must sign another file: as many as the strictest tier asks for, as one
    alone could lower it; all, where fewer govern at that time."""
    return max(1, min(strictest(approvers), sum(p.present(at) for p in approvers.governors)))


def strictest(approvers: Approvers) -> int:
    """How many the strictest tier asks for."""
    return max(tier.approvers for tier in approvers.tiers.values())


def chain(ledger: Ledger, at: datetime | None = None) -> list[Policy]:
    """Every approvers file that was ever in force, oldest first. What nobody may say is skipped.

    What was signed after `at` (now) does not count yet: a clock that is set forward waits for
    nobody's departure.
    """
    return _read(ledger, at)[0]


def waiting(ledger: Ledger) -> dict[str, tuple[str, ...]]:
    """Files (digests) that lack signatures to be in force, and who signed them."""
    return {name: tuple(p.signers) for name, p in _read(ledger)[1].items()}


def _read(ledger: Ledger, until: datetime | None = None) -> tuple[list[Policy], dict[str, Policy]]:
    found, wait = list[Policy](), dict[str, Policy]()
    for record in reversed(ledger.records(kind="policy", model=EVERY_MODEL)):
        current = found[-1] if found else None
        policy = _valid(record, current)
        if policy is None:
            continue
        if current is None:
            found.append(policy)
            continue
        at = datetime.fromisoformat(record.recorded_at)
        if at > (until or ledger.clock()) + SKEW:
            continue
        digest = policy.approvers.digest
        if digest in wait:
            signers = dict.fromkeys((*wait[digest].signers, *policy.signers))
            policy = replace(policy, signers=tuple(signers))
        if len(policy.signers) >= quorum(current.approvers, at):
            found.append(policy)
            wait.clear()
        else:
            wait[digest] = policy
    return found, wait


def in_force(ledger: Ledger, at: datetime | None = None) -> Policy | None:
    """The approvers file that counts at a time (now). None before the first use."""
    found = chain(ledger, at)
    return found[-1] if found else None


def pin(ledger: Ledger, approvers: Approvers, *, actor: str) -> Policy:
    """What is in force; the first file that is ever used is pinned as it is."""
    current = in_force(ledger)
    if current is None:
        with ledger.transaction():
            current = in_force(ledger)
            if current is None:
                ledger.append(_statement(approvers, None, "", "trusted on first use"), actor=actor)
                current = in_force(ledger)
    assert current is not None, "a first statement is in force"
    return current


def change(
    ledger: Ledger, approvers: Approvers, *, key: Path, comment: str, at: datetime
) -> Policy:
    """Sign another approvers file, as who governs the present one.

    Returns it with all who have signed it: it is in force (`in_force`) once these are `quorum`.
    Raises ApprovalInvalid with nothing written, or with a statement that does not count where
    somebody changed the file at the same moment.
    """
    current = in_force(ledger)
    if current is None:
        raise ApprovalInvalid(
            "no approvers file is pinned yet",
            expected="one to change",
            fix="Run the retrain job or `mlct approve`: the first use pins the file",
        )
    if approvers.digest == current.approvers.digest:
        raise ApprovalInvalid(
            f"the approvers file {approvers.digest[:12]} is in force already",
            expected="another one",
        )
    person = _governor(signature.public_key(key), current, at)
    signers = waiting(ledger).get(approvers.digest, ())
    wanted = quorum(current.approvers, at)
    if person.name in signers and len(signers) < wanted:
        present = [p.name for p in current.approvers.governors if p.present(at)]
        raise ApprovalInvalid(
            f"{person.name} has signed the approvers file {approvers.digest[:12]} already",
            expected=f"{wanted} of those who govern",
            fix="Ask " + " or ".join(name for name in present if name not in signers),
        )
    content = _statement(approvers, current, person.name, comment)
    body = canonical(content)
    signed = signature.sign(key, body, namespace=NAMESPACE)
    ledger.append(content, actor=person.name, signature=signed, body=body)
    found, wait = _read(ledger)
    changed = wait.get(approvers.digest, found[-1])
    if changed.approvers.digest != approvers.digest or person.name not in changed.signers:
        raise ApprovalInvalid(
            "somebody else changed the approvers file meanwhile",
            expected="the file that this one was to replace",
            fix="Look at `mlct policy show`, then sign again",
        )
    return changed


def _governor(key: signature.PublicKey, current: Policy, at: datetime) -> Person:
    person = current.approvers.holder(key, at=at)
    if person not in current.approvers.governors:
        raise ApprovalInvalid(
            f"{person.name} may not change the approvers file",
            expected=" or ".join(p.name for p in current.approvers.governors),
            fix="Ask somebody who holds a governance role in the file that is in force",
        )
    if current.approvers.touch and not key.touched:
        raise ApprovalInvalid(
            f"{person.name} signs the approvers file with a {key.type} key",
            expected="a security key, as the file in force demands for a risk tier",
            fix="Sign with the security key that the file lists",
        )
    return person


def _statement(
    approvers: Approvers, current: Policy | None, signer: str, comment: str
) -> Mapping[str, Any]:
    return statement(
        "policy",
        {"policy": approvers.digest},
        {
            "model": EVERY_MODEL,
            "policy": approvers.digest,
            "replaces": current.record.hash if current else None,
            "document": dict(approvers.document),
            "signer": signer,
            "comment": comment,
        },
    )


def _valid(record: Record, current: Policy | None) -> Policy | None:
    says = record.predicate
    if says.keys() != _SAYS:
        return None
    try:
        approvers = parse(says["document"], source=f"statement {record.sequence}")
        signer, comment = says["signer"], says["comment"]
        if record.statement != _statement(approvers, current, signer, comment):
            return None
        if current is None:
            return None if signer else Policy(approvers=approvers, record=record)
        key = signature.verify(record.signature or "", record.body, namespace=NAMESPACE)
        person = _governor(key, current, datetime.fromisoformat(record.recorded_at))
    except ApprovalInvalid:
        return None
    if person.name != signer:
        return None
    return Policy(approvers=approvers, record=record, signers=(signer,))
