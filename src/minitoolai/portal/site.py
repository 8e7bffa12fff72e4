"""What all pages share: the services behind them, the navigation, static files, and templates in seven languages."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import CodeType
from typing import Any, Literal

import msgspec
from jinja2 import BytecodeCache, Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.bccache import Bucket
from jinja2.runtime import Context
from markupsafe import escape

from minitoolai.accounts.email_changes import EmailChanges
from minitoolai.accounts.external.identities import ExternalSignIn
from minitoolai.accounts.external.protocol import ExternalProvider
from minitoolai.accounts.external.registry import build_sign_ins
from minitoolai.accounts.factors.factor_resets import FactorResets
from minitoolai.accounts.factors.passkeys import Passkeys
from minitoolai.accounts.factors.second_factors import SecondFactors
from minitoolai.accounts.keys import KeyVerifier
from minitoolai.accounts.mail import Mailer, build_mailer
from minitoolai.accounts.passwords import Passwords
from minitoolai.accounts.rate_limits import Failures, Throttle
from minitoolai.accounts.teams import Teams
from minitoolai.accounts.users import Users
from minitoolai.availability import Reports
from minitoolai.billing.audit import Auditor
from minitoolai.billing.cashier import Cashier
from minitoolai.billing.providers.registry import build_providers
from minitoolai.billing.ranking import CustomerRankings
from minitoolai.billing.selling.auto_topup import AutoTopups
from minitoolai.billing.selling.coupons import sign_up_credit
from minitoolai.billing.selling.notices import NoticeWatcher
from minitoolai.billing.selling.subscriptions import Subscriptions
from minitoolai.billing.traffic import TrafficCounter
from minitoolai.billing.usage import RevenueCache, UsageCache
from minitoolai.chat.catalog_reload import CatalogReload
from minitoolai.chat.service import ChatService
from minitoolai.core.catalog.catalog import Model
from minitoolai.core.catalog.shop import DARK, Logo, Shop, mix
from minitoolai.core.clock import Clock
from minitoolai.core.marks import MarkCodec
from minitoolai.core.models import User
from minitoolai.core.roles import Action
from minitoolai.core.signing import SecretKeys
from minitoolai.http.failure_limits import FailureLimits
from minitoolai.httpclient.client import HttpClient
from minitoolai.httpclient.guarded import GuardedClient
from minitoolai.images.provenance.certificates import certificate_digest
from minitoolai.images.provenance.check import MarkChecker
from minitoolai.images.results import Links, PublicAddress
from minitoolai.portal.forms import CookieSigner
from minitoolai.portal.i18n import LANGUAGES, N_, formatter, translations
from minitoolai.portal.log_export import LogExporter
from minitoolai.portal.mail.factor_reset_mail import FactorResetMailer
from minitoolai.portal.mail.notice_mail import NoticeMailer
from minitoolai.portal.measurements import Measurements
from minitoolai.portal.names import isolate, isolate_text
from minitoolai.settings import Settings
from minitoolai.storage.database import Database
from minitoolai.storage.tables.marks import generations_at
from minitoolai.storage.text_index import TextIndex
from minitoolai.storage.writer import Writer
from minitoolai.transcription.build import Transcriptions

#: The access that a page requires.
Access = Literal["public", "user", "admin"]


class NavigationEntry(msgspec.Struct, frozen=True):
    """A link in the bar at the top: the path after the language, its name in English, and who sees it."""

    path: str
    name: str
    access: Access = "public"
    #: What the role of the member must allow.
    action: Action | None = None


NAVIGATION = (
    NavigationEntry("/keys", N_("Keys"), "user", "read"),
    NavigationEntry("/studio", N_("Studio"), "user", "use"),
    NavigationEntry("/usage", N_("Usage"), "user", "read"),
    NavigationEntry("/balance", N_("Balance"), "user", "read"),
    NavigationEntry("/topup", N_("Top up"), "user", "pay"),
    NavigationEntry("/admin", N_("Admin"), "admin"),
    NavigationEntry("/docs", N_("Guide")),
    NavigationEntry("/reference", N_("Reference")),
    NavigationEntry("/models", N_("Models")),
    NavigationEntry("/prices", N_("Prices")),
    NavigationEntry("/search", N_("Search")),
)

#: Customers in the dashboard's list of those with the highest revenue.
MAX_RANKED = 20

STATIC_FOLDER = Path(__file__).parent / "static"
MEDIA_TYPES = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}


class StaticFile(msgspec.Struct, frozen=True):
    """A static file, plain and compressed."""

    body: bytes
    gzipped: bytes
    media_type: str


class ShopFiles:
    """The logo and the colours of a shop, under URLs that change with them."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        logo = shop.logo or Logo(letter_logo(shop).encode(), "image/svg+xml")
        colours = shop_colours(shop).encode()
        digest = hashlib.sha256(logo.body + b"\0" + colours).hexdigest()[:12]
        self.logo, self.colours = f"shop-{digest}/logo", f"shop-{digest}/colours.css"
        self._files = {
            self.logo: StaticFile(logo.body, gzip.compress(logo.body, mtime=0), logo.media_type),
            self.colours: StaticFile(colours, gzip.compress(colours, mtime=0), "text/css"),
        }

    def find(self, path: str) -> StaticFile | None:
        """Return the file for a path below /static/, or None."""
        return self._files.get(path.strip("/"))


