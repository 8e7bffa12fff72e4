"""Estimated usage over HTTP: close to the true count, never above the hold, and marked as estimated."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import requests

from tests.support import manners
from tests.support.ask import HELLO, OPENAI, events, post, said, start
from tests.support.server import Account
from tests.support.upstream import Upstream

CREDIT = 5_000_000_000
PRICE_IN, PRICE_OUT = 150, 600
#: Tokens of an image with low `detail`, according to the stand-in.
LOW = 85
ZERO = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
WORDS = "word " * 1000


def arguments(piece: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}


CALL = {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}]}
#: Deltas of real engines, with the text in each.
STREAMS: dict[str, list[tuple[dict[str, Any], str]]] = {
    "a thousand words in one delta": [({"content": WORDS}, WORDS)] * 3,
    "reasoning": [({"reasoning": text}, text) for text in ("Let me think. ", "Saturn has rings" * 20, "so " * 90)],
    "reasoning_content": [({"reasoning_content": "I wonder " * n}, "I wonder " * n) for n in (1, 30, 2)],
    "thoughts, then words": [({"reasoning": "hm " * 40}, "hm " * 40), ({"content": "So: "}, "So: ")] * 2,
    "arguments of a call": [(CALL, "f"), *[(arguments(s), s) for s in ('{"path": "', "a/b/" * 500, '"}')]],
    "all arguments at once": [(arguments('{"text": "' + WORDS + '"}'), '{"text": "' + WORDS + '"}')],
    "escapes": [({"content": text}, text) for text in ("\n" * 80, '"quoted" ' * 30, "雪国🌋" * 30, "\\" * 99)],
    "a refusal": [({"refusal": "I will not. " * 9}, "I will not. " * 9)] * 2,
    "parts": [({"content": [{"type": "text", "text": "so " * 70}]}, "so " * 70)] * 2,
    "a transcript": [({"audio": {"id": "a", "transcript": "spoken " * 9, "data": "UklG" * 999}}, "spoken " * 9)] * 2,
    "a field that nobody knows": [({"notes": {"of": ["some ", "kind " * 50]}}, "some " + "kind " * 50)] * 2,
    "a token each": [({"content": word}, word) for word in manners.WORDS],
}


def left(account: Account, after: int, **fields: Any) -> dict[str, Any]:
    """Return the generation of a stream whose client disconnected after this many events."""
    answer = start(account, max_completion_tokens=4000, **fields)
    seen = b""
    for data in answer.iter_content(None):
        seen += data
        if seen.count(b"\n\n") >= after:
            break
    answer.close()
    account.settled(within_s=5)
    return account.server.generation(answer.headers["x-generation-id"])


def check_near(row: dict[str, Any], texts: list[str], *, prompt: str = HELLO[0]["content"], images: int = 0) -> None:
    """Check the estimate: half a token to one token per four bytes, or one per delta; and the prompt."""
    size = len("".join(texts).encode())
    assert (row["state"], row["error_code"]) == ("cancelled", "client_left")
    if not size:
        assert (row["cost"], row["estimated"]) == (0, 0)
        return
    least = size / 8 * PRICE_OUT + (len(prompt) / 8 + images * LOW) * PRICE_IN
    assert least <= row["cost"] <= row["hold_amount"]
    assert row["output_units"] <= max(len(texts), size / 4)
    assert images * LOW <= row["input_units"] <= len(prompt) / 4 + 16 + images * LOW
    assert row["estimated"] == 1


@pytest.mark.parametrize("model", ["standin", "whole"])
@pytest.mark.parametrize("name", STREAMS)
def test_a_disconnect_after_any_event_is_charged_for_the_delivered_output(
    account: Account, upstream: Upstream, name: str, model: str
) -> None:
    deltas = [delta for delta, _ in STREAMS[name]]
    for number in range(1, len(deltas) + 2):
        upstream.behave = manners.first(number, *deltas)
        check_near(left(account, number, model=model), [text for _, text in STREAMS[name][: number - 1]])


@pytest.mark.parametrize("model", ["standin", "whole"])
def test_every_choice_is_counted(account: Account, upstream: Upstream, model: str) -> None:
    upstream.behave = manners.first(3, {"content": "so " * 50}, {"content": "on " * 50}, choices=2)
    check_near(left(account, 3, model=model, n=2), ["so " * 50, "on " * 50] * 2)


@pytest.mark.parametrize("detail", ["low", "high", "auto"])
def test_ten_images_are_charged_if_the_client_disconnects_at_the_first_token(
    account: Account, upstream: Upstream, detail: str
) -> None:
    urls = [{"url": f"https://93.184.216.34/{number}.jpg", "detail": detail} for number in range(10)]
    parts = [{"type": "text", "text": "What are these?"}, *[{"type": "image_url", "image_url": url} for url in urls]]
    for number in (1, 2, 3):
        upstream.behave = manners.first(number, {"content": "A "}, {"content": "cat."})
        row = left(account, number, model="standin", messages=[{"role": "user", "content": parts}])
        check_near(row, ["A ", "cat."][: number - 1], prompt="What are these?", images=10)


def test_tools_schemas_and_former_turns_are_part_of_the_prompt(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.first(2, {"content": "A "})
    bare = left(account, 2, model="standin")["input_units"]
    long = {"type": "object", "description": "cities " * 200}
    function = {"name": "f", "parameters": long}
    schema = {"type": "json_schema", "json_schema": {"name": "f", "schema": long}}
    turn = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {}}]}
    turn["tool_calls"][0]["function"] = {"name": "f", "arguments": "cities " * 200}
    answer = {"role": "tool", "tool_call_id": "c", "content": "Rome"}
    for fields in (
        {"tools": [{"type": "function", "function": function}]},
        {"response_format": schema},
        {"messages": [*HELLO, turn, answer]},
    ):
        row = left(account, 2, model="standin", **fields)
        assert bare + 1400 / 8 <= row["input_units"] <= bare + 1400 / 4
        assert row["cost"] <= row["hold_amount"]


def test_output_beyond_the_limit_is_not_charged(account: Account, upstream: Upstream) -> None:
    """Output beyond the limit, from an upstream that ignores it, is at the operator's expense."""
    upstream.behave = manners.first(3, {"content": WORDS}, {"content": WORDS})
    answer = start(account, model="standin", max_completion_tokens=20)
    seen = b""
    for data in answer.iter_content(None):
        seen += data
        if seen.count(b"\n\n") == 3:
            break
    answer.close()
    account.settled(within_s=5)
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["output_units"], row["estimated"]) == (20, 1)
    assert 0 < row["cost"] <= row["hold_amount"]


