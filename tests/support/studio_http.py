"""Image requests over HTTP, and a catalog whose models return images of one colour."""

from __future__ import annotations

import time
from typing import Any

import requests

from tests.support.server import Account

SUBMIT = "/api/texttoimage/"
POLL = "/api/texttoimage/jobs/"
OPENAI = "/v1/images/generations"
PRICE = 1_500_000
CREDIT = 5_000_000_000
SIZE = {"width": 256, "height": 256}

#: `flat` finishes immediately, `slow` takes 0.15 s per step, and `missing` has no ready engine.
CATALOG = """
[engines.flat]
kind = "fake"
model = "fake-flat-1"

[engines.slow]
kind = "fake"
model = "fake-slow-1"
delay_ms = 150

[image.flat]
price = "0.0015"
weights = "flat.safetensors"
engines = ["flat"]

[image.slow]
price = "0.0015"
weights = "slow.safetensors"
engines = ["slow"]

[image.missing]
price = "0.0015"
weights = "missing.safetensors"
engines = ["flat"]
"""

#: Two models of the shipped catalog on the embedded engine.
SKETCH = """
[engines.sketch]
kind = "sketch"
model = "minitoolai-sketch-1"

[image.realvision]
price = "0.0015"
weights = "realvision.safetensors"
engines = ["sketch"]

[image.dreamshaper]
price = "0.0015"
weights = "dreamshaper.safetensors"
engines = ["sketch"]
"""


def submit(account: Account, path: str = SUBMIT, **fields: Any) -> requests.Response:
    """Submit a job, of the model `flat` in 256x256 unless given, and return the response."""
    body = {"model": "flat", "prompt": "a red apple", **SIZE, **fields}
    return requests.post(account.server.url + path, json=body, headers=account.headers, timeout=60)


def job(account: Account, **fields: Any) -> dict[str, Any]:
    """Submit a job and return its `{"jobid", "signature"}`, the body of a poll."""
    answer = submit(account, **fields)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert body.pop("status") == "success"
    return body


def poll(account: Account, body: Any, path: str = POLL) -> requests.Response:
    """Poll a job without a key."""
    return requests.post(account.server.url + path, json=body, timeout=30)


def wait(account: Account, body: dict[str, Any], within_s: float = 30.0) -> dict[str, Any]:
    """Poll until the job has ended and return its state."""
    give_up_s = time.monotonic() + within_s
    while True:
        state: dict[str, Any] = poll(account, body).json()
        if state["status"] in ("success", "error"):
            return state
        assert time.monotonic() < give_up_s, state
        time.sleep(0.05)


def generate(account: Account, path: str = OPENAI, **fields: Any) -> requests.Response:
    """Send a request in OpenAI's format."""
    body = {"model": "flat", "prompt": "a red apple", "size": "256x256", **fields}
    return requests.post(account.server.url + path, json=body, headers=account.headers, timeout=60)


def check_image_refusal(answer: requests.Response, status: int, code: str, says: str = "") -> str:
    """Check an error in the format of the contract and return its message."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"status", "jobid", "signature", "message", "code"}, body
    assert (body["status"], body["jobid"], body["signature"], body["code"]) == ("error", None, None, code), body
    assert answer.headers["content-type"] == "application/json"
    message: str = body["message"]
    assert says in message, message
    return message
