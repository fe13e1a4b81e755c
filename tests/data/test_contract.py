"""Contracts: real Great Expectations suites, every violation listed, digests of the rules alone."""

import re
from datetime import UTC, date, datetime, timedelta

import great_expectations as gx
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from mlct.data.contract import contract_digest, suite_of, validate
from mlct.data.digest import canonical
from mlct.data.window import Columns, Windows, cut
from mlct.errors import SpecError

e = gx.expectations
DAYS = [datetime(2013, 1, day, tzinfo=UTC) for day in (1, 2, 3, 4)]
ROWS = pa.table(
    {
        "id": [1, 2, 3, 3],
        "x": [0.5, None, 2.5, 99.0],
        "s": ["a", "b", None, "a"],
        "at": pa.array(DAYS, pa.timestamp("us", "UTC")),
        "local": pa.array(DAYS, pa.timestamp("us")),
        "day": pa.array([day.date() for day in DAYS]),
        "big": pa.array([2**60] * 4),
        "void": pa.nulls(4, pa.float64()),
    }
)
FRESH = {"$PARAMETER": "fresh_after"}
PARAMETERS = {"fresh_after": datetime(2013, 1, 3, tzinfo=UTC)}


def suite(*expectations, name="rules"):
    return gx.ExpectationSuite(name=name, expectations=list(expectations))


def report(*expectations, **parameters):
    return validate(suite(*expectations), ROWS, parameters=PARAMETERS | parameters)


def test_rows_as_agreed_pass():
    found = report(
        e.ExpectTableRowCountToBeBetween(min_value=4, max_value=4),
        e.ExpectColumnValuesToNotBeNull(column="x", mostly=0.7),
        e.ExpectColumnValuesToBeInSet(column="s", value_set={"a", "b"}),
        e.ExpectColumnMaxToBeBetween(column="at", min_value=FRESH),
    )
    assert (found.passed, found.expectations, found.violations) == (True, 4, ())


@pytest.mark.parametrize(
    ("expectation", "column", "rule", "observed", "count"),
    [
        (e.ExpectColumnValuesToNotBeNull(column="x"), "x", "values_to_not_be_null", "nan", 1),
        (e.ExpectColumnValuesToBeUnique(column="id"), "id", "values_to_be_unique", "3", 2),
        (
            e.ExpectColumnValuesToBeBetween(column="x", min_value=0, max_value=1),
            "x",
            "values_to_be_between",
            "2.5, 99.0",
            2,
        ),
        (
            e.ExpectColumnValuesToBeBetween(column="big", max_value=2**59),
            "big",
            "values_to_be_between",
            str(2**60),
            4,
        ),
        (
            e.ExpectColumnValuesToBeInSet(column="s", value_set=["b"]),
            "s",
            "values_to_be_in_set",
            "a",
            2,
        ),
        (
            e.ExpectColumnValuesToMatchRegex(column="s", regex="^[bc]$"),
            "s",
            "values_to_match_regex",
            "a",
            2,
        ),
        (
            e.ExpectColumnValuesToBeOfType(column="id", type_="float64"),
            "id",
            "values_to_be_of_type",
            "int64",
            1,
        ),
        (
            e.ExpectColumnMeanToBeBetween(column="x", max_value=1),
            "x",
            "mean_to_be_between",
            "34.0",
            1,
        ),
        (
            e.ExpectColumnDistinctValuesToBeInSet(column="s", value_set=["a"]),
            "s",
            "distinct_values_to_be_in_set",
            "b",
            1,
        ),
        (
            e.ExpectColumnDistinctValuesToContainSet(column="s", value_set=["a", "q", "r"]),
            "s",
            "distinct_values_to_contain_set",
            "q, r",
            2,
        ),
        (
            e.ExpectColumnMaxToBeBetween(column="at", min_value=datetime(2013, 2, 1, tzinfo=UTC)),
            "at",
            "max_to_be_between",
            "2013-01-04 00:00:00+00:00",
            1,
        ),
        (
            e.ExpectColumnValuesToBeBetween(column="day", max_value=date(2013, 1, 3)),
            "day",
            "values_to_be_between",
            "2013-01-04",
            1,
        ),
        (
            e.ExpectColumnMeanToBeBetween(column="void", max_value=1),
            "void",
            "mean_to_be_between",
            "nothing",
            1,
        ),
        (
            e.ExpectTableRowCountToBeBetween(min_value=9),
            "(table)",
            "table_row_count_to_be_between",
            "4",
            1,
        ),
        (
            e.ExpectTableColumnsToMatchSet(column_set=["id", "x"]),
            "(table)",
            "table_columns_to_match_set",
            "at, big, day, id, local, s, void, x",
            1,
        ),
        (
            e.ExpectCompoundColumnsToBeUnique(column_list=["id", "big"]),
            "(table)",
            "compound_columns_to_be_unique",
            "{'id': 3, 'big': 1152921504606846976}",
            2,
        ),
    ],
    ids=lambda v: type(v).__name__ if hasattr(v, "configuration") else "",
)
def test_each_kind_of_failure_says_what_was_seen(expectation, column, rule, observed, count):
    found = report(expectation, e.ExpectColumnToExist(column="x"))
    (violation,) = found.violations
    assert not found.passed
    assert found.expectations == 2
    assert violation.rule.endswith(rule)
    assert (violation.column, violation.observed, violation.count) == (column, observed, count)


