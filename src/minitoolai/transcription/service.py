"""Start and run transcriptions: choose the engine, measure the recording, hold its price, charge what is processed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import msgspec

from minitoolai.billing import charging as pricing
from minitoolai.billing.audio_run import AudioRun
from minitoolai.billing.charging import Charging, Reservation
from minitoolai.core.catalog.catalog import Catalog
from minitoolai.core.catalog.stand_ins import StandIns
from minitoolai.core.catalog.transcription import TranscriptionModel
from minitoolai.core.clock import Clock
from minitoolai.core.errors import ClientLeft, EngineError, InvalidRequest, ModelNotFound, Overloaded, ServiceError
from minitoolai.core.in_flight import (
    InFlight,
)
from minitoolai.core.models import Caller, GenerationState, NewGeneration, Outcome
from minitoolai.core.transcription import Recording, Segment, TranscriptionRequest
from minitoolai.engines.transcription.pool import RecordingMeter
from minitoolai.engines.transcription.protocols import Transcript, TranscriptionEngine
from minitoolai.transcription.formats import FinishedTranscript, usage_json

_encode = msgspec.json.Encoder().encode

#: Shorter recordings are refused, as by OpenAI.
SHORTEST_MS = 100
#: A file may be longer than it declares by this much: players and encoders add some padding.
GRACE_MS = 1_000


def seconds_of(length_ms: int) -> int:
    """Return the seconds that are charged for a length: whole ones, rounded up."""
    return -(-length_ms // 1000)


class TranscriptionRun(AudioRun[Transcript]):
    """A recording in progress, made by `TranscriptionService.begin`."""

    def __init__(
        self,
        service: TranscriptionService,
        request: TranscriptionRequest,
        engine: TranscriptionEngine,
        recording: Recording,
        reservation: Reservation,
    ) -> None:
        super().__init__(service, request.model, engine, reservation)
        self._service = service
        self.request = request
        self.engine = engine
        self.recording = recording
        #: The processed part of the recording.
        self.processed_ms = 0
        self._is_estimated = False
        self._texts: list[str] = []
        self._segments: list[Segment] = []
        self._language: str | None = None

    async def open(self) -> None:
        """Start the engine."""
        self._response = await self.engine.open(self.request, self.recording)
        self._note_progress(has_output=False)

    async def flow(self, write: Callable[[bytes], Awaitable[None] | None]) -> None:
        """Transcribe everything, and pass an event per text to `write`. Await what `write` returns, if anything."""
        async for text in self._parts():
            event = b"data: " + _encode({"type": "transcript.text.delta", "delta": text}) + b"\n\n"
            if (slow := write(event)) is not None:
                await slow

    async def collect(self) -> FinishedTranscript:
        """Transcribe everything and return it."""
        async for _ in self._parts():
            pass
        return self.finished()

    async def _parts(self) -> AsyncIterator[str]:
        assert self._response is not None
        while (part := await self._response.next_part()) is not None:
            self._note_progress(has_output=False)
            self.processed_ms = max(self.processed_ms, part.processed_ms)
            self._is_estimated = self._is_estimated or part.is_estimated
            self._language = part.language or self._language
            self._segments += part.segments
            # Before the first word there is no blank.
            text = part.text if self._texts else part.text.lstrip()
            if text:
                self._note_progress(has_output=True)
                self._texts.append(text)
                yield text
            if self.processed_ms > self.recording.length_ms + GRACE_MS:
                raise InvalidRequest(
                    f"file: it declares {self.recording.length_ms / 1000:g} s of audio and contains more; export it "
                    "again. The declared length was processed and is charged.",
                    param="file",
                    code="invalid_file",
                )

    def shown_model(self) -> str:
        """Return the name of the model that serves the request, as the caller may see it."""
        served = self.engine.served_model(self.request.model)
        return self._service.stand_ins.shown_model(self.request.model, self.engine.name, served)

    def finished(self) -> FinishedTranscript:
        """Return the transcript."""
        return FinishedTranscript(
            "".join(self._texts).strip(), self._segments, self._language, self.processed_ms, self.seconds
        )

    def final_events(self) -> bytes:
        """Return the event to send once the charge is durable."""
        done = {"type": "transcript.text.done", "text": self.finished().text, "usage": usage_json(self.seconds)}
        return b"data: " + _encode(done) + b"\n\n"

    @property
    def seconds(self) -> int:
        """Return the seconds that are charged: those processed, at most those held for."""
        return min(seconds_of(self.processed_ms), seconds_of(self.recording.length_ms))

    @property
    def units(self) -> int:
        return self.seconds

    def outcome(self, state: GenerationState) -> Outcome:
        return Outcome(
            state,
            estimated=self._is_estimated,
            delivered_bytes=sum(len(text.encode()) for text in self._texts),
            is_streamed=self.request.stream,
        )

    def stop(self, reason: ServiceError) -> None:
        """Cancel the run with this error. An upstream that bills on is read to its end if only the client left."""
        if isinstance(reason, ClientLeft) and self.engine.bills_after_cancel:
            return
        super().stop(reason)

    def check_progress(self, silent_s: float) -> None:
        if silent_s > self._service.stall_timeout_s:
            self.stop(EngineError(f"nothing was processed for {silent_s:.0f} s; the audio so far is charged"))


class TranscriptionService:
    """Serve the transcriptions of this process: choose engines, reserve the cost and start runs."""

    def __init__(
        self,
        catalog: Catalog,
        engines: Mapping[str, TranscriptionEngine],
        meter: RecordingMeter,
        charging: Charging,
        clock: Clock,
        in_flight: InFlight,
        *,
        stall_timeout_s: float,
        stand_ins: StandIns | None = None,
    ) -> None:
        self.catalog = catalog
        self.stand_ins = stand_ins or StandIns(catalog)
        self.engines = engines
        self.charging = charging
        self.clock = clock
        self.stall_timeout_s = stall_timeout_s
        self._meter = meter
        self.in_flight = in_flight

    def engine_for(self, model: TranscriptionModel) -> TranscriptionEngine | None:
        """Return the first engine of the model that is ready; None if there is none."""
        for name in model.engines:
            if self.why_not(name, model) is None:
                return self.engines[name]
        return None

    def why_no_engine(self, model: TranscriptionModel) -> str:
        """Explain why none of the model's engines is ready."""
        return "; ".join(f"{name}: {self.why_not(name, model)}" for name in model.engines)

    def why_not(self, engine: str, model: TranscriptionModel) -> str | None:
        """Return why an engine does not serve a model now; None if it does."""
        return self.stand_ins.why_refused(engine, model.name) or self.engines[engine].why_not_ready()

    async def begin(self, caller: Caller, request: TranscriptionRequest) -> TranscriptionRun:
        """Check the request and hold the price of the whole recording. The caller then opens the run.

        Raises ModelNotFound, InvalidRequest, InsufficientBalance, Overloaded or EngineError.
        """
        self.in_flight.check_open()
        model = self.catalog.of_group(caller.price_group).transcription_model(request.model)
        check_model(request, model)
        engine = self.engine_for(model)
        if engine is None:
            self.stand_ins.unavailable.add(model.name, self.why_no_engine(model))
            raise Overloaded(f"{model.name} is not available at the moment.", retry_after_s=30)
        engine.check_capacity()
        recording = await self._meter.measure(request.file)
        check_length(recording, model)
        request.account_id = caller.account_id
        price = 0 if self.stand_ins.is_free(engine.name, model.name) else model.price
        generation = NewGeneration("transcription", model.name, engine.name, price, 0)
        bound = pricing.transcription_bound(price, seconds_of(recording.length_ms))
        reservation = await self.charging.reserve(caller, bound, generation)
        run = TranscriptionRun(self, request, engine, recording, reservation)
        self.in_flight.add(run)
        return run

    def count_refusal(self, request: TranscriptionRequest, error: ServiceError) -> None:
        """Count a request that was refused although it is valid, for the engine that would have served it."""
        try:
            model = self.catalog.transcription_model(request.model)
        except ModelNotFound:
            return
        engine = self.engine_for(model)
        self.charging.count_refusal(model.engines[0] if engine is None else engine.name, model.name, error)


def check_model(request: TranscriptionRequest, model: TranscriptionModel) -> None:
    """Raise InvalidRequest for what this model does not offer."""
    if request.task == "translate" and not model.translates:
        raise InvalidRequest(f"{model.name} does not translate; use /v1/audio/transcriptions", param="model")
    if request.format not in model.formats:
        raise InvalidRequest(
            f"response_format {request.format} is not supported by {model.name}; it supports "
            f"{', '.join(model.formats)}",
            param="response_format",
        )


def check_length(recording: Recording, model: TranscriptionModel) -> None:
    """Raise InvalidRequest if the recording is too short or too long."""
    if recording.length_ms < SHORTEST_MS:
        raise InvalidRequest(
            f"file: it lasts {recording.length_ms / 1000:g} s; at least {SHORTEST_MS / 1000:g} s are needed",
            param="file",
            code="audio_too_short",
        )
    if seconds_of(recording.length_ms) > model.max_seconds:
        raise InvalidRequest(
            f"file: it lasts {seconds_of(recording.length_ms)} s, and {model.name} accepts at most "
            f"{model.max_seconds} s per request; send it in parts",
            param="file",
            code="audio_too_long",
        )
