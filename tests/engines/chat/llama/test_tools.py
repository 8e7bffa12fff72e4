"""Tools of embedded models: what the prompt says, which grammar holds, and how calls are read piece by piece."""

from __future__ import annotations

from typing import Any

import pytest

from minitoolai.core.errors import InvalidRequest
from minitoolai.engines.chat.llama.grammars import chat_grammar, openers_of, read_tools
from minitoolai.engines.chat.llama.tools import CallReader, with_tools

WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"properties": {"city": {"type": "string"}}}},
}
TIMER = {"type": "function", "function": {"name": "set_timer", "parameters": {"type": "object"}}}
TWO_CALLS = (
    '<tool_call>\n{"name": "a", "arguments": {"x": "}\\"<tool_call>", "y": [{}]}}\n</tool_call>\n'
    '<tool_call>\n{"name": "b", "arguments": {}}\n</tool_call>'
)


def read(text: str, size: int, **fields: Any) -> tuple[str, list[tuple[str, str]], CallReader]:
    """Return the text and the calls of a response that arrives in pieces of this size."""
    reader, content, calls = CallReader(openers_of(fields)), "", list[tuple[str, str]]()
    deltas = [delta for at in range(0, len(text), size) for delta in reader.feed(text[at : at + size])]
    for delta in [*deltas, *reader.end()]:
        content += delta.get("content", "")
        for part in delta.get("tool_calls", []):
            if "id" in part:
                assert part["index"] == len(calls)
                calls.append((part["function"]["name"], ""))
            name, arguments = calls[part["index"]]
            calls[part["index"]] = (name, arguments + part["function"]["arguments"])
    return content, calls, reader


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_calls_are_read_in_pieces_of_any_size(size: int) -> None:
    content, calls, reader = read(TWO_CALLS, size)
    assert content == ""
    assert calls == [("a", '{"x": "}\\"<tool_call>", "y": [{}]}'), ("b", "{}")]
    assert not reader.is_incomplete


@pytest.mark.parametrize(
    "form", ['```json\n{"name": "a", "arguments": {"x": 1}}\n```', '{"name": "a", "arguments": {"x": 1}}']
)
@pytest.mark.parametrize("size", [1, 1000])
def test_other_forms_of_a_call_are_read_as_well(form: str, size: int) -> None:
    assert read(form, size)[:2] == ("", [("a", '{"x": 1}')])


@pytest.mark.parametrize("text", ["Hello {x}", "<b>", "```js\nx\n```", "`x`", "<", "``"])
@pytest.mark.parametrize("size", [1, 1000])
def test_text_stays_text(text: str, size: int) -> None:
    content, calls, reader = read(text, size)
    assert (content, calls, reader.is_incomplete) == (text, [], False)


def test_json_stays_text_where_the_response_must_be_json() -> None:
    fields = {"response_format": {"type": "json_object"}}
    assert read('{"name": "x"}', 1, **fields)[0] == '{"name": "x"}'
    assert read(TWO_CALLS, 3, **fields)[1][1] == ("b", "{}")


@pytest.mark.parametrize(("end", "calls"), [(20, 0), (50, 1), (len(TWO_CALLS) - 5, 2)])
def test_a_response_that_was_cut_has_the_calls_that_had_begun(end: int, calls: int) -> None:
    content, found, reader = read(TWO_CALLS[:end], 3)
    assert (content, len(found)) == ("", calls)
    assert reader.is_incomplete is (calls < 2)


def test_the_prompt_has_the_tools_and_earlier_calls_and_results() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "2", "content": [{"type": "text", "text": "rain"}]},
        {"role": "user", "content": "Thanks"},
    ]
    fields = {"tools": [WEATHER]}
    system, user, assistant, result, last = with_tools(messages, read_tools(fields), fields)
    assert system["content"].startswith("Be kind.\n\n# Tools")
    assert '"name": "get_weather"' in system["content"]
    assert user == messages[1]
    one = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    assert assistant == {"role": "assistant", "content": f"{one}\n{one}"}
    assert result["content"] == "<tool_response>\nsunny\n</tool_response>\n<tool_response>\nrain\n</tool_response>"
    assert last == messages[5]
    assert messages[3]["role"] == "tool"
    assert with_tools(messages, [], {})[0] == messages[0]


def test_the_choice_decides_what_the_grammar_allows() -> None:
    def start(**fields: Any) -> str:
        grammar = chat_grammar(fields, read_tools(fields))
        return "" if grammar is None else grammar.split("\n")[1]

    tools = [WEATHER, TIMER]
    assert start(tools=tools) == "start: calls | TEXT"
    assert start(tools=tools, tool_choice="required") == "start: calls"
    named = {"type": "function", "function": {"name": "set_timer"}}
    grammar = chat_grammar({"tools": tools, "tool_choice": named}, read_tools({"tools": tools}))
    assert "set_timer" in str(grammar)
    assert "get_weather" not in str(grammar)
    assert start(tools=tools, tool_choice="none") == start() == start(response_format={"type": "text"}) == ""
    assert start(response_format={"type": "json_object"}).startswith('start: %json {"x-guidance"')
    assert start(tools=tools, response_format={"type": "json_object"}).startswith("start: calls | %json")


def test_only_a_strict_function_is_refused_for_its_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"not": {}}}}
    function = {"name": "f", "parameters": schema}
    assert read_tools({"tools": [{"type": "function", "function": function}]})[0].name == "f"
    with pytest.raises(InvalidRequest) as refused:
        read_tools({"tools": [WEATHER, {"type": "function", "function": function | {"strict": True}}]})
    assert refused.value.param == "tools[1].function.parameters.properties.a.not"
    with pytest.raises(InvalidRequest, match="has no other tools"):
        read_tools({"tools": [{"type": "custom", "custom": {"name": "x"}}]})
    with pytest.raises(InvalidRequest, match="tool_choice must be"):
        read_tools({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools"}})
