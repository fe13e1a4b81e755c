"""The contract's verdict, asked for wherever the data is about to be used."""

from mlct.errors import ContractNotPassed
from mlct.release.ledger.chain import Ledger
from mlct.release.ledger.statement import Record


def require_contract(ledger: Ledger, *, training_set: str, contract: str) -> Record:
    """The passing verdict of a contract on a training set, by digest. Raises ContractNotPassed.

    Asked wherever the data is about to be used: a check in the UI can be deselected, re-run alone
    or belong to another run.
    """
    verdicts = [
        r
        for r in ledger.records(kind="contract", subject=training_set)
        if r.predicate["contract"] == contract
    ]
    if verdicts and verdicts[0].predicate["passed"]:
        return verdicts[0]
    broken = verdicts[0].predicate["violations"] if verdicts else []
    found = (
        "; ".join(f"{v['column']}: {v['rule']} saw {v['observed']}" for v in broken[:5])
        if verdicts
        else "no verdict of the contract as it stands now"
    )
    raise ContractNotPassed(
        f"training set {training_set[:12]} has {found}",
        expected=f"a passing verdict of contract {contract[:12]} in the ledger",
        fix="Repair the data at its source and materialise training_set again"
        if verdicts
        else "Materialise training_set, whose check records one",
        training_set=training_set,
        violations=broken,
    )
