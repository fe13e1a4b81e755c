"""Which of several candidates a retrain fits: the best on the selection window."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mlct.adapters.home import Home
from mlct.data import snapshot
from mlct.data.digest import canonical, digest
from mlct.data.window import parse_instant, selection_cut
from mlct.errors import TrainingError
from mlct.evaluation.business import bound
from mlct.evaluation.selection import select
from mlct.spec import ModelSpec
from mlct.training import fit
from mlct.training.recipe import Recipe, recipe, seeded


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The estimator to fit on all training rows, with its recipe.

    `document` says what it was chosen among, by which metric and on which rows; {} where there was
    no choice.
    """

    estimator: Any
    recipe: Recipe
    document: dict[str, Any]


def choose(home: Home, spec: ModelSpec, document: dict[str, Any], names: Sequence[str]) -> Choice:
    """The best candidate on the selection window, the first of equals.

    The others are forgotten: the winner is fitted again on all training rows, and the holdout,
    which nobody selected on, judges it. The same candidates on the same rows are not fitted twice.
    """
    data = snapshot.read(home.store, document["train"])
    types = tuple((n, str(data.schema.field(n).type)) for n in names)

    def prepared(factory: Callable[[], Any], seed: int) -> tuple[Any, Recipe]:
        estimator = seeded(factory(), seed)
        made = recipe(
            factory,
            estimator,
            snapshot=document["train"],
            features=types,
            label=spec.columns.label,
            seed=seed,
        )
        return estimator, made

    ready = {name: prepared(*candidate) for name, candidate in spec.candidates.items()}
    if len(ready) == 1:
        ((estimator, made),) = ready.values()
        return Choice(estimator=estimator, recipe=made, document={})
    found = _selected(home, spec, document, names, ready, data)
    estimator, made = prepared(*spec.candidates[found["chosen"]])
    return Choice(estimator=estimator, recipe=made, document=found)


def _selected(
    home: Home,
    spec: ModelSpec,
    document: dict[str, Any],
    names: Sequence[str],
    ready: dict[str, tuple[Any, Recipe]],
    data: Any,
) -> dict[str, Any]:
    metric = spec.gate.primaries[0].of_metric
    asked = {
        "candidates": {name: made.digest for name, (_, made) in ready.items()},
        "metric": metric.name,
        "window": spec.windows.selection,
        "until": document["holdout_start"],
    }
    place = f"selections/{spec.name}/{digest(asked)}"
    if known := home.store.ref(place):
        found: dict[str, Any] = json.loads(home.store.get(known))
        return found
    rows = data.to_table()
    end = parse_instant(document["holdout_start"])
    early, late = selection_cut(rows, spec.columns, spec.windows, end=end)
    scores, truth = {}, None
    for name, (estimator, _) in ready.items():
        try:
            model = fit.fit(estimator, early, names, spec.columns.label)
        except TrainingError as error:
            raise TrainingError(
                f"candidate {name!r}: {error.found}", expected=error.expected, fix=error.fix
            ) from error
        truth, scores[name] = model.truth(late), model.score(late)
    on = bound(metric, {n: late[n].to_numpy() for n in late.column_names})
    chosen = select(truth, scores, on)
    found = {
        "format": "mlct.selection/v1",
        "chosen": chosen,
        "metric": metric.name,
        "values": {n: float(on.function(truth, score, None)) for n, score in scores.items()},
        "rows": snapshot.write(home.store, late).digest,
        "window": spec.windows.selection,
        "fitted_on": early.num_rows,
    }
    home.store.set_ref(place, home.store.put(canonical(found)))
    return found
