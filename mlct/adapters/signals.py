"""Signals of what is live, reported window by window, and kept beside the other documents.

Whoever serves or scores reports; nothing here decides. One small document holds the last windows of
one signal of one slot, so that a tick of the sensor costs one read a signal.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from math import isfinite
from typing import Any

from mlct.adapters.home import Home
from mlct.data.digest import canonical
from mlct.data.window import as_utc, parse_instant
from mlct.errors import DataError, SnapshotCorrupted, SnapshotMissing
from mlct.monitoring.breach import KEEP, RollbackPolicy, SignalWindow
from mlct.monitoring.slo import Objective, SloWindow
from mlct.release.ledger import instant
from mlct.release.slot import SLOT, live

FORMAT = "mlct.signal/v1"
#: What `m/monitoring` stores are signals too, beside its metrics by their names.
DRIFT, SLO_BREACHES = "max_psi", "slo_breaches"
_SKEW = timedelta(minutes=5)
_log = logging.getLogger("mlct.signals")


def report_signal(
    *,
    model: str,
    name: str,
    value: float | None,
    samples: int,
    window_end: datetime,
    window_start: datetime | None = None,
    version: int | None = None,
    slot: str = SLOT,
    home: Home | None = None,
) -> bool:
    """Report what a signal was in one window, for `RollbackPolicy`; says whether anything is new.

    `value` is None (or NaN) where nothing could be measured, `samples` how many observations it
    rests on, `version` what served them (by default what is live now). Windows may come late and
    out of order. The same window again replaces what was said of it; the last 60 windows are kept,
    older ones are dropped. One reporter a signal: replicas add up first. Costs milliseconds and no
    row of the ledger. Raises DataError for what is no report, or comes from the future.
    """
    home = home or Home.from_environment()
    now, end = home.ledger.clock(), as_utc(window_end)
    start = None if window_start is None else as_utc(window_start)
    current = live(home.ledger, model, slot)
    version = version if version is not None or current is None else current.version
    for wrong, found, expected in (
        # They become parts of a path.
        (not re.fullmatch(r"[\w-]+@[\w-]+", f"{model}@{slot}"), f"{slot!r} of {model!r}", "names"),
        (version is None, f"nothing is live in {slot!r} of {model}", "a promoted version"),
        (not isinstance(samples, int) or samples < 0, f"{samples!r} samples", "a count"),
        (end > now + _SKEW, f"a window that ends at {instant(end)}", "one that has ended"),
        (start is not None and start >= end, f"a window from {start} to {end}", "start before end"),
        (not name.replace("_", "a").isalnum(), f"a signal {name!r}", "letters, digits and '_'"),
    ):
        if wrong:
            raise DataError(
                f"signal {name!r}: {found}", expected=expected, fix="Correct who reports it"
            )
    number = None if value is None or not isfinite(value) else float(value)
    window = {"version": version, "end": instant(end), "value": number, "samples": samples}
    window |= {"start": None if start is None else instant(start)}
    place = f"documents/{model}/signals/{slot}/{name}"
    with alone(home):
        kept = _stored(home, place)
        same = [w for w in kept if (w["version"], w["end"]) == (version, window["end"])]
        if same and all(same[0][k] == window[k] for k in window):
            return False
        others = [w for w in kept if w not in same]
        both = [*others, window | {"reported_at": instant(now)}]
        windows = sorted(both, key=lambda w: w["end"])[-KEEP:]
        content = {"format": FORMAT, "model": model, "slot": slot, "name": name, "windows": windows}
        home.store.set_ref(place, home.store.put(canonical(content)))
    return window["end"] >= windows[0]["end"]


def stored_signals(
    home: Home, model: str, slot: str, policy: RollbackPolicy
) -> Mapping[str, Sequence[SignalWindow]]:
    """The kept windows of every signal that a policy names."""
    found: dict[str, Sequence[SignalWindow]] = {}
    for signal in policy.signals:
        kept = _stored(home, f"documents/{model}/signals/{slot}/{signal.name}")
        kept = [*kept, *_monitored(home, model, slot, signal.name)]
        found[signal.name] = [_window(w) for w in kept]
    return found


def alone(home: Home) -> AbstractContextManager[Any]:
    """One writer at a time on this machine: a document is read, changed and written."""
    if not home.path.is_dir():
        return nullcontext()
    import filelock

    return filelock.FileLock(home.path / "signals.lock", timeout=10)


def _stored(home: Home, place: str) -> list[dict[str, Any]]:
    digest = home.store.ref(place)
    if not digest:
        return []
    try:
        windows: list[dict[str, Any]] = json.loads(home.store.get(digest))["windows"]
    except (SnapshotMissing, SnapshotCorrupted) as error:  # the other signals still count
        _log.warning("%s begins anew: %s", place, error)
        return []
    return windows


def _monitored(home: Home, model: str, slot: str, name: str) -> list[dict[str, Any]]:
    """The windows of `m/monitoring`, which watches one slot, as reports of its largest stability
    index, or of a metric.

    One whose labels are not there yet is no silence: it would hide those before it for ever.
    """
    found = []
    for window in _stored(home, f"documents/{model}/monitoring/newest"):
        if window.get("slot", SLOT) != slot:  # they are of other rows
            continue
        value, samples = window["values"].get(name, (None, 0))
        if name == DRIFT:
            value, samples = window["max_psi"], window["rows"]
        elif value is None and window["until"] is not None:
            continue
        found.append(
            {"version": window["champion"], "value": value, "samples": samples}
            | {"start": window["start"], "end": window["end"], "reported_at": window["end"]}
        )
    return found


def reported_windows(
    home: Home, model: str, slot: str, objectives: Sequence[Objective]
) -> dict[str, list[SloWindow]]:
    """What was reported under the names of the objectives' metrics, by indicator: a latency, or
    the share of good events among the samples."""
    found: dict[str, list[SloWindow]] = {}
    for objective in objectives:
        place = f"documents/{model}/signals/{slot}/{objective.metric}"
        for told in _stored(home, place) if objective.metric else ():
            window = _window(told)
            if window.start is None or window.value is None:
                continue
            told_of: dict[str, Any] = {"value": window.value, "samples": window.samples}
            if objective.ratio:
                told_of = {"good": window.value * window.samples, "total": window.samples}
            found.setdefault(objective.indicator, []).append(
                SloWindow(start=window.start, end=window.end, **told_of)
            )
    return found


def _window(told: Mapping[str, Any]) -> SignalWindow:
    return SignalWindow(
        version=told["version"],
        end=parse_instant(told["end"]),
        value=told["value"],
        samples=told["samples"],
        reported_at=parse_instant(told["reported_at"]),
        start=None if told["start"] is None else parse_instant(told["start"]),
    )
