"""Smoke rows: a few rows kept with the scores that the packaged model gave them at training.

A version that scores them as it did then, bit for bit, still is what people approved.
"""

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa

from mlct.data import snapshot
from mlct.data.digest import canonical
from mlct.data.snapshot import Store
from mlct.errors import TrainingError
from mlct.training.fit import Model, fit, pack, unpack

FORMAT = "mlct.smoke/v1"
ROWS = 32


def keep(
    store: Store, files: Mapping[str, bytes], rows: pa.Table, *, trusted: Sequence[str] = ()
) -> str:
    """Store up to 32 of `rows`, evenly taken, with the scores of a packaged model.

    `rows` holds at least the features. Scores are kept as hexadecimal floats, so that equal means
    equal bits. Returns the digest of the document.
    """
    model = unpack(files, trusted=trusted)
    every = max(1, rows.num_rows // ROWS)
    taken = rows.select([f.name for f in model.features]).take(
        pa.array(range(0, rows.num_rows, every)[:ROWS], pa.int64())
    )
    written = snapshot.write(store, taken)
    content = {"format": FORMAT, "rows": written.digest, "scores": _scores(model, taken)}
    return store.put(canonical(content))


def rows(store: Store, digest: str) -> tuple[pa.Table, list[float]]:
    """The rows of a smoke document and their scores at training."""
    told = json.loads(store.get(digest))
    table = snapshot.read(store, told["rows"]).to_table()
    return table, [float.fromhex(score) for score in told["scores"]]


def check(store: Store, model: Model, digest: str) -> int:
    """How many rows a model scores as at training; raises TrainingError unless it is all."""
    table, scores = rows(store, digest)
    wanted = [score.hex() for score in scores]
    wrong = sum(a != b for a, b in zip(_scores(model, table), wanted, strict=True))
    if wrong:
        raise TrainingError(
            f"{wrong} of {len(wanted)} smoke rows score otherwise than at training",
            expected="equal scores, bit for bit",
            fix="Compare the installed packages with the environment of its training",
        )
    return len(wanted)


def dulled(model: Model, table: pa.Table) -> dict[str, bytes]:
    """The files of a model that takes what `model` takes and says the same of every row."""
    from sklearn.dummy import DummyClassifier, DummyRegressor

    labels = pa.array([i % 2 for i in range(table.num_rows)], pa.int64())
    dull = DummyClassifier() if model.task == "binary" else DummyRegressor()
    names = [f.name for f in model.features]
    return pack(fit(dull, table.append_column(model.label, labels), names, model.label))


def _scores(model: Model, table: pa.Table) -> list[str]:
    return [float(score).hex() for score in model.score(table).ravel()]
