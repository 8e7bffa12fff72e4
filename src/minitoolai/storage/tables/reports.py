"""Read-only queries: usage, single generations, statement, admin pages, and gauges for metrics."""

from __future__ import annotations

from typing import Literal

import msgspec

from minitoolai.core.clock import ID_SLACK_MS, created_ms, first_id_at
from minitoolai.core.models import (
    AdminAction,
    Buckets,
    Generation,
    JobRow,
    MarginRow,
    RecentRequest,
    StatementRow,
    UsageCell,
    UsageRow,
    User,
)
from minitoolai.storage.database import Connection, Row
from minitoolai.storage.tables import refunds
from minitoolai.storage.tables.jobs import count_workers
from minitoolai.storage.tables.usage_days import DAY_KEY, split_of_rows, with_buckets
from minitoolai.storage.tables.users import USER_COLUMNS, user_of_row

#: A time after everything: nothing bounds the search for generations.
ALWAYS_MS = 2**62


def oldest_unfinished_ms(connection: Connection, account_id: int) -> int | None:
    """Return when the oldest unfinished generation of an account began. Its hold is pending until it ends."""
    rows = connection.execute(
        "SELECT min(g.created_ms) FROM holds h JOIN generations g ON g.id = h.id"
        " WHERE h.state = 'pending' AND h.account_id = ?",
        (account_id,),
    )
    oldest: int | None = rows[0][0]
    return oldest


def usage_cells(connection: Connection, account_id: int, from_ms: int, until_ms: int) -> list[UsageCell]:
    """Return usage by day, kind, model and key, from `from_ms` up to but not including `until_ms`."""
    key, condition = DAY_KEY, "g.account_id = ? AND g.created_ms >= ? AND g.created_ms < ?"
    split = split_of_rows(connection.price_parts, key, condition, "0, {units}, 0, {cost}, {bucket}")
    rows = connection.execute(
        f"SELECT {key}, count(*), sum(g.input_units), sum(g.output_units), sum(h.settled), ''"
        f" FROM generations g JOIN holds h ON h.id = g.id WHERE {condition} GROUP BY {key}"
        f" UNION ALL {split}",
        (account_id, from_ms, until_ms) * 2,
    )
    return with_buckets(rows)


def recent_requests(
    connection: Connection, account_id: int, limit: int, before: tuple[int, int] | None = None
) -> list[RecentRequest]:
    """Return the last requests of an account, newest first, before one of them: its time and ID (keyset pagination)."""
    before_ms, before_id = before or (ALWAYS_MS, 0)
    rows = connection.execute(
        "SELECT g.id, g.created_ms, g.finished_ms, g.kind, g.model, g.key_id, g.state, g.error_code, g.input_units,"
        " g.output_units, g.cached_units, h.settled, h.purse_id, h.state, g.engine FROM"
        " (SELECT * FROM generations WHERE account_id = ? AND created_ms <= ? AND (created_ms < ? OR id < ?)"
        " ORDER BY created_ms DESC, id DESC LIMIT ?) g"
        " JOIN holds h ON h.id = g.id ORDER BY g.created_ms DESC, g.id DESC",
        (account_id, before_ms, before_ms, before_id, limit),
    )
    given = refunds.refunded_each(connection, [row[0] for row in rows])
    return [RecentRequest(*(*row[:-3], row[-2] == "pending", row[-1], given.get(row[0], 0), row[-3])) for row in rows]


# ── generations and usage ─────────────────────────────────────────────────────────────────────────────────────────

GroupBy = Literal["day", "model", "key"]


def find_generation(connection: Connection, generation_id: int, account_id: int) -> Generation | None:
    """Return a generation, or None if this account does not own it."""
    rows = connection.execute(
        "SELECT g.id, g.account_id, g.key_id, g.kind, g.model, g.engine, g.served_model, g.state, g.price_input,"
        " g.price_output, g.input_units, g.output_units, g.cached_units, g.estimated, h.settled, h.shortfall,"
        " h.amount, g.error_code, g.created_ms, g.finished_ms, g.first_token_ms,"
        " g.attempts, g.price_split"
        " FROM generations g JOIN holds h ON h.id = g.id WHERE g.id = ? AND g.account_id = ?",
        (generation_id, account_id),
    )
    if not rows:
        return None
    row = list(rows[0])
    row[13] = bool(row[13])
    return msgspec.structs.replace(Generation(*row), refunded=refunds.refunded(connection, generation_id))


