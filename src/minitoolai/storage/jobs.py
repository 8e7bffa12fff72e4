"""Jobs in rows: the generations that wait for a worker. Claimed under a lease, renewed, looked at.

Whatever ends one goes through the ledger; this module reads and writes what the ledger needs for that, and the
changes that move no money. Plain functions of a connection; the caller holds the transaction.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.models import GenerationState
from minitoolai.ledger.types import LedgerState, Operation, PlaceHold, QueueState, Requeue, Settle
from minitoolai.storage import outbox
from minitoolai.storage.database import Connection, SelectByIds

#: Told to all processes when jobs are queued.
JOBS_CHANNEL = "minitoolai_jobs"

# ── for the ledger ────────────────────────────────────────────────────────────────────────────────────────


def attempted(operations: Sequence[Operation]) -> SelectByIds:
    """The jobs that these operations speak of. A batch of chats asks nothing."""
    ids = [o.hold_id for o in operations if isinstance(o, Settle | Requeue) and o.attempt is not None]
    return SelectByIds(
        "SELECT id, state, attempt, failures, lease_until_ms FROM generations WHERE id IN (…)", ids, lock=True
    )


def load_queues(connection: Connection, operations: Sequence[Operation], books: LedgerState) -> None:
    """The queues in which these operations ask for a place. A batch of chats costs no query."""
    asking = sorted({o.account_id for o in operations if isinstance(o, PlaceHold) and o.queue_limit is not None})
    if asking:
        rows = connection.select_by_ids(
            "SELECT account_id, count(*), max(turn) FROM generations WHERE state = 'queued' AND account_id IN (…)"
            " GROUP BY account_id",
            asking,
        )
        books.queues = {row[0]: QueueState(row[1], row[2]) for row in rows}
        books.first_turn = connection.execute("SELECT min(turn) FROM generations WHERE state = 'queued'")[0][0] or 0


def requeue(connection: Connection, books: LedgerState) -> None:
    """Attempts that came to nothing, before the rows of those that ended in the same batch."""
    changed = [
        (job.state, job.failures, job.lease_until_ms, key, job.attempt) for key, job in books.jobs.items() if job.dirty
    ]
    if changed:
        # Compare and set, as for holds: an attempt leaves `running` once.
        connection.queue_write(
            "UPDATE generations SET state = ?, failures = ?, lease_until_ms = ?, worker = NULL, step = 0"
            " WHERE id = ? AND attempt = ? AND state = 'running'",
            changed,
            otherwise="a job was moved by somebody else in the same moment; nothing was written",
        )


def save(connection: Connection, books: LedgerState) -> None:
    """What the ledger decided about jobs, after it wrote the rows that every generation has."""
    if books.turns:
        connection.queue_write(
            "UPDATE generations SET seed = ?, size = ?, webhook_url = ?, turn = ? WHERE id = ?",
            [
                (p.generation.seed, p.generation.size, p.generation.webhook_url, books.turns[p.hold_id], p.hold_id)
                for p, _ in books.placed
                if p.hold_id in books.turns
            ],
        )
        connection.notify(JOBS_CHANNEL, "")
    ended = [o for o in books.outcomes if books.holds[o[0]].kind == "image"]
    if ended:
        connection.queue_write(
            "UPDATE generations SET result = ?, error = ?, lease_until_ms = NULL WHERE id = ?",
            [(outcome.result, outcome.error, hold_id) for hold_id, _, _, _, outcome in ended],
        )
        outbox.announce(connection, [o[0] for o in ended], ended[0][3])


# ── for workers ───────────────────────────────────────────────────────────────────────────────────────────


class WaitingJob(msgspec.Struct, frozen=True):
    """A job in the queue, with what decides who draws it next, and beside what."""

    id: int
    account_id: int
    model: str
    size: str
    turn: int
    failures: int
    created_ms: int


class ClaimedJob(msgspec.Struct, frozen=True):
    """A job that is ours for as long as we renew its lease. `request` is what was submitted, as JSON."""

    id: int
    account_id: int
    attempt: int
    failures: int
    model: str
    price: int
    seed: int
    request: str
    created_ms: int


_QUEUE_ORDER = "ORDER BY turn, created_ms, id"


def waiting(connection: Connection, engine: str, models: Sequence[str], limit: int) -> list[WaitingJob]:
    """The first jobs of the queue that wait for this engine, of these models, in the queue's order."""
    listed = ",".join("?" * len(models))
    rows = connection.execute(
        "SELECT id, account_id, model, size, turn, failures, created_ms FROM generations WHERE state = 'queued'"
        f" AND engine = ? AND model IN ({listed}) {_QUEUE_ORDER} LIMIT ?",
        (engine, *models, limit),
    )
    return [WaitingJob(*row) for row in rows]


