"""History as a replay sees it: what a retrain at each instant would have made, and what the windows
after it would have shown. Everything is computed once, whoever asks."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from mlct.data.profile import Profile, profile
from mlct.data.window import Columns, Cut, Windows, as_utc, clusters, cut, duration, scalar
from mlct.errors import DataError, EvaluationError, TrainingError
from mlct.evaluation.evaluate import evaluate
from mlct.evaluation.gate import GateDecision, GatePolicy, decide
from mlct.evaluation.metric import METRICS, Metric
from mlct.evaluation.policy import Limit, Ratio
from mlct.monitoring.drift import drift, spreads
from mlct.monitoring.performance import calibrate, estimate, loss_sequence
from mlct.monitoring.performance.realised import measure
from mlct.monitoring.performance.result import Performance, unknown
from mlct.monitoring.slo import Objective, SloWindow, slo_states
from mlct.monitoring.trigger import (
    WindowResult,
    drift_results,
    performance_result,
    slo_result,
)
from mlct.training import fit
from mlct.training.recipe import seeded

#: The column that a drift report of scores is about.
SCORE = "score"

_LOSS = {"binary": "brier", "regression": "mae"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A model as a retrain at one instant makes it: `rows` learned from, and what that took."""

    model: fit.Model
    cut: Cut
    rows: int
    seconds: float


