"""OpenSLO v1 as objectives: references resolved, mlct's annotations read, rules linted."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from mlct.errors import SpecError
from mlct.monitoring.slo.document import Node, Source, name_of, read
from mlct.monitoring.slo.objective import OPERATORS, Condition, Objective, Options
from mlct.monitoring.slo.period import Period, Span
from mlct.monitoring.slo.rule import compiled

#: The alert policy that asks for what mlct does anyway, declared in no file.
DEFAULT_POLICY = "mlct-default"
_METHODS = ("Occurrences", "Timeslices", "RatioTimeslices")
_SLO = (
    *("description", "service", "indicator", "indicatorRef", "timeWindow", "budgetingMethod"),
    *("objectives", "alertPolicies"),
)
_OBJECTIVE = (
    *("displayName", "op", "value", "target", "targetPercent", "timeSliceTarget"),
    *("timeSliceWindow", "indicator", "indicatorRef", "compositeWeight"),
)
_PREFIX = "mlct.dev/"


def load(source: Source) -> tuple[Objective, ...]:
    """The objectives of OpenSLO v1 files: a path, a folder, or parsed documents.

    Raises SpecError naming file, document, path, what was found and what is expected: also for
    rules that can never fire, or that one bad slice sets off.
    """
    nodes = read(source)
    named: dict[tuple[str, str], Node] = {}
    for node in nodes:
        key = (node.need("kind").text(), name_of(node))
        if key in named:
            raise node.child("metadata.name", key[1]).refuse(
                f"another name: the {key[0]} of this name stands in {named[key].file}, "
                f"document {named[key].document}"
            )
        named[key] = node
    for (kind, _), node in named.items():
        if kind == "SLI":
            _indicator(node.need("spec"))
        elif kind == "AlertCondition":
            _condition(node)
        elif kind == "AlertPolicy":
            _policy(node, named)
    found = [o for (kind, _), node in named.items() if kind == "SLO" for o in _slo(node, named)]
    for objective in found:
        compiled(objective, objective.length)
    return tuple(found)


def _slo(node: Node, named: Mapping[tuple[str, str], Node]) -> list[Objective]:
    spec = node.need("spec", "the SLO's spec")
    spec.mapping(_SLO)
    several = spec.need("objectives", "a list of objectives").items()
    if not several:
        raise spec.need("objectives").refuse("at least one objective")
    annotations = node.need("metadata").get("annotations")
    kind, options = _options(annotations) if annotations else ("infrastructure", Options())
    method = spec.need("budgetingMethod", " or ".join(_METHODS)).one_of(*_METHODS)
    shared: dict[str, Any] = {
        "slo": name_of(node),
        "product": kind == "product",
        "method": method,
        "period": _period(spec),
        "service": spec.need("service", "a service's name").text(),
        "description": text.text() if (text := spec.get("description")) else "",
        "conditions": _conditions(spec, named),
        "options": options,
    }
    own = [o.get("indicator") or o.get("indicatorRef") for o in several]
    above = spec.get("indicator") or spec.get("indicatorRef")
    if (above is None) == (not any(own)) or (any(own) and not all(own)):
        raise spec.refuse(
            "indicator or indicatorRef once in the spec, or once in each objective",
            found=f"names {'an indicator twice' if above else 'no indicator for each objective'}",
        )
    found = []
    for number, part in enumerate(several, 1):
        part.mapping(_OBJECTIVE)
        label = name.text() if (name := part.get("displayName")) else str(number)
        name_ = shared["slo"] if len(several) == 1 else f"{shared['slo']}/{label}"
        indicator = _resolved(spec if above else part, named)
        found.append(
            Objective(name=name_, **shared, **indicator, **_goal(part, method, indicator["ratio"]))
        )
    names = [o.name for o in found]
    if len(set(names)) < len(names):
        raise spec.need("objectives").refuse("distinct displayNames", found=f"has names {names}")
    return found


def _goal(part: Node, method: str, ratio: bool) -> dict[str, Any]:
    """Target, threshold and slices of one objective."""
    share = part.either("target", "targetPercent")
    percent = share.path.endswith("Percent")
    if percent:
        target = share.number("a percentage from 0 to below 100", low=0, below=100) / 100
    else:
        target = share.number(
            "a share from 0 to below 1: an objective of 1 has no error budget", low=0, below=1
        )
    if weight := part.get("compositeWeight"):
        weight.number("a weight above 0", low=1e-12)
    goal: dict[str, Any] = {"target": target}
    op, value = part.get("op"), part.get("value")
    if op:
        goal["op"] = op.one_of(*OPERATORS)
    if value:
        goal["value"] = value.number()
    if not ratio and value and not op:
        part.need("op", "how the metric compares with the value: gte, gt, lte or lt")
    if method != "Occurrences":
        length = part.need("timeSliceWindow", f"the length of a slice: {method} needs it")
        goal["slice"] = length.span(minutes=True)
    if method == "Timeslices":
        good = part.need("timeSliceTarget", "what makes a slice good: Timeslices needs it")
        goal["slice_target"] = good.number("a share above 0 and up to 1", low=1e-12, high=1)
    elif not ratio and method == "RatioTimeslices":
        raise part.refuse("Occurrences or Timeslices", found="asks for ratios of a thresholdMetric")
    return goal


def _resolved(spec: Node, named: Mapping[tuple[str, str], Node]) -> dict[str, Any]:
    given = spec.either("indicator", "indicatorRef")
    if given.path.endswith("Ref"):
        name = given.text("the name of an SLI")
        node = named.get(("SLI", name))
        if node is None:
            known = ", ".join(n for kind, n in named if kind == "SLI")
            raise given.refuse(f"an SLI of the same files: {known or 'there is none'}")
        return {"indicator": name, **_indicator(node.need("spec"))}
    return {"indicator": name_of(given), **_indicator(given.need("spec", "the indicator's spec"))}


def _indicator(spec: Node) -> dict[str, Any]:
    metric = spec.either("thresholdMetric", "ratioMetric")
    parts, raw = [metric], ""
    if ratio := metric.path.endswith("ratioMetric"):
        if metric.get("raw"):
            raw = metric.need("rawType", "success or failure").one_of("success", "failure")
            parts = [metric.either("raw", "good", "bad")]
        else:
            parts = [metric.either("good", "bad"), metric.need("total", "what is counted")]
        if counter := metric.get("counter"):
            counter.flag()
    for part in parts:
        part.need("metricSource", "where the metric comes from").mapping()
    source = parts[0].need("metricSource").get("spec")
    said = source.mapping() if source else {}
    metric_name = said.get("metric") or said.get("query") or ""
    return {"ratio": ratio, "raw": raw, "metric": str(metric_name), "sources": spec.mapping()}


def _period(spec: Node) -> Period:
    windows = spec.get("timeWindow")
    if windows is None:
        return Period(span=Span(28, "d"))
    if len(windows.items()) != 1:
        raise windows.refuse("exactly one window", found=f"has {len(windows.items())} windows")
    (window,) = windows.items()
    window.mapping(("duration", "isRolling", "calendar"))
    span = window.need("duration", "a duration such as 28d").span()
    calendar = window.get("calendar")
    rolling = flag.flag() if (flag := window.get("isRolling")) else False
    if rolling == (calendar is not None):
        raise window.refuse("isRolling: true, or a calendar with isRolling: false")
    if calendar is None:
        return Period(span=span)
    text = calendar.need("startTime", "a time such as 2022-01-01 12:00:00")
    try:
        start = datetime.fromisoformat(text.text())
    except (ValueError, SpecError) as error:
        raise text.refuse("a time such as 2022-01-01 12:00:00") from error
    if start.tzinfo is not None:
        raise text.refuse("a time without a zone: timeZone says it")
    zone = calendar.need("timeZone", "a name of the IANA database, such as UTC")
    try:
        ZoneInfo(zone.text())
    except (KeyError, ValueError, OSError) as error:
        expected = "a name of the IANA database that this machine knows, such as UTC"
        raise zone.refuse(expected) from error
    return Period(span=span, start=start, zone=zone.text())


def _conditions(spec: Node, named: Mapping[tuple[str, str], Node]) -> tuple[Condition, ...] | None:
    policies = spec.get("alertPolicies")
    found = list[Condition]()
    for entry in policies.items() if policies else []:
        if ref := entry.get("alertPolicyRef"):
            if ref.text() == DEFAULT_POLICY:
                continue
            policy = named.get(("AlertPolicy", ref.text()))
            if policy is None:
                known = [n for kind, n in named if kind == "AlertPolicy"]
                raise ref.refuse(
                    f"an AlertPolicy of the same files: {', '.join([*known, DEFAULT_POLICY])}"
                )
        else:
            policy = entry
            name_of(entry)
        found += _policy(policy, named)
    return tuple(found) or None


def _policy(node: Node, named: Mapping[tuple[str, str], Node]) -> list[Condition]:
    spec = node.need("spec", "the policy's spec")
    for name in ("alertWhenBreaching", "alertWhenResolved", "alertWhenNoData"):
        if flag := spec.get(name):
            flag.flag()
    conditions = spec.need("conditions", "a list of one condition").items()
    if len(conditions) != 1:
        raise spec.need("conditions").refuse("exactly one condition, as OpenSLO v1 asks")
    (entry,) = conditions
    ref = entry.get("conditionRef")
    node_ = named.get(("AlertCondition", ref.text())) if ref else entry
    if node_ is None and ref:
        raise ref.refuse("an AlertCondition of the same files")
    assert node_ is not None
    return [_condition(node_)]


_PAGES = ("page", "critical", "error", "high", "sev0", "sev1", "p0", "p1")


def _condition(node: Node) -> Condition:
    spec = node.need("spec", "the condition's spec")
    condition = spec.need("condition", "the condition")
    if kind := condition.get("kind"):
        kind.one_of("burnrate")
    if op := condition.get("op"):
        op.one_of("gte", "gt")
    after = condition.get("alertAfter")
    severity = spec.need("severity", "a severity such as page").text()
    return Condition(
        name=name_of(node),
        severity="page" if severity.lower() in _PAGES else "ticket",
        threshold=condition.need("threshold", "a burn rate").number("above 0", low=1e-12),
        lookback=condition.need("lookbackWindow", "a duration such as 1h").span(),
        after=after.span() if after and not str(after.value).startswith("0") else None,
    )


def _options(annotations: Node) -> tuple[str, Options]:
    """The class, and the rest of mlct's annotations."""
    values: dict[str, Any] = {}
    kind = "infrastructure"
    for key, value in annotations.mapping().items():
        if not str(key).startswith(_PREFIX):
            continue
        word = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value
        at, name = annotations.child(key, value), str(key).removeprefix(_PREFIX)
        node = annotations.child(key, str(word))
        if name == "class":
            kind = node.one_of("product", "infrastructure", "infra")
        elif name in _READ:
            field_, reader = _READ[name]
            values[field_] = reader(node)
        else:
            known = ", ".join(["class", *_READ])
            raise at.refuse(f"one of {known}", found="is no annotation of mlct")
    if "shift" in values and values.get("cusum") is False:
        raise annotations.refuse("mlct.dev/shift only with CUSUM", found="turns CUSUM off")
    return ("product" if kind == "product" else "infrastructure"), Options(**values)


