"""What leaves an embedded model is a valid call or valid JSON, whatever the model would have written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest

from minitoolai.storage.tables.ledger import broken_invariants
from tests.support.ask import check_refusal, post
from tests.support.server import Account, ServerProcess

pytestmark = pytest.mark.acceptance

MODEL = "gpt-4o-mini"
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Paris"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": CITY}}
ODD = {
    "type": "function",
    "function": {"name": "odd", "parameters": {"type": "object", "properties": {"a": {"not": {}}}}},
}
HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def account(llama_server: ServerProcess) -> Iterator[Account]:
    account = llama_server.account()
    yield account
    account.settled()
    assert llama_server.read(broken_invariants) == {}


@pytest.fixture
def client(account: Account) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=account.server.url + "/v1", api_key=account.key, max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    fields = {"max_completion_tokens": 60, "temperature": 0, "messages": HELLO, **fields}
    return client.chat.completions.create(model=MODEL, **fields)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
@pytest.mark.parametrize("parallel", [None, False])
def test_a_demanded_call_is_made_and_valid(client: openai.OpenAI, choice: Any, parallel: bool | None) -> None:
    extra = {} if parallel is None else {"parallel_tool_calls": parallel}
    found = ask(client, tools=[WEATHER, ODD], tool_choice=choice, **extra).choices[0]
    assert found.finish_reason in ("tool_calls", "length")
    call = found.message.tool_calls[0]
    assert (found.message.content, call.type, call.id[:5]) == (None, "function", "call_")
    assert call.function.name in ("get_weather", "odd")
    if call.function.name == "get_weather":
        jsonschema.validate(json.loads(call.function.arguments), CITY)
    if parallel is False or isinstance(choice, dict):
        assert (len(found.message.tool_calls), found.finish_reason) == (1, "tool_calls")


def test_a_streamed_call_is_the_same_as_a_whole_one(account: Account, client: openai.OpenAI) -> None:
    fields: Any = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
    whole = ask(client, **fields)
    name, arguments, reasons, pieces = "", "", [], 0
    for chunk in ask(client, stream=True, stream_options={"include_usage": True}, **fields):
        if not chunk.choices:
            assert chunk.usage.completion_tokens == whole.usage.completion_tokens
            continue
        for part in chunk.choices[0].delta.tool_calls or []:
            name += part.function.name or ""
            arguments += part.function.arguments or ""
            pieces += 1
        reasons += [chunk.choices[0].finish_reason] if chunk.choices[0].finish_reason else []
    function = whole.choices[0].message.tool_calls[0].function
    assert (name, arguments, reasons) == (function.name, function.arguments, ["tool_calls"])
    assert pieces > 3
    # The tools are part of the prompt, exactly.
    assert whole.usage.prompt_tokens > 100
    account.settled()


def test_with_auto_a_response_is_text_or_a_valid_call(client: openai.OpenAI) -> None:
    for seed in range(4):
        found = ask(client, tools=[WEATHER], seed=seed, temperature=1.5, max_completion_tokens=30).choices[0]
        assert bool(found.message.content) != bool(found.message.tool_calls)
        for call in found.message.tool_calls or []:
            assert call.function.name == "get_weather"
    assert ask(client, tools=[WEATHER], tool_choice="none", max_completion_tokens=5).choices[0].message.content


def test_a_result_is_read_by_the_model(client: openai.OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    messages = [*HELLO, {"role": "assistant", "tool_calls": [call]}]
    messages.append({"role": "tool", "tool_call_id": "call_1", "content": "sunny"})
    found = ask(client, messages=messages, tools=[WEATHER], tool_choice="none", max_completion_tokens=5)
    assert found.choices[0].message.content
    assert found.usage.prompt_tokens > 40


def test_a_call_that_is_cut_ends_with_length(client: openai.OpenAI) -> None:
    found = ask(client, tools=[WEATHER], tool_choice="required", max_completion_tokens=3).choices[0]
    assert (found.finish_reason, found.message.tool_calls) == ("length", None)
    cut = ask(client, response_format={"type": "json_object"}, max_completion_tokens=2).choices[0]
    assert cut.finish_reason == "length"


SCHEMAS: list[Any] = [
    CITY,
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
    {"type": "object", "properties": {"when": {"type": "string", "format": "date"}}, "required": ["when"]},
    {"anyOf": [{"type": "integer", "multipleOf": 5, "minimum": 5, "maximum": 50}, {"type": "null"}]},
    {"allOf": [{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "maxProperties": 1}]},
    {"$ref": "#/$defs/kind", "$defs": {"kind": {"enum": ["x", "y"]}}},
    {"oneOf": [{"type": "boolean"}, {"type": "null"}]},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_a_response_conforms_to_its_schema(client: openai.OpenAI, schema: Any) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    found = ask(client, response_format=form, temperature=1.5).choices[0]
    assert found.finish_reason == "stop"
    jsonschema.validate(json.loads(found.message.content), schema, format_checker=jsonschema.FormatChecker())


def test_json_may_be_the_response_beside_tools(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["only"]}}}
    message = ask(client, tools=[WEATHER], response_format=form).choices[0].message
    assert message.tool_calls or json.loads(message.content) == "only"


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        ({"type": "object", "properties": {"a": {"not": {}}}}, ".properties.a.not"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, ""),
        ({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 2}]}, ""),
    ],
    ids=str,
)
def test_a_schema_without_a_grammar_is_refused_and_nothing_is_charged(account: Account, schema: Any, part: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    before = account.settled()
    answer = post(account, model=MODEL, response_format=form)
    check_refusal(answer, 400, "invalid_request", f"response_format.json_schema.schema{part}")
    assert account.settled() == before


def test_a_tool_that_is_strict_is_refused_for_the_part_that_has_no_grammar(account: Account) -> None:
    strict = {"type": "function", "function": {**ODD["function"], "strict": True}}  # type: ignore[dict-item]
    part = "tools[0].function.parameters.properties.a.not"
    check_refusal(post(account, model=MODEL, tools=[strict]), 400, "invalid_request", part)
