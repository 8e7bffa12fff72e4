"""The invariants of the books as queries. Each returns the rows that break it; all nine must return none."""

from __future__ import annotations

from minitoolai.ledger.types import FUNDING, REVENUE
from minitoolai.storage.database import Connection, Row

# The statement of each invariant is what the operator reads when it breaks.
INVARIANTS: dict[str, str] = {
    "posted equals the sum of transfers": """
        SELECT a.id, a.posted, coalesce(t.total, 0) FROM accounts a LEFT JOIN (
            SELECT account_id, sum(amount) AS total FROM (
                SELECT credit AS account_id, amount FROM transfers
                UNION ALL SELECT debit, -amount FROM transfers) AS both_sides GROUP BY account_id
        ) AS t ON t.account_id = a.id
        WHERE a.is_system = 0 AND a.posted <> coalesce(t.total, 0)""",
    "held equals the sum of pending holds": """
        SELECT a.id, a.held, coalesce(h.total, 0) FROM accounts a LEFT JOIN (
            SELECT account_id, sum(amount) AS total FROM holds WHERE state = 'pending' GROUP BY account_id
        ) AS h ON h.account_id = a.id WHERE a.held <> coalesce(h.total, 0)""",
    "no account below zero": """
        SELECT id, posted, held FROM accounts WHERE is_system = 0 AND (posted - held < 0 OR held < 0)""",
    "all accounts sum to zero": f"""
        SELECT customers.total, houses.total FROM
            (SELECT coalesce(sum(posted), 0) AS total FROM accounts WHERE is_system = 0) AS customers,
            (SELECT coalesce(sum(CASE WHEN credit IN ({REVENUE}, {FUNDING}) THEN amount ELSE 0 END
                - CASE WHEN debit IN ({REVENUE}, {FUNDING}) THEN amount ELSE 0 END), 0) AS total
             FROM transfers) AS houses
        WHERE customers.total + houses.total <> 0""",
    "every posted hold has its transfer, and the reverse": """
        SELECT h.id, h.state, h.settled, t.amount FROM holds h LEFT JOIN transfers t ON t.hold_id = h.id
        WHERE (h.state = 'posted') <> (t.hold_id IS NOT NULL)
           OR (t.hold_id IS NOT NULL AND (t.amount <> h.settled OR t.debit <> h.account_id))""",
    "the state of a generation fits its hold": """
        SELECT g.id, g.state, h.state FROM generations g JOIN holds h ON h.id = g.id
        WHERE (h.state = 'pending') <> (g.state IN ('queued', 'running')) OR g.account_id <> h.account_id""",
    "no hold without a generation": """
        SELECT h.id, h.kind, h.state FROM holds h LEFT JOIN generations g ON g.id = h.id WHERE g.id IS NULL""",
    "a budget has counted what its holds promise and took": """
        SELECT s.id, s.used, b.total FROM key_spending s LEFT JOIN
            (SELECT budget_id || '/total' AS id, sum(CASE WHEN state = 'pending' THEN amount ELSE settled END) AS total
             FROM holds WHERE budget_id IS NOT NULL GROUP BY budget_id) AS b ON b.id = s.id
        WHERE s.id LIKE '%/total' AND s.used <> coalesce(b.total, 0)""",
    "cost of usage equals usage transfers and shortfall": """
        SELECT u.total, t.total, s.total FROM
            (SELECT coalesce(sum(cost), 0) AS total FROM generations) AS u,
            (SELECT coalesce(sum(amount), 0) AS total FROM transfers WHERE kind = 'usage') AS t,
            (SELECT coalesce(sum(shortfall), 0) AS total FROM holds) AS s
        WHERE u.total <> t.total + s.total""",
}


def broken_invariants(connection: Connection, rows_each: int = 10) -> dict[str, list[Row]]:
    """Name of the invariant → the first rows that break it, all read from one snapshot. Empty is good."""
    broken = {}
    with connection.snapshot():
        for name, query in INVARIANTS.items():
            rows = connection.execute(f"{query} LIMIT {rows_each}")
            if rows:
                broken[name] = rows
    return broken
