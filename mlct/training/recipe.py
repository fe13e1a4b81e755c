"""A model is its recipe: data, features, code, parameters, seed and environment, by digest."""

import functools
import importlib.metadata
import inspect
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlct.data.digest import digest, sha256

_NUMERIC = ("numpy", "scipy", "scikit-learn", "lightgbm", "pyarrow")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """All that decides a model's bytes. Equal recipes give equal artifacts."""

    snapshot: str
    features: tuple[tuple[str, str], ...]
    label: str
    estimator: str
    parameters: Mapping[str, Any]
    code: str
    seed: int
    environment: Mapping[str, str]

    @property
    def digest(self) -> str:
        return digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self) | {
            "format": "mlct.recipe/v1",
            "features": [list(pair) for pair in self.features],
            "parameters": dict(self.parameters),
            "environment": dict(self.environment),
        }


def type_path(value: Any) -> str:
    """`package.module.Class` of an object."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def seeded(estimator: Any, seed: int) -> Any:
    """`estimator` with every unset random state set to `seed`, and LightGBM made deterministic.

    LightGBM gets one thread unless the estimator says otherwise: on shared cores two are slower,
    and thread counts can change the trees (LightGBM#4027).
    """
    parameters = estimator.get_params(deep=True)
    changes = {
        name: seed
        for name, value in parameters.items()
        if name.rsplit("__", 1)[-1] == "random_state" and value is None
    }
    for prefix, part in _components(estimator):
        if type(part).__module__.split(".")[0] == "lightgbm":
            dot = f"{prefix}__" if prefix else ""
            defaults = {"deterministic": True, "force_row_wise": True, "n_jobs": 1, "verbose": -1}
            for name, value in defaults.items():
                if parameters.get(dot + name) is None:
                    changes[dot + name] = value
    return estimator.set_params(**changes) if changes else estimator


def _components(estimator: Any) -> Iterator[tuple[str, Any]]:
    yield "", estimator
    for name, value in estimator.get_params(deep=True).items():
        if hasattr(value, "get_params") and not isinstance(value, type):
            yield name, value


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | float | bool | None):
        return repr(value) if isinstance(value, float) and value != value else value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "get_params"):
        return type_path(value)
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}:{_source(value)}"
    return repr(value)


def _source(thing: Any) -> str:
    try:
        return sha256(inspect.getsource(thing).encode())
    except (OSError, TypeError):  # built in C, or typed into a shell: its name is all there is
        return sha256(getattr(getattr(thing, "__code__", None), "co_code", b""))


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def recipe(
    factory: Callable[[], Any],
    estimator: Any,
    *,
    snapshot: str,
    features: tuple[tuple[str, str], ...],
    label: str,
    seed: int,
) -> Recipe:
    """The recipe of a seeded `estimator` made by `factory` for the rows of `snapshot`.

    Installed packages count by version, the project's own classes and the factory by source.
    """
    roots = {type(part).__module__.split(".")[0] for _, part in _components(estimator)}
    installed = {name for root in roots for name in _distributions().get(root, [])}
    own = sorted(
        _source(type(part))
        for _, part in _components(estimator)
        if type(part).__module__.split(".")[0] not in _distributions()
    )
    return Recipe(
        snapshot=snapshot,
        features=features,
        label=label,
        estimator=type_path(estimator),
        parameters={k: _plain(v) for k, v in sorted(estimator.get_params(deep=True).items())},
        code=digest([_source(factory), *own]),
        seed=seed,
        environment={
            "python": ".".join(platform.python_version_tuple()[:2]),
            "machine": platform.machine(),
            **{n: importlib.metadata.version(n) for n in sorted({*_NUMERIC, *installed})},
        },
    )


def environment_lock() -> str:
    """Every installed distribution, one `name==version` a line, sorted."""
    found = {(d.name or "").lower(): d.version for d in importlib.metadata.distributions()}
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()) if name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """The git state of the code that trained: `commit` is empty outside a repository."""

    commit: str
    dirty: bool
    author: str


def code_state(folder: Path | None = None) -> Code:
    """Commit, dirty flag and commit author of the repository around `folder`."""

    def git(*words: str) -> str:
        try:
            done = subprocess.run(
                ["git", *words], cwd=folder, capture_output=True, text=True, timeout=10
            )
        except (FileNotFoundError, subprocess.TimeoutExpired):  # a machine without git still trains
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "HEAD")
    return Code(
        commit=commit,
        dirty=bool(commit and git("status", "--porcelain")),
        author=git("log", "-1", "--format=%ae") if commit else "",
    )
