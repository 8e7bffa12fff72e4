"""Rows of portal users, their sessions and e-mail links; erasure of personal data (GDPR).

Secrets of links and sessions are stored only as hashes. Rows of second factors: storage/tables/second_factors.py.
"""

from __future__ import annotations

import msgspec

from minitoolai.core.errors import NotFound
from minitoolai.core.models import Device, EmailChange, MailLink, SessionRow, User
from minitoolai.storage.database import Connection, Row
from minitoolai.storage.tables import (
    accounts,
    factor_resets,
    identities,
    members,
    passkeys,
    request_bodies,
    responses,
    second_factors,
)
from minitoolai.storage.tables.members import JoinedAccount

UNKNOWN_DEVICE = Device()
#: Columns of a `User`, from `users u` and `accounts a`.
USER_COLUMNS = (
    "u.account_id, u.email, u.is_admin, u.language, u.created_ms, a.posted, a.held,"
    " EXISTS (SELECT 1 FROM second_factors f WHERE f.account_id = u.account_id)"
    " OR EXISTS (SELECT 1 FROM passkeys k WHERE k.user_id = u.account_id),"
    " EXISTS (SELECT 1 FROM factor_resets r WHERE r.user_id = u.account_id AND r.confirmed_ms IS NOT NULL),"
    " u.suspended_ms, u.suspended_reason, u.price_group"
)
_LINK = "purpose, email, password_hash, browser_hash, expires_ms"


def user_of_row(row: Row) -> User:
    """Return the user of a row of USER_COLUMNS."""
    account_id, email, is_admin, language, created_ms, posted, held, has_second_factor, is_reset, *suspension = row
    is_admin, has_second_factor = bool(is_admin), bool(has_second_factor)
    user = User(account_id, email, is_admin, language, created_ms, posted, held, has_second_factor, *suspension)
    return msgspec.structs.replace(
        user, person_id=account_id, account_name=email, is_factor_reset_pending=bool(is_reset)
    )


def find_user(connection: Connection, email: str) -> tuple[User, str | None] | None:
    """Return the user with this e-mail address and the hash of their password, if they have one."""
    rows = connection.execute(
        f"SELECT {USER_COLUMNS}, u.password_hash FROM users u JOIN accounts a ON a.id = u.account_id"
        " WHERE u.email = ? AND u.deleted_ms IS NULL",
        (email,),
    )
    return (user_of_row(rows[0][:-1]), rows[0][-1]) if rows else None


def find_user_of(connection: Connection, account_id: int) -> tuple[User, str | None] | None:
    """Return the user of this account and the hash of their password, if they have one."""
    rows = connection.execute(
        f"SELECT {USER_COLUMNS}, u.password_hash FROM users u JOIN accounts a ON a.id = u.account_id"
        " WHERE u.account_id = ? AND u.deleted_ms IS NULL",
        (account_id,),
    )
    return (user_of_row(rows[0][:-1]), rows[0][-1]) if rows else None


def password_hash_of(connection: Connection, account_id: int) -> str | None:
    """Return the hash of the user's password, if they have one."""
    rows = connection.execute("SELECT password_hash FROM users WHERE account_id = ?", (account_id,))
    return rows[0][0] if rows else None


def set_password(connection: Connection, account_id: int, password_hash: str) -> None:
    """Replace the password hash."""
    connection.execute("UPDATE users SET password_hash = ? WHERE account_id = ?", (password_hash, account_id))


def record_password_reset(connection: Connection, account_id: int, now_ms: int) -> None:
    """Record that a link in an e-mail replaced the password."""
    connection.execute("UPDATE users SET password_reset_ms = ? WHERE account_id = ?", (now_ms, account_id))


def password_reset_ms_of(connection: Connection, account_id: int) -> int | None:
    """Return when a link in an e-mail last replaced the user's password."""
    rows = connection.execute("SELECT password_reset_ms FROM users WHERE account_id = ?", (account_id,))
    return rows[0][0] if rows else None


def set_language(connection: Connection, account_id: int, language: str) -> None:
    """Set the language of e-mails to this user."""
    connection.execute("UPDATE users SET language = ? WHERE account_id = ?", (language, account_id))


def set_email(connection: Connection, account_id: int, old: str, new: str) -> bool:
    """Replace the e-mail address and delete links to the old and the new one. False if it is no longer the old one.

    The caller has checked that no account has the new address.
    """
    changed = connection.execute_many(
        "UPDATE users SET email = ? WHERE account_id = ? AND email = ? AND deleted_ms IS NULL", [(new, account_id, old)]
    )
    for email in (old, new):
        consume_links(connection, email)
    delete_email_change(connection, account_id)
    return changed == 1


