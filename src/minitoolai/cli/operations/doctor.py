"""`minitoolai doctor`: check each part of an installation, and print a remedy for each fault.

Model files and upstreams are tried for one token. A warning is not a fault: it names a risk in a part that works.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import util
from typing import TYPE_CHECKING

from minitoolai.accounts.mail import SmtpMailer, build_mailer
from minitoolai.billing.audit_position import check_books
from minitoolai.cli.common import CLOCK, Commands, add_command, opened, prepare, read, say
from minitoolai.cli.models import build_services
from minitoolai.cli.operations.half_set import half_set
from minitoolai.core.catalog.catalog import Catalog, SpeechModel
from minitoolai.core.catalog.loader import read_catalog
from minitoolai.core.catalog.shop import Shop
from minitoolai.core.clock import wall_s
from minitoolai.core.errors import CatalogError, EngineTimeout, ServiceError, SettingsError, StoreError
from minitoolai.core.inference import ChatRequest
from minitoolai.paths import catalog_path, database_url, load_secret_keys
from minitoolai.settings import Settings
from minitoolai.storage.database import ClockOffset, Connection, offset_of
from minitoolai.storage.opening import has_tables, unsafe_settings
from minitoolai.storage.tables.accounts import accounts_by_group

if TYPE_CHECKING:
    from minitoolai.bootstrap import Services
    from minitoolai.engines.protocols import ChatEngine

GB = 10**9
#: Warn below this.
MIN_FREE_BYTES = 2 * GB


#: Time-out for one token of one upstream.
UPSTREAM_TIMEOUT_S = 20.0


def add_doctor(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `doctor`."""
    about = "check settings, catalog, database and engines, with a remedy for each fault"
    parser = add_command(commands, "doctor", about, doctor, "doctor --offline")
    parser.add_argument("--ray", metavar="HOST:PORT", help="also check the Ray cluster at this address")
    parser.add_argument(
        "--offline",
        action="store_true",
        help="connect neither to the mail server nor to upstreams, which costs one token each",
    )


def doctor(settings: Settings, options: argparse.Namespace) -> int:
    """Print a line per part; return 1 if there is a fault."""
    from minitoolai.engines.chat.llama.engine import LlamaEngine

    faults = 0
    checks: dict[str, Callable[[Settings], str]] = {
        "catalog": _check_catalog,
        "data folder": _check_folder,
        "database": _check_database,
        "pictures": _check_object_store,
        "mail": _check_mail,
        **({"Ray": partial(_check_ray, options.ray)} if options.ray else {}),
        **({"traces": _check_traces} if settings.otlp_endpoint else {}),
    }
    for name, check in checks.items():
        try:
            say(f"ok     {name}: {check(settings)}")
        except (CatalogError, SettingsError, StoreError) as error:
            faults += 1
            say(f"FAULT  {name}: {error}")
    if faults:
        return 1
    services = build_services(settings)
    reports = services.reports
    offers = reports.offers()
    without: list[str] = []
    for offer in offers:
        # The models that `serve --demo` has stand-ins for, and embedded models that were not fetched, are no faults.
        is_optional = any(
            reports.stand_ins.refuses(name, offer.model.name) or reports.catalog.engines[name].is_embedded
            for name in offer.model.engines
        )
        if not offer.engine and any(reports.catalog.engines[name].placement for name in offer.model.engines):
            say(f"ok     model {offer.model.name}: placed by minitoolai worker --ray, not tried here")
            continue
        if not offer.engine and is_optional:
            without.append(offer.model.name)
            continue
        faults += not offer.engine
        state = "ok    " if offer.engine else "FAULT "
        say(f"{state} model {offer.model.name}: {offer.engine or offer.why_not}")
    if without:
        say(f"WARN   no engine for {len(without)} models: {', '.join(without)}; see minitoolai models for the reasons")
    if count := sum(offer.stand_in is not None for offer in offers):
        price = "for nothing" if settings.stand_ins == "free" else "at full price"
        say(f"WARN   small embedded models stand in for {count} models {price}; see minitoolai models")
    for engine in services.engines.values():
        if isinstance(engine, LlamaEngine) and engine.why_not_ready() is None:
            say(f"ok     memory of {engine.name}: {engine.sizes().describe()}")
    for warning in warnings(settings):
        say(f"WARN   {warning}")
    faults += asyncio.run(_try_files(settings))
    if not options.offline:
        faults += _try_mail(settings)
        faults += asyncio.run(_try_upstreams(settings))
    return 1 if faults else 0


