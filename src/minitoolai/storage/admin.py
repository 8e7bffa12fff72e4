"""What admins see of all accounts, and the trail of what they did."""

from __future__ import annotations

from minitoolai.core.clock import MS_PER_DAY, first_id_of
from minitoolai.core.models import AdminAction, JobRow, RevenueRow, User
from minitoolai.storage.database import Connection, Row

ACTION_COLUMNS = "id, admin_id, account_id, action, amount, note, created_ms"


#: Work may have got its number so long before it is written down that it began.
NAMED_BEFORE_MS = 3_600_000

_PEOPLE = (
    "SELECT u.account_id, u.email, u.is_admin, u.language, u.created_ms, a.posted, a.held"
    " FROM users u JOIN accounts a ON a.id = u.account_id WHERE u.deleted_ms IS NULL AND"
)


def _user(row: Row) -> User:
    return User(row[0], row[1], bool(row[2]), *row[3:])


def search_users(connection: Connection, words: str, most: int) -> list[User]:
    """People whose address holds these words, or whose account has this number; the newest first."""
    pattern = "%" + words.lower().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    number = int(words) if words.isascii() and words.isdigit() and len(words) < 16 else -1
    rows = connection.execute(
        f"{_PEOPLE} (u.email LIKE ? ESCAPE '\\' OR u.account_id = ?) ORDER BY u.account_id DESC LIMIT ?",
        (pattern, number, most),
    )
    return [_user(row) for row in rows]


def find_member(connection: Connection, account_id: int) -> User | None:
    """The user of an account."""
    rows = connection.execute(f"{_PEOPLE} u.account_id = ?", (account_id,))
    return _user(rows[0]) if rows else None


def write_action(connection: Connection, action: AdminAction) -> None:
    """Into the trail, in the commit of what was done."""
    connection.execute(
        f"INSERT INTO admin_actions ({ACTION_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (action.id, action.admin_id, action.account_id, action.action, action.amount, action.note, action.created_ms),
    )


def actions(connection: Connection, most: int, account_id: int | None = None) -> list[AdminAction]:
    """The last of what was done, to one account or to all, newest first."""
    columns = ", ".join(f"t.{name}" for name in ACTION_COLUMNS.split(", "))
    where, values = ("", ()) if account_id is None else (" WHERE t.account_id = ?", (account_id,))
    rows = connection.execute(
        f"SELECT {columns}, a.email, u.email FROM admin_actions t"
        " JOIN users a ON a.account_id = t.admin_id JOIN users u ON u.account_id = t.account_id"
        f"{where} ORDER BY t.id DESC LIMIT ?",
        (*values, most),
    )
    return [AdminAction(*row) for row in rows]


def oldest_pending_ms(connection: Connection) -> int | None:
    """When the oldest work still under way was begun, of all accounts."""
    rows = connection.execute(
        "SELECT min(g.created_ms) FROM holds h JOIN generations g ON g.id = h.id WHERE h.state = 'pending'"
    )
    oldest: int | None = rows[0][0]
    return oldest


def revenue(connection: Connection, from_ms: int, until_ms: int) -> list[RevenueRow]:
    """What all accounts used, begun from `from_ms` up to, not including, `until_ms`, by day and kind."""
    rows = connection.execute(
        f"SELECT g.created_ms / {MS_PER_DAY}, g.kind, count(*), sum(h.settled), coalesce(sum(g.purchase), 0)"
        " FROM generations g JOIN holds h ON h.id = g.id"
        " WHERE g.id >= ? AND g.created_ms >= ? AND g.created_ms < ?"
        f" GROUP BY g.created_ms / {MS_PER_DAY}, g.kind",
        (first_id_of(from_ms - NAMED_BEFORE_MS), from_ms, until_ms),
    )
    return [RevenueRow(row[0], row[1], *map(int, row[2:])) for row in rows]


def jobs(connection: Connection, failed_since_ms: int, most: int) -> list[JobRow]:
    """Jobs that wait or are drawn, the oldest first; then those that failed since, the newest first."""
    columns = "id, account_id, model, state, step, failures, worker, error, created_ms"
    waiting = connection.execute(
        f"SELECT {columns} FROM generations WHERE state = 'queued' ORDER BY turn, created_ms, id LIMIT ?", (most,)
    )
    drawn = connection.execute(
        f"SELECT {columns} FROM generations WHERE kind = 'image' AND state = 'running' ORDER BY lease_until_ms LIMIT ?",
        (most,),
    )
    failed = connection.execute(
        f"SELECT {columns} FROM generations WHERE id >= ? AND kind = 'image' AND state = 'failed'"
        " ORDER BY id DESC LIMIT ?",
        (first_id_of(failed_since_ms), most),
    )
    return [JobRow(*row) for row in (*drawn, *waiting, *failed)]
