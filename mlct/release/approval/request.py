"""What people are asked to approve, their signed answers, and which of these count."""

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from mlct.data.digest import canonical
from mlct.errors import ApprovalInvalid, PromotionRefused
from mlct.release.approval import signature
from mlct.release.approval.approvers import Approvers, Person
from mlct.release.ledger import SKEW, Ledger, Record, instant, statement

LONGEST = timedelta(days=30)
_DECISIONS = ("approve", "reject")
#: What a no is about: these bytes on this evidence, however they are put forward again.
_REJECTED = ("model", "version", "slot", "artifact", "evidence")
_ANSWER = (
    "decision",
    "approver",
    "role",
    "policy",
    "issued_at",
    "expires_at",
    "nonce",
    "comment",
)


def slot_key(model: str, slot: str) -> str:
    """A slot's name in the ledger."""
    return f"{model}@{slot}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One version put forward for one slot, with everything that an approval binds to.

    `gate` is the hash of the gate statement, `head` the sequence of the slot's last move when it
    was written, `compared` the champion that the evidence is about (that of the main slot),
    `evaluated_at` when the evidence was made, `policy` the digest of the approvers file in force
    then, `deployment` that of the slot's configuration, `rules` that of the gate's. Statements of
    the first release have none of these three.
    """

    model: str
    version: int
    slot: str
    tier: str
    verdict: str
    reasons: tuple[str, ...]
    artifact: str
    evidence: str
    gate: str
    gated_at: str
    head: int
    champion: int | None
    rollback_target: int | None
    compared: int | None
    evaluated_at: str
    policy: str | None
    deployment: str | None
    rules: str | None
    authors: tuple[str, ...]
    training: Mapping[str, Any]

    @classmethod
    def of(cls, ledger: Ledger, model: str, version: int | None, slot: str) -> "Request":
        """The request for a version (by default the newest evaluated). Raises PromotionRefused."""
        gates = ledger.records(kind="gate", model=model)
        found = [
            g
            for g in gates
            if g.predicate["slot"] == slot and version in (None, g.predicate["version"])
        ]
        if not found:
            known = sorted({g.predicate["version"] for g in gates})
            wanted = f"{model}@{version}" if version is not None else model
            raise PromotionRefused(
                f"{wanted} has no gate statement for slot {slot!r}",
                expected=f"an evaluated version ({', '.join(map(str, known)) or 'none yet'})",
                fix=f"Run the job {model}_retrain first",
                model=model,
                version=version,
            )
        gate, says = found[0], found[0].predicate
        trainings = [
            t.predicate
            for t in ledger.records(kind="training", model=model, subject=says["artifact"])
            if t.predicate["version"] == says["version"]
        ]
        if not trainings:
            raise PromotionRefused(
                f"no training statement says who made {model}@{says['version']} with the bytes "
                f"{says['artifact'][:12]}",
                expected="one in the ledger",
                fix=f"Run the job {model}_retrain: only what mlct trained can be promoted",
            )
        return cls(
            model=model,
            version=says["version"],
            slot=slot,
            tier=says["tier"],
            verdict=says["verdict"],
            reasons=tuple(says["reasons"]),
            artifact=says["artifact"],
            evidence=says["evidence"],
            gate=gate.hash,
            gated_at=gate.recorded_at,
            head=says["head"],
            champion=says["champion"],
            rollback_target=says["champion"],
            compared=says.get("compared", says["champion"]),
            evaluated_at=min(
                g.recorded_at for g in gates if g.predicate["evidence"] == says["evidence"]
            ),
            policy=says.get("approvers_policy"),
            deployment=says.get("deployment"),
            rules=says.get("policy"),
            authors=tuple(sorted({a for t in trainings for a in t["authors"]})),
            training=trainings[0],
        )

    @property
    def name(self) -> str:
        return f"{self.model}@{self.version}"

    def binding(self) -> dict[str, Any]:
        """The fields that a signature covers, besides who, when and what decision."""
        names = ("model", "version", "slot", "tier", "artifact", "head", "gate", "evidence")
        pinned = () if self.deployment is None else ("deployment",)
        return {n: getattr(self, n) for n in (*names, "rollback_target", *pinned)}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def decide(
    request: Request,
    approvers: Approvers,
    *,
    decision: str,
    key: Path,
    comment: str,
    at: datetime,
    lifetime: timedelta = timedelta(days=7),
    role: str | None = None,
) -> tuple[dict[str, Any], bytes, str, Person]:
    """Sign an answer to `request`: `(statement, exact bytes, signature, person)`.

    `decision` is "approve" or "reject". The key must be an approver's; nothing is written.
    Raises ApprovalInvalid.
    """
    if decision not in _DECISIONS:
        raise ApprovalInvalid(f"a decision {decision!r}", expected=" or ".join(_DECISIONS))
    if not timedelta() < lifetime <= LONGEST:
        raise ApprovalInvalid(
            f"a lifetime of {lifetime}", expected=f"more than none, at most {LONGEST.days} days"
        )
    person = approvers.holder(signature.public_key(key), at=at)
    if role is not None and role not in person.roles:
        raise ApprovalInvalid(
            f"{person.name} does not hold the role {role!r}", expected=", ".join(person.roles)
        )
    content = _statement(
        request.binding()
        | {
            "decision": decision,
            "approver": person.name,
            "role": role or person.roles[0],
            "policy": approvers.digest,
            "issued_at": instant(at),
            "expires_at": instant(at + lifetime),
            "nonce": secrets.token_hex(16),
            "comment": comment,
        },
    )
    body = canonical(content)
    signed = signature.sign(key, body)
    return content, body, signed, person


def _statement(says: Mapping[str, Any]) -> dict[str, Any]:
    return statement("approval", {n: says[n] for n in ("artifact", "evidence")}, says)


@dataclass(frozen=True, kw_only=True, slots=True)
class Approval:
    """A recorded answer and, where it does not count, why."""

    record: Record
    problem: str

    @property
    def says(self) -> dict[str, Any]:
        return dict.fromkeys(_ANSWER, "") | self.record.predicate


def judge(
    ledger: Ledger, request: Request, approvers: Approvers, *, at: datetime
) -> list[Approval]:
    """Every recorded answer for the requested version and slot, oldest first."""
    promotions = ledger.records(kind="promotion", model=request.model)
    recorded = ledger.records(kind="approval", model=request.model)
    carried = {digest for p in promotions for digest in p.predicate["approvals"]}
    used = {r.predicate["nonce"] for r in recorded if r.hash in carried}
    given, seen = list[Approval](), set[str]()
    for record in reversed(recorded):
        says = record.predicate
        if (says.get("version"), says.get("slot")) != (request.version, request.slot):
            continue
        problem = _problem(record, request, approvers, at)
        if not problem:
            if says["nonce"] in used:
                problem = "it was used by an earlier promotion"
            elif says["nonce"] in seen:
                problem = "it is a copy of an earlier one"
            seen.add(says["nonce"])
        given.append(Approval(record=record, problem=problem))
    return given


def _problem(record: Record, request: Request, approvers: Approvers, at: datetime) -> str:
    if malformed := _malformed(record, request):
        return malformed
    says, recorded = record.predicate, datetime.fromisoformat(record.recorded_at)
    issued = datetime.fromisoformat(says["issued_at"])
    try:
        key = signature.verify(record.signature or "", record.body)
        # The signer states when he signed; the ledger knows when it heard of it.
        person = approvers.holder(key, at=recorded)
        approvers.holder(key, at=issued)
    except ApprovalInvalid as error:
        return error.found
    bound, rejects = request.binding(), says["decision"] == "reject"
    for name in _REJECTED if rejects else bound:
        wanted = bound[name]
        if says[name] != wanted:
            return f"it is for {name} {_short(says[name])}, not {_short(wanted)}"
    if says["approver"] != person.name:
        return f"it names {says['approver']} but {person.name}'s key signed it"
    # A no stands, whoever changes the approvers file, however long the promotion waits, and
    # whatever the clocks say.
    if rejects:
        return ""
    if issued > min(recorded, at) + SKEW:
        return "it was signed in the future"
    # The gate statement's hash, which is signed, proves the order; clocks may differ.
    if issued < datetime.fromisoformat(request.gated_at) - SKEW:
        return "it was signed before the evaluation that it is for"
    return _no_approval(says, person, key, request, approvers, at)


def _malformed(record: Record, request: Request) -> str:
    says = record.predicate
    if says.keys() != {*request.binding(), *_ANSWER} or record.statement != _statement(says):
        return "it is not of the form that `mlct approve` writes"
    if says["decision"] not in _DECISIONS:
        return f"it says {_short(says['decision'])!r}, not {' or '.join(_DECISIONS)}"
    try:
        if record.body != canonical(record.statement):
            return "its bytes are not canonical"
        times = [says["issued_at"], says["expires_at"]]
        if times != [instant(datetime.fromisoformat(time)) for time in times]:
            return "its times are not UTC instants"
    except (TypeError, ValueError, OverflowError) as error:
        return f"it cannot be read: {error}"
    return ""


def _no_approval(
    says: Mapping[str, Any],
    person: Person,
    key: signature.PublicKey,
    request: Request,
    approvers: Approvers,
    at: datetime,
) -> str:
    issued, expires = (datetime.fromisoformat(says[n]) for n in ("issued_at", "expires_at"))
    if says["policy"] != approvers.digest:
        return f"it is for policy {_short(says['policy'])}, not {_short(approvers.digest)}"
    if says["role"] not in person.roles:
        return f"{person.name} does not hold the role {says['role']!r}"
    if expires - issued > LONGEST:
        return f"it is valid for longer than {LONGEST.days} days"
    if at >= expires:
        return f"it expired at {says['expires_at']}"
    tier = approvers.tiers[request.tier]
    if tier.touch and not key.touched:
        return f"it was signed with a {key.type} key, not with a security key"
    if not tier.author and any(map(person.made, request.authors)):
        return f"{person.name} is the author of this version"
    return ""


def _short(value: Any) -> str:
    return str(value)[:12]


def require(approvals: list[Approval], request: Request, approvers: Approvers) -> list[Approval]:
    """The approvals that carry a promotion. Raises PromotionRefused, saying who is missing."""
    tier = approvers.tiers[request.tier]
    rejected = [a for a in approvals if not a.problem and a.says["decision"] == "reject"]
    if rejected:
        says = rejected[-1].says
        raise PromotionRefused(
            f"{request.model}@{request.version} was rejected by {says['approver']}: "
            f"{says['comment']}",
            expected="no rejection of this evaluation",
            fix="Train and evaluate a new version",
        )
    by_person = {a.says["approver"]: a for a in approvals if not a.problem}
    counted = list(by_person.values())
    roles = {a.says["role"] for a in counted}
    enough = len(counted) >= tier.approvers
    distinct = not tier.distinct_roles or len(roles) >= tier.approvers
    if not (enough and distinct and set(tier.roles) <= roles):
        ignored = "; ".join(
            f"{a.says['approver']}'s {a.says['decision']} does not count: {a.problem}"
            for a in approvals
            if a.problem
        )
        people = f"{tier.approvers} approver{'s' if tier.approvers > 1 else ''}"
        raise PromotionRefused(
            f"{request.model}@{request.version} has "
            + (
                ", ".join(f"{a.says['approver']} ({a.says['role']})" for a in counted)
                or "nobody's approval"
            )
            + (f"; {ignored}" if ignored else ""),
            expected=f"{people} for risk tier {request.tier!r}"
            + (" in distinct roles" if tier.distinct_roles else "")
            + (f", one each as {' and '.join(tier.roles)}" if tier.roles else "")
            + (", with security keys" if tier.touch else "")
            + ("" if tier.author else ", not the author"),
            fix=f"Ask for `mlct approve {request.model}@{request.version} --key FILE`",
        )
    return counted
