"""`mlct replay`: what other retrain policies would have done with a model's history."""

import importlib
import json
import os
import sys
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlct.adapters.home import Home
from mlct.data.snapshot import read
from mlct.data.window import duration
from mlct.errors import DataError, SpecError
from mlct.monitoring.trigger import RetrainPolicy
from mlct.spec import ModelSpec

Answer = tuple[Any, str]


def add_options(parser: Any, instant: Any) -> None:
    """What the command takes; `instant` reads a time."""
    parser.add_argument("spec", metavar="MODULE:NAME", help="where the ModelSpec is declared")
    parser.add_argument("--features", type=Path, help="Parquet file or folder, not the store's")
    parser.add_argument("--policies", type=Path, help="JSON file: name to fields of RetrainPolicy")
    parser.add_argument("--step", help="time between decisions (default: Windows.holdout)")
    parser.add_argument("--start", type=instant, help="the first training (ISO 8601)")
    parser.add_argument("--limit", type=float, help="realised or estimated metric that breaches")
    parser.add_argument("--plot", type=Path, help="write the timeline to this PNG file")


def answer(home: Home, options: Any) -> Answer:
    """Every track of the replay, as JSON values and as an aligned table."""
    from mlct.monitoring.replay import replay  # it loads scipy, which no other command needs

    spec = _spec(options.spec)
    (name, (estimator, seed)), *more = spec.candidates.items()
    step = options.step or spec.windows.holdout
    duration(step, field="--step")
    start: datetime | None = options.start
    found = replay(
        _features(home, spec, options.features),
        columns=spec.columns,
        windows=spec.windows,
        estimator=estimator,
        gate=spec.gate,
        policies={"declared": spec.retrain} | _policies(options.policies),
        step=step,
        start=start,
        objectives=spec.slos or (),
        limit=options.limit,
        monitoring=spec.monitoring,
        seed=seed,
    )
    text = f"{spec.name}: {len(found.at) - 1} steps of {step} from {found.at[0]:%Y-%m-%d}"
    if more:
        text += f", candidate {name!r} only"
    if spec.gate.measured:
        text += f"; the gate without {', '.join(sorted(spec.gate.measured))}"
    text += f"\n{found.table()}"
    if options.plot:
        options.plot.write_bytes(found.plot())
        text += f"\nthe timeline is in {options.plot}"
    return found.to_dict(), text


def _spec(target: str) -> ModelSpec:
    module, _, name = target.partition(":")
    # A console script does not look into the working directory by itself.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        spec = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SpecError(
            f"{target!r} cannot be imported: {error}",
            expected="MODULE:NAME of a ModelSpec, such as assets.flight_delay:flight_delay",
            fix="Run the command where `python -c 'import MODULE'` works",
        ) from error
    if not isinstance(spec, ModelSpec):
        raise SpecError(f"{target} is a {type(spec).__qualname__}", expected="a mlct.ModelSpec")
    return spec


def _features(home: Home, spec: ModelSpec, path: Path | None) -> Any:
    if path is not None:
        from mlct.monitoring.replay import read_parquet

        return read_parquet(path)
    place = "/".join(("assets", *(quote(part, safe="") for part in spec.features)))
    stored = {n: d for n, d in home.store.refs(place).items() if n.startswith(f"{place}/@")}
    if not stored:
        raise DataError(
            f"the store of {home.root} has no snapshot of {'/'.join(spec.features)}",
            expected="the feature asset, materialised with the mlct IO manager",
            fix="Materialise it, or name a Parquet file with --features",
        )
    return read(home.store, *(stored[name] for name in sorted(stored))).to_table()


def _policies(path: Path | None) -> dict[str, RetrainPolicy]:
    if path is None:
        return {}
    try:
        told = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} cannot be read: {error}", expected="JSON") from error
    known = {field.name for field in fields(RetrainPolicy)}
    if not isinstance(told, dict) or not all(isinstance(v, dict) for v in told.values()):
        raise SpecError(f"{path} holds {told!r:.80}", expected="names with fields of RetrainPolicy")
    for name, said in told.items():
        if strange := set(said) - known:
            raise SpecError(
                f"policy {name!r} has {', '.join(sorted(strange))}",
                expected=", ".join(sorted(known)),
            )
    return {name: RetrainPolicy(**said) for name, said in told.items()}
