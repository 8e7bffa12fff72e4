"""Translate chats into requests of Anthropic's Messages API, and prepare those that were sent in its format."""

from __future__ import annotations

import json
from typing import Any

from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.inference import ChatRequest, MessagesForm

Json = dict[str, Any]

#: Name of the tool that stands for a JSON schema, for models that do not accept one.
SCHEMA_TOOL = "respond"
#: Share of the output limit that a model may use to think, by `reasoning_effort`, in percent; and the least budget.
_BUDGETS = {"minimal": 20, "low": 20, "medium": 50, "high": 80, "xhigh": 90, "max": 90}
LEAST_BUDGET = 1024
_EFFORTS = {"minimal": "low"}
#: Fields that cannot be honoured → the values that change nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "seed": (),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "functions": ([],),
    "function_call": ("none",),
    "verbosity": ("medium",),
    "echo": (False,),
    "suffix": ("",),
}


def unsupported_field(request: ChatRequest, entry: EngineEntry) -> str | None:
    """Return the first field of a chat or a text completion that Anthropic's API cannot honour."""
    if request.embed is not None:
        return "input"
    if request.prompt is not None and first_text(request.prompt) is None:
        return "prompt"
    fields = request.fields
    for name, value in fields.items():
        if name in _UNSUPPORTED and value not in _UNSUPPORTED[name]:
            return name
    if fields.get("temperature", 0) > 1:
        return "temperature"
    if any(tool.get("type") != "function" for tool in fields.get("tools", ())):
        return "tools"
    if fields.get("response_format", {}).get("type") == "json_object":
        return "response_format"
    if entry.thinking == "none" and fields.get("reasoning_effort", "none") != "none":
        return "reasoning_effort"
    return None


def first_text(prompt: Any) -> str | None:
    """Return the text of a prompt of a text completion, if it is one text."""
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    return prompt if isinstance(prompt, str) else None


# ── requests that were sent in this format ────────────────────────────────────────────────────────────────


def native_body(request: ChatRequest, form: MessagesForm, limit: int, entry: EngineEntry) -> Json:
    """Return the body as it was sent, with the model and the limit replaced."""
    body = {**form.fields, **{name: request.extras[name] for name in entry.forwards if name in request.extras}}
    body |= {"model": entry.served_name(request.model), "max_tokens": limit, "stream": request.stream}
    _place_images(form)
    body["messages"] = [_without_unsigned(message) for message in body["messages"]]
    thinking = body.get("thinking")
    if limit < (request.limit or limit) and isinstance(thinking, dict) and thinking.get("type") == "enabled":
        # The limit was lowered, and the budget must be below it.
        budget = min(thinking["budget_tokens"], limit - 1)
        body["thinking"] = {**thinking, "budget_tokens": budget} if budget >= LEAST_BUDGET else {"type": "disabled"}
    return body


def _place_images(form: MessagesForm) -> None:
    """Replace the URLs of images that were fetched by their bytes."""
    for source, image_url in form.images:
        if source.get("type") == "url" and image_url["url"].startswith("data:"):
            fetched = _image_source(image_url["url"])
            source.clear()
            source.update(fetched)


def _without_unsigned(message: Json) -> Json:
    """Remove thinking without a signature: it is from an engine of another kind, and would be refused."""
    content = message["content"]
    if message["role"] != "assistant" or isinstance(content, str):
        return message
    kept = [block for block in content if block.get("type") != "thinking" or block.get("signature")]
    return message if len(kept) == len(content) else {**message, "content": kept or [_text(" ")]}


# ── chats ─────────────────────────────────────────────────────────────────────────────────────────────────


