"""What the tests of a release share: people with real SSH keys, a registry, and a small world."""

import itertools
import json
import multiprocessing
import os
import re
import shutil
import sqlite3
import subprocess
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlct.data.digest import canonical, sha256
from mlct.errors import MlctError, PromotionRefused, RegistryError, SnapshotMissing
from mlct.release import slot as slots
from mlct.release.approval import policy, signature
from mlct.release.approval import request as approvals
from mlct.release.approval.approvers import Approvers, parse
from mlct.release.approval.deployment import Deployment
from mlct.release.ledger import Ledger, Record, statement

MODEL, SLOT = "m", "production"
#: eve has a key, but nobody listed it.
ROLES = {
    "ana": ["model-risk"],
    "ben": ["product"],
    "cid": ["product", "model-risk"],
    "dan": ["product"],
}
DEPARTED = datetime(2030, 6, 1, tzinfo=UTC)
Make = Callable[..., Path]


@pytest.fixture(scope="session")
def make_key(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`make_key("rsa", bits=2048, passphrase="")`: the path of a new key of ssh-keygen."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("needs ssh-keygen (openssh-client)")
    folder, numbers = tmp_path_factory.mktemp("keys"), itertools.count()

    def make(kind: str = "ed25519", *, bits: int | None = None, passphrase: str = "") -> Path:
        path = folder / f"{kind}-{next(numbers)}"
        size = ["-b", str(bits)] if bits else []
        run = ["ssh-keygen", "-q", "-t", kind, *size, "-N", passphrase, "-C", "", "-f", str(path)]
        subprocess.run(run, check=True)
        return path

    return make


@pytest.fixture(scope="session")
def keys(make_key: Make) -> Mapping[str, Path]:
    """One private key a person."""
    return {name: make_key() for name in (*ROLES, "eve")}


def approvers_of(
    keys: Mapping[str, Path], *, tiers: Any = None, **changes: Mapping[str, Any]
) -> Approvers:
    """The approvers file; `changes` go to the person of that name."""
    changes = {"dan": {"not_after": DEPARTED}} | changes
    people = [
        {"name": name, "roles": roles, "keys": [Path(f"{keys[name]}.pub").read_text().strip()]}
        | changes.get(name, {})
        for name, roles in ROLES.items()
    ]
    return parse({"people": people, "tiers": tiers or {}})


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new ledger may be, in either kind of database."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres")()
        return url
    return str(tmp_path / "ledger.db")


