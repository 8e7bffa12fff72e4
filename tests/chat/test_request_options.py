"""Unit tests of the optional chat fields: valid ones are passed on unchanged, invalid ones are refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitoolai.chat.request import _CHECKS, parse_chat
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import ChatRequest

GOOD = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "moons", "strict": True, "schema": {"type": "object"}}}


def parse(**fields: Any) -> ChatRequest:
    return parse_chat(json.dumps({**GOOD, **fields}).encode(), "openai")


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": "x"},
        {"stop": ["x", "yy"]},
        {"seed": -5},
        {"seed": 2**63 - 1},
        {"presence_penalty": -2, "frequency_penalty": 2.0},
        {"logprobs": True, "top_logprobs": 20},
        {"logit_bias": {"50256": -100, "1": 0.5}},
        {"logit_bias": [[2, False]]},
        {"metadata": {"a": "b"}, "user": "u", "store": False, "reasoning_effort": "low", "service_tier": "auto"},
        {"tools": []},
        {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False},
        {"tools": [WEATHER], "tool_choice": NAMED},
        {"tools": [{"type": "custom", "custom": {"name": "x"}}], "tool_choice": {"type": "custom"}},
        {"tool_choice": "none"},
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_object"}},
        {"response_format": SCHEMA},
    ],
)
def test_valid_options_reach_the_engine_unchanged(fields: dict[str, Any]) -> None:
    assert parse(**fields).fields == fields


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("stop", {"stop": 5}, "a string, or a list"),
    ("stop", {"stop": ["a", 5]}, "a string, or a list"),
    ("stop", {"stop": ["a"] * 17}, "at most 16"),
    ("seed", {"seed": "5"}, "a whole number"),
    ("seed", {"seed": 2**63}, "at most"),
    ("presence_penalty", {"presence_penalty": 2.1}, "from -2 to 2"),
    ("frequency_penalty", {"frequency_penalty": "1"}, "from -2 to 2"),
    ("logprobs", {"logprobs": 1}, "true or false"),
    ("top_logprobs", {"top_logprobs": 2}, "needs logprobs"),
    ("top_logprobs", {"logprobs": True, "top_logprobs": 21}, "at most 20"),
    ("logit_bias", {"logit_bias": {"5": 101}}, "from -100 to 100"),
    ("logit_bias", {"logit_bias": 5}, "an object of token ids"),
    ("metadata", {"metadata": []}, "at most 16 strings"),
    ("metadata", {"metadata": {str(i): "x" for i in range(17)}}, "at most 16 strings"),
    ("metadata", {"metadata": {"a": 5}}, "at most 512"),
    ("metadata", {"metadata": {"a": "x" * 513}}, "at most 512"),
    ("tools", {"tools": {}}, "a list"),
    ("tools", {"tools": [WEATHER] * 129}, "at most 128"),
    ("tools[0]", {"tools": ["get_weather"]}, '"type": "function"'),
    ("tools[1].function", {"tools": [WEATHER, {"type": "function"}]}, '"name"'),
    ("tools[0].function.name", {"tools": [{"type": "function", "function": {"name": "a b"}}]}, "1 to 64"),
    ("tools[0].function.parameters", {"tools": [{"type": "function", "function": {"name": "a", "parameters": 5}}]}, ""),
    ("tool_choice", {"tool_choice": "required"}, "needs tools"),
    ("tool_choice", {"tools": [WEATHER], "tool_choice": "maybe"}, "none, auto, required"),
    (
        "tool_choice.function.name",
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "get_wether"}}},
        "get_weather",
    ),
    ("tool_choice.function.name", {"tools": [WEATHER], "tool_choice": {"type": "function"}}, "get_weather"),
    ("response_format.type", {"response_format": {}}, "text, json_object or json_schema"),
    ("response_format.type", {"response_format": "json"}, "text, json_object or json_schema"),
    ("response_format.json_schema", {"response_format": {"type": "json_schema"}}, '"schema"'),
    ("response_format.json_schema.name", {"response_format": {"type": "json_schema", "json_schema": {}}}, "1 to 64"),
    (
        "response_format.json_schema.schema",
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": 5}}},
        "a JSON schema",
    ),
    ("parallel_tool_calls", {"parallel_tool_calls": "yes"}, "true or false"),
    ("reasoning_effort", {"reasoning_effort": 3}, "a string"),
    ("user", {"user": 3}, "a string"),
]


@pytest.mark.parametrize(("param", "fields", "words"), WRONG, ids=lambda value: str(value)[:40])
def test_invalid_options_are_named_with_their_valid_values(param: str, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    assert caught.value.param == param
    assert words in caught.value.message
    assert len(caught.value.message) < 400


SCHEMA_OF_F = {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", "name": "f", "description": "d", "parameters": SCHEMA_OF_F},
        {"name": "f", "description": "d", "parameters": SCHEMA_OF_F, "strict": None},
        {"name": "f", "description": "d", "input_schema": SCHEMA_OF_F},
    ],
    ids=str,
)
def test_flat_tools_become_nested(tool: Any) -> None:
    nested = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA_OF_F}}
    for choice in ({"type": "function", "name": "f"}, {"type": "tool", "name": "f"}):
        fields = parse(tools=[tool], tool_choice=choice).fields
        assert fields == {"tools": [nested], "tool_choice": {"type": "function", "function": {"name": "f"}}}
    for choice, meaning in (("auto", "auto"), ("any", "required"), ("required", "required"), ("none", "none")):
        assert parse(tools=[tool], tool_choice={"type": choice}).fields["tool_choice"] == meaning


def test_tools_that_the_upstream_would_run_and_bill_are_dropped_and_named() -> None:
    hosted = [{"type": "web_search_preview"}, {"type": "live_search", "sources": []}]
    request = parse(tools=[*hosted, WEATHER, {"type": "custom", "custom": {"name": "c"}}], tool_choice="required")
    assert [tool["type"] for tool in request.fields["tools"]] == ["function", "custom"]
    assert request.dropped_tools == ["web_search_preview", "live_search"]
    assert parse(tools=hosted, tool_choice="auto", parallel_tool_calls=True).fields == {}
    with pytest.raises(InvalidRequest, match="tool_choice needs a function"):
        parse(tools=hosted, tool_choice="required")


def test_null_is_absent() -> None:
    assert parse(**dict.fromkeys(_CHECKS)).fields == {}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "function", "name", "json_schema", "schema", "parameters"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(_CHECKS)), ANYTHING))
def test_any_value_is_read_or_refused_with_a_name(fields: dict[str, Any]) -> None:
    refused = None
    try:
        parse(**fields)
    except InvalidRequest as error:
        refused = error
    assert refused is None or refused.param is not None
