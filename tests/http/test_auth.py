"""Authentication of a request: its API key, the key's rules, and one count against the rate limits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from minitoolai.accounts.keys import KeyPolicy, KeyVerifier, make_key
from minitoolai.accounts.rate_limits import Limits
from minitoolai.core.errors import AccessDenied, KeyForbids, RateLimited
from minitoolai.core.models import IdempotencyClaim, KeyRules, RateLimits
from minitoolai.http.auth import CLAIM, authenticate
from minitoolai.http.request_context import REQUEST_CONTEXT, RequestContext
from minitoolai.storage.tables import accounts
from tests.support.books import TemporaryBooks

SECRET_KEY = b"secret key"


def new_key(books: TemporaryBooks, account: int, rules: KeyRules | None = None) -> str:
    key = make_key(account, "laptop", SECRET_KEY, books.clock, *([rules] if rules else []))
    with books.connection.transaction():
        accounts.insert_key(books.connection, key.row)
    return key.text


def verifier(books: TemporaryBooks, rate: RateLimits | None = None) -> KeyVerifier:
    policy = KeyPolicy(books.clock, Limits(books.clock, rate)) if rate else None
    return KeyVerifier(books.database, SECRET_KEY, books.clock, policy)


async def _never_sent(_: Any) -> None:
    raise AssertionError("nothing is sent")


def request(value: str | None, **more: Any) -> dict[str, Any]:
    headers = [] if value is None else [(b"authorization", value.encode())]
    return {"headers": headers, REQUEST_CONTEXT: RequestContext(_never_sent, b""), **more}


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER  {} "])
def test_a_bearer_key_names_its_caller(sqlite_books: TemporaryBooks, form: str) -> None:
    account = sqlite_books.account()
    keys = verifier(sqlite_books)
    key = new_key(sqlite_books, account)
    assert asyncio.run(authenticate(request(form.format(key)), keys)).account_id == account


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "Missing API key"), ("Basic abc", "must have the form: Bearer"), ("Bearer nonsense", "Invalid API key")],
)
def test_a_missing_or_malformed_key_is_refused_with_what_to_send(
    sqlite_books: TemporaryBooks, value: str | None, words: str
) -> None:
    with pytest.raises(AccessDenied, match=words) as refusal:
        asyncio.run(authenticate(request(value), verifier(sqlite_books)))
    assert refusal.value.code == "invalid_api_key"


def test_a_key_may_come_in_x_api_key_if_there_is_no_authorization(sqlite_books: TemporaryBooks) -> None:
    account = sqlite_books.account()
    keys = verifier(sqlite_books)
    key = new_key(sqlite_books, account).encode()
    assert asyncio.run(authenticate({"headers": [(b"x-api-key", key)]}, keys)).account_id == account
    for headers in ([(b"x-api-key", b"")], [(b"x-api-key", key), (b"authorization", b"Bearer sk-mt-wrong")]):
        with pytest.raises(AccessDenied):
            asyncio.run(authenticate({"headers": headers}, keys))


def test_the_claim_of_an_idempotency_key_travels_with_the_caller(sqlite_books: TemporaryBooks) -> None:
    keys, claim = verifier(sqlite_books), IdempotencyClaim("1/a", b"fingerprint")
    key = new_key(sqlite_books, sqlite_books.account())
    assert asyncio.run(authenticate(request(f"Bearer {key}", **{CLAIM: claim}), keys)).claim is claim
    assert asyncio.run(authenticate(request(f"Bearer {key}"), keys)).claim is None


def test_a_request_that_authenticates_twice_is_counted_once(sqlite_books: TemporaryBooks) -> None:
    keys = verifier(sqlite_books, RateLimits(requests_per_minute=2))
    value = f"Bearer {new_key(sqlite_books, sqlite_books.account())}"
    for _ in range(2):
        scope = request(value)
        for _ in range(3):
            asyncio.run(authenticate(scope, keys))
    with pytest.raises(RateLimited, match="2 requests per minute"):
        asyncio.run(authenticate(request(value), keys))


def test_a_key_is_refused_from_an_address_outside_its_list(sqlite_books: TemporaryBooks) -> None:
    keys = verifier(sqlite_books, RateLimits())
    value = f"Bearer {new_key(sqlite_books, sqlite_books.account(), KeyRules(allow_ip=('192.0.2.0/24',)))}"
    assert asyncio.run(authenticate(request(value, client=("192.0.2.7", 80)), keys)).account_id
    for client in (("198.51.100.1", 80), None):
        with pytest.raises(KeyForbids) as refusal:
            asyncio.run(authenticate(request(value, client=client), keys))
        assert refusal.value.code == "address_not_allowed"
