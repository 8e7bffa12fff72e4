"""Usage by day: what each account used on each UTC day, by kind, model and key.

A settle adds its generation to the row of the day on which the generation began, in its own transaction, so the table
equals the settled generations at every moment. Generations in progress are counted from the pending holds, which are
few. Reports read the table, so their time does not depend on the number of generations.
"""

from __future__ import annotations

from collections.abc import Sequence

from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.models import RevenueRow, UsageCell
from minitoolai.ledger.types import LedgerState, Operation, Recover, Requeue, Settle, Work
from minitoolai.storage.database import Connection, Row, SelectByIds

_WORK = "SELECT id, key_id, model, created_ms FROM generations WHERE id IN (…)"
#: Sums of one row of the table, in the order of its columns: requests, input, output, cost, upstream cost.
Sums = tuple[int, int, int, int, int]
_COLUMNS = "requests, input_units, output_units, cost, purchase"
#: The same from settled generations `g` with their holds `h`.
SUMS_OF_ROWS = "count(*), sum(g.input_units), sum(g.output_units), sum(h.settled), sum(coalesce(g.purchase, 0))"
#: Day, kind, model and key.
CellKey = tuple[int, str, str, str]


def select_work(operations: Sequence[Operation]) -> SelectByIds:
    """Return the SELECT of the generations that these operations may end and do not describe."""
    ending = (o for o in operations if isinstance(o, Recover | Requeue) or (isinstance(o, Settle) and o.work is None))
    return SelectByIds(_WORK, [operation.hold_id for operation in ending])


def known_work(operations: Sequence[Operation], rows: Sequence[Row]) -> dict[int, Work]:
    """Return the work of each hold that these operations may settle; `rows` are those of `select_work`."""
    known = {o.hold_id: o.work for o in operations if type(o) is Settle and o.work is not None}
    for row in rows:
        known[row[0]] = Work(*row[1:])
    return known


