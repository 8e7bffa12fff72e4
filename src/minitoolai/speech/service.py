"""Start and run text-to-speech requests: choose the voice, hold the cost, stream the audio, charge. No HTTP here."""

from __future__ import annotations

import base64
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

import msgspec

from minitoolai.billing import charging as pricing
from minitoolai.billing.audio_run import AudioRun
from minitoolai.billing.charging import Charging, Reservation
from minitoolai.core.catalog.catalog import Catalog, SpeechModel, VoiceEntry, find_voice, language_of
from minitoolai.core.catalog.stand_ins import StandIns
from minitoolai.core.catalog.suppliers import THE_ENGINE
from minitoolai.core.clock import Clock
from minitoolai.core.errors import (
    EngineError,
    EngineTimeout,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ServiceError,
)
from minitoolai.core.in_flight import (
    InFlight,
)
from minitoolai.core.inference import SpeechRequest
from minitoolai.core.marks import MarkCodec, SpeechMark
from minitoolai.core.models import Caller, GenerationState, NewGeneration, Outcome
from minitoolai.engines.protocols import SpeechEngine, SpeechResponse
from minitoolai.speech.text import SpeechText, check_text, choose_voice, sample_of, wrong_language

log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode


class SpeechRun(AudioRun[SpeechResponse]):
    """One text being spoken, made by `SpeechService.begin`."""

    def __init__(
        self,
        service: SpeechService,
        request: SpeechRequest,
        engine: SpeechEngine,
        voice: VoiceEntry,
        text: SpeechText,
        reservation: Reservation,
    ) -> None:
        super().__init__(service, request.model, engine, reservation)
        self._service = service
        self.request = request
        self.engine = engine
        self.voice = voice
        self.text = text
        #: Characters of the text for which audio was sent to the caller.
        self.characters = 0
        #: Bytes of audio that were sent.
        self.audio_bytes = 0

    async def open(self) -> None:
        """Start the engine with the voice and the text."""
        self.request.mark = self._service.mark(self)
        self._response = await self.engine.open(self.request, self.voice, self.text.pieces())

    async def flow(self, write: Callable[[bytes], Awaitable[None] | None]) -> None:
        """Pass every block to `write` as it is spoken, until the end. Await what `write` returns, if anything."""
        while (block := await self.next_block()) is not None:
            if (slow := write(block)) is not None:
                await slow

    async def next_block(self) -> bytes | None:
        """Return the next audio for the caller, or None at the end.

        Applies backpressure: the engine does not generate ahead of a caller that reads slowly.
        """
        assert self._response is not None
        held_back, is_counted = b"", False
        while (sound := await self._response.next_sound()) is not None:
            self._note_progress(has_output=False)
            held_back += sound.audio
            is_counted = sound.samples is not None
            if not sound.audio and self._first_output_s is not None:
                self.characters = sound.characters
            # Send the file header together with the first audio.
            if not held_back or sound.samples == 0:
                continue
            self._note_progress(has_output=True)
            self.characters = sound.characters
            self.audio_bytes += len(held_back)
            return self._event(held_back) if self.request.as_events else held_back
        if self._first_output_s is None:
            raise self._no_audio_error(is_counted=is_counted)
        self.characters = self.text.characters
        return None

    def _no_audio_error(self, *, is_counted: bool) -> ServiceError:
        """Return the error for a text without any audio. If the engine counts samples, the text is the cause."""
        if is_counted:
            message = f"input has nothing that the voice {self.voice.id} can speak; nothing was charged"
            return InvalidRequest(message, param="input", code="nothing_to_speak")
        return EngineError(f"{THE_ENGINE} sent no audio; nothing was charged")

    def final_events(self) -> bytes:
        """Return the event to send once the charge is durable; nothing if the response is plain audio."""
        if not self.request.as_events:
            return b""
        # OpenAI's clients expect tokens. Speech is charged per character, so report characters.
        usage = {"input_tokens": self.characters, "output_tokens": 0, "total_tokens": self.characters}
        return b"data: " + _encode({"type": "speech.audio.done", "usage": usage}) + b"\n\n"

    def _event(self, audio: bytes) -> bytes:
        return b"data: " + _encode({"type": "speech.audio.delta", "audio": base64.b64encode(audio).decode()}) + b"\n\n"

    @property
    def units(self) -> int:
        return self.characters

    def outcome(self, state: GenerationState) -> Outcome:
        return Outcome(state, delivered_bytes=self.audio_bytes)

    def check_progress(self, silent_s: float) -> None:
        # An engine may send plain audio in one piece at the end; only a stream has a first sound.
        is_late = self._first_output_s is None and silent_s > self._service.first_sound_timeout_s
        if is_late and self.request.as_events:
            self.stop(EngineTimeout(f"{THE_ENGINE} sent no audio for {silent_s:.0f} s; nothing was charged"))
        elif silent_s > self._service.stall_timeout_s:
            self.stop(EngineError(f"no audio was sent or read for {silent_s:.0f} s; the audio so far is charged"))


