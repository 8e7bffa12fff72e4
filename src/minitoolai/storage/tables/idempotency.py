"""Rows of idempotency keys: claimed in the commit of a hold, answered in that of its charge, deleted after a day.

Plain functions of a connection; the caller owns the transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from minitoolai.core.models import JOBS_SUBMITTED, IdempotencyClaim, StoredResponse
from minitoolai.ledger.types import IDEMPOTENCY_TTL_MS, IdempotencyClaimState, LedgerState, Operation, PlaceHold
from minitoolai.storage.database import Connection, Row, SelectByIds

#: Rows deleted per transaction, so that no hold waits long for its commit.
DELETE_BATCH = 500


class IdempotencyRow(msgspec.Struct, frozen=True):
    """A known key: fingerprint of its request, state of its hold, and the response if one is stored."""

    fingerprint: bytes
    hold_id: int
    state: IdempotencyClaimState
    response: StoredResponse | None
    #: The model that was asked for, None if the generation is gone.
    model: str | None = None


def select_claims(operations: Sequence[Operation]) -> SelectByIds:
    """Build the SELECT of the keys that these operations claim; without ids it costs no query."""
    ids = [o.claim.id for o in operations if isinstance(o, PlaceHold) and o.claim is not None]
    return SelectByIds(
        "SELECT i.id, i.created_ms, i.status, h.id, h.state, h.settled"
        " FROM idempotency_keys i JOIN holds h ON h.id = i.hold_id WHERE i.id IN (…)",
        ids,
    )


def claim_states(rows: Iterable[Row]) -> dict[str, IdempotencyClaimState]:
    """Turn the rows of `select_claims` into claim states by key."""
    return {row[0]: IdempotencyClaimState(row[1], row[2] is not None, row[3], row[4], row[5]) for row in rows}


def save(connection: Connection, state: LedgerState) -> None:
    """Insert the keys claimed by the holds of this batch. A key that is free again is overwritten."""
    claims = {p.claim.id: (p.claim, p) for p, _ in state.new_holds if p.claim is not None}
    if claims:
        connection.queue_write(
            "INSERT INTO idempotency_keys (id, hold_id, fingerprint, created_ms, status, headers, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET hold_id = excluded.hold_id, fingerprint = excluded.fingerprint,"
            " created_ms = excluded.created_ms, status = excluded.status, headers = excluded.headers,"
            " body = excluded.body",
            [_new_row(claim, p) for claim, p in claims.values()],
        )


def _new_row(claim: IdempotencyClaim, hold: PlaceHold) -> tuple[object, ...]:
    row = (claim.id, hold.hold_id, claim.fingerprint, hold.now_ms)
    answer = claim.answer
    return (*row, None, None, None) if answer is None else (*row, answer.status, answer.headers, answer.body)


def save_answers(connection: Connection, state: LedgerState) -> None:
    """Store the responses of settled holds, unless the key belongs to another hold by now."""
    connection.queue_write(
        "UPDATE idempotency_keys SET status = ?, headers = ?, body = ? WHERE id = ? AND hold_id = ?",
        [(*msgspec.structs.astuple(answer.response), answer.claim_id, hold_id) for hold_id, answer in state.answers],
    )


def find(connection: Connection, claim_id: str) -> IdempotencyRow | None:
    """Return the row of a key, or None."""
    rows = connection.execute(
        "SELECT i.fingerprint, i.hold_id, i.created_ms, h.state, h.settled, i.status, i.headers, i.body, g.model"
        " FROM idempotency_keys i JOIN holds h ON h.id = i.hold_id LEFT JOIN generations g ON g.id = i.hold_id"
        " WHERE i.id = ?",
        (claim_id,),
    )
    if not rows:
        return None
    fingerprint, hold_id, created_ms, hold_state, settled, status, headers, body, model = rows[0]
    response = None if status is None else StoredResponse(status, headers, bytes(body))
    return IdempotencyRow(
        bytes(fingerprint),
        hold_id,
        IdempotencyClaimState(created_ms, response is not None, hold_id, hold_state, settled),
        response,
        model,
    )


def unfailed_jobs(connection: Connection, job_ids: Sequence[int]) -> list[int]:
    """Return those of these image jobs that are charged or may still be."""
    sql = "SELECT id FROM generations WHERE state IN ('queued', 'running', 'succeeded') AND id IN (…)"
    return [row[0] for row in connection.select_by_ids(sql, job_ids)]


def forget_jobs(connection: Connection, claim_id: str, hold_id: int) -> None:
    """Free a key after all of its jobs failed, unless it belongs to another hold by now."""
    connection.execute(
        "UPDATE idempotency_keys SET status = NULL, headers = NULL, body = NULL"
        f" WHERE id = ? AND hold_id = ? AND status = {JOBS_SUBMITTED}",
        (claim_id, hold_id),
    )


def store_response(connection: Connection, claim_id: str, hold_id: int, response: StoredResponse) -> None:
    """Store the response, unless the work failed without a charge: then the key is free for another attempt."""
    connection.execute(
        "UPDATE idempotency_keys SET status = ?, headers = ?, body = ? WHERE id = ? AND hold_id = ?"
        " AND EXISTS (SELECT 1 FROM holds h JOIN generations g ON g.id = h.id"
        " WHERE h.id = ? AND (h.state <> 'voided' OR g.state = 'succeeded'))",
        (response.status, response.headers, response.body, claim_id, hold_id, hold_id),
    )


def rows_with_response(connection: Connection, after_ms: int, until_ms: int) -> list[tuple[str, int]]:
    """Return (key, time) of keys created in this interval that have a response, oldest first, at most DELETE_BATCH."""
    rows = connection.execute(
        "SELECT id, created_ms FROM idempotency_keys WHERE created_ms > ? AND created_ms <= ? AND status IS NOT NULL"
        " ORDER BY created_ms LIMIT ?",
        (after_ms, until_ms, DELETE_BATCH),
    )
    return [(row[0], row[1]) for row in rows]


def drop_responses(connection: Connection, keys: Sequence[tuple[str, int]]) -> None:
    """Delete these responses. The keys stay, so that their requests are not run again."""
    connection.execute_many(
        "UPDATE idempotency_keys SET status = NULL, headers = NULL, body = NULL WHERE id = ? AND created_ms = ?", keys
    )


def delete_expired(connection: Connection, now_ms: int) -> int:
    """Delete keys older than a day and return how many, at most DELETE_BATCH.

    The rows are locked first, because a key that is claimed again at this moment is no longer old.
    """
    rows = connection.execute(
        "SELECT id FROM idempotency_keys WHERE created_ms <= ? ORDER BY created_ms LIMIT ?" + connection.skip_locked,
        (now_ms - IDEMPOTENCY_TTL_MS, DELETE_BATCH),
    )
    if rows:
        connection.execute_many("DELETE FROM idempotency_keys WHERE id = ?", rows)
    return len(rows)
