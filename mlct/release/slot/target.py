"""Is a rollback target fit to serve? Looked at before anything moves.

What a version was when it was trained stands in its `training` statement: its smoke rows with their
scores, the version of the feature code and the decision threshold. Model, features and threshold go
back together, or another target is taken.
"""

from collections.abc import Sequence
from typing import Any

from mlct.data import snapshot
from mlct.data.snapshot import Store
from mlct.errors import MlctError, RollbackRefused
from mlct.release.ledger import Ledger
from mlct.training import fit, smoke


def check_target(
    ledger: Ledger,
    store: Store,
    artifact: str,
    *,
    model: str,
    columns: Any = None,
    feature_version: str | None = None,
    trusted: Sequence[str] = (),
) -> dict[str, Any]:
    """What was verified of a version before a slot goes back to it. Raises an MlctError if unfit.

    It was trained with the feature code of now, its bytes hash to `artifact` and load, its features
    are among `columns` (an Arrow schema) with their types, and its smoke rows score as at training,
    bit for bit. `columns` and `feature_version` default to those of the newest training. Versions
    of before smoke rows were kept are judged on the rest, and the result says so.
    """
    trainings = [r.predicate for r in ledger.records(kind="training", model=model)]
    said = next((t for t in trainings if t["artifact"] == artifact), None)
    if said is None:
        raise RollbackRefused(
            f"no training statement of {model} has the bytes {artifact[:12]}",
            expected="one: it says with which features and threshold the model goes",
        )
    version, newest = f"{model}@{said['version']}", trainings[0]
    wanted = newest.get("feature_version", "") if feature_version is None else feature_version
    if said.get("feature_version", "") != wanted:
        raise RollbackRefused(
            f"{version} was trained with feature code {said.get('feature_version', '')!r}",
            expected=f"{wanted!r}, which makes the features now",
            fix="Put that feature code back first, or train a new version",
        )
    try:
        loaded = _load(store, artifact, [*trusted, *said.get("trusted_types", ())], version)
        if columns is None:
            columns = snapshot.find(store, newest["train"]).schema
        fit.encode(columns.empty_table(), loaded.features)
        scored = smoke.check(store, loaded, said["smoke"]) if said.get("smoke") else 0
    except OSError as error:
        raise RollbackRefused(
            f"{version} cannot be read: {error}", expected="an object store that answers"
        ) from error
    return {
        "artifact": artifact,
        "features": len(loaded.features),
        "smoke_rows": scored,
        "feature_version": wanted,
        "threshold": said.get("threshold"),
    }


def _load(store: Store, artifact: str, trusted: Sequence[str], version: str) -> fit.Model:
    files = fit.kept(store, artifact)
    try:
        return fit.unpack(files, trusted=trusted)
    except MlctError:
        raise
    except Exception as error:  # whatever the learner's library raises on what it cannot read
        raise RollbackRefused(
            f"{version} does not load: {error}", expected="a model that this environment reads"
        ) from error
