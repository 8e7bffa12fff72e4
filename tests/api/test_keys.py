"""API keys over HTTP: missing, malformed and revoked keys, and the accepted forms of the header."""

from __future__ import annotations

import time
import zlib

import pytest
import requests

from minitoolai.core.clock import base62
from tests.support.ask import API, HELLO, OPENAI, check_refusal, post
from tests.support.server import Account
from tests.support.waiting import eventually

PATHS = [API, OPENAI]
PAGES = ["/api/balance/", "/api/balance", "/api/usage/", "/v1/models", "/v1/models/quick", "/v1/generations/gen-1"]


def ask(account: Account, headers: dict[str, str], path: str = API) -> requests.Response:
    body = {"model": "quick", "messages": HELLO}
    return requests.post(account.server.url + path, json=body, headers=headers, timeout=30)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("value", [None, "", "Bearer", "Bearer ", "Basic c2stbXQ=", "Bearer sk-nonsense", "sk-mt-1"])
def test_a_missing_or_malformed_key_is_a_401(account: Account, path: str, value: str | None) -> None:
    answer = ask(account, {} if value is None else {"authorization": value}, path)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", PAGES)
def test_every_account_endpoint_needs_a_key(account: Account, path: str) -> None:
    answer = requests.get(account.server.url + path, timeout=30)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert requests.get(account.server.url + path, headers=account.headers, timeout=30).status_code in (200, 404)


def test_a_key_with_one_wrong_character_is_refused(account: Account) -> None:
    prefix, key_id, secret, checksum = account.key.rsplit("-", 3)
    wrong = "".join(reversed(secret))
    answer = ask(account, {"authorization": f"Bearer {prefix}-{key_id}-{wrong}-{checksum}"})
    check_refusal(answer, 401, "invalid_api_key")


def test_a_forged_key_with_a_right_checksum_is_refused(account: Account) -> None:
    other = account.server.account()
    # Two halves of good keys, with the checksum recomputed as a forger would.
    key_id, secret = account.key.split("-")[2], other.key.split("-")[3]
    forged = f"sk-mt-{key_id}-{secret}-{base62(zlib.crc32(f'{key_id}-{secret}'.encode()), 6)}"
    check_refusal(ask(account, {"authorization": f"Bearer {forged}"}), 401, "invalid_api_key")


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer {} "])
def test_the_word_bearer_may_be_written_in_any_case(account: Account, form: str) -> None:
    assert ask(account, {"authorization": form.format(account.key)}).status_code == 200


def test_a_key_revoked_on_the_command_line_is_refused_within_a_second(account: Account) -> None:
    assert post(account).status_code == 200
    done = account.server.command("key", "revoke", account.key.split("-")[2])
    revoked_s = time.monotonic()
    assert done.returncode == 0, done.stderr
    while time.monotonic() < revoked_s + 1.0:
        post(account)
    check_refusal(post(account), 401, "invalid_api_key")


def test_a_key_created_on_the_command_line_works_immediately_and_credit_within_a_second(account: Account) -> None:
    server = account.server
    made = server.command("account", "create", "line@example.com")
    key = server.command("key", "create", "line@example.com", "--name", "laptop")
    assert (made.returncode, key.returncode) == (0, 0), made.stderr + key.stderr
    headers = {"authorization": f"Bearer {key.stdout.strip()}"}
    check_refusal(ask(account, headers), 402, "insufficient_balance")
    granted = server.command("credit", "grant", "line@example.com", "1.25")
    assert granted.stdout == "balance $1.25\n"
    eventually(lambda: ask(account, headers).status_code == 200, within_s=1)