def _check_ray(address: str, settings: Settings) -> str:
    """Join the Ray cluster, and check that it refuses others and has what the catalog asks for."""
    if util.find_spec("ray") is None:
        raise SettingsError("Ray is not installed; pip install 'minitoolai[ray]'")
    from minitoolai.engines.ray import cluster

    cluster.connect(address)
    try:
        facts = cluster.facts()
    finally:
        cluster.disconnect()
    placed = {name: engine for name, engine in read_catalog(catalog_path(settings)).engines.items() if engine.placement}
    for name, engine in placed.items():
        if engine.gpus > facts.gpus:
            raise SettingsError(
                f"[engines.{name}] asks for {engine.gpus:g} GPUs, and the cluster has {facts.describe()}; "
                "start a node there, unless its autoscaler does"
            )
    if cluster.accepts_anyone(address):
        raise SettingsError(f"the cluster accepts a wrong token; {cluster.NO_AUTH_REMEDY}")
    return f"{facts.describe()} at {address}; a wrong token is refused; engines: {', '.join(placed) or 'none'}"


def _check_catalog(settings: Settings) -> str:
    from minitoolai.engines.factory import check_engine_settings

    path = catalog_path(settings)
    catalog = read_catalog(path)
    check_engine_settings(catalog, settings)
    counts = {
        "chat": len(catalog.chat),
        "embedding": len(catalog.embeddings),
        "speech": len(catalog.speech),
        "image": len(catalog.images),
    }
    shown = (f"{count} {kind} model{'s' * (count != 1)}" for kind, count in counts.items())
    return f"{', '.join(shown)} in {path}"


def _check_folder(settings: Settings) -> str:
    database_url(settings)
    if not os.access(settings.data_dir, os.W_OK):
        raise SettingsError(f"{settings.data_dir} is not writable; change its owner or choose --data-dir")
    return str(settings.data_dir.resolve())


def _check_database(settings: Settings) -> str:
    where = prepare(settings)
    broken = read(settings, partial(check_books, now_ms=CLOCK.now_ms()))
    if broken:
        raise SettingsError(f"the ledger does not add up: {', '.join(broken)}; run minitoolai audit")
    load_secret_keys(settings)
    if settings.database_url:
        offset = read(settings, _clock_offset)
        if offset.is_wrong:
            raise SettingsError(f"{offset.describe()}; synchronise both with NTP, such as chrony")
    return f"{where}, all invariants hold"


def _clock_offset(connection: Connection) -> ClockOffset:
    before_s, began_s = wall_s(), time.monotonic()
    server_ms = connection.server_ms()
    return offset_of(server_ms, before_s, time.monotonic() - began_s)


def _check_object_store(settings: Settings) -> str:
    """Write, read and delete a small object."""
    from minitoolai.storage.object_store import build_object_store

    store = build_object_store(settings)

    async def try_it() -> None:
        # No job has this number, so no image is touched.
        key = await store.put(0, b"a trial by minitoolai doctor")
        await store.get(key)
        await store.delete(key)

    asyncio.run(try_it())
    return f"stored in {settings.object_store or settings.data_dir.resolve() / 'objects'}"


def _check_mail(settings: Settings) -> str:
    """Check the settings of mail, without a connection."""
    build_mailer(settings, read_catalog(catalog_path(settings)).shop)
    return "sent by SMTP" if settings.smtp_url else "written to the server's log"


def _try_mail(settings: Settings) -> int:
    """Connect and sign in to the mail server; return 1 if that fails."""
    mailer = build_mailer(settings, read_catalog(catalog_path(settings)).shop)
    if not isinstance(mailer, SmtpMailer):
        return 0
    try:
        say(f"ok     mail server: {mailer.check()}")
    except SettingsError as error:
        say(f"FAULT  mail server: {error}")
        return 1
    return 0


