"""Tests of translating chats into requests of Anthropic's API, and of what is changed in those of its format."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minitoolai.chat.dialects.completions import parse_text
from minitoolai.chat.dialects.messages_request import parse_messages
from minitoolai.chat.request import parse_chat
from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.chat.anthropic.request import messages_body, native_body, unsupported_field, uses_schema_tool

Json = dict[str, Any]
ENTRY = EngineEntry("anthropic", base_url="https://example.com/v1", names={"m": "claude-m"})
BUDGET = EngineEntry("anthropic", base_url="https://example.com/v1", thinking="budget", structured_outputs=False)
FUNCTION = {"name": "read", "description": "Read", "parameters": {"type": "object", "properties": {}}, "strict": True}
TOOLS = [{"type": "function", "function": FUNCTION}]
SCHEMA = {"type": "object", "properties": {"planet": {"type": "string"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "moons", "schema": SCHEMA}}
HELLO = [{"role": "user", "content": "Hello"}]


def chat(messages: list[Json] | None = None, **fields: Any) -> ChatRequest:
    return parse_chat(json.dumps({"model": "m", "messages": messages or HELLO, **fields}).encode(), "openai")


def body_of(
    messages: list[Json] | None = None, *, entry: EngineEntry = ENTRY, limit: int = 4096, **fields: Any
) -> Json:
    request = chat(messages, **fields)
    assert unsupported_field(request, entry) is None
    return messages_body(request, limit, entry)


def test_a_plain_chat() -> None:
    body = body_of(temperature=0.5, top_p=0.9, stop="END", user="u", stream=True)
    assert body == {
        "model": "claude-m",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        "stream": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u"},
    }


def test_a_conversation_with_tools_and_images() -> None:
    calls = [{"id": name, "type": "function", "function": {"name": "read", "arguments": '{"p":1}'}} for name in "ab"]
    details = [
        {"type": "reasoning.text", "text": "h", "index": 0},
        {"type": "reasoning.text", "text": "m", "index": 0},
        {"type": "reasoning.text", "signature": "sig", "index": 0},
        {"type": "reasoning.encrypted", "data": "zz"},
    ]
    image = {"type": "image_url", "image_url": {"url": "data:image/jpg;base64,QUJD"}}
    far = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    body = body_of(
        [
            {"role": "system", "content": "One."},
            {
                "role": "developer",
                "content": [{"type": "text", "text": "Two.", "cache_control": {"type": "ephemeral"}}],
            },
            {"role": "user", "content": [{"type": "text", "text": "What?"}, image, far]},
            {"role": "assistant", "content": "I read.", "tool_calls": calls, "reasoning_details": details},
            {"role": "tool", "tool_call_id": "a", "content": "1"},
            {"role": "tool", "tool_call_id": "b", "content": ""},
            {"role": "user", "content": "Go on."},
        ],
        tools=TOOLS,
    )
    assert body["system"] == [
        {"type": "text", "text": "One."},
        {"type": "text", "text": "Two.", "cache_control": {"type": "ephemeral"}},
    ]
    first, second, third = body["messages"]
    assert [block["type"] for block in first["content"]] == ["text", "image", "image"]
    assert first["content"][1]["source"] == {"type": "base64", "media_type": "image/jpeg", "data": "QUJD"}
    assert first["content"][2]["source"] == {"type": "url", "url": "https://example.com/a.png"}
    assert second["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "zz"},
        {"type": "text", "text": "I read."},
        {"type": "tool_use", "id": "a", "name": "read", "input": {"p": 1}},
        {"type": "tool_use", "id": "b", "name": "read", "input": {"p": 1}},
    ]
    assert third["content"] == [
        {"type": "tool_result", "tool_use_id": "a", "content": "1"},
        {"type": "tool_result", "tool_use_id": "b"},
        {"type": "text", "text": "Go on."},
    ]
    tool = {"name": "read", "description": "Read", "strict": True, "input_schema": FUNCTION["parameters"]}
    assert body["tools"] == [tool]


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        ("auto", None, None),
        ("required", None, {"type": "any"}),
        ("none", False, {"type": "none"}),
        ("auto", False, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"type": "function", "function": {"name": "read"}}, None, {"type": "tool", "name": "read"}),
    ],
)
def test_the_choice_of_a_tool(choice: Any, parallel: bool | None, expected: Any) -> None:
    fields: Json = {} if parallel is None else {"parallel_tool_calls": parallel}
    assert body_of(tools=TOOLS, tool_choice=choice, **fields).get("tool_choice") == expected


def test_a_schema_and_the_tool_that_stands_for_it() -> None:
    assert body_of(response_format=FORMAT)["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
    body = body_of(entry=BUDGET, response_format=FORMAT)
    assert (body["tools"][0]["input_schema"], body["tool_choice"]) == (SCHEMA, {"type": "tool", "name": "respond"})
    assert body_of(entry=BUDGET, response_format=FORMAT, tools=TOOLS)["tool_choice"] == {"type": "any"}
    assert uses_schema_tool(chat(response_format=FORMAT), BUDGET)
    assert not uses_schema_tool(chat(response_format=FORMAT), ENTRY)


def test_reasoning() -> None:
    body = body_of(reasoning_effort="minimal", response_format=FORMAT)
    assert body["thinking"] == {"type": "adaptive"}
    assert body["output_config"]["effort"] == "low"
    body = body_of(entry=BUDGET, reasoning_effort="medium", temperature=0.2)
    assert (body["thinking"], "temperature" in body) == ({"type": "enabled", "budget_tokens": 2048}, False)
    assert "thinking" not in body_of(entry=BUDGET, reasoning_effort="low", limit=100)
    assert "thinking" not in body_of(reasoning_effort="none")
    assert "thinking" not in body_of(reasoning_effort="high", tools=TOOLS, tool_choice="required")


def test_no_thinking_if_that_before_the_last_call_is_lost() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "read", "arguments": "{}"}}
    turn: list[Json] = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
    ]
    assert "thinking" not in body_of(turn, tools=TOOLS, reasoning_effort="high")
    details = [{"type": "reasoning.text", "text": "h", "signature": "s"}]
    turn[1] = {**turn[1], "reasoning_details": details}
    assert "thinking" in body_of(turn, tools=TOOLS, reasoning_effort="high")
    assert "thinking" in body_of([*HELLO, {"role": "assistant", "content": "Hi"}, *HELLO], reasoning_effort="high")


def test_odd_conversations() -> None:
    assert body_of([{"role": "system", "content": "Only this."}])["messages"][0]["content"][0]["text"] == "Only this."
    body = body_of([*HELLO, {"role": "user", "content": "Again"}, {"role": "assistant", "content": "The answer is "}])
    assert [len(message["content"]) for message in body["messages"]] == [2, 1]
    assert body["messages"][1]["content"][0]["text"] == "The answer is"
    call = {"id": "a", "type": "function", "function": {"name": "read", "arguments": "not json"}}
    body = body_of([*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}])
    assert body["messages"][1]["content"][0]["input"] == {"arguments": "not json"}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"n": 2}, "n"),
        ({"seed": 1}, "seed"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"temperature": 1.5}, "temperature"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools"),
        ({"verbosity": "low"}, "verbosity"),
        ({"n": 1, "logprobs": False, "presence_penalty": 0, "temperature": 1}, None),
    ],
)
def test_fields_that_cannot_be_honoured(fields: Json, field: str | None) -> None:
    assert unsupported_field(chat(**fields), ENTRY) == field


def test_reasoning_can_be_switched_off_in_the_catalog() -> None:
    entry = EngineEntry("anthropic", base_url="https://example.com/v1", thinking="none")
    assert unsupported_field(chat(reasoning_effort="low"), entry) == "reasoning_effort"
    assert unsupported_field(chat(reasoning_effort="none"), entry) is None


def test_text_completions() -> None:
    request = parse_text(b'{"model":"m","prompt":["Say hi"]}')
    assert unsupported_field(request, ENTRY) is None
    assert messages_body(request, 16, ENTRY)["messages"] == [{"role": "user", "content": "Say hi"}]
    for prompt in ([1, 2], ["a", "b"]):
        request = parse_text(json.dumps({"model": "m", "prompt": prompt}).encode())
        assert unsupported_field(request, ENTRY) == "prompt"


# ── requests that were sent in this format ────────────────────────────────────────────────────────────────


def native(limit: int = 100, **fields: Any) -> Json:
    body = {"model": "m", "max_tokens": 100, "messages": HELLO, **fields}
    request = parse_messages(json.dumps(body).encode(), {})
    assert request.messages_form is not None
    return native_body(request, request.messages_form, limit, ENTRY)


def test_a_request_of_this_format_is_changed_only_in_model_and_limit() -> None:
    messages: list[Json] = [
        {"role": "user", "content": [{"type": "novelty", "x": 1, "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "broken"}]},
        {"role": "user", "content": "Go on."},
    ]
    fields: Json = {"messages": messages, "system": [{"type": "text", "text": "S"}], "top_k": 3, "metadata": {"x": 1}}
    assert native(**fields) == {"model": "claude-m", "max_tokens": 100, "stream": False, **fields}


def test_thinking_of_another_kind_of_engine_is_left_out() -> None:
    unsigned = {"type": "thinking", "thinking": "hm", "signature": ""}
    text = {"type": "text", "text": "Hi"}
    messages = [*HELLO, {"role": "assistant", "content": [unsigned, text]}, *HELLO]
    assert native(messages=messages)["messages"][1]["content"] == [text]


def test_a_budget_stays_below_a_limit_that_was_lowered() -> None:
    thinking = {"type": "enabled", "budget_tokens": 30_000}
    assert native(limit=8000, max_tokens=32_000, thinking=thinking)["thinking"]["budget_tokens"] == 7999
    assert native(limit=500, max_tokens=32_000, thinking=thinking)["thinking"] == {"type": "disabled"}
    assert native(limit=32_000, max_tokens=32_000, thinking=thinking)["thinking"] == thinking


def test_images_that_were_fetched_replace_their_urls() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [image]}]}
    request = parse_messages(json.dumps(body).encode(), {})
    assert request.messages_form is not None
    request.messages_form.images[0][1]["url"] = "data:image/png;base64,QUJD"
    sent = native_body(request, request.messages_form, 9, ENTRY)
    source = sent["messages"][0]["content"][0]["source"]
    assert source == {"type": "base64", "media_type": "image/png", "data": "QUJD"}
