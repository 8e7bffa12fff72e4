"""Placed servers in the database: they last as long as their worker reports."""

from __future__ import annotations

from minitoolai.storage.tables import jobs, placed_servers
from minitoolai.storage.tables.placed_servers import PlacedServerRow
from tests.support.books import NOON_MS, TemporaryBooks

TALK, OTHER = PlacedServerRow("talk", "http://10.0.0.1:1", "one"), PlacedServerRow("tone", "10.0.0.2:2", "two")


def publish(books: TemporaryBooks, worker: str, *servers: PlacedServerRow, now_ms: int = NOON_MS) -> None:
    with books.connection.transaction():
        jobs.register_worker(books.connection, worker, {}, now_ms)
        placed_servers.publish(books.connection, worker, servers)


def test_servers_are_found_while_their_worker_reports(books: TemporaryBooks) -> None:
    publish(books, "a", TALK)
    publish(books, "b", OTHER)
    assert placed_servers.available(books.connection, NOON_MS + 1000) == [TALK, OTHER]
    publish(books, "a")
    assert placed_servers.available(books.connection, NOON_MS + 1000) == [OTHER]
    assert placed_servers.available(books.connection, NOON_MS + jobs.WORKER_TIMEOUT_MS) == []


def test_servers_of_a_worker_that_vanished_are_gone_at_once_and_removed_later(books: TemporaryBooks) -> None:
    publish(books, "a", TALK)
    with books.connection.transaction():
        jobs.mark_vanished(books.connection, ["a"], NOON_MS)
    assert placed_servers.available(books.connection, NOON_MS) == []
    with books.connection.transaction():
        jobs.unregister_worker(books.connection, "a")
    publish(books, "b", OTHER)
    assert books.rows("SELECT worker, engine FROM placed_servers") == [("b", "tone")]
