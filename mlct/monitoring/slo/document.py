"""OpenSLO v1 documents: YAML files and folders as checked nodes that know where they stand.

YAML's traps are shut: a time stays the text that was written (PyYAML makes a datetime of it), a
repeated key is refused (PyYAML lets the last one win), and null is the same as absent.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any

from mlct.errors import SpecError
from mlct.monitoring.slo.period import Span

VERSION = "openslo/v1"
KINDS = (
    "SLO",
    "SLI",
    "Service",
    "DataSource",
    "AlertPolicy",
    "AlertCondition",
    "AlertNotificationTarget",
)
Source = str | PathLike[str] | Mapping[str, Any] | Sequence[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A value of a document, with file, number of the document (from 1) and path inside it."""

    file: str
    document: int
    path: str
    value: Any

    def refuse(self, expected: str, *, found: str = "", fix: str = "") -> SpecError:
        """The error to raise for this value."""
        what = found or f"is {self.value!r}"
        return SpecError(
            f"{self.file}, document {self.document}: {self.path or 'the document'} {what}",
            expected=expected,
            fix=fix,
            file=self.file,
            document=self.document,
            path=self.path,
            value=self.value,
        )

    def child(self, name: str | int, value: Any) -> "Node":
        dot = "." if self.path else ""
        path = f"{self.path}[{name}]" if isinstance(name, int) else f"{self.path}{dot}{name}"
        return Node(file=self.file, document=self.document, path=path, value=value)

    def mapping(self, known: Sequence[str] = ()) -> Mapping[str, Any]:
        """Its fields; with `known`, no others."""
        if not isinstance(self.value, Mapping):
            raise self.refuse("a mapping")
        for name in self.value:
            if known and name not in known:
                field = self.child(str(name), self.value[name])
                raise field.refuse(f"one of {', '.join(known)}", found="is no field of OpenSLO v1")
        return self.value

    def get(self, name: str) -> "Node | None":
        """A field, None where it is absent or null."""
        value = self.mapping().get(name)
        return None if value is None else self.child(name, value)

    def need(self, name: str, what: str = "a value") -> "Node":
        found = self.get(name)
        if found is None:
            raise self.child(name, None).refuse(what, found="is missing")
        return found

    def either(self, *names: str) -> "Node":
        """The one field of these that is there."""
        there = [n for n in names if self.get(n) is not None]
        if len(there) != 1:
            found = f"has {' and '.join(there) or 'none of them'}"
            raise self.refuse(f"exactly one of {', '.join(names)}", found=found)
        return self.need(there[0])

    def items(self) -> list["Node"]:
        if not isinstance(self.value, list | tuple):
            raise self.refuse("a list")
        return [self.child(i, value) for i, value in enumerate(self.value)]

    def text(self, what: str = "a text") -> str:
        if not isinstance(self.value, str) or not self.value.strip():
            raise self.refuse(what)
        return self.value

    def one_of(self, *allowed: str) -> str:
        if not isinstance(self.value, str) or self.value not in allowed:
            raise self.refuse(f"one of {', '.join(allowed)}")
        return self.value

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.refuse("true or false")
        return self.value

    def number(self, what: str = "a number", *, low: float = float("-inf"), **ends: float) -> float:
        """A finite number that is at least `low`, at most `high` and less than `below`."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise self.refuse(what)
        if not low <= value <= ends.get("high", value) or value >= ends.get("below", value + 1):
            raise self.refuse(what)
        return float(value)

    def span(self, *, minutes: bool = False) -> Span:
        """A duration in OpenSLO's shorthand; where `minutes`, also a bare number of them."""
        value = self.value
        if minutes and isinstance(value, int) and not isinstance(value, bool):
            value = f"{value}m"
        found = Span.parse(value)
        if found is None:
            raise self.refuse("a whole number above 0 and one of m, h, d, w, M, Q, Y, such as 28d")
        return found


def read(source: Source) -> list[Node]:
    """The documents of a YAML file, of all YAML files in a folder, or already parsed ones.

    A document may be one object or a list of them. Raises SpecError naming file, document and
    path.
    """
    if isinstance(source, str | PathLike):
        files = _files(Path(source))
        return [node for file in files for node in _objects(str(file), _parse(file))]
    return _objects("the mapping", [source])


def _objects(file: str, documents: Sequence[Any]) -> list[Node]:
    found = []
    for number, content in enumerate(documents, 1):
        several = isinstance(content, list | tuple)
        for i, value in enumerate(content if several else [content]):
            path = f"[{i}]" if several else ""
            if value is not None:  # an empty document between two '---'
                found.append(Node(file=file, document=number, path=path, value=value))
    for node in found:
        _check(node)
    if not found:
        raise SpecError(f"{file} holds no document", expected=f"objects of {VERSION}", file=file)
    return found


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix in (".yaml", ".yml"))
    else:
        found = [path] if path.is_file() else []
    if not found:
        raise SpecError(
            f"there is no SLO file {path} (working directory {Path.cwd()})",
            expected=f"a YAML file of {VERSION}, or a folder of them",
            fix="Write it, or correct the path",
            file=str(path),
        )
    yield from found


def _parse(file: Path) -> list[Any]:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml ships no types
        yaml_implicit_resolvers = {  # noqa: RUF012  # the name and shape that yaml looks for
            first: [(tag, form) for tag, form in pairs if tag != "tag:yaml.org,2002:timestamp"]
            for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = [key.value for key, _ in node.value]
            if repeated := [n for n in names if names.count(n) > 1]:
                raise yaml.YAMLError(f"the key {repeated[0]!r} stands twice{node.start_mark}")
            found: dict[Any, Any] = super().construct_mapping(node, deep)
            return found

    try:
        return list(yaml.load_all(file.read_text(encoding="utf-8"), Loader))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{file} cannot be read: {error}", expected="a text", file=file) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(
            f"{file} is not YAML: {error}", expected="plain YAML, each key once", file=str(file)
        ) from error


def _check(node: Node) -> None:
    """What all kinds have, and what the kinds have that mlct does not evaluate."""
    node.mapping()
    node.need("apiVersion", VERSION).one_of(VERSION)
    kind = node.need("kind", " or ".join(KINDS)).one_of(*KINDS)
    name_of(node)
    spec = node.get("spec")
    if kind not in ("Service", "SLO") and spec is None:
        node.need("spec", f"the {kind}'s spec")
    if spec is not None and (text := spec.get("description")):
        text.text()
    if kind == "DataSource":
        node.need("spec").need("type", "a type such as Prometheus").text()
    if kind == "AlertNotificationTarget":
        node.need("spec").need("target", "a target such as email").text()


def name_of(node: Node) -> str:
    """`metadata.name`, checked; labels and annotations are mappings where they are there."""
    metadata = node.need("metadata", "a mapping with a name")
    for part in ("labels", "annotations"):
        if there := metadata.get(part):
            there.mapping()
    name = metadata.need("name", "a name")
    if len(name.text("a name")) > 255 or any(c.isspace() for c in name.text()):
        raise name.refuse("a name of at most 255 characters without blanks")
    return name.text()
