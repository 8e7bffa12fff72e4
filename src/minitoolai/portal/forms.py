"""What a form sent: read with limits, values kept for showing again, errors next to their fields."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from urllib.parse import parse_qsl

from minitoolai.core.clock import random_bytes
from minitoolai.core.errors import BodyTooLarge, InvalidRequest

LARGEST_FORM = 64 * 1024
LARGEST_FIELD = 10_000
MOST_FIELDS = 300


class FormData:
    """Fields by name, each a string without surrounding space, and what is wrong with them."""

    def __init__(self, values: dict[str, str] | None = None) -> None:
        self.values = values or {}
        #: Every value of a field that may come several times, such as boxes to tick.
        self.lists: dict[str, list[str]] = {}
        self.errors: dict[str, str] = {}
        #: Whether it shows what was typed before a sign-in.
        self.is_refilled = False

    def __getitem__(self, name: str) -> str:
        return self.values.get(name, "")

    def all(self, name: str) -> list[str]:
        """Every value of this name, in their order."""
        return self.lists.get(name, [])

    def clear(self) -> None:
        """Forget what was typed: it has been done."""
        self.values.clear()
        self.lists.clear()

    def secret(self, name: str) -> str:
        """A password: taken out, so that no template can show it again."""
        return self.values.pop(name, "")

    def refuse(self, name: str, why: str) -> None:
        """Say what is wrong with a field (the first fault of a field counts); "" means the form as a whole."""
        self.errors.setdefault(name, why)

    @property
    def is_good(self) -> bool:
        return not self.errors


def parse_form(body: bytes) -> FormData:
    """`application/x-www-form-urlencoded`. BodyTooLarge, InvalidRequest."""
    if len(body) > LARGEST_FORM:
        raise BodyTooLarge(f"the form is larger than {LARGEST_FORM // 1024} kB")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")
    except ValueError as error:
        raise InvalidRequest("the form cannot be read") from error
    form = FormData()
    for name, value in pairs:
        # A NUL is no character for PostgreSQL, nor for people.
        text = value.replace("\0", "")[:LARGEST_FIELD]
        text = text if name.startswith("password") else text.strip()
        form.values.setdefault(name, text)
        if not name.startswith("password"):
            form.lists.setdefault(name, []).append(text)
    return form


# (merged from cookies) Cookies and what hangs on them: names, flags, signatures, and the token that every form carries.

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


class CookieSigner:
    """Signs with a key of this server, one purpose apart from another."""

    def __init__(self, secret_key: bytes) -> None:
        self._key = hmac.digest(secret_key, b"portal", "sha256")

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
