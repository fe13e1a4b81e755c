"""What a promotion checks, in this order. Each check raises an MlctError, or is passed."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from mlct.data.digest import sha256
from mlct.errors import MlctError, PromotionRefused
from mlct.evaluation.decision import NOT_COMPARED, PASS
from mlct.release.approval import policy
from mlct.release.approval.approvers import Approvers
from mlct.release.approval.deployment import Deployment
from mlct.release.approval.request import Approval, Request, judge, require
from mlct.release.ledger import SKEW, Ledger
from mlct.release.slot.projection import Registry
from mlct.release.slot.state import FALLBACK, banned, live


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt to promote, with all that its checks look at.

    Request and approvals are read from the ledger once: a copy reads them anew.
    """

    ledger: Ledger
    registry: Registry
    approvers: Approvers
    evidence: Callable[[str], bytes]
    verify: Callable[[], object]
    deployment: Deployment
    approved: Callable[[str], object]
    model: str
    version: int
    slot: str
    declared: Mapping[str, str]

    @property
    def name(self) -> str:
        return f"{self.model}@{self.version}"

    @functools.cached_property
    def asked(self) -> Request:
        return Request.of(self.ledger, self.model, self.version, self.slot)

    @functools.cached_property
    def approvals(self) -> list[Approval]:
        """The approvals that carry it. Raises PromotionRefused."""
        given = judge(self.ledger, self.asked, self.approvers, at=self.ledger.clock())
        return require(given, self.asked, self.approvers)


def policy_is_pinned(attempt: Attempt) -> None:
    """The approvers file is the one in force."""
    current = policy.in_force(attempt.ledger)
    held = attempt.approvers.digest
    if current is None:
        raise PromotionRefused(
            f"no approvers file was ever pinned; the one here is {held[:12]}",
            expected="a policy statement in the ledger",
            fix="Sign with `mlct approve`: the first use pins the file",
        )
    if current.approvers.digest != held:
        raise PromotionRefused(
            f"the approvers file is {held[:12]}",
            expected=f"{current.approvers.digest[:12]}, in force by statement "
            f"{current.record.sequence}",
            fix="Put the file back; or have the change signed: `mlct policy sign --key FILE`",
        )


def evidence_agrees(attempt: Attempt) -> None:
    """The evidence, whose digest people signed, itself says what the gate statement says."""
    asked = attempt.asked
    evidence = attempt.evidence(asked.evidence)
    names = ("model", "version", "artifact")
    wanted = {n: getattr(asked, n) for n in names} | {"champion": asked.compared}
    said, verdict = dict[str, Any](), f"other bytes ({sha256(evidence)[:12]})"
    if sha256(evidence) == asked.evidence:
        report = json.loads(evidence)
        said, verdict = {n: report.get(n) for n in wanted}, report["decision"]["verdict"]
    if said != wanted or verdict != asked.verdict:
        raise PromotionRefused(
            f"the evidence {asked.evidence[:12]} says {verdict} about {said}",
            expected=f"{asked.verdict} about {wanted}",
            fix="The gate statement does not come from this evaluation: find out who can write "
            f"to the ledger and the store, then run {attempt.model}_retrain",
        )


def evidence_was_made_under_this_policy(attempt: Attempt) -> None:
    """No other approvers file was in force when the version was evaluated."""
    asked, current = attempt.asked, policy.in_force(attempt.ledger)
    # Before its first use there is no file that could have been weakened since.
    first_use = asked.policy is None and current is not None and current.first
    if asked.policy != attempt.approvers.digest and not first_use:
        raise PromotionRefused(
            f"{attempt.name} was evaluated under the approvers file {str(asked.policy)[:12]}",
            expected=f"{attempt.approvers.digest[:12]}, which is in force now",
            fix=f"Run {attempt.model}_retrain, which records the evaluation under it, then approve "
            "again",
        )


def gate_passed(asked: Request) -> None:
    """The verdict is PASS; FAIL and INCONCLUSIVE are not.

    A fallback was compared with nothing: people may approve it for slot `fallback`, and for no
    other.
    """
    marked = bool(asked.training.get("fallback"))
    if marked and asked.slot != FALLBACK:
        raise PromotionRefused(
            f"{asked.name} is a fallback: no gate compared it with anything",
            expected=f"a promotion to slot {FALLBACK!r}",
            fix="Promote a version that the gate passed",
        )
    if asked.verdict != (NOT_COMPARED if marked else PASS):
        raise PromotionRefused(
            f"the gate says {asked.verdict} for {asked.name}: {'; '.join(asked.reasons)}",
            expected=PASS,
            fix="Train a better version, or gather the rows that the gate asks for",
        )


