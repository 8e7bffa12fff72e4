"""Drives a ledger and the model side by side, and says where they part."""

from __future__ import annotations

import random
from pathlib import Path

from minitoolai.ledger.rules import decide
from minitoolai.ledger.types import BuyPlan, Operation
from minitoolai.storage.database import Connection
from minitoolai.storage.selling import purses
from minitoolai.storage.sqlite import SqliteConnection
from minitoolai.storage.tables import jobs, ledger
from tests.support.books import NOON_MS, _template
from tests.support.ledger_model import Customers, Model

#: Purse → its plan, and when and with which limits it pays.
Plans = dict[int, tuple[BuyPlan, int, int, dict[str, int]]]
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

    def apply(self, batch: list[Operation], plans: Plans | None = None) -> None:
        """Judge the batch twice; AssertionError where the verdicts, a row or the audit differ."""
        self.model.begin_batch()
        with self.connection.transaction():
            self._open_purses(batch, plans or {})
            verdicts = ledger.apply(self.connection, batch, self._decide)
            assert verdicts == [self.model.judge(operation) for operation in batch]
            for number in self.model.forget_unfilled():
                self.connection.execute("DELETE FROM purses WHERE id = ?", (number,))
                self.connection.execute("DELETE FROM accounts WHERE id = ?", (number,))
            # As a command of the program does in the same transaction.
            for customer in CUSTOMERS:
                purses.remember_end(self.connection, customer)
        self.compare()

    def _open_purses(self, batch: list[Operation], plans: Plans) -> None:
        """Make the empty purses of the plans that this batch buys."""
        for operation in batch:
            if isinstance(operation, BuyPlan) and operation.purse_id not in self.model.purses:
                ask, begins_ms, ends_ms, limits = plans[operation.purse_id]
                self.model.open_purse(operation.purse_id, ask, begins_ms, ends_ms, limits)
                row = (operation.purse_id, ask.account_id, "pro", ask.price, ask.credit)
                windows = (limits.get("5h"), limits.get("week"), limits.get("month"))
                self.connection.execute(
                    "INSERT INTO accounts (id, created_ms) VALUES (?, ?)", (operation.purse_id, NOON_MS)
                )
                self.connection.execute(
                    "INSERT INTO purses (id, owner_id, plan, price, credit, window_5h, window_week, window_month,"
                    " period, begins_ms, ends_ms, reference, created_ms)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'month', ?, ?, ?, ?)",
                    (*row, *windows, begins_ms, ends_ms, f"purse {operation.purse_id}", NOON_MS),
                )
                purses.remember_end(self.connection, ask.account_id)

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
            known = self.model.holds[job.id]
            assert (job.attempt, job.setbacks) == (known["attempt"], known["failures"] + known["losses"])
        self.compare()

    def compare(self) -> None:
        model, rows = self.model, self.connection.execute
        for account in (*CUSTOMERS, *model.purses):
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
            "SELECT id, account_id, coalesce(purse_id, account_id), amount, state, progress, settled, shortfall,"
            " lease_until_ms FROM holds ORDER BY id"
        )
        keys = ("account", "payer", "amount", "state", "progress", "settled", "shortfall", "lease")
        assert holds == [(number, *(h[key] for key in keys)) for number, h in sorted(model.holds.items())]
        given = rows(
            "SELECT generation_id, number, account_id, amount, total, cost, kind, model, key_id, began_ms FROM refunds"
            " ORDER BY generation_id, number"
        )
        assert given == [
            (number, place, h["account"], amount, sum(h["refunds"][:place]), h["settled"], h["kind"], h["serving"][0],
             h["key"], h["began"])
            for number, h in sorted(model.holds.items())
            for place, amount in enumerate(h["refunds"], 1)
        ]  # fmt: skip
        generations = rows("SELECT id, state, cost, finished_ms, error_code, estimated FROM generations ORDER BY id")
        assert generations == [(number, *h["generation"]) for number, h in sorted(model.holds.items())]
        served = rows("SELECT id, model, price_input, price_output FROM generations ORDER BY id")
        assert served == [(number, *h["serving"]) for number, h in sorted(model.holds.items())]
        assert {row[0]: row[1:] for row in rows("SELECT id, hold_id, body FROM idempotency_keys")} == {
            claim: (hold_id, answer.body if (answer := model.answers.get(claim)) else None)
            for claim, (hold_id, _) in model.claims.items()
        }
        counted = {name for h in model.holds.values() for name, _ in h["budgets"]}
        used = {name: model.spent(name, "total", 0) for name in counted}
        assert dict(rows("SELECT id, used FROM key_spending WHERE id LIKE '%/total'")) == {
            f"{name}/total": nano for name, nano in used.items()
        }
        rows_of_jobs = rows(
            "SELECT id, turn, attempt, failures, losses, lease_until_ms, result, error FROM generations ORDER BY id"
        )
        keys = ("turn", "attempt", "failures", "losses", "job_lease", "result", "error")
        assert rows_of_jobs == [(number, *(h[key] for key in keys)) for number, h in sorted(model.holds.items())]
        assert rows("SELECT id, ends_ms, expired FROM purses ORDER BY id") == [
            (number, purse["ends"], purse["expired"]) for number, purse in sorted(model.purses.items())
        ]
        windows = {name: used for purse in model.purses for name, used in model.windows(purse).items()}
        assert dict(rows("SELECT id, used FROM purse_windows")) == windows
        assert ledger.broken_invariants(self.connection) == {}


def _kind_and_other_side(move: tuple[int, int, int | str, int, int, str | None]) -> tuple[str, int]:
    if isinstance(move[2], int):
        return ("usage", 1)
    if str(move[2]).startswith("refund:") and move[1] > 0:
        return ("usage_refund", 1)
    if str(move[2]).startswith("expiry:"):
        return ("plan_expiry", 2)
    if str(move[2]).startswith("plan:"):
        last = str(move[2]).split(":")[-1]
        return ({"price": "plan", "refund": "plan_refund"}.get(last, "plan_credit"), 2)
    return ("grant", 2) if move[1] > 0 else ("refund", 2)


def walk(both: SideBySide, draw: random.Random, batches: int, largest: int = 6) -> int:
    """Batches as `draw` decides, and claims between them; how many operations were judged alike."""
    customers, judged = Customers(CUSTOMERS, draw), 0
    for _ in range(batches):
        batch = customers.batch(largest)
        both.apply(batch, customers.plans)
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
