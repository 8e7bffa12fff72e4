"""Dialect of `/v1/completions`, OpenAI's legacy text completions. Internally a chat with a prompt."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from minitoolai.chat.endpoint import DialectAdapter, DialectRun, OpenAIErrors
from minitoolai.chat.preferences import requested_model, take_preferences
from minitoolai.chat.request import LARGEST_INTEGER, check_options, wants_usage
from minitoolai.chat.run import ChatRun
from minitoolai.chat.stream.chunks import DONE
from minitoolai.core.errors import InvalidRequest, ServiceError
from minitoolai.core.inference import ChatRequest
from minitoolai.core.request_fields import COMPLETION_FIELDS, other_bytes, prompt_bytes, split_fields
from minitoolai.http.validation import flag, integer, json_object, shortened

# ── requests ──────────────────────────────────────────────────────────────────────────────────────────────

#: OpenAI's default.
DEFAULT_LIMIT = 16
MAX_PROMPTS = 128
_OURS = frozenset(("model", "prompt", "stream", "max_tokens"))
#: Fields of a chat that have no meaning here. They are dropped without a check.
_CHATS_ONLY = ("messages", "tools", "tool_choice", "response_format", "parallel_tool_calls", "modalities")


def parse_text(body: bytes) -> ChatRequest:
    """Return the validated request for `/v1/completions`. InvalidRequest names the field."""
    fields = json_object(body)
    model = requested_model(fields)
    prompts, text_bytes = _prompts(fields.get("prompt"))
    requested = integer(fields, "max_tokens", 1, LARGEST_INTEGER)
    flag(fields, "echo", default=False)
    choices = integer(fields, "n", 1, 128) or 1
    # Validated, but not honoured: it would generate, and bill, more output than the caller receives.
    integer(fields, "best_of", 1, 20)
    integer(fields, "logprobs", 0, 20)
    stream = flag(fields, "stream", default=False)
    include_usage = wants_usage(fields)
    if fields.get("suffix") is not None and not isinstance(fields["suffix"], str):
        raise InvalidRequest("suffix must be a string", param="suffix")
    rest, extras = split_fields({key: fields[key] for key in fields if key not in _OURS}, COMPLETION_FIELDS)
    preferences = take_preferences(model, extras)
    # Here logprobs is a number, in a chat it is a boolean.
    check_options({key: value for key, value in (rest | extras).items() if key not in ("logprobs", *_CHATS_ONLY)})
    return ChatRequest(
        model=model,
        messages=[],
        fields=rest,
        stream=stream,
        include_usage=include_usage,
        limit=requested or DEFAULT_LIMIT,
        limit_is_default=requested is None,
        choices=choices * prompts,
        text_bytes=text_bytes + prompt_bytes(rest) * prompts,
        other_bytes=other_bytes(rest),
        extras=extras,
        preferences=preferences,
        prompt=fields["prompt"],
    )


def _prompts(prompt: Any) -> tuple[int, int]:
    """Return the number of prompts, and an upper bound of their tokens."""
    if isinstance(prompt, str) and prompt:
        return 1, _size(prompt)
    if not isinstance(prompt, list) or not prompt:
        raise InvalidRequest("prompt must be a non-empty string, or a list of strings or of tokens", param="prompt")
    convert_whole_floats(prompt)
    if is_tokens(prompt):
        return 1, len(prompt)
    if len(prompt) > MAX_PROMPTS:
        raise InvalidRequest(f"prompt has {len(prompt)} texts; send at most {MAX_PROMPTS} per request", param="prompt")
    size = 0
    for index, text in enumerate(prompt):
        if isinstance(text, str) and text:
            size += _size(text)
        elif isinstance(text, list) and text and is_tokens(text):
            size += len(text)
        else:
            raise InvalidRequest(
                f"prompt[{index}] is {shortened(text)}; it must be a non-empty string or a list of tokens",
                param=f"prompt[{index}]",
            )
    return len(prompt), size


def convert_whole_floats(prompt: list[Any]) -> None:
    """Convert floats such as 4.0 to integers in place: JSON has only one number type."""
    for index, token in enumerate(prompt):
        if isinstance(token, float) and token.is_integer():
            prompt[index] = int(token)
        elif isinstance(token, list):
            convert_whole_floats(token)


def is_tokens(prompt: list[Any]) -> bool:
    """Return True if every item could be a token ID."""
    return all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token < 2**31 for token in prompt)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


# ── responses ─────────────────────────────────────────────────────────────────────────────────────────────

Json = dict[str, Any]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_LIMIT = "max_completion_tokens"
#: Field names of a chat → field names of this format.
_NAMES = {"messages": "prompt", _LIMIT: "max_tokens"}
#: Finish reasons of a chat → those of this format.
_FINISH_REASONS = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "stop",
    "function_call": "stop",
}


class CompletionsDialect(OpenAIErrors):
    """OpenAI's legacy text completions."""

    def parse(self, body: bytes) -> ChatRequest:
        return parse_text(body)

    def adapt(self, run: ChatRun) -> DialectRun:
        return DialectAdapter(run, CompletionsTranslator(f"cmpl-{run.name[4:]}"))

    def map_error(self, error: ServiceError) -> ServiceError:
        return rename_fields(error, _NAMES)


