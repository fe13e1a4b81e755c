"""Drills and game days: real faults on a stage, against the code that rolls production back.

A stage is an installation of its own below a temporary folder: its ledger and its slot `drill` are
thrown away, its models and its MLflow are the real ones. A scenario that damages files works on
copies of them.
"""

import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlct.adapters.home import Home
from mlct.adapters.rollback import act
from mlct.adapters.signals import report_signal
from mlct.data import snapshot
from mlct.data.window import duration
from mlct.errors import MlctError, RegistryError, RollbackRefused
from mlct.monitoring.breach import RollbackPolicy, Signal
from mlct.release.drill import DRILL, ROLLBACK, SCENARIOS, Outcome, chain, record_drill, rehearse
from mlct.release.incident import incidents
from mlct.release.ledger import Record
from mlct.release.slot import live, project
from mlct.training import fit, smoke

ACTOR = "mlct:drill"
_SIGNAL = "drill_divergence"
_POLICY = RollbackPolicy(signals=[Signal(_SIGNAL, max=0.0)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Where one scenario plays: the real installation, the stage, and the chain, newest first."""

    real: Home
    home: Home
    model: str
    played: list[Record]
    trainings: Mapping[int, Mapping[str, Any]]

    @property
    def versions(self) -> list[int]:
        return [p.predicate["version"] for p in self.played]


@contextmanager
def _stage(real: Home, model: str, slot: str, *, copied: bool) -> Iterator[Stage]:
    played = chain(real.ledger, model, slot)
    records = real.ledger.records(kind="training", model=model)
    trainings = {r.predicate["version"]: r.predicate for r in reversed(records)}
    with tempfile.TemporaryDirectory(prefix="mlct-drill-") as folder:
        # All of it anew: nothing of the real home but what is read, and the registry.
        home = Home(
            root=folder,
            objects=f"{folder}/store" if copied else real.objects or str(real.path / "store"),
            tracking_uri=real.registry.tracking_uri,
            promotion_uri=real.promotion_uri,
        )
        made = Stage(real=real, home=home, model=model, played=played, trainings=trainings)
        if copied:
            _copy(made, records[0].predicate)
        yield made


def _copy(stage: Stage, newest: Mapping[str, Any]) -> None:
    """The objects that serving and checking the chain take."""
    store = stage.real.store
    wanted = [newest["train"]]
    for version in stage.versions:
        said = stage.trainings[version]
        wanted += [said["artifact"], *json.loads(store.get(said["artifact"])).values()]
        if kept := said.get("smoke"):
            rows = json.loads(store.get(kept))["rows"]
            wanted += [kept, rows, *snapshot.find(store, rows).parts]
    for digest in wanted:
        stage.home.store.put(store.get(digest))


def _play(stage: Stage, changed: Mapping[str, Any] | None) -> None:
    """Put the chain on the stage and its newest version live, MLflow's alias too."""
    trainings = dict(stage.trainings)
    newest = list(trainings)[-1]
    if changed:
        trainings[stage.versions[0]] = changed
    wanted = [trainings[v] for v in trainings if v in (*stage.versions, newest)]
    rehearse(stage.played, wanted, stage.home.ledger, actor=ACTOR)
    project(stage.home.ledger, stage.home.promoter, stage.model, DRILL, actor=ACTOR)


def _target(stage: Stage) -> Mapping[str, Any]:
    return stage.trainings[stage.versions[1]]


def _object(stage: Stage, digest: str) -> Path:
    return Path(stage.home.root, "store", "objects", digest[:2], digest)


def _corrupt(stage: Stage) -> None:
    """One bit of the target's learner is another one."""
    manifest = json.loads(stage.home.store.get(_target(stage)["artifact"]))
    path = _object(stage, next(d for n, d in manifest.items() if n != fit.SERVING))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _lose(stage: Stage) -> None:
    """Somebody cleaned the target's files away."""
    _object(stage, _target(stage)["artifact"]).unlink()


def _drop_column(stage: Stage) -> None:
    """The feature asset has lost a column that the target learned from."""
    path = _target(stage).get("features")
    if not path:
        raise RollbackRefused(
            f"the training of version {stage.versions[1]} does not name its feature asset",
            expected="a version trained by this mlct",
        )
    lost = _features(stage.home, _target(stage)["artifact"])[0]
    schema = snapshot.find(stage.home.store, list(stage.trainings.values())[-1]["train"]).schema
    left = schema.empty_table().drop_columns([lost])
    ref = "/".join(["assets", *(quote(part, safe="") for part in path), "@"])
    stage.home.store.set_ref(ref, snapshot.write(stage.home.store, left).digest)


def _degrade(stage: Stage) -> Mapping[str, Any]:
    """What is live says the same of every row."""
    said, store = stage.trainings[stage.versions[0]], stage.home.store
    if not said.get("smoke"):
        raise RollbackRefused(
            f"version {said['version']} has no smoke rows to see it by",
            expected="a version trained by this mlct",
        )
    model = fit.unpack(fit.kept(store, said["artifact"]), trusted=said["trusted_types"])
    files = smoke.dulled(model, smoke.rows(store, said["smoke"])[0])
    return {**said, "artifact": fit.keep(store, files)}


def _features(home: Home, artifact: str) -> list[str]:
    serving = json.loads(fit.kept(home.store, artifact)[fit.SERVING])
    return [f["name"] for f in serving["features"]]


@contextmanager
def _registry_down(stage: Stage) -> Iterator[Home]:
    """The same stage in front of a port that refuses."""
    with socket.socket() as bound:  # bound and not listening: nobody else can answer there
        bound.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{bound.getsockname()[1]}"
        yield replace(stage.home, tracking_uri=uri, promotion_uri="")


def _next_fit(stage: Stage, name: str) -> int | None:
    """The version that a rollback past a damaged first target should reach; None for nowhere."""
    if name != "bad-features":
        return stage.versions[2] if len(stage.versions) > 2 else None
    lost = _features(stage.home, _target(stage)["artifact"])[0]
    for version in stage.versions[1:]:
        if lost not in _features(stage.home, stage.trainings[version]["artifact"]):
            return version
    return None


#: What each scenario does to the stage. `_degrade` gives what the newest version is instead.
_FAULTS: Mapping[str, Callable[[Stage], Mapping[str, Any] | None]] = {
    ROLLBACK: lambda stage: None,
    "corrupted-artifact": _corrupt,
    "missing-target": _lose,
    "registry-down": lambda stage: None,
    "bad-features": _drop_column,
    "degraded-model": _degrade,
}


def drill(
    home: Home, *, model: str, slot: str, scenario: str = ROLLBACK, bar: str = "5m"
) -> Outcome:
    """Play one scenario on a stage and record what came of it; nothing moves in production.

    `bar` is the longest that it may take from the reported breach until what is live is loaded and
    scores. Only versions that people approved are played. Raises RollbackRefused where there is
    nothing to go back to, and for a scenario that is none.
    """
    if scenario not in SCENARIOS:
        raise RollbackRefused(f"no scenario {scenario!r}", expected=", ".join(SCENARIOS))
    longest = duration(bar, field="bar").total_seconds()
    with _stage(home, model, slot, copied=scenario != ROLLBACK) as stage:
        # Before the fault: afterwards nobody can read what it damaged.
        reach = stage.versions[1]
        nowhere = None if scenario in (ROLLBACK, "registry-down", "degraded-model") else True
        wanted = _next_fit(stage, scenario) if nowhere else reach
        expected = _expected(scenario, stage.versions[0], wanted, longest)
        try:
            _play(stage, _FAULTS[scenario](stage))
            outcome = _run(stage, scenario, wanted, expected, longest)
        except MlctError as error:
            outcome = Outcome(
                scenario=scenario,
                expected=expected,
                observed=f"{type(error).__name__}: {error}",
                passed=False,
                seconds=0.0,
            )
        finally:
            home.promoter.delete_alias(model, DRILL)
    record_drill(home.ledger, outcome, model=model, slot=slot, bar=longest, actor=ACTOR)
    return outcome


def _expected(scenario: str, live_version: int, wanted: int | None, longest: float) -> str:
    if wanted is None:
        return f"refused with version {live_version} still live, and an incident that pages"
    alias = "the alias repaired once MLflow answers" if scenario == "registry-down" else "its alias"
    return f"version {wanted} is served, {alias}, nobody paged, within {longest:g} s"


def _run(stage: Stage, scenario: str, wanted: int | None, expected: str, longest: float) -> Outcome:
    home, model = stage.home, stage.model
    began = time.monotonic()
    report_signal(
        home=home,
        model=model,
        slot=DRILL,
        name=_SIGNAL,
        value=_divergence(stage) if scenario == "degraded-model" else 1.0,
        samples=smoke.ROWS,
        window_end=home.ledger.clock(),
    )
    told = ""
    try:
        if scenario == "registry-down":
            with _registry_down(stage) as down:
                act(down, model=model, slot=DRILL, policy=_POLICY, actor=ACTOR)
        else:
            act(home, model=model, slot=DRILL, policy=_POLICY, actor=ACTOR)
    except (RegistryError, RollbackRefused) as error:
        told = f"; {type(error).__name__}"
    current = live(home.ledger, model, DRILL)
    assert current is not None, "a slot never empties"
    served = _serves(stage, current.artifact) if current.version == wanted else wanted is None
    seconds = time.monotonic() - began
    if scenario == "registry-down":
        served &= home.registry.alias(model, DRILL) == stage.versions[0]
        project(home.ledger, home.promoter, model, DRILL, actor=ACTOR)
    paged = any(i.pages for i in incidents(home.ledger, model))
    alias = home.registry.alias(model, DRILL)
    right = wanted if wanted is not None else stage.versions[0]
    passed = served and alias == current.version == right and paged == (wanted is None)
    return Outcome(
        scenario=scenario,
        expected=expected,
        observed=f"version {current.version} is live, alias on {alias}, "
        + ("paged" if paged else "nobody paged")
        + ("" if served else ", but what is live does not score as it should")
        + f"{told}, {seconds:.2f} s",
        passed=passed and seconds <= longest,
        seconds=seconds,
    )


def _divergence(stage: Stage) -> float:
    """Mean distance of what is live from the smoke scores of its training."""
    current = live(stage.home.ledger, stage.model, DRILL)
    assert current is not None, "a slot never empties"
    said = stage.trainings[current.version]
    loaded = fit.unpack(fit.kept(stage.home.store, current.artifact))
    table, scores = smoke.rows(stage.home.store, said["smoke"])
    found = loaded.score(table).tolist()
    return sum(abs(a - b) for a, b in zip(found, scores, strict=True)) / len(scores)


def _serves(stage: Stage, artifact: str) -> bool:
    """Whether what is live loads, as a loader does it, and scores as at its training."""
    said = next(t for t in stage.trainings.values() if t["artifact"] == artifact)
    files = fit.kept(stage.home.models, artifact)
    loaded = fit.unpack(files, trusted=said.get("trusted_types", ()))
    kept = said.get("smoke")
    return not kept or smoke.check(stage.home.store, loaded, kept) > 0
