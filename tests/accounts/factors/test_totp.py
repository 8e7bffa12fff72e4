"""Codes of RFC 4226 and RFC 6238, the URL for authenticator apps, and recovery codes."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest

from minitoolai.accounts.factors import totp

#: The secret and codes of the appendices of both standards.
SECRET = b"12345678901234567890"
HOTP = ("755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489")
TOTP = {59: "94287082", 1111111109: "07081804", 1111111111: "14050471", 1234567890: "89005924",
        2000000000: "69279037", 20000000000: "65353130"}  # fmt: skip


def test_the_codes_are_those_of_the_standards() -> None:
    assert tuple(totp.code_of_step(SECRET, step) for step in range(10)) == HOTP
    for second, code in TOTP.items():
        assert totp.code_of_step(SECRET, totp.step_at(second * 1000), digits=8) == code


@pytest.mark.parametrize(("offset", "is_accepted"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_one_step_before_and_after_is_accepted(offset: int, is_accepted: bool) -> None:
    now_ms, step = 1_800_000_000_000, totp.step_at(1_800_000_000_000)
    found = totp.matching_step(SECRET, totp.code_of_step(SECRET, step + offset), now_ms)
    assert found == (step + offset if is_accepted else None)


def test_a_used_step_and_all_before_it_are_refused() -> None:
    now_ms, step = 1_800_000_000_000, totp.step_at(1_800_000_000_000)
    for offset in (-1, 0):
        assert totp.matching_step(SECRET, totp.code_of_step(SECRET, step + offset), now_ms, step) is None
    assert totp.matching_step(SECRET, totp.code_of_step(SECRET, step + 1), now_ms, step) == step + 1


@pytest.mark.parametrize("code", ["", "12345", "1234567", "abcdef", "١٢٣٤٥٦", "-12345", "é" * 6])
def test_what_is_no_code_is_refused(code: str) -> None:
    assert totp.matching_step(SECRET, code, 1_800_000_000_000) is None


def test_the_url_names_issuer_account_and_secret() -> None:
    parts = urlsplit(totp.provisioning_url(SECRET, "ann+x@example.com", "MiniToolAI"))
    assert (parts.scheme, parts.netloc, parts.path) == ("otpauth", "totp", "/MiniToolAI:ann%2Bx@example.com")
    assert parse_qs(parts.query) == {
        "secret": ["GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"], "issuer": ["MiniToolAI"], "algorithm": ["SHA1"],
        "digits": ["6"], "period": ["30"],
    }  # fmt: skip


def test_recovery_codes_differ_and_are_read_in_any_spelling() -> None:
    codes = totp.new_recovery_codes()
    assert len(set(codes)) == totp.RECOVERY_CODES
    assert all(re.fullmatch(r"([a-z2-7]{4}-){3}[a-z2-7]{4}", code) for code in codes)
    typed = f" {codes[0].upper().replace('-', ' ')} "
    assert totp.recovery_hash(7, typed) == totp.recovery_hash(7, codes[0])
    assert totp.recovery_hash(8, codes[0]) != totp.recovery_hash(7, codes[0])
    assert len(totp.new_secret()) == 20
    assert totp.new_secret() != totp.new_secret()
