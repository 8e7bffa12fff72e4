"""Read responses of engines that deviate from the documented format: JSON, events, chunks, usage, finish reasons.

Every reader accepts a value of any type and returns the parts that it recognizes. Only `decode_json` and
`read_received` raise, for text that is not JSON.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgspec
from msgspec import UNSET

from minitoolai.core.inference import CompletionDetails, TokenDetails, Usage

Json = dict[str, Any]

# ── JSON ──────────────────────────────────────────────────────────────────────────────────────────────────

BOM = b"\xef\xbb\xbf"
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def decode_json(data: bytes) -> Any:
    """Return the decoded value. Raises ValueError or RecursionError if the text is not JSON.

    Accepts what some servers send beyond RFC 8259: a byte order mark, NaN and Infinity (read as null), raw control
    characters in strings, half a surrogate pair, and bytes that are not UTF-8 (read as U+FFFD).
    """
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = data.removeprefix(BOM).decode("utf-8", "replace").strip()
        return json.loads(text, strict=False, parse_constant=lambda _: None, parse_float=_finite)


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def clean_text(text: str) -> str:
    """Join surrogates that form a pair, and replace those that stand alone by U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\u[dD][c-fC-F][0-9a-fA-F]{2})?|\\u[dD][c-fC-F]")


def has_half(text: bytes) -> bool:
    """Return True if JSON text may have half a surrogate pair as an escape, with the other half in another string."""
    if text.find(b"\\ud") < 0 and text.find(b"\\uD") < 0:
        return False
    return any(len(match[0]) < 12 for match in _ESCAPED_SURROGATE.finditer(text))


def clean_json(value: Any) -> bytes:
    """Encode a decoded value as valid JSON. A lone half of a surrogate pair becomes U+FFFD."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return clean_text(json.dumps(value, ensure_ascii=False)).encode()


def json_with_halves(value: Any) -> bytes:
    """Encode a decoded value as ASCII. Half a surrogate pair stays an escape: its other half may be in another text."""
    return json.dumps(value).encode()


# ── server-sent events ────────────────────────────────────────────────────────────────────────────────────


def read_event(event: bytes) -> tuple[str, list[bytes]]:
    """Return the name of an event and its data lines. Comments and other fields are skipped.

    llama.cpp has sent errors in a field `error` instead of `data`: the name is then "error".
    """
    name, lines = "", []
    for line in event.removeprefix(BOM).split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.strip().decode("utf-8", "replace")
        elif field == b"error":
            name = "error"
            lines.append(value)
    return name, lines


# ── chunks and completions as they are received ───────────────────────────────────────────────────────────

_EMPTY = msgspec.Raw(b"")
_NULL = msgspec.Raw(b"null")


class ReceivedChoice(msgspec.Struct):
    """Choice of a chunk, in which every field may have any type. Only the first four are sent."""

    index: Any = None
    delta: msgspec.Raw = _EMPTY
    logprobs: msgspec.Raw = _NULL
    finish_reason: Any = UNSET
    #: A whole message in place of a delta.
    message: Any = UNSET
    #: Of a text completion.
    text: Any = UNSET
    #: Moonshot reports the usage here.
    usage: Any = UNSET


class Received(msgspec.Struct):
    """Chunk, in which every field may have any type."""

    id: Any = None
    object: Any = None
    created: Any = None
    model: Any = None
    service_tier: Any = None
    system_fingerprint: Any = None
    choices: list[ReceivedChoice] | None = None
    usage: Any = None


class _KnownChoice(ReceivedChoice, forbid_unknown_fields=True):
    """The same without other fields."""


class _KnownChunk(Received, forbid_unknown_fields=True):
    """The same without other fields, which may tell who the supplier is, such as OpenRouter's `provider`."""

    choices: list[_KnownChoice] | None = None  # type: ignore[assignment]
    #: Padding of varying length that OpenAI adds.
    obfuscation: Any = None


