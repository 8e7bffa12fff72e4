"""An e-mail address changes once both mailboxes have confirmed it, and one mailbox stays one account."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from minitoolai.accounts.email_changes import LINK_MS, EmailChanges
from minitoolai.accounts.factors.second_factors import SecondFactors
from minitoolai.accounts.mail import Letter
from minitoolai.accounts.users import Users
from minitoolai.core.models import MailLink, User
from minitoolai.core.signing import SecretKeys
from minitoolai.storage.tables import accounts, users
from tests.support.books import NOON_MS, TemporaryBooks
from tests.support.quick_hashes import quick_passwords

OLD, NEW = "ann@example.com", "ann@example.org"


class Post:
    """Collects (purpose, secret) of the e-mails to each address."""

    def __init__(self) -> None:
        self.letters: dict[str, list[tuple[str, str]]] = {OLD: [], NEW: []}

    def compose(self, to: str) -> Callable[[str, str], Letter]:
        return lambda purpose, secret: Letter(to, purpose, secret)

    async def send(self, letter: Letter) -> None:
        self.letters[letter.to].append((letter.subject, letter.text))

    def link(self, to: str) -> str:
        return self.letters[to][-1][1]


def changing(books: TemporaryBooks, work: Callable[[EmailChanges, User, Post], Awaitable[None]], to: str = NEW) -> None:
    """Run this after a user has asked for another address."""
    post = Post()
    with books.connection.transaction():
        account = accounts.create_account(books.connection, OLD, None, 5)
        users.insert_session(books.connection, b"session", account, NOON_MS, NOON_MS + 10**9)
        user = users.find_user_of(books.connection, account)[0]  # type: ignore[index]

    async def run() -> None:
        factors = SecondFactors(books.database, books.clock, SecretKeys(b"secret"))
        people = Users(books.database, writer, quick_passwords(), post, books.clock, factors)
        changes = EmailChanges(books.database, writer, books.clock, people)
        try:
            await changes.start(user, to, post.compose(OLD), post.compose(NEW))
            while not all(post.letters.values()):
                await asyncio.sleep(0.01)
            await work(changes, user, post)
        finally:
            await people.close()

    with books.writer() as writer:
        asyncio.run(run())


def address(books: TemporaryBooks, user: User) -> str:
    return str(books.rows("SELECT email FROM users WHERE account_id = ?", user.account_id)[0][0])


@pytest.mark.parametrize("order", [(OLD, NEW), (NEW, OLD)])
def test_both_mailboxes_must_confirm_in_any_order(books: TemporaryBooks, order: tuple[str, str]) -> None:
    async def work(changes: EmailChanges, user: User, post: Post) -> None:
        first, second = (post.link(mailbox) for mailbox in order)
        reset = MailLink("reset", OLD, None, None, NOON_MS + 10**9)
        with books.connection.transaction():
            users.insert_link(books.connection, b"reset", reset, NOON_MS)
        assert await changes.find(first) is not None
        assert await changes.confirm(first) == "waiting"
        assert await changes.confirm(first) == "waiting"
        assert address(books, user) == OLD
        assert await changes.confirm(second) == "done"
        assert address(books, user) == NEW
        assert await changes.confirm(second) is None
        assert await changes.pending(user) is None
        # A link for a new password that went to the old mailbox opens nothing any more.
        assert users.find_link(books.connection, b"reset", NOON_MS) is None

    changing(books, work)


@pytest.mark.parametrize(("mailbox", "sessions"), [(OLD, 0), (NEW, 1)])
def test_either_mailbox_stops_it_and_the_old_one_ends_all_sessions(
    books: TemporaryBooks, mailbox: str, sessions: int
) -> None:
    async def work(changes: EmailChanges, user: User, post: Post) -> None:
        assert await changes.confirm(post.link(NEW)) == "waiting"
        assert await changes.stop(post.link(mailbox))
        assert not await changes.stop(post.link(mailbox))
        assert await changes.confirm(post.link(OLD)) is None
        assert address(books, user) == OLD
        assert books.rows("SELECT count(*) FROM sessions") == [(sessions,)]

    changing(books, work)


def test_the_links_expire_and_a_second_request_replaces_the_first(books: TemporaryBooks) -> None:
    async def work(changes: EmailChanges, user: User, post: Post) -> None:
        first = post.link(OLD)
        await changes.start(user, NEW, post.compose(OLD), post.compose(NEW))
        while len(post.letters[OLD]) < 2:
            await asyncio.sleep(0.01)
        assert await changes.confirm(first) is None
        books.clock.forward(LINK_MS / 1000 + 1)
        assert await changes.find(post.link(OLD)) is None
        assert await changes.confirm(post.link(OLD)) is None

    changing(books, work)


@pytest.mark.parametrize("spelling", ["bob@bücher.example", "bob@xn--bcher-kva.example"])
def test_a_mailbox_with_an_account_gets_no_link(books: TemporaryBooks, spelling: str) -> None:
    with books.connection.transaction():
        accounts.create_account(books.connection, spelling, None, 5)

    async def work(changes: EmailChanges, user: User, post: Post) -> None:
        assert post.letters[NEW] == [("email_known", "")]
        assert post.letters[OLD][0][0] == "email_old"

    changing(books, work, to="bob@bücher.example")


def test_an_address_that_was_taken_meanwhile_is_refused(books: TemporaryBooks) -> None:
    async def work(changes: EmailChanges, user: User, post: Post) -> None:
        assert await changes.confirm(post.link(OLD)) == "waiting"
        with books.connection.transaction():
            accounts.create_account(books.connection, NEW, None, 5)
        assert await changes.confirm(post.link(NEW)) == "taken"
        assert address(books, user) == OLD
        assert await changes.confirm(post.link(NEW)) is None

    changing(books, work)
