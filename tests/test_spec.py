"""ModelSpec: what is wrong is said when it is declared, with field, finding and what is allowed."""

import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import dagster as dg
import pytest

import mlct
from mlct.errors import MlctError, SpecError


def contract():
    raise AssertionError("a declaration must not build the contract")


def estimator():
    raise AssertionError("a declaration must not build the estimator")


FIELDS = {
    "name": "flight_delay",
    "owners": ["team:operations", "ana@example.org"],
    "risk_tier": "low",
    "features": "flight_features",
    "columns": mlct.Columns(id="id", time="at", label="late"),
    "windows": mlct.Windows(train="120d", holdout="30d"),
    "contract": contract,
    "estimator": estimator,
    "gate": mlct.GatePolicy(primary=mlct.Superiority("roc_auc", min_effect=0.002)),
}


def declare(**changes):
    return mlct.ModelSpec(**FIELDS | changes)


def test_a_right_declaration_builds_nothing():
    spec = declare()
    assert (spec.slot, spec.promotion, spec.seed, spec.trusted_types) == (
        "production",
        "manual",
        0,
        (),
    )
    assert spec.retrain == mlct.RetrainPolicy()


class Suite:
    expectations = ()


WRONG = [
    ("name", ["", "Flight", "1flight", "flight-delay", "flight delay", "é", "a" * 62, None, 3]),
    ("owners", [[], "", "ana", ["ana"], ["team:"], ["ana@nowhere"], ["team:a b"], [3], None, {}]),
    ("risk_tier", ["", "High", "severe", None, 1]),
    ("features", ["", [], [""], ["a", 3], None, 3, {"a"}, ["a", ""]]),
    ("columns", [None, {}, ("id", "at", "late"), mlct.Columns]),
    ("windows", [None, "120d", {"train": "1d"}]),
    ("contract", [None, 3, "suite", {"expectations": []}, lambda spec: None]),
    ("estimator", [None, 3, "lightgbm", lambda seed: None, {}, {"a": 3}, {1: estimator}]),
    ("gate", [None, "roc_auc", mlct.RetrainPolicy()]),
    ("retrain", [None, "daily", {"max_psi": 0.2}]),
    ("rollback", [None, "weekly", mlct.RetrainPolicy()]),
    ("monitoring", [None, "week", mlct.RetrainPolicy()]),
    ("threshold", ["0.5", float("nan"), float("inf")]),
    ("feature_version", [None, 3]),
    ("fallback", ["base_rate", lambda: None, lambda rows: None]),
    ("description", [None, 3]),
    ("slot", ["", "Production", "a b", None, "challenger", "drill", "latest", "v1", "v22"]),
    ("deployment", [None, {}, "production"]),
    (
        "slots",
        [
            None,
            ["production-eu"],
            {"EU": mlct.Deployment()},
            {"v1": mlct.Deployment()},
            {"eu": None},
            {"production": mlct.Deployment()},
        ],
    ),
    ("promotion", ["auto", "automatic", "", None, True, "Manual"]),
    ("seed", [-1, 1.5, "0", None, 2**31]),
    ("seeds", [[0, 0], [-1], [1.5], [True], 3, "01", None]),
    ("registry_stage", [None, 1, "yes"]),
    ("no_change", [None, 1, "yes"]),
    ("cpu_hour_price", [-1, "0.05", True]),
    ("slos", [3, True, lambda: "slos.yaml"]),
    ("trusted_types", ["a.B", ["B"], [3], None, 3]),
]


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in WRONG for value in values]
)
def test_a_wrong_field_is_named_with_what_was_found_and_what_is_allowed(field, value):
    with pytest.raises(SpecError) as found:
        declare(**{field: value})
    error = found.value
    assert f"ModelSpec.{field}" in error.found
    assert error.field == field
    assert repr(error.value) in str(error)
    assert error.expected in str(error)
    assert error.expected
    assert "load the definitions again" in error.fix


