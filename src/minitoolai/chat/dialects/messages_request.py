"""Parse and validate requests for `/v1/messages`, Anthropic's format, and translate them into chats.

The body is kept as it was sent, for engines that speak this format. All other engines get the chat. Fields with a
cost that has no price here, and tools that the engine would run itself, are refused for every engine.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from minitoolai.chat.dialects.messages_blocks import (
    ChatMessages,
    Json,
    check_cache_control,
    refuse,
    system_text,
    text_at,
)
from minitoolai.chat.preferences import requested_model
from minitoolai.chat.request import LARGEST_INTEGER, MAX_TOOLS, check_chat
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import ChatRequest, MessagesForm
from minitoolai.core.request_fields import ROUTING_FIELDS
from minitoolai.http.validation import flag, integer, json_object, number, shortened

_encode = msgspec.json.Encoder().encode

#: Documented fields, which an engine with this format receives. Other fields are dropped.
MESSAGES_FIELDS = frozenset(
    """model messages max_tokens system stream temperature top_p top_k stop_sequences tools tool_choice metadata
    thinking output_config output_format context_management cache_control service_tier""".split()  # noqa: SIM905
)
#: Fields that change the price or refer to data at the provider → the values that do not, and the remedy.
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "speed": (("standard",), "it may only be standard here, because other speeds have no price"),
    "inference_geo": (("global",), "it may only be global here, because other places have no price"),
    "container": ((), "containers are not offered here: run the code in a tool of your own"),
    "mcp_servers": (([],), "MCP servers are not called from here: connect your client to them, and send their tools"),
    "thread": ((), "threads are not stored here: send all messages"),
}
_HEADERS = ("anthropic-version", "anthropic-beta")
#: Longest user ID that is sent unchanged to an engine of another format. A longer one is replaced by its hash.
_LONGEST_USER = 64
#: What an engine adds to the prompt if there are tools, and for each tool that it defines itself, in tokens.
_TOKENS_OF_TOOLS, _TOKENS_OF_A_TOOL = 1024, 4096


def parse_messages(body: bytes, headers: Mapping[str, str], *, is_count: bool = False) -> ChatRequest:
    """Return the validated chat for `/v1/messages`. InvalidRequest names the field as in this format.

    `headers` are those of the caller that are passed on. `is_count`: the request is for `/v1/messages/count_tokens`.
    """
    fields = {name: value for name, value in json_object(body).items() if value is not None}
    _check_supported(fields)
    form = MessagesForm(
        fields={name: fields[name] for name in fields if name in MESSAGES_FIELDS}, headers=dict(headers)
    )
    chat: Json = {"model": requested_model(fields), **{name: fields[name] for name in ROUTING_FIELDS if name in fields}}
    limit = integer(fields, "max_tokens", 1, LARGEST_INTEGER)
    if limit is None and not is_count:
        raise InvalidRequest(
            "max_tokens is required: send the most tokens that the response may have, such as 4096", param="max_tokens"
        )
    check_cache_control(fields, "")
    messages = ChatMessages(form)
    if "tools" in fields:
        _add_tools(fields["tools"], chat, form, messages)
    if "tool_choice" in fields:
        _add_tool_choice(fields["tool_choice"], chat, form, messages)
    messages.add_all(fields.get("messages"))
    chat["messages"] = messages.messages
    if "system" in fields and (system := system_text(fields["system"])):
        chat["messages"] = [{"role": "system", "content": system}, *messages.messages]
        form.places = {_after_system(place): at for place, at in form.places.items()}
    _add_sampling(fields, chat)
    _add_output(fields, chat, form)
    _add_thinking(fields, form)
    _check_context_management(fields, form)
    chat["stream"] = flag(fields, "stream", default=False)
    request = check_chat(chat, "openai")
    # The response always carries its usage.
    request.include_usage = True
    request.limit, request.limit_is_default = limit, True
    request.other_bytes += form.other_bytes
    known = (*_REFUSED, *ROUTING_FIELDS)
    request.extras = {name: fields[name] for name in fields if name not in MESSAGES_FIELDS and name not in known}
    if "top_k" in fields:
        request.extras["top_k"] = fields["top_k"]
    request.messages_form = form
    return request


def passed_headers(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return the headers of a request that an engine with this format receives."""
    return {name: headers[name.encode()].decode("latin-1") for name in _HEADERS if name.encode() in headers}


