"""Each guard turned off on purpose, and the proof that notices. docs/reliability.md lists them by these names."""

from __future__ import annotations

import ast
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from minitoolai.core.errors import StoreError
from minitoolai.ledger import rules
from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import Operation, Result, Settled
from minitoolai.storage.database import Row, SelectByIds
from minitoolai.storage.postgres.connection import PostgresConnection
from minitoolai.storage.tables import ledger
from minitoolai.storage.tables.ledger import broken_invariants
from tests.chaos.power import run_power
from tests.support.books import TemporaryBooks, credit, hold, settle
from tests.support.cluster import Cluster
from tests.support.kills import run_kills
from tests.support.ledger_run import random_walk
from tests.support.mutants import load
from tests.support.waiting import eventually

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"


def test_every_guard_is_in_the_document_with_the_test_that_bites() -> None:
    ours = set(re.findall(r"^def (test_without_\w+)", Path(__file__).read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"`(test_without_\w+)`", DOCUMENT.read_text("utf-8"))) == ours


# ── the disk ──────────────────────────────────────────────────────────────────────────────────────────────


def test_after_a_power_cut_everything_acknowledged_is_there(tmp_path: Path) -> None:
    tally = run_power(tmp_path, 60)
    assert tally.violations == []
    assert tally.acknowledged > 200


def test_without_syncing_each_commit_a_power_cut_loses_what_was_acknowledged(tmp_path: Path) -> None:
    tally = run_power(tmp_path, 60, synchronous="NORMAL")
    assert any("acknowledged operations are lost" in wrong for wrong in tally.violations)


def test_without_syncing_at_all_a_power_cut_breaks_the_file(tmp_path: Path) -> None:
    tally = run_power(tmp_path, 60, synchronous="OFF")
    assert any("the file is broken" in wrong for wrong in tally.violations)


# ── the database: each guard behind the one before ────────────────────────────────────────────────────────


Session = Callable[..., "Weak"]


class Weak(PostgresConnection):
    """A session that leaves out what it is told to."""

    def __init__(self, url: str, *, locks: bool = True, compares: bool = True, ascends: bool = True) -> None:
        super().__init__(url)
        self._locks, self._compares, self._ascends = locks, compares, ascends

    def select_many(self, *questions: SelectByIds) -> list[list[Row]]:
        weaker = [one._replace(lock=one.lock and self._locks) for one in questions]
        if self._ascends:
            return super().select_many(*weaker)
        return [self._downwards(one) if one.lock else super(Weak, self).select_many(one)[0] for one in questions]

    def _downwards(self, one: SelectByIds) -> list[Row]:
        backwards = one.sql.replace("IN (…)", "= ANY(%s)") + " ORDER BY id DESC FOR NO KEY UPDATE"
        return self._run(backwards, (list(one.ids),))

    def queue_write(self, sql: str, rows: Sequence[Sequence[object]], *, conflict_error: str = "") -> None:
        super().queue_write(
            sql if self._compares else sql.replace(" AND state = 'pending'", ""), rows, conflict_error=conflict_error
        )


@pytest.fixture
def books(cluster: Cluster) -> Iterator[TemporaryBooks]:
    """A database of its own: some tests take its indexes away."""
    name = cluster.create(cluster.with_tables)
    made = TemporaryBooks(cluster.url(name))
    yield made
    made.close()
    cluster.drop(name)


@pytest.fixture
def session(books: TemporaryBooks) -> Iterator[Session]:
    """Makes sessions on the books, each without what it is told to leave out."""
    with ExitStack() as stack:

        def make(**without: bool) -> Weak:
            return stack.enter_context(closing(Weak(books.url, **without)))

        yield make


def race(early: Weak, late: Weak, operation: Operation) -> Result:
    """Both read the books before either has written; the verdict of the one that is late."""
    with late.transaction():
        seen = ledger.load(late, [operation])
        with early.transaction():
            ledger.apply(early, [operation], decide)
        verdict = decide(seen, operation)
        ledger.save(late, seen)
    return verdict


def taken(books: TemporaryBooks, kind: str) -> list[int]:
    return [row[0] for row in books.rows("SELECT amount FROM transfers WHERE kind = ? AND amount = 60", kind)]


def test_the_lock_makes_the_second_of_two_processes_wait_and_see(books: TemporaryBooks, session: Session) -> None:
    account, both = books.account(1000), [session(), session()]
    books.apply(hold(1, account, 100))
    verdicts: list[Result] = []

    def second() -> None:
        with both[1].transaction():
            verdicts.extend(ledger.apply(both[1], [settle(1, account, 60)], decide))

    thread = threading.Thread(target=second)
    with both[0].transaction():
        ledger.apply(both[0], [settle(1, account, 60)], decide)
        thread.start()
        eventually(lambda: waiting(books) == 1)
    thread.join(10)
    assert verdicts == [Settled(60, repeated=True)]
    assert taken(books, "usage") == [60]


def waiting(books: TemporaryBooks) -> int:
    """Sessions that wait for a lock."""
    rows = books.rows(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    return int(rows[0][0])


def test_without_locks_the_compare_and_set_refuses_the_second_charge(books: TemporaryBooks, session: Session) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 100))
    with pytest.raises(StoreError, match="settled by another process"):
        race(session(), session(locks=False), settle(1, account, 60))
    assert taken(books, "usage") == [60]
    assert books.broken() == {}