def _check_traces(settings: Settings) -> str:
    """Send an empty message to the collector."""
    from minitoolai.observability.tracing import try_collector

    url = try_collector(settings)
    return f"{url} accepts them, {settings.trace_ratio:.4g} of all requests"


def warnings(settings: Settings) -> Iterator[str]:
    """Yield `subject: risk; remedy` for settings that work but should be changed."""
    from minitoolai.engines.factory import find_faulty_files
    from minitoolai.engines.tokenizers import why_no_tokenizers
    from minitoolai.observability.metrics_port import is_loopback

    free = shutil.disk_usage(settings.data_dir).free
    if free < MIN_FREE_BYTES:
        yield (
            f"disk: only {free / GB:.1f} GB are free in {settings.data_dir.resolve()}; free some space or move it, "
            "because no request can be served on a full disk"
        )
    if not is_loopback(settings.host) and not settings.public_url:
        yield (
            f"address: {settings.host} is reachable from other machines, but links in responses and e-mails would "
            "contain this machine's local address; set MINITOOLAI_PUBLIC_URL=https://your.name"
        )
    if not settings.marks:
        yield (
            "marks: MINITOOLAI_MARKS=off, so images and speech carry no machine-readable mark; Article 50 of the EU AI "
            "Act requires one of providers in the EU; set MINITOOLAI_MARKS=on"
        )
    yield from half_set(settings)
    if settings.database_url and not settings.secret_key:
        yield (
            f"secret: it is stored in {settings.data_dir.resolve()}; another machine on this database would create "
            "its own and reject all keys; set the same MINITOOLAI_SECRET_KEY on every machine"
        )
    catalog = read_catalog(catalog_path(settings))
    yield from find_faulty_files(catalog, settings)
    yield from _shop_warnings(settings, catalog.shop)
    yield from _group_warnings(settings, catalog)
    engines = catalog.engines
    used = {
        name
        for model in catalog.models().values()
        for name in ([voice.engine for voice in model.voices] if isinstance(model, SpeechModel) else model.engines)
    }
    for name in engines:
        if name in settings.engine_keys and name not in used:
            yield (
                f"engine {name}: it has an API key, but no model of the catalog uses it; add it to the `engines` of a "
                f"model, or its models with minitoolai catalog import {name}"
            )
    named = [name for name, entry in engines.items() if entry.tokenizer and name in settings.engine_keys]
    if named and (reason := why_no_tokenizers()):
        yield f"tokenizer of {', '.join(named)}: {reason}"
    if settings.database_url:
        for name, risk in read(settings, unsafe_settings).items():
            yield f"PostgreSQL: {name} is off, so {risk}; set {name} = on in postgresql.conf and reload it"


def _group_warnings(settings: Settings, catalog: Catalog) -> Iterator[str]:
    """Yield the price groups of accounts that the catalog does not have. Without a database there are none."""
    with opened(settings) as database:
        groups = database.read(accounts_by_group) if has_tables(database) else {}
    for name, count in sorted(groups.items()):
        if name not in catalog.groups:
            yield (
                f"price group {name}: the catalog has no [groups.{name}], so its {count} accounts pay the list prices;"
                " add it, or take them out with minitoolai account group EMAIL"
            )


def _shop_warnings(settings: Settings, shop: Shop) -> Iterator[str]:
    """Yield what a shop with a name of its own lacks, and where customers would still see this program's."""
    from minitoolai.images.provenance.certificates import names_program

    if not shop.is_own:
        return
    if not shop.support:
        yield 'shop: customers find no address for questions; write support = "help@your.name" in [shop]'
    if not settings.public_url and not shop.domain:
        yield 'shop: it has no address; write domain = "ai.your.name" in [shop]'
    for page in ("terms", "privacy"):
        if page not in shop.pages:
            yield f'shop: it has no {page} page; write {page} = "{page}.md" in [shop]'
    if settings.marks and names_program(settings):
        yield (
            "shop: the self-made certificate in images names this program; move marks-certificate.pem and "
            "marks-key.pem out of the data folder and restart, see docs/howto/marks.md"
        )


