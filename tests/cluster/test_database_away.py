"""Rows 2, 3 and 5: sessions of lost machines end, a process without its database says so, workers need no number."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from minitoolai.core.errors import StoreError
from minitoolai.storage.database import Database, offset_of
from minitoolai.storage.opening import open_database
from minitoolai.storage.postgres import session
from minitoolai.storage.postgres.session import MAX_PROCESSES, ProcessRegistration
from tests.support.cluster import Cluster
from tests.support.machines import Network, network, postgres_on
from tests.support.pace import TimeLimit
from tests.support.waiting import eventually

SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'minitoolai'"
#: Machines that lose their network in the short form; each leaves four sessions.
LOSSES, SESSIONS_EACH = (20 if os.environ.get("CLUSTER_LONG") else 5), 4


@pytest.fixture(scope="module")
def machines() -> Iterator[Network]:
    with network("db", "api") as made:
        yield made


@pytest.fixture(scope="module")
def postgres(machines: Network) -> Iterator[Cluster]:
    with postgres_on(machines.machines["db"]) as made:
        yield made


def sessions_of(postgres: Cluster) -> int:
    return int(postgres.execute(SESSIONS)[0][0])


def test_sessions_of_machines_that_lost_their_network_end_within_30_s(machines: Network, postgres: Cluster) -> None:
    url, opened = postgres.books(), []
    for number in range(LOSSES):
        lost = machines.machine(f"lost{number}")
        with lost.here():
            opened += [session.connect(url) for _ in range(SESSIONS_EACH)]
        # It holds a lock, in a transaction.
        opened[-1].execute(f"BEGIN; SELECT pg_advisory_xact_lock(77, {number})")
        lost.cut()
    try:
        assert sessions_of(postgres) == LOSSES * SESSIONS_EACH
        began_s = time.monotonic()
        eventually(lambda: sessions_of(postgres) == 0, within_s=30, every_s=0.5)
        print(f"{LOSSES * SESSIONS_EACH} sessions were gone after {time.monotonic() - began_s:.1f} s")
    finally:
        for one in opened:
            one.close()


def test_a_read_gives_up_3_s_after_a_silent_loss_and_works_again_when_the_cable_is_back(
    machines: Network, postgres: Cluster
) -> None:
    url, api = postgres.books(), machines.machines["api"]
    with ExitStack() as stack, api.here():
        database = stack.enter_context(closing(open_database(url, serving=True)))
        # Several idle sessions in the pool, all of which are lost.
        barrier = threading.Barrier(3)
        readers = [threading.Thread(target=_read_together, args=(database, barrier, api)) for _ in range(3)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        api.cut()
        stack.callback(api.heal)
        limit, began_s = TimeLimit(3.5, "s"), time.monotonic()
        with pytest.raises(StoreError):
            database.read(lambda connection: connection.execute("SELECT 1"))
        took_s = time.monotonic() - began_s
        print(f"the first statement gave up after {took_s:.1f} s")
        assert took_s > 2.0
        assert limit.permits(took_s), limit
        api.heal()
        eventually(lambda: _answers(database), within_s=10)


def _read_together(database: Database, barrier: threading.Barrier, api: object) -> None:
    api.enter()  # type: ignore[attr-defined]
    database.read(lambda connection: (connection.execute("SELECT 1"), barrier.wait(10)))


def _answers(database: Database) -> bool:
    try:
        return bool(database.read(lambda connection: connection.execute("SELECT 1")) == [(1,)])
    except StoreError:
        return False


def test_a_process_is_not_ready_within_3_s_of_a_silent_loss_and_ready_again_after_it(
    machines: Network, postgres: Cluster
) -> None:
    api = machines.machines["api"]
    with api.here():
        # Its thread inherits the network of the thread that starts it.
        registration = ProcessRegistration(postgres.books(), ("test",), lambda channel, payload: None)
        registration.start()
    try:
        eventually(lambda: registration.why_not_ready() is None)
        api.cut()
        limit, began_s = TimeLimit(3.0, "s"), time.monotonic()
        eventually(lambda: registration.why_not_ready() is not None, within_s=10)
        took_s = time.monotonic() - began_s
        print(f"not ready after {took_s:.1f} s: {registration.why_not_ready()}")
        assert limit.permits(took_s), limit
        api.heal()
        eventually(lambda: registration.why_not_ready() is None, within_s=15)
    finally:
        api.heal()
        registration.stop()


def test_a_wrong_clock_is_seen_and_a_slow_answer_is_not_mistaken_for_one(cluster: Cluster) -> None:
    registration = ProcessRegistration(cluster.books(), (), lambda channel, payload: None)
    registration.start()
    try:
        assert registration.clock_offset is not None
        assert abs(registration.clock_offset.ms) < 1000
        assert registration.why_not_ready() is None
        registration.clock_offset = offset_of(100_000, 112.0, 0.01)
        assert "12.0 s ahead of" in str(registration.why_not_ready())
        # The answer took 5 s: the clocks may agree.
        assert not offset_of(100_000, 98.0, 5.0).is_wrong
    finally:
        registration.stop()


def test_workers_take_no_process_number_and_the_257th_server_is_refused_with_the_reason(cluster: Cluster) -> None:
    url = cluster.books()
    with session.connect(url) as holder:
        holder.execute(f"SELECT pg_advisory_lock({session._LOCKS}, n) FROM generate_series(0, {MAX_PROCESSES - 1}) n")
        with pytest.raises(StoreError, match=r"256 processes already serve this database.*worker needs no number"):
            ProcessRegistration(url, (), lambda channel, payload: None).start()
        worker = ProcessRegistration(url, ("test",), lambda channel, payload: None, is_numbered=False)
        worker.start()
        assert worker.session_pid > 0
        worker.stop()
        assert worker.session_pid == 0


def test_a_session_listens_only_while_it_is_wanted(cluster: Cluster) -> None:
    heard: list[str | None] = []
    url = cluster.books()
    registration = ProcessRegistration(url, ("test",), lambda channel, payload: heard.append(payload))
    registration.start()
    try:
        with session.connect(url) as other:
            other.execute("NOTIFY test, 'first'")
            eventually(lambda: heard == ["first"])
            registration.listen(False)
            listening = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND query LIKE 'UNLISTEN%%'"
            eventually(lambda: other.execute(listening, (registration.session_pid,)).fetchone() != (0,))
            other.execute("NOTIFY test, 'second'")
            time.sleep(1.0)
            assert heard == ["first"]
            registration.listen(True)
            time.sleep(1.2)
            other.execute("NOTIFY test, 'third'")
            eventually(lambda: heard == ["first", "third"])
    finally:
        registration.stop()


def test_the_client_side_gives_up_on_silence(cluster: Cluster) -> None:
    with session.connect(cluster.url("postgres")) as opened:
        ends = socket.socket(fileno=socket.dup(opened.fileno()))
        with ends:
            assert ends.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 2500
        rows = opened.execute("SELECT name, setting FROM pg_settings WHERE name LIKE 'tcp_%' ORDER BY name").fetchall()
        assert dict(rows) == {
            "tcp_keepalives_count": "3",
            "tcp_keepalives_idle": "10",
            "tcp_keepalives_interval": "5",
            "tcp_user_timeout": "15000",
        }
