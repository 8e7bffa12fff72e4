"""Job queue in the database: generations that workers claim under a lease, renew and finish.

Jobs are images and background responses (storage/tables/responses.py). They share the fair queue and its limits. A job
ends only through the ledger. This module reads and writes what the ledger needs for jobs, and makes the changes that
move no money. Plain functions of a connection; the caller owns the transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.models import GenerationState, Kind
from minitoolai.ledger.types import LedgerState, Operation, PlaceHold, QueueState, Requeue, Settle
from minitoolai.storage.database import Connection, SelectByIds
from minitoolai.storage.tables import outbox

#: Publish/subscribe channel: notified when jobs are queued.
JOBS_CHANNEL = "minitoolai_jobs"

# ── for the ledger ────────────────────────────────────────────────────────────────────────────────────────


def select_attempts(operations: Sequence[Operation]) -> SelectByIds:
    """Build the SELECT of the jobs that these operations name; without ids it costs no query."""
    ids = [o.hold_id for o in operations if isinstance(o, Settle | Requeue) and o.attempt is not None]
    return SelectByIds(
        "SELECT id, state, attempt, failures, losses, lease_until_ms FROM generations WHERE id IN (…)", ids, lock=True
    )


def load_queues(connection: Connection, operations: Sequence[Operation], state: LedgerState) -> None:
    """Load the queues that these operations join. A batch without jobs costs no query."""
    account_ids = sorted({o.account_id for o in operations if isinstance(o, PlaceHold) and o.queue_limit is not None})
    if account_ids:
        rows = connection.select_by_ids(
            "SELECT account_id, count(*), max(turn) FROM generations WHERE state = 'queued' AND account_id IN (…)"
            " GROUP BY account_id",
            account_ids,
        )
        state.queues = {row[0]: QueueState(row[1], row[2]) for row in rows}
        state.first_turn = connection.execute("SELECT min(turn) FROM generations WHERE state = 'queued'")[0][0] or 0


def save_requeued(connection: Connection, state: LedgerState) -> None:
    """Write jobs that have lost an attempt without a result, before the jobs that ended in the same batch."""
    changed = [
        (job.state, job.failures, job.losses, job.lease_until_ms, key, job.attempt)
        for key, job in state.jobs.items()
        if job.dirty
    ]
    if changed:
        # Compare and set, as for holds: an attempt leaves `running` only once.
        connection.queue_write(
            "UPDATE generations SET state = ?, failures = ?, losses = ?, lease_until_ms = ?, worker = NULL, step = 0"
            " WHERE id = ? AND attempt = ? AND state = 'running'",
            changed,
            conflict_error="a job was changed by another process at the same time; nothing was written",
        )


def save(connection: Connection, state: LedgerState) -> None:
    """Write the job columns of new and finished jobs, after the columns that every generation has."""
    if state.turns:
        connection.queue_write(
            "UPDATE generations SET seed = ?, size = ?, webhook_url = ?, turn = ? WHERE id = ?",
            [
                (p.generation.seed, p.generation.size, p.generation.webhook_url, state.turns[p.hold_id], p.hold_id)
                for p, _ in state.new_holds
                if p.hold_id in state.turns
            ],
        )
        connection.notify(JOBS_CHANNEL, "")
    ended = [o for o in state.outcomes if state.holds[o[0]].kind == "image"]
    if ended:
        connection.queue_write(
            "UPDATE generations SET result = ?, error = ?, lease_until_ms = NULL WHERE id = ?",
            [(outcome.result, outcome.error, hold_id) for hold_id, _, _, _, outcome in ended],
        )
        outbox.enqueue_webhooks(connection, [o[0] for o in ended], ended[0][3])


# ── for workers ───────────────────────────────────────────────────────────────────────────────────────────


class WaitingJob(msgspec.Struct, frozen=True):
    """Queued job, with the columns that decide when it runs and in which batch."""

    id: int
    account_id: int
    model: str
    size: str
    turn: int
    #: Failures and losses.
    setbacks: int
    created_ms: int


class ClaimedJob(msgspec.Struct, frozen=True):
    """Job that this worker owns as long as it renews the lease. `request` is the submitted request as JSON."""

    id: int
    account_id: int
    attempt: int
    #: Failures and losses.
    setbacks: int
    model: str
    price: int
    seed: int
    request: str
    created_ms: int


_QUEUE_ORDER = "ORDER BY turn, created_ms, id"


#: Place in the queue: turn, creation time, ID.
Place = tuple[int, int, int]


def waiting(
    connection: Connection, engine: str, models: Sequence[str], limit: int, since: Place | None = None
) -> list[WaitingJob]:
    """Return the first queued jobs for this engine and these models, in queue order.

    `since` leaves out those before this place, and with them all that were there: while an old transaction is open,
    PostgreSQL cannot remove them from the index, and would pass over each of them.
    """
    listed = ",".join("?" * len(models))
    bound = " AND (turn, created_ms, id) >= (?, ?, ?)" if since else ""
    rows = connection.execute(
        "SELECT id, account_id, model, size, turn, failures + losses, created_ms FROM generations"
        f" WHERE state = 'queued' AND kind = 'image' AND engine = ? AND model IN ({listed}){bound}"
        f" {_QUEUE_ORDER} LIMIT ?",
        (engine, *models, *(since or ()), limit),
    )
    return [WaitingJob(*row) for row in rows]


def claim(
    connection: Connection, ids: Sequence[int], *, worker: str, now_ms: int, lease_ms: int, limit: int | None = None
) -> list[ClaimedJob]:
    """Claim those of these jobs that are still queued, at most `limit`, under a lease, in one statement.

    Skip jobs that another worker is claiming. `now_ms` is the time on the clock for leases.
    """
    if not ids:
        return []
    listed = ",".join("?" * len(ids))
    rows = connection.execute(
        # Materialized: else PostgreSQL might run it again for each row, and claim more than the limit. With the
        # concatenation it does not use the index of queued jobs, which is long while an old transaction is open.
        f"WITH free AS MATERIALIZED (SELECT id FROM generations WHERE state || '' = 'queued' AND id IN ({listed})"
        f" {_QUEUE_ORDER} LIMIT ?{connection.skip_locked})"
        " UPDATE generations SET state = 'running', attempt = attempt + 1, worker = ?, lease_until_ms = ?"
        " WHERE id IN (SELECT id FROM free)"
        " RETURNING id, account_id, attempt, failures + losses, model, price_output, seed, request, created_ms, turn",
        (*ids, len(ids) if limit is None else limit, worker, now_ms + lease_ms),
    )
    return [ClaimedJob(*row[:9]) for row in sorted(rows, key=lambda row: (row[9], row[8], row[0]))]


class LeaseRenewal(msgspec.Struct, frozen=True):
    """Heartbeat of one attempt, with the number of steps done."""

    id: int
    attempt: int
    step: int


def renew_leases(connection: Connection, renewals: Sequence[LeaseRenewal], lease_until_ms: int) -> set[int]:
    """Extend the leases, store the progress, and return the jobs with another running attempt, or none."""
    # Lock in the same order as the ledger.
    connection.select_by_ids("SELECT id FROM generations WHERE id IN (…)", [one.id for one in renewals], lock=True)
    connection.execute_many(
        "UPDATE generations SET lease_until_ms = ?, step = ? WHERE id = ? AND attempt = ? AND state = 'running'",
        [(lease_until_ms, one.step, one.id, one.attempt) for one in renewals],
    )
    rows = connection.select_by_ids(
        "SELECT id, attempt FROM generations WHERE state = 'running' AND id IN (…)", [one.id for one in renewals]
    )
    current = {(row[0], row[1]) for row in rows}
    return {one.id for one in renewals if (one.id, one.attempt) not in current}


def forget_losses(connection: Connection, job_id: int, attempt: int) -> None:
    """Forget the losses of a job that has been drawn: it is not what ended its workers."""
    connection.execute_many(
        "UPDATE generations SET losses = 0 WHERE id = ? AND attempt = ? AND state = 'running'", [(job_id, attempt)]
    )


def write_steps(connection: Connection, worker: str, steps: Mapping[int, int]) -> None:
    """Publish the number of steps done of each job that this worker runs."""
    text = _encode_steps(steps).decode()
    if not connection.execute_many("UPDATE worker_steps SET steps = ? WHERE worker = ?", [(text, worker)]):
        connection.execute_many("INSERT INTO worker_steps (steps, worker) VALUES (?, ?)", [(text, worker)])


def _step_of(connection: Connection, worker: str, job_id: int) -> int:
    """Return the step that the worker published last, or 0."""
    rows = connection.execute("SELECT steps FROM worker_steps WHERE worker = ?", (worker,))
    return _decode_steps(rows[0][0]).get(job_id, 0) if rows else 0


_encode_steps = msgspec.json.Encoder().encode
_decode_steps = msgspec.json.Decoder(dict[int, int]).decode


class StaleJob(NamedTuple):
    """A job that its worker abandoned, or that none can run."""

    id: int
    account_id: int
    attempt: int
    model: str
    engine: str
    created_ms: int


_STALE = "SELECT id, account_id, attempt, model, engine, created_ms FROM generations"


def expired_leases(connection: Connection, lease_before_ms: int) -> list[StaleJob]:
    """Return the running jobs with a lease that ended before this time."""
    rows = connection.execute(
        f"{_STALE} WHERE kind = 'image' AND state = 'running' AND lease_until_ms < ? ORDER BY lease_until_ms LIMIT 512",
        (lease_before_ms,),
    )
    # Sorted here: in the order of the IDs, SQLite would read every generation instead of the index of running jobs.
    return sorted(StaleJob(*row) for row in rows)


def jobs_waiting_since(connection: Connection, created_before_ms: int) -> list[StaleJob]:
    """Return the image jobs that have been queued since before this time."""
    rows = connection.execute(
        f"{_STALE} WHERE state = 'queued' AND kind = 'image' AND created_ms < ? {_QUEUE_ORDER} LIMIT 512",
        (created_before_ms,),
    )
    return [StaleJob(*row) for row in rows]


def barred(connection: Connection, kind: Kind) -> list[tuple[StaleJob, bool]]:
    """Return the queued jobs of a kind of revoked keys (False) and of suspended accounts (True)."""
    rows = connection.execute(
        "SELECT g.id, g.account_id, g.attempt, g.model, g.engine, g.created_ms, u.suspended_ms FROM generations g"
        " LEFT JOIN api_keys k ON k.id = g.key_id LEFT JOIN users u ON u.account_id = g.account_id"
        " WHERE g.state = 'queued' AND g.kind = ? AND (k.revoked_ms IS NOT NULL OR u.suspended_ms IS NOT NULL)"
        " LIMIT 512",
        (kind,),
    )
    return [(StaleJob(*row[:-1]), row[-1] is not None) for row in rows]


# ── for pollers ───────────────────────────────────────────────────────────────────────────────────────────


class JobDetails(msgspec.Struct, frozen=True):
    """Row of a job, with the number of queued jobs ahead of it."""

    account_id: int
    state: GenerationState
    step: int
    seed: int
    model: str
    served_model: str | None
    result: str | None
    error_code: str | None
    error: str | None
    #: None once retention has erased it.
    request: str | None
    size: str
    engine: str
    created_ms: int
    finished_ms: int | None
    ahead: int = 0


def find(connection: Connection, job_id: int) -> JobDetails | None:
    """Return the job with this ID, or None."""
    rows = connection.execute(
        "SELECT account_id, state, step, seed, model, served_model, result, error_code, error, request, size,"
        " engine, created_ms, finished_ms, turn, worker FROM generations WHERE id = ? AND kind = 'image'",
        (job_id,),
    )
    if not rows:
        return None
    *columns, turn, worker = rows[0]
    job = JobDetails(*columns)
    if job.state == "running" and worker is not None:
        return msgspec.structs.replace(job, step=max(job.step, _step_of(connection, worker, job_id)))
    if job.state != "queued":
        return job
    ahead = connection.execute(
        "SELECT count(*) FROM generations WHERE state = 'queued' AND (turn, created_ms, id) < (?, ?, ?)",
        (turn, job.created_ms, job_id),
    )
    return msgspec.structs.replace(job, ahead=ahead[0][0])


# ── worker registry ───────────────────────────────────────────────────────────────────────────────────────────────

# On a shared database each worker process regularly reports which models its engines can run.

#: Engine → catalog models that it can run.
EngineModels = dict[str, list[str]]
#: A worker that has not reported for this long is considered gone; its row is deleted after a day.
WORKER_TIMEOUT_MS, WORKER_ROW_TTL_MS = 20_000, MS_PER_DAY
#: It counts as lost for this long.
WORKER_LOST_MS = 1_800_000

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(EngineModels).decode


def register_worker(
    connection: Connection, name: str, offers: EngineModels, now_ms: int, presence: int | None = None
) -> None:
    """Report that this worker is alive and which models its engines can run.

    `presence`: the session that it keeps open, see storage/postgres/session.py.
    """
    row = (_encode(offers).decode(), now_ms, presence, name)
    if not connection.execute_many("UPDATE workers SET offers = ?, seen_ms = ?, presence = ? WHERE name = ?", [row]):
        connection.execute_many("INSERT INTO workers (offers, seen_ms, presence, name) VALUES (?, ?, ?, ?)", [row])
        connection.execute_many("DELETE FROM workers WHERE seen_ms < ?", [(now_ms - WORKER_ROW_TTL_MS,)])
        connection.execute("DELETE FROM worker_steps WHERE worker NOT IN (SELECT name FROM workers)")


def unregister_worker(connection: Connection, name: str) -> None:
    """Remove a worker that stops."""
    connection.execute_many("DELETE FROM workers WHERE name = ?", [(name,)])
    connection.execute_many("DELETE FROM worker_steps WHERE worker = ?", [(name,)])


def mark_vanished(connection: Connection, names: Collection[str], now_ms: int) -> None:
    """Count these workers as lost now, so that no job is offered for their engines."""
    connection.execute_many(
        "UPDATE workers SET presence = NULL, seen_ms = ? WHERE name = ?",
        [(now_ms - WORKER_TIMEOUT_MS, name) for name in sorted(names)],
    )


def running_on(connection: Connection, names: Collection[str]) -> list[StaleJob]:
    """Return the running image jobs of these workers."""
    listed = ",".join("?" * len(names))
    rows = connection.execute(
        f"{_STALE} WHERE kind = 'image' AND state = 'running' AND worker IN ({listed}) LIMIT 512", tuple(names)
    )
    return sorted(StaleJob(*row) for row in rows)


class Fleet(NamedTuple):
    """How many workers report, and how many of those come before this one by name."""

    size: int = 1
    rank: int = 0


def fleet(connection: Connection, name: str, now_ms: int) -> Fleet:
    """Return the place of this worker among those that report."""
    rows = connection.execute(
        "SELECT count(*), coalesce(sum(CASE WHEN name < ? THEN 1 ELSE 0 END), 0) FROM workers WHERE seen_ms > ?",
        (name, now_ms - WORKER_TIMEOUT_MS),
    )
    return Fleet(max(1, int(rows[0][0])), int(rows[0][1]))


class WorkerCounts(NamedTuple):
    """Number of workers that report, and of those that have stopped lately without unregistering."""

    alive: int
    lost: int


def count_workers(connection: Connection, now_ms: int) -> WorkerCounts:
    """Count the workers. `now_ms` is the time on the clock for leases."""
    alive_since_ms = now_ms - WORKER_TIMEOUT_MS
    seen = connection.execute("SELECT seen_ms FROM workers WHERE seen_ms > ?", (now_ms - WORKER_LOST_MS,))
    alive = sum(row[0] > alive_since_ms for row in seen)
    return WorkerCounts(alive, len(seen) - alive)


def available_models(connection: Connection, now_ms: int) -> EngineModels:
    """Return which models the live workers can run, by engine."""
    available: EngineModels = {}
    # Workers of a kind offer the same, so that a fleet is a few rows.
    for row in connection.execute(
        "SELECT DISTINCT offers FROM workers WHERE seen_ms > ?", (now_ms - WORKER_TIMEOUT_MS,)
    ):
        for engine, models in _decode(row[0]).items():
            known = available.setdefault(engine, [])
            known.extend(model for model in models if model not in known)
    return available
