"""Estimate token counts from the bytes of text.

Used for output and prompts that the engine did not count, or counted as zero.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from minitoolai.core.inference import Usage

#: Estimated bytes of text per token. Common tokenizers average four; with five the estimate is rarely above the true
#: count, so that a caller seldom pays too much.
BYTES_PER_TOKEN = 5
#: Fields that are not generated text. Some of them are repeated in every delta.
_METADATA_FIELDS = frozenset(("role", "type", "id", "call_id", "tool_call_id", "format", "signature"))


class _DeltaChoice(msgspec.Struct):
    """Choice of a chunk. Only the delta is decoded."""

    delta: dict[str, Any] | None = None


class _Event(msgspec.Struct):
    """Chunk of a stream. Only the deltas are decoded."""

    choices: list[_DeltaChoice] = []


_decode_events = msgspec.json.Decoder(list[_Event]).decode
_decode_delta = msgspec.json.Decoder(dict[str, Any] | None).decode
_decode_string = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode
#: An integer, because `in` is five times slower with a bytes operand: it tries to convert it to a number first.
_ESCAPE = ord("\\")
#: The most frequent deltas: those with a single text, or with a piece of the arguments of a single tool call.
#: A string of megabytes that is followed by something else must not be retried from each of its characters: hence the
#: possessive `*+`, which does not backtrack.
_STRING = rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"'
_TEXT = rb'"(?:content|reasoning(?:_content)?)":' + _STRING + rb"\}"
_ARGUMENTS = rb'"tool_calls":\[\{"index":\d+,"function":\{"arguments":' + _STRING + rb"\}\}\]\}"
_find_texts = re.compile(rb'"delta":\{' + _TEXT).findall
_find_arguments = re.compile(rb'"delta":\{' + _ARGUMENTS).findall
_match = re.compile(rb"\{(?:" + _TEXT + rb"|" + _ARGUMENTS + rb")").fullmatch


def estimate_tokens(size: int) -> int:
    """Return the estimated number of tokens in this many bytes of text, rounded to the nearest."""
    return (size + BYTES_PER_TOKEN // 2) // BYTES_PER_TOKEN


def estimate_output_tokens(pieces: int, size: int) -> int:
    """Return the estimated number of tokens in deltas that carry text: at least one per delta."""
    return max(pieces, estimate_tokens(size))


def merge_usage(before: Usage | None, now: Usage) -> Usage:
    """Return the later of two reported usages, with its zeros replaced by the values of the earlier one."""
    if before is None:
        return now
    prompt = now if now.prompt_tokens else before
    output = now if now.completion_tokens else before
    if prompt.prompt_tokens == now.prompt_tokens and output.completion_tokens == now.completion_tokens:
        return now
    details = prompt.prompt_tokens_details, output.completion_tokens_details
    return Usage(prompt.prompt_tokens, output.completion_tokens, 0, *details)


def estimate_usage(
    reported: Usage | None, *, prompt: int, tokens: int, has_begun: bool, later: int = 0
) -> tuple[Usage, bool]:
    """Return the usage to charge, and whether any part of it is our own estimate.

    Use the reported usage, except that a reported zero is replaced by our estimate if `tokens` were delivered or the
    prompt was read. `later` is the number of tokens delivered after the last report of a stream that was cut off.
    Return a usage of zero if the engine reported nothing and no output `has_begun`.
    """
    if reported is None:
        return (Usage(prompt, tokens), True) if has_begun else (Usage(0, 0), False)
    was_read = has_begun or reported.completion_tokens > 0
    usage = merge_usage(Usage(prompt if was_read else 0, tokens), reported)
    if later and reported.completion_tokens:
        usage = msgspec.structs.replace(usage, completion_tokens=reported.completion_tokens + later, total_tokens=0)
    return usage, usage is not reported


# ── sizes in bytes ─────────────────────────────────────────────────────────────────────────────────────────────────


def text_size(text: bytes) -> int:
    """Return the UTF-8 size of a JSON string, given the bytes between its quotes."""
    if _ESCAPE not in text:
        return len(text)
    if text.find(b"\\u") < 0 and text.find(b"\\\\") < 0:
        # Every other escape sequence is two bytes long and stands for one byte.
        return len(text) - text.count(_ESCAPE)
    try:
        return len(_decode_string(b'"' + text + b'"').encode())
    except (msgspec.DecodeError, UnicodeDecodeError):
        # msgspec rejects half a surrogate pair; the other half is in the next delta.
        return max(1, len(text) - 4 * text.count(b"\\u"))


def delta_size(delta: bytes) -> int:
    """Return the bytes of text in a delta of a stream.

    Raises msgspec.DecodeError or UnicodeDecodeError if the delta is not a JSON object.
    """
    simple = _match(delta)
    if simple is not None and delta.isascii():
        return text_size(simple[simple.lastindex or 0])
    fields = _decode_delta(delta)
    return message_size(fields) if fields else 0


def count_deltas(block: bytes, deltas: int) -> tuple[int, int] | None:
    """Return the number of deltas that carry text in a block of events, and the bytes of that text.

    Return None if the block cannot be decoded. Every block of a forwarded stream is counted here, so try a regular
    expression first: it takes a quarter of the time of the JSON parser.
    """
    for find in (_find_texts, _find_arguments):
        texts = find(block)
        if len(texts) == deltas:
            return deltas - texts.count(b""), text_size(b"".join(texts))
    try:
        events = _decode_events(b"[" + block[6:-2].replace(b"\n\ndata: ", b",") + b"]")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    sizes = [message_size(choice.delta) for event in events for choice in event.choices if choice.delta]
    return len(sizes) - sizes.count(0), sum(sizes)


def message_size(message: dict[str, Any]) -> int:
    """Return the bytes of all strings in a delta or a message, in any field.

    Count equal strings in different fields once: some engines send the same reasoning as `reasoning`,
    `reasoning_content` and `reasoning_details`.
    """
    if len(message) == 1:
        ((field, value),) = message.items()
        if isinstance(value, str) and field not in _METADATA_FIELDS:
            return len(value.encode())
    size, seen = 0, set[str]()
    for field, value in message.items():
        texts = _texts(field, value)
        size += sum(len(text.encode()) for text in texts if text not in seen)
        seen.update(texts)
    return size


def _texts(field: str, value: Any) -> list[str]:
    """Collect the strings of one field. Iterative, because the engine controls how deeply they are nested."""
    texts: list[str] = []
    pending = [(field, value)]
    while pending:
        name, inner = pending.pop()
        if name in _METADATA_FIELDS:
            continue
        if isinstance(inner, str):
            # An image in a data URL is not text.
            if name != "url" or not inner.startswith("data:"):
                texts.append(inner)
        elif isinstance(inner, list):
            pending += [(name, item) for item in inner]
        elif isinstance(inner, dict) and name == "arguments":
            texts.append(_encode(inner).decode())
        elif isinstance(inner, dict):
            # Audio data is not text, but its transcript is.
            pending += [(key, item) for key, item in inner.items() if (name, key) != ("audio", "data")]
    return texts