def _count(low: int) -> Any:
    def read_(node: Node) -> int:
        if not str(node.value).isdecimal() or not low <= int(node.value) <= 1_000_000:
            raise node.refuse(f"a whole number from {low} on, in quotes")
        return int(node.value)

    return read_


def _share(low: float, below: float, what: str) -> Any:
    def read_(node: Node) -> float:
        try:
            return node.child("", float(node.value)).number(what, low=low, below=below)
        except (ValueError, SpecError) as error:
            raise node.refuse(what) from error

    return read_


def _sustained(node: Node) -> tuple[int, int] | None:
    k, slash, n = str(node.value).partition("/")
    right = slash and k.isdecimal() and n.isdecimal() and 2 <= int(k) <= int(n) <= 1000
    if not right:
        raise node.refuse("k/n with 2 <= k <= n, such as 3/5: one bad slice is an accident")
    return int(k), int(n)


def _days(node: Node) -> timedelta:
    return node.span().length


_READ: dict[str, tuple[str, Any]] = {
    "no-data": ("no_data", lambda node: node.one_of("bad", "ignore", "good")),
    "min-bad": ("min_bad", _count(2)),
    "min-samples": ("min_samples", _count(1)),
    "confidence": ("confidence", _share(0.5, 1, "a share from 0.5 to below 1, in quotes")),
    "sustained": ("sustained", _sustained),
    "cusum": ("cusum", lambda node: node.one_of("on", "off") == "on"),
    "shift": ("shift", _share(1e-12, float("inf"), "a number above 0, in quotes")),
    "delay": ("delay", _days),
    "window": ("window", lambda node: node.span()),
    "runbook": ("runbook", lambda node: node.text()),
}
