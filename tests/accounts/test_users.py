"""Users: sign-up, sessions, password resets and erasure, without revealing who has an account."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from minitoolai.accounts import users as module
from minitoolai.accounts.mail import Letter
from minitoolai.accounts.users import IDLE_MS, RESET_LINK_MS, SIGNUP_LINK_MS, Passwords, Users
from minitoolai.core.errors import InvalidRequest, Overloaded
from minitoolai.storage import accounts
from minitoolai.storage import users as storage
from tests.support.books import NOON_MS, TemporaryBooks, hold

ANN, PASSWORD = "ann@example.com", "correct horse"


class Mailbox:
    """Collects e-mails as (purpose, secret)."""

    def __init__(self) -> None:
        self.letters: list[tuple[str, str]] = []

    async def send(self, letter: Letter) -> None:
        self.letters.append((letter.subject, letter.text))


def compose(purpose: str, secret: str) -> Letter:
    return Letter(ANN, purpose, secret)


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


def within(books: TemporaryBooks, mailbox: Mailbox, work: Callable[[Users], Awaitable[None]]) -> None:
    """Run this work, and wait for its e-mails."""

    async def whole(users: Users) -> None:
        try:
            await work(users)
        finally:
            await users.close()

    with books.writer() as writer:
        asyncio.run(whole(Users(books.database, writer, Passwords(), mailbox, books.clock)))


async def letter_of(users: Users, mailbox: Mailbox) -> tuple[str, str]:
    """Wait for background work and return the last e-mail."""
    while users._background_tasks:
        await asyncio.wait(users._background_tasks)
    return mailbox.letters[-1]


async def signed_up(users: Users, mailbox: Mailbox) -> module.Visitor:
    await users.sign_up(ANN, PASSWORD, "browser", compose)
    _, secret = await letter_of(users, mailbox)
    visitor = await users.confirm(secret, "browser", "", "de")
    assert visitor is not None
    return visitor


def test_a_sign_up_link_makes_one_account_and_signs_in(books: TemporaryBooks, mailbox: Mailbox) -> None:
    async def work(users: Users) -> None:
        await users.sign_up(ANN, PASSWORD, "browser", compose)
        purpose, secret = await letter_of(users, mailbox)
        assert purpose == "signup"
        visitor = await users.confirm(secret, "browser", "", "de")
        assert visitor is not None
        assert (visitor.user.email, visitor.user.language) == (ANN, "de")
        assert await users.session_user(visitor.secret) == visitor.user
        assert await users.confirm(secret, "browser", "", "de") is None

    within(books, mailbox, work)


def test_a_sign_up_in_another_browser_needs_the_password(books: TemporaryBooks, mailbox: Mailbox) -> None:
    async def work(users: Users) -> None:
        await users.sign_up(ANN, PASSWORD, "browser", compose)
        _, secret = await letter_of(users, mailbox)
        assert await users.confirm(secret, "another", "wrong password", "en") is None
        assert await users.confirm(secret, "another", PASSWORD, "en") is not None

    within(books, mailbox, work)


def test_a_link_expires(books: TemporaryBooks, mailbox: Mailbox) -> None:
    async def work(users: Users) -> None:
        await users.sign_up(ANN, PASSWORD, "browser", compose)
        _, secret = await letter_of(users, mailbox)
        books.clock.forward(SIGNUP_LINK_MS / 1000 + 1)
        assert await users.link(secret) is None
        assert await users.confirm(secret, "browser", "", "en") is None

    within(books, mailbox, work)


def test_a_second_sign_up_changes_nothing_and_sends_another_letter(books: TemporaryBooks, mailbox: Mailbox) -> None:
    async def work(users: Users) -> None:
        await signed_up(users, mailbox)
        await users.sign_up(ANN, "another password", "browser", compose)
        assert await letter_of(users, mailbox) == ("known", "")
        assert await users.sign_in(ANN, "another password") is None
        assert await users.sign_in(ANN, PASSWORD) is not None

    within(books, mailbox, work)


def test_an_unknown_address_costs_as_much_work_as_a_wrong_password(
    books: TemporaryBooks, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    from argon2 import PasswordHasher

    hashes: list[str] = []
    verify = PasswordHasher.verify

    def recording(self: PasswordHasher, hashed: str, password: str) -> bool:
        hashes.append(hashed.rsplit("$", 2)[0])
        return verify(self, hashed, password)

    async def work(users: Users) -> None:
        await signed_up(users, mailbox)
        monkeypatch.setattr(PasswordHasher, "verify", recording)
        assert await users.sign_in(ANN, "wrong password") is None
        assert await users.sign_in("bob@example.com", PASSWORD) is None
        assert len(hashes) == 2
        assert hashes[0] == hashes[1]

    within(books, mailbox, work)


def test_a_session_ends_by_sign_out_or_when_idle(books: TemporaryBooks, mailbox: Mailbox) -> None:
    async def work(users: Users) -> None:
        first = await signed_up(users, mailbox)
        second = await users.sign_in(ANN, PASSWORD)
        assert second is not None
        await users.sign_out(first.secret)
        assert await users.session_user(first.secret) is None
        assert await users.session_user(second.secret) is not None
        books.clock.forward(IDLE_MS / 1000 + 1)
        assert await users.session_user(second.secret) is None

    within(books, mailbox, work)


def test_a_reset_link_works_once_and_ends_every_session(books: TemporaryBooks, mailbox: Mailbox) -> None:
    async def work(users: Users) -> None:
        old = await signed_up(users, mailbox)
        users.request_reset(ANN, compose)
        purpose, secret = await letter_of(users, mailbox)
        assert purpose == "reset"
        visitor = await users.reset(secret, "a new password")
        assert visitor is not None
        assert await users.session_user(old.secret) is None
        assert await users.reset(secret, "yet another one") is None
        assert await users.verify_password(visitor.user, "a new password")
        assert not await users.verify_password(visitor.user, PASSWORD)
        users.request_reset(ANN, compose)
        _, late = await letter_of(users, mailbox)
        books.clock.forward(RESET_LINK_MS / 1000 + 1)
        assert await users.reset(late, "a late password") is None

    within(books, mailbox, work)


def test_a_reset_for_an_unknown_address_sends_nothing(books: TemporaryBooks, mailbox: Mailbox) -> None:
    async def work(users: Users) -> None:
        users.request_reset("bob@example.com", compose)

    within(books, mailbox, work)
    assert mailbox.letters == []


def test_a_changed_password_ends_other_sessions_and_is_announced(books: TemporaryBooks, mailbox: Mailbox) -> None:
    async def work(users: Users) -> None:
        old = await signed_up(users, mailbox)
        new = await users.change_password(old.user, "a new password", compose)
        assert new is not None
        assert await users.session_user(old.secret) is None
        assert await users.session_user(new.secret) == old.user
        assert await letter_of(users, mailbox) == ("changed", "")

    within(books, mailbox, work)


def test_an_account_is_erased_only_when_it_has_no_work(books: TemporaryBooks, mailbox: Mailbox) -> None:
    busy = books.account(1000)
    books.apply(hold(7, busy))
    with books.connection.transaction():
        assert not module.erase_personal_data(books.connection, busy, NOON_MS)

    async def work(users: Users) -> None:
        visitor = await signed_up(users, mailbox)
        assert await users.delete_account(visitor.user)
        assert await users.session_user(visitor.secret) is None
        assert await users.sign_in(ANN, PASSWORD) is None

    within(books, mailbox, work)
    assert storage.find_user(books.connection, ANN) is None
    assert accounts.find_account(books.connection, ANN) is None


@pytest.mark.parametrize("password", ["", "1234567", "x" * 201])
def test_a_password_of_a_wrong_length_is_refused(password: str) -> None:
    with pytest.raises(InvalidRequest, match="characters") as refusal:
        module.hash_password(password)
    assert refusal.value.param == "password"


def test_too_many_waiting_sign_ins_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 1)

    async def work() -> None:
        passwords = Passwords()
        hashing = asyncio.ensure_future(passwords.hash(PASSWORD))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="Too many sign-ins"):
            await passwords.verify(None, PASSWORD)
        assert await passwords.verify(await hashing, PASSWORD)
        passwords.close()

    asyncio.run(work())
