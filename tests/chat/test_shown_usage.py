"""The usage that a caller is shown is the one that is charged, in every format, whatever the upstream reports."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from tests.support import manners
from tests.support.ask import API, OPENAI
from tests.support.server import Account
from tests.support.upstream import Upstream

CREDIT = 5_000_000_000
PRICE_IN, PRICE_OUT = 150, 600
TEXT = "The harbour was quiet when the last ferry came in. " * 40
REPORTS: dict[str, dict[str, Any] | None] = {
    "honest": manners.usage(300),
    "zeros": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    "absurd": {"prompt_tokens": 7, "completion_tokens": 2**31 - 1},
    "negative": {"prompt_tokens": -7, "completion_tokens": -1},
    "total only": {"total_tokens": 307},
    "cached above": {**manners.usage(300), "prompt_tokens_details": {"cached_tokens": 10**9}},
    "xAI": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 310},
    "missing": None,
}
#: Path and body of each format.
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "api": (API, {"messages": [{"role": "user", "content": "Tell me."}]}),
    "chat": (
        OPENAI,
        {"messages": [{"role": "user", "content": "Tell me."}], "stream_options": {"include_usage": True}},
    ),
    "responses": ("/v1/responses", {"input": "Tell me."}),
    "completions": (
        "/v1/completions",
        {"prompt": "Tell me.", "max_tokens": 1000, "stream_options": {"include_usage": True}},
    ),
}


def shown(text: str) -> tuple[int, int, int]:
    """Return prompt, output and cached tokens as the response shows them, streamed or not."""
    bodies = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")] or [json.loads(text)]
    usages = [body.get("usage") or body.get("response", {}).get("usage") for body in bodies]
    usage = next(usage for usage in reversed(usages) if usage)
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    prompt = usage["prompt_tokens"] if "prompt_tokens" in usage else usage["input_tokens"]
    output = usage["completion_tokens"] if "completion_tokens" in usage else usage["output_tokens"]
    return prompt, output, details.get("cached_tokens", 0)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("model", ["standin", "whole"])
@pytest.mark.parametrize("report", REPORTS)
def test_what_is_shown_is_charged(
    account: Account, upstream: Upstream, report: str, model: str, form: str, stream: bool
) -> None:
    path, fields = FORMATS[form]
    pieces = [TEXT[at : at + 40] for at in range(0, len(TEXT), 40)]
    if form == "completions":
        upstream.behave = manners.text(pieces, told=REPORTS[report] or {})
    else:
        upstream.behave = manners.counting(REPORTS[report], *[{"content": piece} for piece in pieces])
    body = {"model": model, "stream": stream, **fields}
    if not stream:
        body.pop("stream_options", None)
    answer = requests.post(account.server.url + path, json=body, headers=account.headers, timeout=30)
    assert answer.status_code == 200, answer.text
    left = account.settled()
    row = account.server.generation(answer.headers["x-generation-id"])
    prompt, output, cached = shown(answer.text)
    assert (prompt, output) == (row["input_units"], row["output_units"])
    assert CREDIT - left == row["cost"] == prompt * PRICE_IN + output * PRICE_OUT
    assert cached <= prompt
    is_honest = report in ("honest", "cached above", "xAI")
    assert row["estimated"] == (not is_honest)
    assert output == {"honest": 300, "cached above": 300, "xAI": 303}.get(report, len(TEXT) // 5)
    assert row["delivered_bytes"] == len(TEXT)
