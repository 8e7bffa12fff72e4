"""Rows of subscriptions: plans that a payment provider renews.

Plain functions of a connection; the caller owns the transaction.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from minitoolai.storage.database import Connection

State = Literal["new", "active", "ending", "ended"]
_COLUMNS = "id, account_id, provider, provider_ref, plan, price, state, created_ms, changed_ms"


class Subscription(msgspec.Struct, frozen=True):
    """One subscription. `price` is what the customer agreed to pay for each period of the plan."""

    id: int
    account_id: int
    provider: str
    provider_ref: str | None
    plan: str
    price: int
    state: State
    created_ms: int
    changed_ms: int


def insert(connection: Connection, subscription: Subscription) -> None:
    """Insert a subscription, before the customer is redirected to the provider."""
    one = subscription
    connection.execute(
        f"INSERT INTO subscriptions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (one.id, one.account_id, one.provider, one.provider_ref, one.plan, one.price, one.state)
        + (one.created_ms, one.changed_ms),
    )


def find(connection: Connection, subscription_id: int) -> Subscription | None:
    """Return the subscription with this number."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM subscriptions WHERE id = ?", (subscription_id,))
    return Subscription(*rows[0]) if rows else None


def by_ref(connection: Connection, provider_ref: str) -> Subscription | None:
    """Return the subscription with this ID of its provider."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM subscriptions WHERE provider_ref = ?", (provider_ref,))
    return Subscription(*rows[0]) if rows else None


def newest(connection: Connection, account_id: int) -> Subscription | None:
    """Return the last subscription of an account that the provider knows."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM subscriptions WHERE account_id = ? AND state <> 'new' ORDER BY id DESC LIMIT 1",
        (account_id,),
    )
    return Subscription(*rows[0]) if rows else None


def set_ref(connection: Connection, subscription_id: int, provider_ref: str, now_ms: int) -> None:
    """Store the provider's ID of a subscription: that of the checkout, and later that of the subscription itself."""
    connection.execute(
        "UPDATE subscriptions SET provider_ref = ?, changed_ms = ? WHERE id = ?",
        (provider_ref, now_ms, subscription_id),
    )


def set_state(connection: Connection, subscription_id: int, state: State, now_ms: int) -> None:
    """Store the state of a subscription. One that has ended never changes again."""
    connection.execute(
        "UPDATE subscriptions SET state = ?, changed_ms = ? WHERE id = ? AND state <> ? AND state <> 'ended'",
        (state, now_ms, subscription_id, state),
    )


def running(connection: Connection, after: int, limit: int) -> list[Subscription]:
    """Return subscriptions that the provider knows and that have not ended, by ascending number, after one of them."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM subscriptions WHERE state <> 'ended' AND id > ? AND provider_ref IS NOT NULL"
        " ORDER BY id LIMIT ?",
        (after, limit),
    )
    return [Subscription(*row) for row in rows]
