"""Speech from request to reservation: choose the voice, check the text, hold the price of all of it. Knows no HTTP."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from minitoolai.billing import charging as pricing
from minitoolai.billing.charging import Charging, Reservation, durable, state_after
from minitoolai.core.catalog import Catalog, SpeechModel, VoiceEntry, find_voice
from minitoolai.core.clock import Clock, generation_name
from minitoolai.core.errors import EngineError, EngineTimeout, InvalidRequest, Overloaded, ServiceError
from minitoolai.core.in_flight import CheckpointSchedule, InFlight, has_died
from minitoolai.core.inference import SpeechRequest
from minitoolai.core.models import Caller, NewGeneration, Outcome
from minitoolai.engines.protocols import SpeechEngine, SpeechResponse
from minitoolai.ledger.types import Result
from minitoolai.speech.text import SpeechText, check_text, choose_voice

# (merged from speech_run) One text being spoken: read from the engine, paid for, ended. Knows no HTTP.
# (merged from speech_run)
# (merged from speech_run) As for chats, the charge is queued by `finish`, which awaits nothing.

log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode


class Home(Protocol):
    """What a run needs of the service that began it."""

    clock: Clock
    charging: Charging
    first_sound_timeout_s: float
    stall_timeout_s: float

    def upstream_cost(self, model: str, engine: str, characters: int) -> int | None:
        """What the engine charges us, in nano-dollars, where that is known."""

    def forget(self, run: SpeechRun) -> bool:
        """The run has ended; True where it was the only one."""


class SpeechRun:
    """Made by SpeechService.begin; whoever began it calls `close`, on every path."""

    def __init__(
        self,
        service: Home,
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
        #: Set while somebody may break it off by cancelling this task.
        self.task: asyncio.Task[object] | None = None
        self.stop_reason: ServiceError | None = None
        self.is_finished = False
        #: Characters whose audio was handed to the caller.
        self.characters = 0
        self._answer: SpeechResponse | None = None
        self._charge: asyncio.Future[Result] | None = None
        self._started_s = self._moved_s = service.clock.steady_s()
        self._checkpoints = CheckpointSchedule(self._started_s)
        self._first_sound_s: float | None = None

    async def open(self) -> None:
        """Take a voice."""
        self._answer = await self.engine.open(self.request, self.voice, self.text.pieces())

    async def flow(self, write: Callable[[bytes], Awaitable[None] | None]) -> None:
        """Hand every block to `write` as it is spoken, until the end; wait for what `write` returns, if anything."""
        while (block := await self.next_block()) is not None:
            if (slow := write(block)) is not None:
                await slow

    async def next_block(self) -> bytes | None:
        """Audio for the caller, or None at the end. Nothing is spoken ahead: a slow caller slows the voice."""
        assert self._answer is not None
        held_back, is_counted = b"", False
        while (sound := await self._answer.next_sound()) is not None:
            self._moved_s = self._service.clock.steady_s()
            held_back += sound.audio
            is_counted = sound.samples is not None
            # The head of a file is no sound: it waits for some.
            if not held_back or sound.samples == 0:
                continue
            if self._first_sound_s is None:
                self._first_sound_s = self._moved_s
            self.characters = sound.characters
            return self._event(held_back) if self.request.as_events else held_back
        if self._first_sound_s is None:
            raise self._silence(is_counted=is_counted)
        self.characters = self.text.characters
        return None

    def _silence(self, *, is_counted: bool) -> ServiceError:
        """A whole text without a sound: where the engine counts its samples, the text is to blame."""
        if is_counted:
            message = f"the voice {self.voice.id} found nothing to speak in input; nothing was charged"
            return InvalidRequest(message, param="input", code="nothing_to_speak")
        return EngineError(f"{self.engine.name} sent no audio; nothing was charged")

    def final_events(self) -> bytes:
        """What leaves once the charge is durable: an event, or nothing but the end itself."""
        if not self.request.as_events:
            return b""
        # OpenAI's clients want tokens; here a character is the unit that is paid for.
        usage = {"input_tokens": self.characters, "output_tokens": 0, "total_tokens": self.characters}
        return b"data: " + _encode({"type": "speech.audio.done", "usage": usage}) + b"\n\n"

    def _event(self, audio: bytes) -> bytes:
        return b"data: " + _encode({"type": "speech.audio.delta", "audio": base64.b64encode(audio).decode()}) + b"\n\n"

    # ── paying ────────────────────────────────────────────────────────────────────────────────────────────

    def cost_so_far(self) -> int:
        """What would be charged if it ended now, in nano-dollars."""
        return self.characters * self.reservation.price_input

    async def charge(self, *, within_s: float) -> None:
        """Settle, and return once that is durable. TimeoutError if the database is too sick for that."""
        self.finish()
        if self._charge is not None:
            await durable(self._charge, within_s=within_s)

    def finish(self, error: ServiceError | None = None) -> None:
        """Queue the charge for what was spoken. The first call counts; awaits nothing."""
        if self.is_finished:
            return
        self.is_finished = True
        is_last = self._service.forget(self)
        cost, outcome = self.cost_so_far(), self._outcome(error)
        self._charge = self._service.charging.settle(self.reservation, cost, outcome, is_last=is_last)

    def _outcome(self, error: ServiceError | None) -> Outcome:
        first_s = self._first_sound_s
        return Outcome(
            state=state_after(error),
            input_units=self.characters,
            served_model=self.engine.served_model(self.request.model),
            error_code=error.code if error else None,
            first_token_ms=None if first_s is None else round((first_s - self._started_s) * 1000),
            upstream_cost=self._service.upstream_cost(self.request.model, self.engine.name, self.characters),
        )

    # ── ending ────────────────────────────────────────────────────────────────────────────────────────────

    async def close(self, error: ServiceError | None = None) -> None:
        """Finish, and let go of the voice."""
        self.finish(error)
        answer, self._answer = self._answer, None
        if answer is not None:
            await answer.close()

    def stop(self, reason: ServiceError) -> None:
        """Break off from outside."""
        if self.stop_reason is None and self.task is not None:
            self.stop_reason = reason
            self.task.cancel()

    def lose(self, reason: ServiceError) -> None:
        """Stop because the hold is settled already. Once the charge is queued, its own verdict decides instead."""
        if not self.is_finished:
            self.stop(reason)

    def tick(self, now_s: float) -> None:
        """Called twice a second: renew the lease; give up on an engine without a sound, a caller who reads nothing."""
        if has_died(self):
            return
        if self._checkpoints.is_due(now_s):
            self._service.charging.keep_alive(self.reservation, self.cost_so_far(), self.lose)
        silent_s = now_s - self._moved_s
        if self._first_sound_s is None and silent_s > self._service.first_sound_timeout_s:
            self.stop(EngineTimeout(f"{self.engine.name} made no sound for {silent_s:.0f} s; nothing was charged"))
        elif silent_s > self._service.stall_timeout_s:
            self.stop(EngineError(f"no audio was taken for {silent_s:.0f} s; what was spoken is charged"))


class SpeechService:
    """Everything that serves speech in this process."""

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
    ) -> None:
        self.catalog = catalog
        self.engines = engines
        self.charging = charging
        self.clock = clock
        self.first_sound_timeout_s = first_sound_timeout_s
        self.stall_timeout_s = stall_timeout_s
        self._underway = in_flight

    def why_not(self, voice: VoiceEntry) -> str | None:
        """None when this voice can speak now; else why not."""
        engine = self.engines[voice.engine]
        return engine.why_not_ready() or engine.why_not_voice(voice)

    def ready_voices(self, model: SpeechModel) -> list[VoiceEntry]:
        """Those that can speak now, in the catalog's order."""
        return [voice for voice in model.voices if self.why_not(voice) is None]

    def engine_for(self, model: SpeechModel) -> SpeechEngine | None:
        """Who speaks where a request names no voice."""
        voices = self.ready_voices(model)
        if not voices:
            return None
        return self.engines[(find_voice(model.default_voice, voices) or voices[0]).engine]

    def why_no_voice(self, model: SpeechModel) -> str:
        """Why none of its engines is ready."""
        return "; ".join(
            f"{name}: {reason}" for name in model.engines if (reason := self.engines[name].why_not_ready())
        )

    async def begin(self, caller: Caller, request: SpeechRequest) -> SpeechRun:
        """Check the request and hold the price of its whole text; the caller then opens the run.

        ModelNotFound, InvalidRequest, InsufficientBalance, Overloaded.
        """
        self._underway.check_open()
        model = self.catalog.speech_model(request.model)
        voices = self.ready_voices(model)
        if not voices:
            raise Overloaded(f"no voice of {model.name} is ready ({self.why_no_voice(model)})", retry_after_s=30)
        voice = choose_voice(request, model.default_voice, voices)
        engine = self.engines[voice.engine]
        _check_fit(request, model, engine)
        check_text(request, voice, voices)
        engine.check_capacity()
        text = SpeechText(request.text, voice)
        generation = NewGeneration("speech", model.name, engine.name, model.price, 0)
        bound = pricing.speech_bound(model.price, text.characters)
        run = SpeechRun(self, request, engine, voice, text, await self.charging.reserve(caller, bound, generation))
        self._underway.add(run)
        return run

    def upstream_cost(self, model: str, engine: str, characters: int) -> int | None:
        """What the engine charges us for this, in nano-dollars; None where the catalog does not say."""
        price = self.catalog.upstream_costs.get((engine, model))
        return None if price is None else price[0] * characters

    def forget(self, run: SpeechRun) -> bool:
        """The run has ended; True where it was the only one."""
        return self._underway.discard(run)


def _check_fit(request: SpeechRequest, model: SpeechModel, engine: SpeechEngine) -> None:
    """InvalidRequest that names what this model, on this engine, cannot do."""
    if len(request.text) > model.max_characters:
        raise InvalidRequest(
            f"input has {len(request.text)} characters and {model.name} speaks at most {model.max_characters} "
            "a request: send it in parts",
            param="input",
            code="string_above_max_length",
        )
    field = engine.unsupported_field(request)
    if field is not None:
        raise InvalidRequest(
            f"{field} is not supported by {engine.name}, which speaks for {model.name} here; leave it out", param=field
        )
