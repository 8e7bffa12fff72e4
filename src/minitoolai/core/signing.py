"""Secret key ring and HMAC signatures: the current key signs, previous keys still verify (key rotation)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable


class SecretKeys(bytes):
    """Current secret key, as plain bytes. The `previous` keys are used only to verify."""

    previous: tuple[bytes, ...]

    def __new__(cls, current: bytes, previous: Iterable[bytes] = ()) -> SecretKeys:
        """Create a key ring. Duplicate keys are dropped."""
        made = super().__new__(cls, current)
        made.previous = tuple(dict.fromkeys(secret for secret in previous if secret != current))
        return made

    def derive(self, purpose: bytes) -> SecretKeys:
        """Derive a key ring for one purpose. Its keys reveal nothing about these keys."""
        return SecretKeys(
            hmac.digest(self, purpose, "sha256"), [hmac.digest(secret, purpose, "sha256") for secret in self.previous]
        )


def all_keys(secret: bytes) -> tuple[bytes, ...]:
    """Return the current key, then the previous ones."""
    return (secret, *secret.previous) if isinstance(secret, SecretKeys) else (secret,)


def secret_id(secret: bytes) -> str:
    """Return 8 hexadecimal digits that identify a secret key without revealing it."""
    return hashlib.sha256(b"minitoolai secret id\0" + secret).hexdigest()[:8]


def secret_mark(secret: bytes) -> str:
    """Return what the database remembers of a secret: its ID and a hash keyed by it. Neither reveals the secret."""
    return f"{secret_id(secret)}-{hmac.digest(secret, b'minitoolai secret mark', hashlib.sha256).hex()[:32]}"


#: Signatures are truncated to this length.
SIGNATURE_BYTES = 16


class UrlSigner:
    """Sign and verify texts with a key ring. A valid signature grants access to the object that the text names.

    `purpose` is part of the signed text, so that a signature is valid for one purpose only.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, purpose: str, text: str) -> str:
        """Return a signature of 22 letters, digits, `-` and `_`."""
        return _signature(self._key, purpose, text)

    def verify(self, purpose: str, text: str, signature: str) -> bool:
        """Return True if the signature is valid, in constant time."""
        given = signature.encode("utf-8", "replace")
        return any(hmac.compare_digest(_signature(key, purpose, text).encode(), given) for key in all_keys(self._key))


def _signature(key: bytes, purpose: str, text: str) -> str:
    digest = hmac.digest(key, f"{purpose}\0{text}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest[:SIGNATURE_BYTES]).rstrip(b"=").decode()
