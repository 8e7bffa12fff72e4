"""Drives a ledger and the model side by side, and says where they part."""

from __future__ import annotations

import random
from pathlib import Path

from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import Operation
from minitoolai.storage import jobs, ledger
from minitoolai.storage.database import Connection
from minitoolai.storage.sqlite import SqliteConnection
from tests.support.books import NOON_MS, _template
from tests.support.ledger_model import Customers, Model

CUSTOMERS = [1001, 1002, 1003]


def books_in_memory() -> SqliteConnection:
    """The real tables, without a disk: for what must run thousands of times."""
    schema = SqliteConnection(_template())
    statements = [row[0] for row in schema.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
    schema.close()
    connection = SqliteConnection(Path(":memory:"))
    for statement in statements:
        connection.execute(statement)
    return connection


def open_accounts(connection: Connection, customers: list[int]) -> None:
    """The two system accounts and these customers, all empty."""
    rows = [(1, 1, NOON_MS), (2, 1, NOON_MS)] + [(customer, 0, NOON_MS) for customer in customers]
    connection.execute_many(
        "INSERT INTO accounts (id, is_system, created_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", rows
    )


class SideBySide:
    """One ledger in a database, one model; every batch goes to both."""

    def __init__(self, connection: Connection, decide: ledger.Decide = decide) -> None:
        self.connection = connection
        self.model = Model(CUSTOMERS)
        self._decide = decide
        open_accounts(connection, CUSTOMERS)

    def apply(self, batch: list[Operation]) -> None:
        """Judge the batch twice; AssertionError where the verdicts, a row or the audit differ."""
        self.model.begin_batch()
        with self.connection.transaction():
            verdicts = ledger.apply(self.connection, batch, self._decide)
        assert verdicts == [self.model.judge(operation) for operation in batch]
        self.compare()

    def claim(self, draw: random.Random) -> None:
        """A worker takes some of the first jobs that wait."""
        waiting = [job.id for job in jobs.waiting(self.connection, "fake", ["dreamshaper"], 5)]
        assert waiting == self.model.queue()[:5]
        wanted = sorted(draw.sample(waiting, draw.randint(0, len(waiting))))
        lease_ms = draw.choice((5, 10, 15))
        with self.connection.transaction():
            ours = jobs.claim(self.connection, wanted, worker="w", now_ms=NOON_MS, lease_ms=lease_ms)
        assert sorted(job.id for job in ours) == wanted
        for job in ours:
            self.model.claim(job.id, NOON_MS + lease_ms)
            assert (job.attempt, job.failures) == (
                self.model.holds[job.id]["attempt"],
                self.model.holds[job.id]["failures"],
            )
        self.compare()

    def compare(self) -> None:
        model, rows = self.model, self.connection.execute
        for account in CUSTOMERS:
            moves = [move for move in model.moves if move[0] == account]
            money = rows("SELECT posted, held, version FROM accounts WHERE id = ?", (account,))
            assert money == [(model.posted[account], model.held(account), len(moves))]
            written = rows(
                "SELECT CASE WHEN credit = ? THEN amount ELSE -amount END,"
                " coalesce(cast(hold_id AS text), external_ref), balance_after, created_ms, reason,"
                " account_version, kind,"
                " CASE WHEN credit = ? THEN debit ELSE credit END"
                " FROM transfers WHERE ? IN (debit, credit) ORDER BY account_version",
                (account, account, account),
            )
            assert written == [
                (move[1], str(move[2]), *move[3:], version, *_kind_and_other_side(move))
                for version, move in enumerate(moves, 1)
            ]
        holds = rows(
            "SELECT id, account_id, amount, state, progress, settled, shortfall, lease_until_ms FROM holds ORDER BY id"
        )
        keys = ("account", "amount", "state", "progress", "settled", "shortfall", "lease")
        assert holds == [(number, *(h[key] for key in keys)) for number, h in sorted(model.holds.items())]
        generations = rows("SELECT id, state, cost, finished_ms, error_code, estimated FROM generations ORDER BY id")
        assert generations == [(number, *h["generation"]) for number, h in sorted(model.holds.items())]
        assert dict(rows("SELECT id, hold_id FROM idempotency_keys")) == {
            claim: hold_id for claim, (hold_id, _) in model.claims.items()
        }
        used = {b: model.spent(b, "total", 0) for b in {h["budget"][0] for h in model.holds.values() if h["budget"]}}
        assert dict(rows("SELECT id, used FROM key_spending WHERE id LIKE '%/total'")) == {
            f"{name}/total": nano for name, nano in used.items()
        }
        rows_of_jobs = rows(
            "SELECT id, turn, attempt, failures, lease_until_ms, result, error FROM generations ORDER BY id"
        )
        keys = ("turn", "attempt", "failures", "job_lease", "result", "error")
        assert rows_of_jobs == [(number, *(h[key] for key in keys)) for number, h in sorted(model.holds.items())]
        assert ledger.broken_invariants(self.connection) == {}


def _kind_and_other_side(move: tuple[int, int, int | str, int, int, str | None]) -> tuple[str, int]:
    if isinstance(move[2], int):
        return ("usage", 1)
    return ("grant", 2) if move[1] > 0 else ("refund", 2)


def walk(both: SideBySide, draw: random.Random, batches: int, largest: int = 6) -> int:
    """Batches as `draw` decides, and claims between them; how many operations were judged alike."""
    customers, judged = Customers(CUSTOMERS, draw), 0
    for _ in range(batches):
        batch = customers.batch(largest)
        both.apply(batch)
        judged += len(batch)
        if draw.random() < 0.6:
            both.claim(draw)
    return judged


def random_walk(decide: ledger.Decide, *, seed: int, batches: int, largest: int = 6) -> None:
    """A walk that a seed decides, in memory; AssertionError or any other where the ledger is wrong."""
    connection = books_in_memory()
    try:
        walk(SideBySide(connection, decide), random.Random(seed), batches, largest)
    finally:
        connection.close()
