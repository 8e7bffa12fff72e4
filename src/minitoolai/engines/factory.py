"""Settings and catalog to engines: which adapter each entry of the catalog asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from minitoolai.core.catalog import Catalog, EngineEntry
from minitoolai.core.errors import SettingsError
from minitoolai.engines.base_speech import SpeechEngine
from minitoolai.engines.chat.fake import FakeEngine
from minitoolai.engines.chat.llama import LlamaEngine
from minitoolai.engines.chat.openai import UpstreamEngine
from minitoolai.engines.concurrency import Slots
from minitoolai.engines.protocols import ChatEngine
from minitoolai.engines.speech.fake_speech import FakeSpeechEngine
from minitoolai.engines.speech.openai import UpstreamSpeech
from minitoolai.engines.speech.piper import PiperEngine
from minitoolai.engines.speech.pool import VoicePool
from minitoolai.engines.speech.voices import HibariEngine
from minitoolai.httpclient.client import HttpClient
from minitoolai.settings import Settings

Caps = dict[str, Slots]
#: Headers that a request to an upstream gets besides its own, asked for each.
More = Callable[[], dict[str, str]]


def make_caps(catalog: Catalog) -> Caps:
    """One cap for each upstream that has one: for its chats, its speech and whatever else together."""
    return {
        name: Slots(entry.concurrency, entry.waiting, name)
        for name, entry in catalog.engines.items()
        if entry.kind == "upstream" and entry.concurrency
    }


def make_engine(
    name: str, entry: EngineEntry, settings: Settings, http: HttpClient, caps: Caps, more: More | None = None
) -> ChatEngine:
    """The adapter that the catalog asks for."""
    if entry.kind == "llama":
        return LlamaEngine(
            name,
            entry,
            http,
            path=settings.llama_model,
            slots=settings.llama_slots,
            queue=settings.llama_queue,
            context=settings.llama_context,
            threads=settings.llama_threads,
            mmproj=settings.llama_mmproj,
        )
    if entry.kind == "fake":
        return FakeEngine(name, entry)
    url, key = settings.engine_urls.get(name, ""), settings.engine_keys.get(name, "")
    return UpstreamEngine(name, entry, http, base_url=url, key=key, slots=caps.get(name), more=more)


def make_engines(
    catalog: Catalog, settings: Settings, http: HttpClient, caps: Caps, more: More | None = None
) -> dict[str, ChatEngine]:
    """Every engine of the catalog. SettingsError for a key or address that belongs to none."""
    for variable, named in (("API_KEY", settings.engine_keys), ("BASE_URL", settings.engine_urls)):
        for name in named:
            if name not in catalog.engines:
                raise SettingsError(
                    f"MINITOOLAI_{name.upper()}_{variable} names no engine of the catalog; "
                    f"its engines are {', '.join(catalog.engines)}"
                )
    used = {name for model in [*catalog.chat.values(), *catalog.embeddings.values()] for name in model.engines}
    entries = {name: entry for name, entry in catalog.engines.items() if name in used}
    return {name: make_engine(name, entry, settings, http, caps, more) for name, entry in entries.items()}


_VOICE_POOLS: dict[str, type[VoicePool]] = {"hibari": HibariEngine, "piper": PiperEngine, "fake": FakeSpeechEngine}


def make_speech_engine(name: str, catalog: Catalog, settings: Settings, http: HttpClient, caps: Caps) -> SpeechEngine:
    """The adapter that the catalog asks for, with the voices that it gives it."""
    entry = catalog.engines[name]
    if entry.kind == "upstream":
        url, key = settings.engine_urls.get(name, ""), settings.engine_keys.get(name, "")
        return UpstreamSpeech(name, entry, http, base_url=url, key=key, slots=caps.get(name))
    voices = {voice.id: voice for model in catalog.speech.values() for voice in model.voices if voice.engine == name}
    return _VOICE_POOLS[entry.kind](
        name,
        entry,
        list(voices.values()),
        folder=Path(settings.voices_dir) if settings.voices_dir else settings.data_dir / "voices",
        processes=settings.speech_processes,
        at_once=settings.speech_voices,
        queue=settings.speech_queue,
    )


def make_speech_engines(catalog: Catalog, settings: Settings, http: HttpClient, caps: Caps) -> dict[str, SpeechEngine]:
    """Every engine that some voice of the catalog names."""
    used = dict.fromkeys(name for model in catalog.speech.values() for name in model.engines)
    return {name: make_speech_engine(name, catalog, settings, http, caps) for name in used}
