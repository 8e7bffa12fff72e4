"""An engine's server-sent events on their way to the caller: forwarded as bytes where that is right, else rewritten.

Watches for the usage, the end and errors; adds up what was delivered, should the engine never count it.
"""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

from minitoolai.core.errors import EngineError
from minitoolai.core.inference import CompletionDetails, TokenDetails, Usage
from minitoolai.services.counting import counted, delta_size, merged, said_in, text_size, tokens_written
from minitoolai.services.patterns import Pattern, pattern_of

DONE = b"data: [DONE]\n\n"
LARGEST_EVENT = 16 * 1024 * 1024
LARGEST_COUNT = 2**31 - 1
#: Events that are parsed, though they might be forwarded unparsed, in search of what they share.
LESSONS = 32
# A block without any of these is text on its way. A false alarm costs a parse, nothing else.
_USAGE, _SPACED_USAGE, _ERROR, _END = b'"usage":{', b'"usage": {', b'"error":', b"[DONE]"


#: As numbers: `in` asks whether bytes are one by raising an error and forgetting it, which takes five times as long.
_QUOTE, _LINE_END, _RETURN, _ESCAPE = b'"\n\r\\'


class Choice(msgspec.Struct):
    """One choice of a chunk; the delta passes through unread."""

    index: int = 0
    delta: msgspec.Raw = msgspec.Raw(b"{}")
    logprobs: msgspec.Raw = msgspec.Raw(b"null")
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    """A `chat.completion.chunk` with every documented field."""

    id: str = ""
    object: str = "chat.completion.chunk"
    created: int = 0
    model: str = ""
    service_tier: str | None = None
    system_fingerprint: str | None = None
    choices: list[Choice] = []
    usage: Usage | None = None


class ChunkWithoutUsage(msgspec.Struct):
    """The same for a caller who did not ask for the usage."""

    id: str
    object: str
    created: int
    model: str
    service_tier: str | None
    system_fingerprint: str | None
    choices: list[Choice]


class _Fault(msgspec.Struct):
    error: Any = None


_decode_chunk = msgspec.json.Decoder(Chunk, strict=False).decode
_decode_fault = msgspec.json.Decoder(_Fault).decode
_encode = msgspec.json.Encoder().encode
_FIRST_DELTA = msgspec.Raw(b'{"role":"assistant","content":""}')


def full_usage(usage: Usage) -> Usage:
    """The usage with a total and both detail objects, whatever the engine left out."""
    return Usage(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.prompt_tokens + usage.completion_tokens,
        usage.prompt_tokens_details or TokenDetails(),
        usage.completion_tokens_details or CompletionDetails(),
    )


def is_sane(usage: Usage) -> bool:
    """Counts that can be believed. Any other usage is none: our own count is charged, marked as estimated."""
    asked, said, cached = usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens
    return 0 <= asked <= LARGEST_COUNT and 0 <= said <= LARGEST_COUNT and 0 <= cached <= LARGEST_COUNT


def fingerprint(model: str, theirs: str | None = None) -> str:
    """`system_fingerprint` in the documented form: the engine's own where it has it, else drawn from what it says."""
    if theirs and theirs.startswith("fp_"):
        return theirs
    return f"fp_{zlib.crc32((model + (theirs or '')).encode()):08x}"


def error_event(message: str, *, kind: str, code: str, param: str | None = None) -> bytes:
    """An error after the stream has begun."""
    return b"data: " + _encode({"error": {"message": message, "type": kind, "param": param, "code": code}}) + b"\n\n"


