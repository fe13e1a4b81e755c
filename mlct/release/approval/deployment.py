"""How a version would be deployed: what an approval pins besides the version itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlct.data.digest import digest
from mlct.errors import SpecError
from mlct.release.approval.approvers import TRIALS


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """What a slot stands for: environment, share of traffic, settings of the gateway.

    `requires` names trials (shadow, canary) that a version must have passed for this slot, besides
    those of its risk tier. `settings` is any JSON; mlct does not read it, but nobody can change it
    between approval and promotion. Raises SpecError.
    """

    environment: str = "production"
    traffic: float = 1.0
    requires: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        def check(name: str, right: bool, expected: str) -> None:
            if not right:
                found = getattr(self, name)
                raise SpecError(
                    f"Deployment.{name} is {found!r}",
                    expected=expected,
                    fix="Correct the declaration and load the definitions again",
                    field=name,
                    value=found,
                )

        named = isinstance(self.environment, str) and bool(self.environment.strip())
        check("environment", named, "a name such as 'production-eu'")
        number = isinstance(self.traffic, int | float) and not isinstance(self.traffic, bool)
        check("traffic", number and 0 < self.traffic <= 1, "a share of traffic above 0, up to 1")
        listed = isinstance(self.requires, list | tuple) and set(self.requires) <= set(TRIALS)
        check("requires", listed, f"a list of {' and '.join(TRIALS)}")
        object.__setattr__(self, "requires", tuple(sorted(set(self.requires))))
        try:
            right = isinstance(self.settings, Mapping) and bool(self.digest(""))
        except ValueError:
            right = False
        check("settings", right, "a mapping that JSON can hold")

    def digest(self, slot: str) -> str:
        """Names this configuration of a slot."""
        return digest(
            {
                "slot": slot,
                "environment": self.environment,
                "traffic": float(self.traffic),
                "requires": list(self.requires),
                "settings": dict(self.settings),
            }
        )
