"""scikit-learn and LightGBM fitting from Arrow, and the packaged model that comes out.

A packaged model is two files: `serving.json` (features, types, vocabularies, classes) and the
learner's own data file (LightGBM text, or skops). Neither can run code of its own when it is read:
skops types come from `TRUSTED` and the caller, never from the file.
"""

import inspect
import json
import os
import pydoc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlct.data.digest import canonical, digest, sha256
from mlct.data.snapshot import Store, stored_type
from mlct.errors import DataError, TrainingError

FORMAT = "mlct.model/v1"
SERVING = "serving.json"
#: Packages whose classes a model file may name, and whose functions; anything else must be in the
#: spec's trusted_types. Not all functions: numpy has one that runs the text that it is given.
TRUSTED = ("sklearn.", "numpy.", "scipy.", "lightgbm.", "collections.OrderedDict")
TRUSTED_FUNCTIONS = ("sklearn.metrics.",)

_BINARY = (None, "binary", "cross_entropy", "xentropy")
_SEVERAL = (None, "multiclass", "softmax", "multiclassova", "multiclass_ova", "ova", "ovr")
#: More values than this are numbers, not classes.
CLASSES = 100

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """A column as the model knows it; `categories` holds the training vocabulary of a string."""

    name: str
    type: str
    categories: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A fitted model: `score` gives P(second class) or the predicted value, shape (rows,).

    Of more than two classes (`task` "multiclass") it gives the probability of each, in the order of
    `classes`, shape (rows, classes).
    """

    kind: str
    task: str
    classes: tuple[Any, ...]
    features: tuple[Feature, ...]
    learner: Any
    label: str

    def score(self, rows: pa.Table) -> Floats:
        """Scores of a table. Raises DataError when a feature is missing or of another kind."""
        if not rows.num_rows:  # scikit-learn refuses them
            _columns(rows, self.features)
            return np.empty((0, len(self.classes)) if self.task == "multiclass" else 0)
        if self.kind == "lightgbm":
            return _floats(self.learner.predict(encode(rows, self.features), num_threads=1))
        frame = _frame(rows, self.features)
        if self.task == "regression":
            return _floats(self.learner.predict(frame))
        chances = self.learner.predict_proba(frame)
        return _floats(chances if self.task == "multiclass" else chances[:, 1])

    def score_row(self, row: Mapping[str, Any]) -> Any:
        """Score of one row given as a mapping: the online path, without Arrow for LightGBM.

        A float; of more than two classes their probabilities (classes,). None and NaN are missing
        values. Raises DataError as `score` does.
        """
        cells = [_cell(f, row) for f in self.features]
        if self.kind == "lightgbm":
            codes = [_code(f, cell) for f, cell in zip(self.features, cells, strict=True)]
            return _one(self.learner.predict(np.array([codes]), num_threads=1))
        table = pa.table(
            [pa.array([c], _arrow(f)) for f, c in zip(self.features, cells, strict=True)],
            names=[f.name for f in self.features],
        )
        return _one(self.score(table))

    def truth(self, rows: pa.Table) -> Any:
        """The labels of a table as numbers (rows,): the place in `classes`, or the value.

        Raises DataError for a class that the model never saw.
        """
        values = rows[self.label].to_numpy()
        if self.task == "regression":
            return values.astype(np.float64)
        strange = set(np.unique(values).tolist()) - set(self.classes)
        if strange:
            raise DataError(
                f"the rows have labels {sorted(strange)[:5]} that the model never saw",
                expected=f"the classes {list(self.classes)}",
            )
        return np.searchsorted(np.array(self.classes, dtype=values.dtype), values)

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


def _one(scores: Any) -> Any:
    return float(scores[0]) if np.ndim(scores) == 1 else _floats(scores[0])


def _floats(values: Any) -> Floats:
    return np.ascontiguousarray(values, dtype=np.float64)


def column_kind(kind: pa.DataType) -> str | None:
    """How a model sees a column: "number", "category", "missing"; None if it cannot."""
    stored, types = stored_type(kind), pa.types
    if types.is_string(stored):
        return "category"
    if types.is_integer(stored) or types.is_floating(stored) or types.is_boolean(stored):
        return "number"
    return "missing" if types.is_null(stored) else None


def _arrow(feature: Feature) -> pa.DataType:
    return pa.string() if feature.categories is not None else pa.float64()


def _cell(feature: Feature, row: Mapping[str, Any]) -> float | str | None:
    """The value of a feature in a row, checked as `_columns` checks a table."""
    if feature.name not in row:
        raise _unlike([feature.name], [])
    value = row[feature.name]
    if value is None or value != value:
        return None
    if feature.categories is None and isinstance(value, Real | np.bool_):
        return float(value)
    if feature.categories is not None and isinstance(value, str):
        return value
    raise _unlike([], [f"{feature.name} is {value!r}, the model learned a {feature.type}"])


def _code(feature: Feature, cell: float | str | None) -> float:
    if cell is None:
        return np.nan
    if feature.categories is None:
        return float(cell)
    # Vocabularies are short; unseen values count as missing, as in `encode`.
    return float(feature.categories.index(cell)) if cell in feature.categories else np.nan


def _unlike(missing: Sequence[str], wrong: Sequence[str]) -> DataError:
    return DataError(
        "; ".join([*([f"no column {', '.join(missing)}"] if missing else []), *wrong]),
        expected="the columns that the model was trained on",
        fix="Restore them in the feature asset, or train a new version",
        missing=list(missing),
    )


def describe(rows: pa.Table, names: Sequence[str]) -> tuple[Feature, ...]:
    """The features of a training table, with vocabularies. Raises DataError on other types."""
    features = []
    for name in names:
        stored = stored_type(rows.schema.field(name).type)
        kind = column_kind(stored)
        if kind not in ("number", "category"):
            raise DataError(
                f"feature {name!r} is of type {stored}",
                expected="a number, a bool or a string",
                fix="Turn it into one in the feature asset, or name it in Columns.exclude",
                column=name,
            )
        categories = None
        if kind == "category":
            seen = pc.unique(pc.cast(rows[name], stored)).drop_null().to_pylist()
            categories = tuple(sorted(seen))
        features.append(Feature(name=name, type=kind, categories=categories))
    if not features:
        raise DataError("no column is left as a feature", expected="at least one")
    return tuple(features)


def _columns(rows: pa.Table, features: Sequence[Feature]) -> list[pa.ChunkedArray]:
    found = {field.name: stored_type(field.type) for field in rows.schema}
    missing = [f.name for f in features if f.name not in found]
    wrong = [
        f"{f.name} is {found[f.name]}, the model learned a {f.type}"
        for f in features
        if f.name in found and column_kind(found[f.name]) not in (f.type, "missing")
    ]
    if missing or wrong:
        raise _unlike(missing, wrong)
    # Unsafe: integers beyond 2^53 are rounded, as they are in a row.
    return [pc.cast(pc.cast(rows[f.name], found[f.name]), _arrow(f), safe=False) for f in features]


def encode(rows: pa.Table, features: Sequence[Feature]) -> pa.Table:
    """Numbers as float64 and categories as their index in the vocabulary (unseen: missing)."""
    encoded = []
    for column, feature in zip(_columns(rows, features), features, strict=True):
        if feature.categories is not None:
            vocabulary = pa.array(feature.categories, pa.string())
            column = pc.cast(pc.index_in(column, vocabulary), pa.float64())
        encoded.append(column)
    # LightGBM refuses some names; features go by their place.
    return pa.table(encoded, names=[f"f{place}" for place in range(len(features))])


def _frame(rows: pa.Table, features: Sequence[Feature]) -> Any:
    return pa.table(_columns(rows, features), names=[f.name for f in features]).to_pandas()


def fit(estimator: Any, rows: pa.Table, names: Sequence[str], label: str) -> Model:
    """Fit a seeded scikit-learn compatible estimator on `rows`.

    Raises TrainingError when the estimator refuses the rows, the labels do not fit it, or it gives
    no probabilities; DataError for features that cannot be used.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from sklearn.base import is_classifier

    features = describe(rows, names)
    target, classes = _target(rows, label, classifies=is_classifier(estimator))
    task = {0: "regression", 2: "binary"}.get(len(classes), "multiclass")
    kind = "lightgbm" if type(estimator).__module__.split(".")[0] == "lightgbm" else "sklearn"
    try:
        if kind == "lightgbm":
            codes = [i for i, f in enumerate(features) if f.categories is not None]
            estimator.fit(encode(rows, features), target, categorical_feature=codes)
            learner = estimator.booster_
        else:
            learner = estimator.fit(_frame(rows, features), target)
    except Exception as error:  # whatever the library of the estimator raises
        raise TrainingError(
            f"{type(estimator).__qualname__} could not be fitted: {error}",
            expected="an estimator that takes these features and this label",
            fix="Correct ModelSpec.estimator, or the feature asset",
        ) from error
    if classes:
        _probabilities(estimator, kind, len(classes))
    _forget_times(estimator)
    return Model(
        kind=kind, task=task, classes=classes, features=features, learner=learner, label=label
    )


