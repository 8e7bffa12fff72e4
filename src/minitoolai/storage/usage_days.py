"""Usage by day: what each account used on each UTC day, by kind, model and key.

A settle adds its generation to the row of the day on which the generation began, in its own transaction, so the table
equals the settled generations at every moment. Generations in progress are counted from the pending holds, which are
few. Reports read the table, so their time does not depend on the number of generations.
"""

from __future__ import annotations

from collections.abc import Sequence

from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.models import UsageCell
from minitoolai.ledger.types import LedgerState, Operation, Recover, Requeue, Settle, Work
from minitoolai.storage.database import Connection, Row, SelectByIds

_WORK = "SELECT id, key_id, model, created_ms FROM generations WHERE id IN (…)"
#: Of the settled generations of a usage row, in the order of its columns. `g` and `h` are generation and hold.
SUMS = (
    "count(*) AS requests, sum(g.input_units) AS input_units, sum(g.output_units) AS output_units,"
    " sum(h.settled) AS cost, sum(coalesce(g.purchase, 0)) AS purchase"
)


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
