"""OpenAI-compatible servers (`/audio/transcriptions`, `/audio/translations`) as transcription engines.

The file is forwarded as it is, from the disk. Where the model of the catalog has segments, `verbose_json` is requested,
and every other format is made from it here; otherwise `json`, as events if the caller wants events.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.catalog.suppliers import THE_ENGINE, EngineLabel
from minitoolai.core.catalog.transcription import TranscriptionModel
from minitoolai.core.clock import random_bytes
from minitoolai.core.errors import EngineBroken, EngineError
from minitoolai.core.threads import UPLOADS
from minitoolai.core.transcription import Recording, Segment, TranscriptionRequest, TranscriptPart, Word
from minitoolai.engines.chat.failures import (
    engine_error,
    failure_in_answer,
    find_fault,
    read_error_body,
    upstream_failure,
)
from minitoolai.engines.concurrency import ConcurrencyLimit
from minitoolai.httpclient.client import HttpClient, HttpError, HttpResponse, StreamedBody

_PATHS = {"transcribe": "/audio/transcriptions", "translate": "/audio/translations"}
_BLOCK = 256 * 1024
#: A reported duration is believed if it differs from ours by less than this, in milliseconds and in parts of it.
_TOLERANCE_MS, _TOLERANCE = 2_000, 0.05
_decode = msgspec.json.Decoder().decode


class UpstreamTranscriptionEngine:
    """One server with one API key. It receives whole recordings."""

    def __init__(
        self,
        name: str,
        entry: EngineEntry,
        client: HttpClient,
        models: Mapping[str, TranscriptionModel],
        *,
        base_url: str = "",
        key: str = "",
        concurrency: ConcurrencyLimit | None = None,
        total_timeout_s: float = 600.0,
    ) -> None:
        self.name = name
        self.label = EngineLabel.of(name, entry, base_url)
        self._read_timeout_s = entry.total_timeout_s or total_timeout_s
        self.concurrency = concurrency
        self._entry = entry
        self._client = client
        self._models = models
        self._has_key = bool(key)
        self._url = (base_url or entry.base_url).rstrip("/")
        self.forwards = frozenset(entry.forwards)
        self.bills_after_cancel = entry.bills_after_cancel
        # Drawn once and never shown, so that no recording can contain it.
        self._boundary = random_bytes(16).hex()
        self._headers = {"content-type": f"multipart/form-data; boundary={self._boundary}", **entry.headers}
        if key:
            self._headers["authorization"] = f"Bearer {key}"

    def why_not_ready(self) -> str | None:
        if self._entry.needs_key and not self._has_key:
            return f"no key: set MINITOOLAI_{self.name.upper()}_API_KEY"
        return None

    def served_model(self, model: str) -> str:
        return self._entry.served_name(model)

    def check_capacity(self) -> None:
        if self.concurrency is not None:
            self.concurrency.check_capacity()

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        return None

    async def open(self, request: TranscriptionRequest, recording: Recording) -> UpstreamTranscript:
        if self.concurrency is not None:
            await self.concurrency.acquire(request.account_id)
        try:
            response = await self._send(request, recording)
        except BaseException:
            self.release(request.account_id)
            raise
        return UpstreamTranscript(self, response, recording, request.account_id)

    def release(self, account_id: int) -> None:
        """Return the slot of a request."""
        if self.concurrency is not None:
            self.concurrency.release(account_id)

    async def _send(self, request: TranscriptionRequest, recording: Recording) -> HttpResponse:
        fields = self._fields(request)
        before = b"".join(self._part(name, value) for name, value in fields)
        filename = _safe_filename(recording)
        before += self._part("file", "", f'; filename="{filename}"\r\nContent-Type: application/octet-stream')[:-2]
        after = f"\r\n--{self._boundary}--\r\n".encode()
        body = StreamedBody(
            len(before) + recording.size + len(after), _blocks(before, recording.path, recording.size, after)
        )
        try:
            response = await self._client.request(
                "POST",
                self._url + _PATHS[request.task],
                headers=self._headers,
                stream=body,
                read_timeout_s=self._read_timeout_s,
            )
        except HttpError as error:
            raise engine_error(error, self.label) from error
        if response.status == 200:
            return response
        error_body = await read_error_body(response)
        raise upstream_failure(response.status, response.headers.get("retry-after"), error_body, self.label)

    def _fields(self, request: TranscriptionRequest) -> list[tuple[str, str]]:
        has_segments = "verbose_json" in self._models[request.model].formats
        fields = [("model", self.served_model(request.model))]
        fields.append(("response_format", "verbose_json" if has_segments else "json"))
        if has_segments and request.task == "transcribe":
            fields.append(("timestamp_granularities[]", "segment"))
            if request.words:
                fields.append(("timestamp_granularities[]", "word"))
        if request.stream and not has_segments:
            fields.append(("stream", "true"))
        if request.language is not None and request.task == "transcribe":
            fields.append(("language", request.language))
        if request.prompt:
            fields.append(("prompt", request.prompt))
        if request.temperature:
            fields.append(("temperature", f"{request.temperature:g}"))
        for name in self.forwards & request.fields.keys():
            fields += [(name, value) for value in request.fields[name]]
        return fields

    def _part(self, name: str, value: str, more: str = "") -> bytes:
        name = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
        head = f'--{self._boundary}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
        return f"{head}{value}\r\n".encode()


class UpstreamTranscript:
    """The response of a server. Occupies a slot until it is closed."""

    def __init__(
        self, engine: UpstreamTranscriptionEngine, response: HttpResponse, recording: Recording, account_id: int
    ) -> None:
        self._engine: UpstreamTranscriptionEngine | None = engine
        self._label = engine.label
        self._response = response
        self._length_ms = recording.length_ms
        self._account_id = account_id
        self._is_complete = False
        is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
        self._events: EventReader | None = EventReader() if is_stream else None
        #: Text of the events so far.
        self._said = ""

    async def next_part(self) -> TranscriptPart | None:
        if self._is_complete:
            return None
        return await self._next_event(self._events) if self._events is not None else await self._whole()

    async def _whole(self) -> TranscriptPart:
        try:
            body = await self._response.read()
        except HttpError as error:
            raise engine_error(error, self._label) from error
        try:
            answer = _decode(body)
        except msgspec.DecodeError as error:
            raise EngineBroken(f"{THE_ENGINE} sent something that is not JSON; nothing was charged") from error
        fault = find_fault(answer, is_answer=True)
        if fault is not None:
            raise failure_in_answer(fault, self._label)
        if not isinstance(answer, dict) or not isinstance(answer.get("text"), str):
            raise EngineBroken(f"{THE_ENGINE} sent no text; nothing was charged")
        self._is_complete = True
        segments = read_segments(answer)
        text = "".join(segment.text for segment in segments) or answer["text"]
        language = answer.get("language")
        return self._end(answer, text, segments, language if isinstance(language, str) else None)

    async def _next_event(self, events: EventReader) -> TranscriptPart | None:
        while True:
            while (event := events.next_event()) is not None:
                fault = find_fault(event, is_answer=True)
                if fault is not None:
                    raise failure_in_answer(fault, self._label)
                if event.get("type") == "transcript.text.delta" and isinstance(event.get("delta"), str):
                    self._said += event["delta"]
                    # The server gives no times. It bills the whole once it has begun to answer.
                    return TranscriptPart(processed_ms=self._length_ms, text=event["delta"])
                if event.get("type") == "transcript.text.done":
                    self._is_complete = True
                    whole = event.get("text")
                    rest = whole[len(self._said) :] if isinstance(whole, str) and whole.startswith(self._said) else ""
                    return self._end(event, rest, [], None)
            try:
                data = await self._response.next_bytes()
            except HttpError as error:
                raise engine_error(error, self._label) from error
            if not data:
                raise EngineBroken(f"{THE_ENGINE} broke off its response")
            events.feed(data)

    def _end(self, answer: dict[str, Any], text: str, segments: list[Segment], language: str | None) -> TranscriptPart:
        reported_ms = reported_length_ms(answer)
        is_believed = reported_ms is not None and _is_close(reported_ms, self._length_ms)
        processed_ms = reported_ms if is_believed and reported_ms is not None else self._length_ms
        return TranscriptPart(
            processed_ms=processed_ms,
            text=text,
            segments=segments,
            language=language,
            is_estimated=not is_believed,
        )

    async def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            self._response.close()
            engine.release(self._account_id)


class EventReader:
    """Reads server-sent events of JSON objects."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self._buffer += data
        if len(self._buffer) > 16 * 1024 * 1024:
            raise EngineError("an event of the engine is too long")

    def next_event(self) -> dict[str, Any] | None:
        """Return the next complete event, or None. Skips comments and anything but JSON objects."""
        while b"\n" in self._buffer:
            line, _, self._buffer = self._buffer.partition(b"\n")
            if not line.startswith(b"data:"):
                continue
            try:
                event = _decode(line[5:].strip())
            except msgspec.DecodeError:
                continue
            if isinstance(event, dict):
                return event
        return None