class Owner:
    """What the database's owner can do to a ledger. SQL is SQLite's, with `x'00'` for bytes."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.in_sqlite = ledger, ledger.path is not None
        if self.in_sqlite:
            self.connection: Any = sqlite3.connect(str(ledger.path), isolation_level=None)
        else:
            import psycopg

            database = ledger._database
            self.connection = psycopg.connect(database._conninfo, autocommit=True)
            self.connection.execute("SET search_path = mlct")

    def execute(self, sql: str, values: Any = ()) -> Any:
        if not self.in_sqlite:
            sql = re.sub("x'([0-9a-f]*)'", r"'\\x\1'::bytea", sql).replace("?", "%s")
        return self.connection.execute(sql, values)

    def tamper(self, *statements: str) -> None:
        """Drop the triggers, ignore the constraints."""
        if self.in_sqlite:
            found = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            drops = [f"DROP TRIGGER {name}" for (name,) in self.execute(found).fetchall()]
            drops.append("PRAGMA ignore_check_constraints = ON")
        else:
            tables = ("statements", "subjects")
            drops = [f"ALTER TABLE {table} DISABLE TRIGGER USER" for table in tables]
            found = (
                "SELECT conname FROM pg_constraint "
                "WHERE contype = 'c' AND conrelid = 'statements'::regclass"
            )
            for (name,) in self.execute(found).fetchall():
                drops.append(f"ALTER TABLE statements DROP CONSTRAINT {name}")
        for sql in (*drops, *statements):
            self.execute(sql)

    def rewrite(self, change: Callable[[dict[str, Any]], dict[str, Any]], since: int = 1) -> None:
        """Recompute the chain after `change(row)`, as an owner who knows the format can."""
        self.tamper()
        previous, names = "0" * 64, ("body", "kind", "supersedes", "previous_hash")
        for record in reversed(self.ledger.records()):
            values = {name: getattr(record, name) for name in type(record).__dataclass_fields__}
            values |= change(values) if record.sequence >= since else {}
            made = type(record)(**(values | {"previous_hash": previous}))
            previous = made.expected_hash()
            self.execute(
                "UPDATE statements SET body = ?, kind = ?, supersedes = ?, previous_hash = ?, "
                "hash = ? WHERE sequence = ?",
                [*(getattr(made, n) for n in names), previous, made.sequence],
            )

    def cut(self, last: int) -> None:
        """Take the rows after `last` away."""
        tail = f"WHERE sequence > {last}"
        self.tamper(f"DELETE FROM subjects {tail}", f"DELETE FROM statements {tail}")


@pytest.fixture
def owner_of() -> Iterator[Callable[[Ledger], Owner]]:
    """`owner_of(ledger)`: somebody who can do anything to the database."""
    opened = list[Owner]()

    def open_(ledger: Ledger) -> Owner:
        opened.append(Owner(ledger))
        return opened[-1]

    yield open_
    for owner in opened:
        owner.connection.close()


class Clock:
    """Each look is a second later."""

    def __init__(self) -> None:
        self.time = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.time += timedelta(seconds=1)
        return self.time


class MemoryRegistry:
    """Aliases and the digests of versions' bytes. `broken` is raised on the next writes."""

    def __init__(self) -> None:
        self.aliases: dict[tuple[str, str], int] = {}
        self.pointed: dict[tuple[str, str], int] = {}
        self.artifacts: dict[tuple[str, int], str] = {}
        self.broken: BaseException | None = None

    def alias(self, model: str, alias: str) -> int | None:
        return self.aliases.get((model, alias))

    def set_alias(self, model: str, alias: str, version: int) -> None:
        if self.broken is not None:
            raise self.broken
        self.artifact(model, version)
        self.aliases[model, alias] = self.pointed[model, alias] = version

    def delete_alias(self, model: str, alias: str) -> None:
        if self.broken is not None:
            raise self.broken
        self.aliases.pop((model, alias), None)

    def standing(self, model: str, alias: str) -> slots.Standing:
        pointed = self.pointed.get((model, alias))
        return slots.Standing(alias=self.alias(model, alias), pointed=pointed)

    def artifact(self, model: str, version: int) -> str:
        if (model, version) not in self.artifacts:
            raise RegistryError(f"the registry has no {model}@{version}")
        return self.artifacts[model, version]


