"""Second factors of users: set up, verify and remove them. The secret is encrypted at rest (AES-256-GCM).

A code is consumed in the transaction of the action that it authorizes, so that no two requests can use the same code.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Protocol

import msgspec

from minitoolai.accounts.ciphers import AccountCipher
from minitoolai.accounts.factors import totp
from minitoolai.core.clock import Clock
from minitoolai.core.models import SecondFactor
from minitoolai.core.signing import SecretKeys
from minitoolai.core.threads import CIPHERS
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.tables import second_factors

log = logging.getLogger(__name__)


class SecretCipher(AccountCipher):
    """Encrypt and decrypt secrets of second factors."""

    def __init__(self, secret_keys: SecretKeys) -> None:
        super().__init__(secret_keys, b"second factor")


class Evidence(Protocol):
    """What proves the user, and is consumed in the transaction of the action that it authorizes."""

    def consume(self, connection: Connection) -> bool:
        """Consume it. Return False if it was consumed before, which forbids the action."""


class PasswordEvidence(msgspec.Struct, frozen=True):
    """The right password of a user without second factor."""

    def consume(self, connection: Connection) -> bool:
        """Return True: a password may be used again."""
        return True


class Proof(msgspec.Struct, frozen=True):
    """A valid code that is not consumed yet: a time step with the re-encrypted secret, or a recovery code."""

    user_id: int
    #: None: a recovery code.
    factor: SecondFactor | None = None
    step: int = 0
    secret: bytes = b""
    recovery_hash: bytes = b""

    @property
    def is_recovery_code(self) -> bool:
        return self.factor is None

    def consume(self, connection: Connection) -> bool:
        """Consume the code inside the caller's transaction. Return False if another request has consumed it."""
        if self.factor is None:
            return second_factors.use_recovery_code(connection, self.user_id, self.recovery_hash)
        return second_factors.accept_step(connection, self.factor, self.step, self.secret)


class SecondFactors:
    """Verify the codes of second factors and prepare new factors."""

    def __init__(self, database: Database, clock: Clock, secret_keys: SecretKeys) -> None:
        self._database = database
        self._clock = clock
        self._cipher = SecretCipher(secret_keys)

    async def find(self, account_id: int) -> SecondFactor | None:
        """Return the second factor of an account, or None."""
        return await self._database.read_async(second_factors.find, account_id)

    async def prepare(self, account_id: int, secret: bytes, code: str) -> SecondFactor | None:
        """Return the new factor to insert, or None if the code does not prove that the app knows the secret."""
        now_ms = self._clock.now_ms()
        step = totp.matching_step(secret, totp.normalize_code(code), now_ms)
        if step is None:
            return None
        stored = await CIPHERS.run(self._cipher.encrypt, account_id, secret)
        return SecondFactor(account_id, stored, step, now_ms)

    async def verify(self, account_id: int, code: str) -> Proof | None:
        """Return the proof of a valid code, which the caller must consume, or None.

        `code` is from the authenticator app, or a recovery code.
        """
        text = totp.normalize_code(code)
        if len(text) != totp.DIGITS:
            return Proof(account_id, recovery_hash=totp.recovery_hash(account_id, text))
        factor = await self.find(account_id)
        return None if factor is None else await CIPHERS.run(self._verify_step, factor, text)

    def _verify_step(self, factor: SecondFactor, code: str) -> Proof | None:
        secret = self._cipher.decrypt(factor.account_id, factor.secret)
        if secret is None:
            log.error(
                "the second factor of account %d was encrypted under a secret that is lost; the user can sign in with "
                "a recovery code, or remove it with: minitoolai account reset-second-factor EMAIL",
                factor.account_id,
            )
            return None
        step = totp.matching_step(secret, code, self._clock.now_ms(), factor.last_step)
        if step is None:
            return None
        return Proof(factor.account_id, factor, step, self._cipher.encrypt(factor.account_id, secret))


def store_recovery_codes(connection: Connection, account_id: int, codes: list[str]) -> None:
    """Replace the recovery codes of a user by these."""
    hashes = [totp.recovery_hash(account_id, code) for code in codes]
    second_factors.replace_recovery_codes(connection, account_id, hashes)


def encrypt_anew(connection: Connection, secret_keys: SecretKeys) -> int:
    """Re-encrypt every second factor under the newest key, and return how many could be decrypted."""
    replace = partial(second_factors.replace_secret, connection)
    return SecretCipher(secret_keys).encrypt_anew(second_factors.all_secrets(connection), replace)