_decode_received = msgspec.json.Decoder(Received, strict=False).decode
_decode_known = msgspec.json.Decoder(_KnownChunk, strict=False).decode


def read_received(data: bytes) -> tuple[Received, bool, bool] | None:
    """Return the chunk or completion, whether its JSON had to be repaired, and whether it may have unknown fields.

    Return None if it is not a JSON object.

    Raises ValueError or RecursionError if the text begins like a JSON object but cannot be read.
    """
    try:
        return _decode_known(data), False, False
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return _decode_received(data), False, True
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    if not data.removeprefix(BOM).lstrip().startswith(b"{"):
        return None
    fields = decode_json(data)
    choices = [_choice(choice) for choice in objects_of(fields.get("choices"))]
    names = [name for name in Received.__struct_fields__ if name != "choices"]
    return Received(**{name: fields.get(name) for name in names}, choices=choices), True, True


def _choice(fields: Json) -> ReceivedChoice:
    return ReceivedChoice(
        fields.get("index"),
        msgspec.Raw(json_with_halves(fields["delta"])) if "delta" in fields else _EMPTY,
        msgspec.Raw(clean_json(fields.get("logprobs"))),
        fields.get("finish_reason"),
        fields.get("message", UNSET),
        fields.get("text", UNSET),
        fields.get("usage", UNSET),
    )


def objects_of(values: Any) -> list[Json]:
    """Return the objects of a list, or the only one in place of a list."""
    found = values if isinstance(values, list) else [values]
    return [value for value in found if isinstance(value, dict) and value]


def text_or(value: Any, default: str) -> str:
    """Return a text or a number as text, and `default` for anything else or an empty text."""
    if isinstance(value, str):
        return clean_text(value) if value else default
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else default


def timestamp_or(value: Any, default: int) -> int:
    """Return a time in seconds since 1970, and `default` if it is not a plausible one."""
    number = _count(value) if isinstance(value, int | float | str) else None
    return number if number is not None and 0 < number < 2**40 else default


def index_or(value: Any, default: int) -> int:
    """Return the index of a choice or a tool call, and `default` if it is not a small integer."""
    number = _count(value)
    return number if number is not None and 0 <= number < 2**31 else default


# ── text ──────────────────────────────────────────────────────────────────────────────────────────────────

_THOUGHTS = frozenset(
    ("thinking", "reasoning", "reasoning_text", "reasoning.text", "reasoning.summary", "summary_text")
)
_PART_TEXTS = ("text", "thinking", "content", "parts", "summary", "reasoning", "value")


def text_of(content: Any) -> str | None:
    """Return the text of a content that may be a list of parts; None if there is none. Thoughts are left out."""
    return content if isinstance(content, str) else _text_and_thoughts(content)[0]


def thoughts_of(content: Any) -> str | None:
    """Return the reasoning that is among the parts of a content, such as Mistral's; None if there is none."""
    return _text_and_thoughts(content)[1]


def _text_and_thoughts(content: Any) -> tuple[str | None, str | None]:
    """Iterative, because the engine controls how deeply the parts are nested."""
    texts: list[str] = []
    thoughts: list[str] = []
    pending = [(content, False)]
    while pending:
        part, is_thought = pending.pop()
        if isinstance(part, str):
            (thoughts if is_thought else texts).append(part)
        elif isinstance(part, list):
            pending += [(inner, is_thought) for inner in reversed(part)]
        elif isinstance(part, dict):
            is_thought = is_thought or str(part.get("type")) in _THOUGHTS or part.get("thought") is True
            pending += [(part[key], is_thought) for key in _PART_TEXTS if part.get(key)][:1]
        elif isinstance(part, int | float) and not isinstance(part, bool):
            texts.append(str(part))
    return "".join(texts) if texts else None, "".join(thoughts) or None


