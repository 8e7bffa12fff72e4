"""Count tokens by the bytes of text, for answers and prompts that no engine counted, or that it counted as zero."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from minitoolai.core.inference import Usage

#: Bytes of text that one token stands for. Four are usual in the tokenizers in use; with five the count is rarely
#: above the true one, so that a caller seldom pays for the guess.
BYTES_PER_TOKEN = 5
#: Strings that frame an answer and are not generated. Some are repeated in every delta.
_BOOKKEEPING = frozenset(("role", "type", "id", "call_id", "tool_call_id", "format", "signature"))


class _Said(msgspec.Struct):
    """One choice of a chunk; only the delta is read."""

    delta: dict[str, Any] | None = None


class _Event(msgspec.Struct):
    """One chunk; only the deltas are read."""

    choices: list[_Said] = []


_decode_events = msgspec.json.Decoder(list[_Event]).decode
_decode_said = msgspec.json.Decoder(dict[str, Any] | None).decode
_decode_string = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode
#: As a number: `in` tries bytes as one first, and that they are none takes it five times as long.
_ESCAPE = ord("\\")
#: Deltas with nothing but a text, or nothing but a piece of a call's arguments; most are. A string of megabytes that is
#: followed by something else must not be tried again from each of its characters: hence `*+`, which gives nothing back.
_STRING = rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"'
_TEXT = rb'"(?:content|reasoning(?:_content)?)":' + _STRING + rb"\}"
_ARGUMENTS = rb'"tool_calls":\[\{"index":\d+,"function":\{"arguments":' + _STRING + rb"\}\}\]\}"
_find_texts = re.compile(rb'"delta":\{' + _TEXT).findall
_find_arguments = re.compile(rb'"delta":\{' + _ARGUMENTS).findall
_match = re.compile(rb"\{(?:" + _TEXT + rb"|" + _ARGUMENTS + rb")").fullmatch


def tokens_in(size: int) -> int:
    """Return the likely number of tokens in this many bytes of text, to the nearest."""
    return (size + BYTES_PER_TOKEN // 2) // BYTES_PER_TOKEN


def tokens_written(pieces: int, size: int) -> int:
    """Return the likely number of tokens in deltas that carry text: at least one for each."""
    return max(pieces, tokens_in(size))


def merged(before: Usage | None, now: Usage) -> Usage:
    """Return the later of two counts, with the earlier one in place of a zero."""
    if before is None:
        return now
    asked, written = now if now.prompt_tokens else before, now if now.completion_tokens else before
    if asked.prompt_tokens == now.prompt_tokens and written.completion_tokens == now.completion_tokens:
        return now
    details = asked.prompt_tokens_details, written.completion_tokens_details
    return Usage(asked.prompt_tokens, written.completion_tokens, 0, *details)


def counted(reported: Usage | None, *, prompt: int, tokens: int, has_begun: bool, later: int = 0) -> tuple[Usage, bool]:
    """Return the usage to charge, and whether any of it is our own count.

    The reported usage stands, except for a zero where `tokens` were delivered or a prompt was read: those are counted
    here. `later` tokens were delivered after the report, by an answer that was cut. Before an answer `has_begun` it
    costs nothing.
    """
    if reported is None:
        return (Usage(prompt, tokens), True) if has_begun else (Usage(0, 0), False)
    was_read = has_begun or reported.completion_tokens > 0
    usage = merged(Usage(prompt if was_read else 0, tokens), reported)
    if later and reported.completion_tokens:
        usage = msgspec.structs.replace(usage, completion_tokens=reported.completion_tokens + later, total_tokens=0)
    return usage, usage is not reported


# ── bytes ─────────────────────────────────────────────────────────────────────────────────────────────────


def text_size(text: bytes) -> int:
    """Return the UTF-8 size of a JSON string, given what stands between its quotes."""
    if _ESCAPE not in text:
        return len(text)
    if text.find(b"\\u") < 0 and text.find(b"\\\\") < 0:
        # Every other escape is two bytes that stand for one.
        return len(text) - text.count(_ESCAPE)
    try:
        return len(_decode_string(b'"' + text + b'"').encode())
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Half of a surrogate pair is no string for msgspec; the other half is in the next delta.
        return max(1, len(text) - 4 * text.count(b"\\u"))


def delta_size(delta: bytes) -> int:
    """Return the bytes of text in a delta of a stream. msgspec.DecodeError or UnicodeDecodeError if it is no object."""
    simple = _match(delta)
    if simple is not None and delta.isascii():
        return text_size(simple[simple.lastindex or 0])
    said = _decode_said(delta)
    return said_size(said) if said else 0


def said_in(block: bytes, deltas: int) -> tuple[int, int] | None:
    """Count the deltas that carry text in a block of plain events, and its bytes; None where it is not so plain.

    Every block of a forwarded stream is counted here: a regular expression takes a quarter of what a parser does.
    """
    for find in (_find_texts, _find_arguments):
        texts = find(block)
        if len(texts) == deltas:
            return deltas - texts.count(b""), text_size(b"".join(texts))
    try:
        events = _decode_events(b"[" + block[6:-2].replace(b"\n\ndata: ", b",") + b"]")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    sizes = [said_size(choice.delta) for event in events for choice in event.choices if choice.delta]
    return len(sizes) - sizes.count(0), sum(sizes)


def said_size(said: dict[str, Any]) -> int:
    """Return the bytes of every string in a delta or a message, whatever its field is called.

    Some engines send one thought under several names (`reasoning`, `reasoning_content`, `reasoning_details`), so a
    string that another field holds, too, is counted once.
    """
    if len(said) == 1:
        ((field, value),) = said.items()
        if isinstance(value, str) and field not in _BOOKKEEPING:
            return len(value.encode())
    size, before = 0, set[str]()
    for field, value in said.items():
        texts = _texts(field, value)
        size += sum(len(text.encode()) for text in texts if text not in before)
        before.update(texts)
    return size


def _texts(field: str, value: Any) -> list[str]:
    """Collect the strings of one field. A loop, since an engine may nest them as deep as it likes."""
    found: list[str] = []
    left = [(field, value)]
    while left:
        name, inner = left.pop()
        if name in _BOOKKEEPING:
            continue
        if isinstance(inner, str):
            # A picture in a data URL is not text.
            if name != "url" or not inner.startswith("data:"):
                found.append(inner)
        elif isinstance(inner, list):
            left += [(name, item) for item in inner]
        elif isinstance(inner, dict) and name == "arguments":
            found.append(_encode(inner).decode())
        elif isinstance(inner, dict):
            # Sound is not text, either; its transcript is.
            left += [(key, item) for key, item in inner.items() if (name, key) != ("audio", "data")]
    return found
