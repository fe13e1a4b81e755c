"""What a replay found: a track for each policy, as values, a table, JSON and a picture."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from statistics import fmean
from typing import Any

from mlct.data.digest import digest

FORMAT = "mlct.replay/v1"
STATIC, SCHEDULED, ORACLE = "static", "scheduled", "oracle"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A retrain that was asked for at `at`: why, and what came of it.

    `verdict` is the gate's, "ERROR" where nothing could be trained or judged. `better` is by how
    much the challenger was better than the champion in the window to come, in the metric's units.
    """

    at: datetime
    cause: Mapping[str, Any]
    verdict: str
    reasons: tuple[str, ...]
    better: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Track:
    """What one policy would have done.

    `values` are the realised metric of each window, None where it has no labels. `false` counts
    retrains whose challenger was no better in the window to come, `missed` the instants without a
    retrain at which a challenger would have been better by more than it is worth. `rows` were
    learned from in all; `seconds` of CPU are those of this machine, and no part of equality.
    """

    name: str
    values: tuple[float | None, ...]
    steps: tuple[Step, ...]
    promotions: int
    false: int
    missed: int
    rows: int
    incidents: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)

    @property
    def retrains(self) -> int:
        return len(self.steps)

    @property
    def mean(self) -> float | None:
        """Of the windows with labels, each alike."""
        known = [v for v in self.values if v is not None]
        return fmean(known) if known else None

    @property
    def verdicts(self) -> dict[str, int]:
        """How many retrains ended how."""
        found: dict[str, int] = {}
        for step in self.steps:
            found[step.verdict] = found.get(step.verdict, 0) + 1
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """Tracks by name: "static", "scheduled" (each step), "oracle", and each policy. `at` are the
    starts of the windows, and the end of the last."""

    metric: str
    bigger_is_better: bool
    worth: float
    at: tuple[datetime, ...]
    tracks: Mapping[str, Track]

    def gain(self, name: str) -> float | None:
        """How much better than static a track was on average, in the metric's units."""
        here, static = self.tracks[name].mean, self.tracks[STATIC].mean
        if here is None or static is None:
            return None
        return (here - static) * (1 if self.bigger_is_better else -1)

    def share(self, name: str) -> float | None:
        """The gain over that of retraining at each step; None where that gained nothing."""
        here, most = self.gain(name), self.gain(SCHEDULED)
        return None if here is None or most is None or most <= 0 else here / most

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: the same for the same rows, policies and seed."""
        return {
            "format": FORMAT,
            "metric": self.metric,
            "worth": self.worth,
            "at": [t.isoformat() for t in self.at],
            "tracks": {n: self._told(t) for n, t in self.tracks.items()},
        }

    @property
    def digest(self) -> str:
        return digest(self.to_dict())

    def _told(self, track: Track) -> dict[str, Any]:
        return {
            "mean": track.mean,
            "gain": self.gain(track.name),
            "share": self.share(track.name),
            "retrains": track.retrains,
            "promotions": track.promotions,
            "verdicts": track.verdicts,
            "false": track.false,
            "missed": track.missed,
            "rows": track.rows,
            "incidents": list(track.incidents),
            "values": list(track.values),
            "steps": [
                {
                    "at": s.at.isoformat(),
                    "cause": dict(s.cause),
                    "verdict": s.verdict,
                    "reasons": list(s.reasons),
                    "better": s.better,
                }
                for s in track.steps
            ],
        }

    def table(self) -> str:
        """The tracks as aligned text."""
        head = ("track", self.metric, "gain", "share", "retrains", "promoted", "false", "missed")
        lines = [(*head, "rows learned", "CPU s")]
        for name, t in self.tracks.items():
            share = self.share(name)
            lines.append(
                (
                    name,
                    "-" if t.mean is None else f"{t.mean:.4f}",
                    f"{self.gain(name) or 0:+.4f}",
                    "-" if share is None else f"{share + 0:.0%}",
                    str(t.retrains),
                    str(t.promotions),
                    str(t.false),
                    str(t.missed),
                    f"{t.rows:,}",
                    f"{t.seconds:.1f}",
                )
            )
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        return "\n".join(
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def plot(self) -> bytes:
        """The realised metric of every track over time as PNG; dots are retrains that went live."""
        from mlct.evaluation.plot import timelines

        return timelines(
            self.metric,
            self.at[:-1],
            {name: track.values for name, track in self.tracks.items()},
            {n: [s.at for s in t.steps if s.verdict == "PASS"] for n, t in self.tracks.items()},
        )
