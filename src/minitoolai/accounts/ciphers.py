"""Encrypt stored data under keys derived from the server's secret (AES-256-GCM)."""

from __future__ import annotations

from minitoolai.core.clock import random_bytes
from minitoolai.core.signing import SecretKeys, all_keys

NONCE_BYTES = 12


class Cipher:
    """Encrypt and decrypt for one purpose with the server's key ring: the newest key encrypts.

    The context is not stored. It binds a ciphertext to its row, so that a copy in another row is worthless.
    """

    def __init__(self, secret_keys: SecretKeys, purpose: bytes) -> None:
        self._keys = all_keys(secret_keys.derive(purpose))

    def encrypt(self, context: bytes, data: bytes) -> bytes:
        """Return nonce and ciphertext."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # 40 ms, so only where it is needed

        nonce = random_bytes(NONCE_BYTES)
        return nonce + AESGCM(self._keys[0]).encrypt(nonce, data, context)

    def decrypt(self, context: bytes, stored: bytes) -> bytes | None:
        """Return the data, or None if no key of the ring decrypts it."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        for key in self._keys:
            try:
                return AESGCM(key).decrypt(stored[:NONCE_BYTES], stored[NONCE_BYTES:], context)
            except InvalidTag:
                continue
        return None