def last_usage(connection: Connection, account_id: int, limit: int) -> list[UsageRow]:
    """Return the newest `limit` requests of an account by kind and model, as fast for an account with millions."""
    rows = connection.execute(
        "SELECT g.model, g.kind, count(*), sum(g.input_units), sum(g.output_units), sum(h.settled)"
        " FROM (SELECT id, model, kind, input_units, output_units FROM generations WHERE account_id = ?"
        " ORDER BY created_ms DESC LIMIT ?) g JOIN holds h ON h.id = g.id"
        " GROUP BY g.model, g.kind ORDER BY g.kind, g.model",
        (account_id, limit),
    )
    return [UsageRow(row[0], row[1], int(row[2]), int(row[3]), int(row[4]), int(row[5])) for row in rows]


def margins_by_engine(connection: Connection, from_ms: int) -> list[MarginRow]:
    """Return what all accounts paid since then by model and engine, with the upstream cost where it is known."""
    rows = connection.execute(
        "SELECT g.model, g.engine, count(*), sum(h.settled), coalesce(sum(g.purchase), 0),"
        " coalesce(sum(CASE WHEN g.purchase IS NULL THEN 0 ELSE h.settled END), 0)"
        " FROM generations g JOIN holds h ON h.id = g.id WHERE g.id >= ? AND g.created_ms >= ?"
        " GROUP BY g.model, g.engine ORDER BY g.model, g.engine",
        (first_id_at(from_ms - ID_SLACK_MS), from_ms),
    )
    split = connection.execute(
        split_of_rows(connection.price_parts, "g.model, g.engine", "g.id >= ? AND g.created_ms >= ?"),
        (first_id_at(from_ms - ID_SLACK_MS), from_ms),
    )
    buckets: dict[tuple[str, str], Buckets] = {}
    for model, engine, bucket, units, cost in split:
        buckets.setdefault((model, engine), {})[bucket] = (int(units), int(cost))
    given = refunds.refunds_by_engine(connection, from_ms)
    return [
        MarginRow(*(*key, *map(int, sums), buckets.get(key, {}), given.get(key, 0)))
        for key, sums in ((tuple(row[:2]), row[2:]) for row in rows)
    ]


# ── statement ─────────────────────────────────────────────────────────────────────────────────────────────────────

# Usage transfers have no index by account, because it would add a page write to every commit. They are found through
# their generations, which have one. Transfers of an account are numbered without gaps, so missing ones are noticed.

#: Extra rows to read: generations are ordered by their start, but transfers are numbered by the end of the work.
SLACK = 64


def statement_page(
    connection: Connection,
    account_id: int,
    *,
    below: int | None,
    before_ms: int,
    rows: int,
    owner_id: int | None = None,
) -> list[StatementRow]:
    """Return one page of transfers with versions under `below` (None: the newest), newest first (keyset pagination).

    `owner_id`: the account is a purse of this owner.

    `before_ms` is a time not before the end of any of them. A wrong value only makes the page slower or incomplete.
    """
    newest = connection.execute("SELECT version FROM accounts WHERE id = ?", (account_id,))
    above = (newest[0][0] if newest else 0) + 1
    below = above if below is None else min(below, above)
    lowest = max(below - rows, 1)
    found = _other_transfers(connection, account_id, lowest, below)
    limit = rows + SLACK
    while len(found) < below - lowest:
        read = _usage_transfers(connection, account_id, account_id if owner_id is None else owner_id, before_ms, limit)
        found |= {row.version: row for row in read if lowest <= row.version < below}
        if len(read) < limit:
            break
        limit *= 4
    return [found[version] for version in sorted(found, reverse=True)]


