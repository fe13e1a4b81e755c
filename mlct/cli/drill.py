"""`mlct drill`: a game day. Real faults on a stage, and what came of each."""

from dataclasses import asdict
from typing import Any

from mlct.adapters.home import Home
from mlct.cli import answers
from mlct.errors import DrillFailed
from mlct.release.drill import SCENARIOS

__all__ = ["SCENARIOS", "drill"]


def drill(home: Home, options: Any) -> tuple[Any, str]:
    """Play one scenario, or all; raises DrillFailed, with the same table, where one failed."""
    from mlct.adapters.drill import drill as play

    model, _ = options.model
    names = [options.scenario] if options.scenario else list(SCENARIOS)
    found = [
        play(home, model=model, slot=options.slot, scenario=name, bar=options.bar) for name in names
    ]
    text = answers.table(
        [
            {
                "SCENARIO": o.scenario,
                "": "as expected" if o.passed else "FAILED",
                "SECONDS": f"{o.seconds:.2f}",
                "EXPECTED": o.expected,
                "OBSERVED": o.observed,
            }
            for o in found
        ]
    )
    failed = [o.scenario for o in found if not o.passed]
    if failed:
        raise DrillFailed(
            f"{', '.join(failed)} of {model} did not go as expected\n{text}\n",
            expected="every rollback to work, or to be refused and page",
            fix="An incident is open: mend what the table names; it closes when "
            f"`mlct drill {model}` goes well",
            outcomes=[asdict(o) for o in found],
        )
    return [asdict(o) for o in found], text
