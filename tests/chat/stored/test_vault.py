"""Tests of the contents of stored responses: compressed, encrypted and bound to their row."""

from __future__ import annotations

import msgspec

from minitoolai.chat.stored.vault import ResponseVault, StoredRequest
from minitoolai.core.signing import SecretKeys
from minitoolai.http.validation import SMALL_BODY

VAULT = ResponseVault(SecretKeys(b"s" * 32))


def sealed(request: StoredRequest) -> bytes:
    return VAULT.seal(1, 2, "request", msgspec.json.encode(request))


def test_a_request_is_read_back_small_or_large() -> None:
    for text in ("words", "word " * SMALL_BODY):
        for request in (StoredRequest(text), StoredRequest([{"role": "user", "content": text}], {"model": "m"})):
            assert VAULT.read_request(1, 2, sealed(request)) == request
    assert len(sealed(StoredRequest("word " * SMALL_BODY))) < SMALL_BODY


def test_contents_of_another_row_or_column_are_not_read() -> None:
    found = sealed(StoredRequest("words"))
    assert VAULT.read_request(1, 3, found) is None
    assert VAULT.read_request(2, 2, found) is None
    assert VAULT.read_response(1, 2, found) is None
    assert ResponseVault(SecretKeys(b"t" * 32)).read_request(1, 2, found) is None
    assert VAULT.read_response(1, 2, VAULT.seal(1, 2, "response", b'{"id": "x"}')) == {"id": "x"}