def messages_body(request: ChatRequest, limit: int, entry: EngineEntry) -> Json:
    """Return the body for a chat or a text completion. `unsupported_field` has returned None for it."""
    body: Json = {name: request.extras[name] for name in entry.forwards if name in request.extras}
    if request.prompt is None:
        system, messages = _messages(request.messages)
    else:
        system, messages = [], [{"role": "user", "content": first_text(request.prompt)}]
    body |= {"model": entry.served_name(request.model), "max_tokens": limit, "messages": messages}
    body["stream"] = request.stream
    if system:
        body["system"] = system
    fields = request.fields
    for name in ("temperature", "top_p"):
        if name in fields:
            body[name] = fields[name]
    if stop := fields.get("stop"):
        body["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    if user := fields.get("safety_identifier") or fields.get("user"):
        body["metadata"] = {"user_id": user}
    _add_tools(fields, body)
    _add_schema(fields, body, entry)
    _add_thinking(fields, body, limit, entry)
    return body


def uses_schema_tool(request: ChatRequest, entry: EngineEntry) -> bool:
    """Return True if the response is the input of a tool that stands for the requested JSON schema."""
    return not entry.structured_outputs and request.fields.get("response_format", {}).get("type") == "json_schema"


def _messages(messages: list[Json]) -> tuple[list[Json], list[Json]]:
    """Return the blocks of the system prompt, and the messages. Consecutive messages of one role become one."""
    system: list[Json] = []
    found: list[Json] = []
    for message in messages:
        role = message["role"]
        if role in ("system", "developer"):
            system += _blocks(message.get("content"))
            continue
        if role == "tool":
            blocks = [_tool_result(message)]
        elif role == "assistant":
            blocks = _assistant_blocks(message)
        else:
            blocks = _blocks(message.get("content"))
        role = "assistant" if role == "assistant" else "user"
        if not blocks:
            continue
        if found and found[-1]["role"] == role:
            found[-1]["content"] += blocks
        else:
            found.append({"role": role, "content": blocks})
    if not found:
        # A request needs a message.
        return [], [{"role": "user", "content": system or [_text(" ")]}]
    if found[-1]["role"] == "assistant" and found[-1]["content"][-1]["type"] == "text":
        # The response continues this text, which must not end in white space.
        found[-1]["content"][-1]["text"] = found[-1]["content"][-1]["text"].rstrip() or "…"
    return system, found


def _blocks(content: Any) -> list[Json]:
    """Return the blocks of a content. Empty texts are left out, because they are refused."""
    if isinstance(content, str):
        return [_text(content)] if content else []
    blocks: list[Json] = []
    for part in content or ():
        block: Json = _text(part.get("text") or part.get("refusal") or "")
        if part["type"] == "image_url":
            block = {"type": "image", "source": _image_source(part["image_url"]["url"])}
        elif not block["text"]:
            continue
        if isinstance(part.get("cache_control"), dict):
            block["cache_control"] = part["cache_control"]
        blocks.append(block)
    return blocks


def _image_source(url: str) -> Json:
    if not url.startswith("data:"):
        return {"type": "url", "url": url}
    head, _, data = url.partition(",")
    kind = head.removeprefix("data:").partition(";")[0]
    return {"type": "base64", "media_type": "image/jpeg" if kind == "image/jpg" else kind, "data": data}


def _assistant_blocks(message: Json) -> list[Json]:
    blocks = [*_thoughts(message), *_blocks(message.get("content"))]
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        block = {"type": "tool_use", "id": call.get("id"), "name": function.get("name")}
        blocks.append({**block, "input": _arguments(function.get("arguments"))})
    return blocks


def _thoughts(message: Json) -> list[Json]:
    """Return the earlier thinking, if the caller sends it back with its signature, as `reasoning_details`."""
    thoughts: list[Json] = []
    details = message.get("reasoning_details")
    texts: dict[Any, Json] = {}
    for detail in details if isinstance(details, list) else ():
        if not isinstance(detail, dict):
            continue
        if detail.get("type") == "reasoning.encrypted" and isinstance(detail.get("data"), str):
            thoughts.append({"type": "redacted_thinking", "data": detail["data"]})
        elif detail.get("type") == "reasoning.text":
            # Pieces of a stream have the same index.
            index = detail.get("index", len(texts))
            if index not in texts:
                texts[index] = {"type": "thinking", "thinking": "", "signature": ""}
                thoughts.append(texts[index])
            for ours, theirs in (("thinking", "text"), ("signature", "signature")):
                if isinstance(detail.get(theirs), str):
                    texts[index][ours] += detail[theirs]
    return [thought for thought in thoughts if thought.get("signature") or "data" in thought]


def _arguments(text: Any) -> Json:
    """Return the arguments of a call as an object. Text that is no object is passed on as one field."""
    if not text:
        return {}
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"arguments": text}


