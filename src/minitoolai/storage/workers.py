"""Who draws, on a database that several processes share: each says now and then what it offers."""

from __future__ import annotations

import msgspec

from minitoolai.core.clock import MS_PER_DAY
from minitoolai.storage.database import Connection

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
