"""Windows that were measured and whose rows nobody may learn from, whichever version served."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from mlct.data.window import parse_instant
from mlct.defs.assets.monitoring import windows_kept
from mlct.defs.resources import MlctHome
from mlct.monitoring.trigger import WindowResult
from mlct.release.slot import live
from mlct.spec import ModelSpec


def refused_windows(
    mlct: MlctHome, spec: ModelSpec, start: datetime, end: datetime
) -> list[WindowResult]:
    """Those that meet `[start, end)`, oldest first, of every version.

    A window says nothing where the version that served it had learned from it. What people let
    through with the version that is live, they have decided.
    """
    ledger = mlct.home.ledger
    trainings = [r.predicate for r in ledger.records(kind="training", model=spec.name)]
    learned = {t["version"]: parse_instant(t["train_end"]) for t in trainings}
    current = live(ledger, spec.name, spec.slot)
    taken = [t for t in trainings if current is not None and t["version"] == current.version]
    let = {w["key"] for t in taken for w in t.get("refused", ())}
    found = []
    for window in _stored(mlct, spec, start):
        why = next((s["refused"] for s in window["signals"] if s["refused"]), "")
        ended = parse_instant(window["end"])
        after = max(start, learned.get(window["champion"], start))
        meets = parse_instant(window["start"]) < end and ended > after
        if why and meets and window["key"] not in let:
            told = {"key": window["key"], "ended_at": ended, "reason": why, "refused": why}
            found.append(WindowResult(breached=False, **told))
    return found


def told(window: WindowResult) -> str:
    """A refused window in words."""
    return f"the window that ended {window.ended_at:%Y-%m-%d %H:%M} UTC: {window.refused}"


def _stored(mlct: MlctHome, spec: ModelSpec, start: datetime) -> Iterator[dict[str, Any]]:
    """Stored windows, oldest first: those that sensors read each tick, and before them older ones
    where `start` lies further back."""
    kept = windows_kept(mlct, spec)
    if kept and (first := parse_instant(kept[0]["start"])) > start:
        store, place = mlct.home.store, f"documents/{spec.name}/monitoring/windows/"
        for name, digest in sorted(store.refs(place).items()):
            if parse_instant(name.removeprefix(place)) < first:
                window = json.loads(store.get(digest))
                if window["calendar"] == kept[0]["calendar"]:
                    yield window
    yield from kept
