"""Settings and catalog to image engines: which adapter each entry of the catalog asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minitoolai.core.catalog import Catalog, EngineEntry, ImageModel
from minitoolai.core.errors import EngineError, FetchFailed, UrlForbidden
from minitoolai.engines.base_images import ImageEngine
from minitoolai.engines.images.openai import UpstreamImages
from minitoolai.engines.images.process import CanvasProcess
from minitoolai.engines.images.remote import Remote, remote_of
from minitoolai.engines.images.webui import WebuiEngine
from minitoolai.httpclient.client import HttpClient
from minitoolai.httpclient.guarded import GuardedClient
from minitoolai.settings import Settings

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
        return CanvasProcess(name, "minitoolai.engines.diffusers.engine", config, rows=settings.gpu_pictures)
    if entry.kind == "fake":
        config = {"model": entry.model, "delay_ms": entry.delay_ms}
        return CanvasProcess(name, "minitoolai.engines.images.fake", config, **limits)
    return CanvasProcess(name, "minitoolai.engines.images.sketch", {"threads": 0}, **limits)


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
        fetched = await GuardedClient().get(url, most_bytes=_LARGEST_PICTURE, within_s=_FETCH_S)
    except (FetchFailed, UrlForbidden) as error:
        raise EngineError("an upstream gave the address of a picture that cannot be fetched") from error
    if fetched.status != 200:
        raise EngineError("an upstream gave the address of a picture that is not there")
    return fetched.body
