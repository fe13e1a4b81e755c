"""Many writers, threads and crashes: the chain has no gap, and one move wins."""

import multiprocessing
import os
import queue
import signal
import threading
from typing import Any

import pytest

from mlct.errors import SlotMoved
from mlct.release.ledger import Ledger, statement

FORK = multiprocessing.get_context("fork")
SLOT = "m@production"


def note(ledger: Ledger, number: int, kind: str = "training", **how: Any) -> int:
    content = statement(kind, {"artifact": str(number)}, {"model": "m", "version": number})
    return ledger.append(content, actor=f"actor {number}", **how).sequence


def test_two_processes_append_without_a_gap(where, at_once):
    def work(number: int) -> None:
        ledger = Ledger(where)
        for round in range(200):
            note(ledger, 1000 * number + round)

    at_once(2, work)
    ledger = Ledger(where)
    assert ledger.verify() == 400
    versions = [r.predicate["version"] for r in reversed(ledger.records())]
    for number in (0, 1):
        mine = [v for v in versions if v // 1000 == number]
        assert mine == [1000 * number + round for round in range(200)]


def test_verify_holds_while_others_append(where, at_once):
    ledger = Ledger(where)

    def work(number: int) -> None:
        if number:
            for version in range(300):
                note(ledger, version)
        else:
            while ledger.verify() < 300:
                pass

    assert at_once(2, work) == [None, None]


@pytest.mark.parametrize("round", range(5))
def test_a_fresh_ledger_may_be_opened_by_all_at_once(where, at_once, round):
    at_once(8, lambda number: note(Ledger(where), number))
    assert Ledger(where).verify() == 8


@pytest.mark.parametrize("kind", [FORK.Process, threading.Thread], ids=["processes", "threads"])
def test_one_of_two_moves_that_supersede_the_same_wins(where, at_once, kind):
    ledger = Ledger(where)

    def work(number: int) -> bool:
        head = ledger.head(SLOT)
        before = 0 if head is None else head.sequence
        start.wait(30)
        try:
            note(ledger, number, "promotion", slot=SLOT, supersedes=before)
        except SlotMoved:
            return False
        return True

    for round in range(1, 11):
        start = FORK.Barrier(2)
        assert sorted(at_once(2, work, kind)) == [False, True]
        assert ledger.verify() == round


def test_a_connection_is_never_carried_into_a_fork(where, in_child):
    ledger = Ledger(where)
    note(ledger, 1)
    with ledger.transaction():
        note(ledger, 2)
        # The child neither sees the parent's transaction nor ends it.
        assert in_child(lambda: ledger.verify() == 1 or os.abort()) == 0
    assert in_child(lambda: note(ledger, 3)) == 0
    assert ledger.verify() == 3


@pytest.mark.parametrize("end", [lambda: os._exit(7), lambda: os.kill(os.getpid(), signal.SIGKILL)])
def test_a_crash_inside_a_transaction_leaves_the_ledger_as_it_was(where, in_child, end):
    ledger = Ledger(where)
    note(ledger, 1)

    def crash() -> None:
        with ledger.transaction():
            note(ledger, 2)
            note(ledger, 3, "promotion", slot=SLOT, supersedes=0)
            end()

    assert in_child(crash) in (7, -signal.SIGKILL)
    assert ledger.verify() == 1
    assert ledger.head(SLOT) is None
    assert note(ledger, 2) == 2


def test_kills_at_any_moment_leave_a_ledger_that_verifies(where):
    counts = [0]

    def write() -> None:
        ledger = Ledger(where)
        while True:
            with ledger.transaction():
                note(ledger, 1)
                note(ledger, 2)

    note(Ledger(where), 0)
    for round in range(10):
        writer = FORK.Process(target=write)
        writer.start()
        writer.join(0.03 + 0.01 * round)
        writer.kill()
        writer.join()
        counts.append(Ledger(where).verify())
    assert counts == sorted(counts)
    assert counts[-1] > 1
    assert all(count % 2 == 1 for count in counts[1:])


def test_a_full_disk_leaves_the_ledger_usable(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    note(ledger, 1)
    connection = ledger._connection()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    content = statement("training", {}, {"model": "m", "filler": "x" * 100_000})
    with pytest.raises(Exception, match="full"):
        ledger.append(content, actor="test")
    connection.execute("PRAGMA max_page_count = 1000000")
    assert note(ledger, 2) == 2
    assert ledger.verify() == 2


def test_threads_have_connections_of_their_own(where):
    ledger, found = Ledger(where), queue.Queue()
    note(ledger, 1)

    def work() -> None:
        try:
            found.put(note(ledger, 2))
        except Exception as error:
            found.put(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert found.get(timeout=30) == 2
    thread.join()
