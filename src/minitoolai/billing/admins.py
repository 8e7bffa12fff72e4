"""What admins may do. Each deed and its entry in the trail are one commit."""

from __future__ import annotations

from minitoolai.billing import payments
from minitoolai.core.clock import Clock
from minitoolai.core.models import AdminAction
from minitoolai.storage import accounts, admin
from minitoolai.storage.database import Connection


def grant(
    connection: Connection, clock: Clock, admin_id: int, account_id: int, amount: int, *, note: str, once: str
) -> bool:
    """Credit an account. False where there is none, or the form with this `once` was sent before."""
    if admin.find_member(connection, account_id) is None:
        return False
    done = payments.grant(connection, clock, account_id, amount, reason=note, reference=f"admin:{once}")
    if done.repeated:
        return False
    action = AdminAction(clock.new_id(), admin_id, account_id, "grant", amount, note, clock.now_ms())
    admin.write_action(connection, action)
    return True


def revoke_keys(connection: Connection, clock: Clock, admin_id: int, account_id: int, *, note: str) -> int | None:
    """Revoke every key of an account; how many. None where there is no such account."""
    if admin.find_member(connection, account_id) is None:
        return None
    now_ms = clock.now_ms()
    keys = accounts.keys_of(connection, account_id) + accounts.keys_of(connection, account_id, for_pages=True)
    count = sum(accounts.revoke_key(connection, key.id, now_ms) for key in keys)
    admin.write_action(connection, AdminAction(clock.new_id(), admin_id, account_id, "revoke_keys", None, note, now_ms))
    return count
