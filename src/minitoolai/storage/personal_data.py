"""Read everything stored about one customer (GDPR), page by page, so that no snapshot stays open for long.

Long tables are read by keyset pagination over the index by account and time. Rows that change meanwhile are exported
as they are when their page is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from minitoolai.storage.database import Connection, Row

#: Rows of one page.
PAGE_ROWS = 500
#: Runs `function(connection)` on a connection that is free again afterwards.
Read = Callable[[Callable[[Connection], list[Row]]], list[Row]]
Record = dict[str, Any]

#: Tables with few rows for each customer → condition that selects them; the placeholder is the account ID.
_SHORT = {
    "accounts": "id = ?",
    "users": "account_id = ?",
    "api_keys": "account_id = ?",
    "payments": "account_id = ?",
    "vouchers": "account_id = ?",
    "sessions": "account_id = ?",
    "second_factors": "account_id = ?",
    "email_changes": "account_id = ?",
}
#: All tables with rows of customers, in the order of the export.
OWNED = (
    "accounts", "users", "sessions", "second_factors", "email_changes", "api_keys", "generations", "holds",
    "transfers", "payments", "vouchers", "outbox",
)  # fmt: skip
#: Secrets and their hashes are not exported.
_SECRET = ("password_hash", "secret_hmac", "code_hmac", "secret_hash", "secret", "new_hash", "old_hash")


def read_personal_data(read: Read, account_id: int) -> Iterator[tuple[str, Iterator[Record]]]:
    """Yield each table with its rows. Generations and holds come oldest first, transfers that are not usage first."""
    for table in OWNED:
        columns = _columns(table)
        yield table, (dict(zip(columns, row, strict=True)) for row in _rows(read, table, columns, account_id))


def _columns(table: str) -> list[str]:
    # Imported late: SQLAlchemy takes 0.2 s and `serve` does not need it.
    from minitoolai.storage.schema import metadata

    return [str(c.name) for c in metadata.tables[table].columns if c.name not in _SECRET]


def _rows(read: Read, table: str, columns: list[str], account_id: int) -> Iterator[Row]:
    if table == "generations":
        yield from _by_time(read, [f"x.{name}" for name in columns], "JOIN generations x ON x.id = p.id", account_id)
    elif table == "holds":
        yield from _by_time(read, [f"x.{name}" for name in columns], "JOIN holds x ON x.id = p.id", account_id)
    elif table == "transfers":
        yield from _other_transfers(read, columns, account_id)
        usage = "LEFT JOIN transfers x ON x.hold_id = p.id"
        yield from _by_time(read, [f"x.{name}" for name in columns], usage, account_id)
    elif table == "outbox":
        yield from _by_id(read, columns, account_id)
    else:
        sql = f"SELECT {', '.join(columns)} FROM {table} WHERE {_SHORT[table]} ORDER BY 1"
        yield from read(partial(_execute, sql=sql, values=(account_id,)))


def _by_time(read: Read, columns: list[str], join: str, account_id: int) -> Iterator[Row]:
    """Yield columns of the generations of an account, or of their holds or transfers, oldest generation first."""
    sql = f"SELECT p.at, p.id, {', '.join(columns)} FROM ({_PAGE}) p {join} ORDER BY p.at, p.id"
    after_ms, after_id = -1, -1
    while rows := read(partial(_execute, sql=sql, values=(account_id, after_ms, after_ms, after_id, PAGE_ROWS))):
        # Without a row of its own, a generation only marks the place: many have no transfer.
        yield from (row[2:] for row in rows if row[2] is not None)
        after_ms, after_id = rows[-1][:2]


#: Time and ID of the generations after one of them.
_PAGE = (
    "SELECT created_ms AS at, id FROM generations WHERE account_id = ? AND created_ms >= ?"
    " AND (created_ms > ? OR id > ?) ORDER BY created_ms, id LIMIT ?"
)


def _execute(connection: Connection, sql: str, values: Sequence[object]) -> list[Row]:
    return connection.execute(sql, values)


def _by_id(read: Read, columns: list[str], account_id: int) -> Iterator[Row]:
    sql = f"SELECT {', '.join(columns)} FROM outbox WHERE account_id = ? AND id > ? ORDER BY id LIMIT ?"
    after = 0
    while rows := read(partial(_execute, sql=sql, values=(account_id, after, PAGE_ROWS))):
        yield from rows
        after = rows[-1][0]


def _other_transfers(read: Read, columns: list[str], account_id: int) -> Iterator[Row]:
    """Yield credits and reversals, by ID. They are few: each was made by a person."""
    found: dict[int, Row] = {}
    for side in ("credit", "debit"):
        sql = f"SELECT {', '.join(columns)} FROM transfers WHERE kind <> 'usage' AND {side} = ?"
        found |= {row[0]: row for row in read(partial(_execute, sql=sql, values=(account_id,)))}
    yield from (found[number] for number in sorted(found))
