"""Queries of the incremental audit: sums of ranges of holds, of closed days, and the rows of one day.

A *day* is the UTC day on which a generation began, as in `usage_days`. Rows are found by ranges of IDs, because IDs
begin with time and are the primary keys; rows of another day in such a range are left out by their time.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from minitoolai.core.clock import ID_SLACK_MS, MS_PER_DAY, first_id_at
from minitoolai.core.models import split_budget_ids
from minitoolai.ledger.types import FIRST_CUSTOMER
from minitoolai.storage.database import Connection, Row
from minitoolai.storage.tables.ledger import COST, COST_OF_ROWS, HIGHEST_ID, LOWEST_ID, ROW_INVARIANTS

#: Violating rows of each invariant that are shown.
ROWS_EACH = 10
#: A day after every other.
FAR_DAY = 2**32
Findings = dict[str, list[Row]]
#: Account, day, kind, model and key.
CellKey = tuple[int, int, str, str, str]
#: The same and a bucket of `usage_buckets`.
BucketKey = tuple[int, int, str, str, str, str]
#: Requests, input units, output units, cost, upstream cost.
CellSums = tuple[int, int, int, int, int]
#: Account → what transfers added to its balance.
Flows = dict[int, int]


def _range(low: int, high: int) -> str:
    # Literal numbers, because most queries name a range several times.
    return f"BETWEEN {low} AND {high}"


# ── ranges of holds ───────────────────────────────────────────────────────────────────────────────────────────────


def violations(connection: Connection, low: int, high: int) -> Findings:
    """Return the violated invariants of single rows, and of their costs, among holds with these IDs."""
    queries = {**ROW_INVARIANTS, COST: COST_OF_ROWS}
    found = {}
    for name, query in queries.items():
        rows = connection.execute(f"{query} LIMIT {ROWS_EACH}".replace("{range}", _range(low, high)))
        if rows:
            found[name] = rows
    return found


def end_of_piece(connection: Connection, low: int, high: int, rows: int) -> int | None:
    """Return the last ID of the first `rows` generations with these IDs, or None if there are none."""
    found = connection.execute(
        f"SELECT max(id) FROM (SELECT id FROM generations WHERE id {_range(low, high)} ORDER BY id LIMIT {rows}) AS p"
    )
    last: int | None = found[0][0]
    return last


def pending_ids(connection: Connection) -> list[int]:
    """Return the IDs of all pending holds. There are as many as requests in flight and queued jobs."""
    return [row[0] for row in connection.execute("SELECT id FROM holds WHERE state = 'pending'")]


def usage_cells(connection: Connection, low: int, high: int, from_day: int) -> dict[CellKey, CellSums]:
    """Return the usage of the settled holds with these IDs that began on this day or later."""
    ids = _range(low, high)
    rows = connection.execute(
        f"SELECT g.account_id, g.created_ms / {MS_PER_DAY}, g.kind, g.model, g.key_id, count(*), sum(g.input_units),"
        " sum(g.output_units), sum(h.settled), sum(coalesce(g.purchase, 0))"
        f" FROM generations g JOIN holds h ON h.id = g.id WHERE g.id {ids} AND h.id {ids} AND h.state <> 'pending'"
        f" AND g.created_ms >= ? GROUP BY g.account_id, g.created_ms / {MS_PER_DAY}, g.kind, g.model, g.key_id",
        (from_day * MS_PER_DAY,),
    )
    return {_cell_key(row): _integers(row[5:]) for row in rows}


def usage_flows(connection: Connection, low: int, high: int, from_day: int) -> dict[int, Flows]:
    """Return day → flows of the usage transfers of holds with these IDs that began on this day or later."""
    ids = _range(low, high)
    # Without its generation, a transfer counts for the first day.
    day = f"coalesce(g.created_ms / {MS_PER_DAY}, {from_day})"
    rows = connection.execute(
        f"SELECT {day}, t.debit, t.credit, sum(t.amount) FROM transfers t"
        f" LEFT JOIN generations g ON g.id = t.hold_id AND g.id {ids}"
        f" WHERE t.hold_id {ids} AND {day} >= {from_day} GROUP BY {day}, t.debit, t.credit"
    )
    flows: dict[int, Flows] = {}
    for row in rows:
        _move(flows.setdefault(row[0], {}), row[1], row[2], int(row[3]))
    return flows


def budget_sums(connection: Connection, low: int, high: int, from_day: int) -> dict[int, dict[str, int]]:
    """Return day → budget → what holds with these IDs count, of those that began on this day or later."""
    ids = _range(low, high)
    rows = connection.execute(
        f"SELECT g.created_ms / {MS_PER_DAY}, h.budget_id, sum(CASE WHEN h.state = 'pending' THEN h.amount"
        f" ELSE h.settled END) FROM holds h JOIN generations g ON g.id = h.id WHERE h.id {ids} AND g.id {ids}"
        " AND h.budget_id IS NOT NULL AND g.created_ms >= ?"
        f" GROUP BY g.created_ms / {MS_PER_DAY}, h.budget_id",
        (from_day * MS_PER_DAY,),
    )
    sums: dict[int, dict[str, int]] = {}
    for day, budget_id, total in rows:
        day_sums = sums.setdefault(day, {})
        for name in split_budget_ids(budget_id):
            day_sums[name] = day_sums.get(name, 0) + int(total)
    return sums


def _cell_key(row: Row) -> CellKey:
    return row[0], row[1], row[2], row[3], row[4]


def _integers(values: Sequence[int]) -> CellSums:
    requests, input_units, output_units, cost, purchase = map(int, values)
    return requests, input_units, output_units, cost, purchase


def _move(flows: Flows, debit: int, credit: int, amount: int) -> None:
    flows[debit] = flows.get(debit, 0) - amount
    flows[credit] = flows.get(credit, 0) + amount


# ── all of the books, in sums ─────────────────────────────────────────────────────────────────────────────────────


def balances(connection: Connection) -> list[Row]:
    """Return (account, posted, held) of every customer."""
    return connection.execute("SELECT id, posted, held FROM accounts WHERE is_system = 0")


def pending_amounts(connection: Connection) -> dict[int, int]:
    """Return account or purse → sum of its pending holds."""
    rows = connection.execute(
        "SELECT coalesce(purse_id, account_id), sum(amount) FROM holds WHERE state = 'pending'"
        " GROUP BY coalesce(purse_id, account_id)"
    )
    return {row[0]: int(row[1]) for row in rows}


def external_flows(connection: Connection, from_ms: int, until_ms: int) -> Flows:
    """Return the flows of credits and reversals of this time."""
    flows: Flows = {}
    for debit, credit, amount in connection.execute(
        "SELECT debit, credit, sum(amount) FROM transfers WHERE kind <> 'usage' AND created_ms >= ? AND created_ms < ?"
        " GROUP BY debit, credit",
        (from_ms, until_ms),
    ):
        _move(flows, debit, credit, int(amount))
    return flows


def usage_until(connection: Connection, day: int) -> dict[int, int]:
    """Return account → cost of its usage before this day, from the table of usage by day."""
    rows = connection.execute("SELECT account_id, sum(cost) FROM usage_days WHERE day < ? GROUP BY account_id", (day,))
    return {row[0]: int(row[1]) for row in rows}


def usage_table(connection: Connection, from_day: int, until_day: int) -> dict[CellKey, CellSums]:
    """Return the rows of `usage_days` of these days."""
    rows = connection.execute(
        "SELECT account_id, day, kind, model, key_id, requests, input_units, output_units, cost, purchase"
        " FROM usage_days WHERE day >= ? AND day < ?",
        (from_day, until_day),
    )
    return {_cell_key(row): _integers(row[5:]) for row in rows}


def bucket_table(connection: Connection, day: int) -> dict[BucketKey, tuple[int, int]]:
    """Return the rows of `usage_buckets` of a day."""
    rows = connection.execute(
        "SELECT account_id, day, kind, model, key_id, bucket, units, cost FROM usage_buckets WHERE day = ?", (day,)
    )
    return {(row[0], row[1], row[2], row[3], row[4], row[5]): (row[6], row[7]) for row in rows}


def budget_totals(connection: Connection) -> dict[str, int]:
    """Return budget → its spending in total, since its beginning."""
    rows = connection.execute("SELECT id, used FROM key_spending WHERE id LIKE '%/total'")
    return {row[0].removesuffix("/total"): row[1] for row in rows}


def closed_budgets(connection: Connection) -> dict[str, int]:
    """Return budget → its spending in closed days."""
    return dict(connection.execute("SELECT budget_id, settled FROM audited_budgets"))


# ── closed days ───────────────────────────────────────────────────────────────────────────────────────────────────


class DaySums(msgspec.Struct, frozen=True):
    """Sums of the settled generations of one day, and of the external money that reached customers."""

    requests: int = 0
    input_units: int = 0
    output_units: int = 0
    cost: int = 0
    purchase: int = 0
    external: int = 0


class ClosedDay(msgspec.Struct, frozen=True):
    """Row of `audited_days`."""

    day: int
    sums: DaySums
    hash: bytes


_CLOSED = "SELECT day, requests, input_units, output_units, cost, purchase, external, hash FROM audited_days"


def _closed_day(row: Row) -> ClosedDay:
    return ClosedDay(row[0], DaySums(*row[1:7]), bytes(row[7]))


def last_closed(connection: Connection) -> ClosedDay | None:
    """Return the newest closed day."""
    rows = connection.execute(f"{_CLOSED} ORDER BY day DESC LIMIT 1")
    return _closed_day(rows[0]) if rows else None


def closed_day(connection: Connection, day: int) -> ClosedDay | None:
    """Return a day, if it is closed."""
    rows = connection.execute(f"{_CLOSED} WHERE day = ?", (day,))
    return _closed_day(rows[0]) if rows else None


def closed_before(connection: Connection, day: int) -> bytes:
    """Return the hash of the newest closed day before this one, empty if there is none."""
    rows = connection.execute("SELECT hash FROM audited_days WHERE day < ? ORDER BY day DESC LIMIT 1", (day,))
    return bytes(rows[0][0]) if rows else b""


def closed_days(connection: Connection, from_day: int = 0) -> list[ClosedDay]:
    """Return the closed days since a day, oldest first."""
    return [_closed_day(row) for row in connection.execute(f"{_CLOSED} WHERE day >= ? ORDER BY day", (from_day,))]


def changed_sums(connection: Connection) -> list[Row]:
    """Return (day, sums kept, sums now) of closed days with other totals than when they were audited."""
    now: dict[int, list[int]] = {}
    for row in connection.execute(
        "SELECT day, sum(requests), sum(input_units), sum(output_units), sum(cost), sum(purchase) FROM usage_days"
        " GROUP BY day"
    ):
        now[row[0]] = [*map(int, row[1:]), 0]
    for day, external in connection.execute(
        f"SELECT created_ms / {MS_PER_DAY}, sum(CASE WHEN debit < {FIRST_CUSTOMER} THEN amount ELSE -amount END)"
        f" FROM transfers WHERE kind <> 'usage' GROUP BY created_ms / {MS_PER_DAY}"
    ):
        now.setdefault(day, [0] * 6)[5] = int(external)
    kept = {closed.day: list(msgspec.structs.astuple(closed.sums)) for closed in closed_days(connection)}
    last, none = max(kept, default=-1), [0] * 6
    return [
        (day, kept.get(day, none), now.get(day, none))
        for day in sorted({*kept, *(day for day in now if day <= last)})
        if kept.get(day, none) != now.get(day, none)
    ]


def first_day(connection: Connection) -> int | None:
    """Return the first day with usage or with external money."""
    rows = connection.execute(
        "SELECT min(day) FROM (SELECT min(day) AS day FROM usage_days UNION ALL"
        f" SELECT min(created_ms) / {MS_PER_DAY} FROM transfers WHERE kind <> 'usage') AS both_parts"
    )
    first: int | None = rows[0][0]
    return first


def ids_of_day(day: int) -> tuple[int, int]:
    """Return the range of the IDs that generations of this day have, if no clock was set."""
    begin_ms = day * MS_PER_DAY
    return first_id_at(begin_ms - ID_SLACK_MS), first_id_at(begin_ms + MS_PER_DAY + ID_SLACK_MS)


ALL_IDS = (LOWEST_ID, HIGHEST_ID)
#: Every column of a settled generation, its hold and its transfer that nothing changes later. Retention erases the
#: others: requests, results, errors and webhook addresses.
_DAY_COLUMNS = (
    "g.id, g.account_id, g.key_id, g.kind, g.model, g.engine, g.served_model, g.state, g.price_input, g.price_output,"
    " g.input_units, g.output_units, g.cached_units, g.estimated, g.cost, g.purchase, g.error_code, g.created_ms,"
    " g.first_token_ms, g.finished_ms, g.delivered_bytes, g.price_split, h.account_id, h.amount, h.progress, h.state,"
    " h.settled, h.shortfall, h.budget_id, h.budget_ms, t.debit, t.credit, t.amount, t.account_version,"
    " t.balance_after, t.created_ms"
)
COLUMNS = {name: place for place, name in enumerate(_DAY_COLUMNS.split(", "))}


def rows_of_day(connection: Connection, day: int, low: int, high: int) -> list[Row]:
    """Return the generations of a day with these IDs, with their holds and transfers, by ID."""
    ids = _range(low, high)
    return connection.execute(
        f"SELECT {_DAY_COLUMNS} FROM generations g LEFT JOIN holds h ON h.id = g.id AND h.id {ids}"
        f" LEFT JOIN transfers t ON t.hold_id = g.id AND t.hold_id {ids}"
        f" WHERE g.id {ids} AND g.created_ms >= ? AND g.created_ms < ? ORDER BY g.id",
        (day * MS_PER_DAY, (day + 1) * MS_PER_DAY),
    )


def external_of_day(connection: Connection, day: int) -> list[Row]:
    """Return the credits and reversals of a day, by ID."""
    return connection.execute(
        "SELECT id, kind, debit, credit, amount, external_ref, account_version, balance_after, reason, created_ms"
        " FROM transfers WHERE kind <> 'usage' AND created_ms >= ? AND created_ms < ? ORDER BY id",
        (day * MS_PER_DAY, (day + 1) * MS_PER_DAY),
    )


def insert_closed(connection: Connection, closed: ClosedDay, budgets: dict[str, int], now_ms: int) -> bool:
    """Add a closed day and what budgets counted in it. Return False if another process has closed it."""
    row = (closed.day, *msgspec.structs.astuple(closed.sums), closed.hash, now_ms)
    if not connection.execute_many(
        "INSERT INTO audited_days (day, requests, input_units, output_units, cost, purchase, external, hash,"
        " audited_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (day) DO NOTHING",
        [row],
    ):
        return False
    if budgets:
        connection.execute_many(
            "INSERT INTO audited_budgets (budget_id, settled) VALUES (?, ?) ON CONFLICT (budget_id)"
            " DO UPDATE SET settled = audited_budgets.settled + excluded.settled",
            sorted(budgets.items()),
        )
    return True


def reopen(connection: Connection, day: int, budgets: dict[str, int]) -> int:
    """Open this day and all later ones again, and return how many. `budgets`: what the earlier ones counted."""
    closed = connection.execute_many("DELETE FROM audited_days WHERE day >= ?", [(day,)])
    connection.execute("DELETE FROM audited_budgets")
    if budgets:
        connection.execute_many(
            "INSERT INTO audited_budgets (budget_id, settled) VALUES (?, ?)", sorted(budgets.items())
        )
    return closed


def counts(connection: Connection) -> tuple[int, int]:
    """Return the numbers of generations and of holds. Reads all of both tables."""
    generations = connection.execute("SELECT count(*) FROM generations")[0][0]
    return generations, connection.execute("SELECT count(*) FROM holds")[0][0]


# ── how far `audit --full` came ───────────────────────────────────────────────────────────────────────────────────

_FULL_AUDIT_PLACE = "full_audit_place"


def full_audit_place(connection: Connection) -> int | None:
    """Return the last day that an interrupted full audit has read, or None if it begins at the first."""
    rows = connection.execute("SELECT value FROM installation WHERE name = ?", (_FULL_AUDIT_PLACE,))
    return int(rows[0][0]) if rows else None


def set_full_audit_place(connection: Connection, day: int | None) -> None:
    """Remember the last day that a full audit has read; None when it is complete."""
    connection.execute("DELETE FROM installation WHERE name = ?", (_FULL_AUDIT_PLACE,))
    if day is not None:
        connection.execute("INSERT INTO installation (name, value) VALUES (?, ?)", (_FULL_AUDIT_PLACE, str(day)))