@dataclass(kw_only=True, slots=True)
class History:
    """A feature table played from instant to instant: window k is `[at[k], at[k + 1])`."""

    rows: pa.Table
    at: Sequence[datetime]
    columns: Columns
    windows: Windows
    estimator: Callable[[], Any]
    gate: GatePolicy
    metric: Metric
    objectives: Sequence[Objective] = ()
    limit: float | None = None
    seed: int = 0
    _known: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A latency of another machine and day says nothing of history.
        kept = [
            rule
            for rule in self.gate.guardrails
            if not isinstance(rule, Ratio) and (not isinstance(rule, Limit) or rule.is_metric)
        ]
        self.gate = replace(self.gate, guardrails=kept)

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def fitted(self, k: int) -> Fitted | str:
        """What a retrain at `at[k]` makes, or why it makes nothing."""
        return self._once(("fit", k), lambda: self._fit(k))

    def _fit(self, k: int) -> Fitted | str:
        began = time.process_time()
        try:
            found = cut(ds.dataset(self.rows), self.columns, self.windows, as_of=self.at[k])
            names = self.columns.features(self.rows.schema)
            estimator = seeded(self.estimator(), self.seed)
            model = fit.fit(estimator, found.train, names, self.columns.label)
        except (DataError, TrainingError) as error:
            return str(error)
        seconds = time.process_time() - began
        return Fitted(model=model, cut=found, rows=found.train.num_rows, seconds=seconds)

    def _made(self, k: int) -> Fitted:
        found = self.fitted(k)
        if isinstance(found, str):
            raise DataError(f"nothing was trained at {self.at[k]}: {found}")
        return found

    def window(self, k: int) -> pa.Table:
        """All rows of window k, with or without labels."""

        def make() -> pa.Table:
            times = self.rows[self.columns.time]
            start, end = (scalar(t, times.type) for t in (self.at[k], self.at[k + 1]))
            inside = pc.and_(pc.greater_equal(times, start), pc.less(times, end))
            return self.rows.filter(inside)

        return self._once(("window", k), make)

    def _labelled(self, k: int, *, by: datetime | None = None) -> pa.Table:
        """The rows of window k whose label was known at `by`; None: that ever get one."""
        rows = self.window(k)
        label = rows[self.columns.label]
        known = pc.is_valid(label)
        if pa.types.is_floating(label.type):
            known = pc.and_(known, pc.invert(pc.fill_null(pc.is_nan(label), True)))
        if self.columns.label_time and by is not None:
            when = rows[self.columns.label_time]
            in_time = pc.fill_null(pc.less_equal(when, scalar(by, when.type)), False)
            known = pc.and_(known, in_time)
        return rows.filter(known)

    def value(self, c: int, k: int) -> float | None:
        """The metric of the model of instant c on window k, as all labels tell it in the end."""

        def make() -> float | None:
            rows = self._labelled(k)
            if rows.num_rows < 2:
                return None
            model = self._made(c).model
            try:
                found = float(self.metric(model.truth(rows), model.score(rows)))
            except DataError:  # a class that this model never saw
                return None
            return found if np.isfinite(found) else None

        return self._once(("value", c, k), make)

    def judged(self, k: int, c: int) -> GateDecision:
        """The gate's decision on the challenger of instant k against the champion of instant c."""
        return self._once(("gate", k, c), lambda: self._judge(k, c))

    def _judge(self, k: int, c: int) -> GateDecision:
        challenger, champion = self._made(k), self._made(c)
        rows, model = challenger.cut.holdout, challenger.model
        truth, learned = model.truth(rows), model.truth(challenger.cut.train)
        scores = {"challenger": model.score(rows)}
        problem = None
        if champion.model.classes == model.classes:
            scores["champion"] = champion.model.score(rows)
        else:
            problem = f"it knows the classes {list(champion.model.classes)}"
        scores["baseline"] = _featureless(learned, len(truth), model)
        found = evaluate(
            truth,
            scores,
            policy=self.gate,
            task=model.task,
            clusters=clusters(rows[self.columns.time], self.windows.cluster),
            groups={n: np.array([str(v) for v in rows[n].to_pylist()]) for n in self.gate.columns},
            frame={n: rows[n].to_numpy() for n in rows.column_names},
            champion_problem=problem,
            champion_age_days=(self.at[k] - self.at[c]).total_seconds() / 86_400,
            duplicates=sum(n - 1 for n in Counter(rows[self.columns.id].to_pylist()).values()),
            seed=self.seed,
        )
        return decide(found, self.gate)

    def results(self, c: int, k: int, on: Sequence[str], tau: float) -> list[WindowResult]:
        """What was known at `at[k]` of the windows that the champion of instant c has served.

        Only the signals `on`: of scores and features at the end of a window, of labels
        `Windows.label_delay` later.
        """
        found: list[WindowResult] = []
        delay = duration(self.windows.label_delay)
        for j in range(c, k):
            # Of a window without rows nothing is known; its end is told, for age and data.
            if not self.window(j).num_rows:
                continue
            if {"drift", "scores"} & set(on):
                found += [w for w in self._drift(c, j, tau) if w.signal in on]
            else:
                found.append(self._seen(j))
            if "estimated" in on and self.limit is not None:
                found.append(self._estimated(c, j))
            if self.at[j + 1] + delay <= self.at[k]:
                if "realised" in on and (self.objectives or self.limit is not None):
                    found.append(self._realised(c, j))
                if "concept" in on:
                    found.append(self._concept(c, j))
        return found

    def _seen(self, j: int) -> WindowResult:
        """A window of which only the end matters."""
        told = f"{self.window(j).num_rows} rows"
        return WindowResult(
            key=f"w{j}", ended_at=self.at[j + 1], breached=False, reason=told, signal="drift"
        )

    def _performance(self, c: int, j: int) -> Performance:
        """The metric of window j as it was known `label_delay` after its end."""

        def make() -> Performance:
            by = self.at[j + 1] + duration(self.windows.label_delay)
            rows = self._labelled(j, by=by)
            if rows.num_rows < 20:
                return unknown(self.metric.name, f"insufficient data: {rows.num_rows} labels")
            model = self._made(c).model
            units = clusters(rows[self.columns.time], self.windows.cluster)
            try:
                y, score = model.truth(rows).astype(np.float64), model.score(rows)
                found = measure(y, score, units, self.metric, 0.95, self.seed)
            except DataError as error:
                return unknown(self.metric.name, str(error))
            return replace(found, rows=rows.num_rows, labelled=rows.num_rows)

        return self._once(("performance", c, j), make)

    def _realised(self, c: int, j: int) -> WindowResult:
        def make() -> WindowResult:
            end = self.at[j + 1]
            if not self.objectives:
                assert self.limit is not None
                found = self._performance(c, j)
                return performance_result(found, metric=self.metric, limit=self.limit, ended_at=end)
            measured = {
                o.indicator: [w for i in range(c, j + 1) if (w := self._slo_window(c, i))]
                for o in self.objectives
            }
            return slo_result(slo_states(self.objectives, measured, end), ended_at=end)

        return self._once(("realised", c, j), make)

    def _slo_window(self, c: int, i: int) -> SloWindow | None:
        found = self._performance(c, i)
        if found.value is None:
            return None
        return SloWindow(
            start=self.at[i],
            end=self.at[i + 1],
            value=found.value,
            lower=found.lower,
            upper=found.upper,
            confidence=found.confidence or 0.95,
            samples=found.labelled,
        )

    def _estimated(self, c: int, j: int) -> WindowResult:
        def make() -> WindowResult:
            made, rows = self._made(c), self.window(j)
            held = made.cut.holdout
            time_column, unit = self.columns.time, self.windows.cluster

            def learn() -> Any:
                truth, score = made.model.truth(held), made.model.score(held)
                return calibrate(truth, score, clusters=clusters(held[time_column], unit))

            try:
                known = self._once(("calibration", c), learn)
                units = clusters(rows[time_column], unit)
                score = made.model.score(rows)
                found = estimate(known, score, metric=self.metric, clusters=units)
            except EvaluationError as error:
                found = unknown(self.metric.name, str(error))
            assert self.limit is not None
            told = performance_result(
                found, metric=self.metric, limit=self.limit, ended_at=self.at[j + 1]
            )
            return replace(told, signal="estimated")

        return self._once(("estimated", c, j), make)

    def _drift(self, c: int, j: int, tau: float) -> list[WindowResult]:
        def make() -> list[WindowResult]:
            made, rows, end = self._made(c), self.window(j), self.at[j + 1]
            names = [f.name for f in made.model.features]
            reference, usual = self._once(("reference", c), lambda: self._reference(made, names))
            now = self._once(
                ("profile", c, j), lambda: profile(rows.select(names), edges_from=reference)
            )
            importance = made.model.importance() or None
            features = drift(reference, now, importance=importance, tau=tau, past=usual)
            # Scores of rows that the model learned from are surer than those of others.
            before = pa.table({SCORE: made.model.score(made.cut.holdout)})
            after = pa.table({SCORE: made.model.score(rows)})
            scores = drift(before, after, tau=tau, predictions=[SCORE])
            found = drift_results(features, ended_at=end)
            return found + [w for w in drift_results(scores, ended_at=end) if w.signal == "scores"]

        return self._once(("drift", c, j, tau), make)

    def _reference(self, made: Fitted, names: Sequence[str]) -> tuple[Profile, Any]:
        """The profile of the training rows, and how much it moves from step to step."""
        train = made.cut.train
        reference = profile(train.select(names))
        step = self.at[1] - self.at[0]
        times, start = train[self.columns.time], made.cut.train_start
        past = []
        while start < made.cut.holdout_start:
            low, high = (scalar(t, times.type) for t in (start, start + step))
            part = train.filter(pc.and_(pc.greater_equal(times, low), pc.less(times, high)))
            if part.num_rows:
                past.append(profile(part.select(names), edges_from=reference))
            start += step
        return reference, spreads(reference, past)

    def _concept(self, c: int, j: int) -> WindowResult:
        def make() -> WindowResult:
            made = self._made(c)
            metric = METRICS.get(_LOSS.get(made.model.task, ""))
            breached, told = False, f"no loss is known for {made.model.task}"
            if metric is not None and metric.per_row is not None:
                parts = [self._labelled(i, by=self._matured(i)) for i in range(c, j + 1)]
                after = pa.concat_tables(parts)
                before = made.cut.holdout
                try:
                    found = loss_sequence(
                        self._losses(made, metric, before),
                        self._losses(made, metric, after),
                        reference_clusters=self._units(before),
                        clusters=self._units(after),
                    )
                    breached, told = found.drifted, found.reason
                except (DataError, EvaluationError) as error:
                    told = str(error)
            return WindowResult(
                key=f"c{c}w{j}",
                ended_at=self.at[j + 1],
                breached=breached,
                reason=told,
                signal="concept",
            )

        return self._once(("concept", c, j), make)

    def _matured(self, i: int) -> datetime:
        return self.at[i + 1] + duration(self.windows.label_delay)

    def _units(self, rows: pa.Table) -> Any:
        return clusters(rows[self.columns.time], self.windows.cluster)

    def _losses(self, made: Fitted, metric: Metric, rows: pa.Table) -> Any:
        assert metric.per_row is not None
        truth = made.model.truth(rows).astype(np.float64)
        return metric.per_row(truth, made.model.score(rows))


