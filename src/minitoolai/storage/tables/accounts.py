"""Rows of accounts and API keys. Plain functions of a connection; the caller owns the transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from minitoolai.core.errors import InvalidRequest
from minitoolai.core.models import UNRESTRICTED, Balance, Budget, KeyRow, KeyRules
from minitoolai.ledger.types import FIRST_CUSTOMER, FUNDING, REVENUE
from minitoolai.storage.database import Connection, Row

#: Publish/subscribe channel on which processes learn which key was changed or revoked.
KEYS_CHANNEL = "minitoolai_keys"
#: Payload on that channel for all keys of an account, before its number. No ID of a key contains a colon.
ACCOUNT_PREFIX = "account:"
_KEY_COLUMNS = "id, account_id, name, secret_hmac, created_ms, revoked_ms, rules, family, member_id"


def ensure_system_accounts(connection: Connection, now_ms: int) -> None:
    """Create the system accounts for revenue and funding, unless they exist."""
    connection.execute_many(
        "INSERT INTO accounts (id, is_system, created_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        [(REVENUE, 1, now_ms), (FUNDING, 1, now_ms)],
    )


def create_account(
    connection: Connection, email: str, password_hash: str | None, now_ms: int, *, other_forms: Sequence[str] = ()
) -> int:
    """Create an account with its user, who owns it, and return its ID.

    Raises InvalidRequest if the e-mail address is taken.

    `other_forms` are other spellings of the same mailbox, which older versions stored.
    """
    lock_numbering(connection)
    if find_account(connection, email, *other_forms) is not None:
        raise InvalidRequest(f"{email} already has an account", param="email", code="email_taken")
    highest = connection.execute("SELECT max(id) FROM accounts")[0][0] or 0
    account_id: int = max(highest + 1, FIRST_CUSTOMER)
    connection.execute("INSERT INTO accounts (id, created_ms) VALUES (?, ?)", (account_id, now_ms))
    connection.execute(
        "INSERT INTO users (email, account_id, password_hash, created_ms) VALUES (?, ?, ?, ?)",
        (email, account_id, password_hash, now_ms),
    )
    connection.execute(
        "INSERT INTO members (account_id, user_id, role, created_ms) VALUES (?, ?, 'owner', ?)",
        (account_id, account_id, now_ms),
    )
    return account_id


def lock_numbering(connection: Connection) -> None:
    """Serialise the creation of accounts across processes, because a new ID is the highest ID plus one."""
    connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", [FUNDING], lock=True)


def find_account(connection: Connection, *forms: str) -> int | None:
    """Return the account of an e-mail address, stored under the first of these spellings that exists."""
    stored = find_email(connection, forms)
    if stored is None:
        return None
    account_id: int = connection.execute("SELECT account_id FROM users WHERE email = ?", (stored,))[0][0]
    return account_id


def find_email(connection: Connection, forms: Sequence[str]) -> str | None:
    """Return the first of these spellings of a mailbox that has an account."""
    found = {row[0] for row in connection.select_by_ids("SELECT email FROM users WHERE email IN (…)", forms)}
    return next((form for form in forms if form in found), None)


def insert_key(connection: Connection, key: KeyRow) -> None:
    """Insert a key. Its ID must not exist yet."""
    connection.execute(
        f"INSERT INTO api_keys ({_KEY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (key.id, key.account_id, key.name, key.secret_hmac, key.created_ms, key.revoked_ms)
        + (_encode_rules(key.rules), key.rotation_group, key.member_id),
    )


def find_key(connection: Connection, key_id: str) -> KeyRow | None:
    """Return the key with this public ID, revoked or not."""
    rows = connection.execute(f"SELECT {_KEY_COLUMNS} FROM api_keys WHERE id = ?", (key_id,))
    return _key(rows[0]) if rows else None


class KeyOwner(NamedTuple):
    """The account of a key, and the member who owns the key, as far as a request needs them."""

    #: Why it is suspended: None if it is not, "" without a reason.
    suspended_reason: str | None
    price_group: str | None
    team_budget: Budget | None = None
    #: Days for which its requests and responses are stored. 0: they are not.
    body_days: int = 0


def find_key_and_owner(connection: Connection, key_id: str) -> tuple[KeyRow, KeyOwner] | None:
    """Return the key with this public ID, and its account."""
    columns = ", ".join(f"k.{name}" for name in _KEY_COLUMNS.split(", "))
    rows = connection.execute(
        f"SELECT {columns}, CASE WHEN u.suspended_ms IS NOT NULL THEN coalesce(u.suspended_reason, '') END,"
        " u.price_group, coalesce(s.days, 0), b.id, b.daily, b.monthly, b.total"
        " FROM api_keys k LEFT JOIN users u ON u.account_id = k.account_id"
        " LEFT JOIN members m ON m.account_id = k.account_id AND m.user_id = k.member_id"
        " LEFT JOIN team_budgets b ON b.id = m.budget_id"
        " LEFT JOIN body_settings s ON s.account_id = k.account_id WHERE k.id = ?",
        (key_id,),
    )
    if not rows:
        return None
    *key, suspended_reason, price_group, body_days, budget_id, daily, monthly, total = rows[0]
    budget = None if budget_id is None else Budget(budget_id, daily, monthly, total)
    return _key(tuple(key)), KeyOwner(suspended_reason, price_group, budget, body_days)


def keys_of(connection: Connection, account_id: int, *, for_pages: bool = False) -> list[KeyRow]:
    """Return the keys of an account, oldest first: the customer's own or those of portal pages."""
    rows = connection.execute(
        f"SELECT {_KEY_COLUMNS} FROM api_keys WHERE account_id = ? ORDER BY created_ms, id", (account_id,)
    )
    return [key for key in map(_key, rows) if key.rules.for_pages is for_pages]