def claim(connection: Connection, ids: Sequence[int], *, worker: str, now_ms: int, lease_ms: int) -> list[ClaimedJob]:
    """Those of these jobs that still wait and that nobody else is claiming: from now on ours."""
    found = connection.select_by_ids(
        "SELECT id FROM generations WHERE state = 'queued' AND id IN (…)" + connection.skip_locked, ids
    )
    ours = [row[0] for row in found]
    if not ours:
        return []
    connection.execute_many(
        "UPDATE generations SET state = 'running', attempt = attempt + 1, worker = ?, lease_until_ms = ?"
        " WHERE id = ? AND state = 'queued'",
        [(worker, now_ms + lease_ms, job_id) for job_id in ours],
    )
    rows = connection.select_by_ids(
        "SELECT id, account_id, attempt, failures, model, price_output, seed, request, created_ms FROM generations"
        " WHERE id IN (…) ORDER BY turn, created_ms, id",
        ours,
    )
    return [ClaimedJob(*row) for row in rows]


class Sign(msgspec.Struct, frozen=True):
    """A sign of life of one attempt: the steps it has done."""

    id: int
    attempt: int
    step: int


def renew(connection: Connection, signs: Sequence[Sign], lease_until_ms: int) -> set[int]:
    """Move the leases and write down the steps; which of these attempts are not under way any more."""
    # Locked in the order in which the ledger locks them.
    connection.select_by_ids("SELECT id FROM generations WHERE id IN (…)", [sign.id for sign in signs], lock=True)
    connection.execute_many(
        "UPDATE generations SET lease_until_ms = ?, step = ? WHERE id = ? AND attempt = ? AND state = 'running'",
        [(lease_until_ms, sign.step, sign.id, sign.attempt) for sign in signs],
    )
    rows = connection.select_by_ids(
        "SELECT id, attempt FROM generations WHERE state = 'running' AND id IN (…)", [sign.id for sign in signs]
    )
    current = {(row[0], row[1]) for row in rows}
    return {sign.id for sign in signs if (sign.id, sign.attempt) not in current}


def lapsed(connection: Connection, lease_before_ms: int) -> list[tuple[int, int, int]]:
    """(job, account, attempt) of jobs under way whose lease ended before this moment."""
    rows = connection.execute(
        "SELECT id, account_id, attempt FROM generations WHERE kind = 'image' AND state = 'running'"
        " AND lease_until_ms < ? ORDER BY id LIMIT 512",
        (lease_before_ms,),
    )
    return [(row[0], row[1], row[2]) for row in rows]


def stale(connection: Connection, created_before_ms: int) -> list[tuple[int, int]]:
    """(job, account) of jobs that have waited since before this moment."""
    rows = connection.execute(
        f"SELECT id, account_id FROM generations WHERE state = 'queued' AND created_ms < ? {_QUEUE_ORDER} LIMIT 512",
        (created_before_ms,),
    )
    return [(row[0], row[1]) for row in rows]


# ── for those who look ────────────────────────────────────────────────────────────────────────────────────


class FoundJob(msgspec.Struct, frozen=True):
    """A job's row, and how many are drawn before it while it waits."""

    account_id: int
    state: GenerationState
    step: int
    seed: int
    model: str
    served_model: str | None
    result: str | None
    error_code: str | None
    error: str | None
    #: None once its words are forgotten.
    request: str | None
    size: str
    created_ms: int
    finished_ms: int | None
    ahead: int = 0


def find(connection: Connection, job_id: int) -> FoundJob | None:
    """The job of this number."""
    rows = connection.execute(
        "SELECT account_id, state, step, seed, model, served_model, result, error_code, error, request, size,"
        " created_ms, finished_ms, turn FROM generations WHERE id = ? AND kind = 'image'",
        (job_id,),
    )
    if not rows:
        return None
    *facts, turn = rows[0]
    found = FoundJob(*facts)
    if found.state != "queued":
        return found
    ahead = connection.execute(
        "SELECT count(*) FROM generations WHERE state = 'queued' AND (turn, created_ms, id) < (?, ?, ?)",
        (turn, found.created_ms, job_id),
    )
    return msgspec.structs.replace(found, ahead=ahead[0][0])


# (merged from workers) Who draws, on a database that several processes share: each says now and then what it offers.

#: Engine → the models of the catalog that it can draw.
Offers = dict[str, list[str]]
#: A process that said nothing for so long offers nothing; after a day its row goes.
SILENT_MS, FORGET_MS = 20_000, MS_PER_DAY

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Offers).decode


def report(connection: Connection, name: str, offers: Offers, now_ms: int) -> None:
    """This process lives, and can draw this."""
    row = (_encode(offers).decode(), now_ms, name)
    if not connection.execute_many("UPDATE workers SET offers = ?, seen_ms = ? WHERE name = ?", [row]):
        connection.execute_many("INSERT INTO workers (offers, seen_ms, name) VALUES (?, ?, ?)", [row])
        connection.execute_many("DELETE FROM workers WHERE seen_ms < ?", [(now_ms - FORGET_MS,)])


def leave(connection: Connection, name: str) -> None:
    """This process offers nothing any more."""
    connection.execute_many("DELETE FROM workers WHERE name = ?", [(name,)])


def offered(connection: Connection, now_ms: int) -> Offers:
    """What all processes that live can draw together."""
    together: Offers = {}
    for row in connection.execute("SELECT offers FROM workers WHERE seen_ms > ?", (now_ms - SILENT_MS,)):
        for engine, models in _decode(row[0]).items():
            together.setdefault(engine, []).extend(models)
    return together