class EventStream:
    """Feed it what the engine sends, send the caller what it returns; then look at the attributes."""

    __slots__ = (
        "_created_s", "_forwards", "_head", "_include_usage", "_lessons", "_name", "_pattern", "_rest", "done", "error",
        "pieces", "reported_pieces", "reported_size", "served_model", "size", "usage",
    )  # fmt: skip

    def __init__(self, *, forwards: bool, include_usage: bool, name: str, created_s: int) -> None:
        self._forwards = forwards and include_usage
        self._include_usage = include_usage
        self._name = name
        self._created_s = created_s
        self._rest = b""
        self._head: Chunk | None = None
        self._pattern: Pattern | None = None
        self._lessons = LESSONS
        self.done = False
        self.error: str | None = None
        self.usage: Usage | None = None
        self.served_model: str | None = None
        #: Deltas that carried text, and bytes of that text; the same up to the last usage.
        self.pieces = self.size = 0
        self.reported_pieces = self.reported_size = 0

    def repeats(self, data: bytes) -> bytes | None:
        """What to send on for an event that differs from one before in its text only; None for all else: feed it."""
        # Nearly every piece of a stream comes by here and no further: one frame, no call that C does not answer.
        pattern = self._pattern
        if pattern is None or self._rest or not data.startswith(pattern.before) or not data.endswith(pattern.after):
            return None
        text = data[pattern.start : pattern.end]
        if _QUOTE in text or _LINE_END in text or len(data) < pattern.start - pattern.end:
            return None
        if _ESCAPE in text:
            if text.endswith(b"\\"):
                return None
            self.size += text_size(text)
        else:
            self.size += len(text)
        self.pieces += text != b""
        return data if pattern.is_same else pattern.ours_before + text + pattern.ours_after

    def feed(self, data: bytes) -> bytes:
        """What to send on now. Whole events only; the end and the usage are kept back for `ending`.

        EngineError where the bytes are no events.
        """
        if self._rest:
            data = self._rest + data
        if _RETURN in data:
            data = data.replace(b"\r\n", b"\n")
        cut = data.rfind(b"\n\n") + 2
        if cut == 1:
            if len(data) > LARGEST_EVENT:
                raise EngineError("the engine sent an event without end")
            self._rest = data
            return b""
        self._rest = data[cut:]
        block = data[:cut] if self._rest else data
        if self._forwards and self._head is not None and _is_plain(block):
            deltas = block.count(b'"delta":{')
            # One delta an event: no comment, no rubbish and no JSON written with blanks is among them.
            is_known = deltas == block.count(b"\n\n") and not (deltas == 1 and self._lessons)
            if is_known and (found := said_in(block, deltas)) is not None:
                self.pieces += found[0]
                self.size += found[1]
                return block
        return b"".join([self._event(event) for event in block.split(b"\n\n") if event])

    def ending(self, usage: Usage) -> bytes:
        """The last events, to be sent once the charge is durable: the usage chunk, where asked for, and `[DONE]`."""
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

    def counted(self, prompt: int, most: int, *, is_exact: bool) -> tuple[Usage, bool]:
        """Return the usage to charge if the stream ended now, and whether any of it is our own count.

        `prompt` is our count of the prompt. Our count of the output is never above `most`, and takes one token for
        each delta where `is_exact`.
        """

        def count(pieces: int, size: int) -> int:
            return pieces if is_exact else tokens_written(pieces, size)

        reported, later = self.usage, 0
        if reported is not None and not self.done:
            later = count(self.pieces - self.reported_pieces, self.size - self.reported_size)
            later = max(0, min(later, most - reported.completion_tokens))
        tokens = min(count(self.pieces, self.size), most)
        return counted(reported, prompt=prompt, tokens=tokens, has_begun=self.pieces > 0, later=later)

    def _event(self, event: bytes) -> bytes:
        if self.done or self.error:
            return b""
        data = b"\n".join(line[5:].lstrip(b" ") for line in event.split(b"\n") if line.startswith(b"data:"))
        if not data:
            return b""
        if data == b"[DONE]":
            self.done, self._forwards, self._pattern = True, False, None
            return b""
        try:
            chunk = _decode_chunk(data)
            if not chunk.choices and b'"error"' in data:
                self.error, self._forwards = _fault_message(_decode_fault(data).error), False
                self._pattern = None
                return b""
            return self._chunk(chunk, event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise EngineError(f"the engine sent something that is no chunk: {error}") from error

    def _chunk(self, chunk: Chunk, event: bytes) -> bytes:
        if self._head is None:
            self._remember(chunk)
        for choice in chunk.choices:
            size = delta_size(bytes(choice.delta))
            self.pieces += size != 0
            self.size += size
        if chunk.usage is not None and is_sane(chunk.usage):
            self.usage = merged(self.usage, chunk.usage)
            self.reported_pieces, self.reported_size = self.pieces, self.size
        if not chunk.choices:
            return b""
        theirs = event + b"\n\n"
        ours = theirs if self._forwards and chunk.usage is None else b"data: " + self._rewritten(chunk) + b"\n\n"
        if self._lessons and len(chunk.choices) == 1 and chunk.usage is None and _is_plain(theirs):
            self._lessons -= 1
            self._pattern = pattern_of(theirs, ours, bytes(chunk.choices[0].delta)) or self._pattern
        return ours

    def _remember(self, chunk: Chunk) -> None:
        """The first chunk says what all of them share; what it leaves out is filled in once."""
        chunk.id = chunk.id or self._name
        chunk.created = chunk.created or self._created_s
        chunk.system_fingerprint = fingerprint(chunk.model, chunk.system_fingerprint)
        chunk.service_tier = chunk.service_tier or "default"
        self.served_model = chunk.model
        self._head = chunk

    def _rewritten(self, chunk: Chunk) -> bytes:
        head = self._head or chunk
        for choice in chunk.choices:
            if bytes(choice.delta) == b'{"role":"assistant","content":null}':
                choice.delta = _FIRST_DELTA
        shared = (head.id, head.object, head.created, head.model, head.service_tier, head.system_fingerprint)
        if self._include_usage:
            return _encode(Chunk(*shared, chunk.choices))
        return _encode(ChunkWithoutUsage(*shared, chunk.choices))


def _is_plain(block: bytes) -> bool:
    # Four scans by memmem are ten times cheaper than one regular expression, and than `in`, which tries a number first.
    find = block.find
    return find(_END) < 0 and find(_USAGE) < 0 and find(_ERROR) < 0 and find(_SPACED_USAGE) < 0


def _fault_message(fault: Any) -> str:
    if isinstance(fault, dict):
        return str(fault.get("message") or "the engine failed")[:500]
    return str(fault or "the engine failed")[:500]
