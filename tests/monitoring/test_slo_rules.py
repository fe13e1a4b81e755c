"""What objectives compile to: the workbook's windows, linted; and `mlct slo explain`."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlct
from mlct.cli import main
from mlct.errors import SpecError
from mlct.monitoring.slo import Objective, compiled, explain, explain_text, load, page_budget
from mlct.monitoring.slo.budget import burn_of, burn_rate, exhausted_after, fires_after
from mlct.monitoring.slo.objective import Condition, Options
from mlct.monitoring.slo.period import Period, Span
from mlct.monitoring.slo.rule import MOST_BAD, needed

ROOT = Path(__file__).parents[2]
HOUR = timedelta(hours=1)


def objective(target=0.99, *, slice_="5m", period="28d", product=False, **more) -> Objective:
    """Time slices of a ratio."""
    return Objective(
        slo="it",
        name="it",
        indicator="it",
        product=product,
        ratio=True,
        method="Timeslices",
        period=Period(span=Span.parse(period)),
        target=target,
        slice_target=0.95,
        slice=Span.parse(slice_),
        **more,
    )


def declare(**changes):
    fields = {
        "name": "flight_delay",
        "owners": "team:operations",
        "features": "flight_features",
        "columns": mlct.Columns(id="id", time="at", label="late"),
        "windows": mlct.Windows(train="120d", holdout="30d"),
        "contract": dict,
        "estimator": dict,
        "gate": mlct.GatePolicy(primary=mlct.Superiority("roc_auc")),
    }
    return mlct.ModelSpec(**fields | changes)


def rules(asked: Objective) -> dict:
    return {r.name: r for r in compiled(asked, asked.length)}


# Google SRE Workbook, ch. 5, tables 5-4, 5-5 and 5-8: 99.9 % over 30 days.
def test_burn_rates_exhaust_the_budget_when_the_workbook_says():
    month = timedelta(days=30)
    for errors, burn, hours in ((0.001, 1, 720), (0.002, 2, 360), (0.01, 10, 72), (1, 1000, 0.72)):
        assert burn_rate(errors, 0.999) == pytest.approx(burn)
        assert exhausted_after(burn, month) / HOUR == pytest.approx(hours)
    assert exhausted_after(35, month) / HOUR == pytest.approx(20.571428571428573)


@pytest.mark.parametrize(("share", "hours", "burn"), [(0.02, 1, 14.4), (0.05, 6, 6), (0.1, 72, 1)])
def test_shares_of_the_budget_are_the_workbooks_burn_rates(share, hours, burn):
    assert burn_of(share, hours * HOUR, timedelta(days=30)) == pytest.approx(burn)
    assert burn_of(0.05, HOUR, timedelta(days=30)) == pytest.approx(36)


def test_a_total_outage_fires_when_the_workbook_says():
    minutes = timedelta(minutes=1)
    assert fires_after(1, 0.999, HOUR, 36) / minutes == pytest.approx(2.16)
    assert fires_after(1, 0.999, HOUR, 14.4) / minutes == pytest.approx(0.864)
    assert (HOUR - fires_after(1, 0.999, HOUR, 36)) / minutes == pytest.approx(57.84)


def test_fine_slices_of_a_month_compile_to_the_workbooks_table():
    found = compiled(objective(0.999, slice_="1m", period="30d"), timedelta(minutes=1))
    table = [
        (r.severity, r.long / HOUR, r.short / timedelta(minutes=1), pytest.approx(r.burn))
        for r in found
        if r.kind == "burn" and not r.out
    ]
    assert table == [
        ("page", 1, 5, 14.4),
        ("page", 6, 30, 6),
        ("ticket", 24, 120, 3),
        ("ticket", 72, 360, 1),
    ]


def test_a_window_that_could_never_fire_is_capped_to_half_bad():
    fast = rules(objective(0.90))["1h/10m"]
    assert fast.burn == pytest.approx(0.5 / 0.1)
    assert "could never fire" in fast.note
    assert needed(fast, objective(0.90), timedelta(minutes=5)) == (6, 12)


def test_a_window_that_one_slice_sets_off_has_a_floor_of_three():
    tight = objective(0.999)
    fast = rules(tight)["1h/10m"]
    assert fast.floor == 3
    assert "floor of 3" in fast.note
    assert needed(fast, tight, tight.length) == (3, 12)


def test_windows_shorter_than_two_slices_are_left_out_for_a_sustained_breach():
    daily = rules(objective(0.90, slice_="1d"))
    assert {name for name, r in daily.items() if not r.out} == {"3 of 4"}
    assert "fewer than two slices of 1d" in daily["1h/5m"].out


def test_no_rule_is_both_sustained_and_paging_by_burn_unless_asked():
    assert "3 of 4" not in rules(objective(0.99))
    asked = objective(0.99, options=Options(sustained=(3, 5)))
    assert "3 of 5" in rules(asked)


def test_a_window_of_more_than_half_the_period_is_left_out():
    week = rules(objective(0.99, period="5d"))
    assert "more than half of the period" in week["3d/6h"].out
    assert not week["1d/2h"].out


def test_cusum_looks_for_three_points_or_for_twice_a_smaller_budget():
    loose = replace(objective(0.9, product=True), slice_target=0.88)
    tight = replace(loose, slice_target=0.99)
    assert [rules(o)["cusum"].shift for o in (loose, tight)] == [0.03, pytest.approx(0.01)]


def test_cusum_is_the_fast_rule_of_product_behaviour():
    assert not rules(objective(0.9, product=True))["cusum"].out
    assert rules(objective(0.9))["cusum"].out
    assert rules(objective(0.9, product=True, options=Options(cusum=False)))["cusum"].out
    assert not rules(objective(0.9, options=Options(cusum=True)))["cusum"].out


@given(
    target=st.floats(0, 0.99999),
    slice_=st.sampled_from(["1m", "5m", "15m", "1h", "6h", "1d", "1w", "1M"]),
    period=st.sampled_from(["1h", "1d", "7d", "28d", "30d", "1M", "1Q", "1Y"]),
    floor=st.integers(2, 9),
    product=st.booleans(),
)
def test_some_rule_can_fire_and_none_on_one_bad_slice(target, slice_, period, floor, product):
    asked = objective(
        target, slice_=slice_, period=period, product=product, options=Options(min_bad=floor)
    )
    found = [r for r in compiled(asked, asked.length) if not r.out]
    assert [r for r in found if r.kind != "cusum" and r.severity == "page"]
    for rule in found:
        if rule.kind == "burn":
            assert rule.burn * asked.budget <= MOST_BAD + 1e-9 or rule.burn == 1
            assert rule.floor == floor
            assert rule.short >= 2 * asked.length
            count, slices = needed(rule, asked, asked.length)
            assert floor <= count <= slices


def declared(threshold, lookback, target=0.99, slice_="5m"):
    condition = Condition(
        name="mine", severity="page", threshold=threshold, lookback=Span.parse(lookback)
    )
    return objective(target, slice_=slice_, conditions=(condition,))


def test_a_declared_condition_stands_instead_of_the_workbooks():
    found = rules(declared(2, "1h"))
    assert {n for n, r in found.items() if r.kind == "burn"} == {"mine"}
    assert (found["mine"].burn, found["mine"].floor) == (2, 3)


def test_a_declared_condition_that_can_never_fire_is_refused():
    with pytest.raises(SpecError, match="can never fire") as found:
        compiled(declared(14.4, "1h", target=0.9), timedelta(minutes=5))
    assert "at most 5" in found.value.expected


def test_a_declared_condition_that_a_bad_slice_sets_off_is_refused():
    with pytest.raises(SpecError, match="a bad slice or two set it off") as found:
        compiled(declared(2, "1h", slice_="30m"), timedelta(minutes=30))
    assert "at least 90m" in found.value.expected


def test_the_lint_runs_while_files_load(tmp_path):
    text = (Path(__file__).parent / "openslo" / "every_kind.yaml").read_text()
    path = tmp_path / "slo.yaml"
    path.write_text(text.replace("threshold: 2", "threshold: 300"))
    with pytest.raises(SpecError, match="can never fire"):
        load(path)


def test_every_objective_of_the_fixtures_can_be_explained():
    told = explain(load(Path(__file__).parent / "openslo"))
    assert len(told) == 7
    assert json.loads(json.dumps(told)) == told


def test_the_table_is_aligned_and_says_why_a_rule_is_left_out():
    text = explain_text(explain(load(ROOT / "slos" / "flight_delay.yaml")))
    first, second = text.split("\n\n")
    assert first.startswith("flight-delay-auc (product) of flight-delay: roc_auc >= 0.62\n")
    assert "2.8 of 28 slices of 1d" in first
    assert "3 of the last 5 slices bad, the newest too" in first
    assert "left out" in first
    assert "5m holds fewer than two slices of 1d" in first
    for table in (first, second):
        lines = table.splitlines()[3:]
        column = lines[0].index("SEVERITY")
        assert all(line[column:].split()[0] in ("SEVERITY", "page", "ticket") for line in lines)


def test_the_command_explains_a_file_and_a_model(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert main(["slo", "explain", "slos/flight_delay.yaml"]) == 0
    by_file = capsys.readouterr().out
    assert main(["slo", "explain", "flight_delay"]) == 0
    assert capsys.readouterr().out == by_file
    assert main(["slo", "explain", "flight_delay", "--json"]) == 0
    assert [o["class"] for o in json.loads(capsys.readouterr().out)] == [
        "product",
        "infrastructure",
    ]
    assert main(["slo", "explain", "nothing"]) == 1
    assert "slos/nothing.yaml" in capsys.readouterr().err


def test_the_budget_of_pages_is_two_a_shift_and_an_error_from_four():
    at = datetime(2026, 1, 2, 3, tzinfo=UTC)
    pages = [at - timedelta(hours=h) for h in (1, 5, 11.9, 12, 30)]
    for count, verdict in ((0, "ok"), (2, "ok"), (3, "warning")):
        assert page_budget(pages[:count], at=at).verdict == verdict
    assert page_budget(pages, at=at).pages == 3  # the shift is half-open
    assert page_budget([*pages, at], at=at).verdict == "error"
    assert "4 pages in the last 12 hours" in page_budget([*pages, at], at=at).reason


def test_a_spec_of_medium_or_high_risk_needs_a_product_slo():
    for tier in ("medium", "high"):
        with pytest.raises(SpecError, match=f"{tier!r} and no SLO") as found:
            declare(risk_tier=tier, slos=None)
        assert "mlct.dev/class: product" in found.value.expected
        with pytest.raises(SpecError, match="2 infrastructure SLOs only"):
            declare(risk_tier=tier, slos=Path(__file__).parent / "openslo" / "every_kind.yaml")
        assert declare(risk_tier=tier, slos=ROOT / "slos").slos[0].product
    assert declare(risk_tier="low", slos=None).slos == ()


def test_a_changed_spec_keeps_its_objectives():
    spec = declare(risk_tier="high", slos=ROOT / "slos")
    assert replace(spec, seed=3).slos == spec.slos
    assert hash(spec.slos)
