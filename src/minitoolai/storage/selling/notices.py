"""Rows of notices to customers, and of the settings for them.

Plain functions of a connection; the caller owns the transaction.
"""

from __future__ import annotations

import msgspec

from minitoolai.storage.database import Connection

_SETTINGS = "account_id, by_mail, webhook_url, low_balance, is_low, budgets, crossings"
_NOTICE = "id, account_id, type, subject, data, created_ms"


class NoticeSettings(msgspec.Struct, frozen=True):
    """What a customer is notified of, and how."""

    account_id: int
    by_mail: bool = True
    webhook_url: str | None = None
    #: Notify when the balance falls below this; None: never.
    low_balance: int | None = None
    is_low: bool = False
    budgets: bool = True
    #: How often the balance fell below it.
    crossings: int = 0


class Notice(msgspec.Struct, frozen=True):
    """One notice. `data` is the JSON object of its webhook."""

    id: int
    account_id: int
    type: str
    subject: str
    data: str
    created_ms: int


class KeyBudgets(msgspec.Struct, frozen=True):
    """A key with rules, of an account that wants notices. The family counts its spending."""

    account_id: int
    key_id: str
    name: str
    family: str
    rules: str


def _settings(row: tuple[object, ...]) -> NoticeSettings:
    names = _SETTINGS.split(", ")
    return msgspec.convert(dict(zip(names, row, strict=True)), NoticeSettings, strict=False)


def find_settings(connection: Connection, account_id: int) -> NoticeSettings | None:
    """Return the settings of an account; None if it never saved any."""
    rows = connection.execute(f"SELECT {_SETTINGS} FROM notice_settings WHERE account_id = ?", (account_id,))
    return _settings(rows[0]) if rows else None


def save_settings(connection: Connection, settings: NoticeSettings) -> None:
    """Insert or replace the settings of an account."""
    connection.execute(
        f"INSERT INTO notice_settings ({_SETTINGS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (account_id) DO UPDATE SET by_mail = excluded.by_mail, webhook_url = excluded.webhook_url,"
        " low_balance = excluded.low_balance, is_low = excluded.is_low, budgets = excluded.budgets",
        (settings.account_id, int(settings.by_mail), settings.webhook_url, settings.low_balance)
        + (int(settings.is_low), int(settings.budgets), settings.crossings),
    )


def crossings(connection: Connection, limit: int) -> list[tuple[NoticeSettings, int]]:
    """Return accounts with a balance that has crossed its threshold since the last check, with the balance."""
    columns = ", ".join(f"n.{name}" for name in _SETTINGS.split(", "))
    rows = connection.execute(
        f"SELECT {columns}, a.posted FROM notice_settings n JOIN accounts a ON a.id = n.account_id"
        " WHERE n.low_balance IS NOT NULL AND ((n.is_low = 0 AND a.posted < n.low_balance)"
        " OR (n.is_low = 1 AND a.posted >= n.low_balance)) LIMIT ?",
        (limit,),
    )
    return [(_settings(row[:-1]), int(row[-1])) for row in rows]


def record_crossing(connection: Connection, account_id: int, *, is_low: bool) -> bool:
    """Record that the balance has crossed its threshold and return True, unless another process did."""
    changed = connection.execute_many(
        "UPDATE notice_settings SET is_low = ?, crossings = crossings + ? WHERE account_id = ? AND is_low = ?",
        [(int(is_low), int(is_low), account_id, int(not is_low))],
    )
    return changed == 1


def keys_with_budgets(connection: Connection, after: tuple[int, str], limit: int) -> list[KeyBudgets]:
    """Return valid keys with rules of accounts that want notices of budgets, by account and key."""
    rows = connection.execute(
        "SELECT k.account_id, k.id, k.name, coalesce(k.family, k.id), k.rules FROM notice_settings n"
        " JOIN api_keys k ON k.account_id = n.account_id WHERE n.budgets = 1 AND k.revoked_ms IS NULL"
        " AND k.rules IS NOT NULL AND (n.account_id, k.id) > (?, ?) ORDER BY n.account_id, k.id LIMIT ?",
        (*after, limit),
    )
    return [KeyBudgets(*row) for row in rows]


def spending(connection: Connection, period_ids: list[str]) -> dict[str, int]:
    """Return the amounts spent of budgets by period."""
    rows = connection.select_by_ids("SELECT id, used FROM key_spending WHERE id IN (…)", period_ids)
    return {row[0]: int(row[1]) for row in rows}


def insert_notice(connection: Connection, notice: Notice, *, by_mail: bool) -> bool:
    """Insert a notice and return True, unless the account has got it already."""
    changed = connection.execute_many(
        f"INSERT INTO notices ({_NOTICE}, mail_due) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [(notice.id, notice.account_id, notice.type, notice.subject, notice.data, notice.created_ms, int(by_mail))],
    )
    return changed == 1


def find_notice(connection: Connection, notice_id: int) -> Notice | None:
    """Return a notice."""
    rows = connection.execute(f"SELECT {_NOTICE} FROM notices WHERE id = ?", (notice_id,))
    return Notice(*rows[0]) if rows else None


def notices_of(connection: Connection, account_id: int, limit: int) -> list[Notice]:
    """Return the last notices of an account, newest first."""
    rows = connection.execute(
        f"SELECT {_NOTICE} FROM notices WHERE account_id = ? ORDER BY id DESC LIMIT ?", (account_id, limit)
    )
    return [Notice(*row) for row in rows]


def has_due_mail(connection: Connection) -> bool:
    """Return True if a notice is to be sent by mail."""
    return bool(connection.execute("SELECT 1 FROM notices WHERE mail_due = 1 LIMIT 1"))


def claim_mail(connection: Connection, limit: int) -> list[tuple[Notice, str, str | None]]:
    """Return notices to send by mail with address and language of each owner and billing member, and mark them sent."""
    listed = ", ".join(f"n.{name}" for name in _NOTICE.split(", "))
    rows = connection.execute(
        f"SELECT {listed} FROM notices n WHERE n.mail_due = 1 ORDER BY n.id LIMIT ?" + connection.skip_locked, (limit,)
    )
    connection.execute_many("UPDATE notices SET mail_due = 0 WHERE id = ?", [(row[0],) for row in rows])
    people = connection.select_by_ids(
        "SELECT m.account_id, u.email, u.language FROM members m JOIN users u ON u.account_id = m.user_id"
        " WHERE m.role IN ('owner', 'billing') AND u.deleted_ms IS NULL AND m.account_id IN (…)",
        list({row[1] for row in rows}),
    )
    return [(Notice(*row), person[1], person[2]) for row in rows for person in people if person[0] == row[1]]
