"""Parse and validate requests for `/v1/responses` into chats: items into messages, tools into functions.

A request that refers to stored items is parsed in two steps, because they are read in between: see `PendingResponse`.
Unknown fields are dropped.
"""

from __future__ import annotations

from typing import Any

import msgspec

from minitoolai.chat.dialects.responses_tools import ChatTools, ToolOrigin, custom_arguments
from minitoolai.chat.preferences import requested_model
from minitoolai.chat.request import LARGEST_INTEGER, check_chat, check_unpriced
from minitoolai.chat.stored.items import REFERENCE, input_list, references_in, type_of
from minitoolai.chat.stored.store import NO_HISTORY, History
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import ChatRequest
from minitoolai.http.bodies.large_json import MOST_TEXT
from minitoolai.http.validation import flag, integer, json_object, shortened

# ── input items ───────────────────────────────────────────────────────────────────────────────────────────

Json = dict[str, Any]

_TEXTS = ("input_text", "output_text", "text")


def messages_of(fields: Json, tools: ChatTools, history: History = NO_HISTORY) -> list[Json]:
    """Return `instructions`, the items of the conversation so far and `input` as chat messages."""
    messages: list[Json] = []
    instructions = fields.get("instructions")
    if instructions is not None:
        if not isinstance(instructions, str):
            raise InvalidRequest("instructions must be a string", param="instructions")
        messages.append({"role": "developer", "content": instructions})
    input_ = fields.get("input")
    if isinstance(input_, str) and input_ and not history.items:
        return [*messages, {"role": "user", "content": input_}]
    if not isinstance(input_, str | list) or not input_:
        raise InvalidRequest("input must be a non-empty string or a list of items", param="input")
    images: list[Json] = []
    before = len(history.items)
    for index, given in enumerate([*history.items, *input_list(input_)]):
        at = f"input[{index - before}]" if index >= before else "previous_response_id"
        item = _referenced(given, at, history) if isinstance(given, dict) and type_of(given) == REFERENCE else given
        is_output = isinstance(item, dict) and str(item.get("type")).endswith("_call_output")
        if images and not is_output:
            messages.append({"role": "user", "content": images})
            images = []
        _add_item(item, at, messages, tools, images)
    return [*messages, {"role": "user", "content": images}] if images else messages


def _referenced(item: Json, at: str, history: History) -> Json:
    name = item.get("id")
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{at}.id must be the ID of an item, such as msg_…", param=f"{at}.id")
    return history.references[name]


def _add_item(item: Any, at: str, messages: list[Json], tools: ChatTools, images: list[Json]) -> None:
    """Append an item as a message. Images in the output of a tool are added to `images`, for a message of the user."""
    if not isinstance(item, dict):
        raise InvalidRequest(f'{at} must be an object like {{"role": "user", "content": "Hello"}}', param=at)
    kind = "message" if item.get("type") is None else item["type"]
    if kind == "message":
        messages.append(_message(item, at))
    elif kind in ("function_call", "custom_tool_call"):
        _add_call(item, at, messages, tools)
    elif kind in ("function_call_output", "custom_tool_call_output"):
        content = _output(item.get("output"), f"{at}.output", images)
        messages.append({"role": "tool", "tool_call_id": _required_text(item, "call_id", at), "content": content})
    elif kind != "reasoning":
        # Drop earlier reasoning: models do not read it again. Refuse other types, so that nothing is lost silently.
        raise InvalidRequest(
            f"{at}.type is {shortened(kind)}; it must be message, function_call, function_call_output, "
            "custom_tool_call, custom_tool_call_output, reasoning or item_reference",
            param=f"{at}.type",
        )


def _message(item: Json, at: str) -> Json:
    role = item.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        raise InvalidRequest(
            f"{at}.role is {shortened(role)}; it must be user, assistant, system or developer", param=f"{at}.role"
        )
    content = item.get("content")
    if isinstance(content, str):
        return {"role": role, "content": content}
    if not isinstance(content, list) or not content:
        raise InvalidRequest(f"{at}.content must be a string or a list of parts", param=f"{at}.content")
    parts = [_part(part, f"{at}.content[{index}]") for index, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts):
        # Join parts that are only text, because not every engine supports parts.
        return {"role": role, "content": "".join(part["text"] for part in parts)}
    return {"role": role, "content": parts}


