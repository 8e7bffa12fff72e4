"""Everything that belongs to one customer: to be handed over, or forgotten. Secrets and hashes of them stay here."""

from __future__ import annotations

from typing import Any

from minitoolai.storage import users
from minitoolai.storage.database import Connection

#: Table → the condition under which a row is the customer's; the mark is the account.
OWNED = {
    "accounts": "id = ?",
    "users": "account_id = ?",
    "api_keys": "account_id = ?",
    "generations": "account_id = ?",
    "holds": "account_id = ?",
    "transfers": "? IN (debit, credit)",
    "payments": "account_id = ?",
    "vouchers": "account_id = ?",
    "outbox": "account_id = ?",
}
_SECRET = ("password_hash", "secret_hmac", "code_hmac", "secret_hash")


def everything_of(connection: Connection, account_id: int) -> dict[str, list[dict[str, Any]]]:
    """Table → rows as column → value, of one moment."""
    # Imported here: SQLAlchemy takes a fifth of a second, and `serve` does without it.
    from minitoolai.storage.schema import metadata

    found: dict[str, list[dict[str, Any]]] = {}
    with connection.snapshot():
        for name, condition in OWNED.items():
            columns = [str(c.name) for c in metadata.tables[name].columns if c.name not in _SECRET]
            rows = connection.execute(
                f"SELECT {', '.join(columns)} FROM {name} WHERE {condition} ORDER BY 1", (account_id,)
            )
            found[name] = [dict(zip(columns, row, strict=True)) for row in rows]
    return found


def asks_of(connection: Connection, account_id: int) -> list[tuple[int, str]]:
    """Number and request of each picture that was asked for."""
    rows = connection.execute(
        "SELECT id, request FROM generations WHERE account_id = ? AND request IS NOT NULL", (account_id,)
    )
    return [(row[0], row[1]) for row in rows]


def forget(connection: Connection, account_id: int, asks: list[tuple[str, int]], now_ms: int) -> None:
    """The person goes: name, password, sessions, keys, addresses, kept answers; pictures are promised to nobody.

    `asks`: requests without their words, and of which job. What was sold, and for how much, stays.
    """
    # First, as on every path: behind its rows it could wait for a charge that waits for them.
    connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", [account_id], lock=True)
    email = connection.execute("SELECT email FROM users WHERE account_id = ?", (account_id,))
    users.use_links(connection, email[0][0] if email else "")
    users.forget_user(connection, account_id, now_ms)
    connection.execute_many("UPDATE generations SET request = ? WHERE id = ?", asks)
    connection.execute(
        "UPDATE generations SET result = NULL, webhook_url = NULL, error = NULL WHERE account_id = ?", (account_id,)
    )
    connection.execute("UPDATE outbox SET url = '' WHERE account_id = ? AND state <> 'pending'", (account_id,))
    connection.execute(
        "DELETE FROM idempotency_keys WHERE hold_id IN (SELECT id FROM holds WHERE account_id = ?)", (account_id,)
    )
