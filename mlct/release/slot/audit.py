"""Does what moved a slot rest on what people signed? For whoever believes no writer of rows."""

from datetime import datetime, timedelta

from mlct.errors import ApprovalInvalid, LedgerTampered, PromotionRefused
from mlct.release.approval import policy
from mlct.release.approval.request import judge, require, slot_key
from mlct.release.ledger import SKEW, Ledger, Record
from mlct.release.slot.promotion import promoted, request
from mlct.release.slot.rollback import STAYS
from mlct.release.slot.state import live, rollback_targets

#: A promotion judges its approvals this long, at most, before its row says when it was.
_MEANWHILE = timedelta(minutes=1)


def require_approved(ledger: Ledger, move: Record) -> None:
    """The rows before a move make it again: the same one, by signatures verified anew.

    A promotion by its request, the approvers file that was in force then and the approvals that
    count by that file, at a time that is not yet to come; a rollback because the slot could go back
    there, by the promotion that it goes back to. What came later changes nothing: neither another
    approvers file nor a quarantine. Promotions of before approvers files were pinned are believed.
    Raises LedgerTampered, or LedgerError where the ledger cannot be read. Costs milliseconds.
    """
    try:
        _require_promotion(ledger, move if move.kind == "promotion" else _origin(ledger, move))
    except (ApprovalInvalid, PromotionRefused, KeyError, TypeError, ValueError) as error:
        raise LedgerTampered(
            f"statement {move.sequence} moves {move.slot} without the approvals for it: {error}",
            expected="a move that the rows before it and their signatures bear out",
            fix="Somebody wrote to the ledger without mlct: roll back, and find out who can",
            sequence=move.sequence,
        ) from error


def _origin(ledger: Ledger, move: Record) -> Record:
    """The promotion that a rollback goes back to."""
    says, then = move.predicate, ledger.before(move)
    current = live(then, says["model"], says["slot"])
    for target in rollback_targets(then, current) if current else ():
        if all(target.predicate[n] == says[n] for n in ("version", *STAYS)):
            return target
    raise ValueError(f"version {says['version']} was no rollback target")


def _require_promotion(ledger: Ledger, move: Record) -> None:
    ledger.require_intact(move)
    says, then = move.predicate, ledger.before(move)
    recorded = datetime.fromisoformat(move.recorded_at)
    if recorded > ledger.clock() + SKEW:
        raise ValueError(f"it says that it was made at {move.recorded_at}: that is yet to come")
    pinned = policy.in_force(then, recorded)
    if pinned is None:
        return
    asked, rules = request(then, says["model"], says["version"], says["slot"]), pinned.approvers
    at = recorded - _MEANWHILE
    wanted = promoted(asked, rules, require(judge(then, asked, rules, at=at), asked, rules))
    place = (slot_key(asked.model, asked.slot), asked.head)
    if (move.slot, move.supersedes) != place or wanted | says != wanted:
        wrong = sorted(n for n in says if says[n] != wanted.get(n))
        raise ValueError(f"its {', '.join(wrong) or 'slot'} are not those of the approvals")
