"""Transactional outbox of webhooks: the message is written in the same commit as the event that it reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from minitoolai.storage.database import Connection


class WebhookMessage(msgspec.Struct, frozen=True):
    """Report of one finished job, or one notice, to one URL, claimed by its sender until the lease ends."""

    id: int
    #: Exactly one of it and `notice_id` is set.
    generation_id: int | None
    account_id: int
    url: str
    #: Including this attempt.
    attempts: int
    created_ms: int
    notice_id: int | None = None


class DeliveryAttempt(msgspec.Struct, frozen=True):
    """Outcome of one delivery attempt: the HTTP status, or an error if there was no response."""

    attempt: int
    at_ms: int
    duration_ms: int
    status: int | None
    error: str | None


class LoggedMessage(msgspec.Struct, frozen=True):
    """Webhook message with its delivery attempts, as shown to its account."""

    attempts: list[DeliveryAttempt]
    id: int
    generation_id: int | None
    url: str
    state: str
    next_ms: int
    created_ms: int
    finished_ms: int | None
    notice_id: int | None = None


def enqueue_webhooks(connection: Connection, generation_ids: Sequence[int], now_ms: int) -> None:
    """Queue a webhook message for each of these finished jobs that has a webhook URL."""
    rows = connection.select_by_ids(
        "SELECT id, account_id, webhook_url FROM generations WHERE webhook_url IS NOT NULL AND id IN (…)",
        generation_ids,
    )
    if rows:
        connection.execute_many(
            "INSERT INTO outbox (generation_id, account_id, url, next_ms, created_ms) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            # A database returns them in any order.
            [(row[0], row[1], row[2], now_ms, now_ms) for row in sorted(rows)],
        )


def enqueue_notice(connection: Connection, notice_id: int, account_id: int, url: str, now_ms: int) -> None:
    """Queue a webhook message for a notice, in the commit that writes it."""
    connection.execute(
        "INSERT INTO outbox (notice_id, account_id, url, next_ms, created_ms) VALUES (?, ?, ?, ?, ?)",
        (notice_id, account_id, url, now_ms, now_ms),
    )


def next_due_ms(connection: Connection) -> int | None:
    """Return when the next message is due, or None if none is pending."""
    due: int | None = connection.execute("SELECT min(next_ms) FROM outbox WHERE state = 'pending'")[0][0]
    return due


def claim(
    connection: Connection, *, now_ms: int, lease_ms: int, limit: int, except_accounts: Iterable[int] = ()
) -> list[WebhookMessage]:
    """Claim due messages, skipping these accounts.

    A claimed message becomes due again when its lease ends, so a crashed worker loses none.
    """
    busy = list(except_accounts)
    others = f" AND account_id NOT IN ({','.join('?' * len(busy))})" if busy else ""
    rows = connection.execute(
        "SELECT id, generation_id, account_id, url, attempts + 1, created_ms, notice_id FROM outbox"
        f" WHERE state = 'pending' AND next_ms <= ?{others} ORDER BY next_ms, id LIMIT ?" + connection.skip_locked,
        (now_ms, *busy, limit),
    )
    connection.execute_many(
        "UPDATE outbox SET attempts = attempts + 1, next_ms = ? WHERE id = ?",
        [(now_ms + lease_ms, row[0]) for row in rows],
    )
    return [WebhookMessage(*row) for row in rows]


def log_attempt(
    connection: Connection, message: WebhookMessage, attempt: DeliveryAttempt, *, state: str, next_ms: int, now_ms: int
) -> None:
    """Record the outcome of an attempt and the next state. Do nothing if another worker has claimed it since."""
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


def delivery_log(connection: Connection, account_id: int, limit: int, before: int | None = None) -> list[LoggedMessage]:
    """Return the account's last messages, newest first, each with its attempts (keyset pagination).

    `before`: only those before the message about this generation or notice; none if that is gone.
    """
    below = 2**63 - 1
    if before is not None:
        own = connection.execute(
            "SELECT id FROM outbox WHERE generation_id = ? AND account_id = ?", (before, account_id)
        ) or connection.execute("SELECT id FROM outbox WHERE notice_id = ? AND account_id = ?", (before, account_id))
        below = own[0][0] if own else 0
    rows = connection.execute(
        "SELECT id, generation_id, url, state, next_ms, created_ms, finished_ms, notice_id FROM outbox"
        " WHERE account_id = ? AND id < ? ORDER BY id DESC LIMIT ?",
        (account_id, below, limit),
    )
    attempt_rows = connection.select_by_ids(
        "SELECT outbox_id, attempt, at_ms, duration_ms, status, error FROM webhook_deliveries"
        " WHERE outbox_id IN (…) ORDER BY outbox_id, attempt",
        [row[0] for row in rows],
    )
    attempts: dict[int, list[DeliveryAttempt]] = {row[0]: [] for row in rows}
    for row in attempt_rows:
        attempts[row[0]].append(DeliveryAttempt(*row[1:]))
    return [LoggedMessage(attempts[row[0]], *row) for row in rows]


def delete_finished(connection: Connection, before_ms: int, limit: int) -> int:
    """Delete messages that finished before this time, with their attempts, and return how many."""
    rows = connection.execute(
        "SELECT id FROM outbox WHERE state <> 'pending' AND finished_ms < ? ORDER BY finished_ms LIMIT ?"
        + connection.skip_locked,
        (before_ms, limit),
    )
    connection.execute_many("DELETE FROM webhook_deliveries WHERE outbox_id = ?", rows)
    connection.execute_many("DELETE FROM outbox WHERE id = ?", rows)
    return len(rows)