def _part(part: Any, at: str) -> Json:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _TEXTS:
        return {"type": "text", "text": _required_text(part, "text", at, may_be_empty=True)}
    if kind == "refusal":
        return {"type": "text", "text": _required_text(part, "refusal", at, may_be_empty=True)}
    if kind == "input_image":
        if not isinstance(part.get("image_url"), str):
            raise InvalidRequest(
                f"{at}.image_url must be an https URL or a data URL; files are not stored here", param=f"{at}.image_url"
            )
        detail = "auto" if part.get("detail") is None else part["detail"]
        return {"type": "image_url", "image_url": {"url": part["image_url"], "detail": detail}}
    raise InvalidRequest(
        f"{at}.type is {shortened(kind)}; it must be input_text, output_text, refusal or input_image",
        param=f"{at}.type",
    )


def _add_call(item: Json, at: str, messages: list[Json], tools: ChatTools) -> None:
    """Append a tool call. Consecutive calls belong to one assistant message."""
    if item["type"] == "custom_tool_call":
        arguments = custom_arguments(_required_text(item, "input", at, may_be_empty=True))
    else:
        arguments = _required_text(item, "arguments", at, may_be_empty=True)
    name = tools.function_name(_required_text(item, "name", at), item.get("namespace"))
    function = {"name": name, "arguments": arguments}
    call = {"id": _required_text(item, "call_id", at), "type": "function", "function": function}
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("tool_calls", []).append(call)
    else:
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _output(output: Any, at: str, images: list[Json]) -> str:
    """Return the text of a tool's output. In a chat only users send images, so they follow in a message of the user."""
    if isinstance(output, str):
        return output
    if not isinstance(output, list):
        raise InvalidRequest(f"{at} must be a string or a list of input_text and input_image parts", param=at)
    parts = [_part(part, f"{at}[{index}]") for index, part in enumerate(output)]
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    found = [part for part in parts if part["type"] == "image_url"]
    images += found
    return text or ("The image follows." if found else "")


def _required_text(item: Json, name: str, at: str, *, may_be_empty: bool = False) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not (value or may_be_empty):
        raise InvalidRequest(f"{at}.{name} must be a string", param=f"{at}.{name}")
    return value


# ── requests ──────────────────────────────────────────────────────────────────────────────────────────────

#: Field names of a chat → field names of this format.
NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "logprobs": "include",
}
#: Fields passed on to the chat under the same name, and validated there.
_SHARED = (
    "model", "temperature", "top_p", "parallel_tool_calls", "metadata", "user", "safety_identifier",
    "prompt_cache_key", "prompt_cache_retention", "service_tier", "stream", "models", "provider",
)  # fmt: skip
#: Fields that are used here, or that can safely be ignored.
_KNOWN = frozenset(
    (*_SHARED, "input", "instructions", "max_output_tokens", "tools", "tool_choice", "text", "reasoning", "include",
     "top_logprobs", "store", "truncation", "stream_options", "background", "client_metadata", "previous_response_id")
)  # fmt: skip
#: Remedy for a reference on a server that stores nothing.
_NOTHING_KEPT = "responses are not stored on this server"
#: Unsupported field → error message, with what to do instead.
_REFUSED = {
    "messages": "messages is not a field of /v1/responses; send them as input",
    "conversation": "conversation is not supported; send previous_response_id, or the whole conversation as input",
    "prompt": "prompt is not supported: templates are not stored here; send instructions and input",
}


class ResponseEcho(msgspec.Struct, frozen=True):
    """Fields of the request that the response repeats, and the tools behind the chat's functions."""

    fields: Json
    logprobs: bool
    origins: dict[str, ToolOrigin] = {}
    is_stored: bool = False
    is_background: bool = False


class PendingResponse(msgspec.Struct, frozen=True):
    """The `form` of a chat with references to stored items, which must be read before it can be validated."""

    fields: Json
    previous: str | None
    references: list[str]


