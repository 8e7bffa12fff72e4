"""Servers that a worker has placed on a cluster: where `serve` finds them. Plain functions of a connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from minitoolai.storage.database import Connection
from minitoolai.storage.tables.jobs import WORKER_TIMEOUT_MS


class PlacedServerRow(NamedTuple):
    """A server of an engine, and the secret that it asks for."""

    engine: str
    address: str
    secret: str


def publish(connection: Connection, worker: str, servers: Sequence[PlacedServerRow]) -> None:
    """Replace the servers of this worker, and remove those of workers that are gone."""
    connection.execute("DELETE FROM placed_servers WHERE worker = ?", (worker,))
    connection.execute("DELETE FROM placed_servers WHERE worker NOT IN (SELECT name FROM workers)")
    connection.execute_many(
        "INSERT INTO placed_servers (worker, engine, address, secret) VALUES (?, ?, ?, ?)",
        [(worker, *server) for server in servers],
    )


def available(connection: Connection, now_ms: int) -> list[PlacedServerRow]:
    """Return the servers of the workers that report. `now_ms` is the time on the clock for leases."""
    rows = connection.execute(
        "SELECT p.engine, p.address, p.secret FROM placed_servers p JOIN workers w ON w.name = p.worker"
        " WHERE w.seen_ms > ? ORDER BY p.engine, p.address",
        (now_ms - WORKER_TIMEOUT_MS,),
    )
    return [PlacedServerRow(*row) for row in rows]
