"""Load the ledger state that a batch touches, save its changes, and audit the result.

Everything here is a plain function of a connection, called inside the writer's transaction: one round trip loads,
another saves. Every path takes locks in one order: accounts by ascending ID, then holds, then generations. Columns
that only image jobs have are in storage/tables/jobs.py.

On PostgreSQL, the SQL below is not the SQL that runs: postgres/bulk.py rewrites these statements so that one
statement takes arrays with all rows of the batch:

- UPDATE accounts (balances), INSERT INTO holds, UPDATE holds (compare and set; and the budget columns),
  INSERT INTO generations, UPDATE generations (outcome; and rerouted engine or model), INSERT INTO transfers,
  INSERT … ON CONFLICT INTO key_spending, usage_days and usage_buckets;
- in refunds.py: INSERT INTO refunds; in selling/purses.py: INSERT … ON CONFLICT INTO purse_windows, UPDATE purses; in
  jobs.py: UPDATE generations (requeued; queue columns; result); in idempotency.py: INSERT … ON CONFLICT INTO
  idempotency_keys, UPDATE idempotency_keys; in outbox.py: INSERT INTO outbox.

A statement that cannot be rewritten runs row by row and logs a warning once; tests/storage/postgres/test_bulk.py
checks that all of the above can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from minitoolai.core.clock import ID_SLACK_MS, MS_PER_DAY, first_id_at
from minitoolai.core.models import TEAM_ID_LENGTH, TEAM_PREFIX, Spending, period_ids, split_budget_ids
from minitoolai.ledger.types import (
    FUNDING,
    REVENUE,
    AccountState,
    Checkpoint,
    ExternalOperation,
    HoldState,
    JobState,
    LedgerState,
    Operation,
    PlaceHold,
    ReferencedOperation,
    Result,
    Settle,
    budgets_of,
    stored_budgets,
)
from minitoolai.storage.database import Connection, Row, SelectByIds
from minitoolai.storage.selling import purses
from minitoolai.storage.selling.invoices import INVOICES, WRONG_INVOICES
from minitoolai.storage.selling.purses import PURSES, WRONG_PURSES
from minitoolai.storage.tables import idempotency, jobs, refunds, usage_days
from minitoolai.storage.tables.refunds import REFUNDS, WRONG_REFUNDS

#: Spending per day and month is deleted after this time, long after every hold of the period is settled.
PERIOD_TTL_MS = 100 * MS_PER_DAY
DELETE_BATCH = 500


def load_budgets(connection: Connection, operations: Sequence[Operation], state: LedgerState) -> None:
    """Load the spending of the budgets that these operations count against. Without budgets it costs no query."""
    wanted: dict[str, None] = {}
    for operation in operations:
        if isinstance(operation, PlaceHold):
            for budget in budgets_of(operation):
                wanted |= dict.fromkeys(period_ids(budget.id, operation.now_ms).values())
    names = dict.fromkeys(wanted)
    for hold in state.holds.values():
        if hold.budget_id is not None and hold.budget_ms is not None:
            for budget_id in split_budget_ids(hold.budget_id):
                names |= dict.fromkeys(period_ids(budget_id, hold.budget_ms).values())
    if names:
        rows = connection.select_by_ids("SELECT id, used FROM key_spending WHERE id IN (…)", list(names))
        state.spending = {name: Spending() for name in wanted} | {row[0]: Spending(row[1]) for row in rows}


def save_budgets(connection: Connection, state: LedgerState) -> None:
    """Write the changed spending, and which budgets each new hold counts against."""
    changed = [(name, spending.used) for name, spending in state.spending.items() if spending.dirty]
    if changed:
        at_ms = max((p.now_ms for p, _ in state.new_holds), default=0)
        connection.queue_write(
            "INSERT INTO key_spending (id, used, created_ms) VALUES (?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET used = excluded.used",
            [(name, used, at_ms) for name, used in changed],
        )
    counted = [(stored_budgets(p), p.now_ms, p.hold_id) for p, _ in state.new_holds if budgets_of(p)]
    if counted:
        connection.queue_write("UPDATE holds SET budget_id = ?, budget_ms = ? WHERE id = ?", counted)


def budget_spent(connection: Connection, budget_id: str, now_ms: int) -> dict[str, int]:
    """Return the nano-dollars held or captured under a budget today, this month and in total."""
    names = period_ids(budget_id, now_ms)
    rows = connection.select_by_ids("SELECT id, used FROM key_spending WHERE id IN (…)", list(names.values()))
    used: dict[str, int] = {row[0]: row[1] for row in rows}
    return {period: used.get(name, 0) for period, name in names.items()}


def delete_old_periods(connection: Connection, now_ms: int) -> int:
    """Delete the spending of old days and months and return how many, at most DELETE_BATCH. Totals stay."""
    rows = connection.execute(
        "SELECT id FROM key_spending WHERE created_ms < ? AND id NOT LIKE '%/total' LIMIT ?" + connection.skip_locked,
        (now_ms - PERIOD_TTL_MS, DELETE_BATCH),
    )
    if rows:
        connection.execute_many("DELETE FROM key_spending WHERE id = ?", rows)
    return len(rows)


Decide = Callable[[LedgerState, Operation], Result]


def apply(connection: Connection, operations: Sequence[Operation], decide: Decide) -> list[Result]:
    """Decide every operation of a batch and write the outcome. The caller owns the transaction."""
    state = load(connection, operations)
    results = [decide(state, operation) for operation in operations]
    save(connection, state)
    return results


def carries(connection: Connection, settle: Settle) -> bool:
    """Return True if the books carry what this settle asked for: its cost, and the state and usage it reports."""
    rows = connection.execute(
        "SELECT state, cost, input_units, output_units, cached_units FROM generations WHERE id = ?", (settle.hold_id,)
    )
    o = settle.outcome
    return rows == [(o.state, settle.cost, o.input_units, o.output_units, o.cached_units)]


_ACCOUNTS = (
    "SELECT id, posted, held, version, purse_until_ms, purse_stamp FROM accounts WHERE is_system = 0 AND id IN (…)"
)
_HOLDS = (
    "SELECT id, account_id, amount, progress, state, settled, shortfall, lease_until_ms, kind, budget_id, budget_ms,"
    " purse_id FROM holds WHERE id IN (…)"
)
_REFERENCES = "SELECT external_ref FROM transfers WHERE external_ref IN (…)"


def load(connection: Connection, operations: Sequence[Operation]) -> LedgerState:
    """Load the accounts and holds that these operations name, and nothing else for most batches."""
    account_ids = sorted({operation.account_id for operation in operations})
    hold_ids = [
        o.hold_id
        for o in operations
        # A check against one class takes a sixth of the time.
        if type(o) is PlaceHold or type(o) is Settle or not isinstance(o, ExternalOperation)
    ]
    # In lock order.
    selects = [
        SelectByIds(_ACCOUNTS, account_ids, lock=True),
        SelectByIds(_HOLDS, hold_ids, lock=True),
        usage_days.select_work(operations),
    ]
    if all(map(_is_simple, operations)):
        accounts, holds, work = connection.select_many(*selects)
        state = _ledger_state(accounts, holds)
        state.is_simple = not any(hold.kind == "image" or hold.budget_id for hold in state.holds.values())
    else:
        references = [operation.external_ref for operation in operations if isinstance(operation, ReferencedOperation)]
        selects += [
            SelectByIds(_REFERENCES, references),
            jobs.select_attempts(operations),
            idempotency.select_claims(operations),
        ]
        accounts, holds, work, references_known, attempts, claims = connection.select_many(*selects)
        state = _ledger_state(accounts, holds)
        state.known_references = {row[0] for row in references_known}
        state.jobs = {row[0]: JobState(*row[1:]) for row in attempts}
        state.claims = idempotency.claim_states(claims)
        jobs.load_queues(connection, operations, state)
        refunds.load(connection, operations, state)
    state.work = usage_days.known_work(operations, work)
    if not state.is_simple:
        load_budgets(connection, operations, state)
    if owners := [row[0] for row in accounts if row[4]]:
        purses.load(connection, owners, operations, state)
    return state


def _is_simple(operation: Operation) -> bool:
    """Return True for an operation on no job, without Idempotency-Key and budget, as most are."""
    if isinstance(operation, PlaceHold):
        has_budget = operation.budget is not None or operation.team_budget is not None
        return operation.claim is None and not has_budget and operation.queue_limit is None
    return isinstance(operation, Checkpoint) or (isinstance(operation, Settle) and operation.attempt is None)


def _ledger_state(accounts: Sequence[Row], holds: Sequence[Row]) -> LedgerState:
    return LedgerState(
        {row[0]: AccountState(row[1], row[2], row[3], False, row[5]) for row in accounts},
        {row[0]: HoldState(*row[1:]) for row in holds},
    )


def save(connection: Connection, state: LedgerState) -> None:
    """Write everything that the batch changed."""
    if state.purses:
        purses.save(connection, state)
    _update_accounts(connection, state)
    _write_holds(connection, state)
    if not state.is_simple:
        jobs.save_requeued(connection, state)
    _write_generations(connection, state)
    if state.transfers:
        connection.queue_write(
            "INSERT INTO transfers (kind, debit, credit, amount, hold_id, external_ref, account_version,"
            " balance_after, created_ms, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (t.kind, t.debit, t.credit, t.amount, t.hold_id, t.external_ref, t.account_version)
                + (t.balance_after, t.created_ms, t.reason)
                for t in state.transfers
            ],
        )
    if state.outcomes:
        usage_days.save(connection, state)
    if not state.is_simple:
        refunds.save(connection, state)
        jobs.save(connection, state)
        idempotency.save(connection, state)
        save_budgets(connection, state)
    if state.answers:
        idempotency.save_answers(connection, state)
    if state.open_purses:
        purses.remember(connection, state)


def _update_accounts(connection: Connection, state: LedgerState) -> None:
    changed = [(a.posted, a.held, a.version, a.purse_stamp, key) for key, a in state.accounts.items() if a.dirty]
    if changed:
        connection.queue_write(
            "UPDATE accounts SET posted = ?, held = ?, version = ?, purse_stamp = ? WHERE id = ?", changed
        )


def _write_holds(connection: Connection, state: LedgerState) -> None:
    if state.new_holds:
        connection.queue_write(
            "INSERT INTO holds (id, account_id, key_id, kind, amount, lease_until_ms, purse_id)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (p.hold_id, p.account_id, p.key_id, p.kind, amount, p.lease_until_ms, state.holds[p.hold_id].purse_id)
                for p, amount in state.new_holds
            ],
        )
    changed = [
        (h.progress, h.state, h.settled, h.shortfall, h.lease_until_ms, key)
        for key, h in state.holds.items()
        if h.dirty
    ]
    if changed:
        # Compare and set: a hold leaves `pending` only once, even if another process writes at the same time.
        connection.queue_write(
            "UPDATE holds SET progress = ?, state = ?, settled = ?, shortfall = ?, lease_until_ms = ?"
            " WHERE id = ? AND state = 'pending'",
            changed,
            conflict_error="a hold was settled by another process at the same time; nothing was written",
        )


def _write_generations(connection: Connection, state: LedgerState) -> None:
    if state.new_holds:
        connection.queue_write(
            "INSERT INTO generations (id, account_id, key_id, kind, model, engine, state, price_input,"
            " price_output, request, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_generation_row(hold) for hold, _ in state.new_holds],
        )
    if state.outcomes:
        connection.queue_write(
            "UPDATE generations SET state = ?, input_units = ?, output_units = ?, cached_units = ?,"
            " estimated = ?, served_model = ?, error_code = ?, first_token_ms = ?, purchase = ?, cost = ?,"
            " delivered_bytes = ?, price_split = ?, finished_ms = ? WHERE id = ?",
            [
                (o.state, o.input_units, o.output_units, o.cached_units, int(o.estimated), o.served_model)
                + (
                    o.error_code,
                    o.first_token_ms,
                    o.upstream_cost,
                    captured + shortfall,
                    o.delivered_bytes,
                    o.price_split,
                    now_ms,
                    hold_id,
                )
                for hold_id, captured, shortfall, now_ms, o in state.outcomes
            ],
        )

    rerouted = [(o.engine, o.attempts, hold_id) for hold_id, _, _, _, o in state.outcomes if o.engine is not None]
    if rerouted:
        connection.queue_write("UPDATE generations SET engine = ?, attempts = ? WHERE id = ?", rerouted)
    if state.serving:
        connection.queue_write(
            "UPDATE generations SET model = ?, price_input = ?, price_output = ? WHERE id = ?",
            [(*serving, hold_id) for hold_id, serving in state.serving.items()],
        )


def _generation_row(hold: PlaceHold) -> tuple[object, ...]:
    g = hold.generation
    head = (hold.hold_id, hold.account_id, hold.key_id, g.kind, g.model, g.engine, g.state)
    return (*head, g.price_input, g.price_output, g.request, hold.now_ms)


class ExpiredHold(NamedTuple):
    """A pending hold with an expired lease, and the generation that it pays for."""

    id: int
    account_id: int
    kind: str
    model: str
    engine: str


def expired_chat_holds(connection: Connection, lease_before_ms: int) -> list[ExpiredHold]:
    """Return the pending holds of responses, such as chats, with a lease that ended before this time."""
    rows = connection.execute(
        "SELECT h.id, h.account_id, h.kind, COALESCE(g.model, ''), COALESCE(g.engine, '')"
        " FROM holds h LEFT JOIN generations g ON g.id = h.id"
        " WHERE h.state = 'pending' AND h.kind IN ('chat', 'speech', 'transcription')"
        " AND h.lease_until_ms < ? ORDER BY h.id LIMIT 512",
        (lease_before_ms,),
    )
    return [ExpiredHold(*row) for row in rows]


# ── audit ─────────────────────────────────────────────────────────────────────────────────────────────────────────

POSTED = "posted equals the sum of transfers"
HELD = "held equals the sum of pending holds"
NOT_NEGATIVE = "no account below zero"
SUM_ZERO = "all accounts sum to zero"
BUDGETS = "a budget has counted what its holds promise and took"
COST = "cost of usage equals usage transfers and shortfall"
USAGE_DAYS = "usage by day equals the sum of its requests"

#: Invariant of single rows → query that returns the violating rows among the holds with IDs in `{range}`. Each joined
#: table is restricted too, so that no plan reads more than the range.
ROW_INVARIANTS: dict[str, str] = {
    "every posted hold has its transfer, and the reverse": """
        SELECT h.id, h.state, h.settled, t.amount FROM holds h
        LEFT JOIN transfers t ON t.hold_id = h.id AND t.hold_id {range} WHERE h.id {range} AND (
            (h.state = 'posted') <> (t.hold_id IS NOT NULL)
            OR (t.hold_id IS NOT NULL
                AND (t.amount <> h.settled OR t.debit <> coalesce(h.purse_id, h.account_id)))
            OR (h.purse_id IS NOT NULL AND NOT EXISTS (
                SELECT 1 FROM purses p WHERE p.id = h.purse_id AND p.owner_id = h.account_id)))""",
    "the state of a generation fits its hold": """
        SELECT g.id, g.state, h.state FROM generations g JOIN holds h ON h.id = g.id
        WHERE g.id {range} AND h.id {range} AND (
            (h.state = 'pending') <> (g.state IN ('queued', 'running')) OR g.account_id <> h.account_id)""",
    "no hold without a generation": """
        SELECT h.id, h.kind, h.state FROM holds h LEFT JOIN generations g ON g.id = h.id AND g.id {range}
        WHERE h.id {range} AND g.id IS NULL""",
    "what was delivered at a price was charged": """
        SELECT id, engine, delivered_bytes FROM generations
        WHERE id {range} AND cost = 0 AND delivered_bytes > 0 AND (price_output > 0 OR price_input > 0)""",
}
#: The cost, usage transfers and shortfall of the holds in `{range}`, if they do not agree.
COST_OF_ROWS = """
    SELECT u.total, t.total, s.total FROM
        (SELECT coalesce(sum(cost), 0) AS total FROM generations WHERE id {range}) AS u,
        (SELECT coalesce(sum(amount), 0) AS total FROM transfers WHERE kind = 'usage' AND hold_id {range}) AS t,
        (SELECT coalesce(sum(shortfall), 0) AS total FROM holds WHERE id {range}) AS s
    WHERE u.total <> t.total + s.total"""
#: The lowest and the highest ID.
LOWEST_ID, HIGHEST_ID = -(2**63 - 1), 2**63 - 1
EVERYTHING = f"BETWEEN {LOWEST_ID} AND {HIGHEST_ID}"

#: Invariant, as shown to the operator when it is violated → query that returns the violating rows of all.
INVARIANTS: dict[str, str] = {
    POSTED: """
        SELECT a.id, a.posted, coalesce(t.total, 0) FROM accounts a LEFT JOIN (
            SELECT account_id, sum(amount) AS total FROM (
                SELECT credit AS account_id, amount FROM transfers
                UNION ALL SELECT debit, -amount FROM transfers
                UNION ALL SELECT account_id, amount FROM opening_balances) AS both_sides GROUP BY account_id
        ) AS t ON t.account_id = a.id
        WHERE a.is_system = 0 AND a.posted <> coalesce(t.total, 0)""",
    HELD: """
        SELECT a.id, a.held, coalesce(h.total, 0) FROM accounts a LEFT JOIN (
            SELECT coalesce(purse_id, account_id) AS account_id, sum(amount) AS total FROM holds
            WHERE state = 'pending' GROUP BY coalesce(purse_id, account_id)
        ) AS h ON h.account_id = a.id WHERE a.held <> coalesce(h.total, 0)""",
    NOT_NEGATIVE: """
        SELECT id, posted, held FROM accounts WHERE is_system = 0 AND (posted - held < 0 OR held < 0)""",
    SUM_ZERO: f"""
        SELECT customers.total, houses.total FROM
            (SELECT coalesce(sum(posted), 0) AS total FROM accounts WHERE is_system = 0) AS customers,
            (SELECT coalesce(sum(CASE WHEN credit IN ({REVENUE}, {FUNDING}) THEN amount ELSE 0 END
                - CASE WHEN debit IN ({REVENUE}, {FUNDING}) THEN amount ELSE 0 END), 0) AS total
             FROM transfers) AS houses,
            (SELECT coalesce(sum(amount), 0) AS total FROM opening_balances
             WHERE account_id IN ({REVENUE}, {FUNDING})) AS openings
        WHERE customers.total + houses.total + openings.total <> 0""",
    **{name: query.replace("{range}", EVERYTHING) for name, query in ROW_INVARIANTS.items()},
    # A hold may count against a member's budget, a key's, or both, written one after the other.
    BUDGETS: f"""
        SELECT s.id, s.used, b.total FROM key_spending s LEFT JOIN
            (SELECT budget_id || '/total' AS id, sum(used) AS total FROM
                (SELECT CASE WHEN budget_id LIKE '{TEAM_PREFIX}%' THEN substr(budget_id, {TEAM_ID_LENGTH + 2})
                    ELSE budget_id END AS budget_id, CASE WHEN state = 'pending' THEN amount ELSE settled END AS used
                 FROM holds WHERE budget_id IS NOT NULL
                 UNION ALL SELECT substr(budget_id, 1, {TEAM_ID_LENGTH}),
                    CASE WHEN state = 'pending' THEN amount ELSE settled END
                 FROM holds WHERE budget_id LIKE '{TEAM_PREFIX}%'
                 UNION ALL SELECT budget_id, used FROM archived_budgets) AS counted
             GROUP BY budget_id) AS b ON b.id = s.id
        WHERE s.id LIKE '%/total' AND s.used <> coalesce(b.total, 0)""",
    COST: COST_OF_ROWS.replace("{range}", EVERYTHING),
    REFUNDS: WRONG_REFUNDS,
    PURSES: WRONG_PURSES,
    INVOICES: WRONG_INVOICES,
    # The rows of archived days are in files; only the sums are compared.
    USAGE_DAYS: f"""
        SELECT account_id, day, kind, model, key_id, sum(requests), sum(cost) FROM (
            SELECT account_id, day, kind, model, key_id, requests, input_units, output_units, cost, purchase
            FROM usage_days WHERE day NOT IN (SELECT day FROM archived_days)
            UNION ALL SELECT g.account_id, g.created_ms / {MS_PER_DAY}, g.kind, g.model, g.key_id, -1, -g.input_units,
                -g.output_units, -h.settled, -coalesce(g.purchase, 0)
            FROM generations g JOIN holds h ON h.id = g.id WHERE h.state <> 'pending'
                AND g.created_ms / {MS_PER_DAY} NOT IN (SELECT day FROM archived_days)) AS both_sides
        GROUP BY account_id, day, kind, model, key_id
        HAVING sum(requests) <> 0 OR sum(input_units) <> 0 OR sum(output_units) <> 0 OR sum(cost) <> 0
            OR sum(purchase) <> 0
        UNION ALL SELECT NULL, a.day, NULL, NULL, NULL, a.requests, a.amount FROM archived_days a LEFT JOIN (
            SELECT day, sum(requests) AS requests, sum(cost) AS cost FROM usage_days GROUP BY day
        ) AS u ON u.day = a.day WHERE a.requests <> coalesce(u.requests, 0) OR a.amount <> coalesce(u.cost, 0)""",
}


#: As shown to the operator if it is violated.
SHORTFALL_LIMIT = "no engine costs more in a day than its holds, beyond MINITOOLAI_MAX_SHORTFALL"


def excess_shortfalls(connection: Connection, since_ms: int, most: int) -> list[Row]:
    """Return the engines that exceeded their holds by more than `most` nano-dollars since this time."""
    first_id = first_id_at(since_ms - ID_SLACK_MS)
    return list(
        connection.execute(
            "SELECT g.engine, sum(h.shortfall) FROM holds h JOIN generations g ON g.id = h.id"
            " WHERE h.id >= ? AND g.id >= ? AND h.shortfall > 0 AND g.created_ms >= ?"
            " GROUP BY g.engine HAVING sum(h.shortfall) > ? ORDER BY g.engine",
            (first_id, first_id, since_ms, most),
        )
    )


def broken_invariants(connection: Connection, rows_each: int = 10) -> dict[str, list[Row]]:
    """Return invariant → first violating rows, all read from one snapshot. Empty if the ledger is consistent."""
    broken = {}
    with connection.snapshot():
        for name, query in INVARIANTS.items():
            rows = connection.execute(f"{query} LIMIT {rows_each}")
            if rows:
                broken[name] = rows
        if buckets := usage_days.wrong_buckets(connection, rows_each):
            broken[USAGE_DAYS] = [*broken.get(USAGE_DAYS, []), *buckets]
    return broken