class World:
    """One model, its ledger, its registry, its approvers and the bytes that people looked at."""

    departed = DEPARTED

    def __init__(self, folder: Path, keys: Mapping[str, Path]) -> None:
        self.keys, self.clock, self.registry = keys, Clock(), MemoryRegistry()
        self.ledger = Ledger(folder / "ledger.db", clock=self.clock)
        self.approvers = approvers_of(keys)
        self.deployment = Deployment()
        self.declared = {"tier": "high", "gate": sha256(b"gate"), "contract": sha256(b"contract")}
        self.lost = set[str]()  # approved copies that somebody deleted
        self.verify: Callable[[], object] | None = None
        self.store: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        self.store[sha256(data)] = data
        return sha256(data)

    def get(self, digest: str) -> bytes:
        return self.store[digest]

    def approved(self, artifact: str) -> None:
        if artifact in self.lost:
            raise SnapshotMissing(f"there is no object {artifact}")

    def train(
        self,
        version: int,
        *,
        authors: tuple[str, ...] = ("zoe",),
        data: bytes = b"",
        rows: bytes = b"",
        fallback: bool = False,
    ) -> None:
        artifact = self.put(data or b"model %d" % version)
        self.registry.artifacts[MODEL, version] = artifact
        says = {"model": MODEL, "version": version, "artifact": artifact, "authors": list(authors)}
        says |= {"training_set": sha256(rows or b"rows %d" % version)}
        says |= {"fallback": True} if fallback else {}
        self.ledger.append(statement("training", {"artifact": artifact}, says), actor="test")

    def validate(self, version: int, *, passed: bool = True) -> Record:
        """The contract's verdict on a version's training set."""
        data = sha256(b"rows %d" % version)
        says = {"model": MODEL, "training_set": data, "passed": passed, "violations": []}
        says |= {"contract": sha256(b"contract")}
        return self.ledger.append(statement("contract", {"training_set": data}, says), actor="test")

    def evaluate(
        self, version: int, verdict: str = "PASS", slot: str = SLOT, **changes: Any
    ) -> Record:
        """A gate statement against what is live now; `changes` make it say something else."""
        self.validate(version)
        pinned = policy.pin(self.ledger, self.approvers, actor="test")
        current = slots.live(self.ledger, MODEL, slot)
        says: dict[str, Any] = {
            "model": MODEL,
            "version": version,
            "slot": slot,
            "artifact": self.registry.artifacts[MODEL, version],
            "champion": current.version if current else None,
            "head": current.sequence if current else 0,
            "tier": "high",
            "verdict": verdict,
            "reasons": [f"it is {verdict}"],
            "policy": self.declared["gate"],
            "approvers_policy": pinned.approvers.digest,
            "deployment": self.deployment.digest(slot),
        }
        report = {n: says[n] for n in ("model", "version", "artifact", "champion")}
        report |= {"decision": {"verdict": verdict}, "at": self.clock().isoformat()}
        says |= {"evidence": self.put(canonical(report))} | changes
        subjects = {n: says[n] for n in ("artifact", "evidence")}
        return self.ledger.append(statement("gate", subjects, says), actor="test")

    def request(self, version: int) -> approvals.Request:
        return slots.request(self.ledger, MODEL, version, SLOT)

    def answer(self, person: str, version: int, decision: str = "approve", **how: Any) -> Record:
        """Sign as `mlct approve` does, and record it."""
        asked = approvals.Request.of(self.ledger, MODEL, version, how.pop("slot", SLOT))
        content, body, signed, _ = approvals.decide(
            asked,
            how.pop("approvers", self.approvers),
            decision=decision,
            key=self.keys[person],
            comment="looked at it",
            at=how.pop("at", None) or self.clock(),
            **how,
        )
        return self.ledger.append(content, actor=person, signature=signed, body=body)

    def forge(self, person: str, version: int, /, *, namespace: str = "", **changes: Any) -> Record:
        """An approval that says what `mlct approve` would not let this person sign."""
        said = json.loads(self.answer("ana", version).body)["predicate"]
        said |= {"approver": person, "role": ROLES.get(person, ["product"])[0], "nonce": person}
        said |= changes
        subjects = {n: said[n] for n in ("artifact", "evidence")}
        content = statement("approval", subjects, said)
        chosen = namespace or signature.NAMESPACE
        signed = signature.sign(self.keys[person], canonical(content), namespace=chosen)
        return self.ledger.append(content, actor=person, signature=signed)

    def approve(self, version: int, *people: str) -> None:
        for person in people or ("ana", "ben"):
            self.answer(person, version)

    def weaken(self, **changes: Any) -> None:
        """One approver is enough from now on, says who edits the file."""
        one = {"approvers": 1, "author": True, "distinct_roles": False}
        self.edit_approvers(tiers={"high": one}, **changes)

    def edit_approvers(self, **changes: Any) -> None:
        """Only on disk: nobody signed it."""
        self.approvers = approvers_of(self.keys, **changes)

    def change_approvers(self, signer: str = "ana", **changes: Any) -> None:
        """Have another approvers file signed by as many as it takes, as `mlct policy sign` does."""
        current = policy.in_force(self.ledger)
        self.edit_approvers(**changes)
        others = (
            [p.name for p in current.approvers.governors if p.name != signer] if current else []
        )
        for name in (signer, *others):
            how = {"key": self.keys[name], "comment": "seen", "at": self.clock()}
            if policy.change(self.ledger, self.approvers, **how) == policy.in_force(self.ledger):
                break

    def promote(self, version: int, slot: str = SLOT) -> Record:
        return slots.promote(
            self.ledger,
            self.registry,
            self.approvers,
            self.get,
            model=MODEL,
            version=version,
            actor="test",
            slot=slot,
            approved=self.approved,
            deployment=self.deployment,
            declared=self.declared,
            verify=self.verify,
        )

    def refused(
        self,
        match: str,
        version: int = 2,
        error: type[MlctError] = PromotionRefused,
        *,
        check: str | None = None,
        recorded: bool = True,
        slot: str = SLOT,
    ) -> None:
        """Promoting is refused by a check; nothing moved, and one row says who tried what."""
        before = (self.kinds(), self.live, self.alias)
        with pytest.raises(error, match=match) as refused:
            self.promote(version, slot)
        assert check in (None, refused.value.check)
        assert refused.value.check
        kinds = self.kinds()
        if recorded:
            assert kinds.pop() == "refusal"
            says = self.ledger.records(limit=1)[0].predicate
            told = (refused.value.check, refused.value.found)
            assert (says["version"], says["check"], says["found"]) == (version, *told)
        assert (kinds, self.live, self.alias) == before

    def roll_back(self, **how: Any) -> Record:
        return slots.roll_back(
            self.ledger,
            self.registry,
            self.get,
            model=MODEL,
            reason=how.pop("reason", "it was bad"),
            actor="test",
            slot=SLOT,
            **how,
        )

    def project(self) -> Mapping[str, Any]:
        return slots.project(self.ledger, self.registry, MODEL, SLOT, actor="test")

    def put_live(self, *versions: int) -> "World":
        """Train, evaluate, approve and promote, one after the other."""
        for version in versions:
            self.train(version)
            self.evaluate(version)
            self.approve(version)
            self.promote(version)
        return self

    @property
    def live(self) -> int | None:
        current = slots.live(self.ledger, MODEL, SLOT)
        return current.version if current else None

    @property
    def alias(self) -> int | None:
        return self.registry.alias(MODEL, SLOT)

    def kinds(self) -> list[str]:
        """Kinds of all statements, oldest first."""
        return [record.kind for record in reversed(self.ledger.records())]


