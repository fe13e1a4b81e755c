"""Ledgers outlive the code: what earlier releases wrote still reads and verifies.

`golden/ledger_v1.db` is of the first release, before policies and deployments were pinned.
`golden/ledger_v2.db` was made by `write` below. Once released, neither is made again: a change of
the format keeps both, adds a `ledger_v3.db` and a way to read all.
"""

import itertools
import shutil
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mlct.data.digest import canonical, sha256
from mlct.release import slot as slots
from mlct.release.approval import policy, signature
from mlct.release.approval import request as approvals
from mlct.release.approval.approvers import Approvers, parse
from mlct.release.approval.deployment import Deployment
from mlct.release.ledger import Ledger, require_contract, statement

GOLDEN = Path(__file__).parent / "golden" / "ledger_v1.db"
NEWEST = Path(__file__).parent / "golden" / "ledger_v2.db"
HEAD = "19c96a64d216e8c5c4023ba83f67989e35c7df75a01c34832bb2cd66f74d3565"
MODEL = "flight_delay"
START = datetime(2026, 11, 21, 8, tzinfo=UTC)


def person(folder: Path, name: str) -> str:
    """Writes a private key that everybody knows; returns its public line."""
    private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(sha256(name.encode())))
    form = (s.Encoding.PEM, s.PrivateFormat.OpenSSH, s.NoEncryption())
    (folder / name).write_bytes(private.private_bytes(*form))
    public = private.public_key().public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH)
    return public.decode()


def approvers(folder: Path) -> Approvers:
    roles = {"ana": "model-risk", "ben": "product"}
    people = [{"name": n, "roles": [r], "keys": [person(folder, n)]} for n, r in roles.items()]
    return parse({"people": people})


def write(folder: Path) -> Ledger:
    """Two versions through the loop, a rollback, an alias moved by hand; a minute between all."""
    minutes = itertools.count()
    ledger = Ledger(folder / "ledger.db", clock=lambda: START + timedelta(minutes=next(minutes)))
    people, store, aliases = approvers(folder), dict[str, bytes](), dict[str, int]()
    registry = SimpleNamespace(
        alias=lambda model, alias: aliases.get(alias),
        set_alias=lambda model, alias, version: aliases.update({alias: version}),
        artifact=lambda model, version: sha256(b"model %d" % version),
    )

    def append(kind: str, subjects: dict[str, str], says: dict[str, Any]) -> None:
        ledger.append(statement(kind, subjects, {"model": MODEL} | says), actor="dagster:0b6a")

    for version in (1, 2):
        artifact, train = sha256(b"model %d" % version), sha256(b"train %d" % version)
        verdict = {"contract": sha256(b"contract"), "passed": True, "violations": []}
        append("contract", {"training_set": train}, verdict)
        made = {"version": version, "artifact": artifact, "authors": ["zoe@airport.example"]}
        made |= {"training_set": train}
        made |= {"rows": 190_000, "train": train, "importance": {"hour": 1e-7, "distance": 0.25}}
        append("training", {"artifact": artifact, "train": train}, made)
        champion = slots.live(ledger, MODEL)
        found = {"version": version, "artifact": artifact}
        found |= {"champion": champion.version if champion else None}
        report = canonical({"model": MODEL, "decision": {"verdict": "PASS"}} | found)
        evidence = sha256(report)
        store[evidence] = report
        found |= {"slot": "production", "evidence": evidence}
        found |= {"head": champion.sequence if champion else 0}
        pinned = policy.pin(ledger, people, actor="dagster:0b6a").approvers.digest
        found |= {"compared": found["champion"], "approvers_policy": pinned}
        found |= {"deployment": Deployment().digest("production")}
        passed = {"tier": "high", "verdict": "PASS", "reasons": ["roc_auc: +0.0125 ≥ 0.002"]}
        append("gate", {"artifact": artifact, "evidence": evidence}, found | passed)
        append("evaluation", {"evidence": evidence}, found | {"holdout": sha256(b"holdout")})
        asked = slots.request(ledger, MODEL, version)
        for name in ("ana", "ben"):
            how = {"decision": "approve", "key": folder / name, "comment": "ok"}
            content, body, signed, _ = approvals.decide(asked, people, at=ledger.clock(), **how)
            ledger.append(content, actor=name, signature=signed, body=body)
        how = {"model": MODEL, "version": version, "actor": "dagster:0b6b"}
        slots.promote(ledger, registry, people, store.__getitem__, approved=str, **how)
    why = {"reason": "recall fell", "actor": "cli:ana"}
    slots.roll_back(ledger, registry, str, model=MODEL, **why)
    aliases["production"] = 2
    slots.project(ledger, registry, MODEL, actor="cli:ana")
    return ledger


