"""Settings to services: the only place that chooses implementations."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network

from minitoolai.accounts.keys import KeyPolicy, KeyVerifier
from minitoolai.accounts.rate_limits import Limits
from minitoolai.availability import Reports
from minitoolai.billing.audit import Auditor
from minitoolai.billing.charging import Charging
from minitoolai.billing.idempotency import IdempotencyStore
from minitoolai.billing.retention import RetentionPolicy, RetentionSweeper
from minitoolai.chat.image_inputs import ImageInputs
from minitoolai.chat.router import Route
from minitoolai.chat.service import ChatService
from minitoolai.core.catalog_loader import read_catalog
from minitoolai.core.clock import Clock, SystemClock
from minitoolai.core.errors import SettingsError
from minitoolai.core.in_flight import InFlight
from minitoolai.core.models import Rate
from minitoolai.core.money import parse_dollars
from minitoolai.engines.factory import make_concurrency_limits, make_engines, make_speech_engines
from minitoolai.engines.protocols import ChatEngine, SpeechEngine
from minitoolai.httpclient.client import HttpClient
from minitoolai.httpclient.guarded import GuardedClient
from minitoolai.image_wiring import Base, Images, make_images
from minitoolai.ledger.rules import decide
from minitoolai.observability.tracing import Tracing, make_tracing
from minitoolai.paths import catalog_path, database_url, pepper
from minitoolai.portal.site import Site
from minitoolai.portal_wiring import make_site
from minitoolai.settings import Settings
from minitoolai.speech.service import SpeechService
from minitoolai.storage.database import Database
from minitoolai.storage.opening import open_database
from minitoolai.storage.writer import Writer


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
    speech: SpeechService
    images: Images
    in_flight: InFlight
    keys: KeyVerifier
    replays: IdempotencyStore
    sweeper: RetentionSweeper
    reports: Reports
    auditor: Auditor
    site: Site
    #: None where nobody is to be told.
    tracing: Tracing | None


def make_limits(settings: Settings, clock: Clock) -> Limits:
    """What an account may ask for in a minute, of this process. SettingsError for dollars that are none."""
    dollars = None
    if settings.dollars_per_minute:
        try:
            dollars = parse_dollars(settings.dollars_per_minute)
        except ValueError as error:
            raise SettingsError(f"MINITOOLAI_DOLLARS_PER_MINUTE is wrong: {error}") from error
    rate = Rate(settings.requests_per_minute, settings.tokens_per_minute, dollars, settings.streams)
    return Limits(clock, rate, processes=settings.workers)


def trusted_proxies(settings: Settings) -> tuple[str, ...]:
    """Networks in the form that is compared with. SettingsError for one that is none."""
    networks = tuple(text.strip() for text in settings.trusted_proxies.split(",") if text.strip())
    for network in networks:
        try:
            ip_network(network)
        except ValueError as error:
            raise SettingsError(f"MINITOOLAI_TRUSTED_PROXIES is wrong: {error}") from error
    return networks


def kept_for(settings: Settings) -> RetentionPolicy:
    """What is not the books, and how long that is kept. SettingsError."""
    if settings.answer_retention_hours > 24:
        raise SettingsError(
            "MINITOOLAI_ANSWER_RETENTION_HOURS is wrong: an Idempotency-Key lives for 24 hours, its most"
        )
    return RetentionPolicy(settings.prompt_retention_days, settings.answer_retention_hours)


def build(settings: Settings) -> Services:
    """Everything a server needs, not yet started. CatalogError, SettingsError, StoreError."""
    catalog = read_catalog(catalog_path(settings))
    clock = SystemClock()
    tracing = make_tracing(settings, clock)
    database = open_database(database_url(settings), serving=True)
    writer = Writer(database, decide)
    http = HttpClient()
    caps = make_concurrency_limits(catalog)
    engines = make_engines(catalog, settings, http, caps, tracing.headers if tracing else None)
    in_flight = InFlight(clock)
    limits = make_limits(settings, clock)
    charging = (tracing.charging if tracing else Charging)(writer, clock, limits)
    fetch = GuardedClient()
    chats = ChatService(
        catalog,
        engines,
        charging,
        clock,
        in_flight,
        first_token_timeout_s=settings.first_token_timeout_s,
        total_timeout_s=settings.total_timeout_s,
        seeing=ImageInputs(lambda url, field: fetch.get(url, field=field)),
        route=tracing.route if tracing else Route,
    )
    speech_engines = make_speech_engines(catalog, settings, http, caps)
    speech = SpeechService(
        catalog,
        speech_engines,
        charging,
        clock,
        in_flight,
        first_sound_timeout_s=settings.first_token_timeout_s,
        stall_timeout_s=settings.total_timeout_s,
    )
    secret = pepper(settings)
    base = Base(settings, catalog, clock, database, writer, charging, in_flight, http, secret, tracing)
    images = make_images(base, is_alone=not database.is_shared)
    keys = KeyVerifier(database, secret, clock, KeyPolicy(clock, limits, trusted_proxies=trusted_proxies(settings)))
    reports = Reports(database, chats, speech, images.service)
    auditor = Auditor(database, writer, clock, audit_every_s=settings.audit_every_s)
    return Services(
        settings=settings,
        clock=clock,
        database=database,
        writer=writer,
        http=http,
        engines=engines,
        speech_engines=speech_engines,
        chats=chats,
        speech=speech,
        images=images,
        in_flight=in_flight,
        replays=IdempotencyStore(database, writer, clock, store_responses=settings.answer_retention_hours > 0),
        sweeper=RetentionSweeper(database, writer, clock, kept_for(settings)),
        keys=keys,
        reports=reports,
        auditor=auditor,
        site=make_site(settings, database, writer, clock, keys, reports, auditor, secret),
        tracing=tracing,
    )
