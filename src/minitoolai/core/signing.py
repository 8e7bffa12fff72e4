"""The secrets of a server: the one that signs now, and those by which what they signed is still known."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable


class Ring(bytes):
    """The secret that signs now, as plain bytes; `previous` ones are only ever tried when something is checked."""

    previous: tuple[bytes, ...]

    def __new__(cls, current: bytes, previous: Iterable[bytes] = ()) -> Ring:
        """Of what is given twice, one is kept."""
        made = super().__new__(cls, current)
        made.previous = tuple(dict.fromkeys(secret for secret in previous if secret != current))
        return made

    def derived(self, purpose: bytes) -> Ring:
        """A ring for one purpose: none of its secrets tells anything of ours."""
        return Ring(
            hmac.digest(self, purpose, "sha256"), [hmac.digest(secret, purpose, "sha256") for secret in self.previous]
        )


def every(secret: bytes) -> tuple[bytes, ...]:
    """The one that signs, then those that are still known."""
    return (secret, *secret.previous) if isinstance(secret, Ring) else (secret,)


def secret_id(secret: bytes) -> str:
    """Names a secret without telling it: 8 hexadecimal digits."""
    return hashlib.sha256(b"minitoolai secret id\0" + secret).hexdigest()[:8]