def _tool_result(message: Json) -> Json:
    result: Json = {"type": "tool_result", "tool_use_id": message.get("tool_call_id")}
    if content := message.get("content"):
        result["content"] = content
    return result


def _add_tools(fields: Json, body: Json) -> None:
    tools = fields.get("tools")
    if not tools:
        return
    body["tools"] = [_tool(tool) for tool in tools]
    choice = fields.get("tool_choice", "auto")
    if isinstance(choice, dict):
        chosen = {"type": "tool", "name": choice["function"]["name"]}
    else:
        chosen = {"type": "any" if choice == "required" else choice}
    if fields.get("parallel_tool_calls") is False and chosen["type"] != "none":
        chosen["disable_parallel_tool_use"] = True
    if chosen != {"type": "auto"}:
        body["tool_choice"] = chosen


def _tool(tool: Json) -> Json:
    function = tool["function"]
    found = {name: function[name] for name in ("name", "description", "strict") if function.get(name) is not None}
    found["input_schema"] = {"type": "object", **(function.get("parameters") or {"properties": {}})}
    if isinstance(tool.get("cache_control"), dict):
        found["cache_control"] = tool["cache_control"]
    return found


def _add_schema(fields: Json, body: Json, entry: EngineEntry) -> None:
    """Ask for a response that follows a JSON schema, or for the call of a tool that has it."""
    wanted = fields.get("response_format", {})
    if wanted.get("type") != "json_schema":
        return
    schema = wanted["json_schema"].get("schema") or {"type": "object"}
    if entry.structured_outputs:
        body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        return
    tool = {"name": SCHEMA_TOOL, "description": "Give the response.", "input_schema": schema}
    body["tools"] = [*body.get("tools", []), tool]
    body["tool_choice"] = {"type": "any"} if len(body["tools"]) > 1 else {"type": "tool", "name": SCHEMA_TOOL}


def _add_thinking(fields: Json, body: Json, limit: int, entry: EngineEntry) -> None:
    effort = fields.get("reasoning_effort")
    if effort is None or effort == "none" or not _may_think(body):
        return
    if entry.thinking == "adaptive":
        body["thinking"] = {"type": "adaptive"}
        body.setdefault("output_config", {})["effort"] = _EFFORTS.get(effort, effort)
        return
    budget = limit * _BUDGETS.get(effort, 50) // 100
    if budget >= LEAST_BUDGET:
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}
        # A model that thinks accepts no other temperature.
        body.pop("temperature", None)


def _may_think(body: Json) -> bool:
    """Return True unless a tool is forced, or the last call has lost the thinking that led to it."""
    if body.get("tool_choice", {}).get("type") in ("any", "tool"):
        return False
    last = next((message for message in reversed(body["messages"]) if message["role"] == "assistant"), None)
    if last is None or isinstance(last["content"], str) or body["messages"][-1]["role"] == "assistant":
        return last is None
    kinds = [block["type"] for block in last["content"]]
    is_answered = any(block["type"] == "tool_result" for block in body["messages"][-1]["content"])
    return not (is_answered and "tool_use" in kinds and "thinking" not in kinds and "redacted_thinking" not in kinds)


def _text(text: str) -> Json:
    return {"type": "text", "text": text}
