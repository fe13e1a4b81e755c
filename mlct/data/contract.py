"""Data contract: a Great Expectations suite, its verdict on one dataset, and its digest."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from mlct.data.digest import digest, plain
from mlct.errors import SpecError

#: A great_expectations ExpectationSuite, or a function without arguments that returns one (so that
#: importing the declaration does not import great_expectations).
Suite = Any

# Great Expectations lists the items of a set in an order that changes with the process.
_SETS = {"value_set", "column_set", "type_list"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """One failed expectation: which column, which rule, what was seen, how many rows."""

    column: str
    rule: str
    expected: str
    observed: str
    count: int

    def __str__(self) -> str:
        return in_words(asdict(self))


def in_words(violation: Mapping[str, Any]) -> str:
    """A violation, also as the ledger keeps it."""
    return f"{violation['column']} {violation['rule']} saw {violation['observed']}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ContractReport:
    """The verdict of a contract (by digest) on a dataset."""

    passed: bool
    contract: str
    expectations: int
    violations: tuple[Violation, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, as the ledger keeps it."""
        return asdict(self) | {"violations": [asdict(v) for v in self.violations]}


def suite_of(contract: Suite | Callable[[], Suite]) -> Suite:
    """The suite itself. Raises SpecError when it is not one."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    suite = contract() if callable(contract) else contract
    if not hasattr(suite, "expectations") or not hasattr(suite, "to_json_dict"):
        raise SpecError(
            f"ModelSpec.contract gives a {type(suite).__qualname__}",
            expected="a great_expectations.ExpectationSuite, or a function that returns one",
        )
    if not suite.expectations:
        raise SpecError(f"the contract {suite.name!r} has no expectations", expected="at least one")
    return suite


def row_rules(suite: Suite) -> Suite | None:
    """The rules of a suite on the values of rows; None without one.

    Of a window, they tell what the whole suite would of a training set with these rows in it: rules
    on the table, such as its number of rows, speak of whole training sets only.
    """
    from great_expectations import ExpectationSuite
    from great_expectations.expectations import expectation as kinds

    of_rows = (
        kinds.ColumnMapExpectation,
        kinds.ColumnPairMapExpectation,
        kinds.MulticolumnMapExpectation,
    )
    rules = [e.copy(update={"id": None}) for e in suite.expectations if isinstance(e, of_rows)]
    return ExpectationSuite(name=suite.name, expectations=rules) if rules else None


def parameters_of(time: pa.DataType, **instants: datetime) -> dict[str, datetime]:
    """Parameters as a time column has them: without a zone where it has none, as Great Expectations
    compares such times to such only."""
    if time.tz is not None:
        return instants
    return {name: at.replace(tzinfo=None) for name, at in instants.items()}


def contract_digest(suite: Suite) -> str:
    """Digest of a suite's rules: names, ids and the order of declaration do not count."""
    return digest(sorted((_rule(e.configuration) for e in suite.expectations), key=digest))


def _rule(configuration: Any) -> dict[str, Any]:
    kwargs = plain({k: v for k, v in configuration.kwargs.items() if k != "batch_id"})
    for name in _SETS & kwargs.keys():
        if isinstance(kwargs[name], list):
            kwargs[name] = sorted(kwargs[name], key=digest)
    return {"type": configuration.type, "kwargs": kwargs}


def validate(
    suite: Suite, data: pa.Table, *, parameters: Mapping[str, datetime | str | float]
) -> ContractReport:
    """Validate `data` (rows in memory) against a suite.

    `parameters` fill `{"$PARAMETER": name}` in expectations; mlct passes `as_of`, `train_start`,
    `holdout_start`, `holdout_end` and `fresh_after` (one cluster before the holdout's end). An
    expectation that itself fails to run is a violation: a contract that cannot be checked has not
    passed. Raises SpecError for a parameter that mlct does not have.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    batch = (
        context.data_sources.add_pandas("mlct")
        .add_dataframe_asset("training_set")
        .add_batch_definition_whole_dataframe("all")
        .get_batch({"dataframe": data.to_pandas()})
    )
    try:
        result: Any = batch.validate(
            suite, expectation_parameters=dict(parameters), result_format="SUMMARY"
        )
    except gx.exceptions.SuiteParameterError as error:
        raise SpecError(
            f"the contract {suite.name!r} asks for a parameter that mlct does not have: {error}",
            expected=", ".join(sorted(parameters)),
            fix="Correct the {'$PARAMETER': ...} in the suite",
        ) from error
    return ContractReport(
        passed=bool(result.success),
        contract=contract_digest(suite),
        expectations=len(result.results),
        violations=tuple(_violation(r) for r in result.results if not r.success),
    )


def _violation(result: Any) -> Violation:
    config = result.expectation_config
    kwargs = {k: v for k, v in config.kwargs.items() if k not in ("batch_id", "column")}
    raised = (result.exception_info or {}).get("exception_message") or "; ".join(
        dict.fromkeys(
            str(info.get("exception_message"))
            for info in (result.exception_info or {}).values()
            if isinstance(info, dict) and info.get("raised_exception")
        )
    )
    seen = result.result or {}
    observed = seen.get("observed_value")
    if observed is None:
        missing = sorted(seen.get("partial_missing_list", ()), key=str)
        observed = seen.get("partial_unexpected_list") or missing or "nothing"
    count = seen.get("unexpected_count", seen.get("missing_count"))
    return Violation(
        column=str(config.kwargs.get("column") or "(table)"),
        rule=config.type,
        expected=", ".join(f"{k}={v}" for k, v in sorted(kwargs.items())),
        observed=f"could not be checked: {raised}" if raised else _short(observed),
        count=int(count) if count is not None else 1,
    )


def _short(value: Any) -> str:
    text = (
        ", ".join(map(str, dict.fromkeys(map(str, value))))
        if isinstance(value, list)
        else str(value)
    )
    return text if len(text) <= 120 else text[:117] + "..."
