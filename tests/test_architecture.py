"""The house keeps its shape: who imports whom, what a load costs, what a wheel holds."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text().splitlines()

DATA = {"fsspec", "great_expectations", "numpy", "pandas", "pyarrow", "rfc8785"}

# The rooms in order, each with the third-party packages that it may import. A room imports only
# rooms of the lines before it, and itself.
LEVELS: tuple[dict[str, set[str]], ...] = (
    {"errors": set()},
    {"data": DATA},
    {"training": DATA | {"lightgbm", "skops", "sklearn"}},
    {"evaluation": {"matplotlib", "numpy", "scipy"}},
    {"release": {"cryptography", "psycopg", "rfc8785", "yaml"}},
    {"monitoring": {"lightgbm", "matplotlib", "numpy", "pyarrow", "scipy", "yaml"}},
    {"ownership": set()},
    {"governance": set()},
    {"spec": set()},
    {"adapters": {"apprise", "filelock", "fsspec", "mlflow", "numpy", "pandas", "pyarrow"}},
    {"defs": {"dagster", "numpy", "pandas", "pyarrow", "pydantic"}, "serving": {"numpy"}},
    {"cli": set()},
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
PACKAGES = {room: packages for rooms in LEVELS for room, packages in rooms.items()}

HEAVY = {"great_expectations", "lightgbm", "matplotlib", "mlflow", "pandas", "skops", "sklearn"}

# Not installed unless asked for: by the extra that brings them.
EXTRAS = {"apprise": "notify", "psycopg": "postgres"}

TYPES_ONLY = {"TYPE_CHECKING", "typing.TYPE_CHECKING"}

VAGUE = re.compile(r"utils?|helpers?|base|common|core|misc|managers?|handlers?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A Python file of the package or of the reference project."""

    path: str
    tree: ast.Module

    @property
    def room(self) -> str | None:
        """The room it stands in; None outside `mlct/` and for the package's own `__init__`."""
        top, *rest = Path(self.path).with_suffix("").parts
        return rest[0] if top == "mlct" and rest != ["__init__"] else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Import:
    """One imported name, absolute: `from mlct.data import window` imports `mlct.data.window`."""

    source: Source
    line: int
    name: str
    on_load: bool

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    def says(self, problem: str) -> str:
        return f"{self.source.path}:{self.line}: {problem}"


def sources(root: Path) -> list[Source]:
    files = [root / "definitions.py"]
    for folder in ("mlct", "assets", "sensors"):
        files += sorted((root / folder).rglob("*.py"))
    return [
        Source(path=file.relative_to(root).as_posix(), tree=ast.parse(file.read_text()))
        for file in files
        if file.exists()
    ]


def imports(root: Path) -> Iterator[Import]:
    for source in sources(root):
        for node, on_load in walk(source.tree):
            for name in imported(node, Path(source.path).parent.parts):
                yield Import(source=source, line=node.lineno, name=name, on_load=on_load)


