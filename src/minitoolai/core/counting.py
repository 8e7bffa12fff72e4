"""Count the tokens of prompts and responses, and check the usage that an upstream reports.

`estimate` counts a prompt and a response for which no engine reported a usage: with the engine's tokenizer if the
catalog names one, else from the bytes of their text. `judge_usage` compares a reported usage with that count, because
the operator and the customer both pay for a wrong report.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import UnsetType

from minitoolai.core.catalog.catalog import ImageTokens
from minitoolai.core.inference import ChatRequest, CompletionDetails, TokenDetails, Usage

_T = TypeVar("_T", int | None, int | UnsetType | None)
#: Estimated bytes of text per token. Common tokenizers average four; with five the estimate is rarely above the true
#: count, so that a caller seldom pays too much.
BYTES_PER_TOKEN = 5
#: Tokens that a chat template usually adds per message.
LIKELY_TOKENS_PER_MESSAGE = 4
#: A reported count is believed if it is at least our own count divided by this. Formal English has twice as many bytes
#: per token as other text, and a true report must never be replaced.
LEAST_SHARE = 4
#: A delta counts as at most one token per this many bytes when a report is checked: some upstreams send each character
#: in a separate delta.
LEAST_BYTES_PER_DELTA = 3
#: Reports above this are ignored, for every request.
LARGEST_PLAUSIBLE = 100_000_000
#: Most characters that are counted with a tokenizer. Of a longer text, SAMPLES parts are counted.
MOST_COUNTED = 131_072
SAMPLES = 8
#: Characters of each part in which runs are looked for, 14 ns each. Up to eight times as many are searched whole.
RUN_SAMPLE = 2048
#: A run of one character, of which tokenizers make few tokens.
_RUN = re.compile(r"(.)\1{3,}", re.DOTALL)
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


# ── our own count ──────────────────────────────────────────────────────────────────────────────────────────────────


class Tokenizer(Protocol):
    """Tokenizer of a model. May be called from any thread."""

    def count(self, text: str) -> int:
        """Return the number of tokens of this text."""


class Delivered(msgspec.Struct, frozen=True):
    """Delivered part of a response: the number of deltas with text, the bytes of that text, and the text itself.

    `texts` is empty if the text was not kept.
    """

    pieces: int
    size: int
    texts: Sequence[str] = ()


def estimate(
    request: ChatRequest,
    delivered: Delivered,
    tokenizer: Tokenizer | None = None,
    image_tokens: ImageTokens | None = None,
) -> Usage:
    """Count the tokens of a prompt and the delivered response, with the tokenizer or else from their bytes.

    Counts at most MOST_COUNTED characters of each and extrapolates, so that megabytes of text do not take seconds.
    """
    prompt = estimate_prompt(request, image_tokens, tokenizer)
    if tokenizer is None or not delivered.texts:
        return Usage(prompt, estimate_output_tokens(delivered.pieces, delivered.size))
    return Usage(prompt, _count_extrapolated(tokenizer, delivered.texts, delivered.size))


def estimate_tokens(size: int) -> int:
    """Return the estimated number of tokens in this many bytes of text, rounded to the nearest."""
    return (size + BYTES_PER_TOKEN // 2) // BYTES_PER_TOKEN


def estimate_output_tokens(pieces: int, size: int) -> int:
    """Return the estimated number of tokens in deltas that carry text: at least one per delta."""
    return max(pieces, estimate_tokens(size))


def estimate_prompt(
    request: ChatRequest, image_tokens: ImageTokens | None = None, tokenizer: Tokenizer | None = None
) -> int:
    """Return the likely token count of a prompt that no engine has counted.

    An image counts as the fewest tokens an image of this model can have: the maximum would overcharge a small image
    many times over.
    """
    return max(1, _prompt_text_tokens(request, tokenizer) + _image_tokens(request, image_tokens))


def _image_tokens(request: ChatRequest, image_tokens: ImageTokens | None) -> int:
    """Return the fewest tokens that the images of a prompt can have together."""
    if image_tokens is None:
        return 0
    low = min(image_tokens.low, image_tokens.high)
    return sum(image_tokens.low if detail == "low" else low for detail in request.images)


def _prompt_text_tokens(request: ChatRequest, tokenizer: Tokenizer | None = None) -> int:
    """Return the likely token count of the prompt without its images."""
    given = request.prompt if request.embed is None else request.embed
    tokens = _tokens_given(given) if isinstance(given, list) else 0
    if tokenizer is None:
        text = estimate_tokens(request.text_bytes - tokens)
    else:
        texts = list(_prompt_texts(request))
        text = _count_extrapolated(tokenizer, texts, sum(len(part.encode("utf-8", "replace")) for part in texts))
    return tokens + text + LIKELY_TOKENS_PER_MESSAGE * len(request.messages)


def _tokens_given(given: list[Any]) -> int:
    """Count the tokens in a list of texts and tokens, or in a list of token lists."""
    return sum(_tokens_given(item) if isinstance(item, list) else isinstance(item, int) for item in given)


def _prompt_texts(request: ChatRequest) -> Iterator[str]:
    """Yield every text of a prompt: the parts that `ChatRequest.text_bytes` counts. Images are left out."""
    given = request.prompt if request.embed is None else request.embed
    yield from (text for text in (given if isinstance(given, list) else [given]) if isinstance(text, str))
    for message in request.messages:
        yield from _content_texts(message.get("content"))
        others = {key: value for key, value in message.items() if key not in ("role", "content")}
        yield from (_encode(value).decode() for value in others.values() if value is not None)
    for key in ("tools", "functions", "response_format"):
        if key in request.fields:
            yield _encode(request.fields[key]).decode()


def _content_texts(content: Any) -> Iterator[str]:
    parts: list[dict[str, Any]] = content if isinstance(content, list) else [{"text": content}]
    for part in parts:
        yield from (text for key in ("text", "refusal") if isinstance(text := part.get(key), str))


def _count_extrapolated(tokenizer: Tokenizer, texts: Sequence[str], size: int) -> int:
    """Count the tokens of texts of `size` bytes together, of which `texts` may be a part."""
    length = sum(map(len, texts))
    if length > MOST_COUNTED:
        whole, step = "".join(texts), length // SAMPLES
        texts = [whole[at : at + MOST_COUNTED // SAMPLES] for at in range(0, step * SAMPLES, step)]
    tokens = sum(map(tokenizer.count, texts))
    counted = sum(len(text.encode("utf-8", "replace")) for text in texts)
    # Lone surrogates and a part cut by a limit make small differences, which are not worth extrapolating.
    return tokens * size // counted if size > counted + 64 else tokens


# ── usage reported by upstreams ────────────────────────────────────────────────────────────────────────────────────


class PromptCount(msgspec.Struct, frozen=True):
    """Our count of a prompt, and the range in which a report of it is believed."""

    tokens: int
    least: int = 0
    most: int = LARGEST_PLAUSIBLE


class Judgement(msgspec.Struct, frozen=True):
    """The usage to charge, whether any part of it is our own count, and why a report was not believed."""

    usage: Usage
    is_estimated: bool
    #: A direction and a reason each, such as "output_zero"; empty if the report was believed or there was none.
    doubts: tuple[str, ...] = ()


def expect_prompt(request: ChatRequest, image_tokens: ImageTokens | None, most: int) -> PromptCount:
    """Return our count of a prompt, believing reports from a quarter of its text up to `most`."""
    text = _prompt_text_tokens(request)
    images = _image_tokens(request, image_tokens) if request.images else 0
    may_shrink = request.messages_form is not None and request.messages_form.may_shrink
    return PromptCount(min(max(1, text + images), most), 0 if may_shrink else text // LEAST_SHARE, most)


def least_prompt(request: ChatRequest) -> int:
    """Return the fewest prompt tokens that are believed in a second check, for a report that seems too low.

    Counts only what surely is a part of the prompt: some engines leave out the reasoning of earlier turns, tools that
    must not be called, or schemas, which they turn into a grammar. Rules, indentation and padded tables have up to 80
    bytes per token, so of a long run of one character only two count.
    """
    text = "".join(_certain_texts(request))
    step = max(RUN_SAMPLE, len(text) // SAMPLES)
    samples = [text[at : at + RUN_SAMPLE] for at in range(0, len(text), step)]
    kept = sum(len(_RUN.sub(r"\1\1", sample)) for sample in samples)
    size = len(text.encode("utf-8", "replace")) * kept // max(1, sum(map(len, samples)))
    return estimate_tokens(size) // LEAST_SHARE


def _certain_texts(request: ChatRequest) -> Iterator[str]:
    given = request.prompt if request.embed is None else request.embed
    yield from (text for text in (given if isinstance(given, list) else [given]) if isinstance(text, str))
    for message in request.messages:
        yield from _content_texts(message.get("content"))
        if message.get("tool_calls"):
            yield _encode(message["tool_calls"]).decode()
    if "tools" in request.fields and request.fields.get("tool_choice") != "none":
        yield _encode(request.fields["tools"]).decode()


def least_output(pieces: int, size: int, counted: int | None = None) -> int:
    """Return the fewest output tokens that are believed for deltas with text, or `counted` by a tokenizer."""
    likely = max(estimate_tokens(size), min(pieces, size // LEAST_BYTES_PER_DELTA))
    return (likely if counted is None else min(likely, counted)) // LEAST_SHARE


def is_plausible(usage: Usage) -> bool:
    """Return True if the reported counts are possible for any request. Other reports are ignored."""
    return 0 <= usage.prompt_tokens <= LARGEST_PLAUSIBLE and 0 <= usage.completion_tokens <= LARGEST_PLAUSIBLE


def merge_usage(before: Usage | None, now: Usage) -> Usage:
    """Return the later of two reported usages, with its zeros replaced by the values of the earlier one."""
    if before is None:
        return now
    if not now.prompt_tokens and not now.completion_tokens and not now.total_tokens:
        return before
    prompt = now if now.prompt_tokens else before
    output = now if now.completion_tokens else before
    if prompt.prompt_tokens == now.prompt_tokens and output.completion_tokens == now.completion_tokens:
        return now
    details = prompt.prompt_tokens_details, output.completion_tokens_details
    return Usage(prompt.prompt_tokens, output.completion_tokens, 0, *details)


def is_believed(reported: Usage, prompt: PromptCount, least: int, most: int) -> bool:
    """Return True if a report is within every range and consistent, as nearly every one is.

    Such a report about a whole response is charged as it is; all others need `judge_usage`.
    """
    return (
        max(1, prompt.least) <= reported.prompt_tokens <= prompt.most
        and max(1, least) <= reported.completion_tokens <= most
        and reported.total_tokens <= reported.prompt_tokens + reported.completion_tokens
        and _details_fit(reported)
    )


def judge_usage(
    reported: Usage | None,
    *,
    prompt: PromptCount,
    tokens: int,
    has_begun: bool,
    least: int = 0,
    most: int = LARGEST_PLAUSIBLE,
    later: int = 0,
    is_early: bool = False,
    was_absurd: bool = False,
) -> Judgement:
    """Return the usage to charge: the reported one where it is believed, else our own count.

    `tokens` is our count of the output, `least` and `most` the range in which a report of it is believed. `later` is
    our count of the output after the last report of a stream that was cut off. `is_early`: the only report came with
    the first chunk, so it covers only the prompt. `was_absurd`: another report was ignored. Without a report and
    without output, nothing is charged.
    """
    doubts = ["absurd"] if was_absurd else []
    if reported is None:
        ours = Usage(prompt.tokens, tokens) if has_begun else Usage(0, 0)
        return Judgement(ours, has_begun, tuple(doubts))
    corrected = _with_total(reported, most)
    output, why = (None, "") if is_early else _judge_count(corrected.completion_tokens, least, most, is_due=has_begun)
    if output is None:
        output = tokens
        if why:
            doubts.append(f"output_{why}")
    else:
        output = min(output + later, max(output, most))
    was_read = has_begun or output > 0
    read, why = _judge_count(corrected.prompt_tokens, prompt.least, prompt.most, is_due=was_read)
    if read is None:
        read = prompt.tokens if was_read else 0
        doubts.append(f"prompt_{why}")
    is_estimated = read != corrected.prompt_tokens or output != corrected.completion_tokens
    return Judgement(_within(corrected, read, output), is_estimated, tuple(doubts))


def _judge_count(count: int, least: int, most: int, *, is_due: bool) -> tuple[int | None, str]:
    """Return the reported count, or None and the reason if it is not believed. `is_due`: zero cannot be true."""
    if count == 0:
        return (None, "zero") if is_due and most else (0, "")
    if count < max(0, least):
        return None, "low"
    return (None, "high") if count > most else (count, "")


def _with_total(usage: Usage, most: int) -> Usage:
    """Add the part of the total that exceeds the sum: to the output, as xAI means it, or to a missing prompt count."""
    more = usage.total_tokens - usage.prompt_tokens - usage.completion_tokens
    if more <= 0:
        return usage
    if usage.prompt_tokens == 0 and (usage.completion_tokens or not most):
        return msgspec.structs.replace(usage, prompt_tokens=more)
    if usage.prompt_tokens and usage.completion_tokens + more <= most:
        return msgspec.structs.replace(usage, completion_tokens=usage.completion_tokens + more)
    return usage


def _details_fit(usage: Usage) -> bool:
    """Return True if every detail is between zero and the count that contains it."""
    read, written, whole = usage.prompt_tokens_details, usage.completion_tokens_details, usage.prompt_tokens
    if read is not None and not (0 <= (read.cached_tokens or 0) <= whole and 0 <= (read.audio_tokens or 0) <= whole):
        return False
    if read is not None and not (
        0 <= (read.cache_write_tokens or 0) <= whole - (read.cached_tokens or 0)
        and 0 <= (read.cache_write_1h_tokens or 0) <= (read.cache_write_tokens or 0)
        and 0 <= (read.image_tokens or 0) <= whole
    ):
        return False
    whole = usage.completion_tokens
    return written is None or (
        0 <= (written.reasoning_tokens or 0) <= whole
        and 0 <= (written.audio_tokens or 0) <= whole
        and 0 <= (written.accepted_prediction_tokens or 0) <= whole
        and 0 <= (written.rejected_prediction_tokens or 0) <= whole
    )


def _writes_fit(read: TokenDetails, whole: int) -> bool:
    """Return True if not more tokens were written to a cache than the prompt has beside those read from one."""
    written, for_an_hour = read.cache_write_tokens or 0, read.cache_write_1h_tokens or 0
    return 0 <= for_an_hour <= written and written + (read.cached_tokens or 0) <= whole


def _within(usage: Usage, prompt: int, output: int) -> Usage:
    """Return the usage with these counts, and with details that are not above them."""
    if (prompt, output) == (usage.prompt_tokens, usage.completion_tokens) and _details_fit(usage):
        return usage
    read, written = usage.prompt_tokens_details, usage.completion_tokens_details
    if read is not None:
        cached = _clamp(read.cached_tokens, prompt)
        cache_write = _clamp(read.cache_write_tokens, prompt - (cached or 0))
        read = TokenDetails(
            cached,
            _clamp(read.audio_tokens, prompt),
            cache_write,
            _clamp(read.cache_write_1h_tokens, cache_write or 0),
            _clamp(read.image_tokens, prompt),
        )
    if written is not None:
        written = CompletionDetails(
            _clamp(written.reasoning_tokens, output),
            _clamp(written.audio_tokens, output),
            _clamp(written.accepted_prediction_tokens, output),
            _clamp(written.rejected_prediction_tokens, output),
        )
    return Usage(prompt, output, 0, read, written)


def _clamp(part: _T, whole: int) -> _T | int:
    return max(0, min(part, whole)) if isinstance(part, int) else part


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
    return sum(len(text.encode()) for text in message_texts(message))


def message_texts(message: dict[str, Any]) -> list[str]:
    """Return all strings in a delta or a message, in any field. See `message_size` for what counts."""
    kept: list[str] = []
    seen = set[str]()
    for field, value in message.items():
        texts = _texts(field, value)
        kept += [text for text in texts if text not in seen]
        seen.update(texts)
    return kept


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
