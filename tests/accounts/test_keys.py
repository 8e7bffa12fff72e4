"""API keys: verified without storing their secret, refused if malformed, revoked or unknown."""

from __future__ import annotations

import asyncio
import re

import pytest

from minitoolai.accounts import keys as service
from minitoolai.accounts.keys import CACHE_TTL_S, KEY_PATTERN, KeyVerifier, make_key
from minitoolai.accounts.passwords import hash_password
from minitoolai.core.errors import AccessDenied, AccountSuspended, InvalidRequest, NotFound
from minitoolai.core.models import Caller
from minitoolai.storage.tables import accounts
from tests.support.books import TemporaryBooks

PEPPER = b"p" * 32


def new_key(books: TemporaryBooks, account: int, secret_key: bytes = PEPPER) -> str:
    key = make_key(account, "laptop", secret_key, books.clock)
    with books.connection.transaction():
        accounts.insert_key(books.connection, key.row)
    return key.text


def ring(books: TemporaryBooks, secret_key: bytes = PEPPER) -> KeyVerifier:
    return KeyVerifier(books.database, secret_key, books.clock)


def verify(keys: KeyVerifier, text: str) -> Caller:
    return asyncio.run(keys.verify(text))


def test_a_key_is_verified_as_its_account(books: TemporaryBooks) -> None:
    account = books.account()
    text = new_key(books, account)
    assert KEY_PATTERN.fullmatch(text)
    assert verify(ring(books), text) == Caller(account, text[6:18])


def test_the_secret_is_not_in_the_row(books: TemporaryBooks) -> None:
    text = new_key(books, books.account())
    (row,) = books.rows("SELECT * FROM api_keys")
    assert text.split("-")[3] not in repr(row)
    assert text.split("-")[3].encode() not in row[3]


def test_two_keys_are_never_the_same(books: TemporaryBooks) -> None:
    assert len({make_key(1000, "", PEPPER, books.clock).text for _ in range(500)}) == 500


@pytest.mark.parametrize(
    "spoil",
    [
        lambda key: "",
        lambda key: "sk-abc",
        lambda key: key[:-1],
        lambda key: key + "x",
        lambda key: f" {key}",
        lambda key: key.replace("sk-mt-", "sk-"),
        lambda key: key[:-1] + ("0" if key[-1] != "0" else "1"),
        lambda key: key[:20] + ("0" if key[20] != "0" else "1") + key[21:],
        lambda key: key[:20] + "é" + key[21:],
    ],
)
def test_a_malformed_key_is_refused_without_a_lookup(books: TemporaryBooks, spoil: object) -> None:
    text = new_key(books, books.account())
    books.rows("ALTER TABLE api_keys RENAME TO out_of_reach")
    with pytest.raises(AccessDenied, match=r"keys of this service look like sk-mt-…\. Copy the complete key"):
        verify(ring(books), spoil(text))  # type: ignore[operator]
    books.rows("ALTER TABLE out_of_reach RENAME TO api_keys")


def test_a_well_formed_unknown_key_is_refused(books: TemporaryBooks) -> None:
    forged = make_key(books.account(), "", PEPPER, books.clock).text
    with pytest.raises(AccessDenied, match="Create one on the page Keys"):
        verify(ring(books), forged)


def test_a_known_id_with_another_secret_is_refused(books: TemporaryBooks) -> None:
    account = books.account()
    mine, foreign = new_key(books, account), make_key(account, "", PEPPER, books.clock).text
    secret = foreign.split("-")[3]
    forged = f"sk-mt-{mine[6:18]}-{secret}-{service._checksum(mine[6:18], secret)}"
    with pytest.raises(AccessDenied, match="Unknown API key"):
        verify(ring(books), forged)


def test_another_secret_key_makes_every_key_unknown(books: TemporaryBooks) -> None:
    text = new_key(books, books.account())
    with pytest.raises(AccessDenied, match="Unknown API key"):
        verify(ring(books, b"q" * 32), text)


def test_a_key_is_cached_for_less_than_a_second(books: TemporaryBooks) -> None:
    text, keys = new_key(books, books.account()), ring(books)
    assert keys.cached(text) is None
    caller = verify(keys, text)
    assert keys.cached(text) == caller
    books.clock.steady += CACHE_TTL_S - 0.01
    assert keys.cached(text) == caller
    books.clock.steady += 0.02
    assert keys.cached(text) is None
    assert CACHE_TTL_S < 1


def test_a_revoked_key_stops_within_a_second_and_stays_stopped(books: TemporaryBooks) -> None:
    text, keys = new_key(books, books.account()), ring(books)
    verify(keys, text)
    with books.connection.transaction():
        assert accounts.revoke_key(books.connection, text[6:18], books.clock.ms)
        assert not accounts.revoke_key(books.connection, text[6:18], books.clock.ms)
    books.clock.steady += CACHE_TTL_S + 0.01
    for _ in range(2):
        with pytest.raises(AccessDenied, match="revoked"):
            verify(keys, text)


def test_the_cache_of_keys_is_bounded(books: TemporaryBooks) -> None:
    keys, account = ring(books), books.account()
    keys._cache = {str(n): (1e9, Caller(account, "")) for n in range(service.MAX_CACHED_KEYS)}
    verify(keys, new_key(books, account))
    assert len(keys._cache) == 1


def test_a_password_is_hashed_with_argon2_and_a_short_one_refused() -> None:
    assert re.match(r"\$argon2id\$v=19\$", hash_password("correct horse"))
    with pytest.raises(InvalidRequest, match="at least 8 characters"):
        hash_password("seven77")


def test_an_address_has_one_account(books: TemporaryBooks) -> None:
    with books.connection.transaction():
        first = accounts.create_account(books.connection, "ann@example.com", None, 5)
        assert service.require_account(books.connection, "Ann@example.com") == first
    with pytest.raises(InvalidRequest, match="already has an account"):
        accounts.create_account(books.connection, "ann@example.com", None, 5)
    with pytest.raises(NotFound, match=r"Create it with: minitoolai account create bob@example\.com"):
        service.require_account(books.connection, "bob@example.com")


def test_a_suspended_account_is_refused_once_its_processes_are_told(books: TemporaryBooks) -> None:
    account, other = books.account(), books.account()
    mine, second, theirs = new_key(books, account), new_key(books, account), new_key(books, other)
    keys = ring(books)
    for text in (mine, second, theirs):
        verify(keys, text)
    with books.connection.transaction():
        accounts.set_suspended(books.connection, account, 1, "unpaid invoice 17.")
    # The notification that `set_suspended` sends names the account; the keys of others stay in the cache.
    keys.invalidate(f"{accounts.ACCOUNT_PREFIX}{account}")
    assert keys.cached(theirs) is not None
    for text in (mine, second):
        with pytest.raises(AccountSuspended, match=r"suspended: unpaid invoice 17\. Sign in"):
            verify(keys, text)
    with books.connection.transaction():
        accounts.set_suspended(books.connection, account, None, None)
    assert verify(keys, mine).account_id == account


def test_a_notification_of_one_key_leaves_the_others_in_the_cache(books: TemporaryBooks) -> None:
    account = books.account()
    mine, second = new_key(books, account), new_key(books, account)
    keys = ring(books)
    caller = verify(keys, mine)
    verify(keys, second)
    keys.invalidate(caller.key_id)
    assert (keys.cached(mine), keys.cached(second) is None) == (None, False)
    keys.invalidate(None)
    assert keys.cached(second) is None
