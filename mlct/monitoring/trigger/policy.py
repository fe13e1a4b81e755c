"""RetrainPolicy: what asks for a retrain, and what holds it back."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from mlct.data.window import duration
from mlct.errors import SpecError

#: What can ask for a retrain, the surest evidence of harm first: a realised objective, concept
#: drift, an estimated objective, drift of the scores, drift of features by their importance, the
#: champion's age, data that nobody has learned from, other code.
SIGNALS = ("realised", "concept", "estimated", "scores", "drift", "age", "data", "code")


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrainPolicy:
    """Retrain when a signal of `on` breached in its newest window, and in `breaches` of `of`.

    Signals that are not in `on` warn. `max_psi` is the population stability index that still does
    not matter, the `tau` of `drift`: a window breaches by drift when features that are shown to be
    above it carry a tenth of the importance, by scores when a score is. `max_age` is what "age"
    means, counted from the end of the champion's training data. `cooldown` and `budget` ("4/30d":
    four in thirty days) hold back what the sensor asks for; `schedule` is a cron line that they do
    not touch.
    """

    schedule: str | None = None
    max_psi: float = 0.02
    breaches: int = 1
    of: int = 1
    cooldown: str = "1d"
    budget: str = "4/30d"
    max_age: str | None = None
    on: Sequence[str] = ("realised", "age")

    def __post_init__(self) -> None:
        if not isinstance(self.max_psi, int | float) or not self.max_psi > 0:
            raise SpecError(f"RetrainPolicy.max_psi is {self.max_psi!r}", expected="above 0")
        if not (isinstance(self.breaches, int) and isinstance(self.of, int)) or not (
            1 <= self.breaches <= self.of
        ):
            raise SpecError(
                f"RetrainPolicy asks for {self.breaches!r} breaches of {self.of!r} windows",
                expected="whole numbers with 1 <= breaches <= of",
            )
        if self.schedule is not None and not re.fullmatch(
            r"@[a-z]+|\S+(\s+\S+){4}", str(self.schedule)
        ):
            raise SpecError(
                f"RetrainPolicy.schedule is {self.schedule!r}", expected="a cron line, or '@daily'"
            )
        duration(self.cooldown, field="RetrainPolicy.cooldown")
        if self.max_age is not None:
            duration(self.max_age, field="RetrainPolicy.max_age")
        self.allowance()
        self._check_on()

    def _check_on(self) -> None:
        on = tuple(self.on) if isinstance(self.on, list | tuple) else None
        if on is None or set(on) - set(SIGNALS) or len(set(on)) < len(on):
            raise SpecError(
                f"RetrainPolicy.on is {self.on!r}",
                expected=f"a list of distinct signals among {', '.join(SIGNALS)}",
                field="on",
            )
        if self.max_age is not None and "age" not in on:
            raise SpecError(
                f"RetrainPolicy.max_age is {self.max_age!r}, and 'age' is not in on {on}",
                expected="'age' in on, or no max_age",
                field="on",
            )
        object.__setattr__(self, "on", on)

    def allowance(self) -> tuple[int, timedelta]:
        """The budget as `(retrains, period)`."""
        match = re.fullmatch(r"(\d+)/(\d+[smhdw])", str(self.budget))
        if not match or not int(match[1]) or not int(match[2][:-1]):
            raise SpecError(
                f"RetrainPolicy.budget is {self.budget!r}", expected="a form such as '4/30d'"
            )
        return int(match[1]), duration(match[2], field="RetrainPolicy.budget")