class SpeechService:
    """Serve the text-to-speech requests of this process: choose voices, reserve the cost and start runs."""

    def __init__(
        self,
        catalog: Catalog,
        engines: Mapping[str, SpeechEngine],
        charging: Charging,
        clock: Clock,
        in_flight: InFlight,
        *,
        first_sound_timeout_s: float,
        stall_timeout_s: float,
        marks: MarkCodec | None = None,
        stand_ins: StandIns | None = None,
    ) -> None:
        self.catalog = catalog
        self.stand_ins = stand_ins or StandIns(catalog)
        #: None if marking is off.
        self._marks = marks
        self.engines = engines
        self.charging = charging
        self.clock = clock
        self.first_sound_timeout_s = first_sound_timeout_s
        self.stall_timeout_s = stall_timeout_s
        self.in_flight = in_flight

    def unavailable_reason(self, model: SpeechModel, voice: VoiceEntry) -> str | None:
        """Return why this voice of the model is unavailable now; None if it is available."""
        engine = self.engines[voice.engine]
        return self._why_not(voice.engine, model.name) or engine.why_not_voice(voice)

    def ready_voices(self, model: SpeechModel) -> list[VoiceEntry]:
        """Return the voices that are available now, in catalog order."""
        return [voice for voice in model.voices if self.unavailable_reason(model, voice) is None]

    def engine_for(self, model: SpeechModel) -> SpeechEngine | None:
        """Return the engine of the default voice, or of the first available one; None if there is none."""
        voices = self.ready_voices(model)
        if not voices:
            return None
        return self.engines[(find_voice(model.default_voice, voices) or voices[0]).engine]

    def no_voice_reason(self, model: SpeechModel) -> str:
        """Explain why none of the model's engines is ready."""
        return "; ".join(f"{name}: {reason}" for name in model.engines if (reason := self._why_not(name, model.name)))

    def _why_not(self, engine: str, model: str) -> str | None:
        return self.stand_ins.why_refused(engine, model) or self.engines[engine].why_not_ready()

    async def begin(self, caller: Caller, request: SpeechRequest) -> SpeechRun:
        """Check the request and hold the price of its whole text. The caller then opens the run.

        Raises ModelNotFound, InvalidRequest, InsufficientBalance or Overloaded.
        """
        self.in_flight.check_open()
        model = self.catalog.of_group(caller.price_group).speech_model(request.model)
        voices = self.ready_voices(model)
        if not voices:
            self.stand_ins.unavailable.add(model.name, self.no_voice_reason(model))
            raise Overloaded(f"{model.name} is not available at the moment.", retry_after_s=30)
        voice = choose_voice(request, model.default_voice, voices)
        engine = self.engines[voice.engine]
        check_capabilities(request, model, engine)
        text = SpeechText(request.text, voice)
        check_text(text, voice, voices)
        engine.check_capacity()
        request.account_id = caller.account_id
        if (sample := sample_of(request, text, voice)) is not None:
            code = await engine.foreign_language(sample, language_of(voice.language))
            if code is not None:
                raise wrong_language(code, voice, voices)
        price = 0 if self.stand_ins.is_free(engine.name, model.name) else model.price
        generation = NewGeneration("speech", model.name, engine.name, price, 0)
        bound = pricing.speech_bound(price, text.characters)
        run = SpeechRun(self, request, engine, voice, text, await self.charging.reserve(caller, bound, generation))
        self.in_flight.add(run)
        return run

    def count_refusal(self, request: SpeechRequest, error: ServiceError) -> None:
        """Count a request that was refused although it is valid, for the engine that would have spoken it."""
        try:
            model = self.catalog.speech_model(request.model)
        except ModelNotFound:
            return
        engine = self.engine_for(model)
        self.charging.count_refusal(model.engines[0] if engine is None else engine.name, model.name, error)

    def mark(self, run: SpeechRun) -> SpeechMark | None:
        """Return how to mark the speech of this run, or None if marking is off."""
        if self._marks is None:
            return None
        now_ms = self.clock.now_ms()
        when = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        asked, engine = run.request.model, run.engine
        model = self.stand_ins.shown_model(asked, engine.name, engine.served_model(asked))
        comment = f"Generated by AI ({self.catalog.shop.plain_name}): model {model}, {when}, {run.name}"
        return SpeechMark(self._marks.speech_watermark(now_ms), comment)


def check_capabilities(request: SpeechRequest, model: SpeechModel, engine: SpeechEngine) -> None:
    """Raise InvalidRequest for a field that this model cannot honour on this engine."""
    if len(request.text) > model.max_characters:
        raise InvalidRequest(
            f"input has {len(request.text)} characters and {model.name} accepts at most {model.max_characters} "
            "per request; send the text in parts",
            param="input",
            code="string_above_max_length",
        )
    field = engine.unsupported_field(request)
    if field is not None:
        raise InvalidRequest(
            f"{field} is not supported by the engine that serves {model.name} here; leave it out", param=field
        )