@pytest.fixture
def world(tmp_path: Path, keys: Mapping[str, Path]) -> World:
    """Nothing was trained yet."""
    return World(tmp_path, keys)


@pytest.fixture
def put_forward(world: World) -> World:
    """Version 1 is live; version 2 passed its gate and waits."""
    world.put_live(1)
    world.train(2)
    world.evaluate(2)
    return world


@pytest.fixture(scope="session")
def new_world(keys: Mapping[str, Path]) -> Callable[[Path], World]:
    """For tests that need many worlds."""
    return lambda folder: World(folder, keys)


@pytest.fixture
def in_child(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """`in_child(function, nobody=False)`: run it in a forked process, if wanted without rights.

    Returns how the child ended: 0, minus a signal's number, or 1 with a traceback.
    """
    # A process without rights must reach the folder.
    above = [p for p in tmp_path.parents if p.stat().st_uid == os.getuid() and p != p.parent]
    modes = {p: p.stat().st_mode for p in above}

    def run(function: Callable[[], Any], *, nobody: bool = False) -> int:
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        code = 1
        try:
            if nobody and os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    for path, mode in modes.items():
        path.chmod(mode | 0o011)
    yield run
    for path, mode in modes.items():
        path.chmod(mode)


@pytest.fixture
def at_once() -> Callable[..., list[Any]]:
    """`at_once(count, work, kind=...)`: what `work(number)` returned in processes (or threads).

    They start together. An error of mlct is a result too; any other fails the test.
    """
    fork = multiprocessing.get_context("fork")

    def start(count: int, work: Callable[[int], Any], kind: Any = fork.Process) -> list[Any]:
        together, results = fork.Barrier(count), fork.Queue()

        def run(number: int) -> None:
            together.wait(30)
            try:
                results.put((work(number), ""))
            except MlctError as error:
                kept = type(error)(error.found)
                results.put((kept, ""))
            except BaseException:
                results.put((None, traceback.format_exc()))

        workers = [kind(target=run, args=(number,)) for number in range(count)]
        for worker in workers:
            worker.start()
        found = [results.get(timeout=60) for _ in workers]
        for worker in workers:
            worker.join()
        assert [problem for _, problem in found if problem] == []
        return [result for result, _ in found]

    return start
