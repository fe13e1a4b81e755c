"""What the ledger says is live, loaded for scoring, and followed while it scores.

The ledger is asked, never MLflow: an alias that somebody moved, or an artifact that somebody
overwrote, changes nothing here. Neither Dagster nor MLflow is imported.
"""

import logging
import os
import random
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlct.data.window import duration
from mlct.errors import LoadRefused, SpecError
from mlct.release.approval.request import slot_key
from mlct.release.ledger import MOVES, Record
from mlct.release.slot.audit import require_approved
from mlct.training import fit

if TYPE_CHECKING:
    from mlct.adapters.home import Home

_log = logging.getLogger("mlct.live")
#: Loaded models that are kept: what is served, and what a rollback would go back to.
_KEPT = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """One loaded version and the statement that put it into its slot; never changes.

    `threshold` is the score from which to act, as its training recorded it; None where nobody
    decides by one. Take `LiveModel.current` once per request, so that score, version and threshold
    belong together.
    """

    model: fit.Model
    record: Record
    version: int
    artifact: str
    approvers: tuple[str, ...]
    since: str
    sequence: int
    threshold: float | None = None

    def score(self, rows: Any) -> fit.Floats:
        """Scores (rows,) of an Arrow table; see `mlct.training.fit.Model.score`."""
        return self.model.score(rows)

    def score_row(self, row: Mapping[str, Any]) -> float:
        """Score of one row given as a mapping."""
        return self.model.score_row(row)


