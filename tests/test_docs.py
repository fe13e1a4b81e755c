"""The documents keep up with the code: their blocks run, tables are whole, links hold."""

import argparse
import inspect
import io
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import MISSING, fields, is_dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

import mlct
from mlct import errors
from mlct.cli import _parser
from mlct.evaluation import policy
from mlct.release.ledger import KINDS
from mlct.release.slot.checks import CHECKS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
RESERVED = {"shadow"}
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def blocks(page: Path) -> list[tuple[str, str]]:
    """`(info string, content)` of each fenced block, in order."""
    text = page.read_text()
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def sections(page: Path) -> dict[str, str]:
    """Text below each heading, up to the next one of any level."""
    parts = HEADING.split(re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S))
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def anchors(page: Path) -> set[str]:
    """GitHub's ids of a page's headings."""
    titles = (re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in sections(page))
    return set(titles)


def rows(text: str) -> dict[str, list[str]]:
    """Table rows by the name in their first cell."""
    cells = [[c.strip() for c in line.split(" | ")] for line in text.splitlines() if "|" in line]
    return {row[0].strip("|` "): row[1:] for row in cells if row[0].startswith("| `")}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_relative_links_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{target} leads nowhere"
        assert not anchor or anchor in anchors(found), f"{target} has no such heading"


def test_every_page_is_linked() -> None:
    text = "".join(
        f"{page.parent.joinpath(t.partition('#')[0]).resolve()}\n"
        for page in PAGES
        for t in re.findall(r"\]\(([^)\s:]+)\)", page.read_text())
    )
    lost = [p for p in DOCS.rglob("*") if p.is_file() and f"{p}\n" not in text]
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_page_names_a_machine(page: Path) -> None:
    # A page is read elsewhere: no folder of ours, no package index.
    assert re.findall(r"/work/|/tmp/|/root/|pypi\.org|npmjs", page.read_text()) == []


DECLARED = sorted(
    {
        value
        for name in mlct.__all__
        if is_dataclass(value := getattr(mlct, name)) and value.__module__ != "mlct.adapters.home"
    }
    | {getattr(policy, name) for name in policy.__all__ if inspect.isclass(getattr(policy, name))},
    key=lambda kind: kind.__name__,
)
RESULTS = {"Comparison", "GateDecision", "Metric"}


@pytest.mark.parametrize(
    "kind", [k for k in DECLARED if k.__name__ not in RESULTS], ids=lambda kind: kind.__name__
)
def test_the_reference_has_every_field_with_its_default(kind: Any) -> None:
    table = rows(sections(DOCS / "reference" / "spec.md")[kind.__name__])
    assert list(table) == [field.name for field in fields(kind)]
    for field in fields(kind):
        if field.default is not MISSING:
            default = f'"{field.default}"' if isinstance(field.default, str) else field.default
        elif field.default_factory is not MISSING:
            default = f"{field.default_factory.__name__}()"
        else:
            default = None
        shown = table[field.name][0].strip("`")
        assert shown == ("-" if default is None and field.default is MISSING else str(default))


def commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = [a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(found.choices)


def test_the_reference_has_every_command() -> None:
    told = [title for title in sections(DOCS / "reference" / "cli.md") if title.startswith("mlct ")]
    assert told == [f"mlct {name}" for name in commands()]


@pytest.mark.parametrize("command", commands())
def test_the_reference_has_every_option(command: str) -> None:
    parts = sections(DOCS / "reference" / "cli.md")
    common = parts["Command line"]
    # What `reject` takes is told once, with `approve`.
    told = parts[f"mlct {command}"] + (parts["mlct approve"] if command == "reject" else "")
    for action in commands()[command]._actions:
        for option in action.option_strings:
            assert option in ("-h", "--help") or f"`{option}" in common + told or option in told


def kinds_of_error() -> Iterator[str]:
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, errors.MlctError):
            yield name


@pytest.mark.parametrize("name", sorted(set(kinds_of_error()) - {"MlctError"}))
def test_the_runbook_has_every_error(name: str) -> None:
    told = sections(DOCS / "runbook.md")[name]
    assert "*Do*:" in told


def test_the_runbook_has_no_error_that_is_gone() -> None:
    told = {title for title in sections(DOCS / "runbook.md") if re.fullmatch(r"[A-Z]\w+", title)}
    assert told - {"Runbook"} <= set(kinds_of_error())


def test_the_ledger_page_has_every_kind() -> None:
    text = sections(DOCS / "reference" / "ledger.md")["Kinds"]
    assert set(rows(text)) == set(KINDS) - RESERVED
    assert set(re.findall(r"`(\w+)`", text.rpartition("The kinds")[2])) >= RESERVED


def test_the_concepts_page_has_every_check_of_a_promotion_in_its_order() -> None:
    told = rows(sections(DOCS / "concepts.md")["What a promotion checks"])
    assert list(told) == [check.name for check in CHECKS]


def test_the_environment_page_has_every_variable() -> None:
    used = {
        name
        for path in (ROOT / "mlct").rglob("*.py")
        for name in re.findall(r"environ(?:\.get|\.setdefault)?[(\[]\"(\w+)\"", path.read_text())
    }
    assert used <= set(rows((DOCS / "reference" / "environment.md").read_text()))