def reasoning_of(message: Json) -> str | None:
    """Return the reasoning of a message or delta, under any of the known names."""
    for field in ("reasoning_content", "reasoning", "thinking"):
        if text := message.get(field):
            return text if isinstance(text, str) else _details_text(text)
    return _details_text(message.get("reasoning_details"))


def _details_text(details: Any) -> str | None:
    parts = details if isinstance(details, list) else [details]
    texts = [part.get("text") or part.get("summary") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str)) or None


# ── finish reasons ────────────────────────────────────────────────────────────────────────────────────────

#: The engine stopped because of its own fault: report an error, not an answer.
FAILED = "error"
_FINISH_REASONS = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "function_call": "function_call",
    **dict.fromkeys(("max_tokens", "max_length", "max_output_tokens", "model_length", "max_new_tokens"), "length"),
    **dict.fromkeys(("context_length", "model_context_window_exceeded", "token_limit", "incomplete"), "length"),
    **dict.fromkeys(("tool_use", "tool_call", "function_calls", "tool-calls", "tools"), "tool_calls"),
    **dict.fromkeys(("safety", "recitation", "prohibited_content", "blocklist", "spii", "sensitive"), "content_filter"),
    **dict.fromkeys(("refusal", "content_filtered", "guardrail_intervened", "content-filter"), "content_filter"),
    **dict.fromkeys(("error", "errored", "network_error", "engine_error", "internal_error", "server_error"), FAILED),
    **dict.fromkeys(("abort", "aborted", "cancelled", "canceled", "timeout", "failed", "error_toxic"), FAILED),
    **dict.fromkeys(("insufficient_system_resource", "malformed_function_call", "upstream_error"), FAILED),
}


def read_finish_reason(value: Any) -> str | None:
    """Return OpenAI's finish reason for the engine's, FAILED if it stopped because of a fault, None if it goes on."""
    if value is None or isinstance(value, bool):
        return "stop" if value else None
    if isinstance(value, dict):
        value = value.get("type") or value.get("reason")
    if not isinstance(value, str):
        return "stop" if value else None
    known = _FINISH_REASONS.get(value) or _FINISH_REASONS.get(value.strip().lower())
    if known is not None:
        return known
    return "stop" if value.strip().lower() not in ("", "null", "none", "finish_reason_unspecified") else None


# ── usage ─────────────────────────────────────────────────────────────────────────────────────────────────

# Fields of every provider by bucket (core/catalog/prices.py). *: in an object of details. Responses says input_tokens,
# in OpenAI's sense.
#
#               OpenAI, OpenRouter    Anthropic                    DeepSeek                  Gemini
# prompt        prompt_tokens         (sum of the next three)      prompt_tokens             promptTokenCount
# input         (remaining)           input_tokens                 prompt_cache_miss_tokens  (remaining)
# cached_input  cached_tokens *       cache_read_input_tokens      prompt_cache_hit_tokens   cachedContentTokenCount
# cache_write   cache_write_tokens *  cache_creation_input_tokens
#   of it 1h                          ephemeral_1h_input_tokens
# output        completion_tokens     output_tokens                completion_tokens         candidates + thoughts
# reasoning     reasoning_tokens *    (not reported)               reasoning_tokens *        thoughtsTokenCount

_PROMPT_NAMES = ("prompt_tokens", "input_tokens", "promptTokenCount", "inputTokens")
_OUTPUT_NAMES = ("completion_tokens", "output_tokens", "candidatesTokenCount", "outputTokens")
_TOTAL_NAMES = ("total_tokens", "totalTokenCount", "totalTokens")
_CACHED_NAMES = (
    "cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens", "cachedContentTokenCount",
    "cacheReadInputTokens",
)  # fmt: skip
_WRITTEN_NAMES = ("cache_write_tokens", "cache_creation_input_tokens", "cacheWriteInputTokens")
#: Fields of providers that msgspec's conversion to `Usage` would ignore.
_OTHER_NAMES = frozenset((*_CACHED_NAMES, *_WRITTEN_NAMES, "cache_creation", "thoughtsTokenCount"))