class LiveModel:
    """A model that scores with what its slot serves, and follows the slot. Made by `load_live`.

    A thread asks the ledger every `refresh` seconds and switches by one assignment: no request
    waits for it. Whatever goes wrong then (the ledger is down, bytes do not match, nothing in the
    ledger names them), the last good version goes on scoring, `problem` says why, and it is tried
    again. `checked` is when the ledger last confirmed what is served.
    """

    def __init__(
        self,
        model: str,
        *,
        slot: str,
        home: "Home",
        every: float | None,
        trusted: Sequence[str],
        watch: Callable[["LiveModel"], None] | None,
    ) -> None:
        self.name, self.slot, self.home = model, slot, home
        self.problem, self.checked = "", home.ledger.clock()
        self._every, self._trusted, self._watch = every, tuple(trusted), watch
        self._models: dict[str, fit.Model] = {}
        self._serves: Served | None = None
        self._ready()
        self._look()
        if every is not None:
            _following.add(self)
            self._follow()

    @property
    def current(self) -> Served:
        """What is served now, to be used as a whole."""
        assert self._serves is not None, "the first load raises"
        return self._serves

    def score(self, rows: Any) -> fit.Floats:
        """Scores (rows,) of an Arrow table by the version of this moment."""
        return self.current.model.score(rows)

    def score_row(self, row: Mapping[str, Any]) -> float:
        """Score of one row given as a mapping, by the version of this moment."""
        return self.current.model.score_row(row)

    @property
    def version(self) -> int:
        return self.current.version

    @property
    def artifact(self) -> str:
        return self.current.artifact

    @property
    def approvers(self) -> tuple[str, ...]:
        return self.current.approvers

    @property
    def since(self) -> str:
        """When the slot moved to this version (ISO 8601, UTC)."""
        return self.current.since

    @property
    def threshold(self) -> float | None:
        """The score from which to act: it goes back with the version."""
        return self.current.threshold

    def refresh(self) -> bool:
        """Ask the ledger now; whether what is served was confirmed. Never raises."""
        problem = ""
        try:
            with self._one:
                self._look()
        except Exception as error:  # whatever the ledger, the stores or the learner's library raise
            problem = f"{type(error).__name__}: {error}"
        if problem and problem != self.problem:
            _log.warning("%s keeps version %s: %s", self._key, self.version, problem)
        elif self.problem and not problem:
            _log.info("%s follows the ledger again, version %s", self._key, self.version)
        self.problem = problem
        if self._watch is not None:
            try:
                self._watch(self)
            except Exception:  # theirs: it must not stop us from following
                _log.exception("the watch of %s failed", self._key)
        return not problem

    def close(self) -> None:
        """Stop following; what is served stays."""
        _following.discard(self)
        self._stop.set()

    def __enter__(self) -> "LiveModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _key(self) -> str:
        return slot_key(self.name, self.slot)

    def _ready(self) -> None:
        self._one, self._stop = threading.Lock(), threading.Event()

    def _follow(self) -> None:
        """Refresh in a thread, until closed or collected."""
        stop, every, me = self._stop, self._every or 0.0, weakref.ref(self)

        def run() -> None:
            # Jitter: a hundred workers started together must not ask together.
            while not stop.wait(every * random.uniform(0.8, 1.2)):
                live = me()
                if live is None:
                    return
                live.refresh()
                del live

        threading.Thread(target=run, name=f"mlct-live-{self._key}", daemon=True).start()

    def _look(self) -> None:
        """Load what the ledger says is live, if it is not what is served. Raises what is wrong."""
        head, serves = self.home.ledger.head(self._key), self._serves
        if serves is not None and head is not None and head.hash == serves.record.hash:
            self.checked = self.home.ledger.clock()
            return
        says = self._named(head, serves)
        assert head is not None
        model = self._load(says["artifact"])
        # The one assignment that requests see.
        self._serves = Served(
            model=model,
            record=head,
            version=says["version"],
            artifact=says["artifact"],
            approvers=tuple(says["approvers"]),
            since=head.recorded_at,
            sequence=head.sequence,
            threshold=self._threshold(says),
        )
        self.checked = self.home.ledger.clock()
        _log.info("%s serves version %s by statement %s", self._key, self.version, head.sequence)

    def _named(self, head: Record | None, serves: Served | None) -> Mapping[str, Any]:
        """What the slot's last move says, if it may be followed."""
        if head is None:
            raise LoadRefused(
                f"the ledger knows nothing live in {self.slot!r} of {self.name}",
                expected="a promoted version",
                fix=f"Promote one: `mlct request {self.name}`; check MLCT_HOME",
            )
        self.home.ledger.require_intact(head)
        says: Mapping[str, Any] = head.predicate
        if head.kind not in MOVES or (says["model"], says["slot"]) != (self.name, self.slot):
            raise LoadRefused(
                f"statement {head.sequence} is a {head.kind} of "
                f"{slot_key(says['model'], says['slot'])}",
                expected=f"a promotion or rollback of {self._key}",
                fix="Run `mlct verify`: somebody wrote to the ledger without mlct",
            )
        if serves is not None and head.sequence <= serves.sequence:
            raise LoadRefused(
                f"the ledger ends at statement {head.sequence} for {self._key}",
                expected=f"statement {serves.sequence}, which is served, or a later one",
                fix="It was restored from an older backup, or rewritten: run `mlct verify`, and "
                "restart what serves once it is right",
            )
        require_approved(self.home.ledger, head)
        return says

    def _threshold(self, says: Mapping[str, Any]) -> float | None:
        """What the training of this version said; nothing where it was before thresholds were."""
        for record in self.home.ledger.records(
            kind="training", model=self.name, subject=says["artifact"]
        ):
            if record.predicate["version"] == says["version"]:
                self.home.ledger.require_intact(record)
                threshold: float | None = record.predicate.get("threshold")
                return threshold
        return None

    def _load(self, artifact: str) -> fit.Model:
        model = self._models.pop(artifact, None)
        if model is None:
            model = fit.unpack(fit.kept(self.home.models, artifact), trusted=self._trusted)
        self._models[artifact] = model
        while len(self._models) > _KEPT:
            del self._models[next(iter(self._models))]
        return model


def load_live(
    model: str,
    *,
    slot: str = "production",
    home: "Home | None" = None,
    refresh: str | None = "10s",
    trusted: Sequence[str] = (),
    watch: Callable[[LiveModel], None] | None = None,
) -> LiveModel:
    """The model that a slot serves, verified, ready to score, and following the slot.

    `refresh` is how often the ledger is asked (None: only when `.refresh()` is called, for a batch
    job); `trusted` names classes of your own that the stored model may hold, as in
    `ModelSpec.trusted_types`; `watch` is called with the LiveModel after every refresh, for
    metrics. Raises an MlctError when nothing can be served: nothing is live, no store has the bytes
    that the ledger names, or the ledger cannot be read.

        live = mlct.load_live("flight_delay")
        now = live.current
        score, version = now.score_row(row), now.version
    """
    every = None if refresh is None else duration(refresh, field="refresh").total_seconds()
    if every is not None and every <= 0:
        raise SpecError(f"refresh is {refresh!r}", expected="a positive duration such as '10s'")
    if home is None:
        from mlct.adapters.home import Home

        home = Home.from_environment()
    return LiveModel(model, slot=slot, home=home, every=every, trusted=trusted, watch=watch)


_following: "weakref.WeakSet[LiveModel]" = weakref.WeakSet()


def _forked() -> None:
    """A forked worker has no threads: without a new one it would serve one version for ever."""
    for live in list(_following):
        live._ready()
        live._follow()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
