"""Idempotency keys in rows: claimed in the commit of a hold, given their answer later, swept after a day.

Plain functions of a connection; the caller holds the transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from minitoolai.ledger.types import CLAIM_LIVES_MS, ClaimState, LedgerState, Operation, PlaceHold
from minitoolai.storage.database import Connection, Row, SelectByIds

#: Rows that one sweep deletes at most, so that no commit of a hold waits long for it.
SWEPT_AT_ONCE = 500


class StoredResponse(msgspec.Struct, frozen=True):
    """The answer of the first request under a key."""

    status: int
    headers: str
    #: Deflated.
    body: bytes


class IdempotencyRow(msgspec.Struct, frozen=True):
    """A key that was sent before, what became of its hold, and the answer where it is kept."""

    fingerprint: bytes
    hold_id: int
    state: ClaimState
    kept: StoredResponse | None


def claimed(operations: Sequence[Operation]) -> SelectByIds:
    """The keys that these operations claim, for the ledger. A batch without any asks nothing."""
    ids = [o.claim.id for o in operations if isinstance(o, PlaceHold) and o.claim is not None]
    return SelectByIds(
        "SELECT i.id, i.created_ms, i.status, h.id, h.state, h.settled"
        " FROM idempotency_keys i JOIN holds h ON h.id = i.hold_id WHERE i.id IN (…)",
        ids,
    )


def states(rows: Iterable[Row]) -> dict[str, ClaimState]:
    """What those rows say of each key."""
    return {row[0]: ClaimState(row[1], row[2] is not None, row[3], row[4], row[5]) for row in rows}


def save(connection: Connection, books: LedgerState) -> None:
    """The keys claimed by the holds of this batch; a free one begins anew."""
    held = {p.claim.id: (p.claim, p) for p, _ in books.placed if p.claim is not None}
    if held:
        connection.queue_write(
            "INSERT INTO idempotency_keys (id, hold_id, fingerprint, created_ms) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET hold_id = excluded.hold_id, fingerprint = excluded.fingerprint,"
            " created_ms = excluded.created_ms, status = NULL, headers = NULL, body = NULL",
            [(claim.id, p.hold_id, claim.fingerprint, p.now_ms) for claim, p in held.values()],
        )


def find(connection: Connection, claim_id: str) -> IdempotencyRow | None:
    """What is known of a key."""
    rows = connection.execute(
        "SELECT i.fingerprint, i.hold_id, i.created_ms, h.state, h.settled, i.status, i.headers, i.body"
        " FROM idempotency_keys i JOIN holds h ON h.id = i.hold_id WHERE i.id = ?",
        (claim_id,),
    )
    if not rows:
        return None
    fingerprint, hold_id, created_ms, hold_state, settled, status, headers, body = rows[0]
    kept = None if status is None else StoredResponse(status, headers, bytes(body))
    return IdempotencyRow(
        bytes(fingerprint), hold_id, ClaimState(created_ms, kept is not None, hold_id, hold_state, settled), kept
    )


def keep(connection: Connection, claim_id: str, hold_id: int, answer: StoredResponse) -> None:
    """Write the answer down, unless its work ended without a charge: then the key is free for another try."""
    connection.execute(
        "UPDATE idempotency_keys SET status = ?, headers = ?, body = ? WHERE id = ? AND hold_id = ?"
        " AND EXISTS (SELECT 1 FROM holds h JOIN generations g ON g.id = h.id"
        " WHERE h.id = ? AND (h.state <> 'voided' OR g.state = 'succeeded'))",
        (answer.status, answer.headers, answer.body, claim_id, hold_id, hold_id),
    )


def answered(connection: Connection, after_ms: int, until_ms: int) -> list[tuple[str, int]]:
    """Key and moment of those between these moments whose answer is kept, the oldest first; at most SWEPT_AT_ONCE."""
    rows = connection.execute(
        "SELECT id, created_ms FROM idempotency_keys WHERE created_ms > ? AND created_ms <= ? AND status IS NOT NULL"
        " ORDER BY created_ms LIMIT ?",
        (after_ms, until_ms, SWEPT_AT_ONCE),
    )
    return [(row[0], row[1]) for row in rows]


def drop_answers(connection: Connection, keys: Sequence[tuple[str, int]]) -> None:
    """Forget these answers. The keys stay: their requests are not run again."""
    connection.execute_many(
        "UPDATE idempotency_keys SET status = NULL, headers = NULL, body = NULL WHERE id = ? AND created_ms = ?", keys
    )


def sweep(connection: Connection, now_ms: int) -> int:
    """Delete keys of more than a day; how many, at most SWEPT_AT_ONCE.

    Locked while they are looked at: one that is claimed anew in this moment is not old any more.
    """
    rows = connection.execute(
        "SELECT id FROM idempotency_keys WHERE created_ms <= ? ORDER BY created_ms LIMIT ?" + connection.skip_locked,
        (now_ms - CLAIM_LIVES_MS, SWEPT_AT_ONCE),
    )
    if rows:
        connection.execute_many("DELETE FROM idempotency_keys WHERE id = ?", rows)
    return len(rows)
