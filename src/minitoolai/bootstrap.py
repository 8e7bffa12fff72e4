"""Composition root: build every service of a process from its settings."""

from __future__ import annotations

from dataclasses import dataclass

from minitoolai.accounts.keys import KeyPolicy, KeyVerifier, trusted_proxies
from minitoolai.accounts.rate_limits import Limits, build_limits
from minitoolai.accounts.request_bodies import BodyKeeper
from minitoolai.accounts.shared_limits import SharedBuckets
from minitoolai.availability import Reports
from minitoolai.billing.archive.archiver import ArchiveKeeper, Archiver, ServerAccess
from minitoolai.billing.archive.reader import ArchiveReader
from minitoolai.billing.audit import Auditor, shortfall_limit
from minitoolai.billing.charging import Charging
from minitoolai.billing.idempotency import IdempotencyStore
from minitoolai.billing.retention import RetentionSweeper, retention_policy
from minitoolai.billing.selling.plans import PlanKeeper
from minitoolai.billing.shared import SharedServices
from minitoolai.chat.catalog_reload import CatalogReload
from minitoolai.chat.image_inputs import ImageInputs
from minitoolai.chat.service import ChatService
from minitoolai.chat.stored.background import BackgroundResponses
from minitoolai.chat.stored.background import build as build_responses
from minitoolai.core.catalog.catalog import Catalog
from minitoolai.core.catalog.loader import read_catalog
from minitoolai.core.catalog.stand_ins import StandIns
from minitoolai.core.clock import SystemClock
from minitoolai.core.in_flight import InFlight
from minitoolai.core.marks import MarkCodec
from minitoolai.core.telemetry.tracing import attempt_headers
from minitoolai.engines.chat.llama.engine import LlamaEngine
from minitoolai.engines.factory import (
    check_engine_settings,
    make_concurrency_limits,
    make_engine,
    make_engines,
    make_placed_servers,
    make_speech_engines,
)
from minitoolai.engines.protocols import ChatEngine, SpeechEngine
from minitoolai.httpclient.client import HttpClient
from minitoolai.httpclient.guarded import GuardedClient
from minitoolai.images.build import Images
from minitoolai.images.build import build as build_images
from minitoolai.ledger.rules import decide
from minitoolai.observability.metrics import MetricSources
from minitoolai.observability.tracing import Tracing, make_tracing
from minitoolai.paths import catalog_path, database_url, load_secret_keys
from minitoolai.placing import ServerFollower, ServerPublisher
from minitoolai.portal.site import Site, build_site
from minitoolai.settings import Settings
from minitoolai.speech.service import SpeechService
from minitoolai.storage.database import Database
from minitoolai.storage.object_store import ObjectStore, build_object_store
from minitoolai.storage.opening import open_database
from minitoolai.storage.writer import Writer
from minitoolai.transcription.build import Transcriptions
from minitoolai.transcription.build import build as build_transcription


@dataclass(frozen=True)
class Services:
    """Everything one serving process holds."""

    settings: Settings
    clock: SystemClock
    database: Database
    writer: Writer
    http: HttpClient
    engines: dict[str, ChatEngine]
    speech_engines: dict[str, SpeechEngine]
    chats: ChatService
    responses: BackgroundResponses
    speech: SpeechService
    transcription: Transcriptions
    images: Images
    in_flight: InFlight
    keys: KeyVerifier
    idempotency: IdempotencyStore
    sweeper: RetentionSweeper
    archive_keeper: ArchiveKeeper
    plan_keeper: PlanKeeper
    reports: Reports
    auditor: Auditor
    site: Site
    catalog_reload: CatalogReload
    #: None if tracing is off.
    tracing: Tracing | None
    shared: SharedServices
    #: The servers that this worker places on a cluster, and those that this server uses.
    publisher: ServerPublisher
    follower: ServerFollower

    @property
    def bodies(self) -> BodyKeeper:
        """What stores requests and responses."""
        assert self.keys.bodies is not None, "set by build"
        return self.keys.bodies

    def metric_sources(self) -> MetricSources:
        """Return the services that /metrics reads."""
        return MetricSources(
            self.shared,
            self.engines,
            self.speech_engines,
            self.transcription.service.engines,
            self.chats.routes,
            self.images,
            self.auditor,
            self.settings.data_dir,
            self.publisher.servers,
        )


def _open_database(settings: Settings, clock: SystemClock) -> Database:
    database = open_database(database_url(settings), serving=True)
    # Leases of all processes are in the time of the server that they share.
    database.follow_time(clock.follow)
    return database


def _build_chats(settings: Settings, shared: SharedServices, engines: dict[str, ChatEngine]) -> ChatService:
    fetch = GuardedClient(user_agent=lambda: shared.catalog.shop.user_agent)
    return ChatService(
        shared.catalog,
        engines,
        shared.charging,
        shared.clock,
        shared.in_flight,
        first_token_timeout_s=settings.first_token_timeout_s,
        total_timeout_s=settings.total_timeout_s,
        image_inputs=ImageInputs(
            lambda url, field: fetch.get(url, field=field), lambda url, field: fetch.check(url, field=field)
        ),
        refuses_unknown_fields=settings.unknown_fields == "refuse",
        spans=shared.spans,
        stand_ins=shared.stand_ins,
    )


