"""Normalize an engine's output to the documented chat format: server-sent events (SSE) and whole completions.

Events that already have the documented form are forwarded as bytes; all others are parsed and rewritten. Collects the
reported usage, the end of the stream and errors, and counts the delivered text in case the engine reports no usage.
"""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

from minitoolai.core.counting import (
    Judgement,
    PromptCount,
    count_deltas,
    delta_size,
    estimate_output_tokens,
    is_plausible,
    judge_usage,
    least_output,
    merge_usage,
    message_size,
    message_texts,
    text_size,
)
from minitoolai.core.errors import EngineError
from minitoolai.core.inference import CompletionDetails, TokenDetails, Usage

# ── templates ─────────────────────────────────────────────────────────────────────────────────────────────
#
# The chunks of a stream usually differ only in their text. If a chunk has the same bytes as one that was parsed before,
# apart from a text without quotes and line ends, it has the same structure and need not be parsed.

#: The bytes before and after the text in the most frequent deltas.
_TEXT_DELTAS = (
    (b'{"content":"', b'"}'),
    (b'{"reasoning_content":"', b'"}'),
    (b'{"reasoning":"', b'"}'),
    (b'{"tool_calls":[{"index":0,"function":{"arguments":"', b'"}}]}'),
)


class ChunkTemplate(msgspec.Struct, frozen=True):
    """Bytes of a chunk before and after its text, as received from the engine and as sent to the caller."""

    before: bytes
    after: bytes
    sent_before: bytes
    sent_after: bytes
    #: The chunk is forwarded unchanged.
    is_unchanged: bool
    #: Slice indexes of the text in a received event. `end` is negative, counted from the end of the event.
    start: int
    end: int


def template_of(received: bytes, sent: bytes, delta: bytes) -> ChunkTemplate | None:
    """Make a template from a parsed event, the event sent for it, and its only delta.

    Return None if the delta is not one of the frequent forms, or does not occur exactly once in both events.
    """
    for key, tail in _TEXT_DELTAS:
        text = delta[len(key) : -len(tail)]
        if delta.startswith(key) and delta.endswith(tail) and text and b'"' not in text and b"\\" not in text:
            break
    else:
        return None
    if received.count(delta) != 1 or sent.count(delta) != 1 or received.count(b"\n") != 2:
        return None
    before, after = _split_around_text(received, delta, len(key), len(tail))
    sent_before, sent_after = _split_around_text(sent, delta, len(key), len(tail))
    return ChunkTemplate(before, after, sent_before, sent_after, received == sent, len(before), -len(after))


def _split_around_text(event: bytes, delta: bytes, key: int, tail: int) -> tuple[bytes, bytes]:
    at = event.index(delta)
    return event[: at + key], event[at + len(delta) - tail :]


DONE = b"data: [DONE]\n\n"
LARGEST_EVENT = 16 * 1024 * 1024
LARGEST_COUNT = 2**31 - 1
#: Parse at most this many events that could be forwarded unparsed, in order to learn a template.
MAX_TEMPLATE_PARSES = 32
# A block without any of these holds only ordinary chunks. A false positive costs one parse.
_USAGE, _SPACED_USAGE, _ERROR, _END = b'"usage":{', b'"usage": {', b'"error":', b"[DONE]"


#: Integers, because `in` is five times slower with a bytes operand: it tries to convert it to a number first.
_QUOTE, _LINE_END, _RETURN, _ESCAPE = b'"\n\r\\'


class Choice(msgspec.Struct):
    """Choice of a chunk. The delta is not decoded."""

    index: int = 0
    delta: msgspec.Raw = msgspec.Raw(b"{}")
    logprobs: msgspec.Raw = msgspec.Raw(b"null")
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    """Represent a `chat.completion.chunk` with every documented field."""

    id: str = ""
    object: str = "chat.completion.chunk"
    created: int = 0
    model: str = ""
    service_tier: str | None = None
    system_fingerprint: str | None = None
    choices: list[Choice] = []
    usage: Usage | None = None


class ChunkWithoutUsage(msgspec.Struct):
    """Represent a chunk for a caller that did not request the usage."""

    id: str
    object: str
    created: int
    model: str
    service_tier: str | None
    system_fingerprint: str | None
    choices: list[Choice]