def letter_logo(shop: Shop) -> str:
    """Return the first letter of the shop's name as SVG."""
    fill = shop.accent or "#2f5bd8"
    letter = escape(shop.name[:1].upper())
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
        f'<rect width="32" height="32" rx="9" fill="{fill}"/>'
        '<text x="16" y="23" font-family="sans-serif" font-size="20" font-weight="700" text-anchor="middle" '
        f'fill="#fff">{letter}</text></svg>'
    )


def shop_colours(shop: Shop) -> str:
    """Return the style sheet with the shop's colours; "" if it has none. White text on buttons stays readable."""
    if not shop.accent:
        return ""
    light, dark = shop.accent, shop.accent_dark
    pairs = {
        "accent": (light, dark),
        "accent-strong": (mix(light, "#000000", 0.25), mix(dark, "#ffffff", 0.35)),
        "accent-fill": (light, light),
        "accent-fill-over": (mix(light, "#000000", 0.15), mix(light, "#000000", 0.15)),
        "accent-wash": (mix("#ffffff", light, 0.08), mix(DARK[0], dark, 0.1)),
        "chart-1": (light, dark),
    }
    lines = "".join(f"--{name}:light-dark({on_light},{on_dark});" for name, (on_light, on_dark) in pairs.items())
    return f":root{{{lines}}}"


class StaticFiles:
    """The files under static/: read once, served from memory, under URLs that change with their content.

    All files share one hash, so that scripts can import each other by relative names.
    """

    def __init__(self, folder: Path = STATIC_FOLDER) -> None:
        self._files: dict[str, StaticFile] = {}
        digest = hashlib.sha256()
        for path in sorted(p for p in folder.rglob("*") if p.suffix in MEDIA_TYPES):
            body = path.read_bytes()
            name = path.relative_to(folder).as_posix()
            digest.update(name.encode() + b"\0" + body)
            self._files[name] = StaticFile(body, gzip.compress(body, mtime=0), MEDIA_TYPES[path.suffix])
        self.version = digest.hexdigest()[:12]

    def url(self, name: str) -> str:
        """Return the URL of a file. KeyError if there is none: a mistake in a template."""
        self._files[name]
        return f"/static/{self.version}/{name}"

    def find(self, path: str) -> StaticFile | None:
        """Return the file for `VERSION/NAME`, or None; an old version has no files."""
        version, _, name = path.strip("/").partition("/")
        return self._files.get(name) if version == self.version else None


TEMPLATES = Path(__file__).parent / "templates"