@pytest.fixture
def golden(tmp_path: Path) -> Ledger:
    """A copy: SQLite writes beside whatever it reads."""
    shutil.copy(GOLDEN, tmp_path / "golden.db")
    return Ledger(tmp_path / "golden.db")


def test_the_first_ledger_verifies(golden):
    assert golden.verify() == 17
    assert golden.records(limit=1)[0].hash == HEAD


def test_the_first_ledger_holds_every_kind_that_its_release_wrote(golden):
    pairs = dict.fromkeys(("contract", "training", "evaluation", "gate", "promotion"), 2)
    once = dict.fromkeys(("rollback", "quarantine", "reconcile"), 1)
    assert Counter(r.kind for r in golden.records()) == pairs | {"approval": 4} | once


def test_the_first_ledger_still_answers(golden):
    current = slots.live(golden, MODEL)
    assert (current.version, current.move, current.rollback_target) == (1, "rollback", None)
    promoted = datetime.fromisoformat(golden.records(kind="promotion")[0].recorded_at)
    assert slots.live(golden, MODEL, at=promoted).version == 2
    assert slots.live(golden, MODEL, at=promoted - timedelta(minutes=1)).version == 1
    assert slots.live(golden, MODEL, at=START) is None
    assert slots.states(golden, MODEL) == {1: "production", 2: "quarantined"}
    assert slots.quarantined(golden, MODEL) == {2: "recall fell"}
    require_contract(golden, training_set=sha256(b"train 1"), contract=sha256(b"contract"))


def test_the_first_signatures_still_verify(golden, tmp_path):
    people = approvers(tmp_path).people
    given = golden.records(kind="approval")
    keys = [signature.verify(record.signature, record.body) for record in given]
    assert keys == [p.keys[0] for p in reversed(people)] * 2


def test_what_the_first_release_approved_is_still_judged_so(golden, tmp_path):
    """Its approvals bind no deployment; they count for what they were, and carry nothing new."""
    asked = approvals.Request.of(golden, MODEL, 2, "production")
    assert (asked.deployment, asked.policy) == (None, None)
    at = datetime.fromisoformat(golden.records(limit=1)[0].recorded_at)
    given = approvals.judge(golden, asked, approvers(tmp_path), at=at)
    assert {a.problem for a in given} == {"it was used by an earlier promotion"}


def test_a_ledger_is_still_written_as_the_newest_one(tmp_path, monkeypatch):
    """Row by row: the same bytes, signatures and hashes."""
    shutil.copy(NEWEST, tmp_path / "newest.db")
    newest = Ledger(tmp_path / "newest.db")
    assert newest.verify()
    numbers = itertools.count()
    monkeypatch.setattr("secrets.token_hex", lambda size: f"{next(numbers):0{2 * size}x}")
    written = [record.to_dict() for record in reversed(write(tmp_path).records())]
    assert written == [record.to_dict() for record in reversed(newest.records())]


def test_the_golden_file_is_small_and_whole():
    assert GOLDEN.stat().st_size < 100_000
    assert not list(GOLDEN.parent.glob("*.db-*"))
    assert GOLDEN.read_bytes().startswith(b"SQLite format 3")