def _other_transfers(connection: Connection, account_id: int, lowest: int, below: int) -> dict[int, StatementRow]:
    """Return the transfers that are not usage, by version; refunds with their generation."""
    found = {}
    for side, sign in (("credit", 1), ("debit", -1)):
        for row in connection.execute(
            "SELECT t.account_version, t.created_ms, t.kind, t.amount, t.balance_after, t.reason, r.generation_id,"
            " r.kind, r.model, r.key_id FROM transfers t LEFT JOIN refunds r ON r.external_ref = t.external_ref"
            f" WHERE t.kind <> 'usage' AND t.{side} = ? AND t.account_version >= ? AND t.account_version < ?",
            (account_id, lowest, below),
        ):
            found[row[0]] = StatementRow(*(*row[:3], sign * row[3], *row[4:]))
    return found


def _usage_transfers(
    connection: Connection, account_id: int, owner_id: int, before_ms: int, limit: int
) -> list[StatementRow]:
    """Return the transfers of an account or purse for the owner's last `limit` generations begun before this time."""
    rows = connection.execute(
        "SELECT t.account_version, t.created_ms, t.amount, t.balance_after, g.id, g.kind, g.model, g.key_id,"
        " g.input_units, g.output_units, g.estimated, g.cached_units, g.engine FROM"
        " (SELECT * FROM generations WHERE account_id = ? AND created_ms <= ? ORDER BY created_ms DESC LIMIT ?) g"
        # What a purse paid is in the purse's own statement.
        " LEFT JOIN transfers t ON t.hold_id = g.id AND t.debit = ?",
        (owner_id, before_ms, limit, account_id),
    )
    return [
        StatementRow(
            version=row[0] or 0,
            at_ms=row[1] or 0,
            kind="usage",
            amount=-(row[2] or 0),
            balance_after=row[3] or 0,
            generation_id=row[4],
            work=row[5],
            model=row[6],
            key_id=row[7],
            input_units=row[8],
            output_units=row[9],
            estimated=bool(row[10]),
            cached_units=row[11],
            engine=row[12],
        )
        for row in rows
    ]


def paid_by_plans(connection: Connection, account_id: int, from_ms: int, until_ms: int) -> int:
    """Return what purses paid of the requests of an account that began in this time and are not archived."""
    rows = connection.execute(
        "SELECT coalesce(sum(h.settled), 0) FROM generations g JOIN holds h ON h.id = g.id"
        " WHERE g.account_id = ? AND g.created_ms >= ? AND g.created_ms < ? AND h.purse_id IS NOT NULL",
        (account_id, from_ms, until_ms),
    )
    return int(rows[0][0])


def newest_version(connection: Connection, account_id: int) -> int:
    """Return the number of transfers of an account, which is the version of its newest one."""
    newest = connection.execute("SELECT version FROM accounts WHERE id = ?", (account_id,))
    return int(newest[0][0]) if newest else 0


#: Transfers in one part of a whole statement.
STATEMENT_PART = 200


class StatementPlace(msgspec.Struct, frozen=True):
    """Where the next part of a statement begins: below this version, at generations begun before this time."""

    below: int | None = None
    before_ms: int = ALWAYS_MS


# ── admin pages ───────────────────────────────────────────────────────────────────────────────────────────────────

ACTION_COLUMNS = "id, admin_id, account_id, action, amount, note, created_ms, subject, source"

_SELECT_USERS = (
    f"SELECT {USER_COLUMNS} FROM users u JOIN accounts a ON a.id = u.account_id WHERE u.deleted_ms IS NULL AND"
)


def search_users(connection: Connection, text: str, limit: int, below: int | None = None) -> list[User]:
    """Return users with this text in their e-mail address or with this account ID, newest first, under `below`."""
    pattern, number = _pattern(text)
    rows = connection.execute(
        f"{_SELECT_USERS} u.account_id < ? AND (u.email LIKE ? ESCAPE '\\' OR u.account_id = ?)"
        " ORDER BY u.account_id DESC LIMIT ?",
        (2**63 - 1 if below is None else below, pattern, number, limit),
    )
    return [user_of_row(row) for row in rows]