def test_a_violation_says_what_was_expected():
    (found,) = report(
        e.ExpectColumnValuesToBeBetween(column="x", min_value=0, max_value=1)
    ).violations
    assert found.expected == "max_value=1.0, min_value=0.0"


def test_every_violation_is_listed_not_only_the_first():
    names = ["x", "s", "gone"]
    found = report(*(e.ExpectColumnValuesToNotBeNull(column=name) for name in names))
    assert sorted(v.column for v in found.violations) == sorted(names)


@pytest.mark.parametrize(
    ("expectation", "says"),
    [
        (e.ExpectColumnValuesToNotBeNull(column="gone"), 'column "gone" .* does not exist'),
        (e.ExpectColumnMeanToBeBetween(column="s", min_value=0), "Cannot perform .*mean"),
        (e.ExpectColumnValuesToBeBetween(column="s", min_value=1), "same type"),
        (e.ExpectColumnMaxToBeBetween(column="local", min_value=FRESH), "offset-naive and offset"),
    ],
    ids=["missing column", "mean of text", "text above 1", "time without a zone"],
)
def test_what_cannot_be_checked_has_not_passed(expectation, says):
    found = report(expectation)
    assert not found.passed
    (violation,) = found.violations
    assert violation.column == expectation.column
    assert violation.count == 1
    assert re.match(f"could not be checked: .*{says}", violation.observed)


def test_long_observations_are_cut():
    rows = pa.table({"s": [f"value {n:09}" for n in range(50)]})
    rule = e.ExpectColumnValuesToBeInSet(column="s", value_set=["x"])
    (violation,) = validate(suite(rule), rows, parameters={}).violations
    assert violation.count == 50
    assert len(violation.observed) == 120
    assert violation.observed.endswith("...")


def test_a_report_is_a_record():
    found = report(e.ExpectColumnValuesToNotBeNull(column="x"))
    record = found.to_dict()
    assert canonical(record)
    assert record["violations"][0]["column"] == "x"
    assert record["contract"] == found.contract


def test_parameters_are_filled_in():
    rule = e.ExpectColumnMaxToBeBetween(column="at", min_value=FRESH)
    assert report(rule).passed
    assert not report(rule, fresh_after=datetime(2013, 1, 5, tzinfo=UTC)).passed


def test_a_parameter_that_mlct_does_not_have_is_named():
    rule = e.ExpectColumnMaxToBeBetween(column="at", min_value={"$PARAMETER": "fresh_since"})
    with pytest.raises(SpecError, match=r"'rules' asks .*fresh_since.* Expected fresh_after"):
        report(rule)


