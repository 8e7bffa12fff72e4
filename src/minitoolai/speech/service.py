"""Speech from request to reservation: choose the voice, check the text, hold the price of all of it. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Mapping

from minitoolai.billing import pricing
from minitoolai.billing.charging import Charging
from minitoolai.core.catalog import Catalog
from minitoolai.core.clock import Clock
from minitoolai.core.errors import InvalidRequest, Overloaded
from minitoolai.core.in_flight import Underway
from minitoolai.core.inference import SpeechRequest
from minitoolai.core.models import Caller, NewGeneration
from minitoolai.core.voices import SpeechModel, VoiceEntry, find_voice
from minitoolai.engines.base_speech import SpeechEngine
from minitoolai.speech.speech_run import SpeechRun
from minitoolai.speech.text import SpeechText, check_text, choose_voice


class SpeechService:
    """Everything that serves speech in this process."""

    def __init__(
        self,
        catalog: Catalog,
        engines: Mapping[str, SpeechEngine],
        charging: Charging,
        clock: Clock,
        underway: Underway,
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
        self._underway = underway

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
        engine.check_room()
        text = SpeechText(request.text, voice)
        generation = NewGeneration("speech", model.name, engine.name, model.price, 0)
        bound = pricing.speech_bound(model.price, text.characters)
        run = SpeechRun(self, request, engine, voice, text, await self.charging.reserve(caller, bound, generation))
        self._underway.add(run)
        return run

    def purchase(self, model: str, engine: str, characters: int) -> int | None:
        """What the engine charges us for this, in nano-dollars; None where the catalog does not say."""
        price = self.catalog.purchases.get((engine, model))
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
