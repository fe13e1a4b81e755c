"""Fitted models: same recipe, same bytes; packed and read back, same scores; nothing foreign."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder
from sklearn.svm import LinearSVC

from mlct.adapters.object_store import ObjectStore
from mlct.data.digest import canonical, sha256
from mlct.errors import DataError, SnapshotCorrupted, TrainingError
from mlct.training.fit import (
    SERVING,
    Feature,
    artifact_digest,
    describe,
    fit,
    keep,
    kept,
    pack,
    unpack,
)
from mlct.training.recipe import recipe, seeded


def table(rows=300, seed=0):
    random = np.random.default_rng(seed)
    number = random.normal(size=rows)
    kind = random.choice(["bus", "tram", "écran"], size=rows)
    score = number + (kind == "bus") + random.normal(size=rows) * 0.3
    return pa.table(
        {
            "number": pa.array(
                np.where(random.random(rows) < 0.1, np.nan, number), from_pandas=True
            ),
            "whole": pa.array(random.integers(0, 9, rows)),
            "flag": pa.array(random.random(rows) < 0.5),
            "kind": pa.array([None if n % 17 == 0 else str(k) for n, k in enumerate(kind)]),
            "late": pa.array((score > 0.3).astype("int8")),
            "delay": score,
        }
    )


ROWS = table()
NAMES = ("number", "whole", "flag", "kind")


def prepared(learner):
    """Strings one-hot, numbers imputed."""
    return make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_exclude="number")),
            remainder=SimpleImputer(),
        ),
        learner,
    )


FACTORIES = {
    "lightgbm": lambda: LGBMClassifier(n_estimators=8, num_leaves=7),
    "lightgbm regressor": lambda: LGBMRegressor(n_estimators=8, num_leaves=7),
    "random forest": lambda: prepared(RandomForestClassifier(n_estimators=5)),
    "histogram boosting": lambda: prepared(HistGradientBoostingClassifier(max_iter=5)),
    "logistic": lambda: prepared(LogisticRegression()),
    "ridge": lambda: prepared(Ridge()),
}
MORE = {
    "calibrated lightgbm": lambda: prepared(
        CalibratedClassifierCV(LGBMClassifier(n_estimators=3), cv=2)
    ),
    "neighbours of sparse rows": lambda: prepared(KNeighborsClassifier()),
    "stacked": lambda: prepared(StackingClassifier([("a", LogisticRegression())], cv=2)),
    "searched": lambda: prepared(GridSearchCV(LogisticRegression(), {"C": [1]}, scoring="roc_auc")),
    "logarithm": lambda: prepared(make_pipeline(FunctionTransformer(np.abs), LogisticRegression())),
}


def trained(factory, rows=ROWS, names=NAMES, label=None):
    estimator = seeded(factory(), 0)
    label = label or ("delay" if factory in REGRESSORS else "late")
    return fit(estimator, rows, names, label)


REGRESSORS = (FACTORIES["lightgbm regressor"], FACTORIES["ridge"])


@pytest.fixture(scope="module", params=[*FACTORIES])
def model(request):
    return trained(FACTORIES[request.param])


@pytest.fixture(scope="module")
def boosted():
    return trained(FACTORIES["lightgbm"])


@pytest.fixture(scope="module")
def logistic():
    return trained(FACTORIES["logistic"])


@pytest.fixture
def store(tmp_path):
    return ObjectStore(str(tmp_path))


def digests():
    """Artifact and recipe of each estimator."""
    words = {"snapshot": "", "features": (), "label": "", "seed": 0}
    return {
        name: [
            artifact_digest(pack(trained(factory))),
            recipe(factory, seeded(factory(), 0), **words).digest,
        ]
        for name, factory in (FACTORIES | MORE).items()
    }


DIGESTS = """
import importlib.util, json, sys
found = importlib.util.spec_from_file_location("again", sys.argv[1])
again = importlib.util.module_from_spec(found)
found.loader.exec_module(again)
print(json.dumps(again.digests()))
"""


def test_the_same_recipe_is_the_same_artifact_in_every_process():
    there = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DIGESTS, __file__],
        env=os.environ
        | {"PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"},
        stdout=subprocess.PIPE,
        check=True,
    )
    here = digests()
    assert json.loads(there.stdout) == here
    for one in zip(*here.values(), strict=True):
        assert len(set(one)) == len(FACTORIES | MORE)


def test_another_seed_or_other_rows_are_another_artifact():
    def forest(seed, rows):
        estimator = seeded(FACTORIES["random forest"](), seed)
        return artifact_digest(pack(fit(estimator, rows, NAMES, "late")))

    assert len({forest(0, ROWS), forest(1, ROWS), forest(0, table(seed=1))}) == 3


def test_packing_twice_gives_the_same_bytes(model):
    assert pack(model) == pack(model)


@pytest.mark.parametrize("factory", MORE.values(), ids=MORE)
def test_the_usual_meta_estimators_can_be_packed(factory):
    model = trained(factory)
    assert np.array_equal(unpack(pack(model)).score(ROWS), model.score(ROWS))


def test_what_is_read_back_scores_exactly_the_same(model):
    back = unpack(pack(model))
    assert np.array_equal(back.score(ROWS), model.score(ROWS))
    for name in ("kind", "task", "classes", "features", "label"):
        assert getattr(back, name) == getattr(model, name)
    assert back.importance() == model.importance()


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_scores_are_the_estimators_own():
    """LightGBM is fed from Arrow and by place: its own interface says the same."""
    estimator = seeded(LGBMClassifier(n_estimators=8), 0)
    model = fit(estimator, ROWS, ("number", "whole", "flag"), "late")
    frame = ROWS.select(["number", "whole", "flag"]).to_pandas().astype(float)
    assert np.array_equal(model.score(ROWS), estimator.predict_proba(frame.to_numpy())[:, 1])


def test_scores_are_probabilities_of_the_second_class(model):
    scores = model.score(ROWS)
    assert scores.dtype == np.float64
    assert scores.shape == (ROWS.num_rows,)
    if model.task == "binary":
        late = ROWS["late"].to_numpy() == 1
        assert 0 <= scores.min() <= scores.max() <= 1
        assert scores[late].mean() > scores[~late].mean() + 0.2


def test_one_row_scores_as_in_a_table(model):
    rows = ROWS.slice(0, 40)
    one_by_one = [model.score_row(row) for row in rows.to_pylist()]
    # A product of matrices sums in another order than one of vectors.
    near = pytest.approx(one_by_one, rel=0 if model.kind == "lightgbm" else 1e-12, abs=0)
    assert model.score(rows).tolist() == near


CELLS = st.fixed_dictionaries(
    {
        "number": st.none() | st.floats(-1e6, 1e6) | st.integers(-5, 5) | st.just(float("nan")),
        "whole": st.none() | st.integers(-(2**60), 2**60),
        "flag": st.none() | st.booleans(),
        "kind": st.none() | st.sampled_from(["bus", "tram", "boat", "", "écran"]),
    }
)
TYPES = {"number": pa.float64(), "whole": pa.int64(), "flag": pa.bool_(), "kind": pa.string()}


@settings(deadline=None, max_examples=40)
@given(CELLS)
def test_any_row_scores_as_in_a_table(boosted, logistic, row):
    """Missing, never seen, huge, not a number."""
    number = row["number"]
    cells = row | {"number": number if number is None else float(number)}
    rows = pa.table({name: pa.array([cells[name]], kind) for name, kind in TYPES.items()})
    for model in (boosted, logistic):
        assert model.score_row(row) == model.score(rows)[0]


@pytest.mark.parametrize("cell", [np.float32(2), np.int64(2), np.bool_(True), True, 2])
def test_any_number_is_a_number(boosted, cell):
    row = ROWS.slice(0, 1).to_pylist()[0]
    assert boosted.score_row(row | {"whole": cell}) == boosted.score_row(
        row | {"whole": float(cell)}
    )


def test_an_unseen_category_counts_as_missing(boosted):
    row = ROWS.slice(0, 1).to_pylist()[0]
    assert boosted.score_row(row | {"kind": "boat"}) == boosted.score_row(row | {"kind": None})


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.float32(), pa.float64()], ids=str)
def test_integers_and_floats_of_one_value_score_the_same(model, kind):
    other = ROWS.set_column(1, "whole", ROWS["whole"].cast(kind))
    assert np.array_equal(model.score(other), model.score(ROWS))


@pytest.mark.parametrize(
    "form", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())], ids=str
)
def test_how_strings_are_held_does_not_count(model, form):
    other = ROWS.set_column(3, "kind", ROWS["kind"].cast(form))
    assert np.array_equal(model.score(other), model.score(ROWS))
    assert describe(other, NAMES) == describe(ROWS, NAMES)


def test_order_of_columns_and_further_ones_do_not_count(model):
    other = ROWS.select(["kind", "delay", "flag", "whole", "number"])
    assert np.array_equal(model.score(other), model.score(ROWS))


def test_a_column_without_any_value_is_missing_values(boosted):
    void = ROWS.set_column(0, "number", pa.nulls(300)).set_column(3, "kind", pa.nulls(300))
    empty = ROWS.set_column(0, "number", pa.nulls(300, pa.float64()))
    empty = empty.set_column(3, "kind", pa.nulls(300, pa.string()))
    assert np.array_equal(boosted.score(void), boosted.score(empty))


def test_no_rows_have_no_scores(model):
    assert model.score(ROWS.slice(0, 0)).shape == (0,)


def test_a_missing_column_is_named(model):
    with pytest.raises(DataError, match="no column whole, kind") as found:
        model.score(ROWS.drop_columns(["whole", "kind"]))
    assert found.value.missing == ["whole", "kind"]
    with pytest.raises(DataError, match="no column whole"):
        model.score_row({"number": 1.0, "flag": True, "kind": "bus"})


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("whole", ["1"] * 300, "whole is string, the model learned a number"),
        ("kind", [1] * 300, "kind is int64, the model learned a category"),
        ("number", pa.array([0] * 300, pa.timestamp("us")), "number is timestamp"),
        ("number", [[1.0]] * 300, "number is list"),
        ("kind", pa.array([1] * 300).dictionary_encode(), "kind is int64"),
    ],
)
def test_a_changed_type_is_named(model, column, values, says):
    place = ROWS.column_names.index(column)
    with pytest.raises(DataError, match=says):
        model.score(
            ROWS.set_column(
                place, column, values if isinstance(values, pa.Array) else pa.array(values)
            )
        )


@pytest.mark.parametrize(
    "changed", [{"whole": "1"}, {"kind": 1}, {"number": [1.0]}, {"kind": b"bus"}]
)
def test_a_changed_type_is_named_in_a_row_too(model, changed):
    (name,) = changed
    with pytest.raises(DataError, match=f"{name} is .*the model learned a "):
        model.score_row(ROWS.slice(0, 1).to_pylist()[0] | changed)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([0] * 300, pa.timestamp("us")),
        pa.array([[1]] * 300),
        pa.nulls(300),
        pa.array([b"x"] * 300),
    ],
    ids=["time", "list", "nothing", "bytes"],
)
def test_a_feature_of_another_type_cannot_be_learned(values):
    with pytest.raises(DataError, match=r"feature 'whole' is of type .*Columns\.exclude"):
        describe(ROWS.set_column(1, "whole", values), NAMES)


def test_without_a_feature_there_is_nothing_to_learn():
    with pytest.raises(DataError, match="no column is left as a feature"):
        describe(ROWS, ())


def test_features_are_described_with_their_vocabulary():
    assert describe(ROWS, ("whole", "kind")) == (
        Feature(name="whole", type="number"),
        Feature(name="kind", type="category", categories=("bus", "tram", "écran")),
    )


@pytest.mark.parametrize("names", [["a b", "a_b"], ["x[F]", 'y"'], ["é{}", ":,"]])
def test_features_may_have_any_names(names):
    rows = ROWS.select(["number", "whole", "late"]).rename_columns([*names, "late"])
    model = trained(FACTORIES["lightgbm"], rows, names)
    assert set(model.importance()) == set(names)
    assert np.array_equal(unpack(pack(model)).score(rows), model.score(rows))


LATE = pc.equal(ROWS["late"], 1)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (LATE, (False, True)),
        (pc.if_else(LATE, "late", "early"), ("early", "late")),
        (pc.if_else(LATE, "late", "early").dictionary_encode(), ("early", "late")),
        (pc.if_else(LATE, 2.5, -1.0), (-1.0, 2.5)),
        (pc.if_else(LATE, 7, 3), (3, 7)),
    ],
    ids=["bool", "string", "category", "float", "integer"],
)
@pytest.mark.parametrize("name", ["lightgbm", "logistic"])
def test_two_classes_may_have_any_names(name, labels, classes):
    rows = ROWS.set_column(4, "late", labels)
    model = trained(FACTORIES[name], rows)
    assert unpack(pack(model)).classes == model.classes == classes
    assert np.array_equal(model.score(ROWS), trained(FACTORIES[name]).score(ROWS))


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (pa.array([1] * 300), r"label 'late' has 1 values .*: \[1\]. Expected 2 to 100 classes"),
        (pa.array(range(300)), r"has 300 values in the training window: \[0, 1, 2, 3, 4\]"),
        (pa.array([None, 1, 0] * 100), "type int64 with 100 nulls"),
        (pa.array([None, "a", "b"] * 100), "type string with 100 nulls"),
        (pa.array([float("nan"), 1, 0] * 100), "type double with 100 nulls"),
        (pa.array([[1]] * 300), "type list<item: int64>"),
        (pa.nulls(300), "type null"),
    ],
    ids=["one", "many", "nulls", "null texts", "NaN", "lists", "nothing"],
)
def test_labels_that_are_not_classes_are_named(labels, says):
    with pytest.raises(TrainingError, match=says):
        trained(FACTORIES["lightgbm"], ROWS.set_column(4, "late", labels))


@pytest.mark.parametrize("name", ["lightgbm", "logistic"])
@pytest.mark.parametrize("levels", [["bus", "ferry", "tram"], [10, 20, 30], [0.5, 1.5, 2.5]])
def test_of_several_classes_each_has_its_probability(name, levels):
    rows = ROWS.set_column(4, "late", pa.array([levels[i % 3] for i in range(ROWS.num_rows)]))
    model = unpack(pack(trained(FACTORIES[name], rows)))
    scores = model.score(rows)
    assert (model.task, model.classes) == ("multiclass", tuple(levels))
    assert scores.shape == (ROWS.num_rows, 3)
    assert np.allclose(scores.sum(axis=1), 1)
    assert np.array_equal(model.score_row(rows.slice(7, 1).to_pylist()[0]), scores[7])
    assert model.truth(rows).tolist() == [i % 3 for i in range(ROWS.num_rows)]
    assert model.score(rows.slice(0, 0)).shape == (0, 3)


def test_labels_that_the_model_never_saw_are_named():
    model = trained(FACTORIES["lightgbm"])
    with pytest.raises(DataError, match=r"labels \[7\] that the model never saw"):
        model.truth(ROWS.set_column(4, "late", pa.array([7] * ROWS.num_rows)))


@pytest.mark.parametrize("labels", [["x"] * 300, [None, 1.0] * 150], ids=["text", "nulls"])
def test_a_regressor_takes_numbers_only(labels):
    with pytest.raises(TrainingError, match="numbers for a regressor"):
        trained(FACTORIES["ridge"], ROWS.set_column(5, "delay", pa.array(labels)))


@pytest.mark.parametrize("kind", [pa.bool_(), pa.int8(), pa.float32()], ids=str)
def test_a_regressor_takes_every_number(kind):
    rows = ROWS.set_column(5, "delay", ROWS["late"].cast(kind))
    assert trained(FACTORIES["lightgbm regressor"], rows).task == "regression"


def test_what_an_estimator_refuses_is_said_with_its_name():
    with pytest.raises(TrainingError, match=r"LogisticRegression could not be fitted: .*NaN"):
        trained(LogisticRegression, names=("number",))


@pytest.mark.parametrize(
    "estimator",
    [
        LinearSVC(),
        LGBMClassifier(n_estimators=1, objective="multiclass", num_class=2),
        LGBMClassifier(n_estimators=1, objective=lambda y, p: (p - y, np.ones_like(p))),
    ],
    ids=["no predict_proba", "multiclass", "own objective"],
)
def test_a_classifier_without_a_probability_is_refused(estimator):
    says = "gives no probability of a class.*CalibratedClassifierCV"
    with pytest.raises(TrainingError, match=says):
        fit(seeded(estimator, 0), ROWS, ("whole", "flag"), "late")


def test_importance_shares_sum_to_one(model):
    found = model.importance()
    if model.kind == "lightgbm":
        assert set(found) == set(NAMES)
        assert sum(found.values()) == pytest.approx(1)
    else:
        assert found == {}


def test_a_fit_without_a_split_has_no_importance():
    model = trained(lambda: LGBMClassifier(n_estimators=1, min_child_samples=400))
    assert model.importance() == {}


class Shy(DummyClassifier):
    """A class of one's own."""


