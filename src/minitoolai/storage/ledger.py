"""Books in and out of rows: one round trip loads what a batch touches, another writes what it decided.

Everything here is a plain function of a connection, called inside the writer's transaction. Locks are taken in
one order on every path: accounts by ascending id, then holds, then generations. What jobs have beyond chats and
speech is in storage/jobs.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.models import Spending, period_ids
from minitoolai.ledger.types import (
    FUNDING,
    REVENUE,
    AccountState,
    Checkpoint,
    HoldState,
    JobState,
    LedgerState,
    Operation,
    Outside,
    PlaceHold,
    Result,
    Settle,
)
from minitoolai.storage import idempotency, jobs
from minitoolai.storage.database import Connection, Row, SelectByIds

# (merged from budgets) What budgets have spent, in rows: one for each day, each month and all time. Plain functions of a connection.
# (merged from budgets)
# (merged from budgets) The lock of the account, taken first by everybody, is the lock of its budgets, too.

#: A hold is settled long before its day and month are forgotten.
KEPT_MS = 100 * MS_PER_DAY
SWEPT_AT_ONCE = 500


def load_budgets(connection: Connection, operations: Sequence[Operation], books: LedgerState) -> None:
    """What was spent of the budgets that these operations count against. A batch without any costs no query."""
    asked: dict[str, None] = {}
    for operation in operations:
        if isinstance(operation, PlaceHold) and operation.budget is not None:
            asked |= dict.fromkeys(period_ids(operation.budget.id, operation.now_ms).values())
    known = dict.fromkeys(asked)
    for hold in books.holds.values():
        if hold.budget_id is not None and hold.budget_ms is not None:
            known |= dict.fromkeys(period_ids(hold.budget_id, hold.budget_ms).values())
    if known:
        rows = connection.select_by_ids("SELECT id, used FROM key_spending WHERE id IN (…)", list(known))
        books.spending = {name: Spending() for name in asked} | {row[0]: Spending(row[1]) for row in rows}


def save_budgets(connection: Connection, books: LedgerState) -> None:
    """Write what changed, and against which budget each new hold counts."""
    changed = [(name, spending.used) for name, spending in books.spending.items() if spending.dirty]
    if changed:
        at_ms = max((p.now_ms for p, _ in books.placed), default=0)
        connection.queue_write(
            "INSERT INTO key_spending (id, used, created_ms) VALUES (?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET used = excluded.used",
            [(name, used, at_ms) for name, used in changed],
        )
    counted = [(p.budget.id, p.now_ms, p.hold_id) for p, _ in books.placed if p.budget is not None]
    if counted:
        connection.queue_write("UPDATE holds SET budget_id = ?, budget_ms = ? WHERE id = ?", counted)


def spent(connection: Connection, budget_id: str, now_ms: int) -> dict[str, int]:
    """Nano-dollars promised or taken today, this month and in all."""
    names = period_ids(budget_id, now_ms)
    found = connection.select_by_ids("SELECT id, used FROM key_spending WHERE id IN (…)", list(names.values()))
    used: dict[str, int] = {row[0]: row[1] for row in found}
    return {period: used.get(name, 0) for period, name in names.items()}


def sweep(connection: Connection, now_ms: int) -> int:
    """Forget days and months that lie far back; how many, at most SWEPT_AT_ONCE. What was spent in all stays."""
    rows = connection.execute(
        "SELECT id FROM key_spending WHERE created_ms < ? AND id NOT LIKE '%/total' LIMIT ?" + connection.skip_locked,
        (now_ms - KEPT_MS, SWEPT_AT_ONCE),
    )
    if rows:
        connection.execute_many("DELETE FROM key_spending WHERE id = ?", rows)
    return len(rows)


Decide = Callable[[LedgerState, Operation], Result]


def apply(connection: Connection, operations: Sequence[Operation], decide: Decide) -> list[Result]:
    """Judge a batch against the books and write the result; the caller holds the transaction."""
    books = load(connection, operations)
    verdicts = [decide(books, operation) for operation in operations]
    save(connection, books)
    return verdicts


_ACCOUNTS = "SELECT id, posted, held, version FROM accounts WHERE is_system = 0 AND id IN (…)"
_HOLDS = (
    "SELECT id, account_id, amount, progress, state, settled, shortfall, lease_until_ms, kind, budget_id, budget_ms"
    " FROM holds WHERE id IN (…)"
)
_REFERENCES = "SELECT external_ref FROM transfers WHERE external_ref IN (…)"


def load(connection: Connection, operations: Sequence[Operation]) -> LedgerState:
    """The accounts and holds these operations name, as they are now; of most batches, nothing else is asked."""
    account_ids = sorted({operation.account_id for operation in operations})
    hold_ids = [operation.hold_id for operation in operations if not isinstance(operation, Outside)]
    # Asked in the order in which rows are locked.
    questions = [SelectByIds(_ACCOUNTS, account_ids, lock=True), SelectByIds(_HOLDS, hold_ids, lock=True)]
    if all(map(_is_simple, operations)):
        accounts, holds = connection.select_many(*questions)
        books = _books(accounts, holds)
        books.is_simple = not any(hold.kind == "image" or hold.budget_id for hold in books.holds.values())
    else:
        references = [operation.external_ref for operation in operations if isinstance(operation, Outside)]
        questions += [SelectByIds(_REFERENCES, references), jobs.attempted(operations), idempotency.claimed(operations)]
        accounts, holds, known, attempted, claimed = connection.select_many(*questions)
        books = _books(accounts, holds)
        books.credited = {row[0] for row in known}
        books.jobs = {row[0]: JobState(*row[1:]) for row in attempted}
        books.claims = idempotency.states(claimed)
        jobs.load_queues(connection, operations, books)
    if not books.is_simple:
        load_budgets(connection, operations, books)
    return books


def _is_simple(operation: Operation) -> bool:
    """Of a chat or of speech, under no Idempotency-Key and no budget: what most are."""
    if isinstance(operation, PlaceHold):
        return operation.claim is None and operation.budget is None and operation.kind != "image"
    return isinstance(operation, Checkpoint) or (isinstance(operation, Settle) and operation.attempt is None)


def _books(accounts: Sequence[Row], holds: Sequence[Row]) -> LedgerState:
    return LedgerState(
        {row[0]: AccountState(row[1], row[2], row[3]) for row in accounts},
        {row[0]: HoldState(*row[1:]) for row in holds},
    )


def save(connection: Connection, books: LedgerState) -> None:
    """Write everything the batch changed."""
    _update_accounts(connection, books)
    _write_holds(connection, books)
    if not books.is_simple:
        jobs.requeue(connection, books)
    _write_generations(connection, books)
    if books.transfers:
        connection.queue_write(
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
        save_budgets(connection, books)


def _update_accounts(connection: Connection, books: LedgerState) -> None:
    changed = [(a.posted, a.held, a.version, key) for key, a in books.accounts.items() if a.dirty]
    if changed:
        connection.queue_write("UPDATE accounts SET posted = ?, held = ?, version = ? WHERE id = ?", changed)


def _write_holds(connection: Connection, books: LedgerState) -> None:
    if books.placed:
        connection.queue_write(
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
        connection.queue_write(
            "UPDATE holds SET progress = ?, state = ?, settled = ?, shortfall = ?, lease_until_ms = ?"
            " WHERE id = ? AND state = 'pending'",
            changed,
            otherwise="a hold was settled by somebody else in the same moment; nothing was written",
        )


def _write_generations(connection: Connection, books: LedgerState) -> None:
    if books.placed:
        connection.queue_write(
            "INSERT INTO generations (id, account_id, key_id, kind, model, engine, state, price_input,"
            " price_output, request, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_generation_row(placed) for placed, _ in books.placed],
        )
    if books.outcomes:
        connection.queue_write(
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
        connection.queue_write("UPDATE generations SET engine = ?, attempts = ? WHERE id = ?", rerouted)


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


# (merged from audit) The invariants of the books as queries. Each returns the rows that break it; all nine must return none.

# The statement of each invariant is what the operator reads when it breaks.
INVARIANTS: dict[str, str] = {
    "posted equals the sum of transfers": """
        SELECT a.id, a.posted, coalesce(t.total, 0) FROM accounts a LEFT JOIN (
            SELECT account_id, sum(amount) AS total FROM (
                SELECT credit AS account_id, amount FROM transfers
                UNION ALL SELECT debit, -amount FROM transfers) AS both_sides GROUP BY account_id
        ) AS t ON t.account_id = a.id
        WHERE a.is_system = 0 AND a.posted <> coalesce(t.total, 0)""",
    "held equals the sum of pending holds": """
        SELECT a.id, a.held, coalesce(h.total, 0) FROM accounts a LEFT JOIN (
            SELECT account_id, sum(amount) AS total FROM holds WHERE state = 'pending' GROUP BY account_id
        ) AS h ON h.account_id = a.id WHERE a.held <> coalesce(h.total, 0)""",
    "no account below zero": """
        SELECT id, posted, held FROM accounts WHERE is_system = 0 AND (posted - held < 0 OR held < 0)""",
    "all accounts sum to zero": f"""
        SELECT customers.total, houses.total FROM
            (SELECT coalesce(sum(posted), 0) AS total FROM accounts WHERE is_system = 0) AS customers,
            (SELECT coalesce(sum(CASE WHEN credit IN ({REVENUE}, {FUNDING}) THEN amount ELSE 0 END
                - CASE WHEN debit IN ({REVENUE}, {FUNDING}) THEN amount ELSE 0 END), 0) AS total
             FROM transfers) AS houses
        WHERE customers.total + houses.total <> 0""",
    "every posted hold has its transfer, and the reverse": """
        SELECT h.id, h.state, h.settled, t.amount FROM holds h LEFT JOIN transfers t ON t.hold_id = h.id
        WHERE (h.state = 'posted') <> (t.hold_id IS NOT NULL)
           OR (t.hold_id IS NOT NULL AND (t.amount <> h.settled OR t.debit <> h.account_id))""",
    "the state of a generation fits its hold": """
        SELECT g.id, g.state, h.state FROM generations g JOIN holds h ON h.id = g.id
        WHERE (h.state = 'pending') <> (g.state IN ('queued', 'running')) OR g.account_id <> h.account_id""",
    "no hold without a generation": """
        SELECT h.id, h.kind, h.state FROM holds h LEFT JOIN generations g ON g.id = h.id WHERE g.id IS NULL""",
    "a budget has counted what its holds promise and took": """
        SELECT s.id, s.used, b.total FROM key_spending s LEFT JOIN
            (SELECT budget_id || '/total' AS id, sum(CASE WHEN state = 'pending' THEN amount ELSE settled END) AS total
             FROM holds WHERE budget_id IS NOT NULL GROUP BY budget_id) AS b ON b.id = s.id
        WHERE s.id LIKE '%/total' AND s.used <> coalesce(b.total, 0)""",
    "cost of usage equals usage transfers and shortfall": """
        SELECT u.total, t.total, s.total FROM
            (SELECT coalesce(sum(cost), 0) AS total FROM generations) AS u,
            (SELECT coalesce(sum(amount), 0) AS total FROM transfers WHERE kind = 'usage') AS t,
            (SELECT coalesce(sum(shortfall), 0) AS total FROM holds) AS s
        WHERE u.total <> t.total + s.total""",
}


def broken_invariants(connection: Connection, rows_each: int = 10) -> dict[str, list[Row]]:
    """Name of the invariant → the first rows that break it, all read from one snapshot. Empty is good."""
    broken = {}
    with connection.snapshot():
        for name, query in INVARIANTS.items():
            rows = connection.execute(f"{query} LIMIT {rows_each}")
            if rows:
                broken[name] = rows
    return broken
