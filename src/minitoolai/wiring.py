"""Settings to services: the only place that chooses implementations."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network

from minitoolai.core.catalog_file import read_catalog
from minitoolai.core.clock import Clock, SystemClock
from minitoolai.core.errors import SettingsError
from minitoolai.core.key_rules import Rate
from minitoolai.core.money import parse_dollars
from minitoolai.engine_wiring import make_caps, make_engines, make_speech_engines
from minitoolai.engines.base import ChatEngine
from minitoolai.engines.base_speech import SpeechEngine
from minitoolai.engines.guarded import GuardedClient
from minitoolai.engines.http import HttpClient
from minitoolai.image_wiring import Base, Images, make_images
from minitoolai.places import catalog_path, database_url, pepper
from minitoolai.portal.site import Site
from minitoolai.portal_wiring import make_site
from minitoolai.services.accounts import KeyRing
from minitoolai.services.admission import Admission
from minitoolai.services.audit import Auditor
from minitoolai.services.charging import Charging
from minitoolai.services.chat import ChatService
from minitoolai.services.ledger import decide
from minitoolai.services.limits import Limits
from minitoolai.services.replays import Replays
from minitoolai.services.reports import Reports
from minitoolai.services.routes import Route
from minitoolai.services.seeing import Seeing
from minitoolai.services.speech import SpeechService
from minitoolai.services.sweeping import Kept, RowSweeper
from minitoolai.services.underway import Underway
from minitoolai.settings import Settings
from minitoolai.storage.database import Database
from minitoolai.storage.opening import open_database
from minitoolai.storage.writer import Writer
from minitoolai.tracing import Tracing, make_tracing


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
    underway: Underway
    keys: KeyRing
    replays: Replays
    sweeper: RowSweeper
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


def kept_for(settings: Settings) -> Kept:
    """What is not the books, and how long that is kept. SettingsError."""
    if settings.answer_retention_hours > 24:
        raise SettingsError(
            "MINITOOLAI_ANSWER_RETENTION_HOURS is wrong: an Idempotency-Key lives for 24 hours, its most"
        )
    return Kept(settings.prompt_retention_days, settings.answer_retention_hours)


def build(settings: Settings) -> Services:
    """Everything a server needs, not yet started. CatalogError, SettingsError, StoreError."""
    catalog = read_catalog(catalog_path(settings))
    clock = SystemClock()
    tracing = make_tracing(settings, clock)
    database = open_database(database_url(settings), serving=True)
    writer = Writer(database, decide)
    http = HttpClient()
    caps = make_caps(catalog)
    engines = make_engines(catalog, settings, http, caps, tracing.headers if tracing else None)
    underway = Underway(clock)
    limits = make_limits(settings, clock)
    charging = (tracing.charging if tracing else Charging)(writer, clock, limits)
    fetch = GuardedClient()
    chats = ChatService(
        catalog,
        engines,
        charging,
        clock,
        underway,
        first_token_timeout_s=settings.first_token_timeout_s,
        total_timeout_s=settings.total_timeout_s,
        seeing=Seeing(lambda url, field: fetch.get(url, field=field)),
        route=tracing.route if tracing else Route,
    )
    speech_engines = make_speech_engines(catalog, settings, http, caps)
    speech = SpeechService(
        catalog,
        speech_engines,
        charging,
        clock,
        underway,
        first_sound_timeout_s=settings.first_token_timeout_s,
        stall_timeout_s=settings.total_timeout_s,
    )
    secret = pepper(settings)
    base = Base(settings, catalog, clock, database, writer, charging, underway, http, secret, tracing)
    images = make_images(base, is_alone=not database.is_shared)
    keys = KeyRing(database, secret, clock, Admission(clock, limits, trusted_proxies=trusted_proxies(settings)))
    reports = Reports(database, chats, speech, images.service)
    auditor = Auditor(database, writer, clock, audit_every_s=settings.audit_every_s, in_flight=underway.holds)
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
        underway=underway,
        replays=Replays(database, writer, clock, keeps_answers=settings.answer_retention_hours > 0),
        sweeper=RowSweeper(database, writer, clock, kept_for(settings)),
        keys=keys,
        reports=reports,
        auditor=auditor,
        site=make_site(settings, database, writer, clock, keys, reports, auditor, secret),
        tracing=tracing,
    )
