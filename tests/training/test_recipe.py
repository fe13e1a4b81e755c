"""Recipes: every ingredient counts, nothing else does, and git says where the code stood."""

import functools
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import lightgbm
import numpy as np
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder

from mlct.data.digest import canonical
from mlct.errors import SpecError
from mlct.training.recipe import Recipe, code_state, environment_lock, recipe, seeded


def factory():
    return LogisticRegression(C=2.0)


def other_factory():
    return LogisticRegression(C=2.0)  # the same estimator, said elsewhere


def made(estimator=None, *, factory=factory, **changes):
    words = {"snapshot": "a" * 64, "features": (("x", "int64"),), "label": "y", "seed": 0}
    return recipe(factory, factory() if estimator is None else estimator, **words | changes)


def test_the_same_ingredients_are_the_same_recipe():
    assert made() == made()
    assert made().digest == made().digest
    assert canonical(made().to_dict())


@pytest.mark.parametrize(
    "other",
    [
        {"snapshot": "b" * 64},
        {"features": (("x", "double"),)},
        {"features": (("x", "int64"), ("z", "int64"))},
        {"features": (("z", "int64"),)},
        {"label": "z"},
        {"seed": 1},
        {"estimator": LogisticRegression(C=1.0)},
        {"estimator": LogisticRegression(C=2.0, fit_intercept=False)},
        {"estimator": Ridge()},
        {"factory": other_factory},
    ],
    ids=str,
)
def test_every_ingredient_counts(other):
    assert made(**other).digest != made().digest


@pytest.mark.parametrize(
    "name",
    ["snapshot", "features", "label", "estimator", "parameters", "code", "seed", "environment"],
)
def test_every_field_is_in_the_digest(name):
    changed = {"parameters": {}, "environment": {}, "features": (), "seed": 9}.get(name, "other")
    assert replace(made(), **{name: changed}).digest != made().digest


def test_a_recipe_is_frozen():
    with pytest.raises(FrozenInstanceError):
        made().seed = 1


def test_the_environment_names_what_the_numbers_depend_on():
    found = made(LGBMClassifier()).environment
    assert {"python", "machine", "numpy", "scikit-learn", "lightgbm", "pyarrow"} <= found.keys()
    assert found["lightgbm"] == lightgbm.__version__


def closure(n):
    return lambda x: x + n


def twice(x):
    return 2 * x


def thrice(x):
    return 3 * x


def shell(text):
    """A function without source text, as typed into a shell."""
    space = {}
    exec(f"f = lambda x: {text}", space)
    return space["f"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (closure(1), closure(2)),
        (twice, thrice),
        (np.log, np.log1p),
        (functools.partial(twice), functools.partial(thrice)),
        (functools.partial(np.add, 1), functools.partial(np.add, 2)),
        (make_scorer(twice), make_scorer(thrice)),
        (shell("x * 2"), shell("x * 3")),
        (shell("x.a"), shell("x.b")),
        (np.arange(2000), np.where(np.arange(2000) == 1000, 0, np.arange(2000))),
        (np.array(["a"], object), np.array(["b"], object)),
        (np.arange(2), np.arange(2.0)),
        (KFold(3), KFold(4)),
        ({"m": LogisticRegression(C=1)}, {"m": LogisticRegression(C=2)}),
        (float("inf"), float("-inf")),
        (2**60, 2**60 + 1),
        ({1, 2}, {1, 3}),
        (1, "x"),
        (str.lower, str.upper),
        (int, float),
    ],
)
def test_every_kind_of_parameter_counts_by_its_content(one, other):
    def digest(value):
        return made(FunctionTransformer(func=value)).digest

    assert digest(one) == digest(one)
    assert digest(one) != digest(other)


def test_a_parameter_without_a_lasting_text_is_refused():
    estimator = RandomForestClassifier(random_state=np.random.RandomState(0))
    with pytest.raises(SpecError, match=r"RandomState.* at 0x.*Give a value"):
        made(estimator)


OWN = """
from sklearn.base import BaseEstimator, TransformerMixin
class Root(TransformerMixin, BaseEstimator):
    def fit(self, x, y=None): return self
    def transform(self, x): return x * {factor}
class Own(Root):
    pass
"""


def test_the_source_of_own_classes_counts_and_of_their_bases(tmp_path, monkeypatch):
    def digest(factor):
        name = f"own_{factor}_times"
        (tmp_path / f"{name}.py").write_text(OWN.format(factor=factor))
        module = __import__(name)
        module.Own.__module__ = module.Root.__module__ = "own"
        monkeypatch.setitem(sys.modules, "own", module)
        return made(make_pipeline(module.Own(), LogisticRegression())).digest

    monkeypatch.syspath_prepend(tmp_path)
    assert digest(2) != digest(3)


class Own(TransformerMixin, BaseEstimator):
    pass


def test_installed_classes_count_by_version_not_by_source():
    assert made(RandomForestClassifier()).code == made().code
    assert made(make_pipeline(Own(), LogisticRegression())).code != made().code


@pytest.mark.parametrize("estimator", [RandomForestClassifier(), LGBMRegressor()])
def test_an_unset_state_is_seeded(estimator):
    assert seeded(estimator, 7).random_state == 7


