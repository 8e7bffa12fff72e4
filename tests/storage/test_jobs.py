"""What processes that share a queue know of each other."""

from __future__ import annotations

from minitoolai.storage import jobs
from tests.support.books import NOON_MS, TemporaryBooks


def test_what_all_who_live_can_draw_is_known_to_each(books: TemporaryBooks) -> None:
    with books.connection.transaction():
        jobs.register_worker(books.connection, "one", {"sketch": ["a", "b"]}, NOON_MS)
        jobs.register_worker(books.connection, "two", {"sketch": ["a"], "gpu": ["a"]}, NOON_MS)
        jobs.register_worker(books.connection, "two", {"gpu": ["b"]}, NOON_MS + 1)
    offers = jobs.available_models(books.connection, NOON_MS + 5)
    assert {engine: sorted(models) for engine, models in offers.items()} == {"sketch": ["a", "b"], "gpu": ["b"]}


def test_who_leaves_or_says_nothing_offers_nothing(books: TemporaryBooks) -> None:
    with books.connection.transaction():
        jobs.register_worker(books.connection, "one", {"sketch": ["a"]}, NOON_MS)
        jobs.register_worker(books.connection, "two", {"gpu": ["a"]}, NOON_MS + jobs.WORKER_TIMEOUT_MS)
        assert list(jobs.available_models(books.connection, NOON_MS + jobs.WORKER_TIMEOUT_MS)) == ["gpu"]
        jobs.unregister_worker(books.connection, "two")
    assert jobs.available_models(books.connection, NOON_MS + jobs.WORKER_TIMEOUT_MS) == {}
