"""The secrets of a server: the one that signs now, and those that what they signed is still known by."""

from __future__ import annotations

import hashlib


def secret_id(secret: bytes) -> str:
    """Names a secret without telling it: 8 hexadecimal digits."""
    return hashlib.sha256(b"minitoolai secret id\0" + secret).hexdigest()[:8]