def nothing_is_quarantined(ledger: Ledger, asked: Request) -> None:
    """Neither the version nor its bytes under another number were rolled back."""
    if reason := banned(ledger, asked.model, asked.version, asked.artifact):
        raise PromotionRefused(
            f"{asked.name} is quarantined: {reason}",
            expected="a version that was never rolled back",
            fix="Train a new version",
        )


def evidence_is_fresh(attempt: Attempt) -> None:
    """The evaluation is not older than the tier allows, however often it was recorded again.

    Nor is it of the future: a clock that was ahead would keep it fresh for so long.
    """
    days = attempt.approvers.tiers[attempt.asked.tier].evidence_days
    made = datetime.fromisoformat(attempt.asked.evaluated_at)
    age = attempt.ledger.clock() - made
    if age > timedelta(days=days):
        raise PromotionRefused(
            f"the evidence for {attempt.name} is {age.days} days old",
            expected=f"at most {days} days for risk tier {attempt.asked.tier!r}",
            fix=f"Run {attempt.model}_retrain on the newest data, then approve again",
        )
    if age < -SKEW:
        raise PromotionRefused(
            f"the evidence for {attempt.name} is of {attempt.asked.evaluated_at}, which is to come",
            expected="clocks that agree to five minutes",
            fix="Set this machine's clock; or if theirs was ahead who evaluated, run "
            f"{attempt.model}_retrain on newer data, then approve again",
        )


def required_statements_passed(attempt: Attempt) -> None:
    """Contract and every trial that tier and deployment demand; others do not make up for one."""
    asked, ledger = attempt.asked, attempt.ledger
    demanded = {*attempt.approvers.tiers[asked.tier].requires, *attempt.deployment.requires}
    verdicts = {"contract": False}
    data = asked.training.get("training_set", "")
    for record in ledger.records(kind="contract", model=asked.model, subject=data, limit=1):
        verdicts["contract"] = record.predicate["passed"] is True
    for record in reversed(ledger.records(kind="shadow", model=asked.model)):
        says = record.predicate
        of_this = {"version": asked.version, "slot": asked.slot, "artifact": asked.artifact}
        if {n: says.get(n) for n in of_this} == of_this:
            verdicts[says.get("trial", "shadow")] = says.get("verdict") == "PASS"
    missing = sorted(n for n in {"contract", *demanded} if not verdicts.get(n, False))
    if missing:
        raise PromotionRefused(
            f"{attempt.name} has no passing statement of {', '.join(missing)}",
            expected=f"{', '.join(sorted({'contract', 'gate', *demanded}))} for risk tier "
            f"{asked.tier!r} and slot {asked.slot!r}",
            fix="Run what is missing; nothing else takes its place",
        )


def champion_is_unmoved(ledger: Ledger, asked: Request) -> None:
    """The slot serves what it served when the version was evaluated, by the same statement."""
    current = live(ledger, asked.model, asked.slot)
    head, champion = (current.sequence, current.version) if current else (0, None)
    if current and champion == asked.version:
        raise PromotionRefused(
            f"{asked.name} is live in {asked.slot!r} since {current.since}",
            expected="another version",
        )
    if (head, champion) != (asked.head, asked.champion):
        raise PromotionRefused(
            f"{asked.name} was evaluated against {_champion(asked.champion)}, but "
            f"{asked.slot!r} now serves {_champion(champion)} by statement {head}",
            expected="the champion of the evaluation, unmoved since",
            fix=f"Run {asked.model}_retrain to evaluate it against what is live now, then "
            "approve again",
        )


def _champion(version: int | None) -> str:
    return "nothing" if version is None else f"version {version}"


def deployment_is_unchanged(attempt: Attempt) -> None:
    """Slot, environment, traffic and gateway settings are those of the evaluation."""
    asked, declared = attempt.asked, attempt.deployment.digest(attempt.slot)
    if asked.deployment != declared:
        raise PromotionRefused(
            f"the deployment declared for {attempt.slot!r} is {declared[:12]}",
            expected=f"{str(asked.deployment)[:12]}, which {attempt.name} was evaluated for",
            fix=f"Put the declaration back; or run {attempt.model}_retrain and approve again",
        )


