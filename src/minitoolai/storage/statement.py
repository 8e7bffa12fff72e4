"""The statement of an account: every transfer, newest first, each with its generation.

Usage transfers have no index by account: it would be a page more in every commit. They are found by their generations,
which have one, and since an account's movements are numbered without gaps, it shows when some are still missing.
"""

from __future__ import annotations

from minitoolai.core.models import StatementRow
from minitoolai.storage.database import Connection

#: Generations are read in the order in which they began, transfers are numbered in the order in which work ended.
SLACK = 64


def statement_page(
    connection: Connection, account_id: int, *, below: int | None, before_ms: int, rows: int
) -> list[StatementRow]:
    """At most `rows` movements with numbers under `below` (None: the newest), newest first.

    `before_ms`: a moment not before the end of any of them; a wrong one costs time and completeness, nothing else.
    """
    newest = connection.execute("SELECT version FROM accounts WHERE id = ?", (account_id,))
    above = (newest[0][0] if newest else 0) + 1
    below = above if below is None else min(below, above)
    lowest = max(below - rows, 1)
    found = _others(connection, account_id, lowest, below)
    limit = rows + SLACK
    while len(found) < below - lowest:
        read = _usage(connection, account_id, before_ms, limit)
        found |= {row.version: row for row in read if lowest <= row.version < below}
        if len(read) < limit:
            break
        limit *= 4
    return [found[version] for version in sorted(found, reverse=True)]


def _others(connection: Connection, account_id: int, lowest: int, below: int) -> dict[int, StatementRow]:
    found = {}
    for side, sign in (("credit", 1), ("debit", -1)):
        for row in connection.execute(
            f"SELECT account_version, created_ms, kind, amount, balance_after, reason FROM transfers"
            f" WHERE kind <> 'usage' AND {side} = ? AND account_version >= ? AND account_version < ?",
            (account_id, lowest, below),
        ):
            found[row[0]] = StatementRow(row[0], row[1], row[2], sign * row[3], row[4], row[5])
    return found


def _usage(connection: Connection, account_id: int, before_ms: int, limit: int) -> list[StatementRow]:
    """The last `limit` generations that began before a moment, those that cost something."""
    rows = connection.execute(
        "SELECT t.account_version, t.created_ms, t.amount, t.balance_after, g.id, g.kind, g.model, g.key_id,"
        " g.input_units, g.output_units, g.estimated FROM"
        " (SELECT * FROM generations WHERE account_id = ? AND created_ms <= ? ORDER BY created_ms DESC LIMIT ?) g"
        " LEFT JOIN transfers t ON t.hold_id = g.id",
        (account_id, before_ms, limit),
    )
    return [
        StatementRow(
            version=row[0] or 0,
            at_ms=row[1] or 0,
            kind="usage",
            amount=-(row[2] or 0),
            balance_after=row[3] or 0,
            generation_id=row[4],
            work=row[5],
            model=row[6],
            key_id=row[7],
            input_units=row[8],
            output_units=row[9],
            estimated=bool(row[10]),
        )
        for row in rows
    ]


def whole_statement(connection: Connection, account_id: int) -> list[StatementRow]:
    """Every movement, newest first: for a file to download."""
    return statement_page(connection, account_id, below=None, before_ms=2**62, rows=2**40)
