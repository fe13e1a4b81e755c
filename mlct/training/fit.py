"""scikit-learn and LightGBM fitting from Arrow, and the packaged model that comes out.

A packaged model is two files: `serving.json` (features, types, vocabularies, classes) and the
learner's own data file (LightGBM text, or skops). Neither can run code of its own when it is read:
skops types come from `TRUSTED` and the caller, never from the file.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlct.data.digest import canonical, digest, sha256
from mlct.data.snapshot import Store
from mlct.errors import DataError, TrainingError

FORMAT = "mlct.model/v1"
SERVING = "serving.json"
#: Packages whose types a model file may name; anything else must be in the spec's trusted_types.
TRUSTED = ("sklearn.", "numpy.", "scipy.", "lightgbm.", "collections.OrderedDict")

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """A column as the model knows it; `categories` holds the training vocabulary of a string."""

    name: str
    type: str
    categories: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A fitted model: `score` gives P(second class) or the predicted value, shape (rows,)."""

    kind: str
    task: str
    classes: tuple[Any, ...]
    features: tuple[Feature, ...]
    learner: Any
    label: str

    def score(self, rows: pa.Table) -> Floats:
        """Scores of a table. Raises DataError when a feature is missing or of another kind."""
        if self.kind == "lightgbm":
            return _floats(self.learner.predict(encode(rows, self.features), num_threads=1))
        frame = _frame(rows, self.features)
        if self.task == "binary":
            return _floats(self.learner.predict_proba(frame)[:, 1])
        return _floats(self.learner.predict(frame))

    def score_row(self, row: Mapping[str, Any]) -> float:
        """Score of one row given as a mapping: the online path, without Arrow for LightGBM."""
        if self.kind == "lightgbm":
            cells = np.array([[_code(f, row.get(f.name)) for f in self.features]])
            return float(self.learner.predict(cells, num_threads=1)[0])
        table = pa.table({f.name: pa.array([row.get(f.name)], _arrow(f)) for f in self.features})
        return float(self.score(table)[0])

    def importance(self) -> dict[str, float]:
        """Share of each feature in the fit (gain for LightGBM), summing to 1; {} if unknown."""
        if self.kind == "lightgbm":
            gain = self.learner.feature_importance("gain")
        else:
            gain = getattr(self.learner, "feature_importances_", ())
        if len(gain) != len(self.features) or not sum(gain):
            return {}
        total = float(sum(gain))
        return {f.name: float(g) / total for f, g in zip(self.features, gain, strict=True)}


def _floats(values: Any) -> Floats:
    return np.ascontiguousarray(values, dtype=np.float64)


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(value) or pa.types.is_large_string(value)


def _arrow(feature: Feature) -> pa.DataType:
    return pa.string() if feature.categories is not None else pa.float64()


def _code(feature: Feature, value: Any) -> float:
    if value is None:
        return np.nan
    if feature.categories is None:
        return float(value)
    # Vocabularies are short; unseen values count as missing, as in `encode`.
    return float(feature.categories.index(value)) if value in feature.categories else np.nan


def describe(rows: pa.Table, names: Sequence[str]) -> tuple[Feature, ...]:
    """The features of a training table, with vocabularies. Raises DataError on other types."""
    features = []
    for name in names:
        kind = rows.schema.field(name).type
        if _is_text(kind):
            seen = pc.unique(pc.cast(rows[name], pa.string())).drop_null().to_pylist()
            features.append(Feature(name=name, type="category", categories=tuple(sorted(seen))))
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            features.append(Feature(name=name, type="number"))
        else:
            raise DataError(
                f"feature {name!r} is of type {kind}",
                expected="a number, a bool or a string",
                fix="Turn it into one in the feature asset, or name it in Columns.exclude",
                column=name,
            )
    if not features:
        raise DataError("no column is left as a feature", expected="at least one")
    return tuple(features)


def _columns(rows: pa.Table, features: Sequence[Feature]) -> list[pa.ChunkedArray]:
    missing = [f.name for f in features if f.name not in rows.column_names]
    wrong = [
        f"{f.name} is {rows.schema.field(f.name).type}, the model learned a {f.type}"
        for f in features
        if f.name not in missing
        and _is_text(rows.schema.field(f.name).type) != (f.categories is not None)
        and not pa.types.is_null(rows.schema.field(f.name).type)
    ]
    if missing or wrong:
        raise DataError(
            "; ".join(([f"no column {', '.join(missing)}"] if missing else []) + wrong),
            expected="the columns that the model was trained on",
            fix="Restore them in the feature asset, or train a new version",
            missing=missing,
        )
    return [rows[f.name] for f in features]


def encode(rows: pa.Table, features: Sequence[Feature]) -> pa.Table:
    """Numbers as float64 and categories as their index in the vocabulary (unseen: missing)."""
    encoded = []
    for column, feature in zip(_columns(rows, features), features, strict=True):
        if feature.categories is None:
            encoded.append(pc.cast(column, pa.float64()))
        else:
            text = pc.cast(column, pa.string())
            vocabulary = pa.array(feature.categories, pa.string())
            encoded.append(pc.cast(pc.index_in(text, vocabulary), pa.float64()))
    return pa.table(encoded, names=[f.name for f in features])


def _frame(rows: pa.Table, features: Sequence[Feature]) -> Any:
    columns = [
        pc.cast(column, _arrow(feature))
        for column, feature in zip(_columns(rows, features), features, strict=True)
    ]
    return pa.table(columns, names=[f.name for f in features]).to_pandas()