def test_a_type_of_ones_own_is_refused_by_name_and_taken_when_trusted():
    model = trained(lambda: Shy(strategy="prior"))
    name = f"{Shy.__module__}.Shy"
    with pytest.raises(TrainingError, match=f"the model holds {name}") as found:
        pack(model)
    assert "ModelSpec.trusted_types" in str(found.value)
    assert found.value.types == [name]
    files = pack(model, trusted=[name])
    with pytest.raises(TrainingError, match=name):
        unpack(files)


def node(name, loader, **more):
    module, _, kind = name.rpartition(".")
    return {"__class__": kind, "__module__": module, "__loader__": loader} | more


def forged(name, loader, *arguments):
    """A model file that, when it is read, calls `name` with `arguments`."""
    texts = [
        node("builtins.str", "JsonNode", content=json.dumps(a), is_json=True) for a in arguments
    ]
    content = node("builtins.tuple", "TupleNode", content=texts)
    nothing = node("builtins.str", "JsonNode", content="null", is_json=True)
    call = node(name, loader, content=nothing, __reduce__={"args": content})
    if loader == "ConstructorFromReduceNode":
        call = node(name, loader, content=content)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(
            "schema.json", json.dumps(call | {"protocol": 2, "_skops_version": "0.16"})
        )
    serving = {"format": "mlct.model/v1", "kind": "sklearn", "task": "regression", "label": "y"}
    return {
        SERVING: canonical(serving | {"classes": [], "features": []}),
        "model.skops": file.getvalue(),
    }


