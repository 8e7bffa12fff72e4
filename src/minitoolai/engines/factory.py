"""Create the engines of a catalog: choose the adapter for each entry and configure it from the settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from minitoolai.core.catalog.catalog import Catalog, EngineEntry, ImageModel, suggest_names
from minitoolai.core.errors import CatalogError, EngineError, FetchFailed, SettingsError, UrlForbidden
from minitoolai.core.operator_input import why_bad_address, why_bad_key
from minitoolai.engines.chat.anthropic.engine import AnthropicEngine
from minitoolai.engines.chat.fake import FakeEngine
from minitoolai.engines.chat.llama.embeddings import LlamaEmbedder
from minitoolai.engines.chat.llama.engine import LlamaEngine
from minitoolai.engines.chat.llama.memory import MAX_SLOTS
from minitoolai.engines.chat.llama.placed import PlacedLlama
from minitoolai.engines.chat.openai import UpstreamEngine
from minitoolai.engines.concurrency import ConcurrencyLimit
from minitoolai.engines.diffusers.engine import make_batch_engine
from minitoolai.engines.fetching import SMALL_MODEL, FetchableModel, fetchable_models, models_dir
from minitoolai.engines.host import ChildHost, MakeHost
from minitoolai.engines.images.openai import UpstreamImageEngine
from minitoolai.engines.images.process import EngineProcess
from minitoolai.engines.images.remote import RemoteServer, remote_server
from minitoolai.engines.images.upscaling import Upscaler
from minitoolai.engines.images.webui import WebuiEngine
from minitoolai.engines.memory import read_memory
from minitoolai.engines.placement import PlacedEngine
from minitoolai.engines.protocols import ChatEngine, ImageEngine, SpeechEngine
from minitoolai.engines.servers import PlacedServer
from minitoolai.engines.speech.openai import UpstreamSpeechEngine
from minitoolai.engines.speech.voices import VOICE_POOLS
from minitoolai.engines.transcription.openai import UpstreamTranscriptionEngine
from minitoolai.engines.transcription.pool import EmbeddedTranscriber
from minitoolai.engines.transcription.protocols import TranscriptionEngine
from minitoolai.httpclient.client import HttpClient
from minitoolai.httpclient.guarded import GuardedClient
from minitoolai.settings import Settings

ConcurrencyLimits = dict[str, ConcurrencyLimit]
#: Returns additional headers for each request to an upstream, such as a trace context.
ExtraHeaders = Callable[[], dict[str, str]]

# ── chat ──────────────────────────────────────────────────────────────────────────────────────────────────────


def make_concurrency_limits(catalog: Catalog) -> ConcurrencyLimits:
    """Return one limit for each upstream that has one. Its chats and its speech share it."""
    return {
        name: ConcurrencyLimit(entry.concurrency, entry.waiting, name)
        for name, entry in catalog.engines.items()
        if entry.is_upstream and entry.concurrency
    }


def make_engines(
    catalog: Catalog,
    settings: Settings,
    http: HttpClient,
    limits: ConcurrencyLimits,
    extra_headers: ExtraHeaders | None = None,
) -> dict[str, ChatEngine]:
    """Create all chat engines. Raises SettingsError like `check_engine_settings`."""
    check_engine_settings(catalog, settings)
    used = {name for model in [*catalog.chat.values(), *catalog.embeddings.values()] for name in model.engines}
    entries = {name: entry for name, entry in catalog.engines.items() if name in used}
    return {name: make_engine(name, entry, settings, http, limits, extra_headers) for name, entry in entries.items()}


def check_engine_settings(catalog: Catalog, settings: Settings) -> None:
    """Raise SettingsError for an API key or base URL that is invalid or belongs to an unknown engine."""
    for variable, named in (("API_KEY", settings.engine_keys), ("BASE_URL", settings.engine_urls)):
        for name, value in named.items():
            full_name = f"MINITOOLAI_{name.upper()}_{variable}"
            if name not in catalog.engines:
                raise SettingsError(
                    f"{full_name} names no engine of the catalog; its engines are {', '.join(catalog.engines)}"
                )
            # A web UI's key is a user and a password, with any characters, because it is sent as base64.
            is_password = variable == "API_KEY" and catalog.engines[name].kind == "webui"
            why_bad = why_bad_address(value) if variable == "BASE_URL" and value else None
            if variable == "API_KEY" and not is_password:
                why_bad = why_bad_key(value)
            if why_bad is not None:
                raise SettingsError(f"{full_name} is wrong: {why_bad}")


def make_engine(
    name: str,
    entry: EngineEntry,
    settings: Settings,
    http: HttpClient,
    limits: ConcurrencyLimits,
    extra_headers: ExtraHeaders | None = None,
) -> ChatEngine:
    """Create a chat engine according to the kind of its entry."""
    if entry.kind == "llama" and entry.placement:
        return PlacedLlama(
            name,
            entry,
            http,
            slots=settings.llama_slots,
            queue=settings.llama_queue,
            total_timeout_s=settings.total_timeout_s,
        )
    if entry.kind == "llama":
        return (LlamaEmbedder if entry.embeds else LlamaEngine)(
            name,
            entry,
            http,
            fetched=_fetched(name, entry, settings),
            path=settings.llama_model,
            slots=settings.llama_slots,
            queue=settings.llama_queue,
            # How long a text an embedding model can read is fixed.
            context=0 if entry.embeds else settings.llama_context,
            threads=settings.llama_threads,
            mmproj=settings.llama_mmproj,
            memory=partial(read_memory, settings.memory_mb),
            processes=settings.workers,
        )
    if entry.kind == "fake":
        return FakeEngine(name, entry)
    url, key = _address(name, settings)
    kind = AnthropicEngine if entry.kind == "anthropic" else UpstreamEngine
    return kind(
        name,
        entry,
        http,
        base_url=url,
        key=key,
        concurrency=limits.get(name),
        extra_headers=extra_headers,
        total_timeout_s=settings.total_timeout_s,
    )


def _fetched(name: str, entry: EngineEntry, settings: Settings) -> tuple[FetchableModel, Path] | None:
    """Return the model of `minitoolai fetch` that an entry names, and its folder. Without any model: the small one."""
    if not entry.fetched and (entry.file or settings.llama_model):
        return None
    models = fetchable_models()
    if not entry.fetched:
        return models[SMALL_MODEL], models_dir(settings)
    if entry.fetched not in models:
        known = suggest_names(entry.fetched, models)
        raise CatalogError(f"[engines.{name}] fetched: {entry.fetched!r} is no model of minitoolai fetch; {known}")
    return models[entry.fetched], models_dir(settings)


def _address(name: str, settings: Settings) -> tuple[str, str]:
    """Return the base URL and the API key that the settings give an engine, or ""."""
    return settings.engine_urls.get(name, ""), settings.engine_keys.get(name, "")


# ── speech ────────────────────────────────────────────────────────────────────────────────────────────────────


def make_speech_engines(
    catalog: Catalog, settings: Settings, http: HttpClient, limits: ConcurrencyLimits
) -> dict[str, SpeechEngine]:
    """Create all engines that voices of the catalog use."""
    used = dict.fromkeys(name for model in catalog.speech.values() for name in model.engines)
    return {name: make_speech_engine(name, catalog, settings, http, limits) for name in used}


def make_speech_engine(
    name: str, catalog: Catalog, settings: Settings, http: HttpClient, limits: ConcurrencyLimits
) -> SpeechEngine:
    """Create a speech engine according to the kind of its entry, with the voices that the catalog assigns to it."""
    entry = catalog.engines[name]
    if entry.kind == "upstream":
        url, key = _address(name, settings)
        return UpstreamSpeechEngine(
            name,
            entry,
            http,
            base_url=url,
            key=key,
            concurrency=limits.get(name),
            total_timeout_s=settings.total_timeout_s,
        )
    voices = {voice.id: voice for model in catalog.speech.values() for voice in model.voices if voice.engine == name}
    return VOICE_POOLS[entry.kind](
        name,
        entry,
        list(voices.values()),
        folder=Path(settings.voices_dir) if settings.voices_dir else settings.data_dir / "voices",
        processes=settings.speech_processes,
        max_running=settings.speech_voices,
        max_queued=settings.speech_queue,
    )


# ── transcription ─────────────────────────────────────────────────────────────────────────────────────────────


def make_transcription_engines(
    catalog: Catalog, settings: Settings, http: HttpClient, limits: ConcurrencyLimits
) -> dict[str, TranscriptionEngine]:
    """Create all engines that transcription models of the catalog use."""
    used = dict.fromkeys(name for model in catalog.transcription.values() for name in model.engines)
    return {name: make_transcription_engine(name, catalog, settings, http, limits) for name in used}


def make_transcription_engine(
    name: str, catalog: Catalog, settings: Settings, http: HttpClient, limits: ConcurrencyLimits
) -> TranscriptionEngine:
    """Create a transcription engine according to the kind of its entry."""
    entry = catalog.engines[name]
    if entry.kind == "upstream":
        url, key = _address(name, settings)
        return UpstreamTranscriptionEngine(
            name,
            entry,
            http,
            catalog.transcription,
            base_url=url,
            key=key,
            concurrency=limits.get(name),
            total_timeout_s=settings.total_timeout_s,
        )
    return EmbeddedTranscriber(
        name,
        entry,
        fetched=_fetched(name, entry, settings) if entry.fetched else None,
        threads=settings.transcription_threads or max(1, (os.cpu_count() or 1) // 2),
        max_running=settings.transcriptions,
        max_queued=settings.transcription_queue,
    )


# ── images ────────────────────────────────────────────────────────────────────────────────────────────────────

_GB = 10**9
_MAX_IMAGE_BYTES, _FETCH_TIMEOUT_S = 32 * 1024 * 1024, 30.0


def make_image_engines(catalog: Catalog, settings: Settings, http: HttpClient) -> dict[str, ImageEngine]:
    """Create all engines that image models of the catalog use."""
    used = dict.fromkeys(name for model in catalog.images.values() for name in model.engines)
    return {name: make_image_engine(name, catalog, settings, http) for name in used}


def make_image_engine(name: str, catalog: Catalog, settings: Settings, http: HttpClient) -> ImageEngine:
    """Create an image engine according to the kind of its entry."""
    entry = catalog.engines[name]
    if bool(entry.placement) != bool(settings.ray_address):
        # `worker --ray` draws with the engines of its cluster and no others, and is alone in that.
        idle = _make_image_engine(name, catalog, settings, http)
        idle.max_concurrency = 0
        return idle
    if not entry.placement:
        return _make_image_engine(name, catalog, settings, http)
    # Only here, because a server must not import Ray.
    from minitoolai.engines.ray.host import RayHost

    def make_copy() -> EngineProcess:
        host = partial(RayHost, gpus=entry.gpus)
        engine = _make_image_engine(name, catalog, settings, http, make_host=host)
        assert isinstance(engine, EngineProcess), "the catalog allows only engines in a child to be placed"
        return engine

    rows = settings.gpu_pictures if entry.kind == "diffusers" else settings.image_rows
    return PlacedEngine(name, make_copy, rows=rows, least=entry.min, most=entry.max, idle_s=entry.idle_s)


def _make_image_engine(
    name: str, catalog: Catalog, settings: Settings, http: HttpClient, make_host: MakeHost = ChildHost
) -> WebuiEngine | UpstreamImageEngine | EngineProcess:
    entry = catalog.engines[name]
    options: dict[str, Any] = {
        "max_concurrency": settings.image_rows,
        "silence_s": settings.image_silence_s,
        "make_host": make_host,
    }
    if entry.kind == "webui":
        return WebuiEngine(_remote(name, entry, settings), entry, http, _models_of(name, catalog))
    if entry.kind == "upstream":
        return UpstreamImageEngine(_remote(name, entry, settings), entry, http, _fetch)
    if entry.kind == "diffusers":
        config = _diffusers_config(_models_of(name, catalog), entry, settings)
        options["max_concurrency"] = settings.gpu_pictures
        del options["silence_s"]
        return EngineProcess(name, "minitoolai.engines.diffusers.engine", config, **options)
    if entry.kind == "fake":
        config = {"model": entry.model, "delay_ms": entry.delay_ms}
        return EngineProcess(name, "minitoolai.engines.images.fake", config, **options)
    return EngineProcess(name, "minitoolai.engines.images.sketch", {"threads": 0}, **options)


# ── servers on a cluster ──────────────────────────────────────────────────────────────────────────────────────


def make_placed_servers(catalog: Catalog, settings: Settings) -> list[PlacedServer]:
    """Create the servers of language models and voices that `worker --ray` places, each on a machine with room."""
    speaking = {name for model in catalog.speech.values() for name in model.engines}
    placed = {name: entry for name, entry in catalog.engines.items() if entry.placement}
    servers = {name: entry for name, entry in placed.items() if entry.kind == "llama" or name in speaking}
    if not settings.ray_address or not servers:
        return []
    # Only here, because a server must not import Ray.
    from minitoolai.engines.ray.host import RayHost

    made = []
    for name, entry in servers.items():
        host = partial(RayHost, gpus=entry.gpus)
        is_llama = entry.kind == "llama"
        module = "minitoolai.engines.chat.llama.placed_child" if is_llama else "minitoolai.engines.speech.outlet"
        options = _llama_settings(entry, settings) if is_llama else {}
        made += [PlacedServer(name, module, options, host) for _ in range(entry.copies)]
    return made


def _llama_settings(entry: EngineEntry, settings: Settings) -> dict[str, Any]:
    return {
        "path": entry.file,
        "model": entry.model,
        "slots": settings.llama_slots or MAX_SLOTS,
        "queue": settings.llama_queue,
        "context": entry.context,
        "threads": settings.llama_threads,
        "embeds": False,
        "pooling": "",
    }


def make_upscaler(catalog: Catalog, settings: Settings) -> Upscaler | None:
    """Return the operator's upscalers, or None if the catalog names none."""
    folder = weights_folder(settings).absolute()
    files = {name: folder / model.upscaler for name, model in catalog.images.items() if model.upscaler}
    return Upscaler(files) if files else None


