"""Objectives that are breached become incidents; those that are met again close them."""

from mlct.adapters.home import Home
from mlct.data.window import duration
from mlct.monitoring.observe import Observation
from mlct.release.incident import close_incident, incidents, open_incident, step
from mlct.spec import ModelSpec

KIND = "slo"


def tell(home: Home, spec: ModelSpec, seen: Observation, *, newest: bool) -> None:
    """Open, or close, an incident for each objective, by the newest window only.

    It pages only for product behaviour, and only while the window is recent: history that is
    measured afterwards wakes nobody.
    """
    if not newest:
        return
    ledger, actor = home.ledger, f"{spec.name}_monitoring"
    age = ledger.clock() - seen.end
    recent = age <= 2 * spec.monitoring.step + duration(spec.windows.label_delay)
    opened = {i.episode: i for i in incidents(ledger, spec.name) if i.kind == KIND and i.open}
    for state in seen.slos:
        found = opened.get(state.name)
        if state.breached:
            open_incident(
                ledger,
                model=spec.name,
                slot=spec.slot,
                kind=KIND,
                episode=state.name,
                summary=state.reason,
                timeline=[step(ledger, state.reason)],
                severity="high" if state.pages else "medium",
                pages=state.pages and recent,
                actor=actor,
            )
        elif found is not None and state.status == "ok":
            close_incident(ledger, found.opened, summary=f"met again: {state.reason}", actor=actor)
