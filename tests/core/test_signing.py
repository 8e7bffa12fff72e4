"""The secret key ring and the signatures made with it."""

from __future__ import annotations

import hmac

from minitoolai.core.signing import SecretKeys, UrlSigner, all_keys, secret_id

OLD, NEW = b"o" * 32, b"n" * 32


def test_the_current_key_comes_first_and_duplicates_are_dropped() -> None:
    assert all_keys(SecretKeys(NEW, [OLD, NEW, OLD])) == (NEW, OLD)
    assert all_keys(NEW) == (NEW,)


def test_a_key_ring_is_its_current_key() -> None:
    assert SecretKeys(NEW, [OLD]) == NEW
    assert hmac.digest(SecretKeys(NEW, [OLD]), b"x", "sha256") == hmac.digest(NEW, b"x", "sha256")


def test_derived_rings_differ_by_purpose_and_keep_their_history() -> None:
    ring = SecretKeys(NEW, [OLD])
    links, cookies = ring.derive(b"links"), ring.derive(b"cookies")
    assert links != cookies
    assert links != ring
    assert all_keys(links) == (hmac.digest(NEW, b"links", "sha256"), hmac.digest(OLD, b"links", "sha256"))


def test_a_secret_is_identified_without_being_revealed() -> None:
    assert len(secret_id(NEW)) == 8
    assert secret_id(NEW) == secret_id(SecretKeys(NEW, [OLD]))
    assert secret_id(NEW) != secret_id(OLD)


def test_a_signature_is_valid_for_its_purpose_and_text_only() -> None:
    signer = UrlSigner(SecretKeys(NEW))
    signature = signer.sign("image", "17")
    assert len(signature) == 22
    assert signer.verify("image", "17", signature)
    assert not signer.verify("image", "18", signature)
    assert not signer.verify("events", "17", signature)
    assert not signer.verify("image", "17", signature[:-1])
    assert not signer.verify("image", "17", "ä\ud800")


def test_a_signature_survives_a_rotation_but_not_the_removal_of_its_key() -> None:
    signature = UrlSigner(SecretKeys(OLD)).sign("image", "17")
    assert UrlSigner(SecretKeys(NEW, [OLD])).verify("image", "17", signature)
    assert not UrlSigner(SecretKeys(NEW)).verify("image", "17", signature)
