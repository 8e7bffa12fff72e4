"""Removals of lost second factors: password, mailbox, waiting period, and everything that stops one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from minitoolai.accounts.factors.factor_resets import CONFIRM_MS, FINISH_MS, HOUR_MS, FactorResets
from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.models import SecondFactor, User
from minitoolai.storage.tables import accounts, factor_resets, passkeys, second_factors, users
from minitoolai.storage.tables.passkeys import Passkey
from tests.support.books import TemporaryBooks

Work = Callable[[FactorResets, User], Awaitable[None]]


def run(books: TemporaryBooks, work: Work, *, hours: int = 72, is_admin: bool = False) -> int:
    """Run this with a user who has an app, a passkey, a recovery code and a session, and return their number."""
    with books.connection.transaction():
        account = accounts.create_account(books.connection, "ann@example.com", "hash", 5)
        second_factors.insert(books.connection, SecondFactor(account, b"s", 1, 5))
        passkeys.insert(books.connection, Passkey(b"c", account, b"k", 0, "Laptop", "", False, 5))
        second_factors.replace_recovery_codes(books.connection, account, [b"r"])
        users.insert_session(books.connection, b"session", account, 5, books.clock.now_ms() + 99 * MS_PER_DAY)
        users.set_admin(books.connection, account, is_admin)
        found = users.find_user_of(books.connection, account)
    assert found is not None

    async def go() -> None:
        await work(FactorResets(books.database, writer, books.clock, hours), found[0])

    with books.writer() as writer:
        asyncio.run(go())
    return account


def factors(books: TemporaryBooks) -> list[int]:
    """Return the numbers of apps, passkeys, recovery codes and sessions."""
    return [
        books.rows(f"SELECT count(*) FROM {table}")[0][0]
        for table in ("second_factors", "passkeys", "recovery_codes", "sessions")
    ]


def test_after_confirmation_and_waiting_all_factors_and_sessions_go(books: TemporaryBooks) -> None:
    async def work(resets: FactorResets, user: User) -> None:
        outcome, reset = await resets.start(user)
        assert outcome == "started"
        assert reset is not None
        # Without the mailbox nothing ever happens.
        assert await resets.finish(reset.id) is None
        confirmed = await resets.confirm(reset.id)
        assert confirmed is not None
        assert confirmed.ready_ms == books.clock.now_ms() + 72 * HOUR_MS
        assert users.find_user(books.connection, user.email)[0].is_factor_reset_pending  # type: ignore[index]
        # Neither a second confirmation nor a second request changes the time.
        books.clock.forward(3600)
        assert await resets.confirm(reset.id) == confirmed
        assert await resets.start(user) == ("waiting", confirmed)
        books.clock.forward(71 * 3600 - 1)
        assert await resets.finish(reset.id) is None
        assert factors(books) == [1, 1, 1, 1]
        books.clock.forward(1)
        finished = await resets.finish(reset.id)
        assert finished is not None
        assert finished.email == user.email
        assert factors(books) == [0, 0, 0, 0]
        assert await resets.finish(reset.id) is None
        assert await resets.find(reset.id) is None

    run(books, work)


def test_a_password_replaced_by_mail_makes_the_wait_longer(books: TemporaryBooks) -> None:
    async def work(resets: FactorResets, user: User) -> None:
        with books.connection.transaction():
            users.record_password_reset(books.connection, user.user_id, books.clock.now_ms() - 29 * MS_PER_DAY)
        _, reset = await resets.start(user)
        assert reset is not None
        confirmed = await resets.confirm(reset.id)
        assert confirmed is not None
        assert confirmed.ready_ms == books.clock.now_ms() + 4 * 72 * HOUR_MS
        await resets.stop(user.user_id)
        books.clock.forward(2 * 86_400)
        _, reset = await resets.start(user)
        assert reset is not None
        confirmed = await resets.confirm(reset.id)
        assert confirmed is not None
        assert confirmed.ready_ms == books.clock.now_ms() + 72 * HOUR_MS

    run(books, work)


def test_links_expire_and_a_stopped_removal_is_gone(books: TemporaryBooks) -> None:
    async def work(resets: FactorResets, user: User) -> None:
        _, first = await resets.start(user)
        _, reset = await resets.start(user)
        assert first is not None
        assert reset is not None
        # A new request replaces one that was not confirmed.
        assert await resets.confirm(first.id) is None
        books.clock.forward(CONFIRM_MS / 1000)
        assert await resets.confirm(reset.id) is None
        _, reset = await resets.start(user)
        assert reset is not None
        await resets.confirm(reset.id)
        assert await resets.stop(user.user_id)
        assert not await resets.stop(user.user_id)
        books.clock.forward(80 * 3600)
        assert await resets.finish(reset.id) is None
        _, reset = await resets.start(user)
        assert reset is not None
        await resets.confirm(reset.id)
        books.clock.forward((72 * HOUR_MS + FINISH_MS) / 1000)
        assert await resets.finish(reset.id) is None
        assert factors(books) == [1, 1, 1, 1]

    run(books, work)


def test_admins_and_closed_sites_ask_the_operator(books: TemporaryBooks) -> None:
    async def work(resets: FactorResets, user: User) -> None:
        assert await resets.start(user) == ("operator", None)

    account = run(books, work, is_admin=True)
    assert factor_resets.of_user(books.connection, account, books.clock.now_ms()) is None


def test_a_site_can_turn_the_removal_off(books: TemporaryBooks) -> None:
    async def work(resets: FactorResets, user: User) -> None:
        assert not resets.is_open
        assert await resets.start(user) == ("operator", None)

    run(books, work, hours=0)


def test_an_admin_made_meanwhile_keeps_the_factors(books: TemporaryBooks) -> None:
    async def work(resets: FactorResets, user: User) -> None:
        _, reset = await resets.start(user)
        assert reset is not None
        await resets.confirm(reset.id)
        with books.connection.transaction():
            users.set_admin(books.connection, user.user_id, True)
        books.clock.forward(73 * 3600)
        assert await resets.finish(reset.id) is None
        assert factors(books) == [1, 1, 1, 1]

    run(books, work)


def test_mails_are_sent_at_once_each_day_and_when_it_is_ready(books: TemporaryBooks) -> None:
    async def work(resets: FactorResets, user: User) -> None:
        assert await resets.claim_mail() == []
        _, reset = await resets.start(user)
        assert reset is not None
        assert await resets.claim_mail() == []
        await resets.confirm(reset.id)
        sent = []
        for hour in range(24 * 5):
            # Two processes ask at the same time.
            for one in await resets.claim_mail() + await resets.claim_mail():
                sent.append((hour, one.is_ready))
            books.clock.forward(3600)
        assert sent == [(0, False), (24, False), (48, False), (72, True)]

    run(books, work)


def test_an_erased_user_leaves_nothing(books: TemporaryBooks) -> None:
    async def work(resets: FactorResets, user: User) -> None:
        _, reset = await resets.start(user)
        assert reset is not None

    account = run(books, work)
    with books.connection.transaction():
        users.forget_person(books.connection, account, "gone", 9)
    assert factors(books) == [0, 0, 0, 0]
    assert books.rows("SELECT count(*) FROM factor_resets") == [(0,)]
