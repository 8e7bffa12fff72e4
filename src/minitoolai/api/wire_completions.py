"""Bodies of requests that continue a plain text, into checked requests. Every refusal names the field."""

from __future__ import annotations

from typing import Any

from minitoolai.api.fields import flag, integer, json_object, non_empty_text, shortened
from minitoolai.api.wire import LARGEST_INTEGER, wants_usage
from minitoolai.api.wire_options import check_options
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import ChatRequest

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
