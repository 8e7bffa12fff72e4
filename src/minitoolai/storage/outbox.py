"""What must be told to others once it is true: written in the same transaction as what makes it so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from minitoolai.storage.database import Connection


class Message(msgspec.Struct, frozen=True):
    """The end of one job, to be told to one address; claimed by whoever got this, until its lease ends."""

    id: int
    generation_id: int
    account_id: int
    url: str
    #: This one included.
    attempts: int
    created_ms: int


class DeliveryAttempt(msgspec.Struct, frozen=True):
    """How one attempt went: a status, or an error where there was no answer."""

    attempt: int
    at_ms: int
    duration_ms: int
    status: int | None
    error: str | None


class Logged(msgspec.Struct, frozen=True):
    """A message as its account may see it."""

    attempts: list[DeliveryAttempt]
    id: int
    generation_id: int
    url: str
    state: str
    next_ms: int
    created_ms: int
    finished_ms: int | None


def announce(connection: Connection, generation_ids: Sequence[int], now_ms: int) -> None:
    """These jobs have just ended: whoever left an address is to be told."""
    rows = connection.select_by_ids(
        "SELECT id, account_id, webhook_url FROM generations WHERE webhook_url IS NOT NULL AND id IN (…)",
        generation_ids,
    )
    if rows:
        connection.execute_many(
            "INSERT INTO outbox (generation_id, account_id, url, next_ms, created_ms) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            [(row[0], row[1], row[2], now_ms, now_ms) for row in rows],
        )


def next_due_ms(connection: Connection) -> int | None:
    """When the next message should go; None where none waits."""
    due: int | None = connection.execute("SELECT min(next_ms) FROM outbox WHERE state = 'pending'")[0][0]
    return due


def claim(
    connection: Connection, *, now_ms: int, lease_ms: int, most: int, but_not_of: Iterable[int] = ()
) -> list[Message]:
    """Messages that are due: ours for the lease, then due again for whoever is there. Not of these accounts."""
    busy = list(but_not_of)
    others = f" AND account_id NOT IN ({','.join('?' * len(busy))})" if busy else ""
    rows = connection.execute(
        "SELECT id, generation_id, account_id, url, attempts + 1, created_ms FROM outbox"
        f" WHERE state = 'pending' AND next_ms <= ?{others} ORDER BY next_ms, id LIMIT ?" + connection.skip_locked,
        (now_ms, *busy, most),
    )
    connection.execute_many(
        "UPDATE outbox SET attempts = attempts + 1, next_ms = ? WHERE id = ?",
        [(now_ms + lease_ms, row[0]) for row in rows],
    )
    return [Message(*row) for row in rows]


def log_attempt(
    connection: Connection, message: Message, attempt: DeliveryAttempt, *, state: str, next_ms: int, now_ms: int
) -> None:
    """Write down how it went, and what is next. Nothing where somebody else took the message over meanwhile."""
    changed = connection.execute_many(
        "UPDATE outbox SET state = ?, next_ms = ?, finished_ms = ? WHERE id = ? AND state = 'pending' AND attempts = ?",
        [(state, next_ms, None if state == "pending" else now_ms, message.id, message.attempts)],
    )
    if changed:
        connection.execute_many(
            "INSERT INTO webhook_deliveries (outbox_id, attempt, at_ms, duration_ms, status, error)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [
                (message.id, attempt.attempt, attempt.at_ms, attempt.duration_ms, attempt.status, attempt.error),
            ],
        )


def delivery_log(connection: Connection, account_id: int, most: int) -> list[Logged]:
    """The account's last messages, newest first, each with its attempts."""
    rows = connection.execute(
        "SELECT id, generation_id, url, state, next_ms, created_ms, finished_ms FROM outbox WHERE account_id = ?"
        " ORDER BY id DESC LIMIT ?",
        (account_id, most),
    )
    tries = connection.select_by_ids(
        "SELECT outbox_id, attempt, at_ms, duration_ms, status, error FROM webhook_deliveries"
        " WHERE outbox_id IN (…) ORDER BY outbox_id, attempt",
        [row[0] for row in rows],
    )
    attempts: dict[int, list[DeliveryAttempt]] = {row[0]: [] for row in rows}
    for row in tries:
        attempts[row[0]].append(DeliveryAttempt(*row[1:]))
    return [Logged(attempts[row[0]], *row) for row in rows]


def forget(connection: Connection, before_ms: int, most: int) -> int:
    """Delete messages that were over before this moment, with their attempts; how many."""
    rows = connection.execute(
        "SELECT id FROM outbox WHERE state <> 'pending' AND finished_ms < ? ORDER BY id LIMIT ?"
        + connection.skip_locked,
        (before_ms, most),
    )
    connection.execute_many("DELETE FROM webhook_deliveries WHERE outbox_id = ?", rows)
    connection.execute_many("DELETE FROM outbox WHERE id = ?", rows)
    return len(rows)
