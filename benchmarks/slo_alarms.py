"""How often do the rules of an SLO wake somebody for nothing, and what do they miss?

First a labelled error rate with an objective of 12 %: the chance of a false alarm in a year, and
the delay after the rate jumps to 14 %. Then burn-rate windows on 168 days of 5-minute slices: a
healthy service that burns half its budget at random, with eight incidents of two hours: 60 %
of their slices are bad. Rules are those that `compiled` gives. Each rate has its 95 % limits
(Clopper-Pearson). With `--flights` also the objective of the reference project on its year: a model
fitted in January and February, and one that is fitted again each month. Run from the root of the
repository:

    OMP_WAIT_POLICY=passive python -m benchmarks.slo_alarms [--flights]
"""

import argparse
import time
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
from scipy.stats import beta
from sklearn.metrics import roc_auc_score

from mlct.monitoring.slo import (
    Objective,
    Rule,
    SloWindow,
    compiled,
    slo_states,
    sustained_breach,
)
from mlct.monitoring.slo.objective import Options
from mlct.monitoring.slo.period import Period, Span
from mlct.monitoring.slo.rule import SHIFT, WINDOWS
from mlct.monitoring.slo.slice import wilson
from mlct.monitoring.slo.sustained import FIRES, cusum, of_counts

ALLOWED = 0.12
DAYS, SHIFTS = 168, 168 * 2
SLICE = timedelta(minutes=5)
PER_DAY = 288


def limits(hits: int, count: int) -> tuple[float, float]:
    """95 % confidence limits of a rate (Clopper-Pearson 1934)."""
    low = beta.ppf(0.025, hits, count - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, count - hits) if hits < count else 1.0
    return float(low), float(high)


def years(rate: float, labels: int, count: int, *, days: int = 365, seed: int = 0) -> np.ndarray:
    """(years, days) of wrong predictions among `labels` a day."""
    return np.random.default_rng(seed).binomial(labels, rate, size=(count, days))


def first_plain(wrong: np.ndarray, labels: int) -> int | None:
    """The day on which three plain days in a row lie above the objective."""
    right = 1 - wrong / labels
    return sustained_breach(right, floor=1 - ALLOWED, window=1, consecutive=3).day


def first_bound(wrong: np.ndarray, labels: int, k: int = 3, n: int = 5) -> int | None:
    """The day on which k of the last n days are surely above it, the newest too."""
    table = [wilson(labels - w, labels, 0.95)[1] < 1 - ALLOWED for w in range(labels + 1)]
    bad = [table[int(w)] for w in wrong]
    return next(
        (i for i, b in enumerate(bad) if b and sum(bad[max(0, i - n + 1) : i + 1]) >= k), None
    )


def first_cusum(wrong: np.ndarray, labels: int) -> int | None:
    """The day on which the evidence of 3 points more than the objective suffices."""
    sums = cusum(of_counts(float(w), labels, ALLOWED, SHIFT) for w in wrong)
    return next((i for i, s in enumerate(sums) if s > FIRES), None)


RULES = {
    "3 plain breaches in a row": first_plain,
    "3 of 5 days surely above, the newest too": first_bound,
    "CUSUM": first_cusum,
}


def objective(target: float) -> Objective:
    """Time slices of five minutes over 28 days."""
    return Objective(
        slo="service",
        name="service",
        indicator="service",
        product=False,
        ratio=True,
        method="Timeslices",
        period=Period(span=Span(28, "d")),
        target=target,
        slice_target=0.5,
        slice=Span(5, "m"),
        options=Options(),
    )