def _after_system(place: str) -> str:
    """Return the place of a message's part once the system prompt is the first message."""
    return re.sub(r"^messages\[(\d+)\]", lambda match: f"messages[{int(match[1]) + 1}]", place)


def _check_supported(fields: Json) -> None:
    for name, (allowed, remedy) in _REFUSED.items():
        if name in fields and fields[name] not in allowed:
            raise InvalidRequest(f"{name} is not supported: {remedy}. Leave it out", param=name)
    if fields.get("service_tier", "auto") not in ("auto", "standard_only"):
        raise refuse("service_tier", "auto or standard_only")


# ── tools ─────────────────────────────────────────────────────────────────────────────────────────────────

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
#: Longest name of a tool in a chat.
_LONGEST_NAME = 64
#: Tools that the engine defines and the client runs.
_CLIENT_TOOLS = re.compile(r"(?:bash|text_editor|computer|memory|computer_toolset|browser_toolset)_\d{8}")


def _add_tools(tools: Any, chat: Json, form: MessagesForm, messages: ChatMessages) -> None:
    if not isinstance(tools, list):
        raise refuse("tools", "a list of tools")
    functions: list[Json] = []
    for index, tool in enumerate(tools):
        at = f"tools[{index}]"
        if not isinstance(tool, dict):
            raise refuse(at, 'an object like {"name": "…", "description": "…", "input_schema": {…}}')
        check_cache_control(tool, at)
        kind = "custom" if tool.get("type") is None else tool["type"]
        if kind == "custom":
            functions.append(_function(tool, at, form, messages))
        elif isinstance(kind, str) and _CLIENT_TOOLS.fullmatch(kind):
            form.other_bytes += len(_encode(tool)) + _TOKENS_OF_A_TOOL
            messages.only_native(f"{at}.type", f"only Anthropic's models know the tool {kind}")
        else:
            raise InvalidRequest(
                f"{at}.type is {shortened(kind)}, a tool that the provider would run. Such tools are not offered here: "
                "leave it out, or define a tool of your own with a name and an input_schema, and run it in your client",
                param=f"{at}.type",
            )
    if tools:
        form.other_bytes += _TOKENS_OF_TOOLS
    if len(functions) > MAX_TOOLS:
        form.other_bytes += sum(len(_encode(function)) for function in functions)
        messages.only_native("tools", f"there are {len(functions)} tools, more than {MAX_TOOLS}")
    elif functions:
        chat["tools"] = functions


def _function(tool: Json, at: str, form: MessagesForm, messages: ChatMessages) -> Json:
    """Return a tool of the caller as a function of a chat."""
    name = text_at(tool, "name", at)
    if not _NAME.fullmatch(name):
        raise refuse(f"{at}.name", "1 to 128 letters, digits, _ or -")
    if name in messages.names:
        raise refuse(f"{at}.name", f"unique, but {name} is the name of another tool, too")
    schema, description, strict = tool.get("input_schema"), tool.get("description"), tool.get("strict")
    if not isinstance(schema, dict):
        raise refuse(f"{at}.input_schema", 'a JSON schema like {"type": "object", "properties": {…}}')
    if not isinstance(description, str | None):
        raise refuse(f"{at}.description", "a string")
    if not isinstance(strict, bool | None):
        raise refuse(f"{at}.strict", "true or false")
    short = messages.names[name] = _short_name(name)
    if short != name:
        form.tool_names[short] = name
    function = {"name": short, "description": description, "parameters": schema, "strict": strict}
    return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


def _short_name(name: str) -> str:
    """Return a name that fits into a chat: the start of a longer one, and a hash that makes it unique."""
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _add_tool_choice(choice: Any, chat: Json, form: MessagesForm, messages: ChatMessages) -> None:
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind not in ("auto", "any", "tool", "none"):
        raise refuse("tool_choice.type", "auto, any, tool or none")
    is_single = flag(choice, "disable_parallel_tool_use", default=False, inside="tool_choice.")
    if kind == "tool":
        name = text_at(choice, "name", "tool_choice")
        if name not in messages.names and form.refusal is None:
            names = ", ".join(messages.names) or "none"
            raise InvalidRequest(
                f"tool_choice.name is {shortened(name)}; the names in tools are {names[:200]}", param="tool_choice.name"
            )
        chosen: Any = {"type": "function", "function": {"name": messages.names.get(name, name)}}
    else:
        chosen = "required" if kind == "any" else kind
    if "tools" not in chat:
        if kind == "any" and form.refusal is None:
            raise InvalidRequest("tool_choice needs tools to choose from: send tools, too", param="tool_choice")
        return
    chat["tool_choice"] = chosen
    if is_single:
        chat["parallel_tool_calls"] = False