def rename_fields(error: ServiceError, names: dict[str, str]) -> ServiceError:
    """Replace the field name of a chat in an error by the one that its caller used."""
    match = re.match(r"\w+", error.param or "")
    if match and match[0] in names:
        field = match[0]
        error.message = error.message.replace(field, names[field])
        error.param = names[field] + (error.param or "").removeprefix(field)
    # The limit is also named beside other fields.
    error.message = error.message.replace(_LIMIT, names.get(_LIMIT, _LIMIT))
    return error


class CompletionsTranslator:
    """Translate chat chunks and completions to `text_completion` objects."""

    def __init__(self, name: str) -> None:
        self._name = name
        #: Characters sent so far, by choice: token offsets count from the beginning of its text.
        self._sent: dict[int, int] = {}

    def events(self, block: bytes) -> bytes:
        return b"".join(self._event(event) for event in block.split(b"\n\n") if event)

    def final_events(self, block: bytes) -> bytes:
        usage = block.removesuffix(DONE)
        return (self._event(usage.strip(), is_usage=True) if usage else b"") + DONE

    def completion(self, body: bytes) -> bytes:
        completion = _decode(body)
        choices = [self._choice(choice, "message") for choice in completion["choices"]]
        return _encode(self._translate(completion, choices))

    def _event(self, event: bytes, *, is_usage: bool = False) -> bytes:
        chunk = _decode(event.removeprefix(b"data:"))
        choices = [self._choice(choice, "delta") for choice in chunk["choices"]]
        choices = [choice for choice in choices if choice["text"] or choice["finish_reason"]]
        if not choices and not is_usage:
            return b""
        return b"data: " + _encode(self._translate(chunk, choices)) + b"\n\n"

    def _translate(self, chunk: Json, choices: list[Json]) -> Json:
        translated = {
            "id": self._name,
            "object": "text_completion",
            "created": chunk["created"],
            "model": chunk["model"],
            "system_fingerprint": chunk.get("system_fingerprint"),
            "choices": choices,
        }
        return translated | {"usage": chunk["usage"]} if "usage" in chunk else translated

    def _choice(self, choice: Json, where: str) -> Json:
        index = choice.get("index", 0)
        text = (choice.get(where) or {}).get("content") or ""
        offset = self._sent.get(index, 0)
        self._sent[index] = offset + len(text)
        return {
            "text": text,
            "index": index,
            "logprobs": _convert_logprobs(choice.get("logprobs"), offset),
            "finish_reason": _FINISH_REASONS.get(choice.get("finish_reason") or ""),
        }


def _convert_logprobs(logprobs: Json | None, offset: int) -> Json | None:
    """Convert a chat's logprobs to the four lists of this format. Those already in this format are returned as is."""
    if not logprobs or not isinstance(logprobs.get("content"), list):
        return logprobs
    tokens = logprobs["content"]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token["token"])
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [{top["token"]: top["logprob"] for top in token.get("top_logprobs") or ()} for token in tokens],
        "text_offset": offsets,
    }
