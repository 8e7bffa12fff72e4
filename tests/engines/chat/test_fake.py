"""The deterministic engine does what is asked of it, so that what is built on it can be seen to work."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitoolai.chat.request import parse_chat
from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.engines.chat.fake import FakeEngine, sample

HELLO = [{"role": "user", "content": "Weather in Paris?"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"$ref": "#/$defs/city"},
        "days": {"type": "integer", "minimum": 3},
        "units": {"enum": ["C", "F"]},
        "hours": {"type": "array", "items": {"type": "number"}, "minItems": 2},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["city", "days"],
    "$defs": {"city": {"type": "string"}},
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
OTHER = {"type": "function", "function": {"name": "get_time"}}


def whole(**fields: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": HELLO, **fields}
    request = parse_chat(json.dumps(body).encode(), "openai")
    engine = FakeEngine("fake", EngineEntry(kind="fake", model="fake-1", tokens=5))

    async def ask() -> bytes:
        return await (await engine.open(request, request.limit or 1000)).read()

    answer: dict[str, Any] = json.loads(asyncio.run(ask()))
    return answer


def test_it_says_its_words_up_to_the_limit() -> None:
    assert whole()["choices"][0]["message"]["content"].split() == [f"token-{i}" for i in range(5)]
    short = whole(max_tokens=2)
    assert (short["choices"][0]["finish_reason"], short["usage"]["completion_tokens"]) == ("length", 2)


def test_every_choice_is_counted() -> None:
    answer = whole(n=3)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == 15


@pytest.mark.parametrize("stop", ["token-2", ["nothing", "token-2"]])
def test_it_stops_before_a_stop(stop: Any) -> None:
    answer = whole(stop=stop)
    assert answer["choices"][0]["message"]["content"] == "token-0 token-1 "
    assert (answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]) == ("stop", 2)


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        (None, "get_weather"),
        ("required", "get_weather"),
        ({"type": "function", "function": {"name": "get_time"}}, "get_time"),
        ("none", None),
    ],
)
def test_it_calls_the_tool_that_is_chosen(choice: Any, called: str | None) -> None:
    made = whole(tools=[TOOL, OTHER], tool_choice=choice)["choices"][0]
    calls = made["message"].get("tool_calls")
    assert (made["finish_reason"] == "tool_calls") == (called is not None)
    assert (calls and calls[0]["function"]["name"]) == called


def test_the_arguments_fit_the_tools_schema_and_its_answer_ends_the_calling() -> None:
    message = whole(tools=[TOOL])["choices"][0]["message"]
    jsonschema.validate(json.loads(message["tool_calls"][0]["function"]["arguments"]), SCHEMA)
    answered = [*HELLO, message, {"role": "tool", "tool_call_id": "call_fake", "content": "18 °C"}]
    assert "token-0" in whole(tools=[TOOL], messages=answered)["choices"][0]["message"]["content"]


def test_it_obeys_a_schema() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
    jsonschema.validate(json.loads(whole(response_format=form)["choices"][0]["message"]["content"]), SCHEMA)
    content = whole(response_format={"type": "json_object"})["choices"][0]["message"]["content"]
    assert isinstance(json.loads(content), dict)


def test_certainty_is_told_for_each_token_where_asked() -> None:
    assert whole()["choices"][0]["logprobs"] is None
    told = whole(logprobs=True, top_logprobs=1)["choices"][0]["logprobs"]["content"]
    assert len(told) == 5
    assert len(told[0]["top_logprobs"]) == 1


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["object", "array", "string", "#/x", "#"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "items", "properties", "anyOf", "enum", "$ref", "minItems"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(ANYTHING)
def test_no_schema_whatever_breaks_it(schema: Any) -> None:
    json.dumps(sample(schema))