def rules_are_those_declared(attempt: Attempt) -> None:
    """Risk tier, gate and contract of the evaluation are what the spec declares now."""
    asked, ledger = attempt.asked, attempt.ledger
    data = asked.training.get("training_set", "")
    verdicts = ledger.records(kind="contract", model=asked.model, subject=data, limit=1)
    found = {"tier": asked.tier, "gate": asked.rules}
    found |= {"contract": verdicts[0].predicate["contract"] if verdicts else None}
    for name, wanted in attempt.declared.items():
        if found[name] != wanted:
            raise PromotionRefused(
                f"{attempt.name} was evaluated under the {name} {str(found[name])[:12]}",
                expected=f"{wanted[:12]}, which the spec declares now",
                fix=f"Put the declaration back; or run {attempt.model}_retrain and approve again",
            )


def artifact_is_unchanged(attempt: Attempt) -> None:
    """The registry would serve the bytes that were evaluated."""
    held, wanted = attempt.registry.artifact(attempt.model, attempt.version), attempt.asked.artifact
    if held != wanted:
        raise PromotionRefused(
            f"the registry's bytes of {attempt.name} hash to {held}",
            expected=wanted,
            fix="Somebody changed the artifact after its evaluation: train a new version and find "
            "out who can write to the artifact store",
        )


def approved_copy_is_kept(attempt: Attempt) -> None:
    """The bytes that people approved lie, verified, where everything that serves reads them."""
    try:
        attempt.approved(attempt.asked.artifact)
    except MlctError as error:
        raise PromotionRefused(
            f"the approved copy of {attempt.name} cannot be read: {error.found}",
            expected="a copy that hashes to what was approved",
            fix="Approve it again where MLCT_APPROVED can be written: `mlct approve` copies it",
        ) from error


def author_is_known(asked: Request, approvers: Approvers) -> None:
    """Where the author may not approve, somebody must be known as the author."""
    if not asked.authors and not approvers.tiers[asked.tier].author:
        raise PromotionRefused(
            f"nobody is known as the author of {asked.name}",
            expected=f"an author, who may not approve at risk tier {asked.tier!r}",
            fix="Set MLCT_ACTOR, or commit the code to git, then run "
            f"{asked.model}_retrain and approve again: it trains anew what nobody is known to have "
            "trained",
        )


def nothing_is_in_flight(attempt: Attempt) -> None:
    """The alias stands where the ledger says, or nowhere: the last move is done."""
    found, champion = attempt.registry.alias(attempt.model, attempt.slot), attempt.asked.champion
    if found is not None and found != champion:
        raise PromotionRefused(
            f"alias {attempt.slot!r} of {attempt.model} points at version {found}, but "
            f"{_champion(champion)} is live",
            expected="the alias where the ledger says: no other move under way",
            fix=f"Finish or repair it first: `mlct reconcile {attempt.model}`",
        )


@dataclass(frozen=True, slots=True)
class Check:
    """A check by the name that refusals give, and whether the ledger alone answers it."""

    name: str
    look: Callable[[Attempt], object]
    by_ledger: bool = True

    def __call__(self, attempt: Attempt) -> None:
        with asking(self.name):
            self.look(attempt)


@contextmanager
def asking(name: str) -> Iterator[None]:
    """Whatever is raised inside names this check."""
    try:
        yield
    except MlctError as error:
        error.check = error.check or name
        raise


#: The procedure. What the ledger alone answers is asked again in the transaction that moves.
CHECKS = (
    Check("ledger", lambda a: a.verify(), by_ledger=False),
    Check("policy", lambda a: policy_is_pinned(a)),
    Check("evaluated", lambda a: a.asked),
    Check("evidence", lambda a: evidence_agrees(a), by_ledger=False),
    Check("policy-of-evidence", lambda a: evidence_was_made_under_this_policy(a)),
    Check("quarantine", lambda a: nothing_is_quarantined(a.ledger, a.asked)),
    Check("gate", lambda a: gate_passed(a.asked)),
    Check("statements", lambda a: required_statements_passed(a)),
    Check("fresh", lambda a: evidence_is_fresh(a)),
    Check("champion", lambda a: champion_is_unmoved(a.ledger, a.asked)),
    Check("deployment", lambda a: deployment_is_unchanged(a)),
    Check("rules", lambda a: rules_are_those_declared(a)),
    Check("artifact", lambda a: artifact_is_unchanged(a), by_ledger=False),
    Check("author", lambda a: author_is_known(a.asked, a.approvers)),
    Check("approvals", lambda a: a.approvals),
    Check("approved-copy", lambda a: approved_copy_is_kept(a), by_ledger=False),
    Check("in-flight", lambda a: nothing_is_in_flight(a), by_ledger=False),
)
