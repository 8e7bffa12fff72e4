"""What all pages share, and the templates in seven languages."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from minitoolai.accounts.attempts import Attempts
from minitoolai.accounts.keys import KeyRing
from minitoolai.accounts.users import Users
from minitoolai.availability import Reports
from minitoolai.billing.audit import Auditor
from minitoolai.billing.revenue import RevenueBooks
from minitoolai.billing.stripe import Checkout
from minitoolai.billing.usage import UsageBooks
from minitoolai.core.clock import Clock
from minitoolai.portal.assets import Assets
from minitoolai.portal.cookies import Signer
from minitoolai.portal.i18n import LANGUAGES, texts, writing
from minitoolai.portal.navigation import NAVIGATION
from minitoolai.storage.database import Database
from minitoolai.storage.writer import Writer

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Site:
    """The services behind the pages. Built once, in wiring."""

    database: Database
    writer: Writer
    clock: Clock
    users: Users
    keys: KeyRing
    reports: Reports
    auditor: Auditor
    #: None where no card payments are set up.
    checkout: Checkout | None
    pepper: bytes
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
            tasks.create_task(self.keys.keep_uses(self.writer))
            if self.checkout is not None:
                tasks.create_task(self.checkout.poll())

    async def close(self) -> None:
        """Let errands come home, and let go of threads."""
        await self.users.close()
        if self.checkout is not None:
            self.checkout.close()

    @cached_property
    def signer(self) -> Signer:
        return Signer(self.pepper)

    @cached_property
    def attempts(self) -> Attempts:
        return Attempts(self.clock, self.tries_factor)

    @cached_property
    def usage(self) -> UsageBooks:
        return UsageBooks(self.database, self.clock)

    @cached_property
    def revenue(self) -> RevenueBooks:
        return RevenueBooks(self.database, self.clock)

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
