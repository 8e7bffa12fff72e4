"""Refunds of charges: rows for the ledger, sums for reports, and their audit.

A refund is a transfer of kind `usage_refund` from revenue to the customer, and a row here that names its generation.
Reports count it on the day on which the generation began. Both stay in the database when the generation is archived.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.models import Kind, UsageCell
from minitoolai.ledger.types import REVENUE, LedgerState, Operation, Refund, RefundState
from minitoolai.storage.database import Connection, Row

#: As shown to the operator if it is violated.
REFUNDS = "every refund has its transfer and its charge, and they never exceed it"

# ── for the ledger ────────────────────────────────────────────────────────────────────────────────────────


def load(connection: Connection, operations: Sequence[Operation], state: LedgerState) -> None:
    """Load the refunds of the holds that these operations refund. A batch without refunds costs no query."""
    ids = [operation.hold_id for operation in operations if isinstance(operation, Refund)]
    if ids:
        rows = connection.select_by_ids(
            "SELECT generation_id, count(*), sum(amount) FROM refunds WHERE generation_id IN (…)"
            " GROUP BY generation_id",
            ids,
        )
        state.refunds = {row[0]: RefundState(row[1], int(row[2])) for row in rows}


def save(connection: Connection, state: LedgerState) -> None:
    """Write the new refunds, with what reports need of their generations."""
    if state.new_refunds:
        connection.queue_write(
            "INSERT INTO refunds (generation_id, number, account_id, external_ref, amount, total, cost, kind, model,"
            " key_id, began_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_row(state, number) for number in range(len(state.new_refunds))],
        )


def _row(state: LedgerState, number: int) -> Row:
    new = state.new_refunds[number]
    key_id, model, began_ms = state.work_of(new.hold_id)
    kind = state.holds[new.hold_id].kind
    amounts = (new.amount, new.total, new.cost)
    return (new.hold_id, new.number, new.account_id, new.external_ref, *amounts, kind, model, key_id, began_ms)


# ── reports ───────────────────────────────────────────────────────────────────────────────────────────────


class Charge(NamedTuple):
    """A generation as far as a refund needs it: its charge, and the refunds so far."""

    account_id: int
    email: str
    kind: Kind
    model: str
    created_ms: int
    is_pending: bool
    cost: int
    refunded: int

    @property
    def left(self) -> int:
        """Return what can still be given back."""
        return self.cost - self.refunded


def find_charge(connection: Connection, generation_id: int) -> Charge | None:
    """Return the charge of a generation that is not archived, or None."""
    rows = connection.execute(
        "SELECT g.account_id, u.email, g.kind, g.model, g.created_ms, h.state, h.settled FROM generations g"
        " JOIN holds h ON h.id = g.id JOIN users u ON u.account_id = g.account_id WHERE g.id = ?",
        (generation_id,),
    )
    if not rows:
        return None
    *head, state, cost = rows[0]
    return Charge(*(*head, state == "pending", cost, refunded(connection, generation_id)))


def refunded(connection: Connection, generation_id: int) -> int:
    """Return the sum of all refunds of a generation, archived or not."""
    rows = connection.execute("SELECT coalesce(sum(amount), 0) FROM refunds WHERE generation_id = ?", (generation_id,))
    return int(rows[0][0])


def refunded_each(connection: Connection, generation_ids: Sequence[int]) -> dict[int, int]:
    """Return the sum of the refunds of those of these generations that have any."""
    rows = connection.select_by_ids(
        "SELECT generation_id, sum(amount) FROM refunds WHERE generation_id IN (…) GROUP BY generation_id",
        generation_ids,
    )
    return {row[0]: int(row[1]) for row in rows}


def refund_cells(connection: Connection, account_id: int, from_ms: int, until_ms: int) -> list[UsageCell]:
    """Return the refunds of an account's generations that began in this time, by day, kind, model and key."""
    rows = connection.execute(
        f"SELECT began_ms / {MS_PER_DAY}, kind, model, key_id, sum(amount) FROM refunds"
        " WHERE account_id = ? AND began_ms >= ? AND began_ms < ?"
        f" GROUP BY began_ms / {MS_PER_DAY}, kind, model, key_id",
        (account_id, from_ms, until_ms),
    )
    return [UsageCell(row[0], row[1], row[2], row[3], 0, 0, 0, 0, refunded=int(row[4])) for row in rows]


