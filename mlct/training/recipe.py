"""A model is its recipe: data, features, code, parameters, seed and environment, by digest."""

import functools
import importlib.metadata
import inspect
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np

from mlct.data.digest import digest, plain, sha256
from mlct.errors import SpecError

_NUMERIC = ("numpy", "scipy", "scikit-learn", "lightgbm", "pyarrow")
_INSTALLED = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib"))
# What LightGBM needs to give the same trees each time, with its other names for each.
_LIGHTGBM: dict[str, tuple[Any, tuple[str, ...]]] = {
    "deterministic": (True, ()),
    "force_row_wise": (True, ("force_col_wise",)),
    "n_jobs": (1, ("num_threads", "num_thread", "nthread", "nthreads")),
    "verbose": (-1, ("verbosity",)),
}


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
    and thread counts can change the trees (LightGBM#4027). Raises SpecError for anything else than
    an estimator.
    """
    if isinstance(estimator, type) or not hasattr(estimator, "get_params"):
        raise SpecError(
            f"ModelSpec.estimator gives {estimator!r}",
            expected="a function that returns a scikit-learn compatible estimator",
            field="estimator",
        )
    changes: dict[str, Any] = {}
    for prefix, part in _components(estimator):
        dot = f"{prefix}__" if prefix else ""
        own = part.get_params(deep=False)
        wanted: dict[str, tuple[Any, tuple[str, ...]]] = {}
        if "random_state" in own:
            wanted["random_state"] = (seed, ("seed", "random_seed"))
        if any(kind.__module__.split(".")[0] == "lightgbm" for kind in type(part).__mro__):
            wanted |= _LIGHTGBM
        for name, (value, aliases) in wanted.items():
            if all(own.get(n) is None for n in (name, *aliases)):
                changes[dot + name] = value
        for value in own.values():  # a splitter is no component, but draws all the same
            unset = getattr(value, "random_state", seed) is None
            if unset and not hasattr(value, "get_params"):
                value.random_state = seed
    return estimator.set_params(**changes) if changes else estimator


def _components(estimator: Any) -> Iterator[tuple[str, Any]]:
    yield "", estimator
    for name, value in estimator.get_params(deep=True).items():
        if hasattr(value, "get_params") and not isinstance(value, type):
            yield name, value


def _plain(value: Any) -> Any:
    """A parameter as JSON that is the same in every process. Raises SpecError if it has none."""
    return plain(value, _described)


def _described(value: Any) -> Any:
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return [_plain(v) for v in value.tolist()]
        return [str(value.dtype), list(value.shape), sha256(value.tobytes())]
    if isinstance(value, functools.partial):
        return [_plain(part) for part in (value.func, value.args, value.keywords)]
    if hasattr(value, "get_params") and not isinstance(value, type):
        return [type_path(value), _plain(value.get_params(deep=False))]
    if callable(value) and hasattr(value, "__qualname__"):
        held = [c.cell_contents for c in getattr(value, "__closure__", None) or ()]
        name = f"{getattr(value, '__module__', '')}.{value.__qualname__}:{_source(value)}"
        return [name, *(_plain(v) for v in held if v is not value)] if held else name
    if hasattr(value, "__dict__"):
        return [type_path(value), _plain(vars(value))]
    text = repr(value)
    if re.search(r" at 0x[0-9A-Fa-f]+", text):
        raise SpecError(
            f"the estimator has the parameter {text}",
            expected="parameters that say the same in every process",
            fix="Give a value, such as a whole number for a random state",
        )
    return text


def _source(thing: Any) -> str:
    """Digest of the source text of a function or class; of its bytecode where there is none."""
    try:
        return sha256(inspect.getsource(thing).encode())
    except (OSError, TypeError):  # typed into a shell, or built in C: then its name is all there is
        return digest(_bytecode(getattr(thing, "__code__", None)))


def _bytecode(code: Any) -> Any:
    if not isinstance(code, CodeType):
        return plain(code, repr)
    return [code.co_code.hex(), list(code.co_names), [_bytecode(c) for c in code.co_consts]]


def _own_code(estimator: Any) -> list[str]:
    """Digests of the project's classes in an estimator: what is installed counts by version."""

    def ours(kind: type) -> bool:
        file = getattr(sys.modules.get(kind.__module__), "__file__", None)
        return file is not None and not file.startswith(_INSTALLED)

    kinds = {kind for _, part in _components(estimator) for kind in type(part).__mro__}
    return sorted(_source(kind) for kind in kinds if ours(kind))


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
    Raises SpecError for a parameter that has another text in each process.
    """
    roots = {type(part).__module__.split(".")[0] for _, part in _components(estimator)}
    installed = {name for root in roots for name in _distributions().get(root, [])}
    return Recipe(
        snapshot=snapshot,
        features=features,
        label=label,
        estimator=type_path(estimator),
        parameters={k: _plain(v) for k, v in sorted(estimator.get_params(deep=True).items())},
        code=digest([_source(factory), *_own_code(estimator)]),
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
    """The git state of the code that trained: `commit` is empty outside a repository.

    `author` is the commit author's e-mail, `name` the name beside it.
    """

    commit: str
    dirty: bool
    author: str
    name: str = ""


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
        name=git("log", "-1", "--format=%an") if commit else "",
    )