def parse_response(body: bytes, *, keeps: bool = False) -> ChatRequest:
    """Return the validated chat for `/v1/responses`. InvalidRequest names the field as in this format.

    `keeps`: this server stores responses. The `form` of a chat that refers to some is a `PendingResponse`;
    `complete_response` then returns the chat.
    """
    fields = {name: value for name, value in json_object(body).items() if value is not None}
    _check_supported(fields, keeps=keeps)
    previous, references = fields.get("previous_response_id"), references_in(fields.get("input"))
    if previous is None and not references:
        return complete_response(fields, NO_HISTORY, keeps=keeps)
    if not keeps:
        _refuse_references(previous)
    pending = PendingResponse(fields, previous, references)
    model, streams = requested_model(fields), flag(fields, "stream", default=False)
    return ChatRequest(model, [], {}, stream=streams, include_usage=True, limit=None, form=pending)


def _refuse_references(previous: str | None) -> None:
    if previous is not None:
        raise InvalidRequest(
            f"previous_response_id is not supported: {_NOTHING_KEPT}. Send the whole conversation as input",
            param="previous_response_id",
        )
    raise InvalidRequest(
        f"input refers to a stored item, but {_NOTHING_KEPT}. Set store to false in your client, so that it sends the "
        "items themselves",
        param="input",
    )


def complete_response(fields: Json, history: History, *, keeps: bool) -> ChatRequest:
    """Return the validated chat for the fields of a request, with the items to which it refers."""
    dropped: list[str] = []
    tools = _tools(fields)
    chat: Json = {name: fields[name] for name in _SHARED if name in fields}
    chat["messages"] = messages_of(fields, tools, history)
    limit = integer(fields, "max_output_tokens", 1, LARGEST_INTEGER)
    if limit is not None:
        chat["max_completion_tokens"] = limit
    if "tool_choice" in fields:
        chat["tool_choice"] = _tool_choice(fields["tool_choice"], tools)
    if tools.functions:
        chat["tools"] = tools.functions
    elif "tools" in fields and chat.get("tool_choice", "auto") in ("auto", "none"):
        # Engines refuse these without tools.
        chat.pop("tool_choice", None)
        chat.pop("parallel_tool_calls", None)
    _text(fields, chat, dropped)
    _reasoning(fields, chat, dropped)
    logprobs = _logprobs(fields, chat)
    request = check_chat(chat, "openai")
    # A response always ends with its usage.
    request.include_usage = True
    request.extras = {name: fields[name] for name in fields if name not in _KNOWN}
    request.dropped, request.dropped_tools = dropped, tools.dropped
    if "tools" in fields:
        fields["tools"] = tools.kept
    is_stored = keeps and flag(fields, "store", default=True)
    request.form = ResponseEcho(fields, logprobs, tools.origins, is_stored, flag(fields, "background", default=False))
    if history.items and request.text_bytes > MOST_TEXT:
        raise InvalidRequest(
            f"previous_response_id: the conversation has {request.text_bytes} bytes of text, and at most {MOST_TEXT} "
            "are accepted. Start a new conversation.",
            param="previous_response_id",
        )
    return request


def _check_supported(fields: Json, *, keeps: bool) -> None:
    """Raise InvalidRequest for a field that cannot be ignored without changing the response."""
    check_unpriced(fields)
    for name in fields:
        if name in _REFUSED:
            # An error about messages would be renamed to one about input.
            raise InvalidRequest(_REFUSED[name], param="input" if name == "messages" else name)
    is_stored = flag(fields, "store", default=True)
    if flag(fields, "background", default=False):
        _check_background(fields, is_stored=is_stored, keeps=keeps)
    previous = fields.get("previous_response_id")
    if previous is not None and (not isinstance(previous, str) or not previous):
        raise InvalidRequest("previous_response_id must be a string like resp_…", param="previous_response_id")
    if fields.get("truncation", "disabled") not in ("disabled", "auto"):
        raise InvalidRequest(
            "truncation must be disabled or auto; the input is never truncated here", param="truncation"
        )


def _check_background(fields: Json, *, is_stored: bool, keeps: bool) -> None:
    if not keeps:
        raise InvalidRequest(
            f"background is not supported: {_NOTHING_KEPT}. Leave background out, and wait for the response",
            param="background",
        )
    if not is_stored:
        raise InvalidRequest(
            "background needs store: set store to true or leave it out, so that the response can be polled",
            param="background",
        )
    if flag(fields, "stream", default=False):
        raise InvalidRequest(
            "stream is not supported for background responses: leave it out, and poll GET /v1/responses/{id}",
            param="stream",
        )