def refunds_by_day(connection: Connection, from_day: int) -> dict[tuple[int, str], int]:
    """Return the refunds of all accounts by day and kind of their generations, since a day."""
    rows = connection.execute(
        f"SELECT began_ms / {MS_PER_DAY}, kind, sum(amount) FROM refunds WHERE began_ms >= ?"
        f" GROUP BY began_ms / {MS_PER_DAY}, kind",
        (from_day * MS_PER_DAY,),
    )
    return {(row[0], row[1]): int(row[2]) for row in rows}


def refunds_by_engine(connection: Connection, from_ms: int) -> dict[tuple[str, str], int]:
    """Return the refunds of generations that began since then and are not archived, by model and engine."""
    # Two queries: joined, PostgreSQL would read all generations.
    given: dict[int, int] = {}
    for number, amount in connection.execute(
        "SELECT generation_id, amount FROM refunds WHERE began_ms >= ?", (from_ms,)
    ):
        given[number] = given.get(number, 0) + amount
    sums: dict[tuple[str, str], int] = {}
    for number, model, engine in connection.select_by_ids(
        "SELECT id, model, engine FROM generations WHERE id IN (…)", list(given)
    ):
        sums[model, engine] = sums.get((model, engine), 0) + given[number]
    return sums


def charges_of_day(connection: Connection, day: int) -> dict[int, tuple[int, int]]:
    """Return generation → account and charge, as the refunds say, of the refunded generations of a day."""
    rows = connection.execute(
        "SELECT generation_id, account_id, cost FROM refunds WHERE began_ms >= ? AND began_ms < ?",
        (day * MS_PER_DAY, (day + 1) * MS_PER_DAY),
    )
    return {row[0]: (row[1], row[2]) for row in rows}


# ── audit ─────────────────────────────────────────────────────────────────────────────────────────────────

_TRANSFERS = f"""
    SELECT r.generation_id, r.number, r.external_ref, r.amount, t.amount FROM refunds r
        LEFT JOIN transfers t ON t.external_ref = r.external_ref AND t.external_ref IS NOT NULL
        WHERE (t.id IS NULL OR t.kind <> 'usage_refund' OR t.amount <> r.amount OR t.credit <> r.account_id
            OR t.debit <> {REVENUE})"""
_CHARGES = """
    SELECT r.generation_id, r.number, r.external_ref, r.cost, h.settled FROM refunds r
        JOIN holds h ON h.id = r.generation_id WHERE (h.settled <> r.cost OR h.account_id <> r.account_id)"""
_SUMS = "SELECT r.generation_id, count(*), NULL, max(r.total), sum(r.amount) FROM refunds r"
_WRONG_SUMS = """
        GROUP BY r.generation_id
        HAVING sum(r.amount) <> max(r.total) OR sum(r.amount) > min(r.cost) OR min(r.cost) <> max(r.cost)
            OR count(*) <> max(r.number) OR min(r.number) <> 1 OR min(r.account_id) <> max(r.account_id)"""
#: Returns the refunds that violate the invariant.
WRONG_REFUNDS = f"""{_TRANSFERS}
    UNION ALL SELECT NULL, NULL, t.external_ref, NULL, t.amount FROM transfers t
        LEFT JOIN refunds r ON r.external_ref = t.external_ref
        WHERE t.kind <> 'usage' AND t.kind = 'usage_refund' AND r.generation_id IS NULL
    UNION ALL {_CHARGES}
    UNION ALL {_SUMS}{_WRONG_SUMS}"""


def wrong_refunds(connection: Connection, limit: int) -> list[Row]:
    """Return refunds without their transfer or charge, transfers without a refund, and refunds beyond the charge."""
    return connection.execute(f"{WRONG_REFUNDS} LIMIT {limit}")


def wrong_refunds_since(connection: Connection, since_ms: int) -> list[Row]:
    """Return the same of the generations that were refunded since then: the cost does not grow with the history."""
    transfers = connection.execute(
        "SELECT external_ref, amount FROM transfers"
        " WHERE kind <> 'usage' AND kind = 'usage_refund' AND created_ms >= ?",
        (since_ms,),
    )
    refunds: dict[str, int] = dict(
        connection.select_by_ids(
            "SELECT external_ref, generation_id FROM refunds WHERE external_ref IN (…)", [ref for ref, _ in transfers]
        )
    )
    wrong: list[Row] = [(None, None, ref, None, amount) for ref, amount in transfers if ref not in refunds]
    among = "r.generation_id IN (…)"
    for query in (f"{_TRANSFERS} AND {among}", f"{_CHARGES} AND {among}", f"{_SUMS} WHERE {among}{_WRONG_SUMS}"):
        wrong += connection.select_by_ids(query, list(set(refunds.values())))
    return wrong
