"""Usage by day: what each account used on each UTC day, by kind, model and key.

A settle adds its generation to the row of the day on which the generation began, in its own transaction, so the table
equals the settled generations at every moment. Generations in progress are counted from the pending holds, which are
few. A second table has the units and costs of buckets with a price of their own, and rows only for requests that used
such a bucket. Reports read the table, so their time does not depend on the number of generations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from minitoolai.core.catalog.prices import APART, decode_parts, nano_of
from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.models import Buckets, RevenueRow, UsageCell
from minitoolai.ledger.types import LedgerState, Operation, PlaceHold, Recover, Refund, Requeue, Settle, Work
from minitoolai.storage.database import Connection, PriceParts, Row, SelectByIds

_WORK = "SELECT id, key_id, model, created_ms FROM generations WHERE id IN (…)"
_ENDING = (Recover, Requeue, Refund)
#: Sums of one row of the table, in the order of its columns: requests, input, output, cost, upstream cost.
Sums = tuple[int, int, int, int, int]
_COLUMNS = "requests, input_units, output_units, cost, purchase"
#: The same from settled generations `g` with their holds `h`.
SUMS_OF_ROWS = "count(*), sum(g.input_units), sum(g.output_units), sum(h.settled), sum(coalesce(g.purchase, 0))"
#: Day, kind, model and key.
CellKey = tuple[int, str, str, str]
#: The same, of a generation `g`.
DAY_KEY = f"g.created_ms / {MS_PER_DAY}, g.kind, g.model, g.key_id"
_OF_ACCOUNT = "g.account_id = ? AND g.created_ms >= ? AND g.created_ms < ?"
_APART = ", ".join(f"'{name}'" for name in APART)


def select_work(operations: Sequence[Operation]) -> SelectByIds:
    """Return the SELECT of the generations that these operations may end or refund and do not describe."""
    ending = [
        o.hold_id
        for o in operations
        # Most are holds and described settles; a check against several classes takes five times as long.
        if (type(o) is Settle and o.work is None)
        or (type(o) is not PlaceHold and type(o) is not Settle and isinstance(o, _ENDING))
    ]
    return SelectByIds(_WORK, ending)


def known_work(operations: Sequence[Operation], rows: Sequence[Row]) -> dict[int, Work]:
    """Return the work of each hold that these operations may settle or refund. `rows`: those of `select_work`."""
    known = {o.hold_id: o.work for o in operations if type(o) is Settle and o.work is not None}
    for row in rows:
        known[row[0]] = Work(*row[1:])
    return known


def save(connection: Connection, state: LedgerState) -> None:
    """Add the generations that this batch settled, one row for each account, day, kind, model and key.

    The batch has locked the accounts, so no other transaction changes these rows at the same time.
    """
    cells: dict[tuple[int, int, str, str, str], list[int]] = {}
    buckets: dict[tuple[int, int, str, str, str, str], list[int]] = {}
    for hold_id, captured, _, _, outcome in state.outcomes:
        key_id, model, created_ms = state.work.get(hold_id) or state.work_of(hold_id)
        if hold_id in state.serving:
            model = state.serving[hold_id].model
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
        if outcome.price_split is not None:
            _add_parts(buckets, key, outcome.price_split)
    connection.queue_write(
        "INSERT INTO usage_days (account_id, day, kind, model, key_id, requests, input_units, output_units, cost,"
        " purchase) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (account_id, day, kind, model, key_id)"
        " DO UPDATE SET requests = usage_days.requests + excluded.requests,"
        " input_units = usage_days.input_units + excluded.input_units,"
        " output_units = usage_days.output_units + excluded.output_units,"
        " cost = usage_days.cost + excluded.cost, purchase = usage_days.purchase + excluded.purchase",
        [(*key, *cell) for key, cell in cells.items()],
    )
    if buckets:
        connection.queue_write(
            "INSERT INTO usage_buckets (account_id, day, kind, model, key_id, bucket, units, cost)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (account_id, day, kind, model, key_id, bucket)"
            " DO UPDATE SET units = usage_buckets.units + excluded.units, cost = usage_buckets.cost + excluded.cost",
            [(*key, *sums) for key, sums in buckets.items()],
        )


def _add_parts(
    buckets: dict[tuple[int, int, str, str, str, str], list[int]], key: tuple[int, int, str, str, str], split: str
) -> None:
    for part in decode_parts(split):
        if part.bucket in APART:
            sums = buckets.setdefault((*key, part.bucket), [0, 0])
            sums[0] += part.units
            sums[1] += nano_of(part)


# ── reports ───────────────────────────────────────────────────────────────────────────────────────────────────────


def day_cells(connection: Connection, account_id: int, from_day: int, until_day: int) -> list[UsageCell]:
    """Return the usage of whole days, with generations in progress as requests that cost nothing yet.

    One statement reads both, so that a generation that ends meanwhile is counted once. A day, kind, model and key can
    come twice.
    """
    rows = connection.execute(
        "SELECT day, kind, model, key_id, requests, input_units, output_units, cost, '' FROM usage_days"
        " WHERE account_id = ? AND day >= ? AND day < ?"
        " UNION ALL SELECT day, kind, model, key_id, 0, units, 0, cost, bucket FROM usage_buckets"
        " WHERE account_id = ? AND day >= ? AND day < ?"
        f" UNION ALL SELECT g.created_ms / {MS_PER_DAY}, g.kind, g.model, g.key_id, count(*), 0, 0, 0, ''"
        " FROM holds h JOIN generations g ON g.id = h.id"
        " WHERE h.state = 'pending' AND h.account_id = ? AND g.created_ms >= ? AND g.created_ms < ?"
        f" GROUP BY g.created_ms / {MS_PER_DAY}, g.kind, g.model, g.key_id",
        (
            *(account_id, from_day, until_day),
            *(account_id, from_day, until_day),
            *(account_id, from_day * MS_PER_DAY, until_day * MS_PER_DAY),
        ),
    )
    return with_buckets(rows)


def with_buckets(rows: Iterable[Row]) -> list[UsageCell]:
    """Return cells of these rows, with a last column that is empty or names a bucket, whose units are in the input.

    A bucket is added to the first cell of its day, kind, model and key.
    """
    cells, found = [], dict[CellKey, Buckets]()
    for *row, bucket in rows:
        day, kind, model, key_id, *sums = row
        if bucket:
            found.setdefault((day, kind, model, key_id), {})[bucket] = (int(sums[1]), int(sums[3]))
        else:
            requests, input_units, output_units, cost = map(int, sums)
            cells.append(UsageCell(day, kind, model, key_id, requests, input_units, output_units, cost))
    if not found:
        return cells
    return [
        cell if (own := found.pop((cell.day, cell.kind, cell.model, cell.key_id), None)) is None
        else msgspec.structs.replace(cell, buckets=own)
        for cell in cells
    ]  # fmt: skip


def split_of_rows(parts: PriceParts, key: str, condition: str, selected: str = "{bucket}, {units}, {cost}") -> str:
    """Return SQL for the buckets of settled generations `g`: these columns, then the bucket, its units and its cost."""
    columns = selected.format(bucket=parts.bucket, units=f"sum({parts.units})", cost=f"sum({parts.nano})")
    return (
        f"SELECT {key}, {columns} FROM generations g JOIN holds h ON h.id = g.id JOIN {parts.source} ON 1 = 1"
        f" WHERE {condition} AND g.price_split IS NOT NULL AND h.state <> 'pending' AND {parts.bucket} IN ({_APART})"
        f" GROUP BY {key}, {parts.bucket}"
    )


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
    span = (account_id, from_day * MS_PER_DAY, until_day * MS_PER_DAY)
    kept = connection.execute(
        "SELECT day, kind, model, key_id, bucket, units, cost FROM usage_buckets"
        " WHERE account_id = ? AND day >= ? AND day < ?",
        (account_id, from_day, until_day),
    )
    counted = connection.execute(split_of_rows(connection.price_parts, DAY_KEY, _OF_ACCOUNT), span)
    sides[0].update((*row[:5], *map(int, row[5:])) for row in kept)
    sides[1].update((*row[:5], *map(int, row[5:])) for row in counted)
    return sorted({row[0] for row in sides[0] ^ sides[1]} - archived)


def wrong_buckets(connection: Connection, limit: int) -> list[Row]:
    """Return rows of the table of buckets, of all accounts, that differ from the settled generations."""
    key = "account_id, day, kind, model, key_id, bucket"
    negative = "{bucket}, -{units}, -{cost}"
    open_day = f"g.created_ms / {MS_PER_DAY} NOT IN (SELECT day FROM archived_days)"
    return connection.execute(
        f"SELECT {key}, sum(units), sum(cost) FROM (SELECT {key}, units, cost FROM usage_buckets"
        " WHERE day NOT IN (SELECT day FROM archived_days) UNION ALL"
        f" {split_of_rows(connection.price_parts, f'g.account_id, {DAY_KEY}', open_day, negative)}) AS both_sides"
        f" GROUP BY {key} HAVING sum(units) <> 0 OR sum(cost) <> 0 LIMIT ?",
        (limit,),
    )


def rebuild(connection: Connection, account_id: int, day: int) -> None:
    """Make the rows of one day of an account again, from its settled generations. The caller owns the transaction."""
    # As every writer of these rows does.
    connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", [account_id], lock=True)
    connection.execute("DELETE FROM usage_days WHERE account_id = ? AND day = ?", (account_id, day))
    connection.execute("DELETE FROM usage_buckets WHERE account_id = ? AND day = ?", (account_id, day))
    span = (account_id, day * MS_PER_DAY, (day + 1) * MS_PER_DAY)
    connection.execute(
        "INSERT INTO usage_buckets (account_id, day, kind, model, key_id, bucket, units, cost) "
        + split_of_rows(connection.price_parts, f"g.account_id, {DAY_KEY}", _OF_ACCOUNT),
        span,
    )
    connection.execute(
        f"INSERT INTO usage_days (account_id, day, kind, model, key_id, {_COLUMNS})"
        f" SELECT g.account_id, g.created_ms / {MS_PER_DAY}, g.kind, g.model, g.key_id, {SUMS_OF_ROWS}"
        " FROM generations g JOIN holds h ON h.id = g.id"
        " WHERE g.account_id = ? AND g.created_ms >= ? AND g.created_ms < ? AND h.state <> 'pending'"
        f" GROUP BY g.account_id, g.created_ms / {MS_PER_DAY}, g.kind, g.model, g.key_id",
        (account_id, day * MS_PER_DAY, (day + 1) * MS_PER_DAY),
    )