def _tools(fields: Json) -> ChatTools:
    found, tools = ChatTools(), fields.get("tools", [])
    if not isinstance(tools, list):
        raise InvalidRequest("tools must be a list", param="tools")
    for index, tool in enumerate(tools):
        found.add(tool, f"tools[{index}]")
    return found


def _tool_choice(choice: Any, tools: ChatTools) -> Any:
    if not isinstance(choice, dict):
        return choice
    kind = choice.get("type")
    if kind == "allowed_tools":
        return _allowed_tools(choice, tools)
    if kind not in ("function", "custom"):
        raise InvalidRequest(
            f"tool_choice.type is {shortened(kind)}; it must be function, custom or allowed_tools, like "
            '{"type": "function", "name": "…"}',
            param="tool_choice.type",
        )
    return {"type": "function", "function": {"name": tools.function_name(choice.get("name"), choice.get("namespace"))}}


def _allowed_tools(choice: Json, tools: ChatTools) -> Any:
    """Return the mode, and remove all tools that are not allowed: chats have no such choice."""
    mode, allowed = choice.get("mode", "auto"), choice.get("tools")
    if mode not in ("auto", "required"):
        raise InvalidRequest("tool_choice.mode must be auto or required", param="tool_choice.mode")
    if not isinstance(allowed, list) or not all(isinstance(tool, dict) for tool in allowed):
        raise InvalidRequest('tool_choice.tools must be a list like [{"type": "function", "name": "…"}]',
                             param="tool_choice.tools")  # fmt: skip
    names = [tools.function_name(tool.get("name"), tool.get("namespace")) for tool in allowed]
    unknown = [name for name in names if name is not None and not (isinstance(name, str) and name in tools.origins)]
    if unknown:
        raise InvalidRequest(
            f"tool_choice.tools names {shortened(unknown[0])}, which is not in tools", param="tool_choice.tools"
        )
    tools.keep_only(names)
    if not tools.functions:
        if mode == "required":
            raise InvalidRequest("tool_choice.tools must name at least one of tools", param="tool_choice.tools")
        return "none"
    return mode


def _object(fields: Json, name: str) -> Json:
    value = fields.get(name, {})
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} must be an object", param=name)
    return value


_TEXT_FIELDS = ("format", "verbosity")


def _text(fields: Json, chat: Json, dropped: list[str]) -> None:
    """Convert `text.format` to a chat's nested response_format, and pass on the verbosity."""
    text = _object(fields, "text")
    form = text.get("format")
    if form is not None:
        if not isinstance(form, dict):
            raise InvalidRequest("text.format must be an object", param="text.format")
        if form.get("type") == "json_schema":
            inner = {key: value for key, value in form.items() if key != "type" and value is not None}
            form = {"type": "json_schema", "json_schema": inner}
        if form.get("type") != "text":
            chat["response_format"] = form
    if text.get("verbosity") is not None:
        chat["verbosity"] = text["verbosity"]
    dropped += [f"text.{name}" for name, value in text.items() if name not in _TEXT_FIELDS and value is not None]


def _reasoning(fields: Json, chat: Json, dropped: list[str]) -> None:
    reasoning = _object(fields, "reasoning")
    known = ("effort", "summary", "generate_summary")
    dropped += [f"reasoning.{name}" for name, value in reasoning.items() if name not in known and value is not None]
    if reasoning.get("effort") is not None:
        chat["reasoning_effort"] = reasoning["effort"]


def _logprobs(fields: Json, chat: Json) -> bool:
    include = fields.get("include", [])
    if not isinstance(include, list):
        raise InvalidRequest("include must be a list", param="include")
    # The other values request results of tools that do not exist here.
    wanted = "message.output_text.logprobs" in include
    top_logprobs = integer(fields, "top_logprobs", 0, 20)
    if wanted or top_logprobs:
        chat |= {"logprobs": True, "top_logprobs": top_logprobs or 0}
    return wanted or bool(top_logprobs)
