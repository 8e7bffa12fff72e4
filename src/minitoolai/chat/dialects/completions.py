"""`/v1/completions`: plain text continued. Inside it is a chat like any other; here it is told as OpenAI's old form."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from minitoolai.chat.endpoint import DialectAdapter, DialectRun
from minitoolai.chat.normalizer import DONE
from minitoolai.chat.request import LARGEST_INTEGER, check_options, wants_usage
from minitoolai.chat.run import ChatRun
from minitoolai.core.errors import InvalidRequest, ServiceError
from minitoolai.core.inference import ChatRequest
from minitoolai.http.errors import error_event, status_and_type
from minitoolai.http.validation import flag, integer, json_object, non_empty_text, shortened

# (merged from wire_completions) Bodies of requests that continue a plain text, into checked requests. Every refusal names the field.

#: OpenAI's own.
DEFAULT_LIMIT = 16
MOST_PROMPTS = 128
_OURS = frozenset(("model", "prompt", "stream", "max_tokens"))


def parse_text(body: bytes) -> ChatRequest:
    """The checked request for `/v1/completions`; InvalidRequest names the field."""
    fields = json_object(body)
    model = non_empty_text(fields, "model")
    prompts, text_bytes = _prompts(fields.get("prompt"))
    asked = integer(fields, "max_tokens", 1, LARGEST_INTEGER)
    flag(fields, "echo", default=False)
    choices = integer(fields, "n", 1, 128) or 1
    # Checked, but not sent on: more would be written than is read.
    integer(fields, "best_of", 1, 20)
    integer(fields, "logprobs", 0, 20)
    stream = flag(fields, "stream", default=False)
    include_usage = wants_usage(fields)
    rest = {key: value for key, value in fields.items() if key not in _OURS and value is not None}
    # The logprobs of a text are a number, those of a chat a flag.
    check_options({key: value for key, value in rest.items() if key != "logprobs"})
    return ChatRequest(
        model=model,
        messages=[],
        fields=rest,
        stream=stream,
        include_usage=include_usage,
        limit=asked or DEFAULT_LIMIT,
        limit_is_default=asked is None,
        choices=choices * prompts,
        text_bytes=text_bytes,
        prompt=fields["prompt"],
    )


def _prompts(prompt: Any) -> tuple[int, int]:
    """(how many there are, the most tokens they can count)."""
    if isinstance(prompt, str) and prompt:
        return 1, _size(prompt)
    if not isinstance(prompt, list) or not prompt:
        raise InvalidRequest("prompt must be a non-empty string, or a list of strings or of tokens", param="prompt")
    make_whole(prompt)
    if is_tokens(prompt):
        return 1, len(prompt)
    if len(prompt) > MOST_PROMPTS:
        raise InvalidRequest(f"prompt holds {len(prompt)} texts; send at most {MOST_PROMPTS} a request", param="prompt")
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


def make_whole(prompt: list[Any]) -> None:
    """4.0 is an integer in JSON, here as everywhere."""
    for index, token in enumerate(prompt):
        if isinstance(token, float) and token.is_integer():
            prompt[index] = int(token)
        elif isinstance(token, list):
            make_whole(token)


def is_tokens(prompt: list[Any]) -> bool:
    """Whether all of them could be tokens."""
    return all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token < 2**31 for token in prompt)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


Json = dict[str, Any]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
#: Chat's names of fields, in this form's words.
_NAMES = {"messages": "prompt", "max_completion_tokens": "max_tokens"}


class CompletionsDialect:
    """OpenAI's form of before there were chats."""

    def parse(self, body: bytes) -> ChatRequest:
        return parse_text(body)

    def speaker(self, run: ChatRun) -> DialectRun:
        return DialectAdapter(run, CompletionsTranslator(f"cmpl-{run.name[4:]}"))

    def retold(self, error: ServiceError) -> ServiceError:
        return renamed(error, _NAMES)

    def last_words(self, speaker: DialectRun, error: ServiceError) -> bytes:
        return error_event(error.message, kind=status_and_type(error)[1], code=error.code, param=error.param)


def renamed(error: ServiceError, names: dict[str, str]) -> ServiceError:
    """The error with the names of fields that its caller used."""
    found = re.match(r"\w+", error.param or "")
    if found and found[0] in names:
        field = found[0]
        error.message = error.message.replace(field, names[field])
        error.param = names[field] + (error.param or "").removeprefix(field)
    return error


class CompletionsTranslator:
    """Chat chunks and completions, retold as `text_completion`."""

    def __init__(self, name: str) -> None:
        self._name = name
        #: Characters told so far of each choice: the offsets of its tokens count from the beginning.
        self._told: dict[int, int] = {}

    def events(self, block: bytes) -> bytes:
        return b"".join(self._event(event) for event in block.split(b"\n\n") if event)

    def final_events(self, block: bytes) -> bytes:
        usage = block.removesuffix(DONE)
        return (self._event(usage.strip(), is_usage=True) if usage else b"") + DONE

    def whole(self, body: bytes) -> bytes:
        answer = _decode(body)
        return _encode(self._retold(answer, [self._choice(choice, "message") for choice in answer["choices"]]))

    def _event(self, event: bytes, *, is_usage: bool = False) -> bytes:
        chunk = _decode(event.removeprefix(b"data:"))
        choices = [self._choice(choice, "delta") for choice in chunk["choices"]]
        told = [choice for choice in choices if choice["text"] or choice["finish_reason"]]
        if not told and not is_usage:
            return b""
        return b"data: " + _encode(self._retold(chunk, told)) + b"\n\n"

    def _retold(self, chunk: Json, choices: list[Json]) -> Json:
        retold = {
            "id": self._name,
            "object": "text_completion",
            "created": chunk["created"],
            "model": chunk["model"],
            "system_fingerprint": chunk.get("system_fingerprint"),
            "choices": choices,
        }
        return retold | {"usage": chunk["usage"]} if "usage" in chunk else retold

    def _choice(self, choice: Json, where: str) -> Json:
        index = choice.get("index", 0)
        text = (choice.get(where) or {}).get("content") or ""
        offset = self._told.get(index, 0)
        self._told[index] = offset + len(text)
        return {
            "text": text,
            "index": index,
            "logprobs": _old_logprobs(choice.get("logprobs"), offset),
            "finish_reason": choice.get("finish_reason"),
        }


def _old_logprobs(logprobs: Json | None, offset: int) -> Json | None:
    """Four lists instead of one; what an engine tells in the old form already stays as it is."""
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
