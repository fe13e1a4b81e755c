"""Training-serving agreement: the packaged model returns the scores that were judged."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlct.errors import EvaluationError


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Whether two runs of one model on the same rows agree bit for bit.

    `differing` counts the rows whose scores are not the same bits, `largest` is the largest
    absolute difference (NaN where a score is not a number on one side only).
    """

    identical: bool
    rows: int
    differing: int
    largest: float

    @property
    def sentence(self) -> str:
        """What a reader needs to know, in one line."""
        if self.identical:
            return f"the packaged model returns the same scores bit for bit on {self.rows:,} rows"
        return (
            f"the packaged model returns other scores on {self.differing:,} of {self.rows:,} rows, "
            f"by up to {self.largest:.3g}: what was judged is not what would serve"
        )

    def measures(self) -> dict[str, dict[str, float]]:
        """`score_mismatches`, as `evaluate(measured=...)` takes it, for a `Limit` with max=0."""
        return {"score_mismatches": {"challenger": float(self.differing)}}


def agreement(expected: Any, actual: Any) -> Agreement:
    """Compare the scores that were judged with those of the model reloaded elsewhere.

    Both are arrays (rows,) or (rows, classes). Not a number equals itself; 0.0 and -0.0 do not
    agree, nor do numbers of another width.

    >>> agreement([0.1, 0.2], [0.1, 0.2]).identical
    True
    """
    one, two = np.asarray(expected), np.asarray(actual)
    if one.shape != two.shape or one.ndim not in (1, 2) or not one.size:
        raise EvaluationError(
            f"the scores have shapes {one.shape} and {two.shape}",
            expected="the same rows twice, at least one",
        )
    if one.dtype != two.dtype:
        differing = np.ones(len(one), dtype=bool)
    else:
        bits = [np.ascontiguousarray(a).view(np.uint8).reshape(len(a), -1) for a in (one, two)]
        differing = (bits[0] != bits[1]).any(axis=1)
    apart = np.abs(one.astype(np.float64) - two.astype(np.float64)).reshape(len(one), -1)[differing]
    return Agreement(
        identical=not differing.any(),
        rows=len(one),
        differing=int(differing.sum()),
        largest=float(apart.max()) if apart.size else 0.0,
    )
