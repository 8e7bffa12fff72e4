"""However a caller's software spells a request, it arrives: slashes, old HTTP, monitors, pages of other origins."""

from __future__ import annotations

import json
import socket

import pytest
import requests

from tests.support.ask import API, HELLO, OPENAI, check_refusal, events, post, said
from tests.support.server import Account

READ = ("/v1/models", "/v1/models/quick", "/api/balance/", "/api/usage/", "/v1/audio/voices", "/healthz", "/readyz")


def ask(account: Account, path: str, method: str = "GET", **headers: str) -> requests.Response:
    return requests.request(method, account.server.url + path, headers={**account.headers, **headers}, timeout=30)


@pytest.mark.parametrize("path", ["/v1//chat/completions", "//v1/chat/completions", "/v1/chat//completions/"])
def test_a_base_url_that_ends_in_a_slash_does_no_harm(account: Account, path: str) -> None:
    assert post(account, path).json()["object"] == "chat.completion"
    assert ask(account, "//v1//models").json()["object"] == "list"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/models", "/v1/models"),
        ("/api/chat-completion/", "/api/chat-completions/"),
    ],
)
def test_whoever_misses_a_path_is_told_which_was_meant(account: Account, path: str, meant: str) -> None:
    assert f"did you mean {meant}?" in check_refusal(post(account, path), 404, "not_found")


def test_a_path_like_no_other_is_a_404_without_a_guess(account: Account) -> None:
    assert "did you mean" not in check_refusal(ask(account, "/v1/threads"), 404, "not_found")


@pytest.mark.parametrize("path", READ)
def test_what_can_be_read_answers_a_head_without_a_body(account: Account, path: str) -> None:
    answer, whole = ask(account, path, "HEAD"), ask(account, path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(whole.content))


def test_another_method_is_answered_with_the_right_ones(account: Account) -> None:
    answer = ask(account, "/v1/models", "POST")
    assert "GET" in check_refusal(answer, 405, "method_not_allowed")
    assert "HEAD" in answer.headers["allow"]


@pytest.mark.parametrize("path", [API, OPENAI, "/v1/models", "/api/texttoimage/", "/v1/responses"])
def test_a_page_of_another_origin_may_ask_and_read(account: Account, path: str) -> None:
    wanted = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os"}
    asked = ask(account, path, "OPTIONS", origin="https://app.example.com", **wanted)
    assert (asked.status_code, asked.content) == (204, b"")
    assert asked.headers["access-control-allow-origin"] == "*"
    assert asked.headers["access-control-allow-headers"] == "authorization, *"
    assert "POST" in asked.headers["access-control-allow-methods"]
    # Nothing that a browser would send by itself opens anything.
    assert "access-control-allow-credentials" not in asked.headers


@pytest.mark.parametrize("stream", [True, False])
def test_the_answer_and_the_refusal_can_be_read_from_there(account: Account, stream: bool) -> None:
    body = {"model": "quick", "messages": HELLO, "stream": stream}
    headers = {**account.headers, "origin": "https://app.example.com"}
    answer = requests.post(account.server.url + OPENAI, json=body, headers=headers, timeout=30)
    refused = requests.post(account.server.url + OPENAI, json={**body, "model": "x"}, headers=headers, timeout=30)
    for one, status in ((answer, 200), (refused, 404)):
        assert one.status_code == status
        assert one.headers["access-control-allow-origin"] == one.headers["access-control-expose-headers"] == "*"
    assert "access-control-allow-origin" not in post(account, OPENAI).headers


def test_pages_of_the_portal_are_nobody_elses(account: Account) -> None:
    answer = requests.get(account.server.url + "/en/", headers={"origin": "https://app.example.com"}, timeout=30)
    assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (200, None)


@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_of_http_1_0_gets_no_chunks(account: Account, stream: bool) -> None:
    body = json.dumps({"model": "quick", "messages": HELLO, "stream": stream}).encode()
    head = f"POST {OPENAI} HTTP/1.0\r\nAuthorization: Bearer {account.key}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", account.server.port), timeout=30) as connection:
        connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        with connection.makefile("rb") as file:
            answered, _, rest = file.read().partition(b"\r\n\r\n")
    assert answered.startswith(b"HTTP/1.1 200")
    assert b"transfer-encoding" not in answered
    if stream:
        found = events(rest.decode())
        assert found[-1] == "[DONE]"
        assert said(found).startswith("token-0")
    else:
        assert json.loads(rest)["object"] == "chat.completion"


def test_an_empty_body_is_called_empty(account: Account) -> None:
    headers = {**account.headers, "content-type": "application/json"}
    answer = requests.post(account.server.url + OPENAI, data=b"", headers=headers, timeout=30)
    assert "empty" in check_refusal(answer, 400, "invalid_json")
