"""Tools of /v1/responses become functions of a chat, and calls of them become calls of the caller's own tools."""

from __future__ import annotations

from typing import Any

import pytest

from minitoolai.chat.dialects.responses_tools import ChatTools, called_item, custom_arguments, custom_input
from minitoolai.core.errors import InvalidRequest

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}


def tools_of(*tools: Any) -> ChatTools:
    found = ChatTools()
    for index, tool in enumerate(tools):
        found.add(tool, f"tools[{index}]")
    return found


def names(tools: ChatTools) -> list[str]:
    return [tool["function"]["name"] for tool in tools.functions]


def test_functions_of_namespaces_get_other_names_only_if_they_would_be_mixed_up() -> None:
    tools = tools_of(
        WEATHER,
        {"type": "namespace", "name": "sky", "tools": [WEATHER, {"type": "function", "name": "stars"}]},
    )
    assert names(tools) == ["weather", "sky__weather", "stars"]
    assert tools.function_name("weather", "sky") == "sky__weather"
    assert tools.function_name("weather") == "weather"
    assert tools.function_name("unknown", "sky") == "unknown"
    item = {"type": "function_call", "name": "sky__weather", "arguments": "{}", "status": "completed"}
    called = called_item(item, tools.origins)
    assert (called["type"], called["name"], called["namespace"]) == ("function_call", "weather", "sky")
    assert item["name"] == "sky__weather"


def test_tools_of_the_server_are_dropped_and_named() -> None:
    tools = tools_of({"type": "web_search"}, WEATHER, {"type": "namespace", "name": "n", "tools": [{"type": "mcp"}, 5]})
    assert tools.dropped == ["web_search", "n.mcp", "n.1"]
    assert names(tools) == ["weather"]
    assert len(tools.kept) == 2


def test_a_custom_tool_is_a_function_of_one_string_with_its_grammar_in_the_description() -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /x+/"}
    tools = tools_of({"type": "custom", "name": "patch", "description": "Patch.", "format": grammar})
    function = tools.functions[0]["function"]
    assert function["parameters"]["required"] == ["input"]
    assert function["description"] == "Patch.\n\nThe input must follow this lark grammar:\nstart: /x+/"
    item = {"type": "function_call", "name": "patch", "arguments": custom_arguments("xx"), "status": "completed"}
    assert called_item(item, tools.origins) == {"type": "custom_tool_call", "name": "patch", "input": "xx"}


@pytest.mark.parametrize("text", ["", 'say "hi"', "ä\n{}", "🍎"])
def test_the_input_of_a_custom_tool_survives_the_round_trip(text: str) -> None:
    assert custom_input(custom_arguments(text)) == text


@pytest.mark.parametrize("arguments", ["not json", '{"input": 5}', "[1]", '{"other": "x"}', "[" * 5000])
def test_arguments_that_do_not_fit_are_the_input(arguments: str) -> None:
    assert custom_input(arguments) == arguments


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"name": "x"}, "tools[0].type"),
        ("x", "tools[0].type"),
        ({"type": ""}, "tools[0].type"),
        ({"type": "namespace", "name": "n"}, "tools[0].tools"),
        ({"type": "namespace", "tools": []}, "tools[0].tools"),
    ],
)
def test_a_malformed_tool_is_refused_with_its_field(tool: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        tools_of(tool)
    assert refused.value.param == param


def test_only_the_allowed_tools_are_kept() -> None:
    tools = tools_of(WEATHER, {"type": "function", "name": "stars"})
    tools.keep_only(["stars"])
    assert names(tools) == ["stars"]


def test_a_call_of_an_unknown_function_stays_as_it_is() -> None:
    item = {"type": "function_call", "name": "other", "arguments": "{}"}
    assert called_item(item, {}) is item