def test_decisions_are_short_numbered_and_have_three_parts() -> None:
    pages = sorted((DOCS / "decisions").glob("0*.md"))
    for number, page in enumerate(pages, 1):
        assert page.name.startswith(f"{number:04}-")
        assert list(sections(page))[1:] == ["Context", "Decision", "Cost"]
        assert len(page.read_text().splitlines()) <= 40


def test_the_functions_of_the_guides_give_what_they_say() -> None:
    names: dict[str, Any] = {}
    for page in ("contract", "custom-estimator"):
        code = next(c for _, c in blocks(DOCS / "how-to" / f"{page}.md") if c.startswith("def "))
        exec(code, names)
    assert [e.configuration.type for e in names["contract"]().expectations][-1].startswith("expect")
    assert "histgradientboostingclassifier__max_iter" in names["estimator"]().get_params()


class Shell:
    """A shell in a folder that knows `export`, `dagster` and `mlct`; bash does the rest.

    The two commands run in this process, through their entry points: each would spend seconds on
    importing what is imported already.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        patch.chdir(folder)
        patch.setenv("PWD", str(folder))
        for name in ("DAGSTER_HOME", "MLCT_HOME"):
            patch.setenv(name, "")

    def run(self, script: str) -> tuple[bool, str]:
        """Whether each of the lines succeeded, and what they printed."""
        told = ""
        for line in statements(script):
            done, said = self.line(line)
            told += said
            if not done:
                return False, told
        return True, told

    def line(self, line: str) -> tuple[bool, str]:
        first, *words = shlex.split(line) if "<<" not in line else [line]
        words = [os.path.expandvars(word) for word in words]
        if first == "export":
            for name, _, value in (word.partition("=") for word in words):
                self.patch.setenv(name, value)
            return True, ""
        if first in ("dagster", "mlct"):
            return command(first, words)
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euc", line],
            cwd=self.folder,
            env=os.environ | {"PATH": tools},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return not done.returncode, done.stdout


def statements(script: str) -> Iterator[str]:
    """The commands of a script, here-documents with their text."""
    lines = iter(script.splitlines())
    for line in lines:
        end = re.search(r"<<(\w+)$", line)
        while end and not line.endswith(f"\n{end[1]}"):
            line += f"\n{next(lines)}"
        if line.strip():
            yield line


def command(name: str, words: list[str]) -> tuple[bool, str]:
    """Run a console script in this process: whether it succeeded, and what it printed."""
    (script,) = entry_points(group="console_scripts", name=name)
    out = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(out),
        redirect_stderr(out),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # what Dagster says of its own commands
        patch.setattr(sys, "argv", [name, *words])
        try:
            code = script.load()()
        except SystemExit as end:
            code = end.code
    return not code, out.getvalue()


@contextmanager
def shell(folder: Path) -> Iterator[Shell]:
    # The repository has modules of these names too.
    names = ("definitions", "make_visits")
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setitem(sys.modules, name, None)
            patch.delitem(sys.modules, name)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        yield Shell(folder, patch)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, mlct.Home]:
    """The tutorial from its first block to its last: what it printed, and what it left."""
    told = ""
    with shell(tmp_path_factory.mktemp("shop")) as bash:
        for info, content in blocks(DOCS / "tutorial.md"):
            language, _, more = info.partition(" ")
            if title := re.fullmatch(r'title="([^"]+)"', more):
                bash.folder.joinpath(title[1]).write_text(content)
            elif language == "sh":
                done, said = bash.run(content)
                assert done != (more == "fails"), f"{content}\n{said}"
                told += said
        return told, mlct.Home.from_environment()


def test_the_tutorial_runs(played: tuple[str, mlct.Home]) -> None:
    told, home = played
    for said in (
        "PromotionRefused: purchase@1",
        "the recipe is that of version 1: nothing to train",
        "Approvals are complete",
        "It was the first version in this slot",
        "purchase@1 is live in 'production'; version 2 is quarantined: complaints doubled",
    ):
        assert said in told
    assert len(home.ledger.records(kind="training")) == 2


def test_the_ledger_page_has_every_field(played: tuple[str, mlct.Home]) -> None:
    table = rows(sections(DOCS / "reference" / "ledger.md")["Kinds"])
    seen = {r.kind: r.predicate for r in played[1].ledger.records()}
    assert set(seen) == set(table) - {"reconcile"}  # nobody moved the alias
    for kind, predicate in seen.items():
        assert {*re.findall(r"`(\w+)`", table[kind][-1]), "model"} == set(predicate), kind


def test_the_readme_project_retrains(tmp_path: Path) -> None:
    (example,) = [content for info, content in blocks(ROOT / "README.md") if info == "python"]
    assert len([line for line in example.splitlines() if line.strip()]) <= 35
    tutorial = dict(blocks(DOCS / "tutorial.md"))
    tmp_path.joinpath("definitions.py").write_text(example)
    tmp_path.joinpath("make_visits.py").write_text(tutorial['python title="make_visits.py"'])
    script = """
export DAGSTER_HOME="$PWD/dagster" MLCT_HOME="$PWD/mlct"
mkdir dagster
python make_visits.py 120
dagster asset materialize -f definitions.py --select visits
dagster job execute -f definitions.py -j purchase_retrain
"""
    with shell(tmp_path) as bash:
        done, said = bash.run(script)
        assert done, said
        (gate,) = mlct.Home.from_environment().ledger.records(kind="gate")
    assert gate.predicate["verdict"] == "PASS"
