"""A revoked key ends its running responses within a second; those of other keys go on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from minitoolai.accounts.keys import make_key
from minitoolai.accounts.revocation import RevocationWatch
from minitoolai.core.clock import SystemClock
from minitoolai.core.errors import ServiceError
from minitoolai.core.in_flight import InFlight
from minitoolai.storage.tables import accounts
from tests.support import catalogs
from tests.support.ask import events, start
from tests.support.books import NOON_MS, TemporaryBooks, hold
from tests.support.server import Account, ServerProcess


class Run:
    """An in-flight run that records why it was stopped."""

    def __init__(self, hold_id: int) -> None:
        self.hold_id = hold_id
        self.reasons: list[ServiceError] = []

    def tick(self, now_s: float) -> None:
        """Do nothing."""

    def stop(self, reason: ServiceError) -> None:
        self.reasons.append(reason)


def test_only_runs_of_revoked_keys_are_stopped(books: TemporaryBooks) -> None:
    account, in_flight = books.account(10_000), InFlight(books.clock)
    watch = RevocationWatch(books.database, in_flight)
    assert asyncio.run(watch.check()) == 0
    runs = [Run(1), Run(2), Run(99)]
    keys = [make_key(account, name, b"secret", books.clock).row for name in ("one", "other")]
    with books.connection.transaction():
        for key in keys:
            accounts.insert_key(books.connection, key)
    books.apply(hold(1, account, 10), hold(2, account, 10))
    for number, key in enumerate(keys, start=1):
        books.rows("UPDATE holds SET key_id = ? WHERE id = ?", key.id, number)
    for run in runs:
        in_flight.add(run)
    assert asyncio.run(watch.check()) == 0
    with books.connection.transaction():
        accounts.revoke_key(books.connection, keys[0].id, NOON_MS)
    assert asyncio.run(watch.check()) == 1
    assert [len(run.reasons) for run in runs] == [1, 0, 0]
    assert runs[0].reasons[0].code == "invalid_api_key"
    with books.connection.transaction():
        accounts.set_suspended(books.connection, account, NOON_MS, "why")
    # The suspension is the reason that is given from now on, also to the run of the revoked key.
    assert asyncio.run(watch.check()) == 2
    assert [run.reasons[-1].code for run in runs[:2]] == ["account_suspended"] * 2
    assert runs[2].reasons == []


@pytest.mark.acceptance
def test_a_stream_of_a_revoked_key_ends_within_a_second_with_an_error(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, catalog=catalogs.FAKE) as server:
        account = server.account()
        key = make_key(account.id, "second", (server.data_dir / "secret.key").read_bytes(), SystemClock())
        server.write(lambda connection: accounts.insert_key(connection, key.row))
        other = Account(server, account.id, account.email, key.text)
        with start(account, model="endless") as stream, start(other, model="paced") as untouched:
            received = stream.iter_lines()
            for _ in range(10):
                next(received)
            began_s = time.monotonic()
            key_id = account.key.split("-")[2]
            server.write(lambda connection: accounts.revoke_key(connection, key_id, 1))
            rest = b"\n".join(received).decode()
            assert time.monotonic() - began_s < 2.0
            assert "invalid_api_key" in rest
            assert "[DONE]" not in rest
            assert events(untouched.text)[-1] == "[DONE]"
        assert 0 < account.settled() < 5_000_000_000
