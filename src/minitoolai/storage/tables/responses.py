"""Rows of stored responses: written when they end or are queued, read by their account, deleted after their retention.

Contents are encrypted; accounts/ciphers.py does that. Plain functions of a connection; the caller owns the transaction.

A row counts only together with its generation. A response that was generated at once is visible once its generation has
succeeded, so one whose charge was not written does not exist. Locks: rows of responses, then `response_totals`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from minitoolai.core.models import GenerationState
from minitoolai.storage.database import Connection, Row
from minitoolai.storage.tables.jobs import StaleJob

#: Rows and bytes deleted per transaction, so that no hold waits long for its commit.
DELETE_ROWS, DELETE_BYTES = 200, 16 * 1024 * 1024
#: Rows that one new response may displace.
MAX_DISPLACED = 2000


class NewResponse(msgspec.Struct, frozen=True):
    """Row of a response, to insert. `request` and `response` are encrypted."""

    id: int
    account_id: int
    previous_id: int | None
    model: str
    is_background: bool
    created_ms: int
    expires_ms: int
    request_bytes: int
    response_bytes: int
    request: bytes
    response: bytes


class StoredRow(msgspec.Struct, frozen=True):
    """Row of a response, with the state of its generation. `response` is encrypted."""

    id: int
    account_id: int
    model: str
    #: 0 or 1.
    is_background: int
    cancelled_ms: int | None
    state: GenerationState
    error_code: str | None
    response: bytes

    @property
    def is_unfinished(self) -> bool:
        """Return True while it waits or runs, unless it was cancelled."""
        return self.state in ("queued", "running") and self.cancelled_ms is None


_VISIBLE = "(r.is_background = 1 OR g.state = 'succeeded')"


def insert(connection: Connection, row: NewResponse, most_bytes: int) -> bool:
    """Insert a response, and delete the oldest ones of the account beyond `most_bytes`.

    Returns False if the account was erased meanwhile; nothing is stored then.
    """
    connection.execute(
        "INSERT INTO responses (id, account_id, previous_id, model, is_background, is_open, created_ms, expires_ms,"
        " request_bytes, response_bytes, request, response) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (row.id, row.account_id, row.previous_id, row.model, int(row.is_background), int(row.is_background))
        + (row.created_ms, row.expires_ms, row.request_bytes, row.response_bytes, row.request, row.response),
    )
    # The foreign key has waited for an erasure in progress.
    erased = "SELECT 1 FROM users WHERE account_id = ? AND deleted_ms IS NOT NULL"
    if connection.execute(erased, (row.account_id,)):
        connection.execute("DELETE FROM responses WHERE id = ?", (row.id,))
        return False
    _add_bytes(connection, [(row.account_id, row.request_bytes + row.response_bytes)])
    _displace(connection, row.account_id, row.id, most_bytes)
    return True


def _add_bytes(connection: Connection, changes: Sequence[tuple[int, int]]) -> None:
    connection.execute_many(
        "INSERT INTO response_totals (account_id, bytes) VALUES (?, ?)"
        " ON CONFLICT (account_id) DO UPDATE SET bytes = response_totals.bytes + excluded.bytes",
        sorted(changes),
    )


def total_bytes(connection: Connection, account_id: int) -> int:
    """Return how many bytes of responses are stored for an account."""
    rows = connection.execute("SELECT bytes FROM response_totals WHERE account_id = ?", (account_id,))
    return int(rows[0][0]) if rows else 0


def _displace(connection: Connection, account_id: int, newest: int, most_bytes: int) -> None:
    """Delete the oldest responses of an account until the others fit, but never the newest or an open one."""
    excess = total_bytes(connection, account_id) - most_bytes
    if excess <= 0:
        return
    rows = connection.execute(
        "SELECT id, account_id, request_bytes + response_bytes FROM responses"
        " WHERE account_id = ? AND id < ? AND is_open = 0 ORDER BY id LIMIT ?" + connection.skip_locked,
        (account_id, newest, MAX_DISPLACED),
    )
    _delete_rows(connection, _up_to(rows, excess))


def _up_to(rows: Sequence[Row], most_bytes: int) -> list[Row]:
    """Return the first of these rows that together reach this number of bytes."""
    chosen, size = [], 0
    for row in rows:
        if size >= most_bytes:
            break
        chosen.append(row)
        size += row[2]
    return chosen


def _delete_rows(connection: Connection, rows: Sequence[Row]) -> None:
    """Delete locked rows of (ID, account, bytes), and subtract their bytes."""
    if not rows:
        return
    connection.execute_many("DELETE FROM responses WHERE id = ?", [(row[0],) for row in rows])
    sizes: dict[int, int] = {}
    for _, account_id, size in rows:
        sizes[account_id] = sizes.get(account_id, 0) - size
    _add_bytes(connection, list(sizes.items()))


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────


def find(connection: Connection, response_id: int, account_id: int, now_ms: int) -> StoredRow | None:
    """Return a response of this account that has not expired, or None."""
    rows = connection.execute(
        "SELECT r.id, r.account_id, r.model, r.is_background, r.cancelled_ms, g.state, g.error_code, r.response"
        " FROM responses r JOIN generations g ON g.id = r.id"
        f" WHERE r.id = ? AND r.account_id = ? AND r.expires_ms > ? AND {_VISIBLE}",
        (response_id, account_id, now_ms),
    )
    return StoredRow(*rows[0]) if rows else None


class Turn(NamedTuple):
    """One turn of a conversation: a response, its predecessor, and its size."""

    id: int
    previous_id: int | None
    model: str
    bytes: int


def turns(connection: Connection, newest: int, account_id: int, now_ms: int, limit: int) -> list[Turn]:
    """Return the turns of a conversation, newest first, at most `limit`. It ends at one that is not stored any more."""
    rows = connection.execute(
        "WITH RECURSIVE turns (id, previous_id, model, bytes, place) AS ("
        " SELECT r.id, r.previous_id, r.model, r.request_bytes + r.response_bytes, 1 FROM responses r"
        " WHERE r.id = ? AND r.account_id = ? AND r.expires_ms > ?"
        " UNION ALL SELECT r.id, r.previous_id, r.model, r.request_bytes + r.response_bytes, turns.place + 1"
        " FROM turns JOIN responses r ON r.id = turns.previous_id"
        " WHERE r.account_id = ? AND r.expires_ms > ? AND turns.place < ?)"
        " SELECT id, previous_id, model, bytes FROM turns ORDER BY place",
        (newest, account_id, now_ms, account_id, now_ms, limit),
    )
    return [Turn(*row) for row in rows]


class Content(NamedTuple):
    """The encrypted objects of a response. `request` is empty if only the output is needed."""

    id: int
    model: str
    request: bytes
    response: bytes


def contents(connection: Connection, ids: Sequence[int], account_id: int, now_ms: int) -> list[Content]:
    """Return those of these responses that belong to the account, have ended well and have not expired."""
    rows = connection.select_by_ids(
        "SELECT r.id, r.account_id, r.expires_ms, g.state, r.model, r.request, r.response"
        " FROM responses r JOIN generations g ON g.id = r.id WHERE r.id IN (…)",
        ids,
    )
    return [
        Content(row[0], row[4], row[5], row[6])
        for row in rows
        if row[1] == account_id and row[2] > now_ms and row[3] == "succeeded"
    ]


class Size(NamedTuple):
    """The bytes of both objects of a response."""

    id: int
    request: int
    response: int


def sizes(connection: Connection, ids: Sequence[int]) -> list[Size]:
    """Return the sizes of those of these responses that exist."""
    rows = connection.select_by_ids("SELECT id, request_bytes, response_bytes FROM responses WHERE id IN (…)", ids)
    return [Size(*row) for row in rows]


def request_of(connection: Connection, response_id: int, account_id: int, now_ms: int) -> bytes | None:
    """Return the encrypted request of a response of this account, or None."""
    rows = connection.execute(
        "SELECT r.request FROM responses r JOIN generations g ON g.id = r.id"
        f" WHERE r.id = ? AND r.account_id = ? AND r.expires_ms > ? AND {_VISIBLE}",
        (response_id, account_id, now_ms),
    )
    return rows[0][0] if rows else None


# ── changing and deleting ─────────────────────────────────────────────────────────────────────────────────


def delete(connection: Connection, response_id: int, account_id: int, now_ms: int) -> bool:
    """Delete a response of this account. False if there is none."""
    rows = connection.execute(
        "SELECT r.id, r.account_id, r.request_bytes + r.response_bytes FROM responses r"
        " WHERE r.id = ? AND r.account_id = ? AND r.expires_ms > ?",
        (response_id, account_id, now_ms),
    )
    if not rows or not connection.execute_many("DELETE FROM responses WHERE id = ?", [(rows[0][0],)]):
        return False
    _add_bytes(connection, [(row[1], -row[2]) for row in rows])
    return True


def delete_expired(connection: Connection, now_ms: int) -> int:
    """Delete responses that have expired, a few at a time, and return how many. Open ones stay."""
    rows = connection.execute(
        "SELECT id, account_id, request_bytes + response_bytes FROM responses WHERE expires_ms <= ? AND is_open = 0"
        " ORDER BY expires_ms LIMIT ?" + connection.skip_locked,
        (now_ms, DELETE_ROWS),
    )
    chosen = _up_to(rows, DELETE_BYTES)
    _delete_rows(connection, chosen)
    return len(chosen)


def erase(connection: Connection, account_id: int) -> None:
    """Delete all responses of an account."""
    connection.execute("DELETE FROM responses WHERE account_id = ?", (account_id,))
    connection.execute("DELETE FROM response_totals WHERE account_id = ?", (account_id,))


# ── background responses ──────────────────────────────────────────────────────────────────────────────────


class QueuedResponse(msgspec.Struct, frozen=True):
    """A claimed background response with its hold. `request` is encrypted."""

    id: int
    account_id: int
    key_id: str
    model: str
    cancelled_ms: int | None
    expires_ms: int
    amount: int
    created_ms: int
    request: bytes
    response: bytes


def find_queued(connection: Connection, response_id: int) -> QueuedResponse | None:
    """Return a background response with its hold, or None if it was deleted."""
    rows = connection.execute(
        "SELECT r.id, r.account_id, h.key_id, r.model, r.cancelled_ms, r.expires_ms, h.amount, r.created_ms,"
        " r.request, r.response"
        " FROM responses r JOIN holds h ON h.id = r.id WHERE r.id = ?",
        (response_id,),
    )
    return QueuedResponse(*rows[0]) if rows else None


def save(connection: Connection, response_id: int, attempt: int, size: int, response: bytes) -> bool:
    """Store output or error of a background response. False if the attempt is not the running one or the row gone."""
    rows = connection.execute(
        "SELECT r.account_id, r.response_bytes FROM responses r JOIN generations g ON g.id = r.id"
        " WHERE r.id = ? AND g.state = 'running' AND g.attempt = ?",
        (response_id, attempt),
    )
    if not rows or not _set_response(connection, response_id, size, response):
        return False
    _add_bytes(connection, [(rows[0][0], size - rows[0][1])])
    return True


def _set_response(connection: Connection, response_id: int, size: int, response: bytes) -> int:
    return connection.execute_many(
        "UPDATE responses SET response = ?, response_bytes = ? WHERE id = ?", [(response, size, response_id)]
    )


def mark_cancelled(connection: Connection, response_id: int, account_id: int, now_ms: int) -> bool:
    """Mark an unfinished background response of this account as cancelled. False if there is none."""
    rows = connection.execute(
        "SELECT r.id FROM responses r JOIN generations g ON g.id = r.id"
        " WHERE r.id = ? AND r.account_id = ? AND r.is_background = 1 AND g.state IN ('queued', 'running')",
        (response_id, account_id),
    )
    if not rows:
        return False
    return bool(connection.execute_many("UPDATE responses SET cancelled_ms = ? WHERE id = ?", [(now_ms, rows[0][0])]))


def unwanted(connection: Connection, ids: Sequence[int]) -> set[int]:
    """Return those of these background responses that were cancelled or deleted."""
    rows = connection.select_by_ids("SELECT id, cancelled_ms FROM responses WHERE id IN (…)", ids)
    return set(ids) - {row[0] for row in rows if row[1] is None}


def waiting(connection: Connection, limit: int) -> list[tuple[int, str]]:
    """Return ID and model of the first queued responses, in queue order."""
    rows = connection.execute(
        "SELECT id, model FROM generations WHERE state = 'queued' AND kind = 'chat'"
        " ORDER BY turn, created_ms, id LIMIT ?",
        (limit,),
    )
    return [(row[0], row[1]) for row in rows]


#: Unfinished responses are few: each account may queue only so many.
_OPEN = (
    "SELECT g.id, g.account_id, g.attempt, g.model, g.engine, g.created_ms FROM responses r"
    " JOIN generations g ON g.id = r.id WHERE r.is_open = 1"
)


def expired_leases(connection: Connection, lease_before_ms: int) -> list[StaleJob]:
    """Return the running background responses with a lease that ended before this time."""
    rows = connection.execute(
        f"{_OPEN} AND g.state = 'running' AND g.lease_until_ms < ? ORDER BY r.id LIMIT 512", (lease_before_ms,)
    )
    return [StaleJob(*row) for row in rows]


def waiting_since(connection: Connection, created_before_ms: int) -> list[StaleJob]:
    """Return the background responses that have been queued since before this time."""
    rows = connection.execute(
        f"{_OPEN} AND g.state = 'queued' AND g.created_ms < ? ORDER BY r.id LIMIT 512", (created_before_ms,)
    )
    return [StaleJob(*row) for row in rows]


def close_ended(connection: Connection, before_ms: int) -> int:
    """Mark ended background responses as closed, so that they can be deleted, and return how many.

    One without a generation was never queued; after `before_ms` its hold may still be on the way.
    """
    rows = connection.execute(
        "SELECT r.id FROM responses r LEFT JOIN generations g ON g.id = r.id WHERE r.is_open = 1"
        " AND (g.state NOT IN ('queued', 'running') OR (g.id IS NULL AND r.created_ms < ?)) LIMIT 512",
        (before_ms,),
    )
    return connection.execute_many("UPDATE responses SET is_open = 0 WHERE id = ?", rows) if rows else 0
