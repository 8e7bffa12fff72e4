"""A passkey is used by its user, counts forwards, and a challenge is answered once."""

from __future__ import annotations

import pytest

from minitoolai.storage.tables import passkeys
from minitoolai.storage.tables.passkeys import Passkey, PasskeyChallenge
from tests.support.books import TemporaryBooks


@pytest.fixture
def passkey(books: TemporaryBooks) -> Passkey:
    made = Passkey(b"credential", books.account(0), b"key", 3, "Laptop", "internal hybrid", True, 10)
    assert passkeys.insert(books.connection, made)
    return made


def test_a_credential_is_registered_once(books: TemporaryBooks, passkey: Passkey) -> None:
    assert not passkeys.insert(books.connection, passkey._replace(user_id=books.account(0), name="Stolen"))
    assert passkeys.find(books.connection, b"credential") == passkey
    older = passkey._replace(credential_id=b"other", created_ms=9)
    assert passkeys.insert(books.connection, older)
    assert passkeys.of_user(books.connection, passkey.user_id) == [older, passkey]


def test_of_two_uses_with_the_same_counter_one_is_recorded(books: TemporaryBooks, passkey: Passkey) -> None:
    assert passkeys.record_use(books.connection, passkey, 4, False, 20)
    assert not passkeys.record_use(books.connection, passkey, 5, False, 21)
    used = passkey._replace(sign_count=4, is_synced=False, used_ms=20)
    assert passkeys.find(books.connection, b"credential") == used


def test_a_blocked_passkey_is_never_used_again(books: TemporaryBooks, passkey: Passkey) -> None:
    assert passkeys.block(books.connection, b"credential", 30)
    assert not passkeys.block(books.connection, b"credential", 31)
    assert not passkeys.record_use(books.connection, passkey, 4, True, 32)
    assert passkeys.find(books.connection, b"credential") == passkey._replace(blocked_ms=30)


def test_only_its_user_renames_or_removes_it(books: TemporaryBooks, passkey: Passkey) -> None:
    other = books.account(0)
    assert not passkeys.rename(books.connection, other, b"credential", "Mine")
    assert not passkeys.delete(books.connection, other, b"credential")
    assert passkeys.delete_all(books.connection, other) == 0
    assert passkeys.rename(books.connection, passkey.user_id, b"credential", "Phone")
    assert passkeys.of_user(books.connection, passkey.user_id) == [passkey._replace(name="Phone")]
    assert passkeys.delete(books.connection, passkey.user_id, b"credential")
    assert passkeys.find(books.connection, b"credential") is None


@pytest.mark.parametrize(
    ("purpose", "now_ms", "is_taken"), [("sign_in", 99, True), ("sign_in", 100, False), ("confirm", 1, False)]
)
def test_a_challenge_is_answered_once_in_time_and_for_its_purpose(
    books: TemporaryBooks, purpose: passkeys.Purpose, now_ms: int, is_taken: bool
) -> None:
    challenge = PasskeyChallenge(b"random", "sign_in", b"browser", None, 100)
    passkeys.insert_challenge(books.connection, challenge)
    found = passkeys.take_challenge(books.connection, b"random", purpose, now_ms)
    assert found == (challenge if is_taken else None)
    # A wrong answer uses it up, too.
    assert passkeys.take_challenge(books.connection, b"random", "sign_in", 1) is None


def test_challenges_of_a_user_go_with_the_passkeys(books: TemporaryBooks, passkey: Passkey) -> None:
    passkeys.insert_challenge(books.connection, PasskeyChallenge(b"r", "confirm", b"b", passkey.user_id, 100))
    assert passkeys.delete_all(books.connection, passkey.user_id) == 1
    assert passkeys.take_challenge(books.connection, b"r", "confirm", 1) is None