@pytest.mark.parametrize("loader", ["LossNode", "ConstructorFromReduceNode"])
@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("numpy.testing._private.utils.runstring", "open({!r}, 'w').close()"),
        ("numpy.testing._private.utils.os.mkdir", "{}"),
        ("numpy.f2py.f2py2e.os.mkdir", "{}"),
        ("numpy.save", "{}"),
        ("os.mkdir", "{}"),
        ("pathlib.Path", "{}"),
    ],
)
def test_a_model_file_cannot_run_code(tmp_path, loader, name, argument):
    trap = tmp_path / "trap"
    with pytest.raises(TrainingError, match="the model holds"):
        unpack(forged(name, loader, argument.format(str(trap)), {}))
    assert not list(tmp_path.iterdir())


def test_a_class_that_a_trusted_package_merely_imports_is_not_trusted(tmp_path):
    for name in ("numpy.lib._datasource.os.PathLike", "scipy.io.matlab._mio.contextmanager"):
        with pytest.raises(TrainingError, match="the model holds"):
            unpack(forged(name, "LossNode", str(tmp_path)))


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, r"has \[\]. Expected a serving\.json"),
        ({"model.txt": b"tree"}, r"has \['model\.txt'\]"),
        ({SERVING: canonical({"format": "mlct.model/v2"})}, r"is 'mlct\.model/v2'\. Expected"),
        ({SERVING: b"{}"}, "is None. Expected"),
    ],
)
def test_files_that_are_no_model_are_named(files, says):
    with pytest.raises(TrainingError, match=says):
        unpack(files)


