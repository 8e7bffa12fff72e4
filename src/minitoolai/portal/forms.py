"""Forms and cookies: parse and limit what a form sends, keep its errors; sign cookies, make and check CSRF tokens."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from urllib.parse import parse_qsl

from itsdangerous import BadData, URLSafeSerializer

from minitoolai.core.clock import random_bytes
from minitoolai.core.errors import BodyTooLarge, InvalidRequest
from minitoolai.core.signing import SecretKeys, all_keys

MAX_FORM_BYTES = 64 * 1024
MAX_FIELD_LENGTH = 10_000
MAX_FIELDS = 300


class FormData:
    """The fields of a form by name, stripped of surrounding whitespace, and their errors."""

    def __init__(self, values: dict[str, str] | None = None) -> None:
        self.values = values or {}
        #: Every value of each field: a checkbox may be sent several times.
        self.lists: dict[str, list[str]] = {}
        self.errors: dict[str, str] = {}
        #: True if the values were restored from a draft.
        self.is_restored = False

    def __getitem__(self, name: str) -> str:
        return self.values.get(name, "")

    def get_all(self, name: str) -> list[str]:
        """Return every value of this field, in order."""
        return self.lists.get(name, [])

    def clear(self) -> None:
        """Remove all values, so that the next page shows an empty form."""
        self.values.clear()
        self.lists.clear()

    def pop_password(self, name: str) -> str:
        """Remove and return a password, so that no template can show it again."""
        return self.values.pop(name, "")

    def add_error(self, name: str, message: str) -> None:
        """Record the error of a field; "" is the form as a whole. The first error of a field is kept."""
        self.errors.setdefault(name, message)

    @property
    def is_valid(self) -> bool:
        return not self.errors


def parse_form(body: bytes) -> FormData:
    """Parse `application/x-www-form-urlencoded`. Raise BodyTooLarge or InvalidRequest."""
    if len(body) > MAX_FORM_BYTES:
        raise BodyTooLarge(f"the form is larger than {MAX_FORM_BYTES // 1024} kB")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError as error:
        raise InvalidRequest("the form cannot be parsed: send UTF-8, percent-encoded") from error
    form = FormData()
    for name, value in pairs:
        # PostgreSQL accepts no NUL in a text.
        text = value.replace("\0", "")[:MAX_FIELD_LENGTH]
        text = text if name.startswith("password") else text.strip()
        form.values.setdefault(name, text)
        if not name.startswith("password"):
            form.lists.setdefault(name, []).append(text)
    return form


# ── cookies ───────────────────────────────────────────────────────────────────────────────────────────────

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
YEAR_S = 365 * 86_400
TOKEN_BYTES = 16


def is_loopback(host: str) -> bool:
    """Return True if a Host header names this machine itself."""
    name = host if host.endswith("]") else host.rsplit(":", 1)[0]
    return name.lower() in LOOPBACK


def read_cookies(header: str) -> dict[str, str]:
    """Parse a Cookie header into name → value. Skip what cannot be parsed."""
    cookies: dict[str, str] = {}
    for part in header[:8192].split(";"):
        name, equals, value = part.strip().partition("=")
        if equals and name not in cookies:
            cookies[name] = value.strip('"')
    return cookies


class CookieSigner:
    """Signs cookies and CSRF tokens. A signature holds for one purpose only.

    The newest key of `secret_keys` signs. Signatures of the older ones stay valid, so that open forms survive a
    rotation.
    """

    def __init__(self, secret_keys: SecretKeys) -> None:
        self._keys = all_keys(secret_keys.derive(b"portal"))

    def form_token(self, secret: str) -> str:
        """Return the CSRF token of this browser, masked anew each time.

        Without the mask, the token could be guessed from the sizes of compressed pages (the BREACH attack).
        """
        mask = random_bytes(TOKEN_BYTES)
        return base64.urlsafe_b64encode(mask + _xor(mask, _token(self._keys[0], secret))).decode()

    def is_form_token(self, token: str, secret: str) -> bool:
        """Return True if this CSRF token was made for this browser."""
        try:
            data = base64.urlsafe_b64decode(token.encode())
        except (binascii.Error, ValueError):
            return False
        if len(data) != 2 * TOKEN_BYTES:
            return False
        given = _xor(data[:TOKEN_BYTES], data[TOKEN_BYTES:])
        return any(hmac.compare_digest(given, _token(key, secret)) for key in self._keys)

    def pack(self, purpose: str, value: object) -> str:
        """Sign a JSON value for a cookie or a form. The browser can read it, but not change it."""
        return self._serializer(purpose).dumps(value)

    def unpack(self, purpose: str, packed: str) -> object | None:
        """Return a signed value, or None if the signature is wrong."""
        try:
            value: object = self._serializer(purpose).loads(packed)
        except BadData:
            return None
        return value

    def _serializer(self, purpose: str) -> URLSafeSerializer:
        signer = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
        # itsdangerous signs with the last key of its list.
        return URLSafeSerializer([*reversed(self._keys)], salt=purpose, signer_kwargs=signer)


def _token(key: bytes, secret: str) -> bytes:
    return hmac.digest(key, f"form\0{secret}".encode(), "sha256")[:TOKEN_BYTES]


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right[: len(left)], strict=False))
