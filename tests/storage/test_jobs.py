"""What processes that share a queue know of each other."""

from __future__ import annotations

from minitoolai.storage import jobs as workers
from tests.support.books import NOON_MS, TemporaryBooks


def test_what_all_who_live_can_draw_is_known_to_each(books: TemporaryBooks) -> None:
    with books.connection.transaction():
        workers.report(books.connection, "one", {"sketch": ["a", "b"]}, NOON_MS)
        workers.report(books.connection, "two", {"sketch": ["a"], "gpu": ["a"]}, NOON_MS)
        workers.report(books.connection, "two", {"gpu": ["b"]}, NOON_MS + 1)
    offers = workers.offered(books.connection, NOON_MS + 5)
    assert {engine: sorted(models) for engine, models in offers.items()} == {"sketch": ["a", "b"], "gpu": ["b"]}


def test_who_leaves_or_says_nothing_offers_nothing(books: TemporaryBooks) -> None:
    with books.connection.transaction():
        workers.report(books.connection, "one", {"sketch": ["a"]}, NOON_MS)
        workers.report(books.connection, "two", {"gpu": ["a"]}, NOON_MS + workers.SILENT_MS)
        assert list(workers.offered(books.connection, NOON_MS + workers.SILENT_MS)) == ["gpu"]
        workers.leave(books.connection, "two")
    assert workers.offered(books.connection, NOON_MS + workers.SILENT_MS) == {}
