"""Tests of parsing requests for `/v1/messages`: what becomes of every field, and how wrong ones are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minitoolai.chat.dialects.messages_request import parse_messages, passed_headers
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import ChatRequest, MessagesForm

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"name": "read", "description": "Read a file", "input_schema": {"type": "object", "properties": {}}}
LONG = "mcp__a_server_with_a_long_name__" + "x" * 60


def parse(**fields: Any) -> ChatRequest:
    body = {"model": "m", "max_tokens": 100, "messages": HELLO, **fields}
    return parse_messages(json.dumps(body).encode(), {})


def form_of(request: ChatRequest) -> MessagesForm:
    assert request.messages_form is not None
    return request.messages_form


def test_a_plain_request_becomes_a_chat() -> None:
    request = parse(
        system="Be terse.",
        temperature=0.5,
        top_p=0.9,
        stop_sequences=["END"],
        metadata={"user_id": "u1"},
        stream=True,
    )
    assert request.messages == [{"role": "system", "content": "Be terse."}, *HELLO]
    assert request.fields == {"temperature": 0.5, "top_p": 0.9, "stop": ["END"], "user": "u1"}
    assert (request.limit, request.limit_is_default, request.stream, request.include_usage) == (100, True, True, True)
    assert form_of(request).refusal is None


def test_the_body_is_kept_for_engines_of_this_format() -> None:
    thinking = {"type": "adaptive", "display": "summarized"}
    system = [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2"},
        {"type": "text", "text": "Be kind."},
    ]
    request = parse(thinking=thinking, system=system, top_k=5, invented={"a": 1})
    form = form_of(request)
    assert form.fields["thinking"] == thinking
    assert form.fields["system"] == system
    assert form.fields["top_k"] == 5
    assert "invented" not in form.fields
    assert request.extras == {"invented": {"a": 1}, "top_k": 5}
    # The header of Claude Code differs in each version, so it would only spoil the caches of other engines.
    assert request.messages[0] == {"role": "system", "content": "Be kind."}


def test_headers_that_are_passed_on() -> None:
    headers = {b"anthropic-version": b"2023-06-01", b"anthropic-beta": b"a,b", b"x-api-key": b"sk", b"host": b"h"}
    assert passed_headers(headers) == {"anthropic-version": "2023-06-01", "anthropic-beta": "a,b"}


def test_a_long_user_id_is_sent_as_a_hash() -> None:
    user = parse(metadata={"user_id": "u" * 200}).fields["user"]
    assert len(user) == 64
    assert (
        user
        == parse(metadata={"user_id": "u" * 200}).fields["user"]
        != parse(metadata={"user_id": "v" * 200}).fields["user"]
    )


def test_tools_become_functions() -> None:
    request = parse(
        tools=[{**TOOL, "strict": True, "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    )
    function = {"name": "read", "description": "Read a file", "parameters": TOOL["input_schema"], "strict": True}
    assert request.fields["tools"] == [{"type": "function", "function": function}]
    assert request.fields["tool_choice"] == "required"
    assert request.fields["parallel_tool_calls"] is False
    chosen = parse(tools=[TOOL], tool_choice={"type": "tool", "name": "read"}).fields["tool_choice"]
    assert chosen == {"type": "function", "function": {"name": "read"}}
    assert parse(tools=[TOOL], tool_choice={"type": "none"}).fields["tool_choice"] == "none"
    assert "tool_choice" not in parse(tool_choice={"type": "auto"}).fields


def test_a_long_tool_name_is_shortened_everywhere() -> None:
    call = {"type": "tool_use", "id": "t1", "name": LONG, "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "ok"}
    request = parse(
        tools=[{**TOOL, "name": LONG}, {**TOOL, "name": LONG + "y"}],
        tool_choice={"type": "tool", "name": LONG},
        messages=[*HELLO, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}],
    )
    names = [tool["function"]["name"] for tool in request.fields["tools"]]
    assert len(set(names)) == 2
    assert max(map(len, names)) == 64
    assert request.fields["tool_choice"]["function"]["name"] == names[0]
    assert request.messages[1]["tool_calls"][0]["function"]["name"] == names[0]
    assert form_of(request).tool_names == {names[0]: LONG, names[1]: LONG + "y"}


def test_tools_that_only_anthropics_models_know_need_such_an_engine() -> None:
    request = parse(tools=[TOOL, {"type": "bash_20250124", "name": "bash"}])
    assert [tool["function"]["name"] for tool in request.fields["tools"]] == ["read"]
    refusal = form_of(request).refusal
    assert refusal is not None
    assert refusal.param == "tools[1].type"
    assert "bash_20250124" in refusal.message
    many = parse(tools=[{**TOOL, "name": f"tool_{number}"} for number in range(200)])
    assert "tools" not in many.fields
    assert form_of(many).refusal is not None
    assert many.other_bytes > 200 * 50


@pytest.mark.parametrize(
    ("fields", "effort", "names"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low", ["thinking"]),
        ({"thinking": {"type": "enabled", "budget_tokens": 8000}}, "medium", ["thinking"]),
        ({"thinking": {"type": "enabled", "budget_tokens": 30_000}}, "high", ["thinking"]),
        ({"thinking": {"type": "adaptive"}}, None, ["thinking"]),
        ({"thinking": {"type": "disabled"}}, None, []),
        ({"output_config": {"effort": "max"}}, "high", ["output_config.effort"]),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 30_000}, "output_config": {"effort": "low"}},
            "low",
            ["output_config.effort", "thinking"],
        ),
    ],
)
def test_thinking_corresponds_to_an_effort(fields: dict[str, Any], effort: str | None, names: list[str]) -> None:
    form = form_of(parse(**fields))
    assert (form.effort, form.effort_fields) == (effort, names)


@pytest.mark.parametrize("at", ["output_config", "output_format"])
def test_a_schema_becomes_a_response_format(at: str) -> None:
    wanted = {"type": "json_schema", "schema": {"type": "object"}}
    request = parse(**{at: {"format": wanted} if at == "output_config" else wanted})
    named = {"name": "response", "schema": {"type": "object"}, "strict": True}
    assert request.fields["response_format"] == {"type": "json_schema", "json_schema": named}


def test_what_another_engine_ignores_is_named() -> None:
    edits = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    form = form_of(parse(context_management=edits, output_config={"task_budget": {"total": 9}}))
    assert form.dropped == ["output_config.task_budget", "context_management"]
    assert form.may_shrink


def test_values_that_mean_the_default_are_accepted() -> None:
    parse(speed="standard", inference_geo="global", mcp_servers=[], service_tier="standard_only", container=None)


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"model": None}, "model", "non-empty"),
    ({"model": 7}, "model", "non-empty"),
    ({"max_tokens": None}, "max_tokens", "required"),
    ({"max_tokens": 0}, "max_tokens", "at least 1"),
    ({"max_tokens": "9"}, "max_tokens", "whole number"),
    ({"max_tokens": 1.5}, "max_tokens", "whole number"),
    ({"max_tokens": True}, "max_tokens", "whole number"),
    ({"messages": None}, "messages", "at least one"),
    ({"messages": []}, "messages", "at least one"),
    ({"messages": "hi"}, "messages", "at least one"),
    ({"messages": ["hi"]}, "messages[0]", "object"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "user or assistant"),
    ({"messages": [{"content": "x"}]}, "messages[0].role", "user or assistant"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "string or a list"),
    ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content", "string or a list"),
    ({"system": 1}, "system", "string or a list"),
    ({"system": ["x"]}, "system[0]", "block"),
    ({"system": [{"type": "image"}]}, "system[0]", "block"),
    ({"system": [{"type": "text", "text": 1}]}, "system[0].text", "string"),
    (
        {"system": [{"type": "text", "text": "x", "cache_control": {"type": "x"}}]},
        "system[0].cache_control",
        "ephemeral",
    ),
    ({"cache_control": "yes"}, "cache_control", "ephemeral"),
    ({"cache_control": {"type": "ephemeral", "ttl": "2h"}}, "cache_control.ttl", "5m or 1h"),
    ({"stream": "true"}, "stream", "true or false"),
    ({"temperature": 1.1}, "temperature", "from 0 to 1"),
    ({"temperature": -0.1}, "temperature", "from 0 to 1"),
    ({"temperature": "1"}, "temperature", "number"),
    ({"top_p": 2}, "top_p", "from 0 to 1"),
    ({"top_k": -1}, "top_k", "at least 0"),
    ({"top_k": 0.5}, "top_k", "whole number"),
    ({"stop_sequences": "END"}, "stop_sequences", "list"),
    ({"stop_sequences": [""]}, "stop_sequences", "non-empty"),
    ({"stop_sequences": [1]}, "stop_sequences", "non-empty"),
    ({"metadata": "x"}, "metadata", "object"),
    ({"metadata": {"user_id": 1}}, "metadata.user_id", "string"),
    ({"tools": {}}, "tools", "list"),
    ({"tools": ["read"]}, "tools[0]", "object"),
    ({"tools": [{"input_schema": {}}]}, "tools[0].name", "non-empty"),
    ({"tools": [{**TOOL, "name": "a b"}]}, "tools[0].name", "letters"),
    ({"tools": [{**TOOL, "name": "x" * 129}]}, "tools[0].name", "128"),
    ({"tools": [TOOL, TOOL]}, "tools[1].name", "unique"),
    ({"tools": [{"name": "read"}]}, "tools[0].input_schema", "JSON schema"),
    ({"tools": [{**TOOL, "input_schema": "{}"}]}, "tools[0].input_schema", "JSON schema"),
    ({"tools": [{**TOOL, "description": 1}]}, "tools[0].description", "string"),
    ({"tools": [{**TOOL, "strict": "yes"}]}, "tools[0].strict", "true or false"),
    ({"tools": [{**TOOL, "cache_control": []}]}, "tools[0].cache_control", "ephemeral"),
    ({"tools": [{"type": 1, "name": "x"}]}, "tools[0].type", "provider"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type", "web_search_20250305"),
    ({"tools": [{"type": "web_fetch_20260318", "name": "web_fetch"}]}, "tools[0].type", "web_fetch_20260318"),
    ({"tools": [{"type": "code_execution_20260521", "name": "c"}]}, "tools[0].type", "code_execution_20260521"),
    ({"tools": [{"type": "tool_search_tool_bm25_20251119", "name": "t"}]}, "tools[0].type", "tool of your own"),
    ({"tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}]}, "tools[0].type", "mcp_toolset"),
    ({"tool_choice": "auto"}, "tool_choice.type", "auto, any, tool or none"),
    ({"tool_choice": {"type": "required"}}, "tool_choice.type", "auto, any, tool or none"),
    ({"tool_choice": {"type": "any"}}, "tool_choice", "send tools"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name", "non-empty"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "write"}}, "tool_choice.name", "read"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": 1}},
        "tool_choice.disable_parallel_tool_use",
        "true or false",
    ),
    ({"thinking": True}, "thinking.type", "enabled"),
    ({"thinking": {"type": "on"}}, "thinking.type", "enabled"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens", "1024"),
    ({"thinking": {"type": "enabled", "budget_tokens": 10}}, "thinking.budget_tokens", "1024"),
    ({"thinking": {"type": "adaptive", "display": "all"}}, "thinking.display", "summarized"),
    ({"output_config": []}, "output_config", "object"),
    ({"output_config": {"effort": "huge"}}, "output_config.effort", "low, medium"),
    ({"output_config": {"effort": ["low"]}}, "output_config.effort", "low, medium"),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type", "json_schema"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema", "JSON schema"),
    ({"output_format": {"type": "json_schema", "schema": 1}}, "output_format.schema", "JSON schema"),
    ({"context_management": []}, "context_management", "object"),
    ({"context_management": {"edits": ["x"]}}, "context_management", "object"),
    ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "context_management.edits[0].type", "price"),
    ({"service_tier": "priority"}, "service_tier", "standard_only"),
    ({"speed": "fast"}, "speed", "price"),
    ({"inference_geo": "us"}, "inference_geo", "price"),
    ({"container": "c1"}, "container", "not offered"),
    ({"mcp_servers": [{"type": "url"}]}, "mcp_servers", "not called"),
    ({"thread": {"id": "t"}}, "thread", "not stored"),
]


@pytest.mark.parametrize(
    ("fields", "param", "words"), BAD, ids=[f"{param}-{index}" for index, (_, param, _) in enumerate(BAD)]
)
def test_a_wrong_field_is_named_with_the_remedy(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    assert caught.value.param == param
    assert words in caught.value.message
    assert param.partition(".")[0].partition("[")[0] in caught.value.message


def test_a_count_needs_no_limit() -> None:
    body = json.dumps({"model": "m", "messages": HELLO}).encode()
    assert parse_messages(body, {}, is_count=True).limit is None