# ── other fields ──────────────────────────────────────────────────────────────────────────────────────────


def _add_sampling(fields: Json, chat: Json) -> None:
    for name in ("temperature", "top_p"):
        value = number(fields, name, 0.0, 1.0)
        if value is not None:
            chat[name] = value
    integer(fields, "top_k", 0, LARGEST_INTEGER)
    stops = fields.get("stop_sequences", [])
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise refuse("stop_sequences", "a list of non-empty strings")
    if stops:
        chat["stop"] = stops
    metadata = fields.get("metadata", {})
    if not isinstance(metadata, dict):
        raise refuse("metadata", 'an object like {"user_id": "…"}')
    user = metadata.get("user_id")
    if not isinstance(user, str | None):
        raise refuse("metadata.user_id", "a string")
    if user:
        chat["user"] = user if len(user) <= _LONGEST_USER else hashlib.sha256(user.encode()).hexdigest()


_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}


def _add_output(fields: Json, chat: Json, form: MessagesForm) -> None:
    """Translate the effort and the JSON schema of the response."""
    config = fields.get("output_config", {})
    if not isinstance(config, dict):
        raise refuse("output_config", "an object")
    effort = config.get("effort")
    if effort is not None:
        if not isinstance(effort, str) or effort not in _EFFORTS:
            raise refuse("output_config.effort", "low, medium, high, xhigh or max")
        form.effort = _EFFORTS[effort]
        form.effort_fields.append("output_config.effort")
    form.dropped += [f"output_config.{name}" for name in config if name not in ("effort", "format")]
    at = "output_config.format" if config.get("format") is not None else "output_format"
    wanted = config.get("format") if at == "output_config.format" else fields.get("output_format")
    if wanted is None:
        return
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
        raise refuse(f"{at}.type", "json_schema")
    if not isinstance(wanted.get("schema"), dict):
        raise refuse(f"{at}.schema", "a JSON schema")
    chat["response_format"] = {
        "type": "json_schema",
        "json_schema": {"name": "response", "schema": wanted["schema"], "strict": True},
    }


#: Budgets in tokens from which the effort is medium and high.
_MEDIUM, _HIGH = 4096, 16_384


def _add_thinking(fields: Json, form: MessagesForm) -> None:
    thinking = fields.get("thinking")
    if thinking is None:
        return
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if kind not in ("enabled", "disabled", "adaptive", "between_tools"):
        raise refuse("thinking.type", "enabled, disabled or adaptive")
    if thinking.get("display") not in (None, "summarized", "omitted"):
        raise refuse("thinking.display", "summarized or omitted")
    if kind == "disabled":
        return
    form.effort_fields.append("thinking")
    if kind == "enabled":
        name = "thinking.budget_tokens"
        budget = integer({name: thinking.get("budget_tokens")}, name, 1024, LARGEST_INTEGER)
        if budget is None:
            raise refuse(name, "a whole number of at least 1024")
        if form.effort is None:
            form.effort = "low" if budget < _MEDIUM else "medium" if budget < _HIGH else "high"


def _check_context_management(fields: Json, form: MessagesForm) -> None:
    management = fields.get("context_management")
    if management is None:
        return
    edits = management.get("edits", []) if isinstance(management, dict) else None
    if not isinstance(edits, list) or not all(isinstance(edit, dict) for edit in edits):
        raise refuse("context_management", 'an object like {"edits": [{"type": "clear_tool_uses_20250919"}]}')
    for index, edit in enumerate(edits):
        if str(edit.get("type")).startswith("compact"):
            raise InvalidRequest(
                f"context_management.edits[{index}].type is {shortened(edit['type'])}, which generates a summary that "
                "has no price here. Leave it out",
                param=f"context_management.edits[{index}].type",
            )
    form.may_shrink = True
    form.dropped.append("context_management")