def test_without_locks_and_compare_and_set_the_unique_hold_refuses_the_second_charge(
    books: TemporaryBooks, session: Session
) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 100))
    with pytest.raises(StoreError, match="uq_transfers_hold_id"):
        race(session(), session(locks=False, compares=False), settle(1, account, 60))
    assert taken(books, "usage") == [60]
    assert books.broken() == {}


def test_without_any_of_the_three_a_charge_is_taken_twice_and_the_audit_says_so(
    books: TemporaryBooks, session: Session
) -> None:
    account = books.account(1000)
    books.apply(hold(1, account, 100))
    books.rows("DROP INDEX uq_transfers_hold_id")
    race(session(), session(locks=False, compares=False), settle(1, account, 60))
    assert taken(books, "usage") == [60, 60]
    assert {"posted equals the sum of transfers", "cost of usage equals usage transfers and shortfall"} <= set(
        books.broken()
    )


def test_without_locks_the_unique_reference_refuses_the_second_credit(books: TemporaryBooks, session: Session) -> None:
    account = books.account(1000)
    with pytest.raises(StoreError, match="uq_transfers_external_ref"):
        race(session(), session(locks=False), credit(account, 60, "grant:once"))
    assert taken(books, "grant") == [60]


def test_without_the_unique_reference_a_payment_is_credited_twice(books: TemporaryBooks, session: Session) -> None:
    account = books.account(1000)
    books.rows("DROP INDEX uq_transfers_external_ref")
    race(session(), session(locks=False), credit(account, 60, "grant:once"))
    assert taken(books, "grant") == [60, 60]
    assert "posted equals the sum of transfers" in books.broken()


def cross(books: TemporaryBooks, session: Session, *, ascends: bool) -> list[str]:
    """Two processes whose batches share accounts meet in the middle; what the database said about it."""
    accounts = [books.account(1000) for _ in range(9)]
    said: list[str] = []

    def batch(connection: Weak) -> None:
        try:
            with connection.transaction():
                ledger.apply(connection, [credit(account, 1) for account in accounts], decide)
        except StoreError as error:
            said.append(str(error))

    both = [session(), session(ascends=ascends)]
    threads = [threading.Thread(target=batch, args=(one,)) for one in both]
    with books.connection.transaction():
        books.connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", [accounts[4]], lock=True)
        for thread in threads:
            thread.start()
        eventually(lambda: waiting(books) == 2)
    for thread in threads:
        thread.join(20)
    return said


def test_two_batches_that_share_accounts_meet_without_a_deadlock(books: TemporaryBooks, session: Session) -> None:
    assert cross(books, session, ascends=True) == []


def test_without_the_order_of_locks_two_batches_deadlock(books: TemporaryBooks, session: Session) -> None:
    (said,) = cross(books, session, ascends=False)
    assert "deadlock detected" in said
    assert broken_invariants(books.connection) == {}


# ── the rules ─────────────────────────────────────────────────────────────────────────────────────────────


def notices(right: str, wrong: str) -> bool:
    """Whether the walks beside the model, or the tables, find out a ledger in which these words are replaced."""
    source = Path(rules.__file__).read_text("utf-8")
    assert source.count(right) == 1
    weak = load(ast.parse(source.replace(right, wrong)), "weak_ledger").decide
    try:
        for seed in range(16):
            random_walk(weak, seed=seed, batches=40)
    except (AssertionError, StoreError):
        return True
    return False


def test_without_the_rule_that_a_hold_must_be_covered_the_model_notices() -> None:
    assert notices("    if amount > max(available, 0):\n", "    if False:\n")


def test_without_the_check_of_the_attempt_the_model_notices() -> None:
    assert notices('job is not None and job.state == "running" and job.attempt == attempt', "job is not None")


def test_without_the_renewal_of_leases_the_model_notices() -> None:
    assert notices("    hold.lease_until_ms = max(hold.lease_until_ms or 0, operation.lease_until_ms)\n", "")


def test_without_waiting_for_leases_the_model_notices() -> None:
    assert notices("(hold.lease_until_ms > operation.lease_now_ms and not operation.forced)", "False")


def test_without_the_memory_of_references_the_tables_refuse() -> None:
    assert notices("        return Credited(account.posted, repeated=True)\n", "        pass\n")


# ── the order of answer and charge ────────────────────────────────────────────────────────────────────────

#: Read by Python at its start: a disk that takes its time for each commit…
SLOW_DISK = """
import time
from minitoolai.storage.sqlite import SqliteConnection

execute = SqliteConnection.execute

def slowly(self, sql, parameters=()):
    if sql == "COMMIT":
        time.sleep(0.05)
    return execute(self, sql, parameters)

SqliteConnection.execute = slowly
"""
#: … and answers that do not wait for it.
HASTE = """
import minitoolai.billing.charging as charging

async def wait_until_durable(charge, *, within_s):
    charge.add_done_callback(lambda done: done.exception())

charging.wait_until_durable = wait_until_durable
"""


@pytest.mark.acceptance
@pytest.mark.parametrize("waits", [True, False])
def test_without_the_wait_for_the_charge_a_kill_loses_what_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_DISK if waits else SLOW_DISK + HASTE)
    (tmp_path / "kills").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    tally = run_kills(tmp_path / "kills", 3, seed=3)
    lost = [wrong for wrong in tally.violations if "acknowledged at" in wrong]
    assert bool(lost) != waits, tally.violations
    assert tally.acknowledged > 10
