"""Would the tests notice if the code that decides about releases were wrong? Prints who did not.

Mutates modules of `mlct/release` one place at a time (the operators are in `variants`) and runs
the tests that reach the place, fastest first, until one fails. The mutated module exists only in
memory: libraries are imported once, and each mutant is a forked process that imports mlct anew.
Run from the root of the repository:

    python -m benchmarks.mutation --modules approval ledger slot --sample 200 --list-survivors

Not mutated: docstrings, annotations, assertions, the arguments of `@dataclass`, protocols, what an
error tells people (texts with a space, and the texts given to the calls in `TOLD`), and SQL, whose
triggers and constraints have tests of their own. `ledger/postgres.py` is left out: the tests run
on SQLite here. Mutants that no test can kill, because they mean the same, are in `EQUIVALENT`,
each with why.

"not reached" means that none of these tests runs the line. Tests that need Dagster or MLflow, a
PostgreSQL server or processes of their own are too slow to run for each mutant and are left out:
`make test` kills what this finds and more.
"""

import argparse
import ast
import contextlib
import importlib.abc
import importlib.machinery
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RELEASE = ROOT / "mlct" / "release"
TESTS = [
    "approvers",
    "request",
    "policy",
    "deployment",
    "signature",
    "promotion",
    "rollback",
    "target",
    "states",
    "projection",
    "ledger",
    "ledger_golden",
    "ledger_migration",
    "ledger_processes",
    "checkpoint",
    "attacks",
]
#: Tests with one of these fixtures are too slow.
SLOW = {"instance", "_trained", "_live", "postgres_server", "postgres", "at_once"}
LEFT_OUT = {"ledger/postgres.py"}
#: Calls that make an error, or check something and say what was expected: their texts are prose.
TOLD = re.compile(r"(\w*(Error|Refused|Invalid|Tampered|Moved|NotPassed)|_invalid|_refused|"
                  r"_unusable|_contradicted|_tampered|check|add_note)$")  # fmt: skip
PROSE = {"found", "expected", "fix"}
#: Swapping what these are given fails at once, which would only make the numbers look better, or
#: changes nothing.
CHEAP = {"isinstance", "getattr", "__setattr__", "max"}
#: (module, line, label) as patterns, and why no test can tell the mutant from the original.
EQUIVALENT = (
    ("", r"repr=False", "False -> True", "what repr shows"),
    ("", r"signature or \"\"", "'' -> other", "no text without armor is a signature"),
    ("", r"def _short|str\(value\)\[:12\]", "12 -> 13", "the length of a shown digest"),
    ("approvers", r"deep: bool = False", "", "YAML's constructor gives `deep` itself"),
    ("deployment", r"self\.digest\(\"\"\)", "'' -> other", "any slot shows what JSON can hold"),
    ("signature", r"\"-Y\", \"sign\"", "'sign' -> other", "ssh-keygen reads how a word begins"),
    ("chain|state", r"limit=1\)|limit=1$", "1 -> 2", "only the first is looked at"),
    ("checks", r"if current and champion ==", "without operand 1", "no version is None"),
    ("chain", r"depth = 1", "1 -> 2", "only asked whether it is 0"),
    ("chain", r"strict=True", "True -> False", "a row has the columns that were asked for"),
    ("sqlite", r"!= .wal.", "'wal' -> other", "what is WAL is set to WAL"),
    ("note", r"counted \+= 1", "1 -> 2", "only asked whether it is 0"),
    ("checkpoint", r"if found else b", "b'' -> more", "no match is refused on its own"),
    ("state", r"says.get..version., 0", "0 -> 1", "kinds without a version do not look at it"),
    ("signature", r"rstrip\(\"=\"\)", "", "the base64 of 32 bytes never ends with x"),
)
#: A mutant that waits for a lock for ever computes nothing.
WALL_SECONDS = 60