class CompiledTemplates(BytecodeCache):
    """The compiled templates, in memory, shared by the environments of all languages: decision 0041.

    Compiling takes 10 to 80 ms, in which the event loop waits, and its result does not depend on the language.
    """

    def __init__(self) -> None:
        #: Key of a template → checksum of its source, and its code.
        self._code: dict[str, tuple[str, CodeType | None]] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        """Set the code of the bucket if this source was compiled before."""
        checksum, code = self._code.get(bucket.key, ("", None))
        if checksum == bucket.checksum:
            bucket.code = code

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep the code."""
        self._code[bucket.key] = (bucket.checksum, bucket.code)


def _at_run_time(function: Callable[..., str]) -> Callable[..., str]:
    """Return a filter that is never applied while a template is compiled: its result depends on the language."""

    @pass_context
    def apply(_: Context, *arguments: Any, **options: Any) -> str:
        return function(*arguments, **options)

    return apply


@dataclass(frozen=True)
class Site:
    """The services behind the pages. Built once, by `build_site`."""

    database: Database
    writer: Writer
    clock: Clock
    users: Users
    factors: SecondFactors
    keys: KeyVerifier
    reports: Reports
    auditor: Auditor
    traffic: TrafficCounter
    #: Payments through all configured providers.
    cashier: Cashier
    auto_topups: AutoTopups
    subscriptions: Subscriptions
    secret_keys: SecretKeys
    #: The address for links in e-mails: the same, or else the one listened on, never one that a request names.
    address: PublicAddress
    is_signup_open: bool
    #: Whether an admin without a second factor reaches nothing but its set-up.
    is_second_factor_required: bool
    #: The same of every user.
    is_second_factor_required_of_all: bool
    log_exporter: LogExporter
    passkeys: Passkeys
    factor_resets: FactorResets
    #: Limits of an account: requests per minute (0: no limit) and queued images.
    requests_per_minute: int
    max_queued_images: int
    #: Multiplies how often a sign-in and other forms may be tried.
    tries_factor: int
    #: Reads the marks of uploaded images.
    checker: MarkChecker
    #: Reads the catalog again, for admins.
    catalog_reload: CatalogReload
    #: Answer chats that a page sends without a script.
    chats: ChatService
    #: Links to the images of the gallery.
    image_links: Links
    #: Transcribe recordings that a page receives.
    transcription: Transcriptions
    mailer: Mailer
    #: For development: customers may have notices sent to any address.
    allows_insecure_webhooks: bool
    #: Whether a password signs in; and the other ways: name in paths → provider.
    is_password_open: bool
    sign_ins: dict[str, ExternalProvider]
    external: ExternalSignIn
    #: The operator's font for letters that ours lack in PDF documents; "": none.
    pdf_font: str

    @property
    def shop(self) -> Shop:
        """The name, the colours and the pages of the shop, as the catalog has them now."""
        return self.reports.catalog.shop

    def requires_second_factor(self, user: User) -> bool:
        """Return True if this user must have a second factor."""
        return self.is_second_factor_required_of_all or (self.is_second_factor_required and user.is_admin)

    @property
    def public_url(self) -> str:
        """The address of the site without a trailing slash; empty to take it from each request."""
        return self.address.public_url

    async def run(self) -> None:
        """Run the background tasks of the pages until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.keys.record_last_used(self.writer))
            tasks.create_task(self.traffic.run())
            tasks.create_task(NoticeWatcher(self.database, self.writer, self.clock).run())
            tasks.create_task(
                NoticeMailer(self.database, self.writer, self.mailer, self.address, self.reports.catalog).run()
            )
            resets = FactorResetMailer(self.factor_resets, self.mailer, self.address, self.reports.catalog, self.signer)
            tasks.create_task(resets.run())
            tasks.create_task(self.log_exporter.run())
            if self.cashier.providers:
                tasks.create_task(self.cashier.poll())
                tasks.create_task(self.auto_topups.run())
                tasks.create_task(self.subscriptions.poll())

    async def close(self) -> None:
        """Wait for pending e-mails, and stop the threads."""
        await self.users.close()
        self.cashier.close()

    @cached_property
    def email_changes(self) -> EmailChanges:
        return EmailChanges(self.database, self.writer, self.clock, self.users)

    @cached_property
    def teams(self) -> Teams:
        return Teams(self.database, self.writer, self.clock, self.users)

    @cached_property
    def signer(self) -> CookieSigner:
        return CookieSigner(self.secret_keys)

    @cached_property
    def throttle(self) -> Throttle:
        policy = self.keys.policy
        return Throttle(self.clock, self.tries_factor, shared=policy.shared_buckets if policy else None)

    @cached_property
    def measurements(self) -> Measurements:
        return Measurements(self.database, self.clock)

    @cached_property
    def failures(self) -> Failures:
        return Failures(self.clock)

    @cached_property
    def request_failures(self) -> FailureLimits:
        return FailureLimits(self.clock, self.keys, self.requests_per_minute)

    @property
    def usage(self) -> UsageCache:
        return self.reports.usage_cache

    @cached_property
    def revenue(self) -> RevenueCache:
        return RevenueCache(self.database, self.clock)

    @cached_property
    def rankings(self) -> CustomerRankings:
        return CustomerRankings(self.database, self.clock, MAX_RANKED)

    @cached_property
    def static_files(self) -> StaticFiles:
        return StaticFiles()

    @property
    def shop_files(self) -> ShopFiles:
        """The files of the shop, made anew when the catalog was replaced."""
        files: ShopFiles | None = self._shop_files.get("now")
        if files is None or files.shop is not self.shop:
            files = self._shop_files["now"] = ShopFiles(self.shop)
        return files

    @cached_property
    def _shop_files(self) -> dict[str, ShopFiles]:
        return {}

    @property
    def logo_url(self) -> str:
        """The URL of the logo."""
        return f"/static/{self.shop_files.logo}" if self.shop.is_own else self.static_files.url("mark.svg")

    @property
    def colours_url(self) -> str:
        """The URL of the style sheet with the shop's colours; "" if it has none."""
        return f"/static/{self.shop_files.colours}" if self.shop.accent else ""

    @cached_property
    def search_indexes(self) -> dict[str, tuple[dict[str, Model], TextIndex]]:
        """Language → the index of its pages, and the models for which it was made."""
        return {}

    @cached_property
    def _environments(self) -> dict[str, Environment]:
        return {}

    @cached_property
    def _compiled(self) -> CompiledTemplates:
        return CompiledTemplates()

    def environment(self, lang: str) -> Environment:
        """Return the templates in a language. Made at the first use."""
        if lang not in self._environments:
            self._environments[lang] = self._make_environment(lang)
        return self._environments[lang]

    def _make_environment(self, lang: str) -> Environment:
        environment = language_environment(lang, self._compiled)
        environment.globals.update(
            lang=lang,
            languages=LANGUAGES,
            navigation=NAVIGATION,
            static=self.static_files.url,
            is_signup_open=self.is_signup_open,
        )
        return environment


