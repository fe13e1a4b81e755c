"""What was seen in one window, and what later windows need of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from mlct.data.contract import ContractReport
from mlct.data.digest import digest
from mlct.data.profile import Profile
from mlct.data.window import parse_instant
from mlct.monitoring.drift import DriftReport, FixedRule
from mlct.monitoring.performance import Gap, LabelState, LossSequence, Performance
from mlct.monitoring.slo import SloState, SloWindow
from mlct.monitoring.trigger import WindowResult

FORMAT = "mlct.window/v1"

#: Cluster, number of rows, sum of their losses.
Losses = Sequence[tuple[int, int, float]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Past:
    """What an earlier window left: `profile` and `joined` only where they were asked for."""

    start: datetime
    end: datetime
    version: int
    losses: Losses
    slo_windows: Mapping[str, Sequence[SloWindow]]
    columns: Mapping[str, Mapping[str, Any]]
    profile: Profile | None = None
    joined: pa.Table | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Observation:
    """One window `[start, end)` of the version that scored it, as it was known at `as_of`.

    `drift` and `scores` are None where nothing could be compared; `profile` is the window's,
    `against` what it was compared with, in words `compared_with`. `rule` is the fixed rule where
    the policy asks for it. `realised` holds one value a metric, the gate's first primary metric
    first; `estimated` that metric without labels, `limit` what both are held against. `joined` are
    the window's predictions with the labels known then, `counts` what the join left out. `losses`
    feed the sequential test `sequence`. `slos` are objectives over all windows, whoever served,
    `own_slos` over those of this version alone. `signals` are what a retrain decision reads.
    """

    version: int
    artifact: str
    start: datetime
    end: datetime
    as_of: datetime
    learned_until: datetime
    rows: int
    newest: datetime | None
    drift: DriftReport | None
    scores: DriftReport | None
    rule: FixedRule | None
    profile: Profile | None
    against: Profile
    compared_with: str
    realised: Sequence[Performance]
    estimated: Performance
    limit: float | None
    gap: Gap | None
    sequence: LossSequence | None
    concept_reason: str
    labels: LabelState
    counts: Mapping[str, int]
    behaviour: Sequence[Performance]
    slo_windows: Mapping[str, Sequence[SloWindow]]
    slos: Sequence[SloState]
    own_slos: Sequence[SloState]
    refused: str
    contract: ContractReport | None
    losses: Losses
    joined: pa.Table
    signals: Sequence[WindowResult]

    @property
    def key(self) -> str:
        """Names the window of this artifact: what is found in it later is the same cause."""
        said = [self.artifact, self.start.isoformat(), self.end.isoformat()]
        return digest(said)[:16]

    @property
    def slo_breaches(self) -> int | None:
        """How many product objectives page on what this version did, this very window among it;
        None where the window judged none."""
        judged = self._judged
        return sum(s.pages and s.verdict == "bad" for s in judged) if judged else None

    @property
    def slo_samples(self) -> int:
        """The fewest samples, labelled rows say, that one of the objectives was judged by here."""
        return int(min((s.samples for s in self._judged), default=0))

    @property
    def _judged(self) -> list[SloState]:
        return [
            s
            for s in self.own_slos
            if s.objective.product
            and s.verdict in ("good", "bad")
            and s.newest is not None
            and s.newest > self.start
        ]

    def signal(self, name: str) -> WindowResult:
        """The result of one signal."""
        return next(s for s in self.signals if s.signal == name)

    def to_dict(self, *, profile: str | None, joined: str) -> dict[str, Any]:
        """Plain JSON of all that later windows and pages read; `profile` and `joined` are digests.

        `past` reads it back.
        """
        return {
            "format": FORMAT,
            "version": self.version,
            "artifact": self.artifact,
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "as_of": self.as_of.isoformat(),
            "rows": self.rows,
            "profile": profile,
            "joined": joined,
            "compared_with": self.compared_with,
            "columns": columns_of(self),
            "performances": [
                p.to_dict() for p in (*self.realised, self.estimated, *self.behaviour)
            ],
            "limit": self.limit,
            "losses": [list(one) for one in self.losses],
            "slo_windows": {
                name: [_plain(w) for w in windows] for name, windows in self.slo_windows.items()
            },
            "slos": {s.name: {"status": s.status, "reason": s.reason} for s in self.slos},
            "labels": self.labels.reason,
            "counts": dict(self.counts),
            "concept": self.concept_reason,
            "refused": self.refused,
        }


def columns_of(seen: Observation) -> dict[str, dict[str, Any]]:
    """What drift says of each score and feature, those that matter first."""
    found = {}
    for report in (seen.scores, seen.drift):
        for c in report.columns.values() if report is not None else ():
            found[c.name] = {
                "psi": None if c.psi is None else round(c.psi, 6),
                "threshold": None if c.threshold is None else round(c.threshold, 6),
                "status": c.status,
                "importance": round(c.importance, 6),
                "prediction": c.prediction,
            }
    return found


def past(
    content: Mapping[str, Any], *, profile: Profile | None = None, joined: pa.Table | None = None
) -> Past:
    """An observation as it was stored."""
    return Past(
        start=parse_instant(content["start"]),
        end=parse_instant(content["end"]),
        version=content["version"],
        losses=[(int(c), int(n), float(s)) for c, n, s in content["losses"]],
        slo_windows={
            name: [_window(w) for w in windows] for name, windows in content["slo_windows"].items()
        },
        columns=content["columns"],
        profile=profile,
        joined=joined,
    )


def _plain(window: SloWindow) -> dict[str, Any]:
    told = asdict(window)
    return told | {"start": window.start.isoformat(), "end": window.end.isoformat()}


def _window(told: Mapping[str, Any]) -> SloWindow:
    times = {n: parse_instant(told[n]) for n in ("start", "end")}
    return SloWindow(**{**told, **times})
