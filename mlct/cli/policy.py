"""`mlct policy`: which approvers file counts, and putting another one in force."""

from typing import Any

from mlct.adapters.home import Home
from mlct.cli.answers import pairs, table
from mlct.errors import ApprovalInvalid
from mlct.release.approval import policy
from mlct.release.approval.approvers import Approvers

Answer = tuple[Any, str]


def pinned(home: Home, approvers: Approvers, actor: str) -> str:
    """Pin the file at its first use, and say so; refuse to sign under one that is not in force.

    Raises ApprovalInvalid.
    """
    known = policy.in_force(home.ledger) is not None
    current = policy.pin(home.ledger, approvers, actor=actor)
    if current.approvers.digest != approvers.digest:
        raise ApprovalInvalid(
            f"the approvers file {approvers.digest[:12]} is not in force",
            expected=f"{current.approvers.digest[:12]} of statement {current.record.sequence}",
            fix="Put the file back, or have the change signed: `mlct policy sign --key FILE`",
        )
    if known:
        return ""
    return (
        f"First use: the approvers file {approvers.digest[:12]} is pinned in the ledger. From now "
        "on a change of it must be signed."
    )


def answer(home: Home, options: Any) -> Answer:
    """`show` or `sign`."""
    return show(home) if options.action == "show" else sign(home, options)


def show(home: Home) -> Answer:
    """The chain of approvers files, and whether the one on disk is in force."""
    try:
        held, problem = home.approvers.digest, ""
    except ApprovalInvalid as error:
        held, problem = None, str(error)
    chain = policy.chain(home.ledger)
    rows = [
        {
            "sequence": p.record.sequence,
            "at": p.record.recorded_at,
            "policy": p.approvers.digest,
            "signers": list(p.signers),
            "comment": p.record.predicate["comment"],
        }
        for p in chain
    ]
    current = chain[-1].approvers if chain else None
    content = {
        "in_force": current.digest if current else None,
        "file": held,
        "problem": problem,
        "governors": [p.name for p in current.governors] if current else [],
        "quorum": policy.quorum(current, home.ledger.clock()) if current else 0,
        "strictest": policy.strictest(current) if current else 0,
        "waiting": {name: list(who) for name, who in policy.waiting(home.ledger).items()},
        "chain": rows,
    }
    return content, _text(content)


def _text(content: dict[str, Any]) -> str:
    if content["in_force"] is None:
        state = "nothing is pinned yet: the first retrain or `mlct approve` pins the file"
    elif content["file"] == content["in_force"]:
        state = "the file is in force"
    else:
        state = "the file is NOT in force: nothing can be promoted until `mlct policy sign`"
    few = (
        f": too few govern for the {content['strictest']} whom a tier asks for"
        if content["quorum"] < content["strictest"]
        else ""
    )
    text = pairs(
        [
            ("in force", content["in_force"]),
            ("file", content["file"] or content["problem"]),
            ("state", state),
            ("may change it", ", ".join(content["governors"])),
            ("signatures", f"{content['quorum']} of these" + few),
            *(
                ("waits", f"{name[:12]}, signed by {', '.join(who)}")
                for name, who in content["waiting"].items()
            ),
        ]
    )
    rows = [
        {
            "AT (UTC)": row["at"][:16].replace("T", " "),
            "STATEMENT": row["sequence"],
            "POLICY": row["policy"][:12],
            "SIGNED BY": ", ".join(row["signers"]) or "nobody: first use",
            "COMMENT": row["comment"],
        }
        for row in content["chain"]
    ]
    return f"{text}\n\n{table(rows)}" if rows else text


def sign(home: Home, options: Any) -> Answer:
    """Put the file on disk in force, by the signature of who governs the one before."""
    if options.key is None:
        raise ApprovalInvalid("no --key", expected="the SSH key of who may change the file")
    changed = policy.change(
        home.ledger,
        home.approvers,
        key=options.key,
        comment=options.comment,
        at=home.ledger.clock(),
    )
    digest, signers = changed.approvers.digest, ", ".join(changed.signers)
    current = policy.in_force(home.ledger)
    content = {
        "recorded": changed.record.sequence,
        "policy": digest,
        "signers": list(changed.signers),
        "in_force": current == changed,
    }
    if current is not None and current != changed:
        wanted = policy.quorum(current.approvers, home.ledger.clock())
        left = [p.name for p in current.approvers.governors if p.name not in changed.signers]
        return content, (
            f"the approvers file {digest[:12]} has {len(changed.signers)} of {wanted} signatures "
            f"({signers}) and is not in force yet: ask {' or '.join(left)} for "
            "`mlct policy sign` of the same file"
        )
    return content, (
        f"the approvers file {digest[:12]} is in force, signed by {signers}. Versions that "
        "wait were evaluated under another one: retrain, then approve"
    )
