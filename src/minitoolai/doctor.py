"""`minitoolai doctor`: each part of an installation, and what to do about what is wrong; upstreams say one token.

A warning is no fault: what it is about works, until the day on which it does not.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from dataclasses import replace

from minitoolai.commands import prepare, read, say
from minitoolai.core.catalog_file import read_catalog
from minitoolai.core.errors import CatalogError, EngineTimeout, ServiceError, SettingsError, StoreError
from minitoolai.core.inference import ChatRequest
from minitoolai.doubts import doubts
from minitoolai.engines.base import ChatEngine
from minitoolai.image_wiring import make_objects
from minitoolai.listing import stands_in
from minitoolai.offers import built
from minitoolai.places import catalog_path, database_url
from minitoolai.services.completions import whole_answer
from minitoolai.settings import Settings
from minitoolai.storage import audit as audit_rows
from minitoolai.tracing import try_collector
from minitoolai.wiring import Services, build

#: Longest wait for one token of one upstream.
PATIENCE_S = 20.0


def doctor(settings: Settings, options: argparse.Namespace) -> int:
    """doctor [--offline]: each part, and what to do about what is wrong."""
    faults = 0
    checks = {
        "catalog": _check_catalog,
        "data folder": _check_folder,
        "database": _check_database,
        "pictures": _check_pictures,
    }
    if settings.otlp_endpoint:
        checks["traces"] = _check_traces
    for name, check in checks.items():
        try:
            say(f"ok     {name}: {check(settings)}")
        except (CatalogError, SettingsError, StoreError) as error:
            faults += 1
            say(f"FAULT  {name}: {error}")
    if faults:
        return 1
    reports = built(settings).reports
    offers = reports.offers()
    for offer in offers:
        faults += offer.engine is None
        say(f"{'ok    ' if offer.engine else 'FAULT '} model {offer.model.name}: {offer.engine or offer.why_not}")
    if count := sum(stands_in(reports.catalog, offer.model, offer.engine) for offer in offers):
        say(f"WARN   small models of ours stand in for {count} at full price; minitoolai models says what is missing")
    for doubt in doubts(settings):
        say(f"WARN   {doubt}")
    faults += asyncio.run(_try_files(settings))
    if not options.offline:
        faults += asyncio.run(_ask_upstreams(settings))
    return 1 if faults else 0


def _check_catalog(settings: Settings) -> str:
    path = catalog_path(settings)
    catalog = read_catalog(path)
    counts = {"chat": len(catalog.chat), "speech": len(catalog.speech), "image": len(catalog.images)}
    return ", ".join(f"{count} {kind} models" for kind, count in counts.items()) + f" in {path}"


def _check_folder(settings: Settings) -> str:
    database_url(settings)
    if not os.access(settings.data_dir, os.W_OK):
        raise SettingsError(f"{settings.data_dir} cannot be written; change its owner or choose --data-dir")
    return str(settings.data_dir.resolve())


def _check_database(settings: Settings) -> str:
    where = prepare(settings)
    broken = read(settings, audit_rows.broken_invariants)
    if broken:
        raise SettingsError(f"the books do not add up: {', '.join(broken)}; run minitoolai audit")
    return f"{where}, all invariants hold"


def _check_pictures(settings: Settings) -> str:
    """The store takes a small object, gives it back and forgets it."""
    store = make_objects(settings)

    async def try_it() -> None:
        # No job has this number: nobody's picture is touched.
        key = await store.put(0, b"a trial by minitoolai doctor")
        await store.get(key)
        await store.delete(key)

    asyncio.run(try_it())
    return f"kept in {settings.object_store or settings.data_dir.resolve() / 'objects'}"


def _check_traces(settings: Settings) -> str:
    """The collector takes a message in which nothing is told."""
    url = try_collector(settings)
    return f"{url} takes them, {settings.trace_ratio:.4g} of all requests"


# ── one token of each model file that the operator supplied ─────────────────────────────────────────────────


async def _try_files(settings: Settings) -> int:
    """Each is really loaded, for one short answer; how many faults."""
    # As little memory as it takes, for a server may be running beside us.
    services = build(replace(settings, llama_slots=1, llama_context=512))
    try:
        said = [line for engine in _with_files(services) for line in await _try_file(engine)]
    finally:
        await services.http.close()
    for line in said:
        say(line)
    return sum(line.startswith("FAULT") for line in said)


def _with_files(services: Services) -> list[ChatEngine]:
    settings, entries = services.settings, services.chats.catalog.engines
    own = bool(settings.llama_model or settings.llama_mmproj)
    return [
        engine
        for name, engine in services.engines.items()
        if entries[name].kind == "llama" and (own or entries[name].file) and engine.why_not_ready() is None
    ]


async def _try_file(engine: ChatEngine) -> list[str]:
    try:
        await engine.start()
        served = await _one_token(engine, engine.name)
    except ServiceError as error:
        return [f"FAULT  engine {engine.name}: {error.message}"]
    finally:
        await engine.stop()
    blind = [f"FAULT  engine {engine.name} sees no pictures: {why}"] if (why := engine.why_blind()) else []
    eyes = ", and it sees pictures" if engine.vision else ""
    return [f"ok     engine {engine.name}: one token from {served}{eyes}", *blind]


# ── one token of each upstream ────────────────────────────────────────────────────────────────────────────


async def _ask_upstreams(settings: Settings) -> int:
    """Every upstream that is configured is asked at once; how many failed."""
    services = build(settings)
    models = _a_model_each(services)
    try:
        said = await asyncio.gather(*(_ask(services.engines[name], model) for name, model in models.items()))
    finally:
        await services.http.close()
    for line in said:
        say(line)
    return sum(line.startswith("FAULT") for line in said)


def _a_model_each(services: Services) -> dict[str, str]:
    """Upstream → the first model that it may answer."""
    found: dict[str, str] = {}
    for model in services.chats.catalog.chat.values():
        for name in model.engines:
            is_upstream = services.chats.catalog.engines[name].kind == "upstream"
            if is_upstream and services.engines[name].why_not_ready() is None:
                found.setdefault(name, model.name)
    return found


async def _ask(engine: ChatEngine, model: str) -> str:
    where = f"upstream {engine.name} ({model})"
    began_s = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(PATIENCE_S):
            served = await _one_token(engine, model)
    except TimeoutError:
        return f"FAULT  {where}: no answer in {PATIENCE_S:g} s; is the address right?"
    except EngineTimeout as error:
        return f"FAULT  {where}: {error.message}; is the address right?"
    except ServiceError as error:
        return f"FAULT  {where}: {error.message}; check its key, its address and its name for this model"
    return f"ok     {where}: one token from {served} in {asyncio.get_running_loop().time() - began_s:.2f} s"


async def _one_token(engine: ChatEngine, model: str) -> str:
    messages = [{"role": "user", "content": "Say yes."}]
    answer = await engine.open(ChatRequest(model, messages, {}, stream=False, include_usage=True, limit=1), 1)
    try:
        whole = whole_answer(await answer.read(), forwards=False, name="doctor", created_s=0)
    finally:
        await answer.close()
    return whole.model or "a model without a name"