def test_times_without_a_zone_work_from_cut_to_verdict():
    """Naive times are UTC; Great Expectations compares them with naive parameters."""
    start = datetime(2013, 1, 1)  # noqa: DTZ001
    hours = [start + timedelta(hours=n) for n in range(72)]
    data = pa.table({"id": range(72), "at": pa.array(hours, pa.timestamp("ms")), "y": [1] * 72})
    found = cut(
        ds.dataset(data),
        Columns(id="id", time="at", label="y"),
        Windows(train="2d", holdout="1d"),
        as_of=datetime(2013, 1, 4, tzinfo=UTC),
    )
    rows = pa.concat_tables([found.train, found.holdout])
    rule = e.ExpectColumnMaxToBeBetween(column="at", min_value=FRESH, max_value=hours[-1])
    for late, passed in ((0, True), (2, False)):
        fresh = (found.holdout_end - timedelta(hours=1 - late)).replace(tzinfo=None)
        assert validate(suite(rule), rows, parameters={"fresh_after": fresh}).passed is passed


RULE = {"column": "x", "min_value": 0, "max_value": 1, "mostly": 0.9}
MEAN = e.ExpectColumnMeanToBeBetween(column="x", max_value=1)


def between(**changes):
    return e.ExpectColumnValuesToBeBetween(**RULE | changes)


def test_order_names_and_notes_do_not_count():
    noted = between(notes="why", meta={"by": "ana"})
    same = [suite(between(), MEAN), suite(MEAN, between()), suite(noted, MEAN, name="others")]
    assert len({contract_digest(s) for s in same}) == 1


@pytest.mark.parametrize(
    "other",
    [
        [],
        [between(), between()],
        [between(column="s")],
        [between(min_value=1)],
        [between(min_value=None)],
        [between(max_value=2)],
        [between(max_value=float("inf"))],
        [between(max_value=2**60)],
        [between(min_value=FRESH)],
        [between(mostly=0.8)],
        [between(strict_min=True)],
        [e.ExpectColumnMinToBeBetween(column="x", min_value=0, max_value=1)],
    ],
)
def test_any_other_rule_gives_another_digest(other):
    assert contract_digest(suite(MEAN, *other)) != contract_digest(suite(MEAN, between()))


def test_checking_leaves_the_suite_as_it_was():
    """One suite object serves every training set; its digest is what the challenger asks for."""
    rules = suite(e.ExpectColumnMaxToBeBetween(column="at", min_value=FRESH), MEAN)
    before = contract_digest(rules)
    first = validate(rules, ROWS, parameters=PARAMETERS)
    assert first.contract == before == contract_digest(rules)
    later = {"fresh_after": datetime(2014, 1, 1, tzinfo=UTC)}
    assert len(validate(rules, ROWS, parameters=later).violations) == 2
    assert validate(rules, ROWS, parameters=PARAMETERS) == first


@pytest.mark.parametrize("items", [["a", "b"], ["b", "a"], {"a", "b"}, ("b", "a")])
def test_the_order_of_a_set_does_not_count(items):
    """Great Expectations makes a list of a set, in an order that changes with the process."""
    rules = suite(
        e.ExpectColumnValuesToBeInSet(column="s", value_set=items),
        e.ExpectTableColumnsToMatchSet(column_set=items),
        e.ExpectColumnValuesToBeInTypeList(column="s", type_list=list(items)),
    )
    assert contract_digest(rules) == contract_digest(
        suite(
            e.ExpectColumnValuesToBeInSet(column="s", value_set=["a", "b"]),
            e.ExpectTableColumnsToMatchSet(column_set=["a", "b"]),
            e.ExpectColumnValuesToBeInTypeList(column="s", type_list=["a", "b"]),
        )
    )


def test_a_suite_or_a_function_that_gives_one():
    rules = suite(MEAN)
    assert suite_of(rules) is suite_of(lambda: rules) is rules


@pytest.mark.parametrize(
    ("contract", "says"),
    [
        (lambda: None, "gives a NoneType"),
        (lambda: {"expectations": [1]}, "gives a dict"),
        (3, "gives a int"),
        (between(), "gives a ExpectColumnValuesToBeBetween"),
        (lambda: suite(), "'rules' has no expectations"),
    ],
)
def test_anything_else_is_no_contract(contract, says):
    with pytest.raises(SpecError, match=says):
        suite_of(contract)