@pytest.mark.parametrize(
    "set_already", [{"random_state": 0}, {"random_state": 3}, {"seed": 3}, {"random_seed": 3}]
)
def test_a_state_that_is_set_stays(set_already):
    before = LGBMClassifier(**set_already).get_params()
    after = seeded(LGBMClassifier(**set_already), 7).get_params()
    assert {name: after[name] for name in before if name != "n_jobs"} == {
        name: value for name, value in before.items() if name != "n_jobs"
    }


def test_a_state_that_is_set_inside_stays():
    found = seeded(CalibratedClassifierCV(LGBMClassifier(seed=3)), 7).estimator
    assert (found.get_params()["seed"], found.random_state) == (3, None)


def test_lightgbm_is_made_deterministic_on_one_thread():
    found = seeded(LGBMClassifier(), 0).get_params()
    assert (found["deterministic"], found["force_row_wise"], found["n_jobs"]) == (True, True, 1)


@pytest.mark.parametrize(
    ("said", "unsaid"),
    [
        ({"n_jobs": 2}, []),
        ({"num_threads": 2}, ["n_jobs"]),
        ({"verbosity": 1}, ["verbose"]),
        ({"deterministic": False}, []),
        ({"force_col_wise": True}, ["force_row_wise"]),
    ],
)
def test_what_the_estimator_says_of_lightgbm_stays(said, unsaid):
    found = seeded(LGBMClassifier(**said), 0).get_params()
    assert {name: found[name] for name in said} == said
    assert [name for name in unsaid if found.get(name) is not None] == []


class OwnBooster(LGBMClassifier):
    pass


@pytest.mark.parametrize(
    ("estimator", "states"),
    [
        (make_pipeline(Own(), RandomForestClassifier()), ["randomforestclassifier__random_state"]),
        (CalibratedClassifierCV(LGBMClassifier()), ["estimator__random_state"]),
        (CalibratedClassifierCV(OwnBooster()), ["estimator__random_state"]),
        (
            VotingClassifier([("a", RandomForestClassifier()), ("b", LogisticRegression())]),
            ["a__random_state", "b__random_state"],
        ),
        (GridSearchCV(make_pipeline(Ridge()), {}), ["estimator__ridge__random_state"]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_is_inside_is_seeded_too(estimator, states):
    found = seeded(estimator, 7).get_params()
    assert {name for name in found if name.endswith("random_state")} == set(states)
    assert {found[name] for name in states} == {7}
    assert all(found[name] is True for name in found if name.endswith("deterministic"))


def test_a_splitter_is_seeded_too():
    search = seeded(GridSearchCV(Ridge(), {}, cv=KFold(3, shuffle=True)), 7)
    assert search.cv.random_state == 7


@pytest.mark.parametrize("nothing", [None, 3, LGBMClassifier, object()])
def test_what_is_no_estimator_is_named(nothing):
    with pytest.raises(SpecError, match=r"ModelSpec\.estimator gives .* scikit-learn compatible"):
        seeded(nothing, 0)


def test_parameters_reach_the_recipe_after_seeding():
    estimator = seeded(make_pipeline(OrdinalEncoder(), LGBMClassifier()), 5)
    found = made(estimator).parameters
    assert found["lgbmclassifier__random_state"] == 5
    assert made(seeded(LGBMClassifier(), 5)).digest != made(seeded(LGBMClassifier(), 6)).digest


def git(folder, *words):
    who = ["-c", "user.name=ana", "-c", "user.email=ana@example.org"]
    command = ["git", *who, *words]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "-q")
    Path(tmp_path, "model.py").write_text("one")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    return tmp_path


def test_the_state_of_the_code_is_the_commit(repository):
    found = code_state(repository)
    assert len(found.commit) == 40
    assert (found.dirty, found.author) == (False, "ana@example.org")
    (repository / "inner").mkdir()
    assert code_state(repository / "inner") == found


@pytest.mark.parametrize("name", ["model.py", "new.py"])
def test_uncommitted_code_is_dirty(repository, name):
    clean = code_state(repository)
    (repository / name).write_text("two")
    assert code_state(repository) == replace(clean, dirty=True)


def test_another_commit_is_another_state(repository):
    before = code_state(repository)
    git(repository, "commit", "-q", "--allow-empty", "-m", "two")
    assert code_state(repository).commit != before.commit


def test_outside_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code_state(tmp_path) == replace(code_state(tmp_path), commit="", dirty=False, author="")


def test_a_repository_without_a_commit_has_no_commit(tmp_path):
    git(tmp_path, "init", "-q")
    Path(tmp_path, "model.py").write_text("one")
    assert code_state(tmp_path).commit == ""


def test_a_machine_without_git_still_trains(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert code_state(repository).commit == ""


def test_the_lock_names_every_distribution_once():
    lines = environment_lock().splitlines()
    assert f"lightgbm=={lightgbm.__version__}" in lines
    names = [line.partition("==")[0] for line in lines]
    assert len(set(names)) == len(names)
    assert names == sorted(names)


def test_old_fields_of_a_recipe_are_in_its_record():
    """Ledger and MLflow keep it: format and fields must stay readable."""
    record = made().to_dict()
    assert record.pop("format") == "mlct.recipe/v1"
    assert set(record) == set(Recipe.__dataclass_fields__)
    assert record["features"] == [["x", "int64"]]
