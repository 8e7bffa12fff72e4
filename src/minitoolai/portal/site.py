"""What all pages share, and the templates in seven languages."""

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

from minitoolai.accounts.keys import KeyVerifier
from minitoolai.accounts.rate_limits import Throttle
from minitoolai.accounts.users import Users
from minitoolai.availability import Reports
from minitoolai.billing.audit import Auditor
from minitoolai.billing.stripe import Checkout
from minitoolai.billing.usage import RevenueCache, UsageCache
from minitoolai.core.clock import Clock
from minitoolai.portal.forms import CookieSigner
from minitoolai.portal.i18n import LANGUAGES, N_, texts, writing
from minitoolai.storage.database import Database
from minitoolai.storage.writer import Writer

# (merged from navigation) The pages in the bar on top: where, under which name, for whom. A page is added here and in routes.py.

Needs = Literal["nobody", "user", "admin"]


class Entry(msgspec.Struct, frozen=True):
    """One link: the path after the language, its name in English, and who sees it."""

    path: str
    name: str
    needs: Needs = "nobody"
    #: Hidden from those who are signed in.
    visitors_only: bool = False


NAVIGATION = (
    Entry("/keys", N_("Keys"), "user"),
    Entry("/studio", N_("Studio"), "user"),
    Entry("/usage", N_("Usage"), "user"),
    Entry("/balance", N_("Balance"), "user"),
    Entry("/topup", N_("Top up"), "user"),
    Entry("/admin", N_("Admin"), "admin"),
    Entry("/docs", N_("Guide")),
    Entry("/prices", N_("Prices")),
)


# (merged from assets) Files under static/: read once, served from memory, under addresses that change with them.

FOLDER = Path(__file__).parent / "static"
TYPES = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}


class Asset(msgspec.Struct, frozen=True):
    """One file, as it is and compressed."""

    body: bytes
    packed: bytes
    media_type: str


class Assets:
    """Every file by its path. All share one hash, so that scripts can import each other by plain names."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files: dict[str, Asset] = {}
        sums = hashlib.sha256()
        for path in sorted(p for p in folder.rglob("*") if p.suffix in TYPES):
            body = path.read_bytes()
            name = path.relative_to(folder).as_posix()
            sums.update(name.encode() + b"\0" + body)
            self._files[name] = Asset(body, gzip.compress(body, mtime=0), TYPES[path.suffix])
        self.version = sums.hexdigest()[:12]

    def url(self, name: str) -> str:
        """Where a page links to. KeyError for a file that is not there: a mistake in a template."""
        self._files[name]
        return f"/static/{self.version}/{name}"

    def find(self, path: str) -> Asset | None:
        """The file behind `VERSION/NAME`; old versions find nothing."""
        version, _, name = path.strip("/").partition("/")
        return self._files.get(name) if version == self.version else None


TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Site:
    """The services behind the pages. Built once, in wiring."""

    database: Database
    writer: Writer
    clock: Clock
    users: Users
    keys: KeyVerifier
    reports: Reports
    auditor: Auditor
    #: None where no card payments are set up.
    checkout: Checkout | None
    secret_key: bytes
    #: How browsers reach us, without a last slash; empty where only the request can tell.
    public_url: str
    #: Whether visitors may sign up.
    open_to_all: bool
    #: What an account may do as the operator has it: requests a minute (0: any), and pictures that wait.
    requests_per_minute: int
    waiting_pictures: int
    #: How many times more often than shipped visitors may try things.
    tries_factor: int

    async def run(self) -> None:
        """What goes on beside the pages, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.keys.record_last_used(self.writer))
            if self.checkout is not None:
                tasks.create_task(self.checkout.poll())

    async def close(self) -> None:
        """Let errands come home, and let go of threads."""
        await self.users.close()
        if self.checkout is not None:
            self.checkout.close()

    @cached_property
    def signer(self) -> CookieSigner:
        return CookieSigner(self.secret_key)

    @cached_property
    def attempts(self) -> Throttle:
        return Throttle(self.clock, self.tries_factor)

    @cached_property
    def usage(self) -> UsageCache:
        return UsageCache(self.database, self.clock)

    @cached_property
    def revenue(self) -> RevenueCache:
        return RevenueCache(self.database, self.clock)

    @cached_property
    def assets(self) -> Assets:
        return Assets()

    @cached_property
    def _environments(self) -> dict[str, Environment]:
        return {}

    def environment(self, lang: str) -> Environment:
        """The templates in a language; made at its first use."""
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
        extended.install_gettext_translations(texts(lang), newstyle=True)
        written = writing(lang)
        for name in ("number", "percent", "money", "cents", "day", "moment"):
            environment.filters[name] = getattr(written, name)
        environment.globals.update(
            lang=lang,
            languages=LANGUAGES,
            navigation=NAVIGATION,
            static=self.assets.url,
            open_to_all=self.open_to_all,
        )
        return environment
