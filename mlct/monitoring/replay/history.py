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

from mlct.data.window import (
    Columns,
    Cut,
    Windows,
    as_utc,
    clusters,
    cut,
    duration,
    labelled,
    scalar,
)
from mlct.errors import DataError, TrainingError
from mlct.evaluation.baseline import featureless
from mlct.evaluation.evaluate import evaluate
from mlct.evaluation.gate import GateDecision, GatePolicy, decide
from mlct.evaluation.metric import Metric
from mlct.evaluation.policy import Limit, Ratio
from mlct.monitoring.observe import Reference, observe, predict, reference_of
from mlct.monitoring.observe.observation import Past, past
from mlct.monitoring.policy import MonitoringPolicy
from mlct.monitoring.slo import Objective
from mlct.monitoring.trigger import WindowResult
from mlct.training import fit
from mlct.training.recipe import seeded

_JOINED = 4  # windows before one that show how labels arrive, as in the loop


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
    monitoring: MonitoringPolicy = field(default_factory=MonitoringPolicy)
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

    def _labelled(self, k: int) -> pa.Table:
        """The rows of window k that ever get a label."""
        rows = self.window(k)
        return rows.filter(labelled(rows[self.columns.label]))

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
        classes = len(model.classes) if model.task == "multiclass" else 0
        scores["baseline"] = featureless(learned, len(truth), classes)
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

    def results(self, served: Sequence[int], tau: float) -> list[WindowResult]:
        """What the loop knew at `at[len(served)]` of the windows that the champion of that instant
        has served; `served` are the instants of the champions of all windows so far.

        A window is looked at when it ends, and again once its labels have matured.
        """
        now, found = len(served), list[WindowResult]()
        for j in range(served[-1], now):
            # Of a window without rows nothing is known.
            if self.window(j).num_rows:
                known = self._looked(tuple(served[: j + 1]), self._matured(j) <= self.at[now], tau)
                found += known.signals
        return found

    def _matured(self, j: int) -> datetime:
        return self.at[j + 1] + duration(self.windows.label_delay)

    def _looked(self, served: tuple[int, ...], matured: bool, tau: float) -> "_Looked":
        """The newest window of those served, as the loop stores it."""
        final = matured or not duration(self.windows.label_delay)
        return self._once(("look", served, final, tau), lambda: self._look(served, final, tau))

    def _look(self, served: tuple[int, ...], final: bool, tau: float) -> "_Looked":
        c, j = served[-1], len(served) - 1
        as_of = self._matured(j) if final else self.at[j + 1]
        before = []
        for i in range(j):
            if self.window(i).num_rows:
                looked = self._looked(served[: i + 1], self._matured(i) <= as_of, tau)
                joined = looked.past.joined if i >= j - _JOINED else None
                before.append(replace(looked.past, joined=joined))
        seen = observe(
            self._made(c).model,
            self._reference(c),
            self.window(j),
            self._log(c, j),
            artifact=_artifact(c),
            start=self.at[j],
            end=self.at[j + 1],
            as_of=as_of,
            columns=self.columns,
            windows=self.windows,
            policy=self.monitoring,
            primary=self.metric,
            tau=tau,
            objectives=self.objectives,
            before=before,
            limit=self.limit,
            seed=self.seed,
        )
        # Whoever is asked about refused rows is taken to let them pass.
        signals = tuple(replace(s, key=seen.key, refused="") for s in seen.signals)
        kept = past(seen.to_dict(profile="", joined=""), profile=seen.profile, joined=seen.joined)
        return _Looked(signals=signals, past=kept)

    def _log(self, c: int, j: int) -> pa.Table:
        def make() -> pa.Table:
            words: dict[str, Any] = {"columns": self.columns, "artifact": _artifact(c)}
            return predict(self._made(c).model, self.window(j), None, version=c + 1, **words)

        return self._once(("log", c, j), make)

    def _reference(self, c: int) -> Reference:
        made = self._made(c)
        return self._once(
            ("reference", c),
            lambda: reference_of(
                made.model,
                made.cut.train,
                made.cut.holdout,
                version=c + 1,
                artifact=_artifact(c),
                columns=self.columns,
                windows=self.windows,
                learned_until=made.cut.holdout_start,
                step=self.at[1] - self.at[0],
            ),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Looked:
    """What a window left: signals for a decision, the rest for later windows."""

    signals: tuple[WindowResult, ...]
    past: Past


def _artifact(c: int) -> str:
    return f"challenger-{c}"


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
