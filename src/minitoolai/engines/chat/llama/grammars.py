"""Grammars of a chat: which tool calls and which JSON an embedded model may write.

A tool call is written as `<tool_call>` and JSON, as a fenced block of JSON, or as JSON alone, which models for code
prefer. With tool_choice `auto` the model is first asked which function it needs, if any; then the grammar holds.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.chat.llama.schemas import UnsupportedSchema, grammar_schema

Json = dict[str, Any]

HEADER = "%llguidance {}\n"
#: How a call begins and ends; the first form is the one that the prompt asks for. Where JSON may be the response as
#: well, it is the only one.
OPENERS = {"<tool_call>\n": "\n</tool_call>", "```json\n": "\n```", "": ""}
MAX_CALLS = 8
#: Stands for no function where one is chosen.
NO_FUNCTION = "none"
#: Text that is no call: it does not begin like one, nor with space.
_TEXT = r"TEXT: /(?s:([^<`{\s]|<[^t]|`[^`]|``[^`]|```[^j\s{]|```j[^s\s{]|```js[^o]).*)/"
#: Characters of a description and of the last message that decide which function is called.
MAX_ABOUT, MAX_ASKED = 200, 1000
#: Fields that become part of the grammar and of the prompt.
FIELDS = frozenset(("tools", "tool_choice", "parallel_tool_calls", "response_format"))
_ANY_OBJECT: Json = {"type": "object"}


class Tool(NamedTuple):
    """A function that the model may call."""

    name: str
    #: Its description in one line, and what the prompt says about it.
    about: str
    text: str
    #: The schema of its arguments, for the grammar.
    schema: str


def read_tools(fields: Json, *, relaxed: bool = False) -> list[Tool]:
    """Return the functions that the model may call. `relaxed`: any arguments are accepted.

    Raises InvalidRequest for a strict function with a schema that no grammar can express.
    """
    choice = fields.get("tool_choice", "auto")
    if choice == "none":
        return []
    if isinstance(choice, dict) and forced_name(fields) is None:
        raise InvalidRequest(
            "tool_choice must be none, auto, required or the name of a function: the embedded model knows no other",
            param="tool_choice",
        )
    tools: list[Tool] = []
    for index, tool in enumerate(fields.get("tools") or []):
        path = f"tools[{index}]"
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, dict):
            raise InvalidRequest(f"{path} must be a function: the embedded model has no other tools", param=path)
        parameters = function.get("parameters") or _ANY_OBJECT
        try:
            schema = grammar_schema(
                _ANY_OBJECT if relaxed else {"type": "object", **parameters},
                f"{path}.function.parameters",
                strict=bool(function.get("strict")),
            )
        except UnsupportedSchema as unsupported:
            raise InvalidRequest(f"{unsupported.path} {unsupported.reason}", param=unsupported.path) from None
        known = {key: function[key] for key in ("name", "description", "parameters") if key in function}
        text = json.dumps({"type": "function", "function": known}, ensure_ascii=False)
        about = " ".join((function.get("description") or "").split())
        tools.append(Tool(function["name"], about, text, schema))
    return tools


def needs_grammar(request: ChatRequest) -> bool:
    """Return True for a chat with tools or a format, or with calls in its history."""
    if request.prompt is not None:
        return False
    return not request.fields.keys().isdisjoint(FIELDS) or any(
        message["role"] == "tool" or message.get("tool_calls") for message in request.messages
    )


def beginning_with(text: str, grammar: str) -> str:
    """Return the grammar with a text in front."""
    return grammar.replace("start: ", f"start: {json.dumps(text)} body\nbody: ", 1)


def forced_name(fields: Json) -> str | None:
    """Return the name of the function that tool_choice demands."""
    choice = fields.get("tool_choice")
    function = choice.get("function") if isinstance(choice, dict) else None
    return function.get("name") if isinstance(function, dict) else None


def chat_grammar(fields: Json, tools: list[Tool], chosen: str | None = None) -> str | None:
    """Return the grammar for a chat with these functions and its response_format, or None if any text is right.

    `chosen`: the function that must be called, or NO_FUNCTION for text, if that was decided before.

    Raises InvalidRequest for a schema that no grammar can express.
    """
    json_rule = _json_rule(fields.get("response_format"))
    if not tools:
        return None if json_rule is None else f"{HEADER}start: {json_rule}\n"
    if chosen == NO_FUNCTION:
        return f"{HEADER}start: {'TEXT' if json_rule is None else json_rule}\n{_TEXT if json_rule is None else ''}\n"
    forced = forced_name(fields)
    name = forced or chosen
    is_forced = name is not None or fields.get("tool_choice") == "required"
    callable_tools = [tool for tool in tools if name is None or tool.name == name]
    is_single = forced is not None or fields.get("parallel_tool_calls") is False
    lines = [
        f"start: {'calls' if is_forced else 'calls | TEXT' if json_rule is None else f'calls | {json_rule}'}",
        "calls: call" if is_single else f'calls: call ("\\n" call){{0,{MAX_CALLS - 1}}}',
        "call: "
        + " | ".join(f"{json.dumps(start)} one {json.dumps(end)}" for start, end in openers_of(fields).items()),
        "one: " + " | ".join(f"tool{index}" for index in range(len(callable_tools))),
    ]
    for index, tool in enumerate(callable_tools):
        head = f'{{"name": {json.dumps(tool.name)}, "arguments": '
        lines += [
            f'tool{index}: {json.dumps(head)} arguments{index} "}}"',
            f"arguments{index}: %json {tool.schema}",
        ]
    if not is_forced and json_rule is None:
        lines.append(_TEXT)
    return HEADER + "\n".join(lines) + "\n"


def choice_prompt(messages: list[Json], tools: list[Tool]) -> str | None:
    """Return the question which function the last message needs, if it is the caller who decides nothing about it.

    A model of this size calls functions for greetings, or describes a call instead of making it, if it decides while it
    writes. Asked for nothing but the name, it is right more often.
    """
    last = messages[-1]
    if last["role"] != "user":
        return None
    listed = "".join(f"- {tool.name}: {tool.about[:MAX_ABOUT]}\n" for tool in tools)
    return (
        f"Which function does what the user asks for?\n{listed}- {NO_FUNCTION}: a question, a greeting or a task that "
        f'you can answer yourself in text\n\nThe user says: "{text_of(last.get("content"))[-MAX_ASKED:]}"\n\n'
        "Respond with the name only."
    )


def choice_grammar(tools: list[Tool]) -> str:
    """Return the grammar for the answer to `choice_prompt`."""
    names = [tool.name for tool in tools if tool.name != NO_FUNCTION] + [NO_FUNCTION]
    return f"{HEADER}start: {' | '.join(map(json.dumps, names))}\n"


def text_of(content: Any) -> str:
    """Return the text of a message."""
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def openers_of(fields: Json) -> dict[str, str]:
    """Return how calls may begin and end in this chat."""
    first = dict([next(iter(OPENERS.items()))])
    kind = (fields.get("response_format") or {}).get("type")
    return OPENERS if kind in (None, "text") else first


def _json_rule(response_format: Any) -> str | None:
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind == "json_object":
        return "%json " + grammar_schema(_ANY_OBJECT, "response_format")
    if kind != "json_schema":
        return None
    path = "response_format.json_schema.schema"
    try:
        return "%json " + grammar_schema(response_format["json_schema"].get("schema") or {}, path)
    except UnsupportedSchema as unsupported:
        raise InvalidRequest(f"{unsupported.path} {unsupported.reason}", param=unsupported.path) from None
