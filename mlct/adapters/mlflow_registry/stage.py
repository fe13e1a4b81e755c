"""Stage Production, where the server still offers stages and a spec asks for it.

MLflow deprecated stages in 2.9 and will remove them; they let two versions be in Production at
once. Here a stage only mirrors a slot: the tag `mlct.stage` of the registered model names which.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from mlct.adapters.mlflow_registry.transport import again
from mlct.errors import RegistryError

TAG = "mlct.stage"
PRODUCTION, ARCHIVED = "Production", "Archived"


@contextmanager
def _deprecated() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*stages.*", category=FutureWarning)
        yield


def versions(client: Any, model: str) -> frozenset[int]:
    """The versions that stand in stage Production."""
    found, token = set[int](), None
    search = partial(client.search_model_versions, f"name = '{model}'")
    while True:
        page = again(partial(search, page_token=token))
        found |= {int(v.version) for v in page if v.current_stage == PRODUCTION}
        token = page.token
        if not token:
            return frozenset(found)


def move(client: Any, model: str, version: int | None) -> None:
    """Put one version, or none, into stage Production and archive the others.

    In this order: cut short, it leaves two there, never none.
    """
    transition = offered(client)
    with _deprecated():
        if version is not None:
            again(partial(transition, model, str(version), PRODUCTION))
        for other in sorted(versions(client, model) - {version}):
            again(partial(transition, model, str(other), ARCHIVED))


def offered(client: Any) -> Any:
    """The client's call that moves a version to a stage. Raises RegistryError without one."""
    transition = getattr(client, "transition_model_version_stage", None)
    if transition is None:
        raise RegistryError(
            "this MLflow has no stages any more",
            expected="one that still offers them",
            fix="Take registry_stage out of the spec: whatever reads the stage has to read the "
            "alias",
        )
    return transition