def test_an_artifact_is_kept_under_its_digest(model, store):
    files = pack(model)
    name = keep(store, files)
    assert name == artifact_digest(files) == keep(store, dict(reversed(files.items())))
    assert kept(store, name) == files
    assert np.array_equal(unpack(kept(store, name)).score(ROWS), model.score(ROWS))


@pytest.mark.parametrize("part", [SERVING, "model.txt", "list"])
def test_a_changed_file_is_found_before_it_is_read(boosted, store, part):
    files = pack(boosted)
    artifact = keep(store, files)
    name = artifact if part == "list" else sha256(files[part])
    path = Path(store.root, "objects", name[:2], name)
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(SnapshotCorrupted) as found:
        kept(store, artifact)
    assert found.value.path == str(path)


def test_every_file_counts_for_the_artifact():
    files = {"a": b"1", "b": b"2"}
    others = [{"a": b"1"}, {"a": b"1", "b": b"3"}, {"a": b"1", "c": b"2"}, {"a": b"2", "b": b"1"}]
    assert len({artifact_digest(f) for f in [files, *others]}) == 5
    assert artifact_digest(dict(reversed(files.items()))) == artifact_digest(files)


def test_a_packed_model_says_what_it_serves(boosted):
    serving = json.loads(pack(boosted)[SERVING])
    assert serving["format"] == "mlct.model/v1"
    assert (serving["kind"], serving["task"], serving["label"]) == ("lightgbm", "binary", "late")
    assert serving["classes"] == [0, 1]
    assert [f["name"] for f in serving["features"]] == list(NAMES)