def save(connection: Connection, state: LedgerState) -> None:
    """Add the generations that this batch settled, one row for each account, day, kind, model and key.

    The batch has locked the accounts, so no other transaction changes these rows at the same time.
    """
    cells: dict[tuple[int, int, str, str, str], list[int]] = {}
    for hold_id, captured, _, _, outcome in state.outcomes:
        key_id, model, created_ms = state.work.get(hold_id) or _placed_now(state, hold_id)
        hold = state.holds[hold_id]
        key = (hold.account_id, created_ms // MS_PER_DAY, hold.kind, model, key_id)
        cell = cells.get(key)
        if cell is None:
            cell = cells[key] = [0, 0, 0, 0, 0]
        cell[0] += 1
        cell[1] += outcome.input_units
        cell[2] += outcome.output_units
        cell[3] += captured
        cell[4] += outcome.upstream_cost or 0
    connection.queue_write(
        "INSERT INTO usage_days (account_id, day, kind, model, key_id, requests, input_units, output_units, cost,"
        " purchase) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (account_id, day, kind, model, key_id)"
        " DO UPDATE SET requests = usage_days.requests + excluded.requests,"
        " input_units = usage_days.input_units + excluded.input_units,"
        " output_units = usage_days.output_units + excluded.output_units,"
        " cost = usage_days.cost + excluded.cost, purchase = usage_days.purchase + excluded.purchase",
        [(*key, *cell) for key, cell in cells.items()],
    )


def _placed_now(state: LedgerState, hold_id: int) -> Work:
    """Return the work of a hold that the same batch placed."""
    placed = next(operation for operation, _ in state.new_holds if operation.hold_id == hold_id)
    return Work(placed.key_id, placed.generation.model, placed.now_ms)


# ── reports ───────────────────────────────────────────────────────────────────────────────────────────────────────


def day_cells(connection: Connection, account_id: int, from_day: int, until_day: int) -> list[UsageCell]:
    """Return the usage of whole days, with generations in progress as requests that cost nothing yet.

    One statement reads both, so that a generation that ends meanwhile is counted once. A day, kind, model and key can
    come twice.
    """
    rows = connection.execute(
        "SELECT day, kind, model, key_id, requests, input_units, output_units, cost FROM usage_days"
        " WHERE account_id = ? AND day >= ? AND day < ?"
        f" UNION ALL SELECT g.created_ms / {MS_PER_DAY}, g.kind, g.model, g.key_id, count(*), 0, 0, 0"
        " FROM holds h JOIN generations g ON g.id = h.id"
        " WHERE h.state = 'pending' AND h.account_id = ? AND g.created_ms >= ? AND g.created_ms < ?"
        f" GROUP BY g.created_ms / {MS_PER_DAY}, g.kind, g.model, g.key_id",
        (account_id, from_day, until_day, account_id, from_day * MS_PER_DAY, until_day * MS_PER_DAY),
    )
    return [UsageCell(*row) for row in rows]


def revenue_by_day(connection: Connection, from_day: int) -> list[RevenueRow]:
    """Return the revenue of all accounts by day and kind since a day, with generations in progress as requests."""
    rows = connection.execute(
        "SELECT day, kind, sum(requests), sum(cost), sum(purchase) FROM ("
        "SELECT day, kind, requests, cost, purchase FROM usage_days WHERE day >= ?"
        f" UNION ALL SELECT g.created_ms / {MS_PER_DAY}, g.kind, 1, 0, 0 FROM holds h JOIN generations g ON g.id = h.id"
        " WHERE h.state = 'pending' AND g.created_ms >= ?) AS both_parts GROUP BY day, kind",
        (from_day, from_day * MS_PER_DAY),
    )
    return [RevenueRow(row[0], row[1], *map(int, row[2:])) for row in rows]


# ── comparison with the rows ──────────────────────────────────────────────────────────────────────────────────────


def first_and_last_day(connection: Connection, account_id: int) -> tuple[int, int] | None:
    """Return the first and last day of an account that have generations or rows of this table."""
    (found,) = connection.execute(
        f"SELECT min(first), max(last) FROM (SELECT min(created_ms) / {MS_PER_DAY} AS first,"
        f" max(created_ms) / {MS_PER_DAY} AS last FROM generations WHERE account_id = ?"
        " UNION ALL SELECT min(day), max(day) FROM usage_days WHERE account_id = ?) AS both_parts",
        (account_id, account_id),
    )
    return None if found[0] is None else (found[0], found[1])


def wrong_days(connection: Connection, account_id: int, from_day: int, until_day: int) -> list[int]:
    """Return the days of an account on which the table differs from the settled generations.

    Archived days are left out: their generations are in files, also while some are still in the database.
    """
    archived = {row[0] for row in connection.execute("SELECT day FROM archived_days")}
    rows = connection.execute(
        f"SELECT day, kind, model, key_id, {_COLUMNS}, 0 FROM usage_days"
        " WHERE account_id = ? AND day >= ? AND day < ?"
        f" UNION ALL SELECT g.created_ms / {MS_PER_DAY}, g.kind, g.model, g.key_id, {SUMS_OF_ROWS}, 1"
        " FROM generations g JOIN holds h ON h.id = g.id"
        " WHERE g.account_id = ? AND g.created_ms >= ? AND g.created_ms < ? AND h.state <> 'pending'"
        f" GROUP BY g.created_ms / {MS_PER_DAY}, g.kind, g.model, g.key_id",
        (account_id, from_day, until_day, account_id, from_day * MS_PER_DAY, until_day * MS_PER_DAY),
    )
    sides: tuple[set[Row], set[Row]] = set(), set()
    for row in rows:
        sides[row[-1]].add((*row[:4], *map(int, row[4:-1])))
    return sorted({row[0] for row in sides[0] ^ sides[1]} - archived)


def rebuild(connection: Connection, account_id: int, day: int) -> None:
    """Make the rows of one day of an account again, from its settled generations. The caller owns the transaction."""
    # As every writer of these rows does.
    connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", [account_id], lock=True)
    connection.execute("DELETE FROM usage_days WHERE account_id = ? AND day = ?", (account_id, day))
    connection.execute(
        f"INSERT INTO usage_days (account_id, day, kind, model, key_id, {_COLUMNS})"
        f" SELECT g.account_id, g.created_ms / {MS_PER_DAY}, g.kind, g.model, g.key_id, {SUMS_OF_ROWS}"
        " FROM generations g JOIN holds h ON h.id = g.id"
        " WHERE g.account_id = ? AND g.created_ms >= ? AND g.created_ms < ? AND h.state <> 'pending'"
        f" GROUP BY g.account_id, g.created_ms / {MS_PER_DAY}, g.kind, g.model, g.key_id",
        (account_id, day * MS_PER_DAY, (day + 1) * MS_PER_DAY),
    )
