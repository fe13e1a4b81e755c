"""What the ledger costs on 100,000 rows, as ratios against the least that could do the same.

| measured | against |
|---|---|
| append | a bare table of the same rows in the same database: one durable INSERT, one transaction |
| verify | reading the same rows with the same driver, and hashing the same bytes |
| live   | a select by primary key over the same connection |

PostgreSQL is a server of its own, durable, on a Unix socket. Times are the best of several rounds
that alternate between the two, so that both meet the same noise.

    python -m benchmarks.ledger [--rows 100000]
"""

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.postgres import binaries, server
from mlct.data.digest import sha256
from mlct.release.ledger import Ledger, statement

SLOT = "m@production"
FIELDS = (
    "sequence, recorded_at, actor, kind, model, slot, supersedes, body, signature, previous_hash, "
    "hash"
)


def said(number: int) -> dict[str, Any]:
    """A statement of about 600 bytes on two digests, as a gate's is."""
    subjects = {name: sha256(b"%s %d" % (name.encode(), number)) for name in ("artifact", "train")}
    says = {"model": f"m{number % 20}", "version": number, "slot": "production", "verdict": "PASS"}
    says |= subjects | {"reasons": [f"roc_auc: +0.{number:05} is above the margin"], "tier": "high"}
    return statement("gate", subjects, says)


def fill(ledger: Ledger, rows: int) -> None:
    """`rows` statements, every hundredth a move of the slot, in transactions of a thousand."""
    head = 0
    for first in range(0, rows, 1000):
        with ledger.transaction():
            for number in range(first, min(first + 1000, rows)):
                if number % 100:
                    ledger.append(said(number), actor="dagster:run")
                    continue
                move = statement("promotion", {}, {"model": "m", "version": number})
                record = ledger.append(move, actor="x", slot=SLOT, supersedes=head)
                head = record.sequence


def best(*works: Callable[[], Any], rounds: int) -> list[float]:
    """Seconds of the fastest round of each; they take turns."""
    found = [float("inf")] * len(works)
    for _ in range(rounds):
        for place, work in enumerate(works):
            start = time.perf_counter()
            work()
            found[place] = min(found[place], time.perf_counter() - start)
    return found


def median(*works: Callable[[], Any], rounds: int) -> list[float]:
    """Median seconds of each; they take turns."""
    found: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for times, work in zip(found, works, strict=True):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
    return [sorted(times)[len(times) // 2] for times in found]


def measure(ledger: Ledger, rows: int) -> list[tuple[str, float, float, str]]:
    """`(what, ours, floor, the floor's name)`, in seconds."""
    connection, mark = ledger._connection(), "?" if ledger.path else "%s"
    table = "statements" if ledger.path else "mlct.statements"
    subjects = "subjects" if ledger.path else "mlct.subjects"
    blob = "BLOB" if ledger.path else "bytea"
    connection.execute(
        f"CREATE TABLE bare (number INTEGER PRIMARY KEY, body {blob}, a TEXT, b TEXT, c TEXT)"
    )
    numbers = iter(range(rows, 10 * rows))
    body, text = b"x" * 600, "y" * 64

    def bare() -> None:
        connection.execute("BEGIN")
        marks = ", ".join([mark] * 5)
        values = (next(numbers), body, text, text, text)
        connection.execute(f"INSERT INTO bare VALUES ({marks})", values)
        connection.execute("COMMIT")

    def append() -> None:
        ledger.append(said(next(numbers)), actor="dagster:run")

    out = [("append", *median(append, bare, rounds=300), "bare durable INSERT")]
    database, clock = ledger._database, {"read": 0.0, "hash": 0.0}

    def floor() -> None:
        start = time.perf_counter()
        database.begin(connection, write=False)
        query = f"SELECT {FIELDS} FROM {table} ORDER BY sequence"
        found = list(database.rows(connection, query))
        pairs = list(database.rows(connection, f"SELECT sequence, digest FROM {subjects}"))
        database.roll_back(connection)
        clock["read"], start = time.perf_counter() - start, time.perf_counter()
        assert len(pairs) > len(found)
        for row in found:
            hashlib.sha256(row[7]).hexdigest()
            hashlib.sha256(body[:440]).hexdigest()  # the envelope
        clock["hash"] = time.perf_counter() - start

    verify, least = best(ledger.verify, floor, rounds=4)
    out.append(("verify", verify, least, "read and hash"))
    out.append(("verify", verify, clock["hash"], "hash alone"))

    def one() -> None:
        connection.execute(f"SELECT {FIELDS} FROM {table} WHERE sequence = 77", ()).fetchone()

    live, select = median(lambda: ledger.head(SLOT), one, rounds=2000)
    return [*out, ("live", live, select, "select by primary key")]


def report(name: str, rows: int, results: list[tuple[str, float, float, str]]) -> None:
    for what, ours, least, against in results:
        print(
            f"{name:10} {what:7} {ours * 1e3:10.3f} ms  {least * 1e3:10.3f} ms  "
            f"{ours / least:6.2f}x  {against}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    print(f"{rows} rows\n{'':10} {'':7} {'ledger':>13}  {'floor':>13}  {'ratio':>7}")
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.db")
        fill(ledger, rows)
        report("SQLite", rows, measure(ledger, rows))
    if binaries() is None:
        print("PostgreSQL is not installed")
        return
    with server(durable=True) as postgres:
        ledger = Ledger(postgres.fresh())
        fill(ledger, rows)
        report("PostgreSQL", rows, measure(ledger, rows))


if __name__ == "__main__":
    main()
