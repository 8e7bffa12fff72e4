"""One text being spoken: read from the engine, paid for, ended. Knows no HTTP.

As for chats, the charge is queued by `finish`, which awaits nothing.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from minitoolai.core.books import Verdict
from minitoolai.core.clock import Clock, generation_name
from minitoolai.core.errors import EngineError, EngineTimeout, InvalidRequest, ServiceError
from minitoolai.core.inference import SpeechRequest
from minitoolai.core.records import Outcome
from minitoolai.core.voices import VoiceEntry
from minitoolai.engines.base_speech import SpeechEngine, SpokenAnswer
from minitoolai.services.charging import Charging, Reservation, durable, state_after
from minitoolai.services.speech_text import SpeechText
from minitoolai.services.underway import Checkpoints, has_died

log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode


class Home(Protocol):
    """What a run needs of the service that began it."""

    clock: Clock
    charging: Charging
    first_sound_timeout_s: float
    stall_timeout_s: float

    def purchase(self, model: str, engine: str, characters: int) -> int | None:
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
        self.name = generation_name(reservation.hold_id)
        #: Set while somebody may break it off by cancelling this task.
        self.task: asyncio.Task[object] | None = None
        self.stop_reason: ServiceError | None = None
        self.is_finished = False
        #: Characters whose audio was handed to the caller.
        self.characters = 0
        self._answer: SpokenAnswer | None = None
        self._charge: asyncio.Future[Verdict] | None = None
        self._started_s = self._moved_s = service.clock.steady_s()
        self._checkpoints = Checkpoints(self._started_s)
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

    def ending(self) -> bytes:
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
            purchase=self._service.purchase(self.request.model, self.engine.name, self.characters),
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
