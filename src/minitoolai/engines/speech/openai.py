"""OpenAI-compatible servers (`/audio/speech`) as speech engines.

The audio of a text that fits one request is forwarded unchanged. A longer text is requested in parts and encoded here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from minitoolai.core.catalog.catalog import EngineEntry, VoiceEntry
from minitoolai.core.catalog.suppliers import THE_ENGINE, EngineLabel
from minitoolai.core.errors import EngineBroken, EngineError, ServiceError
from minitoolai.core.inference import AudioChunk, SpeechRequest, SpeechSegment
from minitoolai.core.threads import AUDIO
from minitoolai.engines.chat.failures import engine_error, read_error_body, upstream_failure
from minitoolai.engines.concurrency import ConcurrencyLimit
from minitoolai.engines.speech.duration import rate_of, usual_rate
from minitoolai.engines.speech.text_answer import ENOUGH, failure_of, is_text_type, looks_like_text
from minitoolai.httpclient.client import HttpClient, HttpError, HttpResponse

if TYPE_CHECKING:
    from minitoolai.engines.speech.encoding import AudioEncoder

_encode = msgspec.json.Encoder().encode
#: The encoder takes complete pcm samples only.
_BYTES_PER_SAMPLE = 2
#: Characters spoken in a second. Used for a part of unknown length.
_CHARACTERS_PER_SECOND = 15
#: A response that ends with its connection was cut off if it has less than this share of the usual audio: if the audio
#: states its rate, and if it does not.
_LEAST_STATED, _LEAST_SHARE = 0.4, 0.1
#: A part that broke off is charged this share at most, because its end is missing (decision 0025).
_MOST_OF_BROKEN = (9, 10)


class UpstreamSpeechEngine:
    """One server with one API key. It bills the text of a request when it accepts it, so charge part by part."""

    def __init__(
        self,
        name: str,
        entry: EngineEntry,
        client: HttpClient,
        *,
        base_url: str = "",
        key: str = "",
        concurrency: ConcurrencyLimit | None = None,
        total_timeout_s: float = 600.0,
    ) -> None:
        """Create an engine. `total_timeout_s` is the timeout of one response if its entry names none."""
        self.name = name
        self.label = EngineLabel.of(name, entry, base_url)
        self._read_timeout_s = entry.total_timeout_s or total_timeout_s
        self.concurrency = concurrency
        self._entry = entry
        self._client = client
        self._has_key = bool(key)
        self._url = (base_url or entry.base_url).rstrip("/") + "/audio/speech"
        self.forwards = frozenset(("instructions", *entry.forwards))
        self._headers = {"content-type": "application/json", **entry.headers}
        if key:
            self._headers["authorization"] = f"Bearer {key}"

    def why_not_ready(self) -> str | None:
        if self._entry.needs_key and not self._has_key:
            return f"no key: set MINITOOLAI_{self.name.upper()}_API_KEY"
        return None

    def why_not_voice(self, voice: VoiceEntry) -> str | None:
        return self.why_not_ready()

    def served_model(self, model: str) -> str:
        return self._entry.served_name(model)

    def unsupported_field(self, request: SpeechRequest) -> str | None:
        return None

    def check_capacity(self) -> None:
        if self.concurrency is not None:
            self.concurrency.check_capacity()

    async def foreign_language(self, text: str, language: str) -> str | None:
        return None

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        return None

    async def open(
        self, request: SpeechRequest, voice: VoiceEntry, pieces: Iterator[SpeechSegment]
    ) -> UpstreamSpeechResponse:
        response = UpstreamSpeechResponse(self, request, voice, pieces, self._entry.max_characters)
        await response.acquire_slot()
        # Send the first request now, so that a refusal becomes an error response instead of a broken stream.
        try:
            await response.request_next_part()
        except BaseException:
            await response.close()
            raise
        return response

    async def send(self, request: SpeechRequest, voice: VoiceEntry, text: str, audio_format: str) -> HttpResponse:
        """Send one request to the server. Raises EngineError if it fails."""
        body: dict[str, Any] = {
            **{name: value for name, value in request.fields.items() if name in self.forwards},
            "model": self.served_model(request.model),
            "input": text,
            "voice": voice.id,
            "response_format": audio_format,
            "speed": request.speed,
        }
        try:
            response = await self._client.request(
                "POST", self._url, headers=self._headers, body=_encode(body), read_timeout_s=self._read_timeout_s
            )
        except HttpError as error:
            raise engine_error(error, self.label) from error
        if response.status == 200:
            if is_text_type(response.headers.get("content-type", "")):
                raise failure_of(await read_error_body(response), self.label)
            return response
        error_body = await read_error_body(response)
        raise upstream_failure(response.status, response.headers.get("retry-after"), error_body, self.label)


class _Part:
    """One request to the server: characters `begin` to `end` of the text, and the audio received for them."""

    def __init__(self, begin: int, end: int, length: int | None, is_delimited: bool) -> None:
        self.begin = begin
        self.end = end
        #: Bytes of audio in total, if the server sent a length; and whether the end differs from a broken connection.
        self.length = length
        self.is_delimited = is_delimited
        self.received = 0
        self.has_ended = False

    def characters(self, bytes_per_character: float) -> int:
        """Return the characters up to the audio received so far, in proportion to the audio of the part."""
        size = self.end - self.begin
        if self.length:
            return self.begin + min(size, -(-size * self.received // self.length))
        return self.begin + min(size, math.ceil(self.received / bytes_per_character))

    def characters_if_broken(self, bytes_per_character: float) -> int:
        """Return the characters to charge for if no more audio comes: never more than arrived, nor the whole part."""
        size = self.end - self.begin
        if not self.received:
            return self.begin
        if self.length:
            spoken = size * self.received // self.length
        else:
            spoken = min(int(self.received / bytes_per_character), size * _MOST_OF_BROKEN[0] // _MOST_OF_BROKEN[1])
        return self.begin + max(1, min(spoken, size))


class UpstreamSpeechResponse:
    """A text that the server synthesizes, one request per part. Occupies a slot until it is closed."""

    def __init__(
        self,
        engine: UpstreamSpeechEngine,
        request: SpeechRequest,
        voice: VoiceEntry,
        pieces: Iterator[SpeechSegment],
        max_characters: int,
    ) -> None:
        self._engine = engine
        self._request = request
        self._voice = voice
        self._parts = _split_text(request.text, pieces, max_characters)
        #: Request several parts as pcm, which can be joined, and encode them here.
        self._is_split = len(request.text) > max_characters
        self._encoder: AudioEncoder | None = None
        self._partial_sample = b""
        self._part: _Part | None = None
        self._rate = usual_rate("pcm" if self._is_split else request.format)
        self._bytes_per_character = self._expected_bytes_per_character()
        self._failure: ServiceError | None = None
        self._response: HttpResponse | None = None
        self._is_complete = False
        self._concurrency: ConcurrencyLimit | None = None

    def _expected_bytes_per_character(self) -> float:
        return self._rate.bytes_per_second / (_CHARACTERS_PER_SECOND * self._request.speed)

    async def acquire_slot(self) -> None:
        """Wait for a slot of the server."""
        if self._engine.concurrency is not None:
            await self._engine.concurrency.acquire(self._request.account_id)
            self._concurrency = self._engine.concurrency

    async def request_next_part(self) -> bool:
        """Request the next part. Return False if none is left."""
        part = next(self._parts, None)
        if part is None:
            return False
        audio_format = "pcm" if self._is_split else self._request.format
        response = await self._engine.send(self._request, self._voice, part.text, audio_format)
        begin = 0 if self._part is None else self._part.end
        length = response.headers.get("content-length", "")
        is_delimited = bool(length or response.headers.get("transfer-encoding"))
        self._part = _Part(begin, part.characters, int(length) if length.isdecimal() else None, is_delimited)
        self._response, self._partial_sample = response, b""
        return True

    async def next_sound(self) -> AudioChunk | None:
        while not self._is_complete:
            part = self._part
            assert part is not None
            if self._failure is not None:
                raise self._failure
            try:
                data = b"" if part.has_ended else await (self._read() if part.received else self._read_begin())
                if not data and not part.has_ended:
                    self._end_part(part)
                    # Charge all of it, even if the next part fails.
                    return AudioChunk(b"", part.end)
            except ServiceError as error:
                # Correct the characters before the response fails.
                self._failure = error
                return AudioChunk(b"", part.characters_if_broken(self._bytes_per_character))
            if data:
                if not part.received and not self._is_split:
                    self._measure(part, data)
                part.received += len(data)
                audio = data if not self._is_split else await self._encode_part(data)
                if audio:
                    return AudioChunk(audio, part.characters(self._bytes_per_character))
            elif not await self.request_next_part():
                self._is_complete = True
                if self._encoder is not None:
                    return AudioChunk(await AUDIO.run(self._encoder.finish), part.end)
        return None

    def _measure(self, part: _Part, begin: bytes) -> None:
        """Read from the first audio how long all of it is, or how many bytes a second has."""
        self._rate = rate_of(self._request.format, begin)
        self._bytes_per_character = self._expected_bytes_per_character()
        if part.length is None:
            part.length = self._rate.length

    def _end_part(self, part: _Part) -> None:
        expected = (part.end - part.begin) * self._bytes_per_character
        least = expected * (_LEAST_STATED if self._rate.is_stated and not self._is_split else _LEAST_SHARE)
        if self._rate.length is not None:
            least = self._rate.length
        if not part.is_delimited and part.received < least:
            raise EngineBroken(f"{THE_ENGINE} broke off its response")
        part.has_ended = True
        if part.received:
            self._bytes_per_character = part.received / max(1, part.end - part.begin)

    async def _read(self) -> bytes:
        assert self._response is not None
        try:
            return await self._response.next_bytes()
        except HttpError as error:
            raise engine_error(error, self._engine.label) from error

    async def _read_begin(self) -> bytes:
        """Return the first bytes of a part. Raises the error that they describe if they are text."""
        begin = await self._read()
        while 0 < len(begin) < ENOUGH and (more := await self._read()):
            begin += more
        if looks_like_text(begin):
            assert self._response is not None
            raise failure_of(begin + await read_error_body(self._response), self._engine.label)
        return begin

    async def _encode_part(self, data: bytes) -> bytes:
        data = self._partial_sample + data
        end = len(data) - len(data) % _BYTES_PER_SAMPLE
        self._partial_sample = data[end:]
        return await AUDIO.run(self._encode, data[:end])

    def _encode(self, data: bytes) -> bytes:
        import numpy as np

        from minitoolai.engines.speech.encoding import AudioEncoder

        if self._encoder is None:
            self._encoder = AudioEncoder(self._request.format, self._request.mark)
        return self._encoder.encode(np.frombuffer(data, "<i2"))

    async def close(self) -> None:
        concurrency, self._concurrency = self._concurrency, None
        if concurrency is not None:
            concurrency.release(self._request.account_id)
        response, self._response = self._response, None
        if response is not None:
            response.close()


def _split_text(text: str, pieces: Iterator[SpeechSegment], max_characters: int) -> Iterator[SpeechSegment]:
    """Yield the text if it fits one request, else groups of sentences. Raises EngineError if a sentence is too long."""
    if len(text) <= max_characters:
        yield SpeechSegment(text, len(text))
        return
    group, characters = "", 0
    for piece in pieces:
        if len(piece.text) > max_characters:
            raise EngineError(f"a sentence is longer than {max_characters} characters, the limit of this voice")
        if group and len(group) + 1 + len(piece.text) > max_characters:
            yield SpeechSegment(group, characters)
            group = ""
        group, characters = f"{group} {piece.text}".strip(), piece.characters
    if group:
        yield SpeechSegment(group, characters)
