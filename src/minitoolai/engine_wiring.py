"""Settings and catalog to engines: which adapter each entry of the catalog asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minitoolai.core.catalog import Catalog, EngineEntry, ImageModel
from minitoolai.core.errors import EngineError, SettingsError
from minitoolai.engines.base import ChatEngine
from minitoolai.engines.base_images import DrawnImage, ImageEngine, ImageRequest, OnProgress
from minitoolai.engines.base_speech import SpeechEngine
from minitoolai.engines.canvas_process import CanvasProcess
from minitoolai.engines.fake import FakeEngine
from minitoolai.engines.fake_speech import FakeSpeechEngine
from minitoolai.engines.hibari import HibariEngine
from minitoolai.engines.http import HttpClient
from minitoolai.engines.llama import LlamaEngine
from minitoolai.engines.piper import PiperEngine
from minitoolai.engines.slots import Slots
from minitoolai.engines.upstream import UpstreamEngine
from minitoolai.engines.upstream_speech import UpstreamSpeech
from minitoolai.engines.voice_pool import VoicePool
from minitoolai.engines.weights import Weights
from minitoolai.settings import Settings

Caps = dict[str, Slots]


def make_caps(catalog: Catalog) -> Caps:
    """One cap for each upstream that has one: for its chats, its speech and whatever else together."""
    return {
        name: Slots(entry.concurrency, entry.waiting, name)
        for name, entry in catalog.engines.items()
        if entry.kind == "upstream" and entry.concurrency
    }


def make_engine(name: str, entry: EngineEntry, settings: Settings, http: HttpClient, caps: Caps) -> ChatEngine:
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
        )
    if entry.kind == "fake":
        return FakeEngine(name, entry)
    url, key = settings.engine_urls.get(name, ""), settings.engine_keys.get(name, "")
    return UpstreamEngine(name, entry, http, base_url=url, key=key, slots=caps.get(name))


def make_engines(catalog: Catalog, settings: Settings, http: HttpClient, caps: Caps) -> dict[str, ChatEngine]:
    """Every engine of the catalog. SettingsError for a key or address that belongs to none."""
    for variable, named in (("API_KEY", settings.engine_keys), ("BASE_URL", settings.engine_urls)):
        for name in named:
            if name not in catalog.engines:
                raise SettingsError(
                    f"MINITOOLAI_{name.upper()}_{variable} names no engine of the catalog; "
                    f"its engines are {', '.join(catalog.engines)}"
                )
    used = {name for model in catalog.chat.values() for name in model.engines}
    entries = {name: entry for name, entry in catalog.engines.items() if name in used}
    return {name: make_engine(name, entry, settings, http, caps) for name, entry in entries.items()}


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


def weights_folder(settings: Settings) -> Path:
    """Where the operator's image models lie."""
    return Path(settings.weights_dir) if settings.weights_dir else settings.data_dir / "weights"


def why_no_picture(name: str, model: ImageModel, catalog: Catalog, settings: Settings) -> str | None:
    """None where this engine has what it needs for this model; else a sentence with the remedy."""
    entry = catalog.engines[name]
    if entry.kind == "diffusers":
        return Weights(weights_folder(settings)).why_missing(entry.names.get(model.name, model.weights))
    if entry.kind == "webui" and not (entry.base_url or settings.engine_urls.get(name)):
        return f"no address: set MINITOOLAI_{name.upper()}_BASE_URL=http://host:7860, a web UI started with --api"
    if entry.kind == "upstream" and entry.needs_key and not settings.engine_keys.get(name):
        return f"no key: set MINITOOLAI_{name.upper()}_API_KEY"
    return None


class _NotYet:
    """An engine that this version does not have."""

    rows = 0
    is_up = False

    def __init__(self, name: str, catalog: Catalog, settings: Settings) -> None:
        self.name = name
        self._catalog, self._settings = catalog, settings

    def why_not_ready(self, model: str) -> str | None:
        missing = why_no_picture(self.name, self._catalog.images[model], self._catalog, self._settings)
        return missing or "this version does not have it yet"

    def batch_key(self, model: str, width: int, height: int) -> str:
        return model

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        return

    async def draw(self, model: str, request: ImageRequest, on_progress: OnProgress) -> DrawnImage:
        raise EngineError(f"{self.name} cannot draw")


def make_image_engine(name: str, catalog: Catalog, settings: Settings) -> ImageEngine:
    """The adapter that the catalog asks for."""
    entry = catalog.engines[name]
    limits: dict[str, Any] = {"rows": settings.image_rows, "silence_s": settings.image_silence_s}
    if entry.kind == "sketch":
        return CanvasProcess(name, "minitoolai.engines.sketch", {"threads": 0}, **limits)
    if entry.kind == "fake":
        config = {"model": entry.model, "delay_ms": entry.delay_ms}
        return CanvasProcess(name, "minitoolai.engines.fake_images", config, **limits)
    return _NotYet(name, catalog, settings)


def make_image_engines(catalog: Catalog, settings: Settings) -> dict[str, ImageEngine]:
    """Every engine that some image model of the catalog names."""
    used = dict.fromkeys(name for model in catalog.images.values() for name in model.engines)
    return {name: make_image_engine(name, catalog, settings) for name in used}