def _build_speech(settings: Settings, shared: SharedServices, engines: dict[str, SpeechEngine]) -> SpeechService:
    return SpeechService(
        shared.catalog,
        engines,
        shared.charging,
        shared.clock,
        shared.in_flight,
        first_sound_timeout_s=settings.first_token_timeout_s,
        stall_timeout_s=settings.total_timeout_s,
        marks=MarkCodec(shared.secret_key) if settings.marks else None,
        stand_ins=shared.stand_ins,
    )


def _build_archive_keeper(settings: Settings, shared: SharedServices, objects: ObjectStore) -> ArchiveKeeper:
    database, clock = shared.database, shared.clock
    archiver = Archiver(ServerAccess(database, shared.writer), objects, clock)
    return ArchiveKeeper(database, archiver, clock, after_months=settings.archive_after_months)


def _own_models(engines: dict[str, ChatEngine], settings: Settings) -> dict[str, str]:
    """Return the embedded engines that serve the operator's own file, with the name of that."""
    if not settings.llama_model:
        return {}
    return {name: engine.served_model for name, engine in engines.items() if isinstance(engine, LlamaEngine)}


def _make_auditor(settings: Settings, shared: SharedServices) -> Auditor:
    return Auditor(
        shared.database,
        shared.writer,
        shared.clock,
        audit_every_s=settings.audit_every_s,
        in_flight=shared.in_flight.holds,
        max_shortfall=shortfall_limit(settings),
        meters=shared.charging.meters,
    )


def _build_catalog_reload(
    settings: Settings, chats: ChatService, engines: dict[str, ChatEngine], http: HttpClient, *, is_traced: bool
) -> CatalogReload:
    """Return the object that reloads the catalog of this process."""

    def read() -> Catalog:
        catalog = read_catalog(catalog_path(settings))
        check_engine_settings(catalog, settings)
        return catalog

    def make(catalog: Catalog, name: str) -> ChatEngine:
        headers = attempt_headers if is_traced else None
        return make_engine(name, catalog.engines[name], settings, http, make_concurrency_limits(catalog), headers)

    return CatalogReload(read, chats, engines, make, is_supervised=settings.workers > 1)


def _build_keys(settings: Settings, shared: SharedServices, limits: Limits, images: Images) -> KeyVerifier:
    """Return what verifies keys, with the storage of requests and responses, which image jobs share."""
    policy = KeyPolicy(shared.clock, limits, trusted_proxies=trusted_proxies(settings))
    keys = KeyVerifier(shared.database, shared.secret_key, shared.clock, policy)
    keys.bodies = images.service.bodies = BodyKeeper(shared.database, shared.writer, shared.clock, shared.secret_key)
    return keys


def build(settings: Settings) -> Services:
    """Return everything a server needs, not yet started. Raises CatalogError, SettingsError, StoreError."""
    clock = SystemClock()
    catalog = read_catalog(catalog_path(settings))
    tracing = make_tracing(settings, clock)
    spans = tracing.spans if tracing else None
    database = _open_database(settings, clock)
    writer = Writer(database, decide)
    buckets = SharedBuckets(writer, clock) if database.is_shared else None
    limits = build_limits(settings, clock, buckets)
    http = HttpClient()
    secret_key = load_secret_keys(settings)
    charging = Charging(writer, clock, limits, spans=spans)
    stands = StandIns(catalog, settings.stand_in_policy, is_demo_only=settings.stand_ins == "demo")
    shared = SharedServices(
        catalog, clock, database, writer, charging, InFlight(clock), http, secret_key, stands, spans
    )
    caps = make_concurrency_limits(catalog)
    engines = make_engines(catalog, settings, http, caps, attempt_headers if tracing else None)
    speech_engines = make_speech_engines(catalog, settings, http, caps)
    stands.names.update(_own_models(engines, settings))
    chats = _build_chats(settings, shared, engines)
    speech = _build_speech(settings, shared, speech_engines)
    transcription = build_transcription(settings, shared, caps)
    images = build_images(settings, shared)
    keys = _build_keys(settings, shared, limits, images)
    objects = build_object_store(settings)
    archive = ArchiveReader(database, objects)
    reports = Reports(database, chats, speech, transcription.service, images.service, archive, stands)
    auditor = _make_auditor(settings, shared)
    reload = _build_catalog_reload(settings, chats, engines, http, is_traced=tracing is not None)
    site = build_site(
        settings, database, writer, clock, keys, reports, auditor, secret_key, images.address, reload, transcription,
        http, chats, images.delivery.links,
    )  # fmt: skip
    return Services(
        settings=settings,
        clock=clock,
        database=database,
        writer=writer,
        http=http,
        engines=engines,
        speech_engines=speech_engines,
        chats=chats,
        responses=build_responses(settings, shared, chats),
        speech=speech,
        transcription=transcription,
        images=images,
        in_flight=shared.in_flight,
        keys=keys,
        idempotency=IdempotencyStore(database, writer, clock, store_responses=settings.answer_retention_hours > 0),
        sweeper=RetentionSweeper(database, writer, clock, retention_policy(settings)),
        archive_keeper=_build_archive_keeper(settings, shared, objects),
        plan_keeper=PlanKeeper(database, writer, clock, catalog),
        reports=reports,
        auditor=auditor,
        site=site,
        catalog_reload=reload,
        tracing=tracing,
        shared=shared,
        publisher=ServerPublisher(make_placed_servers(catalog, settings), writer, images.worker.state.name),
        follower=ServerFollower(database, clock, engines, speech_engines),
    )