def walk(node: ast.AST, on_load: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Every node below, and whether it runs when the module is loaded."""
    for_types = isinstance(node, ast.If) and ast.unparse(node.test) in TYPES_ONLY
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        on_load = False
    for child in ast.iter_child_nodes(node):
        loads = on_load and not (for_types and child in node.body)
        yield child, loads
        yield from walk(child, loads)


def imported(node: ast.AST, package: tuple[str, ...]) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            above = package[: len(package) - level + 1] if level else ()
            return [".".join([*above, *filter(None, [module]), alias.name]) for alias in names]
        case ast.Call(
            func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return [name]
    return []


def imports_point_one_way(root: Path) -> Iterator[str]:
    for found in imports(root):
        room = found.source.room
        if room is None or found.package != "mlct" or found.name == "mlct.__version__":
            continue
        target = (*found.name.split("."), "")[1]
        if room not in LEVEL:
            yield found.says(f"{room} is not a room: give it a place in LEVELS or move the file")
        elif target not in LEVEL:
            yield found.says(f"{room} imports {found.name}: name the room, not the package's root")
        elif target != room and LEVEL[target] >= LEVEL[room]:
            yield found.says(f"{room} imports {target}, which does not stand before it")


def packages_stay_in_their_rooms(root: Path) -> Iterator[str]:
    for found in imports(root):
        room, package = found.source.room, found.package
        if package == "mlct" or package in sys.stdlib_module_names:
            continue
        if room is None and package == "mlflow":
            yield found.says("only mlct/adapters/ imports mlflow")
        if room is not None and package not in PACKAGES.get(room, ()):
            yield found.says(f"{room} may not import {package}")


def heavy_libraries_load_where_they_are_used(root: Path) -> Iterator[str]:
    for found in imports(root):
        if found.on_load and found.package in HEAVY.union(EXTRAS):
            yield found.says(f"import {found.package} inside the function that uses it")


def dagster_is_used_by_its_public_names(root: Path) -> Iterator[str]:
    for found in imports(root):
        private = any(re.match("_(?!_)", part) for part in found.name.split("."))
        if found.package.startswith("dagster") and private:
            yield found.says(f"{found.name} is private to Dagster")


def dagster_reads_annotations(root: Path) -> Iterator[str]:
    """Postponed annotations break Dagster's config and inputs while definitions load."""
    for found in imports(root):
        if found.source.room in (None, "defs") and found.name == "__future__.annotations":
            yield found.says("Dagster cannot read postponed annotations")


def module_names_say_something(root: Path) -> Iterator[str]:
    for source in sources(root):
        for word in Path(source.path).with_suffix("").parts:
            if VAGUE.fullmatch(word):
                yield f"{source.path}: {word} names nothing of the domain"


RULES: tuple[Callable[[Path], Iterator[str]], ...] = (
    imports_point_one_way,
    packages_stay_in_their_rooms,
    heavy_libraries_load_where_they_are_used,
    dagster_is_used_by_its_public_names,
    dagster_reads_annotations,
    module_names_say_something,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps(rule):
    assert "\n".join(rule(ROOT)) == ""


def test_the_rules_read_the_package_and_the_reference_project():
    read = {source.path.partition("/")[0] for source in sources(ROOT)}
    assert read == {"definitions.py", "mlct", "assets", "sensors"}


TYPED = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:"


def planted(root: Path, path: str, text: str) -> list[str]:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return [problem for rule in RULES for problem in rule(root)]


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("mlct/data/a.py", "from mlct.training.fit import fit", "data imports training"),
        ("mlct/data/a.py", "from mlct import training", "data imports training"),
        ("mlct/data/a.py", "import mlct.release.ledger", "data imports release"),
        ("mlct/data/a.py", "def f():\n    from ..spec import ModelSpec", "data imports spec"),
        ("mlct/release/approval/a.py", "from ...spec import Tier", "release imports spec"),
        (
            "mlct/errors.py",
            "import importlib as i\ni.import_module('mlct.data')",
            "errors imports data",
        ),
        ("mlct/defs/a.py", "from mlct.serving import gateway", "defs imports serving"),
        ("mlct/serving/a.py", "import mlct.defs.jobs", "serving imports defs"),
        ("mlct/adapters/a.py", "import mlct", "name the room"),
        ("mlct/adapters/a.py", "from mlct import ModelSpec", "name the room"),
        ("mlct/attic/a.py", "from mlct import errors", "attic is not a room"),
        ("mlct/attic/a.py", "import numpy", "attic may not import numpy"),
        ("mlct/spec.py", "from numpy import ndarray", "spec may not import numpy"),
        ("mlct/release/a.py", "import dagster as dg", "release may not import dagster"),
        ("mlct/defs/a.py", "def f():\n    import mlflow", "defs may not import mlflow"),
        ("mlct/defs/a.py", "import dagster_aws", "defs may not import dagster_aws"),
        ("assets/a.py", "def f():\n    import mlflow", "only mlct/adapters/"),
        ("mlct/data/a.py", "import pandas as pd", "inside the function"),
        ("mlct/data/a.py", "try:\n    import pandas\nfinally:\n    pass", "inside the function"),
        ("mlct/training/a.py", "class A:\n    import sklearn", "inside the function"),
        ("mlct/__init__.py", "import great_expectations", "inside the function"),
        ("assets/a.py", "import lightgbm", "inside the function"),
        ("mlct/release/a.py", "import psycopg", "inside the function"),
        ("definitions.py", "from sklearn import base", "inside the function"),
        ("assets/a.py", f"{TYPED}\n    pass\nelse:\n    import pandas", "inside the function"),
        ("assets/a.py", "if not TYPE_CHECKING:\n    import pandas", "inside the function"),
        ("mlct/defs/a.py", "from dagster._core.events import E", "private to Dagster"),
        ("sensors/a.py", "def f():\n    from dagster import _check", "private to Dagster"),
        ("mlct/defs/a.py", "from __future__ import annotations", "postponed annotations"),
        ("definitions.py", "from __future__ import annotations", "postponed annotations"),
        ("sensors/a.py", "from __future__ import annotations", "postponed annotations"),
        ("mlct/data/utils.py", "", "utils names nothing"),
        ("mlct/data/core/a.py", "", "core names nothing"),
        ("assets/helpers.py", "", "helpers names nothing"),
    ],
)
def test_a_planted_fault_is_found_once(tmp_path, path, text, problem):
    (found,) = planted(tmp_path, path, text)
    assert found.startswith(path)
    assert problem in found


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("mlct/__init__.py", "def __getattr__(name):\n    from mlct.defs import build"),
        ("mlct/evaluation/a.py", "import numpy as np\nfrom mlct.data.window import Window"),
        ("mlct/evaluation/a.py", "from . import metric\nfrom .metric import Metric"),
        ("mlct/data/a.py", "from __future__ import annotations\nimport os.path"),
        ("mlct/data/a.py", "from mlct import __version__"),
        ("mlct/data/a.py", f"{TYPED}\n    import pandas"),
        ("mlct/data/a.py", "import typing\nif typing.TYPE_CHECKING:\n    import pandas"),
        ("mlct/adapters/a.py", "async def f():\n    import mlflow.sklearn"),
        ("mlct/defs/io_manager.py", "import dagster as dg\nfrom dagster import __version__"),
        ("mlct/cli.py", "from mlct.defs import build\nfrom mlct.serving import gateway"),
        ("assets/a.py", "import mlct\nimport dagster as dg\nimport requests"),
    ],
)
def test_what_the_design_allows_is_not_a_fault(tmp_path, path, text):
    assert planted(tmp_path, path, text) == []


