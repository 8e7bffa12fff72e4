"""Paid work in rows: one generation, and the usage report over many."""

from __future__ import annotations

from typing import Literal

from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.models import Generation, MarginRow, UsageRow
from minitoolai.storage.database import Connection

GroupBy = Literal["day", "model", "key"]

_GROUPS: dict[GroupBy, str] = {"day": f"g.created_ms / {MS_PER_DAY}", "model": "g.model", "key": "g.key_id"}


def find_generation(connection: Connection, generation_id: int, account_id: int) -> Generation | None:
    """The generation, if this account owns it."""
    rows = connection.execute(
        "SELECT g.id, g.account_id, g.key_id, g.kind, g.model, g.engine, g.served_model, g.state, g.price_input,"
        " g.price_output, g.input_units, g.output_units, g.cached_units, g.estimated, h.settled, h.shortfall,"
        " h.amount, g.error_code, g.created_ms, g.finished_ms, g.first_token_ms,"
        " g.attempts"
        " FROM generations g JOIN holds h ON h.id = g.id WHERE g.id = ? AND g.account_id = ?",
        (generation_id, account_id),
    )
    if not rows:
        return None
    row = list(rows[0])
    row[13] = bool(row[13])
    return Generation(*row)


def usage_report(
    connection: Connection, account_id: int, from_ms: int, until_ms: int, group_by: GroupBy
) -> list[UsageRow]:
    """Requests, units and charged cost from `from_ms` up to, not including, `until_ms`; days are UTC."""
    group = _GROUPS[group_by]
    rows = connection.execute(
        f"SELECT {group}, g.kind, count(*), sum(g.input_units), sum(g.output_units), sum(h.settled)"
        " FROM generations g JOIN holds h ON h.id = g.id"
        " WHERE g.account_id = ? AND g.created_ms >= ? AND g.created_ms < ?"
        f" GROUP BY {group}, g.kind ORDER BY {group}, g.kind",
        (account_id, from_ms, until_ms),
    )
    return [UsageRow(str(row[0]), row[1], int(row[2]), int(row[3]), int(row[4]), int(row[5])) for row in rows]


def last_usage(connection: Connection, account_id: int, most: int) -> list[UsageRow]:
    """The newest `most` requests of an account, added up by kind and model: as quick for an account with millions."""
    rows = connection.execute(
        "SELECT g.model, g.kind, count(*), sum(g.input_units), sum(g.output_units), sum(h.settled)"
        " FROM (SELECT id, model, kind, input_units, output_units FROM generations WHERE account_id = ?"
        " ORDER BY created_ms DESC LIMIT ?) g JOIN holds h ON h.id = g.id"
        " GROUP BY g.model, g.kind ORDER BY g.kind, g.model",
        (account_id, most),
    )
    return [UsageRow(row[0], row[1], int(row[2]), int(row[3]), int(row[4]), int(row[5])) for row in rows]


def margins(connection: Connection, from_ms: int) -> list[MarginRow]:
    """What all accounts paid since then, and what the engines charge for it as far as that is known."""
    rows = connection.execute(
        "SELECT g.model, g.engine, count(*), sum(h.settled), coalesce(sum(g.purchase), 0),"
        " coalesce(sum(CASE WHEN g.purchase IS NULL THEN 0 ELSE h.settled END), 0)"
        " FROM generations g JOIN holds h ON h.id = g.id WHERE g.created_ms >= ?"
        " GROUP BY g.model, g.engine ORDER BY g.model, g.engine",
        (from_ms,),
    )
    return [MarginRow(row[0], row[1], int(row[2]), int(row[3]), int(row[4]), int(row[5])) for row in rows]