def _target(rows: pa.Table, label: str, *, classifies: bool) -> tuple[Any, tuple[Any, ...]]:
    """`(labels as numbers, classes)`: places in the classes, else float64 and none."""
    stored = stored_type(rows.schema.field(label).type)
    column = pc.cast(rows[label], stored)
    kinds = ["number", "category"] if classifies else ["number"]
    nulls = column.null_count
    if pa.types.is_floating(stored):
        nulls += pc.sum(pc.is_nan(column)).as_py() or 0
    if column_kind(stored) not in kinds or nulls:
        raise TrainingError(
            f"label {label!r} is of type {stored} with {nulls} nulls",
            expected="numbers, bools or strings, and numbers for a regressor, without nulls",
            fix="Cast the label in the feature asset, or choose another estimator",
        )
    if not classifies:
        return pc.cast(column, pa.float64(), safe=False).to_numpy(), ()
    values = column.to_numpy()
    levels, places = np.unique(values, return_inverse=True)
    if not 2 <= len(levels) <= CLASSES:
        raise TrainingError(
            f"label {label!r} has {len(levels)} values in the training window: "
            f"{levels.tolist()[:5]}",
            expected=f"2 to {CLASSES} classes",
            fix="Widen the training window, or use a regressor",
        )
    return places.astype(np.int64), tuple(levels.tolist())


