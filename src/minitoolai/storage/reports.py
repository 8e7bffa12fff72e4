"""What an account used, added up by day, kind, model and key; and its last requests one by one."""

from __future__ import annotations

from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.models import RecentRequest, UsageCell
from minitoolai.storage.database import Connection


def oldest_unfinished_ms(connection: Connection, account_id: int, from_ms: int) -> int | None:
    """When the oldest work still under way was begun, of all that was begun from a moment on."""
    rows = connection.execute(
        "SELECT min(created_ms) FROM generations WHERE account_id = ? AND created_ms >= ?"
        " AND state IN ('queued', 'running')",
        (account_id, from_ms),
    )
    oldest: int | None = rows[0][0]
    return oldest


def usage_cells(connection: Connection, account_id: int, from_ms: int, until_ms: int) -> list[UsageCell]:
    """Everything begun from `from_ms` up to, not including, `until_ms`; days are UTC, counted since 1970."""
    rows = connection.execute(
        f"SELECT g.created_ms / {MS_PER_DAY}, g.kind, g.model, g.key_id, count(*), sum(g.input_units),"
        " sum(g.output_units), sum(h.settled) FROM generations g JOIN holds h ON h.id = g.id"
        " WHERE g.account_id = ? AND g.created_ms >= ? AND g.created_ms < ?"
        f" GROUP BY g.created_ms / {MS_PER_DAY}, g.kind, g.model, g.key_id",
        (account_id, from_ms, until_ms),
    )
    return [UsageCell(*(*row[:4], *map(int, row[4:]))) for row in rows]


def recent_requests(connection: Connection, account_id: int, most: int) -> list[RecentRequest]:
    """The last requests, newest first."""
    rows = connection.execute(
        "SELECT g.id, g.created_ms, g.finished_ms, g.kind, g.model, g.key_id, g.state, g.error_code, g.input_units,"
        " g.output_units, h.settled, h.state FROM"
        " (SELECT * FROM generations WHERE account_id = ? ORDER BY created_ms DESC LIMIT ?) g"
        " JOIN holds h ON h.id = g.id ORDER BY g.created_ms DESC, g.id DESC",
        (account_id, most),
    )
    return [RecentRequest(*(*row[:-1], row[-1] == "pending")) for row in rows]
