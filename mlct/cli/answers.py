"""What the command answers: plain JSON from the ledger, and the same as text for people."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from mlct.errors import MlctError, PromotionRefused
from mlct.release.approval.approvers import Approvers
from mlct.release.approval.request import Approval, Request, require, slot_key
from mlct.release.ledger import Ledger, Record
from mlct.release.slot import Live, live, quarantined, rollback_target, states
from mlct.release.slot import request as requested
from mlct.release.slot.checks import author_is_known


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of one shape as aligned columns."""
    names = list(rows[0])
    cells = [names, *([str(row[n]) for n in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells
    ]
    return "\n".join(lines)


def pairs(content: Iterable[tuple[str, Any]]) -> str:
    """Names and values, aligned; empty values are left out."""
    shown = [(n, str(v)) for n, v in content if v not in (None, "", [])]
    width = max(len(n) for n, _ in shown)
    return "\n".join(f"{n.ljust(width)}  {v}" for n, v in shown)


def _time(text: str) -> str:
    return text[:16].replace("T", " ")


def _known(ledger: Ledger, model: str) -> None:
    models = ledger.models()
    if model not in models:
        raise MlctError(
            f"the ledger knows no model {model!r}",
            expected=", ".join(models) or "a model that was trained at least once",
            fix="Check the name, and that MLCT_HOME points at the right place",
        )


def _training(ledger: Ledger, model: str, version: int) -> dict[str, Any]:
    for record in ledger.records(kind="training", model=model):
        if record.predicate["version"] == version:
            return record.predicate
    known = sorted({r.predicate["version"] for r in ledger.records(kind="training", model=model)})
    raise MlctError(
        f"{model} has no version {version or 'yet'}",
        expected=f"one of {', '.join(map(str, known)) or 'none yet'}",
        fix=f"See `mlct history {model}`",
    )


def _gate(
    ledger: Ledger, model: str, version: int, slot: str, move: Record | None
) -> dict[str, Any] | None:
    """The verdict that the slot's move rested on; before any move, the newest."""
    for record in ledger.records(kind="gate", model=model):
        says = record.predicate
        # What is live is evaluated again by every retrain, against itself.
        right = move is None or says["evidence"] == move.predicate["evidence"]
        if right and (says["version"], says["slot"]) == (version, slot):
            return says
    return None


def status(ledger: Ledger, slot: str) -> list[dict[str, Any]]:
    """One row a model."""
    rows = []
    for model in ledger.models():
        current = live(ledger, model, slot)
        row: dict[str, Any] = {"model": model, "slot": slot, "version": None}
        if current:
            trained = _training(ledger, model, current.version)
            row |= {
                "version": current.version,
                "since": current.since,
                "by": current.move,
                "approved_by": current.record.predicate["approvers"],
                "trained_until": trained["train_end"],
                "rollback_target": rollback_target(ledger, current),
                "quarantined": quarantined(ledger, model).get(current.version),
            }
        rows.append(row | {"waits_for_approval": waiting(ledger, model, slot)})
    return rows


def waiting(ledger: Ledger, model: str, slot: str) -> list[int]:
    """The versions that approvals could carry into the slot now."""
    return [v for v in states(ledger, model, slot) if _waits(ledger, model, v, slot)]


def _waits(ledger: Ledger, model: str, version: int, slot: str) -> bool:
    """Whether approvals could still carry it: not once another version went live."""
    try:
        requested(ledger, model, version, slot)
    except PromotionRefused:
        return False
    return True


def status_text(rows: list[dict[str, Any]], slot: str) -> str:
    if not rows:
        return "the ledger is empty: nothing was trained yet"
    return table(
        [
            {
                "MODEL": row["model"],
                # Another slot's rollback took it out there.
                "LIVE": (f"version {row['version']}" if row["version"] else "nothing")
                + " (quarantined)" * bool(row.get("quarantined")),
                "SINCE (UTC)": _time(row.get("since", "")),
                "BY": row.get("by", ""),
                "APPROVED BY": ", ".join(row.get("approved_by", [])),
                "DATA UNTIL": row.get("trained_until", "")[:10],
                "ROLLS BACK TO": row.get("rollback_target") or "-",
                "WAITS FOR APPROVAL": ", ".join(map(str, row["waits_for_approval"])) or "-",
            }
            for row in rows
        ]
    )


def show(ledger: Ledger, model: str, version: int | None, slot: str) -> dict[str, Any]:
    """One version; by default the live one, else the newest."""
    _known(ledger, model)
    current = live(ledger, model, slot)
    if version is None:
        version = current.version if current else max(states(ledger, model, slot), default=0)
    trained = _training(ledger, model, version)
    moves = [
        r for r in ledger.records(slot=slot_key(model, slot)) if r.predicate["version"] == version
    ]
    gate = _gate(ledger, model, version, slot, moves[0] if moves else None)
    target = rollback_target(ledger, current) if current and current.version == version else None
    return {
        "model": model,
        "version": version,
        "slot": slot,
        "state": states(ledger, model, slot)[version],
        "quarantined": quarantined(ledger, model).get(version),
        "training": trained,
        "verdict": gate["verdict"] if gate else None,
        "reasons": gate["reasons"] if gate else [],
        "evidence": gate["evidence"] if gate else None,
        "approved_by": moves[0].predicate["approvers"] if moves else [],
        "live_since": current.since if current and current.version == version else None,
        "rollback_target": target,
    }


def show_text(content: dict[str, Any]) -> str:
    trained = content["training"]
    commit = trained["code"]["commit"][:12] or "no repository"
    lines = [
        ("version", f"{content['model']}@{content['version']}"),
        ("state", content["state"]),
        ("live since", content["live_since"] and _time(content["live_since"]) + " UTC"),
        ("approved by", ", ".join(content["approved_by"])),
        ("rolls back to", content["rollback_target"]),
        ("quarantined", content["quarantined"]),
        ("verdict", content["verdict"]),
        *(("", reason) for reason in content["reasons"]),
        ("trained on", _data(trained)),
        ("reason", trained["reason"]),
        ("code", commit + (" (dirty)" if trained["code"]["dirty"] else "")),
        ("authors", ", ".join(trained["authors"])),
        ("recipe", trained["recipe"]),
        ("artifact", trained["artifact"]),
        ("evidence", content["evidence"]),
        ("MLflow run", trained["mlflow_run"]),
        ("Dagster run", trained["dagster_run"]),
    ]
    return pairs(lines)


def _data(trained: Mapping[str, Any]) -> str:
    start, end = trained["train_start"][:10], trained["train_end"][:10]
    return f"{trained['rows']:,} rows of [{start}, {end}), digest {trained['train'][:12]}"


def evidence_text(report: Mapping[str, Any]) -> str:
    """The verdict sentence and the table of rules."""
    columns = ("rule", "name", "observed", "required", "outcome")
    rows = [{c.upper(): rule[c] for c in columns} for rule in report["decision"]["rules"]]
    return f"{report['sentence']}\n\n{table(rows)}"


def history(ledger: Ledger, model: str, slot: str) -> list[dict[str, Any]]:
    """Every move of a slot, oldest first."""
    _known(ledger, model)
    return [
        {
            "sequence": record.sequence,
            "at": record.recorded_at,
            "move": record.kind,
            "version": record.predicate["version"],
            "replaces": record.predicate["replaces"],
            "approved_by": record.predicate["approvers"],
            "reason": record.predicate.get("reason", ""),
        }
        for record in reversed(ledger.records(slot=slot_key(model, slot)))
    ]


def history_text(rows: list[dict[str, Any]], model: str, slot: str) -> str:
    if not rows:
        return f"nothing was ever live in {slot!r} of {model}"
    return table(
        [
            {
                "AT (UTC)": _time(row["at"]),
                "MOVE": row["move"],
                "VERSION": row["version"],
                "REPLACES": row["replaces"] or "-",
                "APPROVED BY": ", ".join(row["approved_by"]),
                "REASON": row["reason"],
            }
            for row in rows
        ]
    )


def explain(ledger: Ledger, model: str, slot: str, at: datetime | None) -> dict[str, Any]:
    """What was live at a time, why, and how it differs from the version before it."""
    _known(ledger, model)
    current = live(ledger, model, slot, at=at)
    if current is None:
        when = f"at {at:%Y-%m-%d %H:%M} UTC" if at else "yet"
        raise MlctError(
            f"nothing was live in {slot!r} of {model} {when}", fix=f"See `mlct history {model}`"
        )
    says = current.record.predicate
    before = says["replaces"]
    trained = _training(ledger, model, current.version)
    gate = _gate(ledger, model, current.version, slot, current.record)
    return {
        "model": model,
        "slot": slot,
        "version": current.version,
        "since": current.since,
        "move": current.move,
        "reason": says.get("reason", ""),
        "approved_by": says["approvers"],
        "verdict": gate["reasons"] if gate else [],
        "training": trained,
        "before": before,
        "changed": _changes(_training(ledger, model, before), trained) if before else [],
        "rollback_target": _target_at(ledger, current, at),
    }


def _target_at(ledger: Ledger, current: Live, at: datetime | None) -> int | None:
    return current.rollback_target if at else rollback_target(ledger, current)


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    changes = []
    if old["train"] != new["train"]:
        changes.append(f"data: {_data(old)} -> {_data(new)}")
    if old["code"] != new["code"]:
        commits = (c["code"]["commit"][:12] or "no repository" for c in (old, new))
        changes.append("code: " + " -> ".join(commits))
    names = sorted({*old["environment"], *new["environment"]})
    changes += [
        f"{n}: {old['environment'].get(n, 'absent')} -> {new['environment'].get(n, 'absent')}"
        for n in names
        if old["environment"].get(n) != new["environment"].get(n)
    ]
    if old["recipe"] != new["recipe"] and not changes:
        changes.append("features, parameters or estimator (compare recipe.json of the two runs)")
    return changes


def explain_text(content: dict[str, Any]) -> str:
    name = f"{content['model']}@{content['version']}"
    by = ", ".join(content["approved_by"])
    trained = content["training"]
    told = [
        f"{name} is what {content['slot']!r} serves since {_time(content['since'])} UTC "
        f"(by {content['move']}{': ' + content['reason'] if content['reason'] else ''}).",
        f"Approved by {by}.",
        f"Trained on {_data(trained)}; asked for by: {trained['reason']}.",
    ]
    if content["verdict"]:
        told += ["The gate said:", *(f"  - {reason}" for reason in content["verdict"])]
    if content["before"]:
        told += [f"Changed since version {content['before']}:"]
        told += [f"  - {change}" for change in content["changed"]] or ["  - nothing that made it"]
    else:
        told.append("It was the first version in this slot.")
    target = content["rollback_target"]
    told.append(f"It rolls back to version {target}." if target else "It has no rollback target.")
    return "\n".join(told)


def _given(given: Sequence[Approval]) -> list[dict[str, Any]]:
    return [
        {
            "decision": a.says["decision"],
            "approver": a.says["approver"],
            "role": a.says["role"],
            "counts": not a.problem,
            "problem": a.problem,
            "comment": a.says["comment"],
        }
        for a in given
    ]


def request(asked: Request, report: Mapping[str, Any], given: Sequence[Approval]) -> dict[str, Any]:
    return asked.to_dict() | {"sentence": report["sentence"], "approvals": _given(given)}


def request_text(asked: Request, report: Mapping[str, Any], given: Sequence[Approval]) -> str:
    head = pairs(
        [
            ("request", f"{asked.model}@{asked.version} for slot {asked.slot!r}"),
            ("risk tier", asked.tier),
            ("replaces", f"version {asked.champion}" if asked.champion else "nothing"),
            (
                "rolls back to",
                f"version {asked.rollback_target}" if asked.rollback_target else "nothing",
            ),
            ("trained on", _data(asked.training)),
            ("authors", ", ".join(asked.authors) or "unknown: no git there, and no MLCT_ACTOR"),
            ("artifact", asked.artifact),
            ("evidence", asked.evidence),
        ]
    )
    text = f"{head}\n\n{evidence_text(report)}"
    for answer in _given(given):
        state = "counts" if answer["counts"] else f"does not count: {answer['problem']}"
        text += f"\n{answer['decision']} by {answer['approver']} ({answer['role']}): {state}"
    return text


def unpromotable(asked: Request, approvers: Approvers) -> str:
    """Why no signature can carry it: nobody is known as its author; or nothing."""
    try:
        author_is_known(asked, approvers)
    except PromotionRefused as error:
        return f"{asked.name} cannot be promoted: {error.found}. {error.fix}."
    return ""


def signed_text(
    asked: Request, approvers: Approvers, mine: Approval, given: Sequence[Approval]
) -> str:
    """What happened, and what is still missing."""
    name = f"{asked.model}@{asked.version}"
    head = f"{mine.says['approver']} ({mine.says['role']}) signed: {mine.says['decision']} {name}"
    if mine.problem:
        return f"{head}, but it does not count: {mine.problem}"
    if mine.says["decision"] == "reject":
        return f"{head}. It will not be promoted."
    if missing := unpromotable(asked, approvers):
        return f"{head}, but {missing}"
    try:
        require(list(given), asked, approvers)
    except PromotionRefused as error:
        return f"{head}. Still wanted: {error.expected}."
    chosen = f"version: {asked.version}, slot: {asked.slot}"
    config = f"{{ops: {{{asked.model}_promote: {{config: {{{chosen}}}}}}}}}"
    return (
        f"{head}. Approvals are complete.\nNow launch {asked.model}_promotion in Dagster's "
        f"launchpad with the config\n  {config}\nor by `dagster job execute` with that in a file."
    )
