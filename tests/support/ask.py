"""Send HTTP requests as customers do, and parse the responses."""

from __future__ import annotations

import json
from typing import Any

import requests

from tests.support.server import Account

API = "/api/chat-completions/"
OPENAI = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Which planet has the most moons?"}]


def post(account: Account, path: str = API, **fields: Any) -> requests.Response:
    """Send a chat request; `model` is `quick` and the messages are HELLO by default."""
    body = {"model": "quick", "messages": HELLO, **fields}
    return requests.post(account.server.url + path, json=body, headers=account.headers, timeout=60)


def start(account: Account, path: str = API, **fields: Any) -> requests.Response:
    """Send a chat request and return as soon as the head arrives; the caller closes the response."""
    body = {"model": "quick", "messages": HELLO, **fields}
    return requests.post(account.server.url + path, json=body, headers=account.headers, timeout=60, stream=True)


def get(account: Account, path: str, **query: str) -> requests.Response:
    """Send a GET with the account's key."""
    return requests.get(account.server.url + path, headers=account.headers, params=query, timeout=30)


def events(text: str) -> list[Any]:
    """Return the data of each event: decoded, or `[DONE]`. Every line must be a data line, a comment or empty."""
    found: list[Any] = []
    for block in text.split("\n\n"):
        if not block or block.startswith(":"):
            continue
        assert block.startswith("data: "), block
        assert "\n" not in block, block
        data = block.removeprefix("data: ")
        found.append(data if data == "[DONE]" else json.loads(data))
    return found


def said(found: list[Any]) -> str:
    """Return the text of a stream."""
    return "".join(
        choice["delta"].get("content") or ""
        for event in found
        if isinstance(event, dict)
        for choice in event.get("choices", ())
    )


def check_refusal(answer: requests.Response, status: int, code: str, param: str | None = None) -> str:
    """Check for OpenAI's error shape with these values. Return the message."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param), error
    assert answer.headers["content-type"] == "application/json"
    message: str = error["message"]
    assert message
    return message
