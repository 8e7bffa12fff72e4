"""Passkeys: what a browser may register and sign, for whom, once, and what shows that a passkey was copied."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from minitoolai.accounts.factors.passkeys import CHALLENGE_MS, MAX_PASSKEYS, PasskeyProof, Passkeys, relying_party
from minitoolai.accounts.factors.second_factors import PasswordEvidence, SecondFactors
from minitoolai.accounts.mail import Letter
from minitoolai.accounts.passwords import Passwords, hash_password
from minitoolai.accounts.users import Challenge, Users, Visitor
from minitoolai.core.models import Device, User
from minitoolai.core.signing import SecretKeys
from minitoolai.storage.tables import accounts, passkeys, second_factors, users
from tests.support.authenticator import PRESENT, SYNCED, VERIFIED, Authenticator
from tests.support.books import TemporaryBooks

ORIGIN, DEVICE, PASSWORD = "https://ai.example.com", Device("192.0.2.1", "Firefox", "Linux"), "correct horse"
HASHED = hash_password(PASSWORD)


class Setting:
    """The services with two users, and the browser of each."""

    def __init__(self, books: TemporaryBooks, people: Users, keys: Passkeys, ann: User, bob: User) -> None:
        self.books, self.people, self.keys, self.ann, self.bob = books, people, keys, ann, bob

    async def options(self, user: User | None = None, browser: str = "browser") -> dict[str, Any]:
        """Return the options of a sign-in."""
        return json.loads(await self.keys.begin("sign_in", browser, user and user.user_id))

    async def register(self, device: Authenticator, user: User | None = None, **changes: Any) -> Any:
        """Register a passkey, or return None."""
        user = user or self.ann
        options = await self.keys.begin_registration(user, "browser", "Shop")
        assert options is not None
        answer = device.create(json.loads(options) | changes)
        return await self.keys.finish_registration(user, "browser", "Laptop", answer, "session")

    async def verify(self, answer: str, user: User | None = None, browser: str = "browser") -> Any:
        """Return the outcome of a sign-in."""
        return await self.keys.verify("sign_in", browser, answer, user and user.user_id)

    async def use(self, device: Authenticator) -> Visitor | None:
        """Sign in, or return None."""
        proof = await self.verify(device.sign(await self.options()))
        return await self.people.sign_in_with(proof, proof.user_id, DEVICE) if isinstance(proof, PasskeyProof) else None


class Outbox:
    def __init__(self) -> None:
        self.subjects: list[str] = []

    async def send(self, letter: Letter) -> None:
        self.subjects.append(letter.subject)


def compose(purpose: str, secret: str) -> Letter:
    return Letter("ann@example.com", purpose, secret)


def run(books: TemporaryBooks, work: Callable[[Setting], Awaitable[None]]) -> list[str]:
    """Run this with two users, and return the purposes of all e-mails."""
    found = []
    with books.connection.transaction():
        for email in ("ann@example.com", "bob@example.com"):
            account = accounts.create_account(books.connection, email, HASHED, 5)
            found.append(users.find_user_of(books.connection, account)[0])  # type: ignore[index]
    outbox = Outbox()

    async def go() -> None:
        factors = SecondFactors(books.database, books.clock, SecretKeys(b"secret"))
        people = Users(books.database, writer, Passwords(), outbox, books.clock, factors)  # type: ignore[arg-type]
        try:
            await work(Setting(books, people, Passkeys(books.database, writer, books.clock, lambda: ORIGIN), *found))
        finally:
            await people.close()

    with books.writer() as writer:
        asyncio.run(go())
    return outbox.subjects


def device(**changes: Any) -> Authenticator:
    return Authenticator(**({"origin": ORIGIN, "rp_id": "ai.example.com"} | changes))


def test_a_passkey_signs_in_without_password_and_code(books: TemporaryBooks) -> None:
    async def work(at: Setting) -> None:
        laptop = device(flags=PRESENT | VERIFIED | SYNCED)
        added = await at.register(laptop)
        assert len(added.codes) == 10
        (row,) = await at.keys.of_user(at.ann)
        assert (row.name, row.transports, row.is_synced, row.used_ms) == ("Laptop", "internal", True, None)
        at.books.clock.forward(60)
        visitor = await at.use(laptop)
        assert visitor is not None
        assert visitor.user.user_id == at.ann.user_id
        assert visitor.user.has_second_factor
        (row,) = await at.keys.of_user(at.ann)
        assert (row.sign_count, row.used_ms) == (1, at.books.clock.now_ms())
        # The password alone is not enough any more; a recovery code is the other way.
        asked = await at.people.sign_in("ann@example.com", PASSWORD)
        assert isinstance(asked, Challenge)
        assert await at.people.answer(asked, "123456", DEVICE, compose) is None
        by_code = await at.people.answer(asked, added.codes[0], DEVICE, compose)
        assert by_code is not None
        assert by_code.has_used_recovery_code

    assert run(books, work) == ["recovery_used"]


@pytest.mark.parametrize(
    "changes",
    [
        {"origin": "https://ai.example.com.evil.test"},
        {"origin": "http://ai.example.com"},
        {"origin": "https://ai.example.com:8443"},
        {"rp_id": "evil.test"},
        {"flags": PRESENT},
        {"flags": VERIFIED},
    ],
)
def test_wrong_origin_domain_or_unverified_user_is_refused(books: TemporaryBooks, changes: dict[str, Any]) -> None:
    async def work(at: Setting) -> None:
        assert await at.register(device(**changes)) is None
        laptop = device()
        assert await at.register(laptop) is not None
        laptop.__dict__.update(changes)
        assert await at.verify(laptop.sign(await at.options())) == ("refused", 0)
        assert (await at.keys.of_user(at.ann))[0].used_ms is None

    run(books, work)


def test_a_challenge_is_answered_once_by_its_browser_in_time(books: TemporaryBooks) -> None:
    async def work(at: Setting) -> None:
        laptop = device()
        await at.register(laptop)
        answer = laptop.sign(await at.options())
        assert isinstance(await at.verify(answer), PasskeyProof)
        assert await at.verify(answer) == ("refused", 0)
        # Of two that arrive together, one wins.
        answer = laptop.sign(await at.options())
        outcomes = await asyncio.gather(*(at.verify(answer) for _ in range(4)))
        assert sum(isinstance(one, PasskeyProof) for one in outcomes) == 1
        assert await at.verify(laptop.sign(await at.options()), browser="another") == ("refused", 0)
        options = await at.options()
        at.books.clock.forward(CHALLENGE_MS / 1000 + 1)
        assert await at.verify(laptop.sign(options)) == ("refused", 0)
        # A challenge of a registration is not one of a sign-in, nor is an invented one.
        created = json.loads(await at.keys.begin_registration(at.ann, "browser", "Shop") or "")
        assert await at.verify(laptop.sign(created)) == ("refused", 0)
        assert await at.verify(laptop.sign({"challenge": "aW52ZW50ZWQ"})) == ("refused", 0)

    run(books, work)


def test_the_passkey_of_another_user_is_refused(books: TemporaryBooks) -> None:
    async def work(at: Setting) -> None:
        ann, bob = device(), device()
        await at.register(ann)
        await at.register(bob, at.bob)
        options = await at.options(at.ann)
        assert [one["id"] for one in options["allowCredentials"]] == [json.loads(ann.sign(options))["id"]]
        assert await at.verify(bob.sign(options), at.ann) == ("refused", 0)
        # A challenge for Ann does not serve where any user may answer.
        assert await at.verify(ann.sign(await at.options(at.ann))) == ("refused", 0)
        assert await at.verify(ann.sign(await at.options(), user_handle=bob.user_handle)) == ("refused", 0)
        # Nobody registers a passkey for another user, or a credential that is registered.
        options = json.loads(await at.keys.begin_registration(at.ann, "browser", "Shop") or "")
        answer = device().create(options)
        assert await at.keys.finish_registration(at.bob, "browser", "Mine", answer, "session") is None
        assert await at.register(bob.copy(), at.ann) is None
        visitor = await at.use(bob)
        assert visitor is not None
        assert visitor.user.user_id == at.bob.user_id

    run(books, work)


def test_a_counter_that_goes_backwards_blocks_the_passkey(books: TemporaryBooks) -> None:
    async def work(at: Setting) -> None:
        laptop = device()
        await at.register(laptop)
        stolen = laptop.copy()
        assert await at.use(laptop) is not None
        assert await at.use(laptop) is not None
        assert await at.verify(stolen.sign(await at.options())) == ("cloned", at.ann.user_id)
        assert (await at.keys.of_user(at.ann))[0].blocked_ms is not None
        # Neither the copy nor the original works, and the password does not become enough.
        assert await at.use(laptop) is None
        assert isinstance(await at.people.sign_in("ann@example.com", PASSWORD), Challenge)
        assert not await at.keys.can_answer(at.ann.user_id)

    run(books, work)


def test_a_forged_counter_without_the_key_blocks_nothing(books: TemporaryBooks) -> None:
    async def work(at: Setting) -> None:
        laptop = device()
        await at.register(laptop)
        assert await at.use(laptop) is not None
        forger = device()
        forger.id, forger.user_handle, forger.step = laptop.id, laptop.user_handle, 0
        assert await at.verify(forger.sign(await at.options())) == ("refused", 0)
        assert await at.use(laptop) is not None

    run(books, work)


def test_synced_passkeys_that_never_count_work_for_ever(books: TemporaryBooks) -> None:
    async def work(at: Setting) -> None:
        phone = device(step=0)
        await at.register(phone)
        for _ in range(3):
            assert await at.use(phone) is not None

    run(books, work)


def test_a_removed_passkey_signs_in_no_more_even_with_an_open_proof(books: TemporaryBooks) -> None:
    async def work(at: Setting) -> None:
        laptop, phone = device(), device()
        await at.register(laptop)
        added = await at.register(phone)
        # Recovery codes come with the first factor only.
        assert added.codes == []
        proof = await at.verify(phone.sign(await at.options()))
        assert isinstance(proof, PasskeyProof)
        by_laptop = await at.verify(laptop.sign(await at.options()))
        assert await at.people.remove_passkey(at.ann, phone.id, by_laptop, "session", compose)
        assert await at.people.sign_in_with(proof, proof.user_id, DEVICE) is None
        assert await at.use(phone) is None
        # The same proof does not remove another one.
        assert not await at.people.remove_passkey(at.ann, laptop.id, by_laptop, "session", compose)
        assert not await at.people.remove_passkey(at.bob, laptop.id, PasswordEvidence(), "session", compose)
        again = await at.verify(laptop.sign(await at.options()))
        assert await at.people.remove_passkey(at.ann, laptop.id, again, "session", compose)
        assert second_factors.count_recovery_codes(at.books.connection, at.ann.user_id) == 0
        assert isinstance(await at.people.sign_in("ann@example.com", PASSWORD), Visitor)

    assert run(books, work) == ["passkey_removed", "passkey_removed"]


def test_registering_ends_other_sessions_and_has_a_limit(books: TemporaryBooks) -> None:
    async def work(at: Setting) -> None:
        visitor = await at.people.sign_in("ann@example.com", PASSWORD)
        assert isinstance(visitor, Visitor)
        await at.register(device())
        assert await at.people.session_user(visitor.secret) is None
        for _ in range(MAX_PASSKEYS - 1):
            assert await at.register(device()) is not None
        assert await at.keys.begin_registration(at.ann, "browser", "Shop") is None
        assert await at.keys.rename(at.ann, (await at.keys.of_user(at.ann))[0].credential_id, "  Old\u0000 one ")
        assert (await at.keys.of_user(at.ann))[0].name == "Old one"
        assert not await at.keys.rename(at.bob, (await at.keys.of_user(at.ann))[0].credential_id, "Mine")

    run(books, work)


@pytest.mark.parametrize("answer", ["", "{}", "[]", "nonsense", '{"response": {"clientDataJSON": "!!"}}', "\ud800"])
def test_answers_that_are_no_answers_are_refused(books: TemporaryBooks, answer: str) -> None:
    async def work(at: Setting) -> None:
        assert await at.verify(answer.encode("utf-8", "replace").decode()) == ("refused", 0)

    run(books, work)


def test_erasure_and_retention_take_passkeys_away(books: TemporaryBooks) -> None:
    async def work(at: Setting) -> None:
        await at.register(device())
        await at.options()
        assert await at.people.delete_account(at.ann) == "done"

    run(books, work)
    assert books.rows("SELECT count(*) FROM passkeys") == [(0,)]
    assert passkeys.find(books.connection, b"none") is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://ai.example.com", ("ai.example.com", "https://ai.example.com")),
        ("https://AI.example.com:443/base", ("ai.example.com", "https://ai.example.com")),
        ("https://ai.example.com:8443", ("ai.example.com", "https://ai.example.com:8443")),
        ("http://localhost:8000", ("localhost", "http://localhost:8000")),
        ("http://ai.example.com", None),
        ("http://127.0.0.1:8000", None),
        ("https://[::1]:8000", None),
    ],
)
def test_the_relying_party_is_the_site_s_address(address: str, expected: tuple[str, str] | None) -> None:
    party = relying_party(address)
    assert (party and (party.id, party.origin)) == expected
