"""Cookies and what hangs on them: names, flags, signatures, and the token that every form carries."""

from __future__ import annotations

import base64
import binascii
import hmac
import json

from minitoolai.core.clock import random_bytes

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
YEAR_S = 365 * 86_400
TOKEN_BYTES = 16


def is_loopback(host: str) -> bool:
    """Whether a Host header names this machine itself."""
    name = host if host.endswith("]") else host.rsplit(":", 1)[0]
    return name.lower() in LOOPBACK


def read_cookies(header: str) -> dict[str, str]:
    """Name → value; what cannot be read is left out."""
    cookies: dict[str, str] = {}
    for part in header[:8192].split(";"):
        name, equals, value = part.strip().partition("=")
        if equals and name not in cookies:
            cookies[name] = value.strip('"')
    return cookies


class Signer:
    """Signs with a key of this server, one purpose apart from another."""

    def __init__(self, pepper: bytes) -> None:
        self._key = hmac.digest(pepper, b"portal", "sha256")

    def mac(self, purpose: str, text: str) -> bytes:
        return hmac.digest(self._key, f"{purpose}\0{text}".encode(), "sha256")

    def form_token(self, secret: str) -> str:
        """A new disguise of the token that belongs to this browser: compression must not give it away (BREACH)."""
        mask = random_bytes(TOKEN_BYTES)
        return base64.urlsafe_b64encode(mask + _xor(mask, self.mac("form", secret))).decode()

    def is_form_token(self, token: str, secret: str) -> bool:
        """Whether a form was made for this browser."""
        try:
            data = base64.urlsafe_b64decode(token.encode())
        except (binascii.Error, ValueError):
            return False
        mask, hidden = data[:TOKEN_BYTES], data[TOKEN_BYTES:]
        own = self.mac("form", secret)[:TOKEN_BYTES]
        return len(data) == 2 * TOKEN_BYTES and hmac.compare_digest(_xor(mask, hidden), own)

    def pack(self, purpose: str, value: object) -> str:
        """A value that the browser keeps and cannot change."""
        text = base64.urlsafe_b64encode(json.dumps(value).encode()).decode()
        return f"{text}.{self.mac(purpose, text).hex()[:32]}"

    def unpack(self, purpose: str, packed: str) -> object | None:
        """The value, or None where somebody else made it."""
        text, _, mac = packed.partition(".")
        if not hmac.compare_digest(mac.encode(), self.mac(purpose, text).hex()[:32].encode()):
            return None
        value: object = json.loads(base64.urlsafe_b64decode(text))
        return value


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right[: len(left)], strict=False))