def _is_close(reported_ms: int, own_ms: int) -> bool:
    return abs(reported_ms - own_ms) <= max(_TOLERANCE_MS, own_ms * _TOLERANCE)


def reported_length_ms(answer: Mapping[str, Any]) -> int | None:
    """Return the duration that a server reports, as `duration` or in its usage; None if it reports none."""
    usage = answer.get("usage")
    seconds = usage.get("seconds") if isinstance(usage, dict) else None
    for value in (answer.get("duration"), seconds):
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value < 1e6:
            return round(value * 1000)
    return None


def read_segments(answer: Mapping[str, Any]) -> list[Segment]:
    """Return the segments of a `verbose_json`, each with its words. Leaves out what has another form."""
    words = list(_read_words(answer.get("words")))
    found = []
    listed = answer.get("segments")
    for raw in listed if isinstance(listed, list) else ():
        try:
            found.append(msgspec.convert(raw, _UpstreamSegment))
        except msgspec.ValidationError:
            continue
    segments = []
    for number, one in enumerate(found):
        is_last = number == len(found) - 1
        own = [word for word in words if is_last or word.start < one.end]
        words = words[len(own) :]
        segments.append(
            Segment(
                start=one.start,
                end=one.end,
                text=one.text,
                seek=one.seek,
                tokens=one.tokens,
                temperature=one.temperature,
                avg_logprob=one.avg_logprob,
                compression_ratio=one.compression_ratio,
                no_speech_prob=one.no_speech_prob,
                words=own,
            )
        )
    return segments


class _UpstreamSegment(msgspec.Struct):
    start: float
    end: float
    text: str
    seek: int = 0
    tokens: list[int] = []
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0
    no_speech_prob: float = 0.0


def _read_words(listed: Any) -> list[Word]:
    words = []
    for raw in listed if isinstance(listed, list) else ():
        try:
            words.append(msgspec.convert(raw, Word))
        except msgspec.ValidationError:
            continue
    return words


async def _blocks(before: bytes, path: Path, size: int, after: bytes) -> AsyncIterator[bytes]:
    yield before
    with path.open("rb") as file:
        left = size
        while left > 0:
            block = await UPLOADS.run(file.read, min(left, _BLOCK))
            if not block:
                raise EngineError("the upload disappeared while it was forwarded")
            left -= len(block)
            yield block
    yield after


def _safe_filename(recording: Recording) -> str:
    """Return a filename with the extension of the container: servers go by it, and need not learn the caller's name."""
    return f"audio.{recording.container}"
