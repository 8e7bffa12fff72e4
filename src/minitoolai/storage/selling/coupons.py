"""Rows of coupons and of their uses. Plain functions of a connection; the caller owns the transaction."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from minitoolai.storage.database import Connection

_COUPON = "id, code, percent, amount, uses, used, note, created_ms, expires_ms, cancelled_ms"


class Coupon(msgspec.Struct, frozen=True):
    """Coupon: percent off a plan's price, or an amount of credit, for the first `uses` accounts."""

    id: int
    code: str
    percent: int | None
    amount: int | None
    uses: int
    used: int
    note: str | None
    created_ms: int
    expires_ms: int | None = None
    cancelled_ms: int | None = None


def insert(connection: Connection, coupon: Coupon) -> bool:
    """Insert a coupon. Return False if there is one with this code."""
    if find(connection, coupon.code) is not None:
        return False
    connection.execute(
        f"INSERT INTO coupons ({_COUPON}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", msgspec.structs.astuple(coupon)
    )
    return True


def find(connection: Connection, code: str) -> Coupon | None:
    """Return the coupon with this code, as it is stored."""
    rows = connection.execute(f"SELECT {_COUPON} FROM coupons WHERE code = ?", (code,))
    return Coupon(*rows[0]) if rows else None


def has_used(connection: Connection, coupon_id: int, account_id: int) -> bool:
    """Return True if the account has used the coupon."""
    rows = connection.execute(
        "SELECT 1 FROM coupon_uses WHERE coupon_id = ? AND account_id = ?", (coupon_id, account_id)
    )
    return bool(rows)


def count_use(connection: Connection, coupon_id: int, now_ms: int) -> bool:
    """Take one use of a coupon and return True, or False if none is left or it has ended. Compare and set."""
    changed = connection.execute_many(
        "UPDATE coupons SET used = used + 1 WHERE id = ? AND used < uses AND cancelled_ms IS NULL"
        " AND (expires_ms IS NULL OR expires_ms > ?)",
        [(coupon_id, now_ms)],
    )
    return changed == 1


def insert_use(
    connection: Connection, coupon_id: int, account_id: int, now_ms: int, amount: int, reference: str
) -> None:
    """Record what a coupon was worth to an account."""
    connection.execute(
        "INSERT INTO coupon_uses (coupon_id, account_id, used_ms, amount, reference) VALUES (?, ?, ?, ?, ?)",
        (coupon_id, account_id, now_ms, amount, reference),
    )


def cancel(connection: Connection, code: str, now_ms: int) -> bool:
    """Cancel a coupon and return True, or False if there is no such coupon or it was cancelled before."""
    changed = connection.execute_many(
        "UPDATE coupons SET cancelled_ms = ? WHERE code = ? AND cancelled_ms IS NULL", [(now_ms, code)]
    )
    return changed == 1


def list_coupons(connection: Connection, limit: int, before: Sequence[int] | None = None) -> list[Coupon]:
    """Return a page of coupons, newest first, before a time and an ID (keyset pagination)."""
    rows = connection.execute(
        f"SELECT {_COUPON} FROM coupons WHERE (created_ms, id) < (?, ?) ORDER BY created_ms DESC, id DESC LIMIT ?",
        (*(before or (2**62, 0)), limit),
    )
    return [Coupon(*row) for row in rows]