@dataclass(frozen=True)
class Mutant:
    """`parent.field` (`[index]` of it) becomes `new`.

    `reach` are the lines of its statement: tests that run none of them need not run. It is empty
    for what runs at import.
    """

    module: str
    line: int
    label: str
    reach: range
    parent: ast.AST
    field: str
    index: int | None
    new: Any

    def apply(self) -> None:
        """To the tree, for good: in a process of its own."""
        if not self.field:
            return
        if self.index is None:
            setattr(self.parent, self.field, self.new)
        else:
            getattr(self.parent, self.field)[self.index] = self.new

    def __str__(self) -> str:
        text = source(self.module).splitlines()[self.line - 1].strip()
        return f"{self.module}:{self.line}: {self.label}: {text}"

    @property
    def equivalent(self) -> str:
        """Why it means the same as the original, or nothing."""
        text = source(self.module).splitlines()[self.line - 1].strip()
        for module, line, label, why in EQUIVALENT:
            parts = ((module, self.module), (line, text), (label, self.label))
            if all(re.search(pattern, part) for pattern, part in parts):
                return why
        return ""


_SOURCES: dict[str, str] = {}


def source(module: str) -> str:
    """Read once: other people may edit meanwhile."""
    if module not in _SOURCES:
        _SOURCES[module] = (RELEASE / module).read_text()
    return _SOURCES[module]


OPPOSITE: dict[type, tuple[type, ...]] = {
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
}  # fmt: skip
ARITHMETIC: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip


