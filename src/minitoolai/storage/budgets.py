"""What budgets have spent, in rows: one for each day, each month and all time. Plain functions of a connection.

The lock of the account, taken first by everybody, is the lock of its budgets, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from minitoolai.core.budgets import Spending, period_ids
from minitoolai.core.clock import MS_PER_DAY
from minitoolai.ledger.types import Books, Operation, PlaceHold
from minitoolai.storage.database import Connection

#: A hold is settled long before its day and month are forgotten.
KEPT_MS = 100 * MS_PER_DAY
SWEPT_AT_ONCE = 500


def load(connection: Connection, operations: Sequence[Operation], books: Books) -> None:
    """What was spent of the budgets that these operations count against. A batch without any costs no query."""
    asked: dict[str, None] = {}
    for operation in operations:
        if isinstance(operation, PlaceHold) and operation.budget is not None:
            asked |= dict.fromkeys(period_ids(operation.budget.id, operation.now_ms).values())
    known = dict.fromkeys(asked)
    for hold in books.holds.values():
        if hold.budget_id is not None and hold.budget_ms is not None:
            known |= dict.fromkeys(period_ids(hold.budget_id, hold.budget_ms).values())
    if known:
        rows = connection.select_by_ids("SELECT id, used FROM key_spending WHERE id IN (…)", list(known))
        books.spending = {name: Spending() for name in asked} | {row[0]: Spending(row[1]) for row in rows}


def save(connection: Connection, books: Books) -> None:
    """Write what changed, and against which budget each new hold counts."""
    changed = [(name, spending.used) for name, spending in books.spending.items() if spending.dirty]
    if changed:
        at_ms = max((p.now_ms for p, _ in books.placed), default=0)
        connection.write_soon(
            "INSERT INTO key_spending (id, used, created_ms) VALUES (?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET used = excluded.used",
            [(name, used, at_ms) for name, used in changed],
        )
    counted = [(p.budget.id, p.now_ms, p.hold_id) for p, _ in books.placed if p.budget is not None]
    if counted:
        connection.write_soon("UPDATE holds SET budget_id = ?, budget_ms = ? WHERE id = ?", counted)


def spent(connection: Connection, budget_id: str, now_ms: int) -> dict[str, int]:
    """Nano-dollars promised or taken today, this month and in all."""
    names = period_ids(budget_id, now_ms)
    found = connection.select_by_ids("SELECT id, used FROM key_spending WHERE id IN (…)", list(names.values()))
    used: dict[str, int] = {row[0]: row[1] for row in found}
    return {period: used.get(name, 0) for period, name in names.items()}


def sweep(connection: Connection, now_ms: int) -> int:
    """Forget days and months that lie far back; how many, at most SWEPT_AT_ONCE. What was spent in all stays."""
    rows = connection.execute(
        "SELECT id FROM key_spending WHERE created_ms < ? AND id NOT LIKE '%/total' LIMIT ?" + connection.skip_locked,
        (now_ms - KEPT_MS, SWEPT_AT_ONCE),
    )
    if rows:
        connection.execute_many("DELETE FROM key_spending WHERE id = ?", rows)
    return len(rows)