class _UpstreamError(msgspec.Struct):
    error: Any = None


_decode_chunk = msgspec.json.Decoder(Chunk, strict=False).decode
_decode_error = msgspec.json.Decoder(_UpstreamError).decode
_encode = msgspec.json.Encoder().encode
_FIRST_DELTA = msgspec.Raw(b'{"role":"assistant","content":""}')


def full_usage(usage: Usage) -> Usage:
    """Return the usage with a total and both detail objects, filling in those that the engine left out."""
    return Usage(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.prompt_tokens + usage.completion_tokens,
        usage.prompt_tokens_details or TokenDetails(),
        usage.completion_tokens_details or CompletionDetails(),
    )


def fingerprint(model: str, reported: str | None = None) -> str:
    """Return a `system_fingerprint` in the documented form: the engine's own, or a checksum of model and own value."""
    if reported and reported.startswith("fp_"):
        return reported
    return f"fp_{zlib.crc32((model + (reported or '')).encode()):08x}"


class ChunkNormalizer:
    """Turn the bytes of an engine's event stream into whole documented events, and collect usage, end and errors."""

    __slots__ = (
        "_created_s", "_forwards", "_head", "_include_usage", "_incomplete", "_name", "_parses_left", "_template",
        "done", "error", "pieces", "reported_pieces", "reported_size", "served_model", "size", "usage", "was_absurd",
    )  # fmt: skip

    def __init__(self, *, forwards: bool, include_usage: bool, name: str, created_s: int) -> None:
        self._forwards = forwards and include_usage
        self._include_usage = include_usage
        self._name = name
        self._created_s = created_s
        self._incomplete = b""
        self._head: Chunk | None = None
        self._template: ChunkTemplate | None = None
        self._parses_left = MAX_TEMPLATE_PARSES
        self.done = False
        self.error: str | None = None
        self.usage: Usage | None = None
        self.served_model: str | None = None
        #: Number of deltas that carried text, and the bytes of that text.
        self.pieces = self.size = 0
        #: The same two counts when the engine last reported a usage.
        self.reported_pieces = self.reported_size = 0
        #: A usage was reported that cannot be true.
        self.was_absurd = False

    def match_template(self, data: bytes) -> bytes | None:
        """Return the event to send for one that differs from an earlier one in its text only, else None: use `feed`."""
        # Nearly every chunk of a stream takes only this path, so make no Python-level calls here.
        template = self._template
        if (
            template is None
            or self._incomplete
            or not data.startswith(template.before)
            or not data.endswith(template.after)
        ):
            return None
        text = data[template.start : template.end]
        if _QUOTE in text or _LINE_END in text or len(data) < template.start - template.end:
            return None
        if _ESCAPE in text:
            if text.endswith(b"\\"):
                return None
            self.size += text_size(text)
        else:
            self.size += len(text)
        self.pieces += text != b""
        return data if template.is_unchanged else template.sent_before + text + template.sent_after

    def feed(self, data: bytes) -> bytes:
        """Return the whole events to send now. The end and the usage are held back for `final_events`.

        Raises EngineError if the bytes are not server-sent events with chunks.
        """
        if self._incomplete:
            data = self._incomplete + data
        if _RETURN in data:
            data = data.replace(b"\r\n", b"\n")
        cut = data.rfind(b"\n\n") + 2
        if cut == 1:
            if len(data) > LARGEST_EVENT:
                raise EngineError(f"the engine sent an event of more than {LARGEST_EVENT} bytes")
            self._incomplete = data
            return b""
        self._incomplete = data[cut:]
        block = data[:cut] if self._incomplete else data
        if self._forwards and self._head is not None and _is_plain(block):
            deltas = block.count(b'"delta":{')
            # With one delta per event, the block has no comments, no other data and no JSON with whitespace.
            can_forward = deltas == block.count(b"\n\n") and not (deltas == 1 and self._parses_left)
            if can_forward and (counts := count_deltas(block, deltas)) is not None:
                self.pieces += counts[0]
                self.size += counts[1]
                return block
        return b"".join([self._event(event) for event in block.split(b"\n\n") if event])

    def final_events(self, usage: Usage) -> bytes:
        """Return the events to send once the charge is durable: the usage chunk, if requested, and `[DONE]`."""
        if not self._include_usage:
            return DONE
        head = self._head or Chunk(id=self._name, created=self._created_s)
        chunk = Chunk(
            id=head.id,
            created=head.created,
            model=head.model,
            service_tier=head.service_tier,
            system_fingerprint=head.system_fingerprint,
            usage=full_usage(usage),
        )
        return b"data: " + _encode(chunk) + b"\n\n" + DONE

    def report(self, usage: Usage) -> None:
        """Remember a usage that the engine reported. Whether it is believed is decided at the end."""
        if is_plausible(usage):
            self.usage = merge_usage(self.usage, usage)
            self.reported_pieces, self.reported_size = self.pieces, self.size
        else:
            self.was_absurd = True

    def usage_if_ended(
        self, prompt: PromptCount, max_output: int, *, is_exact: bool, output: int | None = None, echoed: int = 0
    ) -> Judgement:
        """Return the usage to charge if the stream ended now.

        `prompt` is our count of the prompt. Our count of the output is at most `max_output`; it is `output` if that is
        known, one token per delta if `is_exact`, else an estimate. `echoed` bytes of the text are the prompt.
        """
        pieces, size = self.pieces, max(0, self.size - echoed)

        def count(pieces: int, size: int) -> int:
            return pieces if is_exact else estimate_output_tokens(pieces, size)

        later, least = 0, 0 if is_exact else least_output(pieces, size)
        if self.usage is not None and not self.done:
            told_size = max(0, self.reported_size - echoed)
            least = min(least, least_output(self.reported_pieces, told_size))
            later = count(pieces - self.reported_pieces, size - told_size)
            later = max(0, min(later, max_output - self.usage.completion_tokens))
        tokens = count(pieces, size) if output is None else output
        return judge_usage(
            self.usage,
            prompt=prompt,
            tokens=min(tokens, max_output),
            has_begun=pieces > 0,
            least=least,
            most=max_output,
            later=later,
            is_early=self.reported_pieces <= 1 and pieces > self.reported_pieces,
            was_absurd=self.was_absurd,
        )

    def _event(self, event: bytes) -> bytes:
        if self.done or self.error:
            return b""
        data = b"\n".join(line[5:].lstrip(b" ") for line in event.split(b"\n") if line.startswith(b"data:"))
        if not data:
            return b""
        if data == b"[DONE]":
            self.done, self._forwards, self._template = True, False, None
            return b""
        try:
            chunk = _decode_chunk(data)
            if not chunk.choices and b'"error"' in data:
                self.error, self._forwards = _error_message(_decode_error(data).error), False
                self._template = None
                return b""
            return self._chunk(chunk, event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise EngineError(f"the engine sent an invalid chunk: {error}") from error

    def _chunk(self, chunk: Chunk, event: bytes) -> bytes:
        if self._head is None:
            self._set_head(chunk)
        for choice in chunk.choices:
            size = delta_size(bytes(choice.delta))
            self.pieces += size != 0
            self.size += size
        if chunk.usage is not None:
            self.report(chunk.usage)
        if not chunk.choices:
            return b""
        received = event + b"\n\n"
        sent = received if self._forwards and chunk.usage is None else b"data: " + self._rewrite(chunk) + b"\n\n"
        if self._parses_left and len(chunk.choices) == 1 and chunk.usage is None and _is_plain(received):
            self._parses_left -= 1
            self._template = template_of(received, sent, bytes(chunk.choices[0].delta)) or self._template
        return sent

    def _set_head(self, chunk: Chunk) -> None:
        """Take the fields that all chunks share from the first one, and fill in those that it leaves out."""
        chunk.id = chunk.id or self._name
        chunk.created = chunk.created or self._created_s
        chunk.system_fingerprint = fingerprint(chunk.model, chunk.system_fingerprint)
        chunk.service_tier = chunk.service_tier or "default"
        self.served_model = chunk.model
        self._head = chunk

    def _rewrite(self, chunk: Chunk) -> bytes:
        head = self._head or chunk
        for choice in chunk.choices:
            if bytes(choice.delta) == b'{"role":"assistant","content":null}':
                choice.delta = _FIRST_DELTA
        shared = (head.id, head.object, head.created, head.model, head.service_tier, head.system_fingerprint)
        if self._include_usage:
            return _encode(Chunk(*shared, chunk.choices))
        return _encode(ChunkWithoutUsage(*shared, chunk.choices))


def _is_plain(block: bytes) -> bool:
    # Four calls of `find` are ten times faster than one regular expression, or than `in` with a bytes operand.
    find = block.find
    return find(_END) < 0 and find(_USAGE) < 0 and find(_ERROR) < 0 and find(_SPACED_USAGE) < 0


def _error_message(fault: Any) -> str:
    if isinstance(fault, dict):
        return str(fault.get("message") or "the engine failed")[:500]
    return str(fault or "the engine failed")[:500]


# ── whole completions, for requests without streaming ─────────────────────────────────────────────────────


class _CompletionChoice(msgspec.Struct):
    message: dict[str, Any] | None = None


class _Completion(msgspec.Struct):
    """Completion with only the fields that are always decoded."""

    model: str = ""
    choices: list[_CompletionChoice] = []
    usage: Usage | None = None


class _FullCompletion(msgspec.Struct):
    """Completion with every documented field. The choices are not decoded."""

    id: str = ""
    object: str = "chat.completion"
    created: int = 0
    model: str = ""
    choices: msgspec.Raw = msgspec.Raw(b"[]")
    usage: Usage | None = None
    service_tier: str | None = None
    system_fingerprint: str | None = None


_decode = msgspec.json.Decoder(_Completion, strict=False).decode
_decode_to_rewrite = msgspec.json.Decoder(_FullCompletion, strict=False).decode


class NormalizedCompletion(msgspec.Struct, frozen=True):
    """Completion as sent to the caller, with its usage and the bytes of its text."""

    body: bytes
    judgement: Judgement
    model: str
    size: int

    @property
    def usage(self) -> Usage:
        return self.judgement.usage

    @property
    def is_estimated(self) -> bool:
        return self.judgement.is_estimated


def normalize_completion(
    body: bytes,
    *,
    forwards: bool,
    name: str,
    created_s: int,
    prompt: PromptCount,
    max_output: int = LARGEST_COUNT,
    output: int | None = None,
    is_exact: bool = False,
    echoed: int = 0,
) -> NormalizedCompletion:
    """Check a completion and fill in the fields that the engine left out. Raises EngineError if it is invalid.

    If the engine reported no usage, or one that is not believed, use our own: `prompt` for the prompt, and for the
    output `output`, or else the bytes of its text without `echoed`, up to `max_output` tokens.
    """
    try:
        decoded = _decode(body)
        if not decoded.choices:
            raise EngineError("the engine sent a completion without choices")
        sizes = [message_size(choice.message) for choice in decoded.choices if choice.message]
        pieces, size = len(sizes) - sizes.count(0), sum(sizes)
        generated = max(0, size - echoed)
        reported = decoded.usage
        was_absurd = reported is not None and not is_plausible(reported)
        judgement = judge_usage(
            None if was_absurd else reported,
            prompt=prompt,
            tokens=min(max_output, estimate_output_tokens(pieces, generated) if output is None else output),
            has_begun=pieces > 0,
            least=0 if is_exact else least_output(pieces, generated),
            most=max_output,
            was_absurd=was_absurd,
        )
        if forwards and judgement.usage is reported:
            return NormalizedCompletion(body, judgement, decoded.model, size)
        completion = _decode_to_rewrite(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EngineError(f"the engine sent an invalid completion: {error}") from error
    completion.id = completion.id or f"chatcmpl-{name[4:]}"
    completion.created = completion.created or created_s
    completion.service_tier = completion.service_tier or "default"
    completion.system_fingerprint = fingerprint(completion.model, completion.system_fingerprint)
    completion.usage = full_usage(judgement.usage)
    return NormalizedCompletion(_encode(completion), judgement, completion.model, size)


def completion_texts(body: bytes) -> list[str]:
    """Return every text in a completion that `normalize_completion` accepted."""
    return [text for choice in _decode(body).choices for text in message_texts(choice.message or {})]
