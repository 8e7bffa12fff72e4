"""Signatures that are capabilities: whoever holds one may look at what it names. One key, a purpose each."""

from __future__ import annotations

import base64
import hashlib
import hmac

from minitoolai.core.signing import every

SIGNATURE_BYTES = 16


class Signer:
    """Signs texts under one key, and knows what a ring's previous ones signed.

    `purpose` keeps a signature from meaning anything elsewhere.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, purpose: str, text: str) -> str:
        """22 letters and digits, - and _."""
        return _signature(self._key, purpose, text)

    def is_right(self, purpose: str, text: str, signature: str) -> bool:
        """In a time that does not depend on how nearly right it is."""
        given = signature.encode("utf-8", "replace")
        return any(hmac.compare_digest(_signature(key, purpose, text).encode(), given) for key in every(self._key))


def _signature(key: bytes, purpose: str, text: str) -> str:
    digest = hmac.digest(key, f"{purpose}\0{text}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest[:SIGNATURE_BYTES]).rstrip(b"=").decode()
