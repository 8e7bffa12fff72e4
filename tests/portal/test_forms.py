"""Form parsing with its limits, cookies, and signatures that survive a rotation of the secret key."""

from __future__ import annotations

import base64
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitoolai.core.errors import BodyTooLarge, InvalidRequest
from minitoolai.core.signing import SecretKeys
from minitoolai.portal.forms import (
    MAX_FIELD_LENGTH,
    MAX_FIELDS,
    MAX_FORM_BYTES,
    TOKEN_BYTES,
    CookieSigner,
    is_loopback,
    parse_form,
    read_cookies,
)

OLD, NEW = SecretKeys(b"old key"), SecretKeys(b"new key", [b"old key"])


def test_fields_are_stripped_and_passwords_are_not() -> None:
    form = parse_form(b"name=+a+b+&password=+p+&model=x&model=y&empty=")
    assert (form["name"], form["password"], form["model"], form["empty"]) == ("a b", " p ", "x", "")
    assert form.get_all("model") == ["x", "y"]
    assert form.get_all("password") == []
    assert form["missing"] == ""


def test_a_password_is_taken_out_of_the_form() -> None:
    form = parse_form(b"password=secret")
    assert form.pop_password("password") == "secret"
    assert (form["password"], form.pop_password("password")) == ("", "")


def test_a_nul_is_removed_and_a_long_value_is_cut() -> None:
    form = parse_form(b"a=x%00y&b=" + b"z" * (MAX_FIELD_LENGTH + 1))
    assert (form["a"], len(form["b"])) == ("xy", MAX_FIELD_LENGTH)


@pytest.mark.parametrize("body", [b"a=\xff", b"a=%ff", "&".join(f"f{n}=x" for n in range(MAX_FIELDS + 1)).encode()])
def test_a_form_that_cannot_be_parsed_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_form(body)


def test_a_form_that_is_too_large_is_refused() -> None:
    with pytest.raises(BodyTooLarge):
        parse_form(b"a=" + b"x" * MAX_FORM_BYTES)


def test_the_first_error_of_a_field_is_kept() -> None:
    form = parse_form(b"")
    assert form.is_valid
    form.add_error("name", "first")
    form.add_error("name", "second")
    assert (form.is_valid, form.errors) == (False, {"name": "first"})


@pytest.mark.parametrize("value", [["good", "Done: $5.00"], {"fields": {"name": ["é"]}}, None, 7])
def test_a_signed_value_comes_back(value: object) -> None:
    assert CookieSigner(OLD).unpack("flash", CookieSigner(OLD).pack("flash", value)) == value


def test_a_signed_value_is_a_plain_cookie_value() -> None:
    packed = CookieSigner(OLD).pack("flash", ["good", "“quotes”; spaces, \n" * 9])
    assert set(packed) <= {*string.ascii_letters, *string.digits, *"-_."}


def test_a_signature_holds_for_one_purpose_only() -> None:
    assert CookieSigner(OLD).unpack("draft", CookieSigner(OLD).pack("flash", [1])) is None


@given(st.integers(0, 200), st.sampled_from(string.ascii_letters + string.digits))
def test_a_changed_value_is_refused(place: int, letter: str) -> None:
    packed = CookieSigner(OLD).pack("flash", ["good", "forged"])
    place %= len(packed)
    changed = packed[:place] + letter + packed[place + 1 :]
    value = CookieSigner(OLD).unpack("flash", changed)
    # The last character of a base64 text has bits that mean nothing.
    assert value is None or changed == packed or place in (len(packed) - 1, packed.index(".") - 1)
    assert value in (None, ["good", "forged"])


@pytest.mark.parametrize("packed", ["", ".", "x", "é.é", "WzFd", "WzFd.", ".WzFd", "WzFd." + "0" * 32, "." * 3000])
def test_what_was_not_signed_is_refused(packed: str) -> None:
    assert CookieSigner(OLD).unpack("flash", packed) is None


def test_signatures_survive_a_rotation_of_the_key_but_not_its_removal() -> None:
    packed, token = CookieSigner(OLD).pack("flash", [1]), CookieSigner(OLD).form_token("browser")
    assert CookieSigner(NEW).unpack("flash", packed) == [1]
    assert CookieSigner(NEW).is_form_token(token, "browser")
    removed = CookieSigner(SecretKeys(b"new key"))
    assert removed.unpack("flash", packed) is None
    assert not removed.is_form_token(token, "browser")


def test_the_newest_key_signs() -> None:
    only_new = CookieSigner(SecretKeys(b"new key"))
    assert only_new.unpack("flash", CookieSigner(NEW).pack("flash", [1])) == [1]
    assert only_new.is_form_token(CookieSigner(NEW).form_token("browser"), "browser")


def test_a_form_token_is_masked_anew_each_time() -> None:
    signer = CookieSigner(OLD)
    tokens = {signer.form_token("browser") for _ in range(20)}
    assert len(tokens) == 20
    masked = {base64.urlsafe_b64decode(token)[TOKEN_BYTES:] for token in tokens}
    assert len(masked) == 20
    assert all(signer.is_form_token(token, "browser") for token in tokens)
    assert not signer.is_form_token(tokens.pop(), "another browser")


@pytest.mark.parametrize("token", ["", "x", "AAAA", "=" * 44, "é", "A" * 44])
def test_a_forged_form_token_is_refused(token: str) -> None:
    assert not CookieSigner(OLD).is_form_token(token, "browser")


@pytest.mark.parametrize(
    ("header", "cookies"),
    [
        ("", {}),
        ('a=1; b="2"', {"a": "1", "b": "2"}),
        ("a=1; a=2", {"a": "1"}),
        ("nothing; =x; a=", {"": "x", "a": ""}),
        ("a=b=c", {"a": "b=c"}),
    ],
)
def test_a_cookie_header_is_parsed(header: str, cookies: dict[str, str]) -> None:
    assert read_cookies(header) == cookies


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:8000"])
def test_a_host_of_this_machine_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "example.com", "localhost.example.com", "127.0.0.1.example.com:80", "10.0.0.1"])
def test_another_host_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)
