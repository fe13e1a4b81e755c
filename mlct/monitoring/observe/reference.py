"""What a version is compared with: its training rows' profile, its holdout's scores and labels."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mlct.data import snapshot
from mlct.data.digest import canonical
from mlct.data.profile import Profile, profile
from mlct.data.window import Columns, Windows, parse_instant, scalar
from mlct.errors import DataError
from mlct.monitoring.drift import Spread, spreads
from mlct.monitoring.observe.log import LOG, labels_of, predict
from mlct.training import fit

FORMAT = "mlct.reference/v1"
#: Prefix of the columns of a regression's holdout that hold its features as the model sees them.
FEATURE = "feature "


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reference:
    """The reference of one version.

    `profile` is that of the training rows' features, `usual` how much they move from window to
    window by themselves; `held` are the holdout's rows as a log with labels, which the version did
    not learn from; `learned_until` is where its training rows end.
    """

    version: int
    profile: Profile
    usual: Mapping[str, Spread]
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

    Training rows in stretches of `step` show how much features move by themselves.
    """
    names = [f.name for f in model.features]
    of_train = profile(train.select(names))
    times = train[columns.time]
    bounds = pc.min_max(times)
    start, past = bounds["min"].as_py(), []
    while start is not None and start <= bounds["max"].as_py():
        low, high = (scalar(t, times.type) for t in (_aware(start), _aware(start + step)))
        part = train.filter(pc.and_(pc.greater_equal(times, low), pc.less(times, high)))
        if part.num_rows:
            past.append(profile(part.select(names), edges_from=of_train))
        start += step
    log = predict(model, holdout, None, columns=columns, version=version, artifact=artifact)
    held = with_labels(log, labels_of(model, holdout, columns, windows))
    if model.task == "regression":  # a model of its loss learns from them
        encoded = fit.encode(holdout, model.features)
        for feature, values in zip(model.features, encoded.columns, strict=True):
            held = held.append_column(FEATURE + feature.name, values)
    return Reference(
        version=version,
        profile=of_train,
        usual=spreads(of_train, past),
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


def _aware(instant: Any) -> datetime:
    return parse_instant(instant.isoformat())