AccountState = Literal["active", "suspended", "admin"]
_OF_STATE: dict[AccountState | None, str] = {
    None: "",
    "active": " AND u.suspended_ms IS NULL",
    "suspended": " AND u.suspended_ms IS NOT NULL",
    "admin": " AND u.is_admin = 1",
}


def list_accounts(
    connection: Connection, text: str, state: AccountState | None, limit: int, after: int = 0
) -> list[User]:
    """Return users with this text in their e-mail address or with this number, and in this state, oldest first.

    `after`: the account before the page (keyset pagination).
    """
    pattern, number = _pattern(text)
    rows = connection.execute(
        f"{_SELECT_USERS} u.account_id > ? AND (u.email LIKE ? ESCAPE '\\' OR u.account_id = ?){_OF_STATE[state]}"
        " ORDER BY u.account_id LIMIT ?",
        (after, pattern, number, limit),
    )
    return [user_of_row(row) for row in rows]


def _pattern(text: str) -> tuple[str, int]:
    """Return a LIKE pattern for a part of an e-mail address, and the number of an account that this may be, or -1."""
    escaped = text.lower().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%", int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1


def find_customer(connection: Connection, account_id: int) -> User | None:
    """Return the user of an account."""
    rows = connection.execute(f"{_SELECT_USERS} u.account_id = ?", (account_id,))
    return user_of_row(rows[0]) if rows else None


def insert_admin_action(connection: Connection, action: AdminAction) -> None:
    """Append to the audit log, in the same commit as the action."""
    connection.execute(
        f"INSERT INTO admin_actions ({ACTION_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (action.id, action.admin_id, action.account_id, action.action, action.amount, action.note, action.created_ms)
        + (action.subject, action.source),
    )


def admin_actions(
    connection: Connection, limit: int, account_id: int | None = None, below: int | None = None
) -> list[AdminAction]:
    """Return the last admin actions on one account or on all, newest first, with IDs under `below`."""
    columns = ", ".join(f"t.{name}" for name in ACTION_COLUMNS.split(", "))
    where, values = "id < ?", [2**63 - 1 if below is None else below]
    if account_id is not None:
        where, values = f"account_id = ? AND {where}", [account_id, *values]
    # The limit is a number in the statement, so that PostgreSQL plans for few rows.
    rows = connection.execute(
        f"SELECT {columns}, coalesce(a.email, ''), coalesce(u.email, '') FROM"
        f" (SELECT * FROM admin_actions WHERE {where} ORDER BY id DESC LIMIT {limit:d}) t"
        " LEFT JOIN users a ON a.account_id = t.admin_id LEFT JOIN users u ON u.account_id = t.account_id"
        " ORDER BY t.id DESC",
        tuple(values),
    )
    return [AdminAction(*row) for row in rows]


def account_notes(connection: Connection, account_id: int, limit: int) -> list[AdminAction]:
    """Return the last notes of admins on an account, newest first."""
    columns = ", ".join(f"t.{name}" for name in ACTION_COLUMNS.split(", "))
    rows = connection.execute(
        f"SELECT {columns}, a.email, '' FROM admin_actions t JOIN users a ON a.account_id = t.admin_id"
        " WHERE t.account_id = ? AND t.action = 'note' ORDER BY t.id DESC LIMIT ?",
        (account_id, limit),
    )
    return [AdminAction(*row) for row in rows]


def oldest_pending_ms(connection: Connection) -> int | None:
    """Return when the oldest unfinished generation of all accounts began."""
    rows = connection.execute(
        "SELECT min(g.created_ms) FROM holds h JOIN generations g ON g.id = h.id WHERE h.state = 'pending'"
    )
    oldest: int | None = rows[0][0]
    return oldest


class JobPlace(msgspec.Struct, frozen=True):
    """Where a page of jobs ends: the state of its last job, and what orders the jobs of that state."""

    state: Literal["running", "queued", "failed"]
    key: tuple[int, ...]