# ── model files supplied by the operator ──────────────────────────────────────────────────────────────────────────────


async def _try_files(settings: Settings) -> int:
    """Load each model file and generate one token; return the number of faults."""
    from minitoolai.bootstrap import build

    # As little memory as possible, because a server may be running beside this command.
    services = build(replace(settings, llama_slots=1, llama_context=512))
    try:
        lines = [line for engine in _with_files(services) for line in await _try_file(engine)]
    finally:
        await services.http.close()
    for line in lines:
        say(line)
    return sum(line.startswith("FAULT") for line in lines)


def _with_files(services: Services) -> list[ChatEngine]:
    settings, entries = services.settings, services.chats.catalog.engines
    own = bool(settings.llama_model or settings.llama_mmproj)
    with_files = {
        name for name, entry in entries.items() if entry.kind == "llama" and (own or entry.file or entry.fetched)
    }
    return [
        engine for name, engine in services.engines.items() if name in with_files and engine.why_not_ready() is None
    ]


async def _try_file(engine: ChatEngine) -> list[str]:
    try:
        await engine.start()
        served = await _one_token(engine, engine.name)
    except ServiceError as error:
        return [f"FAULT  engine {engine.name}: {error.message}"]
    finally:
        await engine.stop()
    why = engine.vision_unavailable_reason()
    faults = [f"FAULT  engine {engine.name} cannot see images: {why}"] if why else []
    vision = ", with vision" if engine.vision else ""
    return [f"ok     engine {engine.name}: one token from {served}{vision}", *faults]


# ── one token of each upstream ────────────────────────────────────────────────────────────────────────────


async def _try_upstreams(settings: Settings) -> int:
    """Request one token from every configured upstream, concurrently; return the number of faults."""
    from minitoolai.bootstrap import build

    services = build(settings)
    models = _first_models(services)
    try:
        lines = await asyncio.gather(*(_try_upstream(services.engines[name], model) for name, model in models.items()))
    finally:
        await services.http.close()
    for line in lines:
        say(line)
    return sum(line.startswith("FAULT") for line in lines)


def _first_models(services: Services) -> dict[str, str]:
    """Return upstream → the first model that it serves."""
    found: dict[str, str] = {}
    for model in services.chats.catalog.chat.values():
        for name in model.engines:
            is_upstream = services.chats.catalog.engines[name].is_upstream
            if is_upstream and services.engines[name].why_not_ready() is None:
                found.setdefault(name, model.name)
    return found


async def _try_upstream(engine: ChatEngine, model: str) -> str:
    where = f"upstream {engine.name} ({model})"
    began_s = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(UPSTREAM_TIMEOUT_S):
            served = await _one_token(engine, model)
    except TimeoutError:
        return f"FAULT  {where}: no response in {UPSTREAM_TIMEOUT_S:g} s; check its address"
    except EngineTimeout as error:
        return f"FAULT  {where}: {error.message}; check its address"
    except ServiceError as error:
        return f"FAULT  {where}: {error.message}; check its key, its address and the model's name there"
    return f"ok     {where}: one token from {served} in {asyncio.get_running_loop().time() - began_s:.2f} s"


async def _one_token(engine: ChatEngine, model: str) -> str:
    from minitoolai.chat.completion import normalize_completion
    from minitoolai.core.counting import PromptCount
    from minitoolai.engines.chat.llama.embeddings import LlamaEmbedder

    messages = [{"role": "user", "content": "Say yes."}]
    request = ChatRequest(model, messages, {}, stream=False, include_usage=True, limit=1)
    if isinstance(engine, LlamaEmbedder):
        request.embed = ["Say yes."]
    answer = await engine.open(request, 1)
    try:
        body = await answer.read()
        whole = normalize_completion(body, forwards=False, name="doctor", created_s=0, prompt=PromptCount(1))
    finally:
        await answer.close()
    return whole.model or "an unnamed model"
