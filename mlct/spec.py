"""ModelSpec: what a data engineer writes. Frozen, keyword-only, checked on construction."""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlct.data.window import Columns, Windows
from mlct.errors import SpecError
from mlct.evaluation.gate import GatePolicy
from mlct.monitoring.trigger import RetrainPolicy
from mlct.release.approval.approvers import RISK_TIERS


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """One continuously trained model.

    `features` is the asset that holds one row per prediction (a Dagster AssetKey, or its path);
    `contract` a great_expectations ExpectationSuite and `estimator` a scikit-learn compatible
    estimator, both as functions without arguments so that loading definitions stays light (a suite
    itself is taken too). `trusted_types` names classes of your own that a stored model may hold.
    Raises SpecError naming the field, what was found and what is allowed.
    """

    name: str
    owners: Sequence[str]
    risk_tier: str
    features: Any
    columns: Columns
    windows: Windows
    contract: Any
    estimator: Callable[[], Any]
    gate: GatePolicy
    retrain: RetrainPolicy = field(default_factory=RetrainPolicy)
    description: str = ""
    slot: str = "production"
    promotion: str = "manual"
    seed: int = 0
    trusted_types: Sequence[str] = ()

    def __post_init__(self) -> None:
        def check(name: str, right: bool, expected: str) -> None:
            if not right:
                found = getattr(self, name)
                raise SpecError(
                    f"ModelSpec.{name} of {self.name!r} is {found!r}",
                    expected=expected,
                    fix="Correct the declaration and load the definitions again",
                    field=name,
                    value=found,
                )

        check(
            "name",
            isinstance(self.name, str) and bool(re.fullmatch(r"[a-z][a-z0-9_]{0,60}", self.name)),
            "lower-case letters, digits and underscores, starting with a letter",
        )
        owners = [self.owners] if isinstance(self.owners, str) else self.owners
        check(
            "owners",
            isinstance(owners, list | tuple)
            and bool(owners)
            and all(re.fullmatch(r"team:\S+|[\w.%+-]+@[\w.-]+\.\w{2,7}", str(o)) for o in owners),
            "at least one 'team:NAME' or e-mail address",
        )
        object.__setattr__(self, "owners", tuple(owners))
        check("risk_tier", self.risk_tier in RISK_TIERS, " or ".join(map(repr, RISK_TIERS)))
        path = getattr(self.features, "path", self.features)
        path = (path,) if isinstance(path, str) else path
        check(
            "features",
            isinstance(path, list | tuple)
            and bool(path)
            and all(isinstance(p, str) and p for p in path),
            "an AssetKey, or its path as a string or a list of strings",
        )
        object.__setattr__(self, "features", tuple(path))
        for name, kind in (
            ("columns", Columns),
            ("windows", Windows),
            ("gate", GatePolicy),
            ("retrain", RetrainPolicy),
        ):
            check(name, isinstance(getattr(self, name), kind), f"a mlct.{kind.__name__}")
        check(
            "contract",
            _bare(self.contract) or hasattr(self.contract, "expectations"),
            "a great_expectations.ExpectationSuite, or a function without arguments giving one",
        )
        check(
            "estimator",
            _bare(self.estimator),
            "a function without arguments that gives a scikit-learn compatible estimator",
        )
        check(
            "slot",
            isinstance(self.slot, str)
            and bool(re.fullmatch(r"[a-z][a-z0-9_-]{0,60}", self.slot))
            # Aliases that MLflow, or mlct's registry, uses itself.
            and not re.fullmatch(r"challenger|latest|v\d+", self.slot),
            "lower-case letters, digits, '-' and '_', but not challenger, latest or v1",
        )
        check(
            "promotion",
            self.promotion == "manual",
            "'manual': only people promote, and there is no other way",
        )
        check(
            "seed",
            isinstance(self.seed, int) and 0 <= self.seed < 2**31,
            "a whole number from 0 to 2147483647",
        )
        check("description", isinstance(self.description, str), "a text")
        check(
            "trusted_types",
            isinstance(self.trusted_types, list | tuple)
            and all(isinstance(t, str) and "." in t for t in self.trusted_types),
            "full class names such as 'package.module.Class'",
        )
        object.__setattr__(self, "trusted_types", tuple(self.trusted_types))


def _bare(value: Any) -> bool:
    """Whether `value` can be called without arguments."""
    if not callable(value):
        return False
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):  # built in C: nothing to check
        return True
    return all(
        p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters
    )