_JOB = "id, account_id, model, state, step, failures, worker, error, created_ms"
#: The lists of jobs, one after the other. Each takes the key of the last job, and returns the next ones in its order.
_JOB_LISTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "running": (
        f"SELECT {_JOB}, lease_until_ms, id FROM generations WHERE kind = 'image' AND state = 'running'"
        " AND (lease_until_ms, id) > (?, ?) ORDER BY lease_until_ms, id LIMIT ?",
        (-1, -1),
    ),
    "queued": (
        f"SELECT {_JOB}, turn, created_ms, id FROM generations WHERE state = 'queued' AND kind = 'image'"
        " AND (turn, created_ms, id) > (?, ?, ?) ORDER BY turn, created_ms, id LIMIT ?",
        (-1, -1, -1),
    ),
    "failed": (
        f"SELECT {_JOB}, id FROM generations WHERE id < ? AND id >= ? AND kind = 'image' AND state = 'failed'"
        " ORDER BY id DESC LIMIT ?",
        (2**63 - 1,),
    ),
}


def list_jobs(
    connection: Connection, failed_since_ms: int, limit: int, after: JobPlace | None = None
) -> tuple[list[JobRow], JobPlace | None]:
    """Return a page of jobs and where it ends, or None after the last one (keyset pagination).

    Running jobs come first, then queued ones in their order, then those that failed since this time, newest first.
    """
    found: list[Row] = []
    states = list(_JOB_LISTS)
    for state in states[states.index(after.state) if after else 0 :]:
        sql, key = _JOB_LISTS[state]
        if after is not None and after.state == state:
            key = after.key
        since = (first_id_at(failed_since_ms),) if state == "failed" else ()
        found += connection.execute(sql, (*key, *since, limit - len(found)))
        if len(found) == limit:
            break
    columns = len(JobRow.__struct_fields__)
    place = JobPlace(found[-1][3], tuple(found[-1][columns:])) if len(found) == limit else None
    return [JobRow(*row[:columns]) for row in found], place


# ── gauges for metrics ────────────────────────────────────────────────────────────────────────────────────────────


class LiveGauges(msgspec.Struct, frozen=True):
    """Pending holds, jobs and webhooks at one moment, the same from every process. Ages in milliseconds.

    Only chats and speech that are in flight have an `oldest_hold_ms`: jobs may wait, and their holds have no lease.
    """

    holds: dict[str, int]
    oldest_hold_ms: dict[str, int]
    held: int
    queued: dict[str, int]
    oldest_ms: int
    drawing: int
    webhooks: int
    workers: int
    workers_lost: int


def read_gauges(connection: Connection, now_ms: int, lease_now_ms: int) -> LiveGauges:
    """Count pending work in one snapshot. Each query reads a partial index, never a whole table.

    `lease_now_ms` is the time on the clock for leases.
    """
    with connection.snapshot():
        holds = connection.execute(
            "SELECT kind, count(*), sum(amount), min(CASE WHEN lease_until_ms IS NOT NULL THEN id END)"
            " FROM holds WHERE state = 'pending' GROUP BY kind"
        )
        queued = connection.execute(
            "SELECT model, count(*), min(created_ms) FROM generations WHERE state = 'queued' AND kind = 'image'"
            " GROUP BY model"
        )
        drawing = connection.execute("SELECT count(*) FROM generations WHERE kind = 'image' AND state = 'running'")
        webhooks = connection.execute("SELECT count(*) FROM outbox WHERE state = 'pending'")
        workers = count_workers(connection, lease_now_ms)
    return LiveGauges(
        holds={row[0]: row[1] for row in holds},
        oldest_hold_ms={row[0]: max(0, now_ms - created_ms(row[3])) for row in holds if row[3] is not None},
        held=sum(row[2] for row in holds),
        queued={row[0]: row[1] for row in queued},
        oldest_ms=max((now_ms - row[2] for row in queued), default=0),
        drawing=drawing[0][0],
        webhooks=webhooks[0][0],
        workers=workers.alive,
        workers_lost=workers.lost,
    )
