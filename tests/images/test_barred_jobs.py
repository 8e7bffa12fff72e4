"""Image jobs of revoked keys and suspended accounts: they fail unpaid, whether they wait or are in progress."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from minitoolai.accounts.keys import make_key
from minitoolai.billing.corrections import suspend
from minitoolai.core.models import Balance
from minitoolai.storage.database import Connection
from minitoolai.storage.tables import accounts
from tests.support.books import TemporaryBooks
from tests.support.studio import PRICE, Gate, Studio, at_once

Change = Callable[[Connection], Any]


def customer(books: TemporaryBooks) -> int:
    """An account whose key is the one that the studio submits with."""
    account = books.account(10 * PRICE)
    key = msgspec.structs.replace(make_key(account, "k", b"pepper", books.clock).row, id="key000000001")
    with books.connection.transaction():
        accounts.insert_key(books.connection, key)
    return account


def stop(how: str, books: TemporaryBooks, account: int) -> Change:
    """Revoke the key or suspend the account."""
    if how == "revoked":
        return lambda connection: accounts.revoke_key(connection, "key000000001", 1)
    return lambda connection: accounts.set_suspended(connection, account, 1, "why")


CODES = {"revoked": "invalid_api_key", "suspended": "account_suspended"}


@pytest.mark.parametrize("how", CODES)
def test_a_waiting_job_is_not_drawn(books: TemporaryBooks, tmp_path: Path, how: str) -> None:
    async def test(studio: Studio) -> None:
        drawn = []

        async def draw(*arguments: Any) -> Any:
            drawn.append(1)
            return await at_once(*arguments)

        studio.engine.behavior = draw
        account = customer(books)
        jobs = [await studio.submit(account) for _ in range(3)]
        await studio.writer.run(stop(how, books, account))
        async with studio.worker():
            ended = [await studio.end(job) for job in jobs]
        assert {(job.state, job.error_code) for job in ended} == {("failed", CODES[how])}
        assert drawn == []
        assert books.money(account) == Balance(10 * PRICE, 0)

    Studio(books, tmp_path).run(test, with_worker=False)


@pytest.mark.parametrize("how", CODES)
def test_a_job_without_an_engine_releases_its_hold(books: TemporaryBooks, tmp_path: Path, how: str) -> None:
    async def test(studio: Studio) -> None:
        account = customer(books)
        job = await studio.submit(account)
        studio.engine.is_up = False
        async with studio.worker():
            await studio.writer.run(stop(how, books, account))
            assert (await studio.end(job)).error_code == CODES[how]
        assert books.money(account) == Balance(10 * PRICE, 0)

    Studio(books, tmp_path).run(test, with_worker=False)


@pytest.mark.parametrize("how", CODES)
def test_a_job_in_progress_is_ended_and_costs_nothing(books: TemporaryBooks, tmp_path: Path, how: str) -> None:
    async def test(studio: Studio) -> None:
        gate = Gate()
        studio.engine.behavior = gate.generate
        account = customer(books)
        job = await studio.submit(account)
        async with studio.worker():
            await gate.begun.wait()
            await studio.writer.run(stop(how, books, account))
            ended = await studio.end(job, 2.0)
        assert (ended.state, ended.error_code) == ("failed", CODES[how])
        assert books.money(account) == Balance(10 * PRICE, 0)
        assert studio.row(job)[0] == "failed"

    Studio(books, tmp_path).run(test, with_worker=False)


def test_the_command_ends_a_job_in_progress_at_once(books: TemporaryBooks, tmp_path: Path) -> None:
    async def test(studio: Studio) -> None:
        gate = Gate()
        studio.engine.behavior = gate.generate
        account = customer(books)
        job = await studio.submit(account)
        async with studio.worker():
            await gate.begun.wait()
            done = await studio.writer.run(lambda c: suspend(c, books.clock, None, account, "why"))
            assert (done.jobs, done.released) == (1, PRICE)
            assert (await studio.end(job, 1.0)).error_code == "account_suspended"
            gate.is_open.set()
        assert studio.row(job) == ("failed", 1, 0, 0)
        assert books.money(account) == Balance(10 * PRICE, 0)

    Studio(books, tmp_path).run(test, with_worker=False)
