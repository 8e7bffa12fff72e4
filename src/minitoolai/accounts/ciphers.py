"""Encrypt stored data under keys derived from the server's secret (AES-256-GCM)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from minitoolai.core.clock import random_bytes
from minitoolai.core.signing import SecretKeys, all_keys

NONCE_BYTES = 12


def encrypt(key: bytes, context: bytes, data: bytes) -> bytes:
    """Return nonce and ciphertext."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # 40 ms, so only where it is needed

    nonce = random_bytes(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, data, context)


def decrypt(key: bytes, context: bytes, stored: bytes) -> bytes | None:
    """Return the data, or None if it was encrypted under another key or for another context."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(stored[:NONCE_BYTES], stored[NONCE_BYTES:], context)
    except InvalidTag:
        return None


class Cipher:
    """Encrypt and decrypt for one purpose with the server's key ring: the newest key encrypts.

    The context is not stored. It binds a ciphertext to its row, so that a copy in another row is worthless.
    """

    def __init__(self, secret_keys: SecretKeys, purpose: bytes) -> None:
        self._keys = all_keys(secret_keys.derive(purpose))

    def encrypt(self, context: bytes, data: bytes) -> bytes:
        """Return nonce and ciphertext."""
        return encrypt(self._keys[0], context, data)

    def decrypt(self, context: bytes, stored: bytes) -> bytes | None:
        """Return the data, or None if no key of the ring decrypts it."""
        found = (decrypt(key, context, stored) for key in self._keys)
        return next((data for data in found if data is not None), None)


class AccountCipher:
    """Encrypt and decrypt one secret of each account, bound to it, for one purpose."""

    def __init__(self, secret_keys: SecretKeys, purpose: bytes) -> None:
        self._cipher = Cipher(secret_keys, purpose)

    def encrypt(self, account_id: int, secret: bytes) -> bytes:
        """Return nonce and ciphertext."""
        return self._cipher.encrypt(_of_account(account_id), secret)

    def decrypt(self, account_id: int, stored: bytes) -> bytes | None:
        """Return the secret, or None if no key of the ring decrypts it."""
        return self._cipher.decrypt(_of_account(account_id), stored)

    def encrypt_anew(self, secrets: Iterable[tuple[int, bytes]], replace: Callable[[int, bytes, bytes], object]) -> int:
        """Encrypt stored secrets under the newest key, and return how many could be decrypted.

        `replace` stores a new one: account, old and new ciphertext.
        """
        count = 0
        for account_id, stored in secrets:
            secret = self.decrypt(account_id, stored)
            if secret is not None:
                replace(account_id, stored, self.encrypt(account_id, secret))
                count += 1
        return count


def _of_account(account_id: int) -> bytes:
    return f"account {account_id}".encode()
