"""How much a metric drops when the input is not quite what it was: noise, gaps, news, shuffles."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np

from mlct.errors import EvaluationError
from mlct.evaluation.holdout import check_metric, check_score, holdout
from mlct.evaluation.metric import Metric
from mlct.evaluation.metric import metric as find_metric

UNSEEN = "never seen before"
ALL = "all columns"


@dataclass(frozen=True, kw_only=True, slots=True)
class Drop:
    """What one disturbance of one column did; a positive `drop` is a loss.

    `problem` is what the model said instead of scoring; the drop is then NaN.
    """

    disturbance: str
    column: str
    value: float
    drop: float
    problem: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Robustness:
    """The metric undisturbed, and every disturbance, the worst first."""

    metric: str
    value: float
    drops: tuple[Drop, ...]

    def measures(self) -> dict[str, dict[str, float]]:
        """The worst drop of each kind, as `evaluate(measured=...)` takes it: `noise_drop`...

        Shuffling is left out: a column whose shuffling costs nothing is one the model ignores.
        NaN where the model could not score, so that no limit passes.
        """
        worst: dict[str, float] = {}
        for drop in self.drops:
            if drop.disturbance != "shuffled":
                name = f"{drop.disturbance}_drop"
                so_far = worst.get(name, -np.inf)
                worst[name] = nan if drop.problem else float(np.maximum(so_far, drop.drop))
        return {name: {"challenger": value} for name, value in worst.items()}


def robustness(
    score: Callable[[Mapping[str, Any]], Any],
    table: Mapping[str, Any],
    y_true: Any,
    metric: str | Metric,
    *,
    columns: Sequence[str] | None = None,
    noise: float = 0.1,
    share: float = 0.1,
    weights: Any = None,
    seed: int = 0,
) -> Robustness:
    """Score `table`, column to array (rows,), again and again, each time disturbed a little.

    Per column: `shuffled` (all its values permuted), for numbers `noise` (normal, `noise` standard
    deviations wide), for texts `unseen` (a value that no training row has, on `share` of the
    rows), and for all `missing` (NaN or None on `share` of the rows). Then noise and missing on
    all columns at once. `columns` are those to disturb, by default all. `score` receives the
    disturbed mapping and returns scores (rows,).
    """
    rows = holdout(y_true, weights=weights)
    chosen = find_metric(metric)
    wanted = list(table) if columns is None else list(columns)
    if unknown := [name for name in wanted if name not in table]:
        raise EvaluationError(
            f"{', '.join(unknown)} cannot be disturbed", expected=f"one of {', '.join(table)}"
        )
    clean = {name: np.asarray(values) for name, values in table.items()}
    random = np.random.default_rng(seed)

    def measured(disturbed: Mapping[str, Any]) -> float:
        checked = check_score("the model", score({**clean, **disturbed}), rows)
        check_metric(chosen, rows, {"the model": checked})
        return float(chosen.function(rows.y_true, checked, rows.weights))

    value = measured({})
    drops = []
    for kind, name, disturbed in _disturbances(clean, wanted, noise, share, random):
        try:
            found, problem = measured(disturbed), None
        except Exception as error:  # whatever a model does with a gap is what is measured here
            found, problem = nan, f"{type(error).__name__}: {error}"
        loss = chosen.sign * (value - found) + 0.0
        drops.append(Drop(disturbance=kind, column=name, value=found, drop=loss, problem=problem))
    drops.sort(key=lambda d: (d.problem is None, -d.drop if d.problem is None else 0.0))
    return Robustness(metric=chosen.name, value=value, drops=tuple(drops))


def _disturbances(
    table: Mapping[str, Any],
    columns: Sequence[str],
    noise: float,
    share: float,
    random: np.random.Generator,
) -> list[tuple[str, str, dict[str, Any]]]:
    found: list[tuple[str, str, dict[str, Any]]] = []
    noisy: dict[str, Any] = {}
    missing: dict[str, Any] = {}
    for name in columns:
        values = table[name]
        hit = random.random(len(values)) < share
        if values.dtype.kind in "iuf":
            real = values.astype(np.float64)
            wide = noise * float(np.nanstd(real))
            noisy[name] = real + random.normal(0.0, 1.0, len(real)) * wide
            missing[name] = np.where(hit, nan, real)
            found.append(("noise", name, {name: noisy[name]}))
        else:
            texts = values.astype(object)
            missing[name] = np.where(hit, None, texts)
            if values.dtype.kind in "OUS":
                found.append(("unseen", name, {name: np.where(hit, UNSEEN, texts)}))
        found.append(("missing", name, {name: missing[name]}))
        found.append(("shuffled", name, {name: values[random.permutation(len(values))]}))
    if len(noisy) > 1:
        found.append(("noise", ALL, noisy))
    if len(missing) > 1:
        found.append(("missing", ALL, missing))
    return found