def find_faulty_files(catalog: Catalog, settings: Settings) -> list[str]:
    """Return the faults of LoRAs and upscalers of the catalog, for the operator."""
    upscaler = make_upscaler(catalog, settings)
    faults = [] if upscaler is None else upscaler.faults()
    for name, entry in catalog.engines.items():
        if entry.kind == "diffusers" and (models := _models_of(name, catalog)):
            faults += make_batch_engine(_diffusers_config(models, entry, settings)).lora_faults()
    return faults


def weights_folder(settings: Settings) -> Path:
    """Return the folder of the operator's image models."""
    return Path(settings.weights_dir) if settings.weights_dir else settings.data_dir / "weights"


def _models_of(name: str, catalog: Catalog) -> dict[str, ImageModel]:
    return {model.name: model for model in catalog.images.values() if name in model.engines}


def _remote(name: str, entry: EngineEntry, settings: Settings) -> RemoteServer:
    url, key = _address(name, settings)
    return remote_server(name, entry, base_url=url, key=key)


def _diffusers_config(models: dict[str, ImageModel], entry: EngineEntry, settings: Settings) -> dict[str, Any]:
    return {
        "models": {
            name: {
                "weights": entry.names.get(name, model.weights),
                "schedule": model.schedule,
                "loras": model.loras,
            }
            for name, model in models.items()
        },
        "folder": str(weights_folder(settings).absolute()),
        "device": settings.device,
        "precision": settings.precision,
        "resident_bytes": int(settings.resident_gb * _GB),
        # With guidance, an image takes two rows.
        "rows_per_call": max(2, 2 * settings.gpu_pictures),
    }


async def _fetch(url: str) -> bytes:
    try:
        response = await GuardedClient().get(url, max_bytes=_MAX_IMAGE_BYTES, timeout_s=_FETCH_TIMEOUT_S)
    except (FetchFailed, UrlForbidden) as error:
        raise EngineError("an upstream sent an image URL that cannot be fetched") from error
    if response.status != 200:
        raise EngineError("an upstream sent an image URL without an image")
    return response.body