def read_usage(value: Any) -> Usage | None:
    """Return the usage that a decoded value represents, or None if it has no count of prompt or output.

    `core/counting.py` decides whether its numbers are believed.
    """
    if not isinstance(value, dict) or not value:
        return None
    if value.keys().isdisjoint(_OTHER_NAMES):
        try:
            return msgspec.convert(value, Usage, strict=False)
        except (msgspec.ValidationError, ValueError, OverflowError):
            pass
    prompt, output, total = (_first_count(value, names) for names in (_PROMPT_NAMES, _OUTPUT_NAMES, _TOTAL_NAMES))
    if prompt is None and output is None:
        return None
    details = _prompt_details(value)
    if prompt is not None:
        prompt += (_count(value.get("toolUsePromptTokenCount")) or 0) + _tokens_beside(value, prompt, details)
    thoughts = _count(value.get("thoughtsTokenCount")) or 0
    if output is not None:
        output += thoughts
    if prompt is None:
        prompt = max(0, (total or 0) - (output or 0))
    if output is None:
        output = max(0, (total or 0) - prompt)
    return Usage(prompt, output, total or 0, details, _output_details(value) or _thoughts_details(thoughts))


def _tokens_beside(usage: Json, prompt: int, details: TokenDetails | None) -> int:
    """Return the cache reads and writes that are not part of the reported count of the prompt.

    Anthropic's `input_tokens` leaves both out. So does a count that is smaller than their sum, even under OpenAI's
    name: some proxies translate the names only.
    """
    if details is None:
        return 0
    written = details.cache_write_tokens or 0
    beside = (details.cached_tokens or 0) + written
    is_anthropic = "prompt_tokens" not in usage and not usage.keys().isdisjoint(
        ("cache_read_input_tokens", "cache_creation_input_tokens", "cacheReadInputTokens", "cacheWriteInputTokens")
    )
    return beside if is_anthropic or beside > prompt else 0


def _prompt_details(usage: Json) -> TokenDetails | None:
    nested = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    details: Json = nested if isinstance(nested, dict) else {}
    # Prefer the upstream's own field to a zero that a proxy put into OpenAI's.
    cached = _first_count(details, _CACHED_NAMES) or _first_count(usage, _CACHED_NAMES)
    written = _first_count(details, _WRITTEN_NAMES) or _first_count(usage, _WRITTEN_NAMES)
    creation = usage.get("cache_creation")
    hourly = _count(details.get("cache_write_1h_tokens"))
    if hourly is None and isinstance(creation, dict):
        hourly = _count(creation.get("ephemeral_1h_input_tokens"))
    if not details and cached is None and written is None:
        return None
    return TokenDetails(
        cached or 0,
        _count(details.get("audio_tokens")) or 0,
        UNSET if written is None else written,
        UNSET if hourly is None else hourly,
        _count(details.get("image_tokens")) or UNSET,
    )


def _thoughts_details(thoughts: int) -> CompletionDetails | None:
    return CompletionDetails(thoughts) if thoughts else None


def _output_details(usage: Json) -> CompletionDetails | None:
    details = usage.get("completion_tokens_details") or usage.get("output_tokens_details")
    if not isinstance(details, dict):
        return None
    return CompletionDetails(*(_count(details.get(field)) or 0 for field in CompletionDetails.__struct_fields__))


def _first_count(fields: Json, names: tuple[str, ...]) -> int | None:
    return next((count for name in names if (count := _count(fields.get(name))) is not None), None)


_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,15}(\.[0-9]{1,15})?\s*", re.ASCII)


def _count(value: Any) -> int | None:
    """Return a whole number, also one written as a float or a text."""
    if isinstance(value, str):
        value = float(value) if _NUMBER.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value.is_integer() else None
    return value
