"""Accounts, users and keys in rows. Plain functions of a connection; the caller holds the transaction."""

from __future__ import annotations

import msgspec

from minitoolai.core.errors import InvalidRequest
from minitoolai.core.models import UNRESTRICTED, Balance, KeyRow, KeyRules
from minitoolai.ledger.types import FIRST_CUSTOMER, FUNDING, REVENUE
from minitoolai.storage.database import Connection, Row

#: Where every process hears of keys that were revoked.
KEYS_CHANNEL = "minitoolai_keys"
_KEY_COLUMNS = "id, account_id, name, secret_hmac, created_ms, revoked_ms, rules, family"


def ensure_system_accounts(connection: Connection, now_ms: int) -> None:
    """Revenue and funding, made once."""
    connection.execute_many(
        "INSERT INTO accounts (id, is_system, created_ms) VALUES (?, 1, ?) ON CONFLICT DO NOTHING",
        [(REVENUE, now_ms), (FUNDING, now_ms)],
    )


def create_account(connection: Connection, email: str, password_hash: str | None, now_ms: int) -> int:
    """The number of the new account. InvalidRequest if the e-mail address has one already."""
    # One after the other, also from several processes: the number is the highest plus one.
    connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", [FUNDING], lock=True)
    if find_account(connection, email) is not None:
        raise InvalidRequest(f"{email} has an account already", param="email", code="email_taken")
    highest = connection.execute("SELECT max(id) FROM accounts")[0][0] or 0
    account_id: int = max(highest + 1, FIRST_CUSTOMER)
    connection.execute("INSERT INTO accounts (id, created_ms) VALUES (?, ?)", (account_id, now_ms))
    connection.execute(
        "INSERT INTO users (email, account_id, password_hash, created_ms) VALUES (?, ?, ?, ?)",
        (email, account_id, password_hash, now_ms),
    )
    return account_id


def find_account(connection: Connection, email: str) -> int | None:
    """The account behind an e-mail address."""
    rows = connection.execute("SELECT account_id FROM users WHERE email = ?", (email,))
    return rows[0][0] if rows else None


def insert_key(connection: Connection, key: KeyRow) -> None:
    """A new key; its id must be new."""
    connection.execute(
        f"INSERT INTO api_keys ({_KEY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (key.id, key.account_id, key.name, key.secret_hmac, key.created_ms, key.revoked_ms)
        + (_written(key.rules), key.family),
    )


def find_key(connection: Connection, key_id: str) -> KeyRow | None:
    """The key with this public id, revoked or not."""
    rows = connection.execute(f"SELECT {_KEY_COLUMNS} FROM api_keys WHERE id = ?", (key_id,))
    return _key(rows[0]) if rows else None


def keys_of(connection: Connection, account_id: int, *, for_pages: bool = False) -> list[KeyRow]:
    """Every key that the account's people made, oldest first; or those that the portal's pages made for themselves."""
    rows = connection.execute(
        f"SELECT {_KEY_COLUMNS} FROM api_keys WHERE account_id = ? ORDER BY created_ms, id", (account_id,)
    )
    return [key for key in map(_key, rows) if key.rules.for_pages is for_pages]


def _key(row: Row) -> KeyRow:
    rules = UNRESTRICTED if row[6] is None else msgspec.json.decode(row[6], type=KeyRules)
    key_id, account_id, name, secret_hmac, created_ms, revoked_ms = row[:6]
    return KeyRow(key_id, account_id, name, secret_hmac, created_ms, revoked_ms, rules, row[7])


def _written(rules: KeyRules) -> str | None:
    return None if rules == UNRESTRICTED else msgspec.json.encode(rules).decode()


def change_key(connection: Connection, key_id: str, name: str, rules: KeyRules) -> None:
    """From now on the key is called so and may do this."""
    connection.execute("UPDATE api_keys SET name = ?, rules = ? WHERE id = ?", (name, _written(rules), key_id))
    connection.notify(KEYS_CHANNEL, key_id)


def revoke_key(connection: Connection, key_id: str, now_ms: int) -> bool:
    """False where there is no such key, or it was revoked before."""
    changed = connection.execute_many(
        "UPDATE api_keys SET revoked_ms = ? WHERE id = ? AND revoked_ms IS NULL", [(now_ms, key_id)]
    )
    connection.notify(KEYS_CHANNEL, key_id)
    return changed == 1


def note_uses(connection: Connection, uses: dict[str, int]) -> None:
    """When keys were last used; a later moment than the one known counts."""
    connection.execute_many(
        "INSERT INTO key_uses (key_id, last_used_ms) VALUES (?, ?)"
        " ON CONFLICT (key_id) DO UPDATE SET last_used_ms = excluded.last_used_ms"
        " WHERE excluded.last_used_ms > key_uses.last_used_ms",
        list(uses.items()),
    )


def uses_of(connection: Connection, account_id: int) -> dict[str, int]:
    """Key → when it was last used, for the keys of an account that were used at all."""
    return dict(
        connection.execute(
            "SELECT u.key_id, u.last_used_ms FROM key_uses u JOIN api_keys k ON k.id = u.key_id WHERE k.account_id = ?",
            (account_id,),
        )
    )


def balance_of(connection: Connection, account_id: int) -> Balance:
    """What an account has and what of it is held."""
    rows = connection.execute("SELECT posted, held FROM accounts WHERE id = ?", (account_id,))
    return Balance(*rows[0]) if rows else Balance(0, 0)
