"""What a version is compared with: its training rows' profile, its holdout's scores and labels."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlct.data import snapshot
from mlct.data.digest import canonical
from mlct.data.profile import Profile, profile
from mlct.data.window import Columns, Windows, parse_instant
from mlct.errors import DataError
from mlct.evaluation.metric import Floats
from mlct.monitoring.drift import Spread, spreads
from mlct.monitoring.observe.log import LOG, labels_of, predict
from mlct.training import fit

FORMAT = "mlct.reference/v1"
#: Prefix of the columns of a regression's holdout that hold its features as the model sees them.
FEATURE = "feature "
_STRETCHES = 200  # of the training rows show how much columns move by themselves


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reference:
    """The reference of one version.

    `profile` is that of the training rows' features, `usual` how much they move from window to
    window by themselves, `usual_scores` how much the scores of these rows do; `held` are the
    holdout's rows as a log with labels, which the version did not learn from; `learned_until`
    is where its training rows end.
    """

    version: int
    profile: Profile
    usual: Mapping[str, Spread]
    usual_scores: Mapping[str, Spread]
    held: pa.Table
    importance: Mapping[str, float]
    learned_until: datetime

    def keep(self, store: snapshot.Store) -> str:
        """Store it; returns its digest."""
        return store.put(
            canonical(
                {
                    "format": FORMAT,
                    "version": self.version,
                    "profile": store.put(self.profile.to_bytes()),
                    "usual": {n: asdict(s) for n, s in self.usual.items()},
                    "usual_scores": {n: asdict(s) for n, s in self.usual_scores.items()},
                    "held": snapshot.write(store, self.held).digest,
                    "importance": dict(self.importance),
                    "learned_until": self.learned_until.isoformat(),
                }
            )
        )

    @classmethod
    def kept(cls, store: snapshot.Store, digest: str) -> "Reference":
        """Read `keep` back. Raises DataError for another format."""
        content = json.loads(store.get(digest))
        if content.pop("format", None) != FORMAT:
            raise DataError(f"object {digest[:12]} is no reference", expected=FORMAT)
        return cls(
            version=content["version"],
            profile=Profile.from_bytes(store.get(content["profile"])),
            usual={n: Spread(**s) for n, s in content["usual"].items()},
            usual_scores={n: Spread(**s) for n, s in content["usual_scores"].items()},
            held=snapshot.read(store, content["held"]).to_table(),
            importance=content["importance"],
            learned_until=parse_instant(content["learned_until"]),
        )


def reference_of(
    model: fit.Model,
    train: pa.Table,
    holdout: pa.Table,
    *,
    version: int,
    artifact: str,
    columns: Columns,
    windows: Windows,
    learned_until: datetime,
    step: timedelta,
) -> Reference:
    """The reference of a version from the rows that it learned from and was judged on.

    Training rows in stretches of `step` show how much features and scores move by themselves.
    """
    train = train.sort_by(columns.time)
    features = train.select([f.name for f in model.features])
    cuts = _cuts(train[columns.time], step)
    of_train, usual = _usual(features, cuts)
    _, usual_scores = _usual(score_table(model.score(train)), cuts)
    log = predict(model, holdout, None, columns=columns, version=version, artifact=artifact)
    held = with_labels(log, labels_of(model, holdout, columns, windows))
    if model.task == "regression":  # a model of its loss learns from them
        encoded = fit.encode(holdout, model.features)
        for feature, values in zip(model.features, encoded.columns, strict=True):
            held = held.append_column(FEATURE + feature.name, values)
    return Reference(
        version=version,
        profile=of_train,
        usual=usual,
        usual_scores=usual_scores,
        held=held,
        importance=model.importance(),
        learned_until=learned_until,
    )


def with_labels(log: pa.Table, labels: pa.Table) -> pa.Table:
    """A log with the columns `label` and `label_time` of its rows, null where there are none."""
    place = pc.index_in(log[LOG.id], labels[LOG.id].combine_chunks())
    told: dict[str, Any] = {n: labels[n].take(place) for n in (LOG.label, LOG.label_time)}
    for name, values in told.items():
        log = log.append_column(name, values)
    return log


def score_table(score: Floats) -> pa.Table:
    """Scores (n,) or (n, classes) as one column each."""
    if score.ndim == 1:
        return pa.table({"score": score})
    return pa.table({f"score of class {c}": column for c, column in enumerate(score.T)})


def scores_of(log: pa.Table) -> Floats:
    """The scores of a reference's log: (n,), or (n, classes)."""
    column = log[LOG.score].combine_chunks()
    if not pa.types.is_list(column.type):
        found: Floats = column.to_numpy()
        return found
    return pc.list_flatten(column).to_numpy().reshape(len(column), -1)


def _cuts(times: pa.ChunkedArray, step: timedelta) -> list[int]:
    """Where stretches of `step` begin and end in sorted times; those without a row are left out."""
    at = times.cast(pa.timestamp("us", times.type.tz), safe=False).cast(pa.int64()).to_numpy()
    starts = np.arange(at[0], at[-1] + 1, step // timedelta(microseconds=1))
    return [*np.unique(np.searchsorted(at, starts)).tolist(), len(at)]


def _usual(rows: pa.Table, cuts: list[int]) -> tuple[Profile, dict[str, Spread]]:
    whole, stretches = profile(rows), list(pairwise(cuts))
    if len(stretches) > _STRETCHES:  # at random: every 24th hour would be one hour of the day
        chosen = np.random.default_rng(0).choice(len(stretches), _STRETCHES, replace=False)
        stretches = [stretches[i] for i in sorted(chosen)]
    parts = [profile(rows.slice(a, b - a), edges_from=whole) for a, b in stretches]
    return whole, spreads(whole, parts)