def test_after_a_usage_in_the_middle_the_rest_is_counted(account: Account, upstream: Upstream) -> None:
    """Use the last usage, if it is not the first event's: Anthropic's reports the prompt and one token of output."""
    last = {"last": 0}

    async def behave(exchange: Any) -> None:
        exchange.begin()
        for number, text in enumerate(["a", "so " * 100, "on " * 100]):
            usage = {"prompt_tokens": 30, "completion_tokens": [1, 99, 180][number], "total_tokens": 0}
            shown = usage if number <= last["last"] else None
            exchange.event({**manners.chunk({"content": text}), "usage": shown})
        await exchange.hang()

    upstream.behave = behave
    row = left(account, 3, model="standin")
    assert (row["input_units"], row["output_units"], row["estimated"]) == (30, 120, 1)
    last["last"] = 2
    row = left(account, 3, model="standin")
    assert (row["input_units"], row["output_units"], row["estimated"]) == (30, 180, 0)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses"])
def test_a_disconnect_is_charged_alike_in_all_dialects(account: Account, upstream: Upstream, path: str) -> None:
    async def text(exchange: Any) -> None:
        exchange.begin()
        for word in ("so " * 100, "on " * 100):
            choice = {"text": word, "index": 0, "logprobs": None, "finish_reason": None}
            exchange.event({**manners.head("text_completion"), "choices": [choice]})
        await exchange.hang()

    body: dict[str, Any] = {"model": "standin", "stream": True}
    if path == "/v1/completions":
        upstream.behave = text
        body |= {"prompt": HELLO[0]["content"], "max_tokens": 1000}
    else:
        upstream.behave = manners.first(3, {"content": "so " * 100}, {"content": "on " * 100})
        body |= {"input": HELLO[0]["content"], "max_output_tokens": 1000}
    answer = requests.post(account.server.url + path, json=body, headers=account.headers, timeout=60, stream=True)
    seen = b""
    for data in answer.iter_content(None):
        seen += data
        if b"on on " in seen:
            break
    answer.close()
    account.settled(within_s=5)
    check_near(account.server.generation(answer.headers["x-generation-id"]), ["so " * 100, "on " * 100])


# ── usages that cannot be ─────────────────────────────────────────────────────────────────────────────────


