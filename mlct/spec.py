"""ModelSpec: what a data engineer writes. Frozen, keyword-only, checked on construction."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from os import PathLike
from typing import Any

from mlct.data.window import Columns, Windows
from mlct.errors import SpecError
from mlct.evaluation.gate import GatePolicy
from mlct.monitoring.breach import RollbackPolicy
from mlct.monitoring.policy import MonitoringPolicy
from mlct.monitoring.slo.objective import Objective, lacks_product
from mlct.monitoring.slo.openslo import load as load_slos
from mlct.monitoring.trigger import RetrainPolicy
from mlct.release.approval.approvers import RISK_TIERS
from mlct.release.approval.deployment import Deployment
from mlct.release.slot.state import FALLBACK


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """One continuously trained model.

    `features` is the asset that holds one row per prediction (a Dagster AssetKey, or its path);
    `contract` a great_expectations ExpectationSuite and `estimator` a scikit-learn compatible
    estimator, both as functions without arguments so that loading definitions stays light (a suite
    itself is taken too). `estimator` may also map names to such functions, and `seeds` hold more
    than one: then each pair is a candidate, the best on `Windows.selection` is fitted again on all
    training rows, and the holdout confirms it. `trusted_types` names classes of your own that a
    stored model may hold. `no_change` says that the last known label is at hand when scoring: the
    challenger must then beat repeating it. `cpu_hour_price` is what rules on `cost_per_thousand`
    count with. `deployment` says what `slot` stands for; `slots` names further slots, each with
    its own deployment, which the same evaluation puts forward and other approvals carry.
    `registry_stage` lets MLflow's stage Production follow `slot`, where the server still offers
    stages. `threshold`, the score from which consumers act, and `feature_version`, which you change
    with the feature code, belong to a version and go back with it; a slot `fallback` among `slots`
    holds what a rollback goes to when no earlier version is fit. `fallback` is an estimator
    function for it, such as a base rate: trained beside the challengers, compared with nothing, and
    promoted by the same approvals, to that slot only. `slos` is an OpenSLO v1 file, a
    folder of them, or what they say, parsed; it is kept as the objectives, and holds at least one
    of product behaviour where the risk tier is medium or high. Raises SpecError naming the field,
    what was found and what is allowed.
    """

    name: str
    owners: Sequence[str]
    risk_tier: str
    features: Any
    columns: Columns
    windows: Windows
    contract: Any
    estimator: Callable[[], Any] | Mapping[str, Callable[[], Any]]
    gate: GatePolicy
    retrain: RetrainPolicy = field(default_factory=RetrainPolicy)
    rollback: RollbackPolicy = field(default_factory=RollbackPolicy)
    monitoring: MonitoringPolicy = field(default_factory=MonitoringPolicy)
    description: str = ""
    slot: str = "production"
    deployment: Deployment = field(default_factory=Deployment)
    slots: Mapping[str, Deployment] = field(default_factory=dict, hash=False)
    registry_stage: bool = False
    threshold: float | None = None
    feature_version: str = ""
    fallback: Callable[[], Any] | None = None
    promotion: str = "manual"
    seed: int = 0
    seeds: Sequence[int] = ()
    trusted_types: Sequence[str] = ()
    no_change: bool = False
    cpu_hour_price: float | None = None
    slos: Any = None

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
            ("deployment", Deployment),
            ("rollback", RollbackPolicy),
            ("monitoring", MonitoringPolicy),
        ):
            check(name, isinstance(getattr(self, name), kind), f"a mlct.{kind.__name__}")
        check(
            "contract",
            _bare(self.contract) or hasattr(self.contract, "expectations"),
            "a great_expectations.ExpectationSuite, or a function without arguments giving one",
        )
        estimators = self._estimators
        check(
            "estimator",
            bool(estimators)
            and all(isinstance(n, str) and _bare(e) for n, e in estimators.items()),
            "a function without arguments that gives a scikit-learn compatible estimator, or a "
            "mapping of names to such functions",
        )
        named = "lower-case letters, digits, '-' and '_', but not challenger, drill, latest or v1"
        check("slot", _slot(self.slot), named)
        check(
            "slots",
            isinstance(self.slots, Mapping)
            and all(_slot(n) and n != self.slot for n in self.slots)
            and all(isinstance(d, Deployment) for d in self.slots.values()),
            f"a mapping of further slots ({named}) to a mlct.Deployment",
        )
        check(
            "threshold",
            self.threshold is None
            or (isinstance(self.threshold, int | float) and isfinite(self.threshold)),
            "a number, or None where nobody decides by one",
        )
        check(
            "fallback",
            self.fallback is None or (_bare(self.fallback) and FALLBACK in self.slots),
            f"a function without arguments that gives an estimator, with a slot {FALLBACK!r} in "
            "ModelSpec.slots; or None",
        )
        check("feature_version", isinstance(self.feature_version, str), "a text")
        check(
            "promotion",
            self.promotion == "manual",
            "'manual': only people promote, and there is no other way",
        )
        check("seed", _seed(self.seed), "a whole number from 0 to 2147483647")
        check(
            "seeds",
            isinstance(self.seeds, list | tuple)
            and all(map(_seed, self.seeds))
            and len(set(self.seeds)) == len(self.seeds),
            "distinct whole numbers from 0 to 2147483647",
        )
        object.__setattr__(self, "seeds", tuple(self.seeds))
        check(
            "windows",
            len(self.candidates) == 1 or self.windows.selection is not None,
            "Windows(selection=...), where one of several candidates is chosen",
        )
        check("no_change", isinstance(self.no_change, bool), "True or False")
        check("registry_stage", isinstance(self.registry_stage, bool), "True or False")
        price = self.cpu_hour_price
        check(
            "cpu_hour_price",
            price is None
            or (isinstance(price, int | float) and not isinstance(price, bool) and price >= 0),
            "what an hour of one CPU costs, or None",
        )
        check(
            "cpu_hour_price",
            price is not None or "cost_per_thousand" not in self.gate.measured,
            "a price: a rule of the gate limits cost_per_thousand",
        )
        check("description", isinstance(self.description, str), "a text")
        check(
            "slos",
            self.slos is None or isinstance(self.slos, str | PathLike | Mapping | list | tuple),
            "the path of an OpenSLO v1 file or folder, parsed documents, or None",
        )
        object.__setattr__(self, "slos", self._objectives())
        check(
            "trusted_types",
            isinstance(self.trusted_types, list | tuple)
            and all(isinstance(t, str) and "." in t for t in self.trusted_types),
            "full class names such as 'package.module.Class'",
        )
        object.__setattr__(self, "trusted_types", tuple(self.trusted_types))

    def _objectives(self) -> tuple[Objective, ...]:
        given = self.slos or ()
        read = isinstance(given, tuple) and all(isinstance(o, Objective) for o in given)
        found = given if read else load_slos(given)
        if lacks_product(self.risk_tier, found):
            raise SpecError(
                f"{self.name!r} has risk tier {self.risk_tier!r} and "
                f"{f'{len(found)} infrastructure SLOs only' if found else 'no SLO'}",
                expected="at least one product SLO (annotation mlct.dev/class: product)",
                fix="Name in ModelSpec.slos an OpenSLO file of what users are promised, such as a "
                "roc_auc of at least 0.65 on nine days of ten; `mlct slo explain FILE` shows it",
                field="slos",
            )
        return found

    @property
    def _estimators(self) -> Mapping[str, Callable[[], Any]]:
        given = self.estimator
        return given if isinstance(given, Mapping) else {"": given}

    @property
    def deployments(self) -> dict[str, Deployment]:
        """What every slot stands for, the main one first."""
        return {self.slot: self.deployment, **self.slots}

    @property
    def candidates(self) -> dict[str, tuple[Callable[[], Any], int]]:
        """Estimator function and seed of everything that a retrain tries, by name."""
        seeds = self.seeds or (self.seed,)
        return {
            (f"{name} seed {seed}".strip() if len(seeds) > 1 else name): (factory, seed)
            for name, factory in self._estimators.items()
            for seed in seeds
        }


def _slot(name: Any) -> bool:
    return (
        isinstance(name, str)
        and bool(re.fullmatch(r"[a-z][a-z0-9_-]{0,60}", name))
        # Aliases that MLflow, or mlct's registry, uses itself.
        and not re.fullmatch(r"challenger|drill|latest|v\d+", name)
    )


def _seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


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
