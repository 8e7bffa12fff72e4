"""Settings and catalog to engines: which adapter each entry of the catalog asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from minitoolai.core.catalog import Catalog, EngineEntry, ImageModel
from minitoolai.core.errors import EngineError, FetchFailed, SettingsError, UrlForbidden
from minitoolai.engines.chat.fake import FakeEngine
from minitoolai.engines.chat.llama import LlamaEngine
from minitoolai.engines.chat.openai import UpstreamEngine
from minitoolai.engines.concurrency import ConcurrencyLimit
from minitoolai.engines.images.openai import UpstreamImages
from minitoolai.engines.images.process import EngineProcess
from minitoolai.engines.images.remote import Remote, remote_of
from minitoolai.engines.images.webui import WebuiEngine
from minitoolai.engines.protocols import ChatEngine, ImageEngine, SpeechEngine
from minitoolai.engines.speech.fake_speech import FakeSpeechEngine
from minitoolai.engines.speech.openai import UpstreamSpeech
from minitoolai.engines.speech.piper import PiperEngine
from minitoolai.engines.speech.pool import VoicePool
from minitoolai.engines.speech.voices import HibariEngine
from minitoolai.httpclient.client import HttpClient
from minitoolai.httpclient.guarded import GuardedClient
from minitoolai.settings import Settings

Caps = dict[str, ConcurrencyLimit]
#: Headers that a request to an upstream gets besides its own, asked for each.
More = Callable[[], dict[str, str]]


def make_caps(catalog: Catalog) -> Caps:
    """One cap for each upstream that has one: for its chats, its speech and whatever else together."""
    return {
        name: ConcurrencyLimit(entry.concurrency, entry.waiting, name)
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


# (merged from painter_wiring) Settings and catalog to image engines: which adapter each entry of the catalog asks for.

_GB = 10**9
_LARGEST_PICTURE, _FETCH_S = 32 * 1024 * 1024, 30.0


def make_image_engines(catalog: Catalog, settings: Settings, http: HttpClient) -> dict[str, ImageEngine]:
    """Every engine that some image model of the catalog names."""
    used = dict.fromkeys(name for model in catalog.images.values() for name in model.engines)
    return {name: make_image_engine(name, catalog, settings, http) for name in used}


def make_image_engine(name: str, catalog: Catalog, settings: Settings, http: HttpClient) -> ImageEngine:
    """The adapter that the catalog asks for."""
    entry = catalog.engines[name]
    limits: dict[str, Any] = {"rows": settings.image_rows, "silence_s": settings.image_silence_s}
    if entry.kind == "webui":
        return WebuiEngine(_remote(name, entry, settings), entry, http, _models_of(name, catalog))
    if entry.kind == "upstream":
        return UpstreamImages(_remote(name, entry, settings), entry, http, _fetch)
    if entry.kind == "diffusers":
        config = _gpu_config(_models_of(name, catalog), entry, settings)
        return EngineProcess(name, "minitoolai.engines.diffusers.engine", config, rows=settings.gpu_pictures)
    if entry.kind == "fake":
        config = {"model": entry.model, "delay_ms": entry.delay_ms}
        return EngineProcess(name, "minitoolai.engines.images.fake", config, **limits)
    return EngineProcess(name, "minitoolai.engines.images.sketch", {"threads": 0}, **limits)


def weights_folder(settings: Settings) -> Path:
    """Where the operator's image models lie."""
    return Path(settings.weights_dir) if settings.weights_dir else settings.data_dir / "weights"


def _models_of(name: str, catalog: Catalog) -> dict[str, ImageModel]:
    return {model.name: model for model in catalog.images.values() if name in model.engines}


def _remote(name: str, entry: EngineEntry, settings: Settings) -> Remote:
    url, key = settings.engine_urls.get(name, ""), settings.engine_keys.get(name, "")
    return remote_of(name, entry, base_url=url, key=key)


def _gpu_config(models: dict[str, ImageModel], entry: EngineEntry, settings: Settings) -> dict[str, Any]:
    return {
        "models": {
            name: {"weights": entry.names.get(name, model.weights), "schedule": model.schedule}
            for name, model in models.items()
        },
        "folder": str(weights_folder(settings).absolute()),
        "device": settings.device,
        "precision": settings.precision,
        "resident_bytes": int(settings.resident_gb * _GB),
        # With guidance a picture has two rows.
        "rows_per_call": max(2, 2 * settings.gpu_pictures),
    }


async def _fetch(url: str) -> bytes:
    try:
        fetched = await GuardedClient().get(url, max_bytes=_LARGEST_PICTURE, timeout_s=_FETCH_S)
    except (FetchFailed, UrlForbidden) as error:
        raise EngineError("an upstream gave the address of a picture that cannot be fetched") from error
    if fetched.status != 200:
        raise EngineError("an upstream gave the address of a picture that is not there")
    return fetched.body
