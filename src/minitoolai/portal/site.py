"""What all pages share: the services behind them, the navigation, static files, and templates in seven languages."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from minitoolai.accounts.email_changes import EmailChanges
from minitoolai.accounts.keys import KeyVerifier
from minitoolai.accounts.mail import build_mailer
from minitoolai.accounts.passwords import Passwords
from minitoolai.accounts.rate_limits import Failures, Throttle
from minitoolai.accounts.second_factors import SecondFactors
from minitoolai.accounts.users import Users
from minitoolai.availability import Reports
from minitoolai.billing.audit import Auditor
from minitoolai.billing.stripe import Checkout, build_checkout
from minitoolai.billing.usage import RevenueCache, UsageCache
from minitoolai.core.clock import Clock
from minitoolai.core.marks import MarkCodec
from minitoolai.core.signing import SecretKeys
from minitoolai.http.failure_limits import FailureLimits
from minitoolai.images.certificates import certificate_digest
from minitoolai.images.check import MarkChecker
from minitoolai.images.results import PublicAddress
from minitoolai.portal.forms import CookieSigner
from minitoolai.portal.i18n import LANGUAGES, N_, formatter, translations
from minitoolai.settings import Settings
from minitoolai.storage.database import Database
from minitoolai.storage.marks import generations_at
from minitoolai.storage.writer import Writer

#: The access that a page requires.
Access = Literal["public", "user", "admin"]


class NavigationEntry(msgspec.Struct, frozen=True):
    """A link in the bar at the top: the path after the language, its name in English, and who sees it."""

    path: str
    name: str
    access: Access = "public"


NAVIGATION = (
    NavigationEntry("/keys", N_("Keys"), "user"),
    NavigationEntry("/studio", N_("Studio"), "user"),
    NavigationEntry("/usage", N_("Usage"), "user"),
    NavigationEntry("/balance", N_("Balance"), "user"),
    NavigationEntry("/topup", N_("Top up"), "user"),
    NavigationEntry("/admin", N_("Admin"), "admin"),
    NavigationEntry("/docs", N_("Guide")),
    NavigationEntry("/prices", N_("Prices")),
)

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
    #: None if card payments are not configured.
    checkout: Checkout | None
    secret_keys: SecretKeys
    #: The address of the site without a trailing slash; empty to take it from each request.
    public_url: str
    #: The address for links in e-mails: the same, or else the one listened on, never one that a request names.
    address: PublicAddress
    is_signup_open: bool
    #: Whether an admin without a second factor reaches nothing but its set-up.
    is_second_factor_required: bool
    #: Limits of an account: requests per minute (0: no limit) and queued images.
    requests_per_minute: int
    max_queued_images: int
    #: Multiplies how often a sign-in and other forms may be tried.
    tries_factor: int
    #: Reads the marks of uploaded images.
    checker: MarkChecker

    async def run(self) -> None:
        """Run the background tasks of the pages until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.keys.record_last_used(self.writer))
            if self.checkout is not None:
                tasks.create_task(self.checkout.poll())

    async def close(self) -> None:
        """Wait for pending e-mails, and stop the threads."""
        await self.users.close()
        if self.checkout is not None:
            self.checkout.close()

    @cached_property
    def email_changes(self) -> EmailChanges:
        return EmailChanges(self.database, self.writer, self.clock, self.users)

    @cached_property
    def signer(self) -> CookieSigner:
        return CookieSigner(self.secret_keys)

    @cached_property
    def throttle(self) -> Throttle:
        return Throttle(self.clock, self.tries_factor)

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
    def static_files(self) -> StaticFiles:
        return StaticFiles()

    @cached_property
    def _environments(self) -> dict[str, Environment]:
        return {}

    def environment(self, lang: str) -> Environment:
        """Return the templates in a language. Made at the first use."""
        if lang not in self._environments:
            self._environments[lang] = self._make_environment(lang)
        return self._environments[lang]

    def _make_environment(self, lang: str) -> Environment:
        environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.i18n"],
        )
        environment.policies["ext.i18n.trimmed"] = True
        extended: Any = environment
        extended.install_gettext_translations(translations(lang), newstyle=True)
        formats = formatter(lang)
        for name in ("number", "percent", "money", "cents", "day", "moment"):
            environment.filters[name] = getattr(formats, name)
        environment.globals.update(
            lang=lang,
            languages=LANGUAGES,
            navigation=NAVIGATION,
            static=self.static_files.url,
            is_signup_open=self.is_signup_open,
        )
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
) -> Site:
    """Return the services behind the pages. Raises SettingsError if the mail settings are incomplete."""
    factors = SecondFactors(database, clock, secret_keys)
    return Site(
        database=database,
        writer=writer,
        clock=clock,
        users=Users(database, writer, Passwords(), build_mailer(settings), clock, factors),
        factors=factors,
        keys=keys,
        reports=reports,
        auditor=auditor,
        checkout=build_checkout(settings, database, writer, clock),
        secret_keys=secret_keys,
        public_url=settings.public_url.rstrip("/"),
        address=address,
        is_signup_open=settings.signup,
        is_second_factor_required=settings.admin_second_factor,
        requests_per_minute=settings.requests_per_minute,
        max_queued_images=settings.image_queue,
        tries_factor=settings.tries_factor,
        checker=MarkChecker(
            MarkCodec(secret_keys),
            lambda second: database.read_async(generations_at, second),
            lambda: certificate_digest(settings),
        ),
    )
