"""Compress and encrypt the contents of stored responses."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

from minitoolai.accounts.ciphers import Cipher
from minitoolai.core.signing import SecretKeys
from minitoolai.http.bodies.large_json import decode, decode_large
from minitoolai.http.validation import SMALL_BODY

Json = dict[str, Any]


class StoredRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Stored part of a request: its input and, for a background response, its other fields."""

    input: Any
    fields: Json | None = None


_decode_request = msgspec.json.Decoder(StoredRequest).decode


class ResponseVault:
    """Compress and encrypt stored responses. Each text is bound to its account, response and column."""

    def __init__(self, secret_keys: SecretKeys) -> None:
        self._cipher = Cipher(secret_keys, b"stored responses")

    def seal(self, account_id: int, number: int, part: str, plain: bytes) -> bytes:
        return self._cipher.encrypt(_context(account_id, number, part), zlib.compress(plain, 1))

    def open(self, account_id: int, number: int, part: str, sealed: bytes) -> bytes | None:
        """Return the JSON, or None if no key of the ring decrypts it."""
        packed = self._cipher.decrypt(_context(account_id, number, part), bytes(sealed))
        return None if packed is None else zlib.decompress(packed)

    def read_request(self, account_id: int, number: int, sealed: bytes) -> StoredRequest | None:
        plain = self.open(account_id, number, "request", sealed)
        if plain is None or len(plain) <= SMALL_BODY:
            return None if plain is None else _decode_request(plain)
        return StoredRequest(**decode_large(plain))

    def read_response(self, account_id: int, number: int, sealed: bytes) -> Json | None:
        plain = self.open(account_id, number, "response", sealed)
        if plain is None:
            return None
        found: Json = decode(plain) if len(plain) <= SMALL_BODY else decode_large(plain)
        return found


def _context(account_id: int, number: int, part: str) -> bytes:
    return f"account {account_id} response {number} {part}".encode()
