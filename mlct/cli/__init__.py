"""The `mlct` command: what is live, who approved it, what changed; approve, roll back, verify.

Exit codes: 0 done, 1 refused, 2 wrong usage. Every answer comes from the ledger and the object
store; only commands that touch the alias load MLflow.
"""

import argparse
import difflib
import getpass
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from mlct import __version__
from mlct.adapters.home import Home
from mlct.cli import answers, drill, notify, replay, slo
from mlct.cli import ledger as ledgers
from mlct.cli import policy as policies
from mlct.data.window import duration, parse_instant
from mlct.errors import ApprovalInvalid, LedgerError, MlctError, RegistryError
from mlct.release import slot as slots
from mlct.release.approval import request as approvals
from mlct.release.ledger import NAME

Answer = tuple[Any, str]
#: Commands that ask no ledger.
_ANYWHERE = ("slo", "replay", "notify")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    home = Home.from_environment()
    if options.home:
        home = replace(home, root=options.home)
    try:
        if options.verb not in _ANYWHERE:
            _require_home(home)
        content, text = options.command(home, options)
    except MlctError as error:
        if options.json:
            print(json.dumps({"refused": str(error), "error": type(error).__name__}))
        else:
            print(f"refused: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, EOFError):
        print("refused: nothing was signed or moved", file=sys.stderr)
        return 1
    print(json.dumps(content, indent=2, default=str) if options.json else text)
    return 0


def _require_home(home: Home) -> None:
    """A question asked in the wrong folder must not make an empty ledger there."""
    if not home.ledger_url and not home.path.is_dir():
        raise LedgerError(
            f"{home.path} does not exist",
            expected="the folder in which runs keep the ledger",
            fix="Set MLCT_HOME, or pass --home; the first run of a retrain job makes the folder",
        )


class _Parser(argparse.ArgumentParser):
    """Says of a misspelt word which one is near."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        known = re.findall(r"[\w-]+", wrong[2]) if wrong else []
        near = difflib.get_close_matches(wrong[1], known, 1) if wrong else []
        super().error(message + "".join(f"; did you mean {name!r}?" for name in near))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mlct", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"mlct {__version__}")
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON instead of text")
    common.add_argument("--home", help="where mlct keeps things (default: MLCT_HOME, or .mlct)")
    common.add_argument("--slot", default=slots.SLOT, help="default: %(default)s")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="verb")

    def add(name: str, command: Callable[[Home, Any], Answer], text: str, takes: Any = None) -> Any:
        made = commands.add_parser(name, parents=[common], help=text, description=text)
        made.set_defaults(command=command)
        if takes:
            made.add_argument("model", type=takes, metavar=takes.__doc__)
        return made

    add("status", _status, "what every slot serves")
    show = add("show", _show, "one version: data, code, verdict, approvals", _target)
    show.add_argument("--evidence", action="store_true", help="print the table of rules too")
    add("history", _history, "every move of a slot", _model)
    explain = add("explain", _explain, "what is live, why, and what changed", _model)
    explain.add_argument("--at", type=_instant, help="at an earlier time (ISO 8601)")
    add("request", _request, "what would be approved", _target)
    for decision, text in (("approve", "sign for a version"), ("reject", "sign against a version")):
        made = add(decision, _sign, text, _version)
        made.set_defaults(decision=decision)
        made.add_argument("--key", required=True, type=Path, help="SSH key of an approver")
        made.add_argument("--role", help="the role to sign in (default: the approver's first)")
        made.add_argument("--expires", default="7d", type=_lifetime, help="default: %(default)s")
        made.add_argument("--yes", action="store_true", help="do not ask")
        reason = "--comment" if decision == "approve" else "--reason"
        made.add_argument(reason, dest="comment", default="", required=decision == "reject")
    rules = add("policy", policies.answer, "which approvers file counts; put another in force")
    rules.add_argument("action", choices=("show", "sign"))
    rules.add_argument("--key", type=Path, help="sign: SSH key of who may change the file")
    rules.add_argument("--comment", default="", help="sign: why")
    back = add("rollback", _rollback, "re-point the slot to its rollback target", _model)
    back.add_argument("--reason", required=True)
    back.add_argument("--yes", action="store_true", help="do not ask")
    game = add("drill", drill.drill, "play rollbacks on a stage, with faults", _model)
    game.add_argument("--scenario", choices=drill.SCENARIOS, help="default: all of them")
    game.add_argument("--bar", default="5m", help="longest rollback (default: %(default)s)")
    add("reconcile", _reconcile, "repair MLflow's alias from the ledger", _model)
    seal = add("checkpoint", ledgers.sign, "sign for the ledger as it stands, to keep elsewhere")
    seal.add_argument("--key", required=True, type=Path, help="ed25519 key file, no passphrase")
    seal.add_argument("--to", help="folder, git repository or URL (default: MLCT_CHECKPOINT)")
    seal.add_argument("--origin", default=NAME, help="name of the ledger (default: %(default)s)")
    whole = add("verify", ledgers.verify, "check the ledger's chain and the live models' bytes")
    whole.add_argument("--checkpoint", help="compare with these (default: MLCT_CHECKPOINT)")
    whole.add_argument("--key", help="verifier key or its file (default: MLCT_CHECKPOINT_KEY)")
    tell = add("notify", notify.answer, "who is told of incidents, and what did not arrive")
    tell.add_argument("--test", action="store_true", help="send a test to each, paging too")
    played = add("replay", replay.answer, "what retrain policies would have done with history")
    replay.add_options(played, _instant)
    promised = add("slo", slo.answer, "which rules the objectives of a model compile to")
    promised.add_argument("action", choices=("explain",))
    promised.add_argument("target", metavar="FILE_OR_MODEL")
    return parser


def _target(text: str) -> tuple[str, int | None]:
    """MODEL[@VERSION]"""
    found = re.fullmatch(r"([^@]+)(?:@([0-9]+))?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not MODEL or MODEL@VERSION")
    return found[1], int(found[2]) if found[2] else None


def _model(text: str) -> tuple[str, None]:
    """MODEL"""
    model, version = _target(text)
    if version is not None:
        raise argparse.ArgumentTypeError(f"{text!r} is not MODEL: this command picks the version")
    return model, None


def _version(text: str) -> tuple[str, int]:
    """MODEL@VERSION"""
    model, version = _target(text)
    if version is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not MODEL@VERSION: name what you sign for")
    return model, version


def _instant(text: str) -> datetime:
    try:
        return parse_instant(text)
    except MlctError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _lifetime(text: str) -> timedelta:
    try:
        return duration(text, field="--expires")
    except MlctError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _actor() -> str:
    return f"cli:{os.environ.get('MLCT_ACTOR') or getpass.getuser()}"


def _status(home: Home, options: Any) -> Answer:
    rows = answers.status(home.ledger, options.slot)
    return rows, answers.status_text(rows, options.slot)


def _show(home: Home, options: Any) -> Answer:
    model, version = options.model
    content = answers.show(home.ledger, model, version, options.slot)
    text = answers.show_text(content)
    if options.evidence and content["evidence"]:
        report = json.loads(home.store.get(content["evidence"]))
        content["report"] = report
        text += "\n\n" + answers.evidence_text(report)
    return content, text


def _history(home: Home, options: Any) -> Answer:
    rows = answers.history(home.ledger, options.model[0], options.slot)
    return rows, answers.history_text(rows, options.model[0], options.slot)


def _explain(home: Home, options: Any) -> Answer:
    content = answers.explain(home.ledger, options.model[0], options.slot, options.at)
    return content, answers.explain_text(content)


def _request(home: Home, options: Any) -> Answer:
    model, version = options.model
    if version is None:
        # A version that waits, before a newer one that the gate refused.
        version = max(answers.waiting(home.ledger, model, options.slot), default=None)
    asked = slots.request(home.ledger, model, version, options.slot)
    report = json.loads(home.store.get(asked.evidence))
    text, given = "", list[approvals.Approval]()
    try:
        given = approvals.judge(home.ledger, asked, home.approvers, at=home.ledger.clock())
        if missing := answers.unpromotable(asked, home.approvers):
            text = f"\n\n{missing}"
    except ApprovalInvalid as error:  # the first thing that a newcomer asks, before there is one
        text = f"\n\nNobody can approve it yet: {error}"
    return answers.request(asked, report, given), answers.request_text(asked, report, given) + text


def _sign(home: Home, options: Any) -> Answer:
    model, version = options.model
    asked = slots.request(home.ledger, model, version, options.slot)
    report = json.loads(home.store.get(asked.evidence))
    if not options.json:
        print(answers.request_text(asked, report, []), end="\n\n")
    approvers = home.approvers
    first = policies.pinned(home, approvers, _actor())
    if first and not options.json:
        print(first, end="\n\n")
    _confirm(options, f"{options.decision.capitalize()} {model}@{asked.version}?")
    content, body, signature, person = approvals.decide(
        asked,
        approvers,
        decision=options.decision,
        key=options.key,
        comment=options.comment,
        at=home.ledger.clock(),
        lifetime=options.expires,
        role=options.role,
    )
    if options.decision == "approve":
        # Before the approval is on record: what was approved can be loaded from then on, whatever
        # happens to MLflow's artifact or to what training wrote.
        home.keep_approved(asked.artifact)
    record = home.ledger.append(content, actor=person.name, signature=signature, body=body)
    given = approvals.judge(home.ledger, asked, approvers, at=home.ledger.clock())
    mine = next(a for a in given if a.record.sequence == record.sequence)
    result = {"recorded": record.sequence, "approver": person.name, "counts": not mine.problem}
    return result | {"problem": mine.problem}, answers.signed_text(asked, approvers, mine, given)


def _rollback(home: Home, options: Any) -> Answer:
    model, _ = options.model
    current = slots.live(home.ledger, model, options.slot)
    target = slots.rollback_target(home.ledger, current) if current else None
    if current and target:
        _confirm(options, f"Roll {model} back from version {current.version} to {target}?")
    from mlct.adapters.rollback import take_back

    behind = ""
    try:
        take_back(
            home,
            model=model,
            reason=options.reason,
            actor=_actor(),
            slot=options.slot,
            version=current.version if current else None,
        )
    except RegistryError as error:
        # The ledger moves first: a second rollback would go back one version too far.
        behind = f"\n(MLflow stayed behind, run `mlct reconcile {model}` when it is back: {error})"
    record = home.ledger.records(slot=approvals.slot_key(model, options.slot), limit=1)[0]
    says = record.predicate
    text = (
        f"{model}@{says['version']} is live in {options.slot!r}; version {says['from']} is "
        f"quarantined: {options.reason}{behind}{_show_in_dagster(model, record)}"
    )
    return record.to_dict(), text


def _show_in_dagster(model: str, record: Any) -> str:
    """Nothing, or why Dagster's UI does not show the move."""
    if not os.environ.get("DAGSTER_HOME"):
        return "\n(DAGSTER_HOME is not set: the Dagster UI was not told)"
    from mlct.defs.assets.champion import report

    problem = report(model, record)
    return f"\n(the Dagster UI was not told: {problem})" if problem else ""


def _reconcile(home: Home, options: Any) -> Answer:
    model, _ = options.model
    found = slots.reconcile(home.ledger, home.promoter, model, options.slot, actor=_actor())
    if not found.found:
        agrees = f"alias {options.slot!r} of {model} is on version {found.after}"
        text = (
            f"nothing is live in {options.slot!r} of {model}: no alias to repair"
            if found.ledger is None
            else f"{agrees}, as the ledger says"
        )
        return found.to_dict(), text
    now = "is gone" if found.after is None else f"points at version {found.after} again"
    text = f"{found.found}; it {now}"
    if found.incident is not None:
        text += f"\n(somebody moved it by hand: incident {found.incident.sequence})"
    if found.record is not None:
        text += _show_in_dagster(model, found.record)
    return found.to_dict(), text


def _confirm(options: Any, question: str) -> None:
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise ApprovalInvalid(
            "nobody is there to answer (standard input is not a terminal)",
            expected="a person, or --yes",
        )
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise KeyboardInterrupt
