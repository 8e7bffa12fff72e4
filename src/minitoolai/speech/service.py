"""Start and run text-to-speech requests: choose the voice, hold the cost, stream the audio, charge. No HTTP here.

As for chats, `finish` queues the charge without awaiting anything, so that every way in which a run can end is charged.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

import msgspec

from minitoolai.billing import charging as pricing
from minitoolai.billing.charging import Charging, Reservation, state_after, wait_until_durable
from minitoolai.core.catalog import Catalog, SpeechModel, VoiceEntry, find_voice
from minitoolai.core.clock import Clock, generation_name
from minitoolai.core.errors import (
    EngineError,
    EngineTimeout,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ServiceError,
)
from minitoolai.core.in_flight import (
    Cancellation,
    CheckpointSchedule,
    InFlight,
    RunFailure,
    StreamOutput,
    break_silence,
    has_died,
)
from minitoolai.core.inference import SpeechRequest, Usage
from minitoolai.core.marks import MarkCodec, SpeechMark
from minitoolai.core.models import Caller, NewGeneration, Outcome
from minitoolai.engines.protocols import SpeechEngine, SpeechResponse
from minitoolai.ledger.types import Result
from minitoolai.speech.text import SpeechText, check_text, choose_voice

log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode


class SpeechRun:
    """One text being spoken, made by `SpeechService.begin`. Its caller must call `close`, however it ends."""

    def __init__(
        self,
        service: SpeechService,
        request: SpeechRequest,
        engine: SpeechEngine,
        voice: VoiceEntry,
        text: SpeechText,
        reservation: Reservation,
    ) -> None:
        self._service = service
        self.request = request
        self.engine = engine
        self.voice = voice
        self.text = text
        self.reservation = reservation
        self.hold_id = reservation.hold_id
        self.name = generation_name(reservation.hold_id)
        self.cancellation = Cancellation()
        self.is_finished = False
        #: Characters of the text for which audio was sent to the caller.
        self.characters = 0
        #: Bytes of audio that were sent.
        self.audio_bytes = 0
        self._response: SpeechResponse | None = None
        self._charge: asyncio.Future[Result] | None = None
        #: Output of an event stream; None for plain audio.
        self.output: StreamOutput | None = None
        self._started_s = self._progress_at_s = self._silent_since_s = service.clock.steady_s()
        self._checkpoints = CheckpointSchedule(self._started_s)
        self._first_sound_s: float | None = None

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
            self._progress_at_s = self._service.clock.steady_s()
            held_back += sound.audio
            is_counted = sound.samples is not None
            if not sound.audio and self._first_sound_s is not None:
                self.characters = sound.characters
            # Send the file header together with the first audio.
            if not held_back or sound.samples == 0:
                continue
            if self._first_sound_s is None:
                self._first_sound_s = self._progress_at_s
            self.characters = sound.characters
            self.audio_bytes += len(held_back)
            return self._event(held_back) if self.request.as_events else held_back
        if self._first_sound_s is None:
            raise self._no_audio_error(is_counted=is_counted)
        self.characters = self.text.characters
        return None

    def _no_audio_error(self, *, is_counted: bool) -> ServiceError:
        """Return the error for a text without any audio. If the engine counts samples, the text is the cause."""
        if is_counted:
            message = f"input has nothing that the voice {self.voice.id} can speak; nothing was charged"
            return InvalidRequest(message, param="input", code="nothing_to_speak")
        return EngineError(f"{self.engine.name} sent no audio; nothing was charged")

    def final_events(self) -> bytes:
        """Return the event to send once the charge is durable; nothing if the response is plain audio."""
        if not self.request.as_events:
            return b""
        # OpenAI's clients expect tokens. Speech is charged per character, so report characters.
        usage = {"input_tokens": self.characters, "output_tokens": 0, "total_tokens": self.characters}
        return b"data: " + _encode({"type": "speech.audio.done", "usage": usage}) + b"\n\n"

    def _event(self, audio: bytes) -> bytes:
        return b"data: " + _encode({"type": "speech.audio.delta", "audio": base64.b64encode(audio).decode()}) + b"\n\n"

    # ── charging ────────────────────────────────────────────────────────────────────────────────────────────

    def cost_so_far(self) -> int:
        """Return the charge if the run ended now, in nano-dollars."""
        return self.characters * self.reservation.price_input

    async def charge(self, *, within_s: float) -> None:
        """Settle the hold and wait until that is durable. Raises TimeoutError if the database does not respond."""
        self.finish()
        if self._charge is not None:
            await wait_until_durable(self._charge, within_s=within_s)

    def finish(self, error: ServiceError | None = None) -> None:
        """Queue the charge for the characters spoken. Awaits nothing. Only the first call has an effect."""
        if self.is_finished:
            return
        self.is_finished = True
        is_last = self._service.forget(self)
        cost, outcome = self.cost_so_far(), self._outcome(error)
        self._charge = self._service.charging.settle(self.reservation, cost, outcome, error=error, is_last=is_last)

    def _outcome(self, error: ServiceError | None) -> Outcome:
        first_s = self._first_sound_s
        return Outcome(
            state=state_after(error),
            input_units=self.characters,
            served_model=self.engine.served_model(self.request.model),
            error_code=error.code if error else None,
            delivered_bytes=self.audio_bytes,
            first_token_ms=None if first_s is None else round((first_s - self._started_s) * 1000),
            upstream_cost=self._service.upstream_cost(self.request.model, self.engine.name, self.characters),
        )

    # ── ending ────────────────────────────────────────────────────────────────────────────────────────────

    async def close(self, error: ServiceError | None = None) -> None:
        """Finish the run and close the engine's response."""
        self.finish(error)
        response, self._response = self._response, None
        if response is not None:
            await response.close()

    def describe_failure(self, error: ServiceError) -> RunFailure:
        """Return the model, the engine and the reason of a failure, for the log."""
        return RunFailure(self.request.model, self.engine.name, error.code)

    def stop(self, reason: ServiceError) -> None:
        """Cancel the run with this error."""
        self.cancellation.cancel(reason)

    def lose(self, reason: ServiceError) -> None:
        """Stop because the hold was settled elsewhere. Has no effect once the charge is queued: its result decides."""
        if not self.is_finished:
            self.stop(reason)

    def tick(self, now_s: float) -> None:
        """Renew the lease, send heartbeats, and enforce the timeouts of the engine and of a caller that does not read.

        Called twice a second.
        """
        if has_died(self):
            return
        if self._checkpoints.is_due(now_s):
            self._service.charging.keep_alive(self.reservation, self.cost_so_far(), self.lose)
        if self.output is not None:
            self._silent_since_s = break_silence(self.output, self._silent_since_s, now_s)
        silent_s = now_s - self._progress_at_s
        # An engine may send plain audio in one piece at the end; only a stream has a first sound.
        is_late = self._first_sound_s is None and silent_s > self._service.first_sound_timeout_s
        if is_late and self.request.as_events:
            self.stop(EngineTimeout(f"{self.engine.name} sent no audio for {silent_s:.0f} s; nothing was charged"))
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
    ) -> None:
        self.catalog = catalog
        #: None if marking is off.
        self._marks = marks
        self.engines = engines
        self.charging = charging
        self.clock = clock
        self.first_sound_timeout_s = first_sound_timeout_s
        self.stall_timeout_s = stall_timeout_s
        self._in_flight = in_flight

    def unavailable_reason(self, voice: VoiceEntry) -> str | None:
        """Return why this voice is unavailable now; None if it is available."""
        engine = self.engines[voice.engine]
        return engine.why_not_ready() or engine.why_not_voice(voice)

    def ready_voices(self, model: SpeechModel) -> list[VoiceEntry]:
        """Return the voices that are available now, in catalog order."""
        return [voice for voice in model.voices if self.unavailable_reason(voice) is None]

    def engine_for(self, model: SpeechModel) -> SpeechEngine | None:
        """Return the engine of the default voice, or of the first available one; None if there is none."""
        voices = self.ready_voices(model)
        if not voices:
            return None
        return self.engines[(find_voice(model.default_voice, voices) or voices[0]).engine]

    def no_voice_reason(self, model: SpeechModel) -> str:
        """Explain why none of the model's engines is ready."""
        return "; ".join(
            f"{name}: {reason}" for name in model.engines if (reason := self.engines[name].why_not_ready())
        )

    async def begin(self, caller: Caller, request: SpeechRequest) -> SpeechRun:
        """Check the request and hold the price of its whole text. The caller then opens the run.

        Raises ModelNotFound, InvalidRequest, InsufficientBalance or Overloaded.
        """
        self._in_flight.check_open()
        model = self.catalog.speech_model(request.model)
        voices = self.ready_voices(model)
        if not voices:
            raise Overloaded(f"no voice of {model.name} is ready ({self.no_voice_reason(model)})", retry_after_s=30)
        voice = choose_voice(request, model.default_voice, voices)
        engine = self.engines[voice.engine]
        check_capabilities(request, model, engine)
        check_text(request, voice, voices)
        engine.check_capacity()
        request.account_id = caller.account_id
        text = SpeechText(request.text, voice)
        generation = NewGeneration("speech", model.name, engine.name, model.price, 0)
        bound = pricing.speech_bound(model.price, text.characters)
        run = SpeechRun(self, request, engine, voice, text, await self.charging.reserve(caller, bound, generation))
        self._in_flight.add(run)
        return run

    def count_refusal(self, request: SpeechRequest, error: ServiceError) -> None:
        """Count a request that was refused although it is valid, for the engine that would have spoken it."""
        try:
            model = self.catalog.speech_model(request.model)
        except ModelNotFound:
            return
        engine = self.engine_for(model)
        self.charging.count_refusal(model.engines[0] if engine is None else engine.name, model.name, error)

    def upstream_cost(self, model: str, engine: str, characters: int) -> int | None:
        """Return what the engine charges the operator, in nano-dollars. None if the catalog has no cost for it."""
        price = self.catalog.upstream_costs.get((engine, model))
        return None if price is None else price.cost(Usage(characters, 0))

    def mark(self, run: SpeechRun) -> SpeechMark | None:
        """Return how to mark the speech of this run, or None if marking is off."""
        if self._marks is None:
            return None
        now_ms = self.clock.now_ms()
        when = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        model = run.engine.served_model(run.request.model)
        comment = f"Generated by AI (MiniToolAI): model {model}, {when}, {run.name}"
        return SpeechMark(self._marks.speech_watermark(now_ms), comment)

    def forget(self, run: SpeechRun) -> bool:
        """Remove a run that has ended. Return True if it was the last one in flight."""
        return self._in_flight.discard(run)


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
            f"{field} is not supported by {engine.name}, which serves {model.name} here; leave it out", param=field
        )