def _featureless(labels: Any, rows: int, model: fit.Model) -> Any:
    """What a model without features says: the mean label, or the share of each class."""
    if model.task != "multiclass":
        return np.full(rows, float(np.mean(labels)))
    shares = np.bincount(labels, minlength=len(model.classes)) / len(labels)
    return np.tile(shares, (rows, 1))


def objectives_on(objectives: Sequence[Objective], metric: Metric) -> tuple[Objective, ...]:
    """The product objectives that hold a threshold against the metric: those a replay can judge."""
    return tuple(
        o for o in objectives if o.product and o.metric == metric.name and o.value is not None
    )


def instants(
    rows: pa.Table, columns: Columns, *, start: datetime, step: str
) -> tuple[datetime, ...]:
    """The ends of windows from `start` on, as long as a whole window follows."""
    last = as_utc(pc.max(rows[columns.time]).as_py())
    length, found = duration(step, field="step"), [as_utc(start)]
    if not length:
        raise DataError("the step of a replay is zero", expected="a positive duration")
    while found[-1] + length <= last:
        found.append(found[-1] + length)
    return tuple(found)


def read_parquet(path: str | PathLike[str]) -> pa.Table:
    """The feature table in a Parquet file, or in a folder of them. Raises DataError."""
    try:
        return ds.dataset(path, format="parquet").to_table()
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: {error}", expected="a Parquet file, or a folder of them"
        ) from error