def healthy(target: float, *, seed: int, incidents: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Bad slices of `DAYS` days, and where each two-hour incident begins."""
    random = np.random.default_rng(seed)
    bad = random.random(DAYS * PER_DAY) < (1 - target) / 2
    starts = (np.arange(1, incidents + 1) * DAYS // (incidents + 1)) * PER_DAY
    for start in starts:
        bad[start : start + 24] = random.random(24) < 0.6
    return bad, starts


def fires(bad: np.ndarray, rules: list[Rule], target: float) -> np.ndarray:
    """At the end of which slices some page rule fires; as `slo_states` would say slice by slice."""
    total = np.concatenate([[0], np.cumsum(bad)])

    def count(length: timedelta) -> np.ndarray:
        end = np.arange(1, len(bad) + 1)
        return total[end] - total[np.maximum(0, end - length // SLICE)]

    def seen(length: timedelta) -> np.ndarray:
        return np.minimum(np.arange(1, len(bad) + 1), length // SLICE)

    found = np.zeros(len(bad), dtype=bool)
    for rule in rules:
        if rule.kind != "burn" or rule.out or rule.severity != "page":
            continue
        long, short = rule.long, rule.short
        needed = rule.burn * (1 - target) * (1 - 1e-9)
        enough = (count(long) >= needed * seen(long)) & (count(short) >= needed * seen(short))
        found |= enough & (count(long) >= rule.floor)
    return found


def raw(target: float) -> list[Rule]:
    """The workbook's page windows as they stand: no cap, no floor."""
    made = []
    for severity, share, long, short in WINDOWS:
        burn = share * (timedelta(days=28) / long)
        made.append(
            Rule(kind="burn", name="", severity=severity, long=long, short=short, burn=burn)
        )
    return made


def judge(rules: list[Rule], target: float, seeds: int) -> tuple[float, int, int, float]:
    """(false pages a shift, incidents missed, incidents, median minutes to detection)."""
    false, missed, delays = 0, 0, list[float]()
    for seed in range(seeds):
        bad, starts = healthy(target, seed=seed)
        on = fires(bad, rules, target)
        begins = np.flatnonzero(on & ~np.concatenate([[False], on[:-1]]))
        for start in starts:
            # What fires within two hours and is due to the incident; its echo lasts six more.
            found = np.flatnonzero(on[start : start + 24])
            missed += not len(found)
            delays += [5.0 * (found[0] + 1)] if len(found) else []
            begins = begins[(begins < start) | (begins >= start + 96)]
        false += len(begins)
    median = float(np.median(delays)) if delays else float("nan")
    return false / (SHIFTS * seeds), missed, 8 * seeds, median


def flights() -> None:
    """On how many days of March to December the rules of `slos/flight_delay.yaml` fire."""
    from benchmarks.flight_auc import FEATURES, fit, labelled
    from mlct.monitoring.slo import load

    asked = load("slos/flight_delay.yaml")[0]
    frame = labelled()
    month = frame["flight_id"].str[5:7].astype(int)
    static = fit(frame[month < 3])
    windows: dict[str, list[SloWindow]] = {"static": [], "monthly": []}
    for number in range(3, 13):
        test = frame[month == number]
        models = {"static": static, "monthly": fit(frame[month < number])}
        days = test.groupby(test["scheduled_departure"].dt.floor("D")).indices
        for name, model in models.items():
            score = np.asarray(model.predict_proba(test[[*FEATURES]]))[:, 1]
            for day, rows in days.items():
                found = daily(day.to_pydatetime(), test["late"].to_numpy()[rows], score[rows])
                # Days of New York: their first hours in UTC belong to the month before.
                if found and (not windows[name] or windows[name][-1].end <= found.start):
                    windows[name].append(found)
    print("\nThe reference project's objective, March to December:")
    for name, known in windows.items():
        states = [slo_states([asked], {asked.indicator: known}, w.end)[0] for w in known]
        for kind in ("sustained", "cusum"):
            on = [s for s in states if any(r.fires and r.rule.kind == kind for r in s.rules)]
            months = Counter(f"{s.at - timedelta(days=1):%b}" for s in on)
            print(f"  {name:8} {kind:10} fires on {len(on)} of {len(states)} days: {dict(months)}")
        spent = sum(s.remaining < 0 for s in states)
        print(f"  {name:8} the budget is overspent on {spent} days")


def daily(day: datetime, late: np.ndarray, score: np.ndarray) -> SloWindow | None:
    """ROC AUC of a day with the standard error of Hanley and McNeil (1982), None without both
    classes."""
    n, one = len(late), int(late.sum())
    if n < 20 or one in (0, n):
        return None
    area = float(roc_auc_score(late, score))
    wins, losses = area / (2 - area) - area**2, 2 * area**2 / (1 + area) - area**2
    variance = area * (1 - area) + (one - 1) * wins + (n - one - 1) * losses
    half = 1.6449 * float(np.sqrt(variance / (one * (n - one))))
    return SloWindow(
        start=day,
        end=day + timedelta(days=1),
        value=area,
        lower=area - half,
        upper=area + half,
        samples=n,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--years", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--flights", action="store_true")
    options = parser.parse_args()
    start = time.perf_counter()
    count = options.years
    print(f"An objective of {ALLOWED:.0%} errors, {count:,} years each:")
    for name, first in RULES.items():
        for labels in (50, 200, 1000):
            said = []
            for rate in (0.10, 0.115):
                hits = sum(first(y, labels) is not None for y in years(rate, labels, count))
                low, high = limits(hits, count)
                said.append(f"{hits / count:6.1%} [{low:.1%}, {high:.1%}]")
            after = [first(y, labels) for y in years(0.14, labels, count // 4, days=200, seed=1)]
            found = [200 if d is None else d + 1 for d in after]
            print(
                f"  {name:42}{labels:5} labels a day: false in a year at 10 % {said[0]}, at 11.5 % "
                f"{said[1]}; at 14 % after {np.median(found):g} days"
            )
    print(f"\nBurn-rate pages, {options.seeds} x {DAYS} days of 5-minute slices:")
    for target in (0.90, 0.95, 0.99, 0.999):
        asked = objective(target)
        bare = replace(asked, options=Options(min_bad=1))
        for name, rules in (
            ("workbook as it stands", raw(target)),
            ("capped, no floor", list(compiled(bare, SLICE))),
            ("as compiled", list(compiled(asked, SLICE))),
        ):
            false, missed, incidents, median = judge(rules, target, options.seeds)
            print(
                f"  {target:.1%} {name:22} {false:.4f} false pages a shift, {missed} of "
                f"{incidents} incidents missed, found after {median:g} minutes"
            )
    if options.flights:
        flights()
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
