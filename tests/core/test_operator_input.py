"""Keys and addresses of the operator are judged at the start, in one line with the remedy that shows no key."""

from __future__ import annotations

from typing import Any

import pytest

from minitoolai.core.catalog.loader import parse_catalog
from minitoolai.core.errors import CatalogError, SettingsError
from minitoolai.core.operator_input import why_bad_address, why_bad_headers, why_bad_key
from minitoolai.engines.factory import check_engine_settings
from minitoolai.settings import load_settings
from tests.support.cli import Cli

CATALOG = """
[engines.far]
kind = "upstream"
base_url = "https://example.com/v1"

[engines.web]
kind = "webui"
"""
BAD_KEYS = ["sk-secret\nx", "sk-secret\rx", "sk secret", "sk-sécret", "sk-\x00secret", "sk-secret\u00a0", "“sk-secret”"]
BAD_ADDRESSES = [
    ("example.com/v1", "scheme"),
    ("example.com:8000", "scheme"),
    ("//example.com/v1", "scheme"),
    ("ftp://example.com", "scheme"),
    ("https://", "scheme"),
    ("https:///v1", "scheme"),
    ("https://example.com/v1?api-version=1", "query"),
    ("https://example.com/v1#x", "query"),
    ("https://example.com/v1/chat/completions", "write only https://example.com/v1"),
    ("https://example.com/v1/chat/completions/", "write only https://example.com/v1"),
    ("https://example.com/v1/completions", "write only https://example.com/v1"),
    ("https://example.com/v1/embeddings", "write only https://example.com/v1"),
    ("https://user:pass@example.com/v1", "user name"),
    ("https://exa mple.com/v1", "space"),
    ("https://exämple.com/v1", "ASCII"),
    ("https://example.com:99999/v1", "valid URL"),
    ("https://[::1/v1", "valid URL"),
]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_that_no_header_can_carry_is_named_but_not_shown(key: str) -> None:
    settings = load_settings({"MINITOOLAI_FAR_API_KEY": key + "x"})
    with pytest.raises(
        SettingsError, match=r"MINITOOLAI_FAR_API_KEY is wrong: the key contains .*; copy it again"
    ) as no:
        check_engine_settings(parse_catalog(CATALOG), settings)
    assert "cret" not in str(no.value)
    assert "\n" not in str(no.value)
    with pytest.raises(SettingsError, match="MINITOOLAI_MODERATION_KEY is wrong"):
        load_settings({"MINITOOLAI_MODERATION_KEY": key + "x"})


@pytest.mark.parametrize(("address", "words"), BAD_ADDRESSES)
def test_an_address_that_no_path_can_be_added_to_is_named_with_the_remedy(address: str, words: str) -> None:
    with pytest.raises(SettingsError, match="MINITOOLAI_FAR_BASE_URL is wrong: the address") as no:
        check_engine_settings(parse_catalog(CATALOG), load_settings({"MINITOOLAI_FAR_BASE_URL": address}))
    assert words in str(no.value)
    with pytest.raises(CatalogError, match=r"line 4: .*base_url"):
        parse_catalog(CATALOG.replace("https://example.com/v1", address))
    with pytest.raises(SettingsError, match="MINITOOLAI_MODERATION_URL is wrong"):
        load_settings({"MINITOOLAI_MODERATION_URL": address})


@pytest.mark.parametrize("blank", [" ", "\n", "\r\n", "\t"])
def test_blanks_around_a_key_and_an_address_are_stripped(blank: str) -> None:
    settings = load_settings({
        "MINITOOLAI_FAR_API_KEY": f"{blank}sk-1{blank}",
        "MINITOOLAI_FAR_BASE_URL": f"{blank}https://example.com/v1/{blank}",
        "MINITOOLAI_STRIPE_SECRET_KEY": f"sk{blank}",
    })  # fmt: skip
    assert (settings.engine_keys["far"], settings.engine_urls["far"]) == ("sk-1", "https://example.com/v1")
    assert settings.stripe_secret_key == "sk"
    check_engine_settings(parse_catalog(CATALOG), settings)
    written = blank.replace("\r", "\\r").replace("\n", "\\n")
    catalog = CATALOG.replace("https://example.com/v1", f"{written}https://example.com/v1{written}")
    assert parse_catalog(catalog).engines["far"].base_url == "https://example.com/v1"


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:8000/v1",
        "https://api.example.com",
        "https://x.example/models",
        "http://[::1]:80/v1/",
        "http://gpu/v1",
    ],
)
def test_ordinary_keys_and_addresses_are_accepted(address: str) -> None:
    assert why_bad_address(address) is None
    assert why_bad_key("sk-proj-a_B.9/+=") is None
    assert why_bad_headers({"HTTP-Referer": "https://example.com", "X-Title": "My server"}) is None


@pytest.mark.parametrize(
    "headers",
    [{"x y": "1"}, {"": "1"}, {"x:": "1"}, {"x": "a\nb"}, {"x": "ä"}, {"Content-Length": "5"}, {"host": "a"}],
)
def test_headers_that_cannot_be_sent_are_refused_with_their_line(headers: dict[str, str]) -> None:
    assert why_bad_headers(headers) is not None
    lines = ", ".join(f"{name!r} = {value!r}".replace("'", '"') for name, value in headers.items())
    with pytest.raises(CatalogError, match=r"line 4: .*headers"):
        parse_catalog(CATALOG.replace("base_url =", f"headers = {{ {lines} }}\nbase_url ="))


def test_a_web_uis_password_may_have_any_character() -> None:
    settings = load_settings({"MINITOOLAI_WEB_API_KEY": "user:pass wörd", "MINITOOLAI_WEB_BASE_URL": "http://gpu:7860"})
    check_engine_settings(parse_catalog(CATALOG), settings)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("MINITOOLAI_UP_API_KEY", "sk-a b", "a space; copy it again"),
        ("MINITOOLAI_UP_BASE_URL", "https://example.com/v1/chat/completions", "write only https://example.com/v1"),
    ],
)
def test_serve_and_doctor_say_it_in_one_line(tmp_path: Any, name: str, value: str, words: str) -> None:
    cli = Cli(tmp_path).with_books()
    served = cli("serve", "--port", "0", **{name: value})
    assert served.status != 0
    assert name in served.err
    assert words in served.err
    assert served.err.count("\n") == 1
    doctored = cli.within("doctor", "--offline", **{name: value})
    assert doctored.status == 1
    assert [line for line in doctored.out.splitlines() if name in line and words in line and line.startswith("FAULT")]