def set_admin(connection: Connection, account_id: int, is_admin: bool) -> None:
    """Grant or revoke access to the admin pages. Raise NotFound if there is no such user."""
    if not connection.execute_many(
        "UPDATE users SET is_admin = ? WHERE account_id = ? AND deleted_ms IS NULL", [(int(is_admin), account_id)]
    ):
        raise NotFound(f"there is no user with account {account_id}")


def anonymize_user(connection: Connection, account_id: int, now_ms: int) -> None:
    """Remove e-mail address and password, end all sessions, revoke all keys. The ledger rows of the account stay."""
    forget_person(connection, account_id, f"deleted-{account_id}", now_ms)
    connection.execute(
        "UPDATE users SET deleted_ms = ?, suspended_reason = NULL WHERE account_id = ?", (now_ms, account_id)
    )
    close_account(connection, account_id, now_ms)


def close_account(connection: Connection, account_id: int, now_ms: int) -> None:
    """Revoke all keys of an account, and delete its members, invitations and budgets."""
    for key in accounts.keys_of(connection, account_id) + accounts.keys_of(connection, account_id, for_pages=True):
        accounts.revoke_key(connection, key.id, now_ms)
    connection.execute("UPDATE api_keys SET name = '' WHERE account_id = ?", (account_id,))
    members.delete_team(connection, account_id)


def name_without_person(account_id: int) -> str:
    """Return what takes the place of the address of a user who was erased, in an account that others own."""
    return f"account-{account_id}"


def forget_person(connection: Connection, user_id: int, name: str, now_ms: int) -> None:
    """Remove the sign-in of a user, their memberships, and their keys in all accounts.

    `name` takes the place of the address. An account that the user opened and that others own stays as it is.
    """
    connection.execute(
        "UPDATE users SET email = ?, password_hash = NULL, language = NULL, is_admin = 0 WHERE account_id = ?",
        (name, user_id),
    )
    end_sessions(connection, user_id)
    delete_factors(connection, user_id)
    factor_resets.delete(connection, user_id)
    delete_email_change(connection, user_id)
    identities.delete_all(connection, user_id)
    for membership in members.memberships_of(connection, user_id):
        members.delete(connection, membership.account_id, user_id, now_ms)


def delete_factors(connection: Connection, user_id: int) -> bool:
    """Delete all second factors of a user with the recovery codes. Return False if there are none."""
    count = passkeys.delete_all(connection, user_id)
    return second_factors.delete(connection, user_id) or count > 0


# ── sessions ──────────────────────────────────────────────────────────────────────────────────────────────


def insert_session(
    connection: Connection,
    secret_hash: bytes,
    account_id: int,
    now_ms: int,
    expires_ms: int,
    device: Device = UNKNOWN_DEVICE,
) -> None:
    """Insert a session."""
    connection.execute(
        "INSERT INTO sessions (secret_hash, account_id, created_ms, seen_ms, expires_ms, address, browser, system)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (secret_hash, account_id, now_ms, now_ms, expires_ms, device.address, device.browser, device.system),
    )


def find_session(connection: Connection, secret_hash: bytes, now_ms: int, idle_ms: int) -> tuple[User, int] | None:
    """Return the user of a live session in the account where they work, and the time of their last request.

    A user who is no member of that account works in the first one that they belong to.
    """
    rows = connection.execute(
        f"SELECT {USER_COLUMNS}, s.seen_ms, s.working_id FROM sessions s JOIN users u ON u.account_id = s.account_id"
        " JOIN accounts a ON a.id = s.account_id"
        " WHERE s.secret_hash = ? AND s.expires_ms > ? AND s.seen_ms > ? AND u.deleted_ms IS NULL",
        (secret_hash, now_ms, now_ms - idle_ms),
    )
    if not rows:
        return None
    *columns, seen_ms, working_id = rows[0]
    user = user_of_row(tuple(columns))
    return _working_in(user, members.memberships_of(connection, user.user_id), working_id), seen_ms


