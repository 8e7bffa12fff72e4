"""Tests of `/v1/messages` on a real server, over engines of every kind. Anthropic's package validates what leaves."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from PIL import Image

from tests.support import catalogs, claude, manners
from tests.support.claude import INPUT, READ, SIGNATURE, WRITTEN, check_error, check_message, outcome, read_stream
from tests.support.server import Account, ServerProcess
from tests.support.upstream import Exchange, Upstream

PATH = "/v1/messages"
CREDIT = 5_000_000_000
#: Prices of every model here, in nano-dollars per token.
PRICE_IN, PRICE_OUT = 150, 600
HELLO = [{"role": "user", "content": "Which planet has the most moons?"}]
#: As many bytes as the ten thousand tokens that the stand-in reports for a cached prompt.
LONG = [{"role": "user", "content": "word " * 2000}]
TOOL = {"name": "read", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}}
TEXT = {"type": "text", "text": "".join(claude.WORDS)}
THOUGHT = {"type": "thinking", "thinking": "Which one?", "signature": SIGNATURE}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {"path": "a"}}
CACHED = claude.usage(40, read=READ, written=WRITTEN)

Json = dict[str, Any]


@pytest.fixture(scope="module")
def native() -> Iterator[Upstream]:
    with Upstream(claude.answer()) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def other() -> Iterator[Upstream]:
    with Upstream(manners.answer()) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def serving(native: Upstream, other: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    model = '\n[chat.{}]\ninput = "0.15"\noutput = "0.60"\ncontext = 128_000\nmax_output = 4096\nengines = {}\n{}\n'
    catalog = (
        catalogs.FAKE
        + catalogs.claude("claude", native.base_url)
        + catalogs.upstream("standin", other.base_url, "retries = 0\nfetches_images = true")
        + catalogs.claude("budgets", native.base_url, 'thinking = "budget"\nstructured_outputs = false')
        + model.format("both", '["claude", "standin"]', "image_tokens = { low = 85, high = 1_445 }")
        + model.format("either", '["standin", "claude"]', "")
        + model.format("thinker", '["standin"]', "reasoning_effort = true")
        + model.format("small", '["claude"]', "").replace("4096", "2000")
    )
    with ServerProcess(tmp_path_factory.mktemp("messages"), catalog=catalog) as server:
        yield server


@pytest.fixture
def account(serving: ServerProcess, native: Upstream, other: Upstream) -> Iterator[Account]:
    native.behave, other.behave = claude.answer(), manners.answer()
    native.seen.clear()
    other.seen.clear()
    yield serving.account()
    serving.check_settled()


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (31, 17)).save(file, "png")
    return file.getvalue()


def ask(account: Account, path: str = PATH, headers: dict[str, str] | None = None, **fields: Any) -> requests.Response:
    body = {"model": "claude", "max_tokens": 100, "messages": HELLO, **fields}
    body = {name: value for name, value in body.items() if value is not None}
    sent = {"x-api-key": account.key, "anthropic-version": "2023-06-01"} if headers is None else headers
    return requests.post(account.server.url + path, json=body, headers=sent, timeout=60)


def whole(account: Account, **fields: Any) -> Any:
    answer = ask(account, **fields)
    assert answer.status_code == 200, answer.text
    return check_message(answer.json())


def streamed(account: Account, **fields: Any) -> list[Any]:
    answer = ask(account, stream=True, **fields)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    return read_stream(answer.text)


def refused(answer: requests.Response, status: int, kind: str) -> str:
    assert answer.status_code == status, answer.text
    found, message = check_error(answer.json())
    assert found == kind
    assert answer.headers["x-request-id"]
    return message


# ── every kind of engine ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("model", "tokens_in", "tokens_out"), [("quick", 6, 16), ("standin", 7, 5), ("claude", 16, 5)])
def test_a_message_is_charged_once_whole_and_streamed(
    account: Account, model: str, tokens_in: int, tokens_out: int
) -> None:
    message = whole(account, model=model)
    assert (message.stop_reason, message.role) == ("end_turn", "assistant")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (tokens_in, tokens_out)
    found = streamed(account, model=model)
    (block,) = outcome(found)
    assert block["text"] == message.content[0].text
    usage = found[-2].usage
    assert usage.output_tokens == tokens_out
    cost = tokens_in * PRICE_IN + tokens_out * PRICE_OUT
    assert account.settled() == CREDIT - 2 * cost


def test_cached_tokens_are_told_apart_and_stored(account: Account, native: Upstream) -> None:
    native.behave = claude.answer(told=CACHED)
    usage = whole(account, messages=LONG).usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (
        INPUT,
        READ,
        WRITTEN,
    )
    usage = streamed(account, messages=LONG)[0].message.usage
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (READ, WRITTEN)
    question = "SELECT input_units, cached_units, output_units FROM generations WHERE account_id = ?"
    account.settled()
    rows = account.server.read(lambda c: c.execute(question, (account.id,)))
    assert rows == [(10_000, READ, 40)] * 2


def test_the_native_engine_gets_the_request_as_it_is(account: Account, native: Upstream) -> None:
    native.behave = claude.answer(THOUGHT, CALL, reason="tool_use")
    messages: list[Json] = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        },
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "broken"}, TEXT]},
        {"role": "user", "content": [{"type": "novelty", "x": 1}]},
    ]
    fields: Json = {
        "messages": messages,
        "system": [{"type": "text", "text": "S"}],
        "tools": [TOOL],
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "xhigh"},
        "metadata": {"user_id": "u" * 100},
        "top_k": 4,
    }
    headers = {"authorization": f"Bearer {account.key}", "anthropic-version": "2023-01-01", "anthropic-beta": "x-1,y-2"}
    answer = ask(account, path=f"{PATH}?beta=true", headers=headers, invented=1, stream=True, **fields)
    assert outcome(read_stream(answer.text)) == [THOUGHT, CALL]
    sent = native.last
    assert sent.body == {**fields, "model": "claude", "max_tokens": 100, "stream": True}
    assert (sent.headers["anthropic-version"], sent.headers["anthropic-beta"]) == ("2023-01-01", "x-1,y-2")
    assert account.key not in str(sent.headers)
    assert answer.headers["x-dropped-fields"] == "invented"


def test_another_engine_gets_a_chat(account: Account, other: Upstream) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "read", "arguments": '{"path":"a"}'}}
    other.behave = manners.deltas(
        {"reasoning_content": "hm"}, {"content": "I read."}, {"tool_calls": [call]}, finish="tool_calls"
    )
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "ok"}]}
    answer = ask(
        account,
        model="standin",
        system="S",
        messages=[*HELLO, {"role": "assistant", "content": [THOUGHT, CALL]}, {"role": "user", "content": [result]}],
        tools=[TOOL],
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        thinking={"type": "adaptive"},
        context_management={"edits": []},
        top_k=4,
        stream=True,
    )
    assert [block["type"] for block in outcome(read_stream(answer.text))] == ["thinking", "text", "tool_use"]
    assert answer.headers["x-dropped-fields"] == "context_management, thinking, top_k"
    body = other.last.body
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "tool"]
    assert (body["tools"][0]["function"]["name"], body["parallel_tool_calls"]) == ("read", False)
    assert "thinking" not in json.dumps(body)


def test_thinking_becomes_the_effort_of_a_model_that_has_one(account: Account, other: Upstream) -> None:
    answer = ask(account, model="thinker", thinking={"type": "enabled", "budget_tokens": 20_000})
    assert other.last.body["reasoning_effort"] == "high"
    assert "x-dropped-fields" not in answer.headers


@pytest.mark.parametrize(("model", "expected"), [("claude", 4096), ("standin", 4096), ("small", 2000), ("quick", 4096)])
def test_the_limit_is_lowered_and_told(account: Account, model: str, expected: int) -> None:
    answer = ask(account, model=model, max_tokens=32_000)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-max-completion-tokens"] == str(expected)
    assert "x-max-completion-tokens" not in ask(account, model=model, max_tokens=50).headers


def test_images(account: Account, native: Upstream, other: Upstream) -> None:
    data = base64.b64encode(png()).decode()
    source = {"type": "base64", "media_type": "image/jpeg", "data": data}
    far = {"type": "image", "source": {"type": "url", "url": "https://93.184.216.34/a.png"}}
    content = [{"type": "image", "source": source}, far, {"type": "text", "text": "What?"}]
    for model in ("claude", "standin"):
        whole(account, model=model, messages=[{"role": "user", "content": content}])
    # The native engine receives the request unchanged; for the other engine the type is corrected.
    assert native.last.body["messages"][0]["content"] == content
    urls = [part["image_url"]["url"] for part in other.last.body["messages"][0]["content"][:2]]
    assert urls == [f"data:image/png;base64,{data}", "https://93.184.216.34/a.png"]
    broken = {"type": "image", "source": {**source, "data": "AAAA"}}
    for model in ("claude", "standin"):
        message = refused(
            ask(account, model=model, messages=[{"role": "user", "content": [broken]}], system="S"),
            400,
            "invalid_request_error",
        )
        assert message.startswith("messages[0].content[0].source")


def test_large_and_oversized_images(account: Account, native: Upstream) -> None:
    pixels = png() + b"\0" * (6 * 1024 * 1024)
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(pixels).decode()}
    content = [{"type": "image", "source": source}]
    whole(account, messages=[{"role": "user", "content": content}])
    assert native.last.body["messages"][0]["content"] == content
    text = "x" * (5 * 1024 * 1024)
    refused(ask(account, messages=[{"role": "user", "content": text}]), 413, "request_too_large")


def test_a_pdf_is_for_engines_of_this_format(account: Account, native: Upstream) -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(b"%PDF-1.7 " * 99).decode()}
    messages = [{"role": "user", "content": [{"type": "document", "source": source}]}]
    whole(account, messages=messages)
    assert native.last.body["messages"] == messages
    message = refused(ask(account, model="standin", messages=messages), 400, "invalid_request_error")
    assert "messages[0].content[0].source" in message
    # Of two engines, the one that can is used.
    whole(account, model="either", messages=messages)


def test_a_private_address_is_not_passed_on(account: Account, native: Upstream) -> None:
    for kind in ("document", "image"):
        block = {"type": kind, "source": {"type": "url", "url": "https://127.0.0.1/a"}}
        refused(ask(account, messages=[{"role": "user", "content": [block]}]), 400, "invalid_request_error")
    assert native.seen == []


# ── failures ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("status", "kind", "text", "expected", "told"),
    [
        (
            400,
            "invalid_request_error",
            "messages.1.content.0: Invalid `signature` in `thinking` block",
            400,
            "signature",
        ),
        (
            400,
            "invalid_request_error",
            "Unexpected value(s) `x-1` for the `anthropic-beta` header",
            400,
            "anthropic-beta",
        ),
        (
            400,
            "invalid_request_error",
            "prompt is too long: 210000 tokens > 200000 maximum",
            400,
            "prompt is too long: ",
        ),
        (401, "authentication_error", "invalid x-api-key", 500, ""),
        (403, "permission_error", "org-ACME may not", 500, ""),
        (413, "request_too_large", "Request exceeds the maximum size", 400, ""),
        (429, "rate_limit_error", "your organization org-ACME", 429, "rate limit"),
        (500, "api_error", "Internal server error", 500, ""),
        (529, "overloaded_error", "Overloaded", 529, "overloaded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_the_native_engine(
    account: Account, native: Upstream, status: int, kind: str, text: str, expected: int, told: str, stream: bool
) -> None:
    kinds = {400: "invalid_request_error", 429: "rate_limit_error", 500: "api_error", 529: "overloaded_error"}
    native.behave = claude.refuse(status, kind, text)
    message = refused(ask(account, stream=stream), expected, kinds[expected])
    assert told in message
    assert "ACME" not in message
    assert account.settled() == CREDIT


@pytest.mark.parametrize("model", ["both", "either"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_next_engine_takes_over_whatever_its_kind(
    account: Account, native: Upstream, other: Upstream, model: str, stream: bool
) -> None:
    first = native if model == "both" else other
    first.behave = claude.refuse(529, "overloaded_error") if first is native else manners.refuse(503)
    answer = ask(account, model=model, stream=stream)
    assert answer.status_code == 200, answer.text
    content = outcome(read_stream(answer.text)) if stream else answer.json()["content"]
    assert content[0]["text"] == TEXT["text"]
    assert (len(native.seen), len(other.seen)) == (1, 1)


@pytest.mark.parametrize("model", ["both", "either"])
def test_an_engine_that_fails_before_its_first_block_is_replaced_within_the_stream(
    account: Account, native: Upstream, other: Upstream, model: str
) -> None:
    begin = claude.events([TEXT])[:1]
    fault = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    native.behave = claude.send([*begin, fault]) if model == "both" else claude.answer()
    other.behave = manners.answer() if model == "both" else manners.break_off("error", ())
    assert outcome(streamed(account, model=model))[0]["text"] == TEXT["text"]


def test_an_error_after_the_first_word_ends_the_stream_with_an_event(account: Account, native: Upstream) -> None:
    fault = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    native.behave = claude.send([*claude.events([TEXT])[:6], fault])
    found = streamed(account)
    assert check_error(found[-1]) == ("overloaded_error", "the engine is overloaded; retry in a moment")
    assert 0 < CREDIT - account.settled() < 20 * PRICE_IN + 20 * PRICE_OUT


def test_a_stream_that_is_cut_off(account: Account, native: Upstream, other: Upstream) -> None:
    native.behave = claude.send(claude.events([TEXT])[:6], end="close")
    assert streamed(account)[-1]["error"]["type"] == "api_error"
    other.behave = manners.break_off("close")
    assert streamed(account, model="standin")[-1]["error"]["type"] == "api_error"


def test_a_client_that_leaves_pays_for_what_it_received(account: Account, native: Upstream) -> None:
    native.behave = claude.send(claude.events([{"type": "text", "text": "word " * 200}])[:150], end="hang")
    body = {"model": "claude", "max_tokens": 1000, "messages": HELLO, "stream": True}
    url = account.server.url + PATH
    with requests.post(url, json=body, headers=account.headers, stream=True, timeout=30) as answer:
        for number, _ in enumerate(answer.iter_lines()):
            if number > 200:
                break
    assert 0 < CREDIT - account.settled() < 16 * PRICE_IN + 220 * PRICE_OUT


# ── errors of this server ─────────────────────────────────────────────────────────────────────────────────


def test_errors_before_the_dialect_have_its_shape(account: Account) -> None:
    answer = ask(account, headers={})
    refused(answer, 401, "authentication_error")
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    refused(ask(account, headers={"x-api-key": "sk-mt-nonsense"}), 401, "authentication_error")
    refused(ask(account, model="nowhere"), 404, "not_found_error")
    refused(ask(account, max_tokens=None), 400, "invalid_request_error")
    url = account.server.url
    refused(
        requests.post(url + PATH, data=b"{", headers=JSON | account.headers, timeout=9), 400, "invalid_request_error"
    )
    refused(requests.post(url + PATH, data=b"{}", headers=account.headers, timeout=9), 415, "invalid_request_error")
    refused(requests.get(url + PATH, headers=account.headers, timeout=9), 405, "invalid_request_error")
    answer = requests.post(url + PATH + "/batches", json={}, headers=account.headers, timeout=9)
    assert (answer.status_code, check_error(answer.json())[0]) == (404, "not_found_error")


JSON = {"content-type": "application/json"}


def test_an_account_without_money(serving: ServerProcess) -> None:
    assert "max_tokens" in refused(ask(serving.account(credit=None)), 402, "billing_error")


def test_server_tools_are_refused_by_name(account: Account, native: Upstream) -> None:
    tool = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
    message = refused(ask(account, tools=[tool]), 400, "invalid_request_error")
    assert "web_search_20250305" in message
    assert "of your own" in message
    assert native.seen == []


def test_a_prompt_that_is_too_long_says_so_as_anthropic_does(account: Account) -> None:
    message = refused(
        ask(account, model="quick", messages=[{"role": "user", "content": "word " * 9000}]),
        400,
        "invalid_request_error",
    )
    assert message.startswith("prompt is too long: ")


def test_the_limit_and_the_key_are_checked_like_in_any_other_form(account: Account, serving: ServerProcess) -> None:
    headers = {"x-api-key": account.key, "idempotency-key": "once"}
    first = ask(account, headers=headers, stream=True)
    again = ask(account, headers=headers, stream=True)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.text == first.text
    refused(ask(account, headers=headers, max_tokens=7), 422, "invalid_request_error")
    assert account.settled() == CREDIT - 16 * PRICE_IN - 5 * PRICE_OUT


# ── counting and listing ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("model", "tokens"), [("claude", INPUT), ("quick", 6), ("standin", 10)])
def test_tokens_are_counted_for_free(account: Account, native: Upstream, model: str, tokens: int) -> None:
    answer = ask(account, path=f"{PATH}/count_tokens", model=model, max_tokens=None)
    assert claude.check_count(answer.json()) == tokens
    assert account.settled() == CREDIT
    if model == "claude":
        assert native.last.path == "/v1/messages/count_tokens"
        assert native.last.body == {"model": "claude", "messages": HELLO}


def test_counts_that_fail(account: Account, native: Upstream) -> None:
    path = f"{PATH}/count_tokens"
    native.behave = claude.refuse(529, "overloaded_error")
    refused(ask(account, path=path), 529, "overloaded_error")
    native.behave = manners.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    refused(ask(account, path=path), 500, "api_error")
    refused(ask(account, path=path, model="nowhere"), 404, "not_found_error")
    refused(ask(account, path=path, headers={}), 401, "authentication_error")
    refused(requests.get(account.server.url + path, headers=account.headers, timeout=9), 405, "invalid_request_error")


def test_head_of_the_front_page(account: Account) -> None:
    assert requests.head(account.server.url + "/", timeout=9).status_code == 200


# ── OpenAI's forms on the native engine ───────────────────────────────────────────────────────────────────


def post(account: Account, path: str, **fields: Any) -> requests.Response:
    return requests.post(
        account.server.url + path, json={"model": "claude", **fields}, headers=account.headers, timeout=60
    )


def test_chats_responses_and_completions_are_translated(account: Account, native: Upstream) -> None:
    chat = post(account, "/v1/chat/completions", messages=HELLO)
    assert chat.json()["choices"][0]["message"]["content"] == TEXT["text"]
    assert chat.json()["usage"]["prompt_tokens"] == INPUT
    assert native.last.body["max_tokens"] == 4096
    assert "x-api-key" not in native.last.headers
    assert native.last.headers["anthropic-version"] == "2023-06-01"
    response = post(account, "/v1/responses", input="Hello", max_output_tokens=50)
    assert response.json()["output"][0]["content"][0]["text"] == TEXT["text"]
    text = post(account, "/v1/completions", prompt="Hello")
    assert text.json()["choices"][0]["text"] == TEXT["text"]
    stream = post(account, "/v1/chat/completions", messages=HELLO, stream=True)
    assert stream.text.endswith("data: [DONE]\n\n")
    assert account.settled() == CREDIT - 4 * (INPUT * PRICE_IN + 5 * PRICE_OUT)


def test_tools_schemas_and_reasoning_of_a_chat(account: Account, native: Upstream) -> None:
    native.behave = claude.answer(THOUGHT, CALL, reason="tool_use", told=CACHED)
    tools = [{"type": "function", "function": {"name": "read", "parameters": TOOL["input_schema"]}}]
    answer = post(account, "/v1/chat/completions", messages=LONG, tools=tools, reasoning_effort="low").json()
    message = answer["choices"][0]["message"]
    assert (message["reasoning_content"], answer["choices"][0]["finish_reason"]) == ("Which one?", "tool_calls")
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"path": "a"}
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == READ
    assert native.last.body["thinking"] == {"type": "adaptive"}
    turn = [*HELLO, message, {"role": "tool", "tool_call_id": "toolu_1", "content": "ok"}]
    native.behave = claude.answer()
    assert post(account, "/v1/chat/completions", messages=turn, tools=tools, reasoning_effort="low").status_code == 200
    assert native.last.body["messages"][1]["content"] == [THOUGHT, CALL]
    native.behave = claude.answer(
        {"type": "tool_use", "id": "t", "name": "respond", "input": {"a": 1}}, reason="tool_use"
    )
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    for stream in (False, True):
        answer_text = post(
            account, "/v1/chat/completions", model="budgets", messages=HELLO, response_format=form, stream=stream
        ).text
        assert '"content":"{' in answer_text.replace(" ", "")
        assert '"finish_reason":"stop"' in answer_text


def test_what_the_native_engine_cannot_do_is_refused_in_openais_form(account: Account) -> None:
    answer = post(account, "/v1/chat/completions", messages=HELLO, n=2)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")


async def refuse_twice(exchange: Exchange) -> None:
    """Be overloaded for the first two requests."""
    behave = claude.refuse(529, "overloaded_error") if COUNT else claude.answer()
    if COUNT:
        COUNT.pop()
    await behave(exchange)


COUNT: list[int] = []


def test_an_overloaded_engine_is_tried_again(serving: ServerProcess, tmp_path: Any, native: Upstream) -> None:
    catalog = catalogs.claude("again", native.base_url).replace("retries = 0", "retries = 2")
    with ServerProcess(tmp_path, catalog=catalog) as server:
        COUNT[:] = [1, 2]
        native.behave = refuse_twice
        native.seen.clear()
        assert outcome(streamed(server.account(), model="again"))[0]["text"] == TEXT["text"]
        assert len(native.seen) == 3


def test_an_agents_first_prompt_is_told_what_it_needs_without_an_upstream(llama_server: ServerProcess) -> None:
    tools = [{**TOOL, "name": f"tool_{number}", "description": "word " * 200} for number in range(24)]
    fields: Json = {"model": "gpt-4o-mini", "max_tokens": 32_000, "system": "word " * 10_000}
    for more in ({"tools": tools}, {}):
        message = refused(ask(llama_server.account(), **fields, **more), 400, "invalid_request_error")
        # Claude Code would replace a message with these words by its own, and there is nothing to summarize.
        assert ("prompt is too long" in message) is not bool(more)
        assert "20,000 tokens" in message
        assert "choose a model with a larger context" in message


def test_a_conversation_that_exceeds_an_embedded_model_is_summarized(llama_server: ServerProcess) -> None:
    said = [("user", "word " * 5_000), ("assistant", "Yes."), ("user", "More.")]
    messages = [{"role": role, "content": content} for role, content in said]
    answer = ask(llama_server.account(), model="gpt-4o-mini", max_tokens=100, messages=messages)
    assert refused(answer, 400, "invalid_request_error").startswith("prompt is too long: ")