def variants(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What a node may become: `(label, other node)`."""
    match node:
        case ast.Compare(left=left, ops=[only], comparators=to):
            for other in OPPOSITE[type(only)]:
                label = f"{type(only).__name__} -> {other.__name__}"
                yield label, ast.Compare(left=left, ops=[other()], comparators=to)
        case ast.Compare(left=left, ops=ops, comparators=to):
            for place, op in enumerate(ops):
                for other in OPPOSITE[type(op)]:
                    changed = [*ops[:place], other(), *ops[place + 1 :]]
                    label = f"{type(op).__name__} {place + 1} -> {other.__name__}"
                    yield label, ast.Compare(left=left, ops=changed, comparators=to)
        case ast.BoolOp(op=op, values=values):
            other = ast.Or if isinstance(op, ast.And) else ast.And
            yield f"{type(op).__name__} -> {other.__name__}", ast.BoolOp(other(), values)
            for place in range(len(values)):
                rest = [v for n, v in enumerate(values) if n != place]
                label = f"without operand {place + 1}"
                yield label, rest[0] if len(rest) == 1 else ast.BoolOp(op, rest)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield f"without {type(node.op).__name__}", operand
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            yield "left of |", left
            yield "right of |", right
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            if not any(isinstance(x, ast.JoinedStr) or _is_text(x) for x in ast.walk(node)):
                other = ARITHMETIC[type(op)]
                yield f"{type(op).__name__} -> {other.__name__}", ast.BinOp(left, other(), right)
        case ast.Constant(value=bool() as value):
            yield f"{value} -> {not value}", ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield f"{value} -> {value + 1}", ast.Constant(value + 1)
        case ast.Constant(value=bytes() as value):
            yield f"{value!r} -> more", ast.Constant(value + b"x")
        case ast.Constant(value=str() as value) if " " not in value:
            yield f"{value!r} -> other", ast.Constant(value + "x")
        case ast.Return(value=ast.expr() as value) if not _is_none(value):
            yield "return None", ast.Return(ast.Constant(None))
        case ast.Raise():
            yield "no raise", ast.Pass()
        case ast.Continue():
            yield "break", ast.Break()
        case ast.Break():
            yield "continue", ast.Continue()
        case ast.Expr(value=ast.Call() | ast.Yield()) | ast.AugAssign():
            yield "removed", ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "removed", ast.Pass()
        case ast.If(test=test, body=body, orelse=orelse) if not isinstance(
            test, ast.Compare | ast.BoolOp | ast.UnaryOp
        ):
            negated = ast.UnaryOp(ast.Not(), test)
            yield "if not", ast.If(test=negated, body=body, orelse=orelse)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield "other branch", ast.IfExp(test=test, body=orelse, orelse=body)
        case ast.Call(func=func, args=[first, second, *more], keywords=keywords):
            swapped = [second, first, *more]
            same = ast.dump(first) == ast.dump(second)
            starred = any(isinstance(a, ast.Starred) for a in swapped[:2])
            told = TOLD.match(_name(func)) and _prose(first) and _prose(second)
            if not same and not starred and not told and _name(func) not in CHEAP:
                yield "arguments swapped", ast.Call(func, swapped, keywords)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _name(call: ast.expr) -> str:
    called = call.func if isinstance(call, ast.Call) else call
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def _prose(node: ast.AST) -> bool:
    """Whether it can only tell somebody something."""
    return isinstance(node, ast.JoinedStr) or _is_text(node) or (
        isinstance(node, ast.BinOp | ast.IfExp | ast.BoolOp)
        and any(isinstance(x, ast.JoinedStr) or _is_text(x) for x in ast.iter_child_nodes(node))
    )  # fmt: skip


def _parts(parent: ast.AST) -> Iterator[tuple[str, int | None, ast.AST]]:
    """Children that behave: `(field, index, child)`."""
    told = isinstance(parent, ast.Call) and bool(TOLD.match(_name(parent)))
    for field, value in ast.iter_fields(parent):
        if field in ("annotation", "returns", "type_comment", "msg"):
            continue
        several = isinstance(value, list)
        for index, child in enumerate(value if several else [value]):
            if not isinstance(child, ast.AST) or isinstance(child, ast.Assert):
                continue
            if isinstance(child, ast.Expr) and _is_text(child.value):
                continue  # a docstring
            if isinstance(child, ast.ClassDef) and "Protocol" in map(_name, child.bases):
                continue
            if field == "decorator_list" and _name(child) == "dataclass":  # type: ignore[arg-type]
                continue
            if told and field == "args" and _prose(child):
                continue
            if told and isinstance(child, ast.keyword) and child.arg in PROSE:
                continue
            if isinstance(parent, ast.Subscript) and field == "slice" and _is_type(parent):
                continue
            if isinstance(child, ast.JoinedStr) and _spaced(child):
                continue
            yield field, index if several else None, child


def _is_type(node: ast.Subscript) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("dict", "list", "set", "tuple")


def _spaced(text: ast.JoinedStr) -> bool:
    return any(isinstance(v, ast.Constant) and " " in v.value for v in text.values)


def mutants(module: str) -> list[Mutant]:
    """All of a module, in the order of its text."""
    tree, found = ast.parse(source(module)), list[Mutant]()

    def visit(parent: ast.AST, reach: range) -> None:
        for field, index, child in _parts(parent):
            inner = reach
            if isinstance(child, ast.FunctionDef):
                inner = range(0)  # its defaults and decorators run at import
            elif isinstance(child, ast.stmt) and (reach or isinstance(parent, ast.FunctionDef)):
                body = getattr(child, "body", None)
                until = body[0].lineno if body else (child.end_lineno or child.lineno) + 1
                inner = range(child.lineno, max(until, child.lineno + 1))
            if isinstance(child, ast.expr | ast.stmt):
                for label, new in variants(child):
                    found.append(
                        Mutant(module, child.lineno, label, inner, parent, field, index, new)
                    )
            visit(child, inner)

    visit(tree, range(0))
    trees[module] = tree
    return found


trees: dict[str, ast.Module] = {}


class Mutated(importlib.machinery.SourceFileLoader):
    """Loads other code than what is on disk."""

    code: CodeType

    def get_code(self, fullname: str) -> CodeType:
        return self.code


class Finder(importlib.abc.MetaPathFinder):
    def __init__(self, module: str, code: CodeType) -> None:
        self.name = f"mlct.release.{module.removesuffix('.py').replace('/', '.')}"
        self.code = code

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = Mutated(fullname, spec.origin)
        spec.loader.code = self.code
        return spec


class Plugin:
    """Takes slow tests out, runs the wanted ones in order, tells what happened."""

    def __init__(self, wanted: list[str] | None = None, tracer: "Tracer | None" = None) -> None:
        self.wanted, self.tracer, self.failed = wanted, tracer, ""
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        fast = [
            i
            for i in items
            if SLOW.isdisjoint(i.fixturenames)
            and "postgres" not in getattr(i, "callspec", _None).params.values()
        ]
        if self.wanted is not None:
            by_id = {i.nodeid: i for i in fast}
            fast = [by_id[w] for w in self.wanted if w in by_id]
        items[:] = fast

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if self.tracer:
            self.tracer.test = nodeid

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = f"collecting {report.nodeid}"


class _None:
    params: dict[str, Any] = {}  # noqa: RUF012  # stands for a test without parameters


class Tracer:
    """Which lines of which module each test runs."""

    def __init__(self, modules: list[str]) -> None:
        self.files = {str(RELEASE / m): m for m in modules}
        self.test, self.lines = "", defaultdict[str, set[tuple[str, int]]](set)

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        module = self.files.get(frame.f_code.co_filename)
        if module is None:
            return None
        seen = self.lines[self.test]
        seen.add((module, frame.f_lineno))

        def line(frame: FrameType, event: str, arg: Any) -> Any:
            seen.add((module, frame.f_lineno))
            return line

        return line


def run_tests(folder: Path, files: list[str], plugin: Plugin) -> int:
    """Pytest in this process, silent; its exit code."""
    import pytest
    from hypothesis import settings

    settings.register_profile("mutation", derandomize=True, database=None, deadline=None)
    settings.load_profile("mutation")
    words = ["-x", "-q", "-p", "no:warnings", "--no-header", f"--basetemp={folder / 'tests'}"]
    with open(folder / "output", "w") as out:  # noqa: SIM117
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            return int(pytest.main([*words, *files], plugins=[plugin]))


def forget() -> None:
    """Make the next import of mlct, and of its tests, a new one."""
    for name in list(sys.modules):
        if re.match(r"(mlct|tests|conftest|benchmarks\.sshsig_mutants)\b", name):
            del sys.modules[name]


def child(mutant: Mutant, wanted: list[str], folder: Path, cpu: int) -> int:
    """In a forked process: 0 where no test fails. Ended after `cpu` seconds of computing."""
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 5))
    mutant.apply()
    tree = ast.fix_missing_locations(trees[mutant.module])
    try:
        code = compile(tree, str(RELEASE / mutant.module), "exec")
    except (SyntaxError, ValueError, TypeError):
        return 3
    sys.meta_path.insert(0, Finder(mutant.module, code))
    files = list(dict.fromkeys(w.partition("::")[0] for w in wanted))
    plugin = Plugin(wanted)
    ended = run_tests(folder, files, plugin)
    (folder / "killer").write_text(plugin.failed)
    return 0 if ended == 0 else 1


@dataclass
class Run:
    mutant: Mutant
    folder: Path
    began: float
    late: bool = False


def judge(
    chosen: list[Mutant], reached: dict[tuple[str, int], set[str]], seconds: dict[str, float],
    processes: int, cpu: int, wall: float,
) -> Iterator[tuple[Mutant, str, str]]:  # fmt: skip
    """Each mutant with what became of it and by which test."""
    waiting, running = list(reversed(chosen)), dict[int, Run]()
    killers, everywhere = defaultdict[str, Counter[str]](Counter), defaultdict[str, set[str]](set)
    for (module, _), tests in reached.items():
        everywhere[module] |= tests
    while waiting or running:
        while waiting and len(running) < processes:
            mutant = waiting.pop()
            if mutant.equivalent:
                yield mutant, "equivalent", mutant.equivalent
                continue
            reach = mutant.reach
            lines = [reached.get((mutant.module, n), set()) for n in reach]
            tests = set().union(*lines) if reach else everywhere[mutant.module]
            if not tests:
                yield mutant, "not reached", ""
                continue
            before = killers[mutant.module]
            wanted = sorted(tests, key=lambda t: (-before[t], seconds[t], t))
            folder = Path(tempfile.mkdtemp(prefix="mlct-mutant-", dir=_memory()))
            pid = os.fork()
            if pid == 0:
                code = 4
                try:
                    os.setpgid(0, 0)
                    code = child(mutant, wanted, folder, cpu)
                finally:
                    os._exit(code)
            running[pid] = Run(mutant, folder, time.monotonic())
        for pid, run in list(running.items()):
            if time.monotonic() - run.began > wall and not run.late:
                run.late = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done:
                continue
            del running[pid]
            killer = run.folder / "killer"
            who = killer.read_text() if killer.exists() else ""
            code = os.waitstatus_to_exitcode(status)
            shutil.rmtree(run.folder, ignore_errors=True)
            if code == 0:
                yield run.mutant, "survived", ""
            elif run.late or code < 0:
                yield run.mutant, "timeout", ""
            else:
                killers[run.mutant.module][who] += 1
                yield run.mutant, "killed", who or f"exit {code}"
        time.sleep(0.01)


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def interval(killed: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % by Wilson's score."""
    if not count:
        return 0.0, 1.0
    share, over = killed / count, 1 + z * z / count
    middle = (share + z * z / (2 * count)) / over
    half = z / over * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - half, middle + half


def modules_of(names: list[str]) -> list[str]:
    """`approval` or `slot/state.py` below mlct/release."""
    found = list[str]()
    for name in names:
        path = RELEASE / name
        files = sorted(path.glob("*.py")) if path.is_dir() else [path]
        found += [str(f.relative_to(RELEASE)) for f in files if f.name != "__init__.py"]
    return [f for f in found if f not in LEFT_OUT]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--modules", nargs="+", default=["approval", "ledger", "slot"])
    parser.add_argument("--sample", type=int, metavar="N", help="mutants a module given; or all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--list-survivors", action="store_true")
    parser.add_argument("--log", type=Path, help="one JSON line a mutant")
    given = parser.parse_args()
    os.chdir(ROOT)
    rooms = {name: modules_of([name]) for name in given.modules}
    everything = [m for modules in rooms.values() for m in modules]
    pools = {name: [m for f in modules for m in mutants(f)] for name, modules in rooms.items()}

    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="mlct-mutant-", dir=_memory()))
    tests = [f"tests/release/test_{name}.py" for name in TESTS]
    tracer = Tracer(everything)
    plugin = Plugin(tracer=tracer)
    sys.settrace(tracer)
    ended = run_tests(folder, tests, plugin)
    sys.settrace(None)
    if ended:
        sys.exit((folder / "output").read_text()[-3000:] + "The tests fail without any mutant.")
    shutil.rmtree(folder, ignore_errors=True)
    forget()
    reached = defaultdict[tuple[str, int], set[str]](set)
    for test, lines in tracer.lines.items():
        for line in lines:
            if test:
                reached[line].add(test)
    print(f"{len(plugin.seconds)} tests, {time.monotonic() - began:.0f} s without mutants")

    for name, pool in pools.items():
        # Nothing mutated: whatever is killed now is not killed by a test that sees a difference.
        nothing = Mutant(pool[0].module, 1, "nothing", range(0), ast.Pass(), "", None, None)
        used, began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, time.monotonic()
        ((_, what, why),) = judge([nothing], reached, plugin.seconds, 1, 600, 600)
        if what != "survived":
            sys.exit(f"{nothing.module} unchanged is {what} {why}: nothing can be said")
        cpu = int(20 + 4 * (resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - used))
        wall = max(WALL_SECONDS, 4 * (time.monotonic() - began))
        chosen = pool
        if given.sample is not None and given.sample < len(pool):
            picked = random.Random(given.seed).sample(range(len(pool)), given.sample)
            chosen = [pool[n] for n in sorted(picked)]
        began, counts, left = time.monotonic(), Counter[str](), list[str]()
        limits = (given.processes, cpu, wall)
        for mutant, what, why in judge(chosen, reached, plugin.seconds, *limits):
            counts[what] += 1
            if what in ("survived", "not reached"):
                left.append(f"  {what}: {mutant}")
            if given.log:
                with given.log.open("a") as log:
                    log.write(json.dumps([name, str(mutant), what, why]) + "\n")
        killed = counts["killed"] + counts["timeout"]
        count = len(chosen) - counts["equivalent"]
        low, high = interval(killed, count)
        print(
            f"{name}: {killed} of {count} killed ({killed / max(count, 1):.1%}, 95 % interval "
            f"{low:.1%} to {high:.1%}) of {len(pool)} mutants; {dict(counts)}; "
            f"{time.monotonic() - began:.0f} s",
            flush=True,
        )
        if given.list_survivors:
            print("\n".join(sorted(left)), flush=True)


if __name__ == "__main__":
    main()