def _working_in(user: User, joined: list[JoinedAccount], working_id: int | None) -> User:
    """Return the user with role, balance and suspension of the account in which they work."""
    wanted = working_id or user.user_id
    here = next((one for one in joined if one.account_id == wanted), joined[0] if joined else None)
    if here is None:
        # Nothing of the account with their number is theirs any more.
        return msgspec.structs.replace(
            user, role=None, posted=0, held=0, suspended_ms=None, suspended_reason=None, price_group=None
        )
    return msgspec.structs.replace(
        user,
        account_id=here.account_id,
        person_id=user.user_id,
        role=here.role,
        account_name=here.account_name,
        posted=here.posted,
        held=here.held,
        suspended_ms=here.suspended_ms,
        suspended_reason=here.suspended_reason,
        price_group=here.price_group,
    )


def set_working_account(connection: Connection, secret_hash: bytes, account_id: int) -> None:
    """Set the account in which a session works."""
    connection.execute("UPDATE sessions SET working_id = ? WHERE secret_hash = ?", (account_id, secret_hash))


def end_sessions_in(connection: Connection, account_id: int, user_id: int) -> None:
    """Delete the sessions of a user that work in this account."""
    connection.execute(
        "DELETE FROM sessions WHERE account_id = ? AND coalesce(working_id, account_id) = ?", (user_id, account_id)
    )


def touch_session(connection: Connection, secret_hash: bytes, now_ms: int, device: Device = UNKNOWN_DEVICE) -> None:
    """Record that the session was used now, and by which browser."""
    connection.execute(
        "UPDATE sessions SET seen_ms = ?, address = ?, browser = ?, system = ? WHERE secret_hash = ?",
        (now_ms, device.address, device.browser, device.system, secret_hash),
    )


def sessions_of(connection: Connection, account_id: int, now_ms: int, idle_ms: int) -> list[SessionRow]:
    """Return the live sessions of an account, the last used first."""
    rows = connection.execute(
        "SELECT secret_hash, created_ms, seen_ms, address, browser, system FROM sessions"
        " WHERE account_id = ? AND expires_ms > ? AND seen_ms > ? ORDER BY seen_ms DESC, created_ms DESC",
        (account_id, now_ms, now_ms - idle_ms),
    )
    return [SessionRow(bytes(row[0]), row[1], row[2], Device(*(text or "" for text in row[3:]))) for row in rows]


def end_session(connection: Connection, secret_hash: bytes) -> None:
    """Delete one session (sign out)."""
    connection.execute("DELETE FROM sessions WHERE secret_hash = ?", (secret_hash,))


def end_session_of(connection: Connection, account_id: int, secret_hash: bytes) -> bool:
    """Delete a session of this account and return True, or False if the account has none with this hash."""
    return bool(
        connection.execute_many(
            "DELETE FROM sessions WHERE secret_hash = ? AND account_id = ?", [(secret_hash, account_id)]
        )
    )


def end_sessions(connection: Connection, account_id: int, *, but: bytes = b"") -> None:
    """Delete all sessions of an account, except one."""
    connection.execute("DELETE FROM sessions WHERE account_id = ? AND secret_hash <> ?", (account_id, but))


# ── e-mail links ──────────────────────────────────────────────────────────────────────────────────────────


def insert_link(connection: Connection, secret_hash: bytes, link: MailLink, now_ms: int) -> None:
    """Insert an e-mail link, and delete expired links and sessions."""
    connection.execute("DELETE FROM mail_links WHERE expires_ms < ?", (now_ms,))
    connection.execute("DELETE FROM sessions WHERE expires_ms < ?", (now_ms,))
    connection.execute(
        f"INSERT INTO mail_links ({_LINK}, secret_hash, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (link.purpose, link.email, link.password_hash, link.browser_hash, link.expires_ms, secret_hash, now_ms),
    )


def find_link(connection: Connection, secret_hash: bytes, now_ms: int) -> MailLink | None:
    """Return the link, or None if it is unknown or expired."""
    rows = connection.execute(
        f"SELECT {_LINK} FROM mail_links WHERE secret_hash = ? AND expires_ms > ?", (secret_hash, now_ms)
    )
    return MailLink(*rows[0]) if rows else None


def consume_links(connection: Connection, email: str) -> None:
    """Delete all links sent to this address, because one of them was used."""
    connection.execute("DELETE FROM mail_links WHERE email = ?", (email,))


# ── changes of e-mail addresses ───────────────────────────────────────────────────────────────────────────

_CHANGE = "account_id, email, new_hash, old_hash, is_new_confirmed, is_old_confirmed, expires_ms"


