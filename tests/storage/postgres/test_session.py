"""A process among others on PostgreSQL: a number of its own, and an ear for what the others say."""

from __future__ import annotations

import asyncio
import queue
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest
from psycopg import conninfo

from minitoolai.accounts.keys import KeyVerifier, make_key
from minitoolai.core.errors import AccessDenied, ConnectionLost
from minitoolai.storage.postgres.session import ProcessRegistration, connect, servers_of
from minitoolai.storage.tables import accounts
from tests.support.books import TemporaryBooks
from tests.support.waiting import eventually

Said = tuple[str | None, str | None]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def join(stack: ExitStack, books: TemporaryBooks) -> tuple[ProcessRegistration, queue.SimpleQueue[Said]]:
    heard: queue.SimpleQueue[Said] = queue.SimpleQueue()
    presence = ProcessRegistration(
        books.url, (accounts.KEYS_CHANNEL,), lambda channel, said: heard.put((channel, said))
    )
    presence.start()
    stack.callback(presence.stop)
    return presence, heard


def test_every_process_has_another_number_and_gives_it_back(postgres_books: TemporaryBooks, stack: ExitStack) -> None:
    numbers = {join(stack, postgres_books)[0].number for _ in range(3)}
    assert numbers == {0, 1, 2}
    stack.close()
    # The server lets go of a lock when it has noticed that its session is gone.
    eventually(lambda: not postgres_books.rows("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"))
    assert join(stack, postgres_books)[0].number == 0


def test_what_is_said_in_a_transaction_is_heard_by_all_once_it_is_committed(
    postgres_books: TemporaryBooks, stack: ExitStack
) -> None:
    ears = [join(stack, postgres_books)[1] for _ in range(2)]

    def say(word: str) -> float:
        with postgres_books.connection.transaction():
            postgres_books.connection.notify(accounts.KEYS_CHANNEL, word)
            return 1 / (word == "done")

    with pytest.raises(ZeroDivisionError):
        say("undone")
    say("done")
    assert [ear.get(timeout=5) for ear in ears] == [(accounts.KEYS_CHANNEL, "done")] * 2


def test_after_a_lost_session_everything_may_have_been_missed_and_the_number_is_claimed_again(
    postgres_books: TemporaryBooks, stack: ExitStack
) -> None:
    presence, ear = join(stack, postgres_books)
    other, _ = join(stack, postgres_books)
    with psycopg.connect(postgres_books.url, autocommit=True) as db:
        for one in (presence, other):
            db.execute("SELECT pg_terminate_backend(%s)", (one.session_pid,))
    assert ear.get(timeout=10) == (None, None)
    assert presence.number in (0, 1)
    with postgres_books.connection.transaction():
        postgres_books.connection.notify(accounts.KEYS_CHANNEL, "again")
    assert ear.get(timeout=5) == (accounts.KEYS_CHANNEL, "again")


def test_a_revoked_key_is_forgotten_by_processes_that_remember_it_for_ever(
    postgres_books: TemporaryBooks, stack: ExitStack
) -> None:
    # The clock stands still: without the word of the others this memory would never end.
    secret_key = b"p" * 32
    ring = KeyVerifier(postgres_books.database, secret_key, postgres_books.clock)
    key = make_key(postgres_books.account(), "laptop", secret_key, postgres_books.clock)
    with postgres_books.connection.transaction():
        accounts.insert_key(postgres_books.connection, key.row)
    presence = ProcessRegistration(postgres_books.url, (accounts.KEYS_CHANNEL,), lambda _, said: ring.invalidate(said))
    presence.start()
    stack.callback(presence.stop)
    asyncio.run(ring.verify(key.text))
    assert ring.cached(key.text)
    with postgres_books.connection.transaction():
        accounts.revoke_key(postgres_books.connection, key.row.id, 5)
    eventually(lambda: ring.cached(key.text) is None, within_s=1)
    with pytest.raises(AccessDenied, match="revoked"):
        asyncio.run(ring.verify(key.text))


def test_the_server_that_answered_last_is_tried_first(postgres_books: TemporaryBooks) -> None:
    parts = conninfo.conninfo_to_dict(postgres_books.url)
    host, port = str(parts["host"]), str(parts.get("port") or "5432")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = ("127.0.0.1", str(closed.getsockname()[1]))
    url = conninfo.make_conninfo(postgres_books.url, host=f"{dead[0]},{host}", port=f"{dead[1]},{port}")
    assert servers_of(url) == (dead, (host, port))
    connect(url).close()
    assert servers_of(url) == ((host, port), dead)
    # None is fit: the next attempt begins with the other one.
    both = conninfo.make_conninfo(url, host=f"{dead[0]},{dead[0]}", port=f"{dead[1]},{int(dead[1]) + 1}")
    with pytest.raises(ConnectionLost):
        connect(both)
    assert servers_of(both)[1] == dead
    assert len(servers_of(postgres_books.url)) == 1
