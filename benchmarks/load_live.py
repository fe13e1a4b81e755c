"""What following the ledger costs a scorer, as ratios against the bare LightGBM model.

A small world of its own: two versions of one model, trained here, promoted by statements written to
a ledger as promotion writes them. Each number is the median of many calls. The last lines are what
the audit of a move's approvals costs, at the first load and at each switch, by length of history.

    OMP_NUM_THREADS=1 python -m benchmarks.load_live [--trees 300]
"""

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from lightgbm import LGBMClassifier

import mlct
from mlct.adapters.live import LiveModel
from mlct.data.digest import sha256
from mlct.release import slot as slots
from mlct.release.approval import approvers, policy
from mlct.release.approval import request as approvals
from mlct.release.ledger import Ledger, statement
from mlct.release.slot.audit import require_approved
from mlct.release.slot.promotion import promoted
from mlct.training import fit

FEATURES = 30


def median_us(work: Callable[[], Any], calls: int) -> float:
    """Median microseconds of a call."""
    taken = []
    for _ in range(calls):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return 1e6 * statistics.median(taken)


def train(trees: int, seed: int) -> tuple[fit.Model, pa.Table]:
    """A model of 30 numbers, and its rows."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(20_000, FEATURES))
    label = x[:, 0] + x[:, 1] * x[:, 2] + random.normal(size=len(x)) > 0
    names = [f"x{n}" for n in range(FEATURES)]
    rows = pa.table({**dict(zip(names, x.T, strict=True)), "y": label.astype("int8")})
    estimator = LGBMClassifier(n_estimators=trees, num_leaves=31, n_jobs=1, verbose=-1)
    return fit.fit(estimator, rows, names, "y"), rows


def move(home: mlct.Home, artifact: str, version: int) -> None:
    """Put a version live, as promotion does it once all is approved."""
    head = home.ledger.head("m@production")
    says = {"model": "m", "slot": "production", "version": version, "artifact": artifact}
    says |= {"replaces": None, "rollback_target": None, "approvers": ["ana (model-risk)"]}
    home.ledger.append(
        statement("promotion", {"artifact": artifact}, says),
        actor="benchmark",
        slot="m@production",
        supersedes=head.sequence if head else 0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trees", type=int, default=300)
    trees = parser.parse_args().trees
    with tempfile.TemporaryDirectory() as folder:
        home = mlct.Home(root=folder)
        made = [train(trees, seed) for seed in (0, 1)]
        artifacts = [fit.keep(home.store, fit.pack(model)) for model, _ in made]
        for artifact in artifacts:
            home.keep_approved(artifact)
        move(home, artifacts[0], 1)
        live = mlct.load_live("m", home=home, refresh=None)
        scoring(live, made[0][1])
        following(home, live, artifacts)
    for evaluations in (10, 100, 1000):
        with tempfile.TemporaryDirectory() as folder:
            audit(Path(folder), evaluations)


def scoring(live: LiveModel, rows: pa.Table) -> None:
    """One row and 1,000 rows: the bare booster, the packaged model, the live model."""
    one, table = rows.slice(0, 1).to_pylist()[0], rows.slice(0, 1000)
    booster, model = live.current.model.learner, live.current.model
    names = [f"x{n}" for n in range(FEATURES)]
    array = np.array([[one[n] for n in names]])
    arrays = np.column_stack([table[n].to_numpy() for n in names])
    bare = median_us(lambda: booster.predict(array, num_threads=1), 3000)
    print(f"one row: bare booster {bare:.1f} us")
    for name, work in (("packaged", model.score_row), ("live", live.score_row)):
        taken = median_us(lambda work=work: work(one), 3000)
        print(f"  {name:9} {taken:7.1f} us  {taken / bare:5.2f} x")
    bare = median_us(lambda: booster.predict(arrays, num_threads=1), 100)
    print(f"1,000 rows: bare booster {bare / 1e3:.2f} ms")
    for name, whole in (("packaged", model.score), ("live", live.score)):
        taken = median_us(lambda whole=whole: whole(table), 100)
        print(f"  {name:9} {taken / 1e3:7.2f} ms  {taken / bare:5.2f} x")
    stop = threading.Event()
    follower = threading.Thread(target=lambda: [live.refresh() for _ in iter(stop.is_set, True)])
    follower.start()
    busy = median_us(lambda: live.score_row(one), 3000)
    stop.set()
    follower.join()
    print(f"  live, while another thread refreshes without pause: {busy:.1f} us")


def following(home: mlct.Home, live: LiveModel, artifacts: list[str]) -> None:
    """A look that finds nothing new, and switches: to new bytes, and back to known ones."""
    assert live.refresh()
    print(f"look at the ledger, nothing new: {median_us(live.refresh, 300):.0f} us")
    read = median_us(lambda: fit.unpack(fit.kept(home.approved_store, artifacts[1])), 5)
    start = time.perf_counter()
    move(home, artifacts[1], 2)
    moved = time.perf_counter()
    assert live.refresh()
    taken = 1e6 * (time.perf_counter() - moved)
    print(f"switch to new bytes: {taken / 1e3:.1f} ms, {taken / read:.2f} x read, hash and parse")
    back = []
    for version in (1, 2, 1, 2, 1):
        move(home, artifacts[version - 1], version)
        start = time.perf_counter()
        assert live.refresh()
        back.append(time.perf_counter() - start)
        assert live.version == version
    print(f"switch to bytes that were served before: {1e3 * statistics.median(back):.1f} ms")


def audit(folder: Path, evaluations: int) -> None:
    """A model evaluated so often; two people approved every tenth version, and it was promoted."""
    ledger, keys = Ledger(folder / "ledger.db"), {n: folder / n for n in ("ana", "ben")}
    people = approvers.parse({"people": [person(n, key) for n, key in keys.items()]})
    policy.pin(ledger, people, actor="benchmark")

    def say(kind: str, says: dict[str, Any], **where: Any) -> None:
        subjects = {n: says[n] for n in ("artifact", "evidence") if n in says}
        ledger.append(statement(kind, subjects, {"model": "m"} | says), actor="benchmark", **where)

    with ledger.transaction():
        for version in range(1, evaluations + 1):
            current = slots.live(ledger, "m")
            made = {"version": version, "artifact": sha256(b"%d" % version)}
            say(
                "training",
                made | {"authors": ["zoe"], "importance": dict.fromkeys("abcdefgh", 0.1)},
            )
            says = made | {"slot": "production", "evidence": sha256(b"e %d" % version)}
            says |= {"champion": current.version if current else None, "tier": "high"}
            says |= {"head": current.sequence if current else 0, "approvers_policy": people.digest}
            say("gate", says | {"verdict": "PASS", "reasons": ["it is better by so much"] * 5})
            if version % 10:
                continue
            asked = slots.request(ledger, "m", version)
            for name, key in keys.items():
                how = {"decision": "approve", "key": key, "comment": "", "at": ledger.clock()}
                content, body, signed, _ = approvals.decide(asked, people, **how)
                ledger.append(content, actor=name, signature=signed, body=body)
            given = approvals.judge(ledger, asked, people, at=ledger.clock())
            move = promoted(asked, people, approvals.require(given, asked, people))
            say("promotion", move, slot="m@production", supersedes=asked.head)
    head = ledger.head("m@production")
    assert head is not None
    taken = median_us(lambda: require_approved(ledger, head), 20) / 1e3
    print(f"the approvals of a move, after {evaluations:5} evaluations: {taken:6.1f} ms")


def person(name: str, key: Path) -> dict[str, Any]:
    """An entry of the approvers file, with a new key."""
    private, line = Ed25519PrivateKey.generate(), (s.Encoding.OpenSSH, s.PublicFormat.OpenSSH)
    form = (s.Encoding.PEM, s.PrivateFormat.OpenSSH, s.NoEncryption())
    key.write_bytes(private.private_bytes(*form))
    return {
        "name": name,
        "roles": [f"role of {name}"],
        "keys": [private.public_key().public_bytes(*line).decode()],
    }


if __name__ == "__main__":
    main()
