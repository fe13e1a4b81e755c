"""`mlct slo explain`: what the objectives of a file, or of a model, compile to."""

from pathlib import Path
from typing import Any

from mlct.adapters.home import Home
from mlct.errors import SpecError
from mlct.monitoring.slo import explain, explain_text, load

Answer = tuple[Any, str]


def answer(home: Home, options: Any) -> Answer:
    """The compiled rules of every objective, as JSON values and as aligned tables."""
    told = explain(load(_path(options.target)))
    return told, explain_text(told)


def _path(target: str) -> Path:
    """A file or folder; or a model, whose file is found as `slos/MODEL.yaml`."""
    tried = [Path(target), *(Path("slos", f"{target}{end}") for end in (".yaml", ".yml", ""))]
    found = next((path for path in tried if path.exists()), None)
    if found is None:
        raise SpecError(
            f"there is no {', '.join(map(str, tried))} (working directory {Path.cwd()})",
            expected="a file or folder of OpenSLO v1, or a model with slos/MODEL.yaml",
            fix="Name the file that ModelSpec.slos names: `mlct slo explain FILE`",
        )
    return found
