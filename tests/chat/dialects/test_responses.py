"""Tests of `/v1/responses`: every object and event is validated by OpenAI's own package."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from tests.support import manners
from tests.support.ask import check_refusal
from tests.support.server import Account, ServerProcess
from tests.support.strict import Response, check, check_event
from tests.support.upstream import Upstream

PATH = "/v1/responses"
CREDIT = 5_000_000_000
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}
SCHEMA = {"type": "object", "properties": {"planet": {"type": "string"}}, "required": ["planet"]}


def ask(account: Account, **fields: Any) -> requests.Response:
    body = {"model": "quick", "input": "Which planet has the most moons?", **fields}
    return requests.post(account.server.url + PATH, json=body, headers=account.headers, timeout=60)


def whole(account: Account, **fields: Any) -> Any:
    answer = ask(account, **fields)
    assert answer.status_code == 200, answer.text
    return check(Response, answer.json())


def streamed(account: Account, **fields: Any) -> list[Any]:
    """Return the events after validating each one and their order."""
    answer = ask(account, stream=True, **fields)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    found = []
    for block in answer.text.split("\n\n")[:-1]:
        kind, _, data = block.partition("\n")
        event = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {event['type']}"
        found.append(check_event(event))
    assert [event.sequence_number for event in found] == list(range(len(found)))
    assert [event.type for event in found[:2]] == ["response.created", "response.in_progress"]
    return found


def pieces(events: list[Any], kind: str) -> str:
    return "".join(event.delta for event in events if event.type == kind)


def test_a_whole_response(account: Account) -> None:
    response = whole(account, instructions="Be terse.", max_output_tokens=50, metadata={"a": "b"}, user="u")
    assert (response.status, response.model, response.store) == ("completed", "fake-quick-1", True)
    assert response.output_text.split()[0] == "token-0"
    assert (response.instructions, response.metadata, response.user) == ("Be terse.", {"a": "b"}, "u")
    assert response.usage.output_tokens == 16
    cost = response.usage.input_tokens * 150 + 16 * 600
    assert account.settled() == CREDIT - cost


def test_a_stream_tells_the_same_as_the_whole(account: Account) -> None:
    events = streamed(account)
    response = events[-1].response
    assert events[-1].type == "response.completed"
    text = pieces(events, "response.output_text.delta")
    assert text == response.output_text == whole(account).output_text
    assert [event.type for event in events if "delta" not in event.type] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert response.usage.total_tokens == response.usage.input_tokens + 16


def test_a_limit_makes_it_incomplete(account: Account) -> None:
    for response in (whole(account, max_output_tokens=3), streamed(account, max_output_tokens=3)[-1].response):
        assert response.status == "incomplete"
        assert response.incomplete_details.reason == "max_output_tokens"
        assert response.output[0].status == "incomplete"


def test_tools_round_trip(account: Account) -> None:
    response = whole(account, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False)
    (call,) = response.output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "get_weather", {"city": "token-0"})
    events = streamed(account, tools=[WEATHER], tool_choice={"type": "function", "name": "get_weather"})
    assert pieces(events, "response.function_call_arguments.delta") == call.arguments
    assert events[-1].response.output[0].arguments == call.arguments
    conversation = [
        {"role": "user", "content": "Weather?"},
        call.model_dump(),
        {"type": "function_call_output", "call_id": call.call_id, "output": "18 °C"},
    ]
    assert "token-0" in whole(account, input=conversation, tools=[WEATHER]).output_text


def test_a_schema_is_obeyed(account: Account) -> None:
    form = {"format": {"type": "json_schema", "name": "moons", "schema": SCHEMA, "strict": True}}
    assert json.loads(whole(account, text=form).output_text) == {"planet": "token-0"}
    assert isinstance(json.loads(whole(account, text={"format": {"type": "json_object"}}).output_text), dict)


def test_logprobs_are_included_where_asked(account: Account) -> None:
    response = whole(account, include=["message.output_text.logprobs"], top_logprobs=1)
    assert len(response.output[0].content[0].logprobs) == 16
    events = streamed(account, include=["message.output_text.logprobs"])
    assert len(events[-1].response.output[0].content[0].logprobs) == 16


def test_items_become_messages(account: Account, upstream: Upstream) -> None:
    picture = {"type": "input_image", "image_url": "https://93.184.216.34/a.png", "detail": "low"}
    conversation: list[Any] = [
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Ä"}, picture]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Aha."}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "7"}]},
    ]
    fields = {"reasoning": {"effort": "low"}, "text": {"verbosity": "low"}, "temperature": 0.5, "tools": [WEATHER]}
    whole(account, model="standin", input=conversation, instructions="First.", **fields)
    sent = upstream.last.body
    calls = [
        {"id": name, "type": "function", "function": {"name": what, "arguments": "{}"}}
        for name, what in (("c1", "f"), ("c2", "g"))
    ]
    image = {"type": "image_url", "image_url": {"url": "https://93.184.216.34/a.png", "detail": "low"}}
    assert sent["messages"] == [
        {"role": "developer", "content": "First."},
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Ä"}, image]},
        {"role": "assistant", "content": "Aha.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
    ]
    assert (sent["reasoning_effort"], sent["verbosity"], sent["temperature"]) == ("low", "low", 0.5)
    assert sent["tools"] == [{"type": "function", "function": {k: v for k, v in WEATHER.items() if k != "type"}}]


def test_thoughts_refusals_and_interleaved_calls_keep_their_places(account: Account, upstream: Upstream) -> None:
    def called(index: int, arguments: str, **more: Any) -> dict[str, Any]:
        function = {"arguments": arguments} | ({"name": f"f{index}"} if more else {})
        return {"tool_calls": [{"index": index, **more, "function": function}]}

    upstream.behave = manners.deltas(
        {"role": "assistant", "content": None},
        {"reasoning_content": "Hm"},
        {"reasoning_content": "m."},
        {"content": "Half "},
        {"refusal": "No."},
        called(0, "", id="c0", type="function"),
        called(1, "{", id="c1", type="function"),
        called(0, "{}"),
        called(1, "}"),
    )
    response = streamed(account, model="standin")[-1].response
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call", "function_call"]
    assert response.output[0].content[0].text == "Hmm."
    assert [part.type for part in response.output[1].content] == ["output_text", "refusal"]
    assert [(call.call_id, call.arguments) for call in response.output[2:]] == [("c0", "{}"), ("c1", "{}")]


def test_a_stream_that_fails_midway_ends_in_an_error_and_is_charged(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.break_off("error")
    events = streamed(account, model="standin")
    assert events[-1].type == "response.failed"
    assert "reported an error" in events[-1].response.error.message
    assert "GPU" not in events[-1].response.error.message
    assert account.settled() < CREDIT


PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edit files",
    "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "x"'},
}
AGENTS = {"type": "namespace", "name": "agents", "description": "Agents", "tools": [{**WEATHER, "name": "close_agent"}]}


def calling(name: str, *arguments: str) -> Any:
    function = {"name": name, "arguments": ""}
    return manners.deltas(
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": function}],
        },
        *({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in arguments),
    )


def test_a_codex_request_is_taken_and_what_is_dropped_is_named(account: Account, upstream: Upstream) -> None:
    fields = {
        "tools": [WEATHER, AGENTS, PATCH, {"type": "web_search", "external_web_access": False}],
        "client_metadata": {"a": "b"},
        "prompt_cache_key": "p",
        "safety_identifier": "s",
        "include": ["reasoning.encrypted_content", "web_search_call.action.sources"],
        "store": True,
        "truncation": "auto",
        "reasoning": {"summary": "auto", "context": "auto"},
        "internal": {"x": 1},
        "max_tool_calls": 3,
    }
    for stream in (False, True):
        answer = ask(account, model="standin", stream=stream, **fields)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-dropped-tools"] == "web_search"
        assert answer.headers["x-dropped-fields"] == "reasoning.context, internal, max_tool_calls"
        sent = upstream.last.body
        assert [tool["function"]["name"] for tool in sent["tools"]] == ["get_weather", "close_agent", "apply_patch"]
        patch = sent["tools"][2]["function"]
        assert patch["parameters"]["properties"] == {"input": {"type": "string"}}
        assert 'start: "x"' in patch["description"]
        assert not sent.keys() & {"client_metadata", "internal", "truncation", "include", "max_tool_calls"}


def test_a_call_of_a_custom_tool_comes_back_as_its_input(account: Account, upstream: Upstream) -> None:
    upstream.behave = calling("apply_patch", '{"inp', 'ut": "*** a\\nb"}')
    events = streamed(account, model="standin", tools=[PATCH, AGENTS])
    assert pieces(events, "response.custom_tool_call_input.delta") == "*** a\nb"
    (call,) = events[-1].response.output
    assert (call.type, call.name, call.call_id, call.input) == ("custom_tool_call", "apply_patch", "c1", "*** a\nb")
    upstream.behave = calling("close_agent", "{}")
    (call,) = streamed(account, model="standin", tools=[PATCH, AGENTS])[-1].response.output
    assert (call.type, call.name, call.namespace, call.arguments) == ("function_call", "close_agent", "agents", "{}")


def test_calls_of_such_tools_are_sent_back_to_the_model(account: Account, upstream: Upstream) -> None:
    conversation = [
        {"role": "user", "content": "x"},
        {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "a\nb"},
        {"type": "function_call", "call_id": "c2", "name": "close_agent", "namespace": "agents", "arguments": "{}"},
        {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"},
        {"type": "function_call_output", "call_id": "c2", "output": "gone"},
    ]
    whole(account, model="standin", input=conversation, tools=[PATCH, AGENTS])
    calls = upstream.last.body["messages"][1]["tool_calls"]
    assert [(call["function"]["name"], call["function"]["arguments"]) for call in calls] == [
        ("apply_patch", '{"input":"a\\nb"}'),
        ("close_agent", "{}"),
    ]
    assert [message["content"] for message in upstream.last.body["messages"][2:]] == ["done", "gone"]


def test_images_in_the_output_of_tools_follow_in_a_message_of_the_user(account: Account, upstream: Upstream) -> None:
    def picture(number: int) -> dict[str, Any]:
        return {"type": "input_image", "image_url": f"https://93.184.216.34/{number}.png"}

    calls = [{"type": "function_call", "call_id": f"c{n}", "name": "view_image", "arguments": "{}"} for n in (1, 2)]
    outputs = [
        {"type": "function_call_output", "call_id": "c1", "output": [picture(1)]},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "Two:"}, picture(2)],
        },
    ]
    question = {"role": "user", "content": "What are they?"}
    for more in ([], [question]):
        whole(account, model="standin", input=[question, *calls, *outputs, *more], tools=[WEATHER])
        messages = upstream.last.body["messages"][2:]
        assert [message["role"] for message in messages] == ["tool", "tool", "user", *["user"] * len(more)]
        assert [message["content"] for message in messages[:2]] == ["The image follows.", "Two:"]
        urls = [part["image_url"]["url"] for part in messages[2]["content"]]
        assert urls == ["https://93.184.216.34/1.png", "https://93.184.216.34/2.png"]


def test_functions_of_one_name_in_two_namespaces_are_told_apart(account: Account, upstream: Upstream) -> None:
    other = {**AGENTS, "name": "robots"}
    upstream.behave = calling("robots__close_agent", "{}")
    (call,) = streamed(account, model="standin", tools=[AGENTS, other])[-1].response.output
    assert (call.name, call.namespace) == ("close_agent", "robots")


@pytest.mark.parametrize(("mode", "names"), [("auto", ["f"]), ("required", ["f", "g"]), ("auto", [])])
def test_only_allowed_tools_are_sent(account: Account, upstream: Upstream, mode: str, names: list[str]) -> None:
    tools = [{**WEATHER, "name": name} for name in "fgh"]
    allowed = [{"type": "function", "name": name} for name in names] + [{"type": "web_search"}]
    whole(account, model="standin", tools=tools, tool_choice={"type": "allowed_tools", "mode": mode, "tools": allowed})
    sent = upstream.last.body
    assert [tool["function"]["name"] for tool in sent.get("tools", [])] == names
    assert sent.get("tool_choice") == (mode if names else None)


def test_without_any_tool_left_no_choice_is_sent(account: Account, upstream: Upstream) -> None:
    whole(account, model="standin", tools=[{"type": "web_search"}], tool_choice="auto", parallel_tool_calls=True)
    assert not upstream.last.body.keys() & {"tools", "tool_choice", "parallel_tool_calls"}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": 5}, "input"),
    ({"input": ["x"]}, "input[0]"),
    ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
        "input[0].content[0].image_url",
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}]},
        "input[0].content[0].image_url.url",
    ),
    ({"input": [{"type": "item_reference"}]}, "input[0].id"),
    ({"input": [{"type": "item_reference", "id": 5}]}, "input[0].id"),
    ({"input": [{"type": "item_reference", "id": ""}]}, "input[0].id"),
    ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
    ({"input": [{"type": "", "role": "user", "content": "x"}]}, "input[0].type"),
    ({"input": [{"type": [], "role": "user", "content": "x"}]}, "input[0].type"),
    ({"input": [{"type": False, "role": "user", "content": "x"}]}, "input[0].type"),
    ({"input": [{"type": "function_call", "call_id": "c", "arguments": "{}"}]}, "input[0].name"),
    ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
    ({"instructions": 5}, "instructions"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": 10**9}, "max_output_tokens"),
    ({"previous_response_id": 5}, "previous_response_id"),
    ({"previous_response_id": ""}, "previous_response_id"),
    ({"previous_response_id": ["resp_1"]}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"background": 1}, "background"),
    ({"background": True, "store": False}, "background"),
    ({"background": True, "stream": True}, "stream"),
    ({"truncation": "middle"}, "truncation"),
    ({"store": "yes"}, "store"),
    ({"prediction": {}}, "prediction"),
    ({"service_tier": "priority"}, "service_tier"),
    ({"tools": [{"name": "f"}]}, "tools[0].type"),
    ({"tools": [{"type": "custom"}]}, "tools[0].name"),
    ({"tools": [{"type": "namespace", "name": "n"}]}, "tools[0].tools"),
    ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function"}]}]}, "tools[0].tools[0].name"),
    ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "all", "tools": []}}, "tool_choice.mode"),
    (
        {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "x"}]}},
        "tool_choice.tools",
    ),
    (
        {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": []}},
        "tool_choice.tools",
    ),
    ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
    ({"messages": []}, "input"),
    ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
    ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
    ({"text": []}, "text"),
    ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
    ({"reasoning": {"effort": 5}}, "reasoning.effort"),
    ({"temperature": 3}, "temperature"),
    ({"stream": "yes"}, "stream"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=lambda value: str(value)[:40])
def test_an_unsupported_field_is_refused_under_its_name_in_this_format(
    account: Account, fields: dict[str, Any], param: str
) -> None:
    check_refusal(ask(account, **fields), 400, "invalid_request", param)
    assert account.money() == account.money()
    assert account.money().posted == CREDIT


def test_a_field_of_chats_is_refused_by_its_own_name(account: Account) -> None:
    assert check_refusal(ask(account, messages=[]), 400, "invalid_request", "input").startswith("messages is not")


def test_a_null_is_absent(account: Account) -> None:
    names = ("instructions", "previous_response_id", "store", "tools", "text", "reasoning", "include", "stream")
    assert whole(account, **dict.fromkeys(names)).status == "completed"


def test_an_agents_first_prompt_that_exceeds_an_embedded_model_keeps_its_message(llama_server: ServerProcess) -> None:
    # Codex would replace a message with the code of a full context by its own.
    first = {"role": "user", "content": "word " * 5_000}
    said = [first, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "More."}]
    tools = [{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}]
    fields: dict[str, Any] = {"model": "gpt-4o-mini", "tools": tools}
    message = check_refusal(ask(llama_server.account(), **fields, input=[first]), 400, "invalid_request", "input")
    assert "20,000 tokens" in message
    assert "lower max_output_tokens" in message
    check_refusal(ask(llama_server.account(), **fields, input=said), 400, "context_length_exceeded", "input")
