"""A second factor: needed at sign-in, each code once, encrypted at rest, and recovery codes for a lost device."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from minitoolai.accounts.factors import totp
from minitoolai.accounts.factors.second_factors import (
    PasswordEvidence,
    Proof,
    SecondFactors,
    SecretCipher,
    encrypt_anew,
)
from minitoolai.accounts.mail import Letter
from minitoolai.accounts.passwords import hash_password
from minitoolai.accounts.users import CHALLENGE_MS, Challenge, Users, Visitor
from minitoolai.core.models import Device, User
from minitoolai.core.signing import SecretKeys
from minitoolai.storage.tables import accounts, second_factors, users
from tests.support.books import TemporaryBooks
from tests.support.quick_hashes import QUICK, quick_passwords

ANN, PASSWORD, DEVICE = "ann@example.com", "correct horse", Device("192.0.2.1", "Firefox", "Linux")
OLD, NEW = SecretKeys(b"old"), SecretKeys(b"new", [b"old"])
HASHED = hash_password(PASSWORD, QUICK)
Work = Callable[[Users, User, bytes, list[str]], Awaitable[None]]


class Outbox:
    """Collects the subjects of e-mails, which `compose` takes from their purpose."""

    def __init__(self) -> None:
        self.subjects: list[str] = []

    async def send(self, letter: Letter) -> None:
        self.subjects.append(letter.subject)


def compose(purpose: str, secret: str) -> Letter:
    return Letter(ANN, purpose, secret)


def with_factor(books: TemporaryBooks, work: Work, keys: SecretKeys = OLD) -> list[str]:
    """Run this with a user who has just set up a second factor, and return the subjects of all e-mails."""
    outbox = Outbox()
    with books.connection.transaction():
        account = accounts.create_account(books.connection, ANN, HASHED, 5)
        user = users.find_user_of(books.connection, account)[0]  # type: ignore[index]

    async def run() -> None:
        factors = SecondFactors(books.database, books.clock, keys)
        people = Users(books.database, writer, quick_passwords(), outbox, books.clock, factors)
        secret = totp.new_secret()
        try:
            codes = await people.add_second_factor(user, secret, code(books, secret), "", compose, PasswordEvidence())
            assert codes is not None
            await work(people, user, secret, codes)
        finally:
            await people.close()

    with books.writer() as writer:
        asyncio.run(run())
    return outbox.subjects


def code(books: TemporaryBooks, secret: bytes, offset: int = 0) -> str:
    return totp.code_of_step(secret, totp.step_at(books.clock.now_ms()) + offset)


async def prove(books: TemporaryBooks, user: User, text: str) -> Proof | None:
    return await SecondFactors(books.database, books.clock, OLD).verify(user.user_id, text)


async def challenge(people: Users) -> Challenge:
    outcome = await people.sign_in(ANN, PASSWORD, device=DEVICE)
    assert isinstance(outcome, Challenge)
    return outcome


def test_a_sign_in_needs_the_code_and_a_code_works_once(books: TemporaryBooks) -> None:
    async def work(people: Users, user: User, secret: bytes, codes: list[str]) -> None:
        asked = await challenge(people)
        # The code that set the factor up is used, too.
        assert await people.answer(asked, code(books, secret), DEVICE, compose) is None
        assert await people.answer(asked, code(books, secret, -1), DEVICE, compose) is None
        ahead = code(books, secret, 1)
        answers = await asyncio.gather(*(people.answer(asked, ahead, DEVICE, compose) for _ in range(5)))
        assert sum(isinstance(answer, Visitor) for answer in answers) == 1
        assert await people.answer(asked, ahead, DEVICE, compose) is None
        assert [row.device for row in await people.sessions(user)] == [DEVICE]

    assert with_factor(books, work) == ["factor_on"]


def test_each_recovery_code_works_once_and_is_reported(books: TemporaryBooks) -> None:
    async def work(people: Users, user: User, secret: bytes, codes: list[str]) -> None:
        asked = await challenge(people)
        assert await people.answer(asked, "aaaa-bbbb-cccc-dddd", DEVICE, compose) is None
        assert await people.answer(asked, codes[3].upper(), DEVICE, compose) is not None
        assert await people.answer(asked, codes[3], DEVICE, compose) is None
        assert second_factors.count_recovery_codes(books.connection, user.account_id) == 9
        proof = await prove(books, user, codes[4])
        assert proof is not None
        renewed = await people.renew_recovery_codes(user, proof, compose)
        assert renewed is not None
        assert await people.answer(asked, codes[5], DEVICE, compose) is None
        assert await people.answer(asked, renewed[0], DEVICE, compose) is not None

    assert sorted(with_factor(books, work)) == ["factor_on", "recovery_codes", "recovery_used", "recovery_used"]


def test_a_challenge_ends_with_time_and_with_the_password(books: TemporaryBooks) -> None:
    async def work(people: Users, user: User, secret: bytes, codes: list[str]) -> None:
        first = await challenge(people)
        books.clock.forward(CHALLENGE_MS / 1000 + 1)
        assert await people.answer(first, code(books, secret), DEVICE, compose) is None
        second = await challenge(people)
        await people.change_password(user, "another password", compose)
        assert await people.answer(second, code(books, secret), DEVICE, compose) is None

    with_factor(books, work)


def test_a_reset_by_e_mail_does_not_replace_the_second_factor(books: TemporaryBooks) -> None:
    async def work(people: Users, user: User, secret: bytes, codes: list[str]) -> None:
        books.clock.forward(30)
        links: list[str] = []
        people.request_reset(ANN, lambda purpose, link: (links.append(link), compose(purpose, link))[1])
        while not links:
            await asyncio.sleep(0.01)
        outcome = await people.reset(links[0], "a new password", DEVICE)
        assert isinstance(outcome, Challenge)
        assert await people.sessions(user) == []
        assert await people.answer(outcome, code(books, secret), DEVICE, compose) is not None

    with_factor(books, work)


def test_setting_up_needs_a_right_code_and_ends_other_sessions(books: TemporaryBooks) -> None:
    async def work(people: Users, user: User, secret: bytes, codes: list[str]) -> None:
        # A stolen session is not enough to replace an active second factor.
        other = totp.new_secret()
        assert await people.add_second_factor(user, other, code(books, other), "", compose, PasswordEvidence()) is None
        books.clock.forward(30)
        assert await prove(books, user, "000000") is None
        proof = await prove(books, user, code(books, secret))
        assert proof is not None
        assert await people.remove_second_factor(user, proof, compose)
        # Evidence that was used proves nothing more.
        assert await people.add_second_factor(user, other, code(books, other), "", compose, proof) is None
        assert isinstance(await people.sign_in(ANN, PASSWORD, device=DEVICE), Visitor)
        assert await people.add_second_factor(user, other, "000000", "", compose, PasswordEvidence()) is None
        assert (
            await people.add_second_factor(user, other, code(books, other), "", compose, PasswordEvidence()) is not None
        )
        assert await people.sessions(user) == []

    assert with_factor(books, work) == ["factor_on", "factor_off", "factor_on"]


def test_the_secret_is_encrypted_for_its_account(books: TemporaryBooks) -> None:
    async def work(people: Users, user: User, secret: bytes, codes: list[str]) -> None:
        stored = second_factors.find(books.connection, user.account_id)
        assert stored is not None
        assert secret not in stored.secret
        assert totp.secret_text(secret).encode() not in stored.secret
        assert SecretCipher(OLD).decrypt(user.account_id, stored.secret) == secret
        assert SecretCipher(OLD).decrypt(user.account_id + 1, stored.secret) is None
        assert SecretCipher(SecretKeys(b"other")).decrypt(user.account_id, stored.secret) is None
        rows = repr(books.rows("SELECT * FROM recovery_codes"))
        assert not any(word in rows for word in codes)

    with_factor(books, work)


def test_a_sign_in_or_forgetting_the_old_secret_encrypts_anew(books: TemporaryBooks) -> None:
    found: list[tuple[int, bytes]] = []

    async def work(people: Users, user: User, secret: bytes, codes: list[str]) -> None:
        found.append((user.account_id, secret))

    with_factor(books, work)
    (account, secret) = found[0]

    def stored() -> bytes:
        row = second_factors.find(books.connection, account)
        assert row is not None
        return row.secret

    with books.connection.transaction():
        assert encrypt_anew(books.connection, NEW) == 1
    assert SecretCipher(SecretKeys(b"new")).decrypt(account, stored()) == secret
    newer = SecretKeys(b"newer", [b"new"])
    books.clock.forward(60)

    async def sign_in() -> None:
        factors = SecondFactors(books.database, books.clock, newer)
        proof = await factors.verify(account, code(books, secret))
        assert proof is not None
        with books.connection.transaction():
            assert proof.consume(books.connection)

    asyncio.run(sign_in())
    assert SecretCipher(SecretKeys(b"newer")).decrypt(account, stored()) == secret


def test_a_lost_secret_leaves_the_recovery_codes(books: TemporaryBooks, caplog: pytest.LogCaptureFixture) -> None:
    found: list[tuple[int, bytes, list[str]]] = []

    async def work(people: Users, user: User, secret: bytes, codes: list[str]) -> None:
        found.append((user.account_id, secret, codes))

    with_factor(books, work)
    account, secret, codes = found[0]
    books.clock.forward(60)
    factors = SecondFactors(books.database, books.clock, SecretKeys(b"another"))
    assert asyncio.run(factors.verify(account, code(books, secret))) is None
    assert f"account {account}" in caplog.text
    proof = asyncio.run(factors.verify(account, codes[0]))
    assert proof is not None
    with books.connection.transaction():
        assert proof.consume(books.connection)
        assert encrypt_anew(books.connection, SecretKeys(b"another")) == 0