def _key(row: Row) -> KeyRow:
    rules = UNRESTRICTED if row[6] is None else msgspec.json.decode(row[6], type=KeyRules)
    key_id, account_id, name, secret_hmac, created_ms, revoked_ms = row[:6]
    return KeyRow(key_id, account_id, name, secret_hmac, created_ms, revoked_ms, rules, row[7], row[8])


def _encode_rules(rules: KeyRules) -> str | None:
    return None if rules == UNRESTRICTED else msgspec.json.encode(rules).decode()


def update_key(connection: Connection, key_id: str, name: str, rules: KeyRules) -> None:
    """Change the name and rules of a key, and notify the other processes."""
    connection.execute("UPDATE api_keys SET name = ?, rules = ? WHERE id = ?", (name, _encode_rules(rules), key_id))
    connection.notify(KEYS_CHANNEL, key_id)


def revoke_key(connection: Connection, key_id: str, now_ms: int) -> bool:
    """Revoke a key and return True, or False if there is no such key or it was already revoked."""
    changed = connection.execute_many(
        "UPDATE api_keys SET revoked_ms = ? WHERE id = ? AND revoked_ms IS NULL", [(now_ms, key_id)]
    )
    connection.notify(KEYS_CHANNEL, key_id)
    return changed == 1


def barred_holds(connection: Connection, hold_ids: Sequence[int]) -> dict[int, bool]:
    """Return those of these holds that belong to revoked keys (False) or to suspended accounts (True)."""
    rows = connection.select_by_ids(
        "SELECT h.id, u.suspended_ms FROM holds h LEFT JOIN api_keys k ON k.id = h.key_id"
        " LEFT JOIN users u ON u.account_id = h.account_id"
        " WHERE (k.revoked_ms IS NOT NULL OR u.suspended_ms IS NOT NULL) AND h.id IN (…)",
        hold_ids,
    )
    return {row[0]: row[1] is not None for row in rows}


def unfinished_jobs_of(connection: Connection, account_id: int) -> list[tuple[int, int]]:
    """Return the queued jobs of an account, and its images in progress, each with its hold."""
    found: list[Row] = []
    for condition in ("g.state = 'queued'", "g.kind = 'image' AND g.state = 'running'"):
        found += connection.execute(
            "SELECT g.id, h.amount FROM generations g JOIN holds h ON h.id = g.id"
            f" WHERE {condition} AND g.account_id = ?",
            (account_id,),
        )
    return [(row[0], row[1]) for row in found]


