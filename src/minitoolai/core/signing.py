"""The secrets of a server: the one that signs now, and those by which what they signed is still known."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable


class SecretKeys(bytes):
    """The secret that signs now, as plain bytes; `previous` ones are only ever tried when something is checked."""

    previous: tuple[bytes, ...]

    def __new__(cls, current: bytes, previous: Iterable[bytes] = ()) -> SecretKeys:
        """Of what is given twice, one is kept."""
        made = super().__new__(cls, current)
        made.previous = tuple(dict.fromkeys(secret for secret in previous if secret != current))
        return made

    def derive(self, purpose: bytes) -> SecretKeys:
        """A ring for one purpose: none of its secrets tells anything of ours."""
        return SecretKeys(
            hmac.digest(self, purpose, "sha256"), [hmac.digest(secret, purpose, "sha256") for secret in self.previous]
        )


def all_keys(secret: bytes) -> tuple[bytes, ...]:
    """The one that signs, then those that are still known."""
    return (secret, *secret.previous) if isinstance(secret, SecretKeys) else (secret,)


def secret_id(secret: bytes) -> str:
    """Names a secret without telling it: 8 hexadecimal digits."""
    return hashlib.sha256(b"minitoolai secret id\0" + secret).hexdigest()[:8]


# (merged from signing_signing) Signatures that are capabilities: whoever holds one may look at what it names. One key, a purpose each.

SIGNATURE_BYTES = 16


class UrlSigner:
    """Signs texts under one key, and knows what a ring's previous ones signed.

    `purpose` keeps a signature from meaning anything elsewhere.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, purpose: str, text: str) -> str:
        """22 letters and digits, - and _."""
        return _signature(self._key, purpose, text)

    def verify(self, purpose: str, text: str, signature: str) -> bool:
        """In a time that does not depend on how nearly right it is."""
        given = signature.encode("utf-8", "replace")
        return any(hmac.compare_digest(_signature(key, purpose, text).encode(), given) for key in all_keys(self._key))


def _signature(key: bytes, purpose: str, text: str) -> str:
    digest = hmac.digest(key, f"{purpose}\0{text}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest[:SIGNATURE_BYTES]).rstrip(b"=").decode()
