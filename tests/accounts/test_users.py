"""Users: sign-up, sessions, password resets and erasure, without revealing who has an account."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from minitoolai.accounts import users as module
from minitoolai.accounts.factors.second_factors import SecondFactors
from minitoolai.accounts.mail import Letter
from minitoolai.accounts.passwords import TRUSTED_S, Passwords, hash_password
from minitoolai.accounts.users import IDLE_MS, RESET_LINK_MS, SIGNUP_LINK_MS, Users
from minitoolai.core.signing import SecretKeys
from minitoolai.storage.tables import accounts
from minitoolai.storage.tables import users as storage
from tests.support.books import NOON_MS, TemporaryBooks, hold
from tests.support.quick_hashes import QUICK, quick_passwords

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


def within(
    books: TemporaryBooks,
    mailbox: Mailbox,
    work: Callable[[Users], Awaitable[None]],
    passwords: Passwords | None = None,
) -> None:
    """Run this work, and wait for its e-mails."""

    async def whole(users: Users) -> None:
        try:
            await work(users)
        finally:
            await users.close()

    with books.writer() as writer:
        factors = SecondFactors(books.database, books.clock, SecretKeys(b"secret"))
        asyncio.run(whole(Users(books.database, writer, passwords or quick_passwords(), mailbox, books.clock, factors)))


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


class RecordingPasswords(Passwords):
    """Records the parameters of every hash that a password is verified against."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters: list[str] = []

    async def verify(self, kept: str | None, password: str, delay_s: float = TRUSTED_S) -> bool:
        result = await super().verify(kept, password, delay_s)
        hashed = kept or self._dummy_hash
        assert hashed is not None
        self.parameters.append(hashed.rsplit("$", 2)[0])
        return result


def test_an_unknown_address_costs_as_much_work_as_a_wrong_password(books: TemporaryBooks, mailbox: Mailbox) -> None:
    passwords = RecordingPasswords()

    async def work(users: Users) -> None:
        await signed_up(users, mailbox)
        assert await users.sign_in(ANN, "wrong password") is None
        assert await users.sign_in("bob@example.com", PASSWORD) is None
        one, other = passwords.parameters
        assert one == other
        assert one.startswith("$argon2id$")

    within(books, mailbox, work, passwords)


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


@pytest.mark.parametrize("spelling", ["Ann@Bücher.Example", "ann@bu\u0308cher.example", "ANN@XN--BCHER-KVA.example."])
def test_one_mailbox_is_one_account_however_it_is_spelled(
    books: TemporaryBooks, mailbox: Mailbox, spelling: str
) -> None:
    async def work(users: Users) -> None:
        await users.sign_up("ann@bücher.example", PASSWORD, "browser", compose)
        _, secret = await letter_of(users, mailbox)
        assert await users.confirm(secret, "browser", "", "de") is not None
        await users.sign_up(spelling, "another password", "other", compose)
        assert (await letter_of(users, mailbox))[0] == "known"
        visitor = await users.sign_in(spelling, PASSWORD)
        assert visitor is not None
        assert visitor.user.email == "ann@bücher.example"
        users.request_reset(spelling, compose)
        assert (await letter_of(users, mailbox))[0] == "reset"

    within(books, mailbox, work)


@pytest.mark.parametrize(
    "stored", ["ann@xn--bcher-kva.example", "ann@bu\u0308cher.example", "a\u200bnn@foo_bar.example"]
)
def test_an_account_of_an_older_version_keeps_working(books: TemporaryBooks, mailbox: Mailbox, stored: str) -> None:
    async def work(users: Users) -> None:
        with books.connection.transaction():
            accounts.create_account(books.connection, stored, hash_password(PASSWORD, QUICK), 5)
        visitor = await users.sign_in(stored, PASSWORD)
        assert visitor is not None
        assert visitor.user.email == stored
        if "_" not in stored:
            assert await users.sign_in("ann@bücher.example", PASSWORD) is not None
            await users.sign_up("ann@bücher.example", "another password", "other", compose)
            assert (await letter_of(users, mailbox))[0] == "known"

    within(books, mailbox, work)