def set_suspended(connection: Connection, account_id: int, since_ms: int | None, reason: str | None) -> bool:
    """Suspend an account, or end its suspension (None), and notify the other processes. False if it already is so."""
    # The account first, as every writer does.
    connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", [account_id], lock=True)
    state = "IS NULL" if since_ms is not None else "IS NOT NULL"
    changed = connection.execute_many(
        "UPDATE users SET suspended_ms = ?, suspended_reason = ?"
        f" WHERE account_id = ? AND deleted_ms IS NULL AND suspended_ms {state}",
        [(since_ms, reason, account_id)],
    )
    connection.notify(KEYS_CHANNEL, f"{ACCOUNT_PREFIX}{account_id}")
    return changed == 1


def set_price_group(connection: Connection, account_id: int, group: str | None) -> bool:
    """Put an account into a price group, or into none, and notify the other processes. False if it is so already."""
    connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", [account_id], lock=True)
    changed = connection.execute_many(
        "UPDATE users SET price_group = ? WHERE account_id = ? AND coalesce(price_group, '') <> ?",
        [(group, account_id, group or "")],
    )
    connection.notify(KEYS_CHANNEL, f"{ACCOUNT_PREFIX}{account_id}")
    return changed == 1


def price_group_of(connection: Connection, account_id: int) -> str | None:
    """Return the price group of an account."""
    rows = connection.execute("SELECT price_group FROM users WHERE account_id = ?", (account_id,))
    return rows[0][0] if rows else None


def accounts_by_group(connection: Connection) -> dict[str, int]:
    """Return the number of accounts in each price group."""
    return dict(
        connection.execute(
            "SELECT price_group, count(*) FROM users WHERE price_group IS NOT NULL AND deleted_ms IS NULL"
            " GROUP BY price_group"
        )
    )


def record_last_used(connection: Connection, uses: dict[str, int]) -> None:
    """Record when keys were last used. An earlier time never replaces a later one."""
    connection.execute_many(
        "INSERT INTO key_uses (key_id, last_used_ms) VALUES (?, ?)"
        " ON CONFLICT (key_id) DO UPDATE SET last_used_ms = excluded.last_used_ms"
        " WHERE excluded.last_used_ms > key_uses.last_used_ms",
        list(uses.items()),
    )


def last_used_by_key(connection: Connection, account_id: int) -> dict[str, int]:
    """Return key ID → time of last use, for the keys of an account that were ever used."""
    return dict(
        connection.execute(
            "SELECT u.key_id, u.last_used_ms FROM key_uses u JOIN api_keys k ON k.id = u.key_id WHERE k.account_id = ?",
            (account_id,),
        )
    )


def balance_of(connection: Connection, account_id: int) -> Balance:
    """Return the posted and held amounts of an account."""
    rows = connection.execute("SELECT posted, held FROM accounts WHERE id = ?", (account_id,))
    return Balance(*rows[0]) if rows else Balance(0, 0)


# ── the secret under which keys are hashed ────────────────────────────────────────────────────────────────

_SECRET_ROW = "secret"  # noqa: S105 - the name of the row


def find_secret_mark(connection: Connection) -> str | None:
    """Return the mark of the secret that this database was used with, or None if it was never recorded."""
    rows = connection.execute("SELECT value FROM installation WHERE name = ?", (_SECRET_ROW,))
    return rows[0][0] if rows else None


def record_secret_mark(connection: Connection, mark: str, *, instead_of: str | None) -> None:
    """Record the mark of the present secret, unless another process has recorded one since it was read."""
    if instead_of is None:
        connection.execute(
            "INSERT INTO installation (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING", (_SECRET_ROW, mark)
        )
    else:
        connection.execute(
            "UPDATE installation SET value = ? WHERE name = ? AND value = ?", (mark, _SECRET_ROW, instead_of)
        )