def replace_email_change(connection: Connection, change: EmailChange) -> None:
    """Insert a change of an e-mail address in place of the one that the account may have."""
    delete_email_change(connection, change.account_id)
    connection.execute(
        f"INSERT INTO email_changes ({_CHANGE}) VALUES (?, ?, ?, ?, 0, 0, ?)",
        (change.account_id, change.email, change.new_hash, change.old_hash, change.expires_ms),
    )


def find_email_change(connection: Connection, secret_hash: bytes, now_ms: int) -> EmailChange | None:
    """Return the change that one of both links belongs to, or None if it is unknown or expired."""
    rows = connection.execute(
        f"SELECT {_CHANGE} FROM email_changes WHERE (new_hash = ? OR old_hash = ?) AND expires_ms > ?",
        (secret_hash, secret_hash, now_ms),
    )
    return _email_change(rows[0]) if rows else None


def email_change_of(connection: Connection, account_id: int, now_ms: int) -> EmailChange | None:
    """Return the change of this account that is not confirmed yet, or None."""
    rows = connection.execute(
        f"SELECT {_CHANGE} FROM email_changes WHERE account_id = ? AND expires_ms > ?", (account_id, now_ms)
    )
    return _email_change(rows[0]) if rows else None


def _email_change(row: Row) -> EmailChange:
    return EmailChange(row[0], row[1], bytes(row[2]), bytes(row[3]), bool(row[4]), bool(row[5]), row[6])


def record_confirmations(connection: Connection, change: EmailChange) -> None:
    """Store which mailboxes have confirmed the change."""
    connection.execute(
        "UPDATE email_changes SET is_new_confirmed = ?, is_old_confirmed = ? WHERE account_id = ?",
        (int(change.is_new_confirmed), int(change.is_old_confirmed), change.account_id),
    )


def delete_email_change(connection: Connection, account_id: int) -> None:
    """Delete the change of this account, if there is one."""
    connection.execute("DELETE FROM email_changes WHERE account_id = ?", (account_id,))


# ── erasure of personal data (GDPR) ──────────────────────────────────────────────────────────────────────


def image_requests_of(connection: Connection, account_id: int) -> list[tuple[int, str]]:
    """Return (job ID, request as JSON) of every image job of an account."""
    rows = connection.execute(
        "SELECT id, request FROM generations WHERE account_id = ? AND request IS NOT NULL", (account_id,)
    )
    return [(row[0], row[1]) for row in rows]


def erase_personal_data(
    connection: Connection, account_id: int, redacted_requests: list[tuple[str, int]], now_ms: int
) -> None:
    """Erase the personal data of an account: user, sessions, keys, webhook URLs, stored responses, links to images.

    `redacted_requests` holds (request without its prompt, job ID). Amounts and usage are kept for accounting.
    """
    # Lock the account first, as every writer does, to avoid a deadlock with a concurrent charge.
    connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", [account_id], lock=True)
    email = connection.execute("SELECT email FROM users WHERE account_id = ?", (account_id,))
    consume_links(connection, email[0][0] if email else "")
    anonymize_user(connection, account_id, now_ms)
    _erase_contents(connection, account_id, redacted_requests)


def erase_account(
    connection: Connection, account_id: int, redacted_requests: list[tuple[str, int]], now_ms: int
) -> None:
    """Erase an account like `erase_personal_data`, but leave the sign-in of the user who opened it."""
    connection.select_by_ids("SELECT id FROM accounts WHERE id IN (…)", [account_id], lock=True)
    close_account(connection, account_id, now_ms)
    _erase_contents(connection, account_id, redacted_requests)


def _erase_contents(connection: Connection, account_id: int, redacted_requests: list[tuple[str, int]]) -> None:
    connection.execute_many("UPDATE generations SET request = ? WHERE id = ?", redacted_requests)
    connection.execute(
        "UPDATE generations SET result = NULL, webhook_url = NULL, error = NULL WHERE account_id = ?", (account_id,)
    )
    connection.execute("UPDATE outbox SET url = '' WHERE account_id = ? AND state <> 'pending'", (account_id,))
    # Invoices stay as they were issued, as tax law requires.
    for table in ("buyers", "auto_topups", "notice_settings", "log_exports"):
        connection.execute(f"DELETE FROM {table} WHERE account_id = ?", (account_id,))
    connection.execute("UPDATE notices SET data = '{}', mail_due = 0 WHERE account_id = ?", (account_id,))
    responses.erase(connection, account_id)
    request_bodies.erase(connection, account_id)
    connection.execute(
        "DELETE FROM idempotency_keys WHERE hold_id IN (SELECT id FROM generations WHERE account_id = ?)", (account_id,)
    )
