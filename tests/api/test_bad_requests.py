"""Test that an invalid request is refused with status, code and field, and is not charged."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import requests

from tests.support.ask import API, HELLO, OPENAI, check_refusal, post
from tests.support.server import Account
from tests.support.upstream import Upstream

IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://93.184.216.34/a.png"}}]}]


def raw(account: Account, body: bytes, kind: str = "application/json", path: str = API) -> requests.Response:
    headers = account.headers | {"content-type": kind}
    return requests.post(account.server.url + path, data=body, headers=headers, timeout=60)


@pytest.mark.parametrize("path", [API, API[:-1], OPENAI, OPENAI + "/"])
@pytest.mark.parametrize("body", [b"", b"{", b"hello", b'"text"', b"[1]", b"null", b'{"model": 1}}', b"\xff\xfe{}"])
def test_a_body_that_is_not_a_json_object_is_refused_on_every_path(account: Account, path: str, body: bytes) -> None:
    check_refusal(raw(account, body, path=path), 400, "invalid_json")
    assert (account.money().posted, account.money().held) == (5_000_000_000, 0)


FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": ["hello"]}, "messages[0]"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [*HELLO, {"role": "user", "content": [{"type": "audio"}]}]}, "messages[1].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp://x/a.png"}}]}]},
     "messages[0].content[0].image_url.url"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": ["https://x/a.png"]}]}]},
     "messages[0].content[0].image_url"),
    ({"model": ""}, "model"),
    ({"model": None}, "model"),
    ({"model": 4}, "model"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": "1.0"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"n": 0}, "n"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"max_completion_tokens": 10**12}, "max_completion_tokens"),
    ({"max_completion_tokens": 4097}, "max_completion_tokens"),
    ({"max_completion_tokens": 2.5}, "max_completion_tokens"),
    ({"max_completion_tokens": "100"}, "max_completion_tokens"),
    ({"max_completion_tokens": True}, "max_completion_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    ({"stream": "true"}, "stream"),
    ({"stream": 1}, "stream"),
    ({"stream_options": "usage"}, "stream_options"),
    ({"model": "paced", "messages": IMAGE}, "messages"),
]  # fmt: skip


@pytest.mark.parametrize("path", [API, OPENAI])
@pytest.mark.parametrize(("fields", "param"), FIELDS)
def test_an_invalid_field_is_named_and_costs_nothing(
    account: Account, path: str, fields: dict[str, Any], param: str
) -> None:
    check_refusal(post(account, path, **fields), 400, "invalid_request", param)
    assert (account.money().posted, account.money().held) == (5_000_000_000, 0)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999"])
def test_a_temperature_that_is_not_a_finite_number_is_refused(account: Account, number: bytes) -> None:
    body = b'{"model":"quick","messages":[{"role":"user","content":"x"}],"temperature":' + number + b"}"
    answer = raw(account, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] in ("invalid_json", "invalid_request")


def test_an_unknown_model_is_a_404_that_suggests_the_nearest(account: Account) -> None:
    assert "quick" in check_refusal(post(account, model="quik"), 404, "model_not_found", "model")
    assert "paced" in check_refusal(post(account, model="zzzzzzzz"), 404, "model_not_found", "model")


def test_null_means_absent_and_a_whole_float_is_an_integer(account: Account) -> None:
    answer = post(account, temperature=None, max_tokens=None, max_completion_tokens=4.0, stop=None, stream=False)
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 4


def test_a_body_over_20_megabytes_is_a_413_with_and_without_content_length(account: Account) -> None:
    body = json.dumps({"model": "quick", "messages": [{"role": "user", "content": "x" * (20 * 1024 * 1024)}]}).encode()
    check_refusal(raw(account, body), 413, "body_too_large")

    def pieces() -> Any:
        for at in range(0, len(body), 1 << 20):
            yield body[at : at + (1 << 20)]

    # `requests` reads only after it has sent everything, so it may see a closed connection instead of the response.
    try:
        answer = requests.post(
            account.server.url + API,
            data=pieces(),
            headers=account.headers | {"content-type": "application/json"},
            timeout=60,
        )
    except requests.ConnectionError:
        pass
    else:
        check_refusal(answer, 413, "body_too_large")
    assert (account.money().posted, account.money().held) == (5_000_000_000, 0)


def test_a_prompt_of_a_million_tokens_is_refused_before_anything_is_held(account: Account) -> None:
    answer = post(account, messages=[{"role": "user", "content": "one " * 1_000_000}])
    check_refusal(answer, 400, "context_length_exceeded", "messages")
    assert account.server.read(
        lambda c: c.execute("SELECT count(*) FROM holds WHERE account_id = ?", (account.id,))
    ) == [(0,)]


def test_prompt_and_completion_must_fit_the_context_together(account: Account) -> None:
    words = [{"role": "user", "content": "word " * 5000}]
    check_refusal(post(account, messages=words, max_completion_tokens=4096), 400, "context_length_exceeded", "messages")
    assert post(account, messages=words).status_code == 200


@pytest.mark.parametrize("depth", [100, 100_000])
def test_deeply_nested_json_is_refused_and_the_server_survives(account: Account, depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    body = b'{"model":"quick","messages":[{"role":"user","content":"x"}],"metadata":' + nested + b"}"
    check_refusal(raw(account, body), 400, "invalid_json")
    assert requests.get(account.server.url + "/healthz", timeout=10).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_without_the_content_type_json_is_a_415(account: Account, kind: str) -> None:
    body = json.dumps({"model": "quick", "messages": HELLO}).encode()
    check_refusal(raw(account, body, kind), 415, "unsupported_media_type")


def test_the_content_type_may_have_a_charset(account: Account) -> None:
    body = json.dumps({"model": "quick", "messages": HELLO}).encode()
    assert raw(account, body, "application/json; charset=utf-8").status_code == 200


@pytest.mark.parametrize("path", [API, API[:-1], OPENAI])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_wrong_method_is_a_405_that_names_the_right_one(account: Account, path: str, method: str) -> None:
    answer = requests.request(method, account.server.url + path, headers=account.headers, timeout=10)
    check_refusal(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


def test_an_unknown_path_is_a_404(account: Account) -> None:
    check_refusal(
        requests.get(account.server.url + "/v1/nothing", headers=account.headers, timeout=10), 404, "not_found"
    )


def test_invalid_unicode_never_causes_a_server_error(account: Account, upstream: Upstream) -> None:
    lone = b'{"model":"standin","messages":[{"role":"user","content":"\\ud800"}],"stream":false}'
    assert raw(account, lone).status_code in (200, 400)
    check_refusal(raw(account, lone.replace(b"\\ud800", b"\xff")), 400, "invalid_json")


def test_invalid_http_closes_only_its_own_connection(account: Account) -> None:
    with socket.create_connection(("127.0.0.1", account.server.port), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01 rubbish\r\n\r\n")
        assert b"400" in connection.recv(4096)
    assert post(account).status_code == 200


def test_an_unsupported_feature_is_refused_with_the_models_that_support_it(account: Account) -> None:
    answer = post(account, model="plain", reasoning_effort="low")
    message = check_refusal(answer, 400, "invalid_request", "reasoning_effort")
    assert "plain" in message
    assert "use a model that can: quick, " in message
    message = check_refusal(post(account, model="plain", messages=IMAGE), 400, "invalid_request", "messages")
    assert "use a model that can: quick, " in message
    assert account.money().posted == 5_000_000_000