def python(*arguments: str) -> str:
    run = [sys.executable, *arguments]
    return subprocess.run(run, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def test_importing_mlct_loads_no_heavy_library():
    loaded = python("-c", "import sys, mlct; print(*sys.modules)").split()
    assert "mlct" in loaded
    assert HEAVY.isdisjoint(loaded)


def test_every_public_name_resolves():
    import mlct

    assert len(mlct.__all__) == len(set(mlct.__all__))
    assert [name for name in mlct.__all__ if not hasattr(mlct, name)] == []


def test_the_version_is_the_same_wherever_it_is_stated():
    import mlct

    assert getattr(mlct, "__version__", PROJECT["version"]) == PROJECT["version"]


def test_every_package_that_a_room_may_import_is_a_declared_dependency():
    def names(lines: list[str]) -> set[str]:
        return {canonicalize_name(Requirement(line).name) for line in lines}

    provided_by = packages_distributions()
    for package in set.union(*PACKAGES.values()):
        extra = EXTRAS.get(package)
        lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
        assert names(lines).intersection(map(canonicalize_name, provided_by[package])), package


def test_the_wheel_holds_only_mlct(tmp_path):
    python("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    (wheel,) = tmp_path.iterdir()
    names = ZipFile(wheel).namelist()
    folders = {name.partition("/")[0] for name in names}
    assert folders == {"mlct", f"mlct-{PROJECT['version']}.dist-info"}
    assert "mlct/errors.py" in names


def test_the_lock_file_holds_names_and_versions_only():
    form = re.compile(r"[a-z0-9-]+==[0-9][0-9a-z.+!]*")
    assert [line for line in LOCK if not form.fullmatch(line)] == []


def test_the_lock_file_satisfies_every_declared_dependency():
    """If not, `make lock` was forgotten."""
    locked = dict(line.split("==") for line in LOCK)
    extras = PROJECT["optional-dependencies"].values()
    for line in [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]:
        declared = Requirement(line)
        assert Version(locked[canonicalize_name(declared.name)]) in declared.specifier, line


LEFT_BEHIND = re.compile(r"\.(?!ci$).*|__pycache__|build|dist|mlartifacts|mlruns")


def text_files(root: Path) -> Iterator[tuple[Path, str]]:
    """All text files of the repository, but not what tools leave behind."""
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not LEFT_BEHIND.fullmatch(name)]
        for name in names:
            content = Path(folder, name).read_bytes()
            if b"\0" not in content:
                yield Path(folder, name).relative_to(root), content.decode(errors="replace")


def test_no_file_names_a_package_registry():
    # Written so that it does not match this file.
    host = re.compile(r"pypi[.]org|python(?:hosted)|registry[.]npmjs|deb[.]debian[.]org", re.I)
    assert [str(path) for path, text in text_files(ROOT) if host.search(text)] == []
