"""Tests of the encryption of what is stored."""

from __future__ import annotations

from minitoolai.accounts.ciphers import Cipher
from minitoolai.core.signing import SecretKeys


def test_only_the_same_context_and_purpose_decrypt() -> None:
    cipher = Cipher(SecretKeys(b"a" * 32), b"one")
    stored = cipher.encrypt(b"row 1", b"words")
    assert b"words" not in stored
    assert cipher.decrypt(b"row 1", stored) == b"words"
    assert cipher.decrypt(b"row 2", stored) is None
    assert Cipher(SecretKeys(b"a" * 32), b"another").decrypt(b"row 1", stored) is None
    assert cipher.encrypt(b"row 1", b"words") != stored


def test_a_previous_secret_still_decrypts_and_a_forgotten_one_does_not() -> None:
    stored = Cipher(SecretKeys(b"a" * 32), b"one").encrypt(b"row", b"words")
    rotated = Cipher(SecretKeys(b"b" * 32, [b"a" * 32]), b"one")
    assert rotated.decrypt(b"row", stored) == b"words"
    assert Cipher(SecretKeys(b"b" * 32), b"one").decrypt(b"row", stored) is None
    assert Cipher(SecretKeys(b"a" * 32), b"one").decrypt(b"row", rotated.encrypt(b"row", b"x")) is None
