"""Any OpenAI-compatible server as a voice. A text that fits one request comes back as it is; a longer one in parts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from minitoolai.core.catalog import EngineEntry
from minitoolai.core.errors import EngineError
from minitoolai.core.inference import Piece, Sound, SpeechRequest
from minitoolai.core.voices import VoiceEntry
from minitoolai.engines.forwarding import forwarded
from minitoolai.engines.http import HttpAnswer, HttpClient, HttpError
from minitoolai.engines.slots import Slots
from minitoolai.engines.upstream import mapped, upstream_failure

if TYPE_CHECKING:
    from minitoolai.engines.encoding import Encoder

_encode = msgspec.json.Encoder().encode
_SILENCE_S = 120.0
_LARGEST_ERROR = 65_536
#: Whole frames of pcm are handed to the encoder.
_BYTES_PER_SAMPLE = 2


class UpstreamSpeech:
    """One server, one key. It bills the text of a request as it takes it, and so do we: a part at a time."""

    def __init__(
        self,
        name: str,
        entry: EngineEntry,
        client: HttpClient,
        *,
        base_url: str = "",
        key: str = "",
        slots: Slots | None = None,
    ) -> None:
        self.name = name
        self.slots = slots
        self._entry = entry
        self._client = client
        self._has_key = bool(key)
        self._url = (base_url or entry.base_url).rstrip("/") + "/audio/speech"
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
        return self._entry.names.get(model, model)

    def unsupported_field(self, request: SpeechRequest) -> str | None:
        return None

    def check_room(self) -> None:
        if self.slots is not None:
            self.slots.check()

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        return None

    async def open(self, request: SpeechRequest, voice: VoiceEntry, pieces: Iterator[Piece]) -> UpstreamSpoken:
        answer = UpstreamSpoken(self, request, voice, pieces, self._entry.max_characters)
        await answer.take_slot()
        # The first request is sent here, so that a refusal is an answer and not a broken stream.
        try:
            await answer.next_part()
        except BaseException:
            await answer.close()
            raise
        return answer

    async def send(self, request: SpeechRequest, voice: VoiceEntry, text: str, form: str) -> HttpAnswer:
        """One request upstream. EngineError where it does not begin to answer."""
        body: dict[str, Any] = {
            **forwarded(request.fields),
            "model": self.served_model(request.model),
            "input": text,
            "voice": voice.id,
            "response_format": form,
            "speed": request.speed,
        }
        try:
            answer = await self._client.request(
                "POST", self._url, headers=self._headers, body=_encode(body), silence_s=_SILENCE_S
            )
        except HttpError as error:
            raise mapped(error, self.name) from error
        if answer.status == 200:
            return answer
        try:
            fault = await answer.read(_LARGEST_ERROR)
        except HttpError:
            fault = b""
        finally:
            answer.close()
        raise upstream_failure(answer.status, answer.headers.get("retry-after"), fault, self.name)


class UpstreamSpoken:
    """A text on its way through the upstream."""

    def __init__(
        self, engine: UpstreamSpeech, request: SpeechRequest, voice: VoiceEntry, pieces: Iterator[Piece], most: int
    ) -> None:
        self._engine = engine
        self._request = request
        self._voice = voice
        self._parts = _parts(request.text, pieces, most)
        #: Parts in the caller's own format cannot be joined; pcm can, and is encoded here.
        self._in_parts = len(request.text) > most
        self._encoder: Encoder | None = None
        self._rest = b""
        self._characters = 0
        self._answer: HttpAnswer | None = None
        self._is_whole = False
        self._slots: Slots | None = None

    async def take_slot(self) -> None:
        """Wait until the upstream may be asked."""
        if self._engine.slots is not None:
            await self._engine.slots.take()
            self._slots = self._engine.slots

    async def next_part(self) -> bool:
        """Ask for the next part; False where none is left."""
        part = next(self._parts, None)
        if part is None:
            return False
        form = "pcm" if self._in_parts else self._request.format
        self._answer = await self._engine.send(self._request, self._voice, part.text, form)
        self._characters, self._rest = part.characters, b""
        return True

    async def next_sound(self) -> Sound | None:
        while not self._is_whole:
            data = await self._read()
            if data:
                audio = data if not self._in_parts else await self._encoded(data)
                if audio:
                    return Sound(audio, self._characters)
            elif not await self.next_part():
                self._is_whole = True
                if self._encoder is not None:
                    return Sound(await asyncio.to_thread(self._encoder.finish), self._characters)
        return None

    async def _read(self) -> bytes:
        assert self._answer is not None
        try:
            return await self._answer.next_bytes()
        except HttpError as error:
            raise mapped(error, self._engine.name) from error

    async def _encoded(self, data: bytes) -> bytes:
        data = self._rest + data
        whole = len(data) - len(data) % _BYTES_PER_SAMPLE
        self._rest = data[whole:]
        return await asyncio.to_thread(self._encode, data[:whole])

    def _encode(self, data: bytes) -> bytes:
        import numpy as np

        from minitoolai.engines.encoding import Encoder

        if self._encoder is None:
            self._encoder = Encoder(self._request.format)
        return self._encoder.encode(np.frombuffer(data, "<i2"))

    async def close(self) -> None:
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.give_back()
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.close()


def _parts(text: str, pieces: Iterator[Piece], most: int) -> Iterator[Piece]:
    """The whole text where it fits one request, else as many sentences together as do. EngineError for one too long."""
    if len(text) <= most:
        yield Piece(text, len(text))
        return
    gathered, characters = "", 0
    for piece in pieces:
        if len(piece.text) > most:
            raise EngineError(f"a sentence is longer than {most} characters, all that the voice takes at once")
        if gathered and len(gathered) + 1 + len(piece.text) > most:
            yield Piece(gathered, characters)
            gathered = ""
        gathered, characters = f"{gathered} {piece.text}".strip(), piece.characters
    if gathered:
        yield Piece(gathered, characters)