def fit(estimator: Any, rows: pa.Table, names: Sequence[str], label: str) -> Model:
    """Fit a seeded scikit-learn compatible estimator on `rows`.

    Raises TrainingError when the labels do not fit the estimator and DataError for features that
    cannot be used.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from sklearn.base import is_classifier

    features = describe(rows, names)
    target = rows[label].to_numpy()
    classes: tuple[Any, ...] = ()
    task = "regression"
    if is_classifier(estimator):
        task = "binary"
        levels = np.unique(target)
        classes = tuple(levels.tolist())
        if len(classes) != 2:
            raise TrainingError(
                f"label {label!r} has the values {list(classes)[:5]} in the training window",
                expected="two classes",
                fix="Widen the training window, or use a regressor",
            )
        target = (target == levels[1]).astype(np.int64)
    kind = "lightgbm" if type(estimator).__module__.split(".")[0] == "lightgbm" else "sklearn"
    if kind == "lightgbm":
        codes = [i for i, f in enumerate(features) if f.categories is not None]
        estimator.fit(encode(rows, features), target, categorical_feature=codes)
        learner = estimator.booster_
    else:
        learner = estimator.fit(_frame(rows, features), target)
    return Model(
        kind=kind, task=task, classes=classes, features=features, learner=learner, label=label
    )


def pack(model: Model, *, trusted: Sequence[str] = ()) -> dict[str, bytes]:
    """The files of a model. Raises TrainingError for types that could not be read back."""
    serving = {
        "format": FORMAT,
        "kind": model.kind,
        "task": model.task,
        "classes": list(model.classes),
        "label": model.label,
        "features": [
            {"name": f.name, "type": f.type}
            | ({"categories": list(f.categories)} if f.categories is not None else {})
            for f in model.features
        ],
    }
    if model.kind == "lightgbm":
        files = {"model.txt": model.learner.model_to_string().encode()}
    else:
        import skops.io

        files = {"model.skops": _stable_skops(skops.io.dumps(model.learner))}
        _trusted_types(files["model.skops"], trusted)
    return {SERVING: canonical(serving), **files}


def unpack(files: Mapping[str, bytes], *, trusted: Sequence[str] = ()) -> Model:
    """The model of packaged files, whose digest the caller has verified."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if SERVING not in files:
        raise TrainingError(f"the packaged model has {sorted(files)}", expected=f"a {SERVING}")
    serving = json.loads(files[SERVING])
    if serving.get("format") != FORMAT:
        raise TrainingError(f"the packaged model is {serving.get('format')!r}", expected=FORMAT)
    if serving["kind"] == "lightgbm":
        import lightgbm

        learner = lightgbm.Booster(model_str=files["model.txt"].decode())
    else:
        import skops.io

        data = files["model.skops"]
        learner = skops.io.loads(data, trusted=_trusted_types(data, trusted))
    return Model(
        kind=serving["kind"],
        task=serving["task"],
        classes=tuple(serving["classes"]),
        features=tuple(
            Feature(
                name=f["name"],
                type=f["type"],
                categories=tuple(f["categories"]) if "categories" in f else None,
            )
            for f in serving["features"]
        ),
        learner=learner,
        label=serving["label"],
    )


def artifact_digest(files: Mapping[str, bytes]) -> str:
    """Identity of a packaged model: digest of the sha256 of each of its files."""
    return digest({name: sha256(data) for name, data in sorted(files.items())})


def keep(store: Store, files: Mapping[str, bytes]) -> str:
    """Store a packaged model; returns its artifact digest, which is the name of its file list."""
    return store.put(canonical({name: store.put(data) for name, data in sorted(files.items())}))


def kept(store: Store, artifact: str) -> dict[str, bytes]:
    """The files of an artifact digest, each verified. Raises SnapshotMissing, SnapshotCorrupted."""
    return {name: store.get(part) for name, part in json.loads(store.get(artifact)).items()}


def _trusted_types(data: bytes, trusted: Sequence[str]) -> list[str]:
    import skops.io

    named = skops.io.get_untrusted_types(data=data)
    refused = [n for n in named if not n.startswith(TRUSTED) and n not in trusted]
    if refused:
        raise TrainingError(
            f"the model holds {', '.join(refused)}",
            expected="types of scikit-learn, numpy, scipy or LightGBM",
            fix="Name these in ModelSpec.trusted_types if you trust them",
            types=refused,
        )
    return list(named)


def _stable_skops(data: bytes) -> bytes:
    """The same skops file with memory addresses numbered in order and without clock times.

    skops names members and nodes by `id()`, so that equal models differ on every dump.
    """
    import io
    import zipfile

    source = zipfile.ZipFile(io.BytesIO(data))
    numbers: dict[int, int] = {}
    renamed: dict[str, str] = {}

    def visit(node: Any) -> Any:
        if isinstance(node, list):
            return [visit(n) for n in node]
        if not isinstance(node, dict):
            return node
        if "__id__" in node:
            node["__id__"] = numbers.setdefault(node["__id__"], len(numbers))
        if isinstance(node.get("file"), str) and node["file"] in source.namelist():
            suffix = node["file"].rpartition(".")[2]
            node["file"] = renamed.setdefault(node["file"], f"{len(renamed)}.{suffix}")
        return {key: visit(value) for key, value in node.items()}

    schema = json.dumps(visit(json.loads(source.read("schema.json"))), sort_keys=False)
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as target:
        for old, new in sorted(renamed.items(), key=lambda pair: pair[1]):
            target.writestr(zipfile.ZipInfo(new), source.read(old), zipfile.ZIP_DEFLATED)
        target.writestr(zipfile.ZipInfo("schema.json"), schema, zipfile.ZIP_DEFLATED)
    return sink.getvalue()