def test_every_field_is_checked():
    assert {field for field, _ in WRONG} == set(mlct.ModelSpec.__dataclass_fields__)


@pytest.mark.parametrize(
    ("field", "allowed"),
    [("risk_tier", "'low'"), ("promotion", "only people promote"), ("owners", "team:NAME")],
)
def test_the_text_says_what_would_be_right(field, allowed):
    with pytest.raises(SpecError, match=allowed):
        declare(**{field: "something else"})


@pytest.mark.parametrize(
    ("features", "path"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        (("a", "b"), ("a", "b")),
        (dg.AssetKey("a"), ("a",)),
        (dg.AssetKey(["a", "b"]), ("a", "b")),
    ],
    ids=str,
)
def test_features_are_a_path_however_they_are_given(features, path):
    assert declare(features=features).features == path


@pytest.mark.parametrize(
    "right",
    [
        {"owners": "team:operations"},
        {"owners": ("ana.b+c@mail.example.org",)},
        {"estimator": dict},
        {"estimator": lambda n=3: n},
        {"estimator": lambda *args, **words: None},
        {"contract": Suite()},
        {"slot": "canary-2"},
        {"seed": 2**31 - 1},
        {"trusted_types": ["package.module.Class"]},
    ],
    ids=str,
)
def test_what_is_right_is_taken(right):
    assert declare(**right)


def test_a_declaration_is_frozen_with_all_that_it_holds():
    spec = declare(trusted_types=["a.B"])
    for field in spec.__dataclass_fields__:
        with pytest.raises(FrozenInstanceError):
            setattr(spec, field, None)
    assert (type(spec.owners), type(spec.features), type(spec.trusted_types)) == (tuple,) * 3
    assert hash(replace(spec, columns=spec.columns)) == hash(spec)


def test_a_change_is_checked_like_a_declaration():
    assert replace(declare(), seed=3).seed == 3
    with pytest.raises(SpecError, match=r"ModelSpec\.seed"):
        replace(declare(), seed=-3)


def test_every_slot_has_a_deployment_the_main_one_first():
    eu, main = mlct.Deployment(environment="eu"), mlct.Deployment(traffic=0.5)
    spec = declare(deployment=main, slots={"production-eu": eu})
    assert list(spec.deployments.items()) == [("production", main), ("production-eu", eu)]


@pytest.mark.parametrize("kind", ["ModelSpec", "Columns", "Deployment", "Windows", "RetrainPolicy"])
def test_everything_is_said_by_name(kind):
    with pytest.raises(TypeError, match="positional"):
        getattr(mlct, kind)("flight_delay")
    with pytest.raises(TypeError, match="unexpected keyword"):
        getattr(mlct, kind)(colour="red")


def test_an_error_keeps_its_parts():
    with pytest.raises(MlctError) as found:
        declare(seed=-1)
    assert str(found.value) == ". ".join(
        [found.value.found, f"Expected {found.value.expected}", found.value.fix]
    )


DECLARED = """
import sys
import mlct
mlct.ModelSpec(
    name="flight_delay",
    owners=["team:operations"],
    risk_tier="low",
    features=["flight_features"],
    columns=mlct.Columns(id="id", time="at", label="late"),
    windows=mlct.Windows(train="120d", holdout="30d"),
    contract=lambda: None,
    estimator=lambda: None,
    gate=mlct.GatePolicy(primary=mlct.Superiority("roc_auc", min_effect=0.002)),
)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_a_declaration_loads_no_heavy_library():
    run = [sys.executable, "-c", DECLARED]
    loaded = subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True, env=os.environ)
    heavy = {"great_expectations", "lightgbm", "matplotlib", "mlflow", "pandas", "skops", "sklearn"}
    assert heavy.isdisjoint(loaded.stdout.split())
    assert {"dagster", "scipy"}.isdisjoint(loaded.stdout.split())
