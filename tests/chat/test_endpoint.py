"""The documented shape of chat responses, field by field: with and without streaming, on both paths."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from tests.support import manners
from tests.support.ask import API, HELLO, OPENAI, events, get, post, said, start
from tests.support.server import Account
from tests.support.upstream import Upstream

CHUNK = {"id", "object", "created", "model", "service_tier", "system_fingerprint", "choices", "usage"}
CHOICE = {"index", "delta", "logprobs", "finish_reason"}
USAGE_DETAILS = {
    "prompt_tokens_details": {"cached_tokens", "audio_tokens"},
    "completion_tokens_details": {
        "reasoning_tokens", "audio_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens",
    },
}  # fmt: skip

TEXTS = [
    "Ätna über Ñandú",
    "雪国 の トンネル",
    "🌋🧂👩\u200d🚀",
    'quote " and \\ back\nslash',
    "\u2028 \x7f \0",
]


def check_usage(usage: dict[str, Any], prompt: int, completion: int) -> None:
    assert set(usage) == {"prompt_tokens", "completion_tokens", "total_tokens", *USAGE_DETAILS}
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (prompt, completion)
    assert usage["total_tokens"] == prompt + completion
    for name, keys in USAGE_DETAILS.items():
        assert set(usage[name]) == keys


def check_stream(found: list[Any], served_model: str, prompt: int, completion: int) -> None:
    """Check for chunks with every field, then the usage, then `[DONE]`."""
    *chunks, last, done = found
    assert done == "[DONE]"
    for event in [*chunks, last]:
        assert set(event) == CHUNK, event
        assert event["object"] == "chat.completion.chunk"
        assert event["model"] == served_model
        assert isinstance(event["created"], int)
        assert event["service_tier"] == "default"
        assert event["system_fingerprint"].startswith("fp_")
    assert len({event["id"] for event in [*chunks, last]}) == 1
    for event in chunks:
        assert event["usage"] is None
        assert [set(choice) for choice in event["choices"]] == [CHOICE]
        assert event["choices"][0]["logprobs"] is None
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"][0]["delta"] == {}
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    assert all(event["choices"][0]["finish_reason"] is None for event in chunks[:-1])
    assert last["choices"] == []
    check_usage(last["usage"], prompt, completion)


@pytest.mark.parametrize("path", [API, API[:-1]])
def test_the_api_streams_by_default_with_every_documented_header(account: Account, path: str) -> None:
    with start(account, path) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["x-generation-id"].startswith("gen-")
        assert "content-encoding" not in answer.headers
        assert answer.history == []
        check_stream(events(answer.text), "fake-quick-1", 6, 16)


def test_responses_are_not_compressed_even_if_the_client_accepts_it(account: Account) -> None:
    headers = account.headers | {"accept-encoding": "gzip, deflate, br, zstd"}
    body = {"model": "quick", "messages": HELLO}
    answer = requests.post(account.server.url + API, json=body, headers=headers, timeout=30)
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize("model", ["standin", "whole"])
@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_shape_is_the_same_if_the_engine_leaves_fields_out(
    account: Account, upstream: Upstream, model: str, lean: bool, newline: str
) -> None:
    if lean and model == "whole":
        return  # The catalog states that the chunks of this engine are complete.
    upstream.behave = manners.answer(lean=lean, newline=newline)
    found = events(post(account, model=model).text)
    shown = manners.MODEL if model == "standin" else model
    check_stream(found, shown, manners.PROMPT_TOKENS, len(manners.WORDS))
    assert said(found) == "".join(manners.WORDS)


def test_a_first_token_arrives_while_the_engine_still_writes(account: Account) -> None:
    with start(account, model="endless") as answer:
        line = next(answer.iter_lines())
        assert line.startswith(b"data: {")


@pytest.mark.parametrize("path", [API, OPENAI])
def test_a_whole_answer_is_one_completion_with_usage(account: Account, path: str) -> None:
    answer = post(account, path, stream=False)
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) >= {"id", "object", "created", "model", "service_tier", "system_fingerprint", "choices", "usage"}
    assert (body["object"], body["model"]) == ("chat.completion", "fake-quick-1")
    assert body["choices"][0]["message"]["content"].startswith("token-0 ")
    check_usage(body["usage"], 6, 16)


@pytest.mark.parametrize("with_usage", [True, False])
def test_a_lean_whole_answer_is_filled_in(account: Account, upstream: Upstream, with_usage: bool) -> None:
    upstream.behave = manners.answer(lean=True, with_usage=with_usage)
    body = post(account, model="standin", stream=False).json()
    assert set(body) >= {"id", "object", "created", "model", "service_tier", "system_fingerprint", "choices", "usage"}
    assert body["choices"][0]["message"]["content"] == "".join(manners.WORDS)
    assert set(USAGE_DETAILS) <= set(body["usage"])


@pytest.mark.parametrize("path", [OPENAI, OPENAI + "/"])
def test_openais_address_has_openais_defaults(account: Account, path: str) -> None:
    assert post(account, path).headers["content-type"] == "application/json"
    streamed = events(post(account, path, stream=True).text)
    assert streamed[-1] == "[DONE]"
    assert all(event.get("usage") is None for event in streamed[:-1])
    assert all(event["choices"] for event in streamed[:-1])
    asked = events(post(account, path, stream=True, stream_options={"include_usage": True}).text)
    check_stream(asked, "fake-quick-1", 6, 16)


def test_the_limit_is_1000_here_and_the_largest_there(account: Account, upstream: Upstream) -> None:
    post(account, API, model="standin")
    assert upstream.last.body["max_completion_tokens"] == 1000
    post(account, OPENAI, model="standin")
    assert upstream.last.body["max_completion_tokens"] == 4096
    post(account, OPENAI, model="standin", max_tokens=33)
    assert upstream.last.body["max_completion_tokens"] == 33
    assert "max_tokens" not in upstream.last.body


@pytest.mark.parametrize("path", [API, OPENAI])
def test_only_one_limit_field_reaches_an_upstream(account: Account, upstream: Upstream, path: str) -> None:
    hidden = {"n_predict": 200, "best_of": 4, "ignore_eos": True, "MAX_TOKENS": 200, "options": {"num_predict": 200}}
    post(account, path, model="standin", stream=True, max_tokens=16, temperature=0.5, **hidden)
    sent = upstream.last.body
    assert set(sent) == {
        "model", "messages", "stream", "stream_options", "max_completion_tokens", "temperature",
    }  # fmt: skip
    assert sent["max_completion_tokens"] == 16


def test_documented_fields_are_passed_on_and_usage_is_always_asked_for(account: Account, upstream: Upstream) -> None:
    fields = {"seed": 7, "stop": ["x"], "tools": [], "reasoning_effort": "low"}
    post(account, OPENAI, model="standin", stream=True, **fields)
    sent = upstream.last.body
    assert {name: sent[name] for name in fields} == fields
    assert sent["stream_options"] == {"include_usage": True}
    assert sent["messages"] == HELLO
    assert "authorization" not in upstream.last.headers  # The caller's key must not be sent to an upstream.


def test_an_image_reaches_an_engine_with_vision(account: Account, upstream: Upstream) -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://93.184.216.34/a.png"}}
    parts = [{"type": "text", "text": "What is this?"}, picture]
    assert post(account, model="standin", messages=[{"role": "user", "content": parts}]).status_code == 200
    assert upstream.last.body["messages"][0]["content"] == parts


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("stream", [True, False])
def test_text_beyond_ascii_arrives_intact_through_requests(
    account: Account, upstream: Upstream, text: str, stream: bool
) -> None:
    upstream.behave = manners.answer([text, text])
    answer = post(account, model="standin", stream=stream)
    # `.text` believes the charset of the header; without one it would read Latin-1.
    found = events(answer.text) if stream else []
    assert (said(found) if stream else answer.json()["choices"][0]["message"]["content"]) == text + text


def test_events_that_arrive_byte_by_byte_leave_whole(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.drip
    found = events(post(account, model="standin").text)
    assert said(found) == "Ätna 雪 🌋"
    assert found[-1] == "[DONE]"


def test_n_choices_are_held_and_charged_n_times(account: Account, upstream: Upstream) -> None:
    post(account, model="standin", n=3, max_completion_tokens=100, stream=False)
    assert upstream.last.body["n"] == 3
    held = account.server.read(lambda c: c.execute("SELECT amount FROM holds WHERE account_id = ?", (account.id,)))
    assert held[0][0] >= 3 * 100 * 600


def test_every_response_names_its_generation_which_states_the_cost(account: Account) -> None:
    name = post(account, model="paced", max_completion_tokens=5).headers["x-generation-id"]
    body = get(account, f"/v1/generations/{name}").json()
    assert (body["id"], body["state"], body["model"]) == (name, "succeeded", "paced")
    assert (body["served_model"], body["engine"], body["demo"]) == ("fake-paced-1", None, False)
    assert (body["input_units"], body["output_units"], body["estimated"]) == (6, 5, False)
    assert body["cost"] == f"{(6 * 2007 + 5 * 8003) / 1e9:.9f}"
    assert body["shortfall"] == "0.000000000"
    assert get(account.server.account(), f"/v1/generations/{name}").status_code == 404
