"""Send e-mails about removals of second factors, and make and read their links."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from minitoolai.accounts.factors.factor_resets import FactorResets
from minitoolai.accounts.mail import Mailer
from minitoolai.accounts.users import Purpose
from minitoolai.core.catalog.catalog import Catalog
from minitoolai.core.errors import ServiceError, StoreError
from minitoolai.portal.forms import CookieSigner
from minitoolai.portal.i18n import LANGUAGES
from minitoolai.portal.mail.letters import letter_composer

log = logging.getLogger(__name__)
SEND_EVERY_S = 10.0
LINK = "factor reset"


def pack_link(signer: CookieSigner, reset_id: int) -> str:
    """Return the secret of the link for a removal. It is signed, so it need not be stored."""
    return signer.pack(LINK, reset_id)


def unpack_link(signer: CookieSigner, secret: str) -> int | None:
    """Return the ID of the removal that a link names, or None if its signature is wrong."""
    value = signer.unpack(LINK, secret)
    return None if value is None else msgspec.convert(value, int)


class FactorResetMailer:
    """Background task that reminds users of a removal each day, and tells them when it is ready."""

    def __init__(
        self,
        resets: FactorResets,
        mailer: Mailer,
        address: Callable[[], str],
        catalog: Catalog,
        signer: CookieSigner,
    ) -> None:
        self._resets = resets
        self._mailer = mailer
        self._address = address
        self._catalog = catalog
        self._signer = signer

    async def run(self) -> None:
        """Send until cancelled. Database errors are logged and retried."""
        while True:
            try:
                await self.send_due()
            except (StoreError, ServiceError) as error:
                log.warning("sending e-mails about second factors failed, will retry: %s", error)
            await asyncio.sleep(SEND_EVERY_S)

    async def send_due(self) -> int:
        """Send the e-mails that are due, and return their number."""
        due = await self._resets.claim_mail()
        shop = self._catalog.shop
        for mail in due:
            lang = mail.user.language if mail.user.language in LANGUAGES else shop.language
            compose = letter_composer(shop, self._address(), lang, mail.user.email)
            purpose: Purpose = "reset_ready" if mail.is_ready else "reset_waiting"
            await self._mailer.send(compose(purpose, pack_link(self._signer, mail.reset.id)))
        return len(due)
