"""OpenSLO v1 is read unchanged; what is wrong is said with file, document, path and expectation."""

import copy
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlct.errors import SpecError
from mlct.monitoring.slo import load
from mlct.monitoring.slo.document import KINDS, read

OPENSLO = Path(__file__).parent / "openslo"

SLO: dict[str, Any] = {
    "apiVersion": "openslo/v1",
    "kind": "SLO",
    "metadata": {"name": "offer-precision", "annotations": {"mlct.dev/class": "product"}},
    "spec": {
        "service": "churn",
        "budgetingMethod": "Timeslices",
        "timeWindow": [{"duration": "28d", "isRolling": True}],
        "indicator": {
            "metadata": {"name": "precision"},
            "spec": {
                "thresholdMetric": {
                    "metricSource": {"type": "mlct", "spec": {"metric": "precision_at_k"}}
                }
            },
        },
        "objectives": [
            {
                "op": "gte",
                "value": 0.62,
                "targetPercent": 95,
                "timeSliceTarget": 0.95,
                "timeSliceWindow": "15m",
            }
        ],
        "alertPolicies": [{"alertPolicyRef": "mlct-default"}],
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """SLO with one field set, or gone where the value is KeyError."""
    found = copy.deepcopy(SLO)
    *way, last = [int(p) if p.isdigit() else p for p in path.split("/")]
    at: Any = found
    for step in way:
        at = at[step]
    if value is KeyError:
        del at[last]
    else:
        at[last] = value
    return found


def test_every_kind_is_read():
    kinds = {n.value["kind"] for n in read(OPENSLO)}
    assert kinds == set(KINDS)


def test_a_folder_is_read_whole_with_references_across_documents():
    names = [o.name for o in load(OPENSLO)]
    assert names == [
        "journey/search",
        "journey/pay",
        "main-page/Internal",
        "main-page/Contract",
        "lag",
        "answers",
        "uptime",
    ]


def test_an_objective_holds_what_was_written():
    by_name = {o.name: o for o in load(OPENSLO)}
    contract = by_name["main-page/Contract"]
    assert (contract.indicator, contract.ratio, contract.method) == (
        "main-page-answers",
        True,
        "Occurrences",
    )
    assert contract.target == pytest.approx(0.99)
    assert [
        (c.name, c.severity, c.threshold, str(c.lookback), str(c.after))
        for c in contract.conditions or ()
    ] == [
        ("fast-burn", "page", 2, "1h", "5m"),
        ("slow-burn-condition", "ticket", 1, "3d", "None"),
    ]
    lag = by_name["lag"]
    assert (lag.op, lag.value, lag.slice_target, str(lag.slice)) == ("lt", 1000, 0.95, "1m")
    assert lag.period.start == datetime(2022, 1, 1, 12)  # noqa: DTZ001  # on the zone's clock
    assert lag.period.zone == "America/New_York"
    assert lag.conditions is None
    answers = by_name["answers"]
    assert (answers.method, answers.length) == ("RatioTimeslices", timedelta(minutes=5))
    assert by_name["uptime"].raw == "failure"
    assert [by_name[f"journey/{n}"].indicator for n in ("search", "pay")] == [
        "searches",
        "payments",
    ]


def test_without_annotation_an_slo_is_infrastructure():
    assert not any(o.product for o in load(OPENSLO))
    assert load(SLO)[0].product


def test_a_file_and_what_it_says_parsed_are_the_same(tmp_path):
    path = tmp_path / "slo.yaml"
    path.write_text(yaml.safe_dump(SLO))
    assert load(path) == load(str(path)) == load(SLO) == load([SLO])


def test_a_time_stays_what_was_written(tmp_path):
    path = tmp_path / "slo.yaml"
    calendar = "{startTime: 2022-01-01 12:00:00, timeZone: UTC}"
    text = yaml.safe_dump(SLO).replace("isRolling: true", f"calendar: {calendar}")
    path.write_text(text)
    assert "12:00" in read(path)[0].value["spec"]["timeWindow"][0]["calendar"]["startTime"]
    assert load(path)[0].period.start is not None


def test_a_yaml_switch_means_on_or_off(tmp_path):
    path = tmp_path / "slo.yaml"
    path.write_text(
        yaml.safe_dump(SLO).replace("mlct.dev/class:", "mlct.dev/cusum: off\n    mlct.dev/class:")
    )
    assert load(path)[0].options.cusum is False


def test_null_policies_and_empty_documents_are_none(tmp_path):
    path = tmp_path / "slo.yaml"
    path.write_text("---\n" + yaml.safe_dump(changed("spec/alertPolicies", None)) + "\n---\n")
    assert load(path)[0].conditions is None


WRONG = [
    ("apiVersion", "openslo/v2alpha", "openslo/v1"),
    ("kind", "SL0", "AlertPolicy"),
    ("metadata/name", KeyError, "a name"),
    ("metadata/name", "two words", "without blanks"),
    ("metadata/annotations", {"mlct.dev/clas": "product"}, "class"),
    ("metadata/annotations", {"mlct.dev/class": "produkt"}, "infrastructure"),
    ("metadata/annotations", {"mlct.dev/min-bad": "1"}, "from 2 on"),
    ("metadata/annotations", {"mlct.dev/sustained": "1/5"}, "2 <= k"),
    ("metadata/annotations", {"mlct.dev/sustained": "5/3"}, "k <= n"),
    ("metadata/annotations", {"mlct.dev/confidence": "1"}, "below 1"),
    ("metadata/annotations", {"mlct.dev/no-data": "fine"}, "bad, ignore, good"),
    ("metadata/annotations", {"mlct.dev/delay": "soon"}, "28d"),
    ("spec", KeyError, "spec"),
    ("spec/service", KeyError, "service"),
    ("spec/budgetingMethod", "Sometimes", "Occurrences"),
    ("spec/timeWindow", [], "exactly one"),
    ("spec/timeWindow/0/duration", "28 days", "such as 28d"),
    ("spec/timeWindow/0/duration", "0d", "above 0"),
    ("spec/timeWindow/0/isRolling", "yes", "true or false"),
    ("spec/timeWindow/0/isRolling", False, "calendar"),
    ("spec/timeWindow/0", {"duration": "1M", "calendar": {"startTime": "soon"}}, "2022-01-01"),
    (
        "spec/timeWindow/0",
        {"duration": "1M", "calendar": {"startTime": "2022-01-01", "timeZone": "Mars/Base"}},
        "IANA",
    ),
    (
        "spec/timeWindow/0",
        {"duration": "1M", "calendar": {"startTime": "2022-01-01T00:00Z", "timeZone": "UTC"}},
        "without a zone",
    ),
    ("spec/indicator", KeyError, "once in the spec"),
    ("spec/indicatorRef", "precision", "exactly one"),
    ("spec/indicator/spec", {}, "thresholdMetric"),
    ("spec/indicator/spec/ratioMetric", {}, "exactly one"),
    ("spec/objectives", [], "at least one"),
    ("spec/objectives/0/targetPercent", 100, "below 100"),
    ("spec/objectives/0/targetPercent", True, "percentage"),
    ("spec/objectives/0/targetPercent", float("nan"), "percentage"),
    ("spec/objectives/0/target", 0.95, "exactly one"),
    ("spec/objectives/0/op", "=>", "gte"),
    ("spec/objectives/0/op", KeyError, "compares"),
    ("spec/objectives/0/value", "0.62", "a number"),
    ("spec/objectives/0/timeSliceWindow", KeyError, "length of a slice"),
    ("spec/objectives/0/timeSliceTarget", KeyError, "slice good"),
    ("spec/objectives/0/timeSliceTarget", 1.5, "up to 1"),
    ("spec/objectives/0/targetPrecent", 95, "targetPercent"),
    ("spec/alertPolicies", [{"alertPolicyRef": "nowhere"}], "mlct-default"),
    ("spec/alertPolicies", "mlct-default", "a list"),
]


@pytest.mark.parametrize(("path", "value", "expected"), WRONG)
def test_what_is_wrong_is_named_with_file_document_path_and_what_is_right(
    tmp_path, path, value, expected
):
    file = tmp_path / "slo.yaml"
    service = {"apiVersion": "openslo/v1", "kind": "Service", "metadata": {"name": "churn"}}
    file.write_text(yaml.safe_dump_all([service, changed(path, value)]))
    with pytest.raises(SpecError) as found:
        load(file)
    error = found.value
    assert (error.file, error.document) == (str(file), 2)
    assert f"{file}, document 2: " in str(error)
    assert expected in error.expected
    last = path.split("/")[-1] if not path[-1].isdigit() else path.split("/")[-2]
    assert error.path.split("[")[0].split(".")[0] in ("", *path.split("/"))
    assert last in str(error) or "spec" in error.path


def test_a_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "slo.yaml"
    path.write_text(yaml.safe_dump(SLO) + "kind: SLO\n")
    with pytest.raises(SpecError, match="'kind' stands twice"):
        load(path)


def test_a_name_that_stands_twice_is_refused_with_both_places():
    with pytest.raises(SpecError, match=r"document 1.*offer-precision"):
        load([SLO, SLO])


@pytest.mark.parametrize(
    "text", ["", "---\n---\n", "a: [", "\t- x", "just words", "- 3", "&a [*a]"]
)
def test_what_is_no_openslo_is_refused(tmp_path, text):
    path = tmp_path / "slo.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=r"slo\.yaml"):
        load(path)


def test_no_file_and_an_empty_folder_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(SpecError, match="there is no SLO file"):
            load(path)


def test_a_threshold_without_value_is_read_as_openslo_reads_it():
    (objective,) = load(changed("spec/objectives/0/value", KeyError))
    assert (objective.value, objective.limit) == (None, 0.95)
