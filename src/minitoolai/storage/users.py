"""People in rows: who signs in, their sessions, and links sent by mail. Secrets are here only as hashes."""

from __future__ import annotations

from typing import Any

from minitoolai.core.errors import NotFound
from minitoolai.core.models import MailLink, User
from minitoolai.storage import accounts
from minitoolai.storage.database import Connection, Row

_USER = "u.account_id, u.email, u.is_admin, u.language, u.created_ms, a.posted, a.held"
_LINK = "purpose, email, password_hash, browser_hash, expires_ms"


def _user(row: Row) -> User:
    return User(row[0], row[1], bool(row[2]), *row[3:])


def find_user(connection: Connection, email: str) -> tuple[User, str | None] | None:
    """The user of this address and the hash of the password, where there is one."""
    rows = connection.execute(
        f"SELECT {_USER}, u.password_hash FROM users u JOIN accounts a ON a.id = u.account_id"
        " WHERE u.email = ? AND u.deleted_ms IS NULL",
        (email,),
    )
    return (_user(rows[0][:-1]), rows[0][-1]) if rows else None


def password_hash_of(connection: Connection, account_id: int) -> str | None:
    """The hash of the password, where there is one."""
    rows = connection.execute("SELECT password_hash FROM users WHERE account_id = ?", (account_id,))
    return rows[0][0] if rows else None


def set_password(connection: Connection, account_id: int, password_hash: str) -> None:
    """A new password; the old one is forgotten."""
    connection.execute("UPDATE users SET password_hash = ? WHERE account_id = ?", (password_hash, account_id))


def set_language(connection: Connection, account_id: int, language: str) -> None:
    """The language of mail to this user."""
    connection.execute("UPDATE users SET language = ? WHERE account_id = ?", (language, account_id))


def set_admin(connection: Connection, account_id: int, is_admin: bool) -> None:
    """Whether this user may see the admin pages. NotFound where there is no such user."""
    if not connection.execute_many(
        "UPDATE users SET is_admin = ? WHERE account_id = ? AND deleted_ms IS NULL", [(int(is_admin), account_id)]
    ):
        raise NotFound(f"there is no user with the account {account_id}")


def forget_user(connection: Connection, account_id: int, now_ms: int) -> None:
    """Remove name and password, end all sessions, revoke all keys. The account's books stay as they are."""
    connection.execute(
        "UPDATE users SET email = ?, password_hash = NULL, language = NULL, is_admin = 0, deleted_ms = ?"
        " WHERE account_id = ?",
        (f"deleted-{account_id}", now_ms, account_id),
    )
    for key in accounts.keys_of(connection, account_id) + accounts.keys_of(connection, account_id, for_pages=True):
        accounts.revoke_key(connection, key.id, now_ms)
    connection.execute("UPDATE api_keys SET name = '' WHERE account_id = ?", (account_id,))
    end_sessions(connection, account_id)


# ── sessions ──────────────────────────────────────────────────────────────────────────────────────────────


def insert_session(connection: Connection, secret_hash: bytes, account_id: int, now_ms: int, expires_ms: int) -> None:
    """A new session."""
    connection.execute(
        "INSERT INTO sessions (secret_hash, account_id, created_ms, seen_ms, expires_ms) VALUES (?, ?, ?, ?, ?)",
        (secret_hash, account_id, now_ms, now_ms, expires_ms),
    )


def find_session(connection: Connection, secret_hash: bytes, now_ms: int, idle_ms: int) -> tuple[User, int] | None:
    """Who is signed in by this session, with their money as it stands, and when they were last seen."""
    rows = connection.execute(
        f"SELECT {_USER}, s.seen_ms FROM sessions s JOIN users u ON u.account_id = s.account_id"
        " JOIN accounts a ON a.id = s.account_id"
        " WHERE s.secret_hash = ? AND s.expires_ms > ? AND s.seen_ms > ? AND u.deleted_ms IS NULL",
        (secret_hash, now_ms, now_ms - idle_ms),
    )
    return (_user(rows[0][:-1]), rows[0][-1]) if rows else None


def touch_session(connection: Connection, secret_hash: bytes, now_ms: int) -> None:
    """Remember that the session is in use."""
    connection.execute("UPDATE sessions SET seen_ms = ? WHERE secret_hash = ?", (now_ms, secret_hash))


def end_session(connection: Connection, secret_hash: bytes) -> None:
    """Sign out."""
    connection.execute("DELETE FROM sessions WHERE secret_hash = ?", (secret_hash,))


def end_sessions(connection: Connection, account_id: int, *, but: bytes = b"") -> None:
    """Sign out everywhere, except for one session."""
    connection.execute("DELETE FROM sessions WHERE account_id = ? AND secret_hash <> ?", (account_id, but))


# ── links by mail ─────────────────────────────────────────────────────────────────────────────────────────


def insert_link(connection: Connection, secret_hash: bytes, link: MailLink, now_ms: int) -> None:
    """A new link; what has expired meanwhile is thrown away."""
    connection.execute("DELETE FROM mail_links WHERE expires_ms < ?", (now_ms,))
    connection.execute("DELETE FROM sessions WHERE expires_ms < ?", (now_ms,))
    connection.execute(
        f"INSERT INTO mail_links ({_LINK}, secret_hash, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (link.purpose, link.email, link.password_hash, link.browser_hash, link.expires_ms, secret_hash, now_ms),
    )


def find_link(connection: Connection, secret_hash: bytes, now_ms: int) -> MailLink | None:
    """The link, while it is good."""
    rows = connection.execute(
        f"SELECT {_LINK} FROM mail_links WHERE secret_hash = ? AND expires_ms > ?", (secret_hash, now_ms)
    )
    return MailLink(*rows[0]) if rows else None


def use_links(connection: Connection, email: str) -> None:
    """One was followed: none to this address is good any more."""
    connection.execute("DELETE FROM mail_links WHERE email = ?", (email,))


# (merged from persons) Everything that belongs to one customer: to be handed over, or forgotten. Secrets and hashes of them stay here.

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
    use_links(connection, email[0][0] if email else "")
    forget_user(connection, account_id, now_ms)
    connection.execute_many("UPDATE generations SET request = ? WHERE id = ?", asks)
    connection.execute(
        "UPDATE generations SET result = NULL, webhook_url = NULL, error = NULL WHERE account_id = ?", (account_id,)
    )
    connection.execute("UPDATE outbox SET url = '' WHERE account_id = ? AND state <> 'pending'", (account_id,))
    connection.execute(
        "DELETE FROM idempotency_keys WHERE hold_id IN (SELECT id FROM holds WHERE account_id = ?)", (account_id,)
    )
