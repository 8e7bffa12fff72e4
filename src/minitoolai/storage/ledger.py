"""Books in and out of rows: one round trip loads what a batch touches, another writes what it decided.

Everything here is a plain function of a connection, called inside the writer's transaction. Locks are taken in
one order on every path: accounts by ascending id, then holds, then generations. What jobs have beyond chats and
speech is in storage/jobs.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from minitoolai.core.books import (
    AccountState,
    Books,
    Checkpoint,
    HoldState,
    JobState,
    Operation,
    Outside,
    PlaceHold,
    Settle,
    Verdict,
)
from minitoolai.storage import budgets, idempotency, jobs
from minitoolai.storage.database import ByIds, Connection, Row

Decide = Callable[[Books, Operation], Verdict]


def apply(connection: Connection, operations: Sequence[Operation], decide: Decide) -> list[Verdict]:
    """Judge a batch against the books and write the result; the caller holds the transaction."""
    books = load(connection, operations)
    verdicts = [decide(books, operation) for operation in operations]
    save(connection, books)
    return verdicts


def carries(connection: Connection, settle: Settle) -> bool:
    """Return True if the books carry what this settle asked for: its cost, and the state and usage it reports."""
    rows = connection.execute(
        "SELECT state, cost, input_units, output_units, cached_units FROM generations WHERE id = ?", (settle.hold_id,)
    )
    o = settle.outcome
    return rows == [(o.state, settle.cost, o.input_units, o.output_units, o.cached_units)]


_ACCOUNTS = "SELECT id, posted, held, version FROM accounts WHERE is_system = 0 AND id IN (…)"
_HOLDS = (
    "SELECT id, account_id, amount, progress, state, settled, shortfall, lease_until_ms, kind, budget_id, budget_ms"
    " FROM holds WHERE id IN (…)"
)
_REFERENCES = "SELECT external_ref FROM transfers WHERE external_ref IN (…)"


def load(connection: Connection, operations: Sequence[Operation]) -> Books:
    """The accounts and holds these operations name, as they are now; of most batches, nothing else is asked."""
    account_ids = sorted({operation.account_id for operation in operations})
    hold_ids = [operation.hold_id for operation in operations if not isinstance(operation, Outside)]
    # Asked in the order in which rows are locked.
    questions = [ByIds(_ACCOUNTS, account_ids, lock=True), ByIds(_HOLDS, hold_ids, lock=True)]
    if all(map(_is_simple, operations)):
        accounts, holds = connection.select_each(*questions)
        books = _books(accounts, holds)
        books.is_simple = not any(hold.kind == "image" or hold.budget_id for hold in books.holds.values())
    else:
        references = [operation.external_ref for operation in operations if isinstance(operation, Outside)]
        questions += [ByIds(_REFERENCES, references), jobs.attempted(operations), idempotency.claimed(operations)]
        accounts, holds, known, attempted, claimed = connection.select_each(*questions)
        books = _books(accounts, holds)
        books.credited = {row[0] for row in known}
        books.jobs = {row[0]: JobState(*row[1:]) for row in attempted}
        books.claims = idempotency.states(claimed)
        jobs.load_queues(connection, operations, books)
    if not books.is_simple:
        budgets.load(connection, operations, books)
    return books


def _is_simple(operation: Operation) -> bool:
    """Of a chat or of speech, under no Idempotency-Key and no budget: what most are."""
    if isinstance(operation, PlaceHold):
        return operation.claim is None and operation.budget is None and operation.kind != "image"
    return isinstance(operation, Checkpoint) or (isinstance(operation, Settle) and operation.attempt is None)


def _books(accounts: Sequence[Row], holds: Sequence[Row]) -> Books:
    return Books(
        {row[0]: AccountState(row[1], row[2], row[3]) for row in accounts},
        {row[0]: HoldState(*row[1:]) for row in holds},
    )


def save(connection: Connection, books: Books) -> None:
    """Write everything the batch changed."""
    _update_accounts(connection, books)
    _write_holds(connection, books)
    if not books.is_simple:
        jobs.requeue(connection, books)
    _write_generations(connection, books)
    if books.transfers:
        connection.write_soon(
            "INSERT INTO transfers (kind, debit, credit, amount, hold_id, external_ref, account_version,"
            " balance_after, created_ms, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (t.kind, t.debit, t.credit, t.amount, t.hold_id, t.external_ref, t.account_version)
                + (t.balance_after, t.created_ms, t.reason)
                for t in books.transfers
            ],
        )
    if not books.is_simple:
        jobs.save(connection, books)
        idempotency.save(connection, books)
        budgets.save(connection, books)


def _update_accounts(connection: Connection, books: Books) -> None:
    changed = [(a.posted, a.held, a.version, key) for key, a in books.accounts.items() if a.dirty]
    if changed:
        connection.write_soon("UPDATE accounts SET posted = ?, held = ?, version = ? WHERE id = ?", changed)


def _write_holds(connection: Connection, books: Books) -> None:
    if books.placed:
        connection.write_soon(
            "INSERT INTO holds (id, account_id, key_id, kind, amount, lease_until_ms) VALUES (?, ?, ?, ?, ?, ?)",
            [(p.hold_id, p.account_id, p.key_id, p.kind, amount, p.lease_until_ms) for p, amount in books.placed],
        )
    changed = [
        (h.progress, h.state, h.settled, h.shortfall, h.lease_until_ms, key)
        for key, h in books.holds.items()
        if h.dirty
    ]
    if changed:
        # Compare and set: a hold leaves `pending` once, whoever else may be writing.
        connection.write_soon(
            "UPDATE holds SET progress = ?, state = ?, settled = ?, shortfall = ?, lease_until_ms = ?"
            " WHERE id = ? AND state = 'pending'",
            changed,
            otherwise="a hold was settled by somebody else in the same moment; nothing was written",
        )


def _write_generations(connection: Connection, books: Books) -> None:
    if books.placed:
        connection.write_soon(
            "INSERT INTO generations (id, account_id, key_id, kind, model, engine, state, price_input,"
            " price_output, request, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_generation_row(placed) for placed, _ in books.placed],
        )
    if books.outcomes:
        connection.write_soon(
            "UPDATE generations SET state = ?, input_units = ?, output_units = ?, cached_units = ?,"
            " estimated = ?, served_model = ?, error_code = ?, first_token_ms = ?, purchase = ?, cost = ?,"
            " finished_ms = ? WHERE id = ?",
            [
                (o.state, o.input_units, o.output_units, o.cached_units, int(o.estimated), o.served_model)
                + (o.error_code, o.first_token_ms, o.purchase, captured + shortfall, now_ms, hold_id)
                for hold_id, captured, shortfall, now_ms, o in books.outcomes
            ],
        )

    rerouted = [(o.engine, o.attempts, hold_id) for hold_id, _, _, _, o in books.outcomes if o.engine is not None]
    if rerouted:
        connection.write_soon("UPDATE generations SET engine = ?, attempts = ? WHERE id = ?", rerouted)


def _generation_row(placed: PlaceHold) -> tuple[object, ...]:
    g = placed.generation
    head = (placed.hold_id, placed.account_id, placed.key_id, g.kind, g.model, g.engine, g.state)
    return (*head, g.price_input, g.price_output, g.request, placed.now_ms)


def pending_chat_holds(connection: Connection, lease_before_ms: int) -> list[tuple[int, int]]:
    """(hold, account) of chat and speech holds whose lease ended before this moment; images have no lease."""
    return [
        (row[0], row[1])
        for row in connection.execute(
            "SELECT id, account_id FROM holds WHERE state = 'pending' AND kind IN ('chat', 'speech')"
            " AND lease_until_ms < ? ORDER BY id LIMIT 512",
            (lease_before_ms,),
        )
    ]
