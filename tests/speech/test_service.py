"""Unit tests of speech/service.py: available voices, and checks made before the cost is held."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from minitoolai.billing.audio_run import upstream_cost
from minitoolai.billing.charging import Bound, Charging
from minitoolai.core.catalog.catalog import Catalog, EngineEntry, SpeechModel, VoiceEntry
from minitoolai.core.catalog.prices import Prices
from minitoolai.core.errors import InvalidRequest, Overloaded, ServiceError
from minitoolai.core.inference import SpeechRequest
from minitoolai.core.models import Caller
from minitoolai.speech.service import SpeechRun, SpeechService
from minitoolai.speech.text import SpeechText
from tests.support.books import CHAT, FixedClock, TemporaryBooks

VOICES = (
    VoiceEntry("anna", "first", "en-US", "CC0-1.0"),
    VoiceEntry("bert", "second", "en-US", "CC0-1.0"),
    VoiceEntry("cleo", "second", "en-US", "CC0-1.0"),
)
MODEL = SpeechModel("speaker", 15_000, 20, "cleo", VOICES)


class Engine:
    """Speech engine that only states its capabilities."""

    def __init__(self, name: str, not_ready: str | None = None) -> None:
        self.name = name
        self.not_ready = not_ready

    def why_not_ready(self) -> str | None:
        return self.not_ready

    def why_not_voice(self, voice: VoiceEntry) -> str | None:
        return "its file is missing" if voice.id == "bert" else None

    def unsupported_field(self, request: SpeechRequest) -> str | None:
        return "speed" if request.speed != 1.0 else None

    def check_capacity(self) -> None:
        raise Overloaded("every check before this one passed")


class InFlight:
    """Collaborator that accepts everything."""

    def check_open(self) -> None:
        """Accept."""


def service(first: str | None = None, second: str | None = None) -> SpeechService:
    engines: Any = {"first": Engine("first", first), "second": Engine("second", second)}
    entries = {name: EngineEntry(kind="fake", model="tone-1") for name in engines}
    catalog = Catalog(entries, {}, {MODEL.name: MODEL}, upstream_costs={("first", "speaker"): Prices.of_nano(4)})
    unused: Any = None
    in_flight: Any = InFlight()
    return SpeechService(
        catalog, engines, unused, FixedClock(), in_flight, first_sound_timeout_s=1.0, stall_timeout_s=1.0
    )


def begin(speeches: SpeechService, text: str = "Hello there.", speed: float = 1.0, voice: str | None = None) -> None:
    asyncio.run(speeches.begin(Caller(1, "k"), SpeechRequest("speaker", text, voice, "mp3", speed, {})))


def test_a_voice_is_available_if_its_engine_and_its_file_are() -> None:
    assert [voice.id for voice in service().ready_voices(MODEL)] == ["anna", "cleo"]
    assert [voice.id for voice in service(first="no process").ready_voices(MODEL)] == ["cleo"]
    assert service().unavailable_reason(MODEL, VOICES[1]) == "its file is missing"
    assert service(second="no process").unavailable_reason(MODEL, VOICES[1]) == "no process"


def test_the_default_voice_decides_the_engine_unless_it_is_unavailable() -> None:
    for speeches, name in ((service(), "second"), (service(second="no process"), "first")):
        engine = speeches.engine_for(MODEL)
        assert engine is not None
        assert engine.name == name
    assert service("no process", "no process").engine_for(MODEL) is None


def test_a_model_without_an_available_voice_is_overloaded() -> None:
    with pytest.raises(Overloaded, match=r"^speaker is not available at the moment\.$") as caught:
        begin(service("starting", "stopped"))
    assert caught.value.retry_after_s == 30


def test_a_text_above_the_maximum_is_refused_with_both_lengths() -> None:
    with pytest.raises(InvalidRequest, match=r"21 characters .* at most 20") as caught:
        begin(service(), "a" * 21)
    assert (caught.value.param, caught.value.code) == ("input", "string_above_max_length")
    with pytest.raises(Overloaded, match="every check before this one passed"):
        begin(service(), "a" * 20)


def test_a_field_that_the_engine_does_not_support_is_named() -> None:
    with pytest.raises(InvalidRequest, match="speed is not supported by the engine that serves speaker") as caught:
        begin(service(), speed=1.5)
    assert caught.value.param == "speed"


def test_an_unavailable_voice_is_not_found_but_similar_ones_are_suggested() -> None:
    with pytest.raises(InvalidRequest, match="anna") as caught:
        begin(service(), voice="bert")
    assert (caught.value.param, caught.value.code) == ("voice", "voice_not_found")


def test_the_upstream_cost_is_known_only_for_priced_engines() -> None:
    assert upstream_cost(service().catalog, "speaker", "first", 10) == 40
    assert upstream_cost(service().catalog, "speaker", "second", 10) is None


@pytest.mark.parametrize(("as_events", "late_after_s", "heartbeats"), [(True, 60.5, 4), (False, 600.5, 0)])
def test_only_a_stream_of_events_has_a_first_sound_and_heartbeats(
    sqlite_books: TemporaryBooks, as_events: bool, late_after_s: float, heartbeats: int
) -> None:
    books, account = sqlite_books, sqlite_books.account(100_000)
    beats: list[float] = []
    stopped: list[ServiceError] = []

    class Output:
        is_silent = True

        def break_silence(self) -> None:
            beats.append(books.clock.steady_s())

    async def work(charging: Charging) -> float:
        speeches = service()
        speeches.charging, speeches.clock = charging, books.clock
        speeches.first_sound_timeout_s, speeches.stall_timeout_s = 60.0, 600.0
        held = await charging.reserve(Caller(account, "key000000001"), Bound(100, 0, 1, 1), CHAT)
        request = SpeechRequest("speaker", "Hello there.", None, "mp3", 1.0, {}, as_events=as_events)
        text = SpeechText(request.text, VOICES[0])
        run = SpeechRun(speeches, request, speeches.engines["first"], VOICES[0], text, held)
        run.stop = stopped.append  # type: ignore[method-assign]
        run.output = Output() if as_events else None
        began_s = books.clock.steady_s()
        while not stopped:
            books.clock.forward(0.5)
            run.tick(books.clock.steady_s())
        return books.clock.steady_s() - began_s

    with books.writer() as writer:
        assert asyncio.run(work(Charging(writer, books.clock))) == late_after_s
    assert len(beats) == heartbeats
