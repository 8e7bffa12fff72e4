"""Read everything stored about one customer (GDPR), page by page, so that no snapshot stays open for long.

Long tables are read by keyset pagination over the index by account and time. Rows that change meanwhile are exported
as they are when their page is read. Archived days are read from their files, also those archived meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from minitoolai.core.clock import MS_PER_DAY
from minitoolai.storage.archive import rows as archive
from minitoolai.storage.archive.files import ArchivedRow, Part
from minitoolai.storage.database import Connection, Row

#: Rows of one page.
PAGE_ROWS = 500
#: Runs `function(connection)` on a connection that is free again afterwards.
Read = Callable[[Callable[[Connection], Any]], Any]
#: Returns a file of the object store.
ReadFile = Callable[[str], bytes]
Record = dict[str, Any]
#: Decrypts a column of a table: `decrypt(table, account_id, id, column, ciphertext)`. None if its key is lost.
Decrypt = Callable[[str, int, int, str, bytes], Any]

#: Tables with few rows for each customer → condition that selects them; the placeholder is the account ID.
_SHORT = {
    "accounts": "id = ?",
    "users": "account_id = ?",
    "api_keys": "account_id = ?",
    "payments": "account_id = ?",
    "vouchers": "account_id = ?",
    "refunds": "account_id = ?",
    "sessions": "account_id = ?",
    "second_factors": "account_id = ?",
    "email_changes": "account_id = ?",
    "buyers": "account_id = ?",
    "subscriptions": "account_id = ?",
    "invoices": "account_id = ?",
    "auto_topups": "account_id = ?",
    "notice_settings": "account_id = ?",
    "notices": "account_id = ?",
    "purses": "owner_id = ?",
    "coupon_uses": "account_id = ?",
    "invitations": "account_id = ?",
    "team_budgets": "account_id = ?",
    "member_actions": "account_id = ?",
    "identities": "user_id = ?",
    "passkeys": "user_id = ?",
    "passkey_challenges": "user_id = ?",
    "factor_resets": "user_id = ?",
    "body_settings": "account_id = ?",
    "log_exports": "account_id = ?",
    "saved_prompts": "user_id = ?",
    # Of the account, and of its user in other accounts.
    "members": "account_id = ? OR user_id = ?",
}
#: All tables with rows of customers, in the order of the export.
OWNED = (
    "accounts", "users", "sessions", "second_factors", "email_changes", "api_keys", "generations", "holds",
    "transfers", "refunds", "payments", "vouchers", "outbox", "responses",
    "buyers", "invoices", "subscriptions", "auto_topups", "notice_settings", "notices", "purses", "coupon_uses",
    "members", "invitations", "team_budgets", "member_actions", "identities", "saved_prompts",
    "passkeys", "passkey_challenges", "factor_resets", "body_settings", "request_bodies",
    "log_exports",
)  # fmt: skip
#: Secrets and their hashes are not exported.
_SECRET = (
    "password_hash", "secret_hmac", "code_hmac", "secret_hash", "secret", "new_hash", "old_hash", "challenge",
    "browser_hash", "wrapped_key",
)  # fmt: skip
#: What concerns the operator alone: the supplier of a generation, its names and prices.
_OF_THE_OPERATOR = ("engine", "served_model", "purchase", "attempts", "worker")


def read_personal_data(
    read: Read, read_file: ReadFile, account_id: int, decrypt: Decrypt
) -> Iterator[tuple[str, Iterator[Record]]]:
    """Yield each table with its rows. Generations and holds come oldest first, transfers that are not usage first."""
    for table in OWNED:
        columns = _columns(table)
        rows = _rows(read, read_file, table, columns, account_id)
        records = (dict(zip(columns, row, strict=True)) for row in rows)
        is_encrypted = table in ("responses", "request_bodies")
        yield table, map(partial(_decrypted, table, decrypt), records) if is_encrypted else records


def _decrypted(table: str, decrypt: Decrypt, record: Record) -> Record:
    """Return the record of a response or of a stored body with its contents."""
    account_id, number = record["account_id"], record["id"]
    parts = {name: record[name] for name in ("request", "response")}
    return record | {
        name: None if sealed is None else decrypt(table, account_id, number, name, sealed)
        for name, sealed in parts.items()
    }


def _columns(table: str) -> list[str]:
    # Imported late: SQLAlchemy takes 0.2 s and `serve` does not need it.
    from minitoolai.storage.schema import metadata

    return [str(c.name) for c in metadata.tables[table].columns if c.name not in (*_SECRET, *_OF_THE_OPERATOR)]


def _rows(read: Read, read_file: ReadFile, table: str, columns: list[str], account_id: int) -> Iterator[Row]:
    if table in _BY_TIME:
        if table == "transfers":
            yield from _other_transfers(read, columns, account_id)
        yield from _by_time(read, read_file, table, columns, account_id)
    elif table in _PAGES:
        yield from _by_id(read, table, columns, account_id)
    else:
        sql = f"SELECT {', '.join(columns)} FROM {table} WHERE {_SHORT[table]} ORDER BY 1"
        yield from read(partial(_execute, sql=sql, values=(account_id,) * sql.count("?")))


#: Tables with a row for each generation → how it is found.
_BY_TIME = {
    "generations": "JOIN generations x ON x.id = p.id",
    "holds": "JOIN holds x ON x.id = p.id",
    "transfers": "LEFT JOIN transfers x ON x.hold_id = p.id",
}


def _by_time(read: Read, read_file: ReadFile, table: str, columns: list[str], account_id: int) -> Iterator[Row]:
    """Yield columns of the generations of an account, or of their holds or transfers, oldest generation first."""
    listed = ", ".join(f"x.{name}" for name in columns)
    sql = f"SELECT p.at, p.id, {listed} FROM ({_PLACES}) p {_BY_TIME[table]} ORDER BY p.at, p.id"
    place = (-1, -1)
    while True:
        values = (account_id, place[0], place[0], place[1], PAGE_ROWS)
        rows, until_ms = read(partial(_page, sql=sql, values=values))
        if place[0] < until_ms - 1:
            for archived in _archived(read, read_file, account_id, place, until_ms):
                record = _record(archived, table)
                if record is not None:
                    yield tuple(record.get(name) for name in columns)
            place = (until_ms - 1, 2**63 - 1)
            continue
        if not rows:
            return
        # Without a row of its own, a generation only marks the place: many have no transfer.
        yield from (row[2:] for row in rows if row[2] is not None)
        place = rows[-1][:2]


def _page(connection: Connection, sql: str, values: Sequence[object]) -> tuple[list[Row], int]:
    """Return a page, and the time before which all is archived. The time is read last, so that no row is missed."""
    return _execute(connection, sql, values), archive.archived_until_ms(connection)


def _archived(
    read: Read, read_file: ReadFile, account_id: int, place: tuple[int, int], until_ms: int
) -> Iterator[ArchivedRow]:
    """Yield the archived rows of an account after a time and ID, up to a time."""
    key = (max(place[0], 0) // MS_PER_DAY, 0)
    while parts := read(partial(_parts, account_id=account_id, after=key)):
        for part in parts:
            if place[0] <= part.last_ms and part.first_ms < until_ms:
                rows = Part(part.path, read_file(part.path), part.sha256).rows(account_id)
                yield from (row for row in rows if place < row.place and row.place[0] < until_ms)
        key = parts[-1].day, parts[-1].part


def _parts(connection: Connection, account_id: int, after: tuple[int, int]) -> list[archive.AccountPart]:
    return archive.parts_after(connection, account_id, after, PAGE_ROWS)


def _record(row: ArchivedRow, table: str) -> Record | None:
    return {"generations": row.generation, "holds": row.hold, "transfers": row.transfer}[table]


#: Time and ID of the generations after one of them.
_PLACES = (
    "SELECT created_ms AS at, id FROM generations WHERE account_id = ? AND created_ms >= ?"
    " AND (created_ms > ? OR id > ?) ORDER BY created_ms, id LIMIT ?"
)


def _execute(connection: Connection, sql: str, values: Sequence[object]) -> list[Row]:
    return connection.execute(sql, values)


#: Tables that are read by ID → rows of one page. A response may have many megabytes.
_PAGES = {"outbox": PAGE_ROWS, "responses": 10, "request_bodies": 100}


def _by_id(read: Read, table: str, columns: list[str], account_id: int) -> Iterator[Row]:
    sql = f"SELECT {', '.join(columns)} FROM {table} WHERE account_id = ? AND id > ? ORDER BY id LIMIT ?"
    after = 0
    while rows := read(partial(_execute, sql=sql, values=(account_id, after, _PAGES[table]))):
        yield from rows
        after = rows[-1][0]


def _other_transfers(read: Read, columns: list[str], account_id: int) -> Iterator[Row]:
    """Yield credits and reversals, by ID. They are few: each was made by a person."""
    found: dict[int, Row] = {}
    for side in ("credit", "debit"):
        sql = f"SELECT {', '.join(columns)} FROM transfers WHERE kind <> 'usage' AND {side} = ?"
        found |= {row[0]: row for row in read(partial(_execute, sql=sql, values=(account_id,)))}
    yield from (found[number] for number in sorted(found))