def language_environment(lang: str, compiled: CompiledTemplates) -> Environment:
    """Return templates with the texts and the formats of a language."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
        bytecode_cache=compiled,
    )
    environment.policies["ext.i18n.trimmed"] = True
    extended: Any = environment
    extended.install_gettext_translations(translations(lang), newstyle=True)
    formats = formatter(lang)
    for name in ("number", "percent", "money", "cents", "day", "moment"):
        environment.filters[name] = _at_run_time(getattr(formats, name))
    environment.globals["foreign"] = formats.foreign
    environment.filters.update(isolate=isolate, isolate_text=isolate_text)
    return environment


def build_site(
    settings: Settings,
    database: Database,
    writer: Writer,
    clock: Clock,
    keys: KeyVerifier,
    reports: Reports,
    auditor: Auditor,
    secret_keys: SecretKeys,
    address: PublicAddress,
    catalog_reload: CatalogReload,
    transcription: Transcriptions,
    http: HttpClient,
    chats: ChatService,
    image_links: Links,
) -> Site:
    """Return the services behind the pages. Raises SettingsError if the mail settings are incomplete."""
    factors = SecondFactors(database, clock, secret_keys)
    catalog = reports.catalog
    cashier = Cashier(database, writer, clock, catalog, build_providers(settings, http))
    mailer = build_mailer(settings, catalog.shop)
    credit = sign_up_credit(settings, clock, secret_keys)
    people = Users(database, writer, Passwords(), mailer, clock, factors, credit)
    return Site(
        database=database,
        writer=writer,
        clock=clock,
        users=people,
        is_password_open=settings.password_signin,
        sign_ins=build_sign_ins(settings, http, clock),
        external=ExternalSignIn(database, writer, clock, people, credit),
        factors=factors,
        keys=keys,
        reports=reports,
        auditor=auditor,
        traffic=TrafficCounter(database, writer, clock),
        cashier=cashier,
        auto_topups=AutoTopups(database, writer, clock, catalog, cashier),
        subscriptions=Subscriptions(database, writer, clock, catalog, cashier),
        mailer=mailer,
        allows_insecure_webhooks=settings.webhook_insecure,
        pdf_font=settings.pdf_font,
        secret_keys=secret_keys,
        address=address,
        is_signup_open=settings.signup,
        is_second_factor_required=settings.admin_second_factor,
        is_second_factor_required_of_all=settings.user_second_factor,
        log_exporter=LogExporter(database, writer, clock, reports, secret_keys, _guarded_client(settings, reports)),
        passkeys=Passkeys(database, writer, clock, address),
        factor_resets=FactorResets(database, writer, clock, settings.second_factor_reset_hours),
        requests_per_minute=settings.requests_per_minute,
        max_queued_images=settings.image_queue,
        tries_factor=settings.tries_factor,
        checker=MarkChecker(
            MarkCodec(secret_keys),
            lambda second: database.read_async(generations_at, second),
            lambda: certificate_digest(settings),
            reports.stand_ins.shown_model,
        ),
        catalog_reload=catalog_reload,
        transcription=transcription,
        chats=chats,
        image_links=image_links,
    )


def _guarded_client(settings: Settings, reports: Reports) -> GuardedClient:
    return GuardedClient(insecure=settings.webhook_insecure, user_agent=lambda: reports.catalog.shop.user_agent)
