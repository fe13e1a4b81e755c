"""Can a model tell the window's rows from the reference's? Drift of columns together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import special

from mlct.data.profile.source import kind_of
from mlct.errors import DataError
from mlct.training.fit import fit

_LABEL = "mlct_domain"


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """How well the window's rows are told from the reference's.

    `auc` is the area under the ROC curve on rows that were not learned from: 0.5 where nothing
    moved, jointly or alone. `low` and `high` are its interval at `confidence`; `importance` is each
    column's share in telling them apart.
    """

    auc: float
    low: float
    high: float
    confidence: float
    rows: tuple[int, int]
    importance: dict[str, float]

    @property
    def drifted(self) -> bool:
        """Whether the interval lies above 0.5."""
        return self.low > 0.5


def domain_classifier(
    reference: pa.Table,
    current: pa.Table,
    *,
    columns: Sequence[str] | None = None,
    estimator: Callable[[], Any] | None = None,
    rows: int = 20_000,
    folds: int = 5,
    confidence: float = 0.95,
    seed: int = 0,
) -> Domain:
    """Learn to tell the rows of two tables apart, by cross-fitting.

    At most `rows` rows of each are drawn. `estimator` gives a fresh scikit-learn compatible
    classifier (default: 50 small LightGBM trees). The area's variance is that of DeLong (1988) in
    each fold; rows must be independent. Raises DataError for fewer than 20 rows a fold, and when
    the tables share no number or text column.
    """
    names = [
        n
        for n in (columns if columns is not None else reference.column_names)
        if n in reference.column_names
        and n in current.column_names
        and kind_of(reference.schema.field(n).type) == kind_of(current.schema.field(n).type)
        and kind_of(reference.schema.field(n).type) in ("number", "category")
    ]
    if not names:
        raise DataError("the tables share no column", expected="a number or text column in both")
    if min(reference.num_rows, current.num_rows) < 20 * folds:
        raise DataError(
            f"{reference.num_rows} reference and {current.num_rows} current rows",
            expected=f"{20 * folds} or more of each, 20 a fold",
            fix="Widen the window",
        )
    random = np.random.default_rng(seed)
    drawn = [_drawn(table.select(names), rows, random) for table in (reference, current)]
    sizes = (drawn[0].num_rows, drawn[1].num_rows)
    schema = drawn[0].schema
    both = pa.concat_tables([drawn[0], drawn[1].cast(schema, safe=False)])
    label = np.repeat([0, 1], sizes)
    both = both.append_column(_LABEL, pa.array(label))
    fold = np.concatenate([random.permutation(np.arange(size) % folds) for size in sizes])
    areas, variances, shares = [], [], []
    for number in range(folds):
        held = fold == number
        model = fit((estimator or _trees(seed))(), both.filter(pa.array(~held)), names, _LABEL)
        area, variance = _area(label[held], model.score(both.filter(pa.array(held))))
        areas.append(area)
        variances.append(variance)
        shares.append(model.importance())
    auc = float(np.mean(areas))
    error = float(np.sqrt(np.sum(variances)) / folds * special.ndtri((1 + confidence) / 2))
    return Domain(
        auc=auc,
        low=max(0.0, auc - error),
        high=min(1.0, auc + error),
        confidence=confidence,
        rows=sizes,
        importance={n: float(np.mean([s.get(n, 0.0) for s in shares])) for n in names},
    )


def _drawn(table: pa.Table, rows: int, random: np.random.Generator) -> pa.Table:
    if table.num_rows <= rows:
        return table
    return table.take(pa.array(np.sort(random.choice(table.num_rows, rows, replace=False))))


def _trees(seed: int) -> Callable[[], Any]:
    def estimator() -> Any:
        from lightgbm import LGBMClassifier

        return LGBMClassifier(
            n_estimators=50,
            num_leaves=15,
            min_child_samples=50,
            learning_rate=0.1,
            n_jobs=1,
            random_state=seed,
            deterministic=True,
            verbose=-1,
        )

    return estimator


def _area(label: Any, score: Any) -> tuple[float, float]:
    """Area under the ROC curve, ties counted by half, and its variance (DeLong 1988)."""
    old, new = np.sort(score[label == 0]), np.sort(score[label == 1])

    def above(values: Any, others: Any) -> Any:
        left, right = (np.searchsorted(others, values, side) for side in ("left", "right"))
        return (left + right) / 2 / len(others)

    first, second = above(new, old), 1 - above(old, new)
    variance = first.var(ddof=1) / len(new) + second.var(ddof=1) / len(old)
    return float(first.mean()), float(variance)