def charged(account: Account, answer: requests.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    left = account.settled()
    row = account.server.generation(answer.headers["x-generation-id"])
    assert CREDIT - left == row["cost"] <= row["hold_amount"]
    return row


def told(answer: requests.Response) -> dict[str, Any]:
    """Return the usage sent to the caller."""
    if answer.headers["content-type"] == "application/json":
        return answer.json()["usage"]  # type: ignore[no-any-return]
    found = events(answer.text)
    assert found[-1] == "[DONE]"
    return found[-2]["usage"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("model", ["standin", "whole"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("reported", "asked", "written"),
    [
        (ZERO, 10, 240),
        ({**ZERO, "prompt_tokens": 9}, 9, 240),
        ({**ZERO, "completion_tokens": 77}, 10, 77),
        ({"prompt_tokens": "0", "completion_tokens": 0}, 10, 240),
    ],
)
def test_a_usage_of_zero_beside_text_is_replaced_by_our_own_count(
    account: Account, upstream: Upstream, reported: Any, asked: int, written: int, stream: bool, model: str
) -> None:
    said = [{"reasoning": "so " * 200}, {"content": "on " * 200}]
    upstream.behave = manners.counting(reported, *said)
    answer = post(account, model=model, stream=stream)
    row = charged(account, answer)
    assert (row["state"], row["input_units"], row["output_units"]) == ("succeeded", asked, written)
    assert row["estimated"] == 1
    usage = told(answer)
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (asked, written)
    assert usage["total_tokens"] == asked + written


@pytest.mark.parametrize("model", ["standin", "whole"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_usage_of_zero_beside_nothing_is_nothing(
    account: Account, upstream: Upstream, stream: bool, model: str
) -> None:
    upstream.behave = manners.counting(ZERO, {"content": ""})
    row = charged(account, post(account, model=model, stream=stream))
    assert (row["state"], row["cost"], row["estimated"]) == ("succeeded", 0, 0)


@pytest.mark.parametrize("model", ["standin", "whole"])
def test_a_good_usage_before_one_of_zeros_stays_good(account: Account, upstream: Upstream, model: str) -> None:
    good = {**manners.usage(44), "prompt_tokens_details": {"cached_tokens": 3}}
    upstream.behave = manners.counting(ZERO, {"content": "so " * 200}, before=good)
    answer = post(account, model=model)
    row = charged(account, answer)
    assert (row["input_units"], row["output_units"], row["estimated"]) == (manners.PROMPT_TOKENS, 44, 0)
    assert told(answer)["prompt_tokens_details"]["cached_tokens"] == 3


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("model", ["standin", "whole"])
def test_a_complete_response_is_charged_exactly_as_reported(
    account: Account, upstream: Upstream, name: str, model: str
) -> None:
    tokens = 3 + sum(len(text) for _, text in STREAMS[name]) // 4
    upstream.behave = manners.counting(manners.usage(tokens), *[delta for delta, _ in STREAMS[name]])
    row = charged(account, post(account, model=model, max_completion_tokens=4000))
    assert (row["estimated"], row["cost"]) == (0, manners.PROMPT_TOKENS * PRICE_IN + tokens * PRICE_OUT)


@pytest.mark.parametrize("stream", [True, False])
def test_a_reported_zero_is_replaced_in_all_dialects(account: Account, upstream: Upstream, stream: bool) -> None:
    upstream.behave = manners.text(["so " * 100], told=ZERO)
    body: dict[str, Any] = {"model": "standin", "prompt": "moon " * 20, "max_tokens": 200, "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
    answer = requests.post(account.server.url + "/v1/completions", json=body, headers=account.headers, timeout=60)
    row = charged(account, answer)
    assert (row["input_units"], row["output_units"], row["estimated"]) == (20, 60, 1)
    assert (told(answer)["prompt_tokens"], told(answer)["completion_tokens"]) == (20, 60)
    other = account.server.account()
    upstream.behave = manners.counting(ZERO, {"content": "so " * 100})
    body = {"model": "standin", "input": "moon " * 20, "max_output_tokens": 200, "stream": stream}
    answer = requests.post(other.server.url + "/v1/responses", json=body, headers=other.headers, timeout=60)
    row = charged(other, answer)
    assert (row["input_units"], row["output_units"], row["estimated"]) == (24, 60, 1)
    response = answer.json() if not stream else json.loads(answer.text.strip().rpartition("data: ")[2])["response"]
    assert (response["usage"]["input_tokens"], response["usage"]["output_tokens"]) == (24, 60)


def test_tokens_that_were_sent_as_numbers_are_counted_one_by_one(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.text(["so "], told=ZERO)
    body = {"model": "standin", "prompt": [list(range(100)), "moon " * 20], "max_tokens": 5}
    row = charged(
        account,
        requests.post(account.server.url + "/v1/completions", json=body, headers=account.headers, timeout=60),
    )
    assert (row["input_units"], row["output_units"]) == (120, 1)


def test_thoughts_are_tokens_for_the_first_token_time_out(account: Account, upstream: Upstream) -> None:
    """The stand-in's timeout is one second without a token."""

    async def behave(exchange: Any) -> None:
        exchange.begin()
        exchange.event(manners.chunk({"role": "assistant", "content": ""}))
        for _ in range(9):
            exchange.event(manners.chunk({"reasoning": "hm "}))
            await asyncio.sleep(0.2)
        exchange.event(manners.chunk({"content": "So."}, finish="stop"))
        exchange.event({**manners.head("chat.completion.chunk"), "choices": [], "usage": manners.usage(10)})
        exchange.event("[DONE]")
        exchange.end()

    upstream.behave = behave
    found = events(post(account, OPENAI, model="standin", stream=True).text)
    assert (said(found), found[-1]) == ("So.", "[DONE]")
    assert CREDIT - account.settled() == manners.PROMPT_TOKENS * PRICE_IN + 10 * PRICE_OUT