def _forget_times(estimator: Any) -> None:
    """A search keeps how long its fits took: of all that is learned, no recipe decides it."""
    for part in [estimator, *estimator.get_params(deep=True).values()]:
        for name in [n for n in getattr(part, "cv_results_", ()) if n.endswith("_time")]:
            del part.cv_results_[name]
        if hasattr(part, "refit_time_"):
            part.refit_time_ = 0.0


def _probabilities(estimator: Any, kind: str, classes: int) -> None:
    """Raise TrainingError for a fitted classifier whose scores are not probabilities."""
    objective = getattr(estimator, "objective", None) if kind == "lightgbm" else None
    right = _BINARY if classes == 2 else _SEVERAL
    if not hasattr(estimator, "predict_proba") or objective not in right:
        raise TrainingError(
            f"{type(estimator).__qualname__}"
            + (f" with objective {objective!r}" if objective else "")
            + " gives no probability of a class",
            expected="a classifier with predict_proba, in LightGBM of objective 'binary', or "
            "'multiclass' for more than two classes",
            fix="Wrap it in sklearn.calibration.CalibratedClassifierCV",
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
    refused = [n for n in named if n not in trusted and not _harmless(n)]
    if refused:
        raise TrainingError(
            f"the model holds {', '.join(refused)}",
            expected="classes of scikit-learn, numpy, scipy or LightGBM",
            fix="Name these in ModelSpec.trusted_types if you trust them",
            types=refused,
        )
    return list(named)


def _harmless(name: str) -> bool:
    """Whether `name` is a class of TRUSTED itself, not one that it imports, or such a function."""
    if not name.startswith(TRUSTED):
        return False
    thing = pydoc.locate(name)
    home = f"{getattr(thing, '__module__', '')}."
    if inspect.isclass(thing):
        return home.startswith(TRUSTED) or name == "collections.OrderedDict"
    return inspect.isfunction(thing) and home.startswith(TRUSTED_FUNCTIONS)


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
