"""Send notices by e-mail, in the language of the customer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from minitoolai.accounts.mail import Letter, Mailer
from minitoolai.core.catalog.catalog import Catalog
from minitoolai.core.catalog.shop import Shop
from minitoolai.core.errors import ServiceError, StoreError
from minitoolai.core.money import parse_dollars
from minitoolai.portal.i18n import LANGUAGES, N_, formatter, translations
from minitoolai.portal.mail.letters import sender_of, signed
from minitoolai.storage.database import Database
from minitoolai.storage.selling.notices import Notice, claim_mail, has_due_mail
from minitoolai.storage.writer import Writer

log = logging.getLogger(__name__)
SEND_EVERY_S = 5.0
BATCH = 50
#: Members of `data` that are amounts.
_AMOUNTS = ("balance", "threshold", "budget", "used", "amount")


class NoticeText(msgspec.Struct, frozen=True):
    """Subject, words and path of the link of a notice, in English."""

    subject: str
    words: str
    path: str


TEXTS = {
    "balance.low": NoticeText(
        N_("Your balance is low"),
        N_("Your balance is %(balance)s, below %(threshold)s. Top up so that your requests keep working:"),
        "/topup",
    ),
    "budget.reached": NoticeText(
        N_("A budget is nearly spent"),
        N_("The key “%(name)s” has spent %(used)s of its budget of %(budget)s. Raise the "
           "budget here if you need more:"),
        "/keys",
    ),
    "payment.failed": NoticeText(
        N_("Your payment failed"),
        N_("Your payment of %(amount)s failed, so nothing was added to your balance. Try again or choose another "
           "payment method:"),
        "/topup",
    ),
    "topup.failed": NoticeText(
        N_("Your automatic top-up failed"),
        N_("The automatic top-up of %(amount)s failed, so it has been turned off and nothing was charged. Choose "
           "another payment method here:"),
        "/topup/auto",
    ),
    "renewal.failed": NoticeText(
        N_("The payment for your plan failed"),
        N_("The payment of %(amount)s for your plan “%(plan)s” failed. The plan ends with its period, unless a later "
           "payment succeeds. Your plans:"),
        "/plans",
    ),
    "export.failed": NoticeText(
        N_("The export of your request log failed"),
        N_("Your request log of %(day)s could not be sent to your destination after several attempts. We keep trying. "
           "See the reason and change the destination here:"),
        "/usage/export",
    ),
    "plan.ending": NoticeText(
        N_("Your plan is ending"),
        N_("Your plan “%(plan)s” ends on %(ends)s. Renew it here:"),
        "/plans",
    ),
}  # fmt: skip


def compose(notice: Notice, email: str, lang: str, shop: Shop, site: str) -> Letter | None:
    """Return the e-mail for a notice, None for a type that has no text or lacks what the text names."""
    data: dict[str, Any] = msgspec.json.decode(notice.data)
    kind = notice.type
    if kind == "payment.failed" and data.get("automatic"):
        kind = "renewal.failed" if "plan" in data else "topup.failed"
    text = TEXTS.get(kind)
    if text is None:
        return None
    formats, translate = formatter(lang), translations(lang).gettext
    shown = {name: formats.money(_nano(value)) if name in _AMOUNTS else value for name, value in data.items()}
    if "ends" in shown:
        ends = datetime.fromisoformat(str(shown["ends"]))
        shown["ends"] = f"{formats.moment(int(ends.timestamp() * 1000))} UTC"
    try:
        words = translate(text.words) % shown
    except KeyError as error:
        log.error("notice %s of type %s lacks %s; no e-mail is sent", notice.id, notice.type, error)
        return None
    subject, paragraphs = signed(shop, site, translate(text.subject), [words, f"{site}/{lang}{text.path}"])
    return Letter(email, subject, "\n\n".join(paragraphs) + "\n", sender_of(shop))


def _nano(text: str) -> int:
    return parse_dollars(text) if text.strip("0.") else 0


class NoticeMailer:
    """Background task that sends notices by e-mail."""

    def __init__(
        self, database: Database, writer: Writer, mailer: Mailer, address: Callable[[], str], catalog: Catalog
    ) -> None:
        self._database = database
        self._writer = writer
        self._mailer = mailer
        self._address = address
        self._catalog = catalog

    async def run(self) -> None:
        """Send until cancelled. Database errors are logged and retried."""
        while True:
            try:
                await self.send_due()
            except (StoreError, ServiceError) as error:
                log.warning("sending notices failed, will retry: %s", error)
            await asyncio.sleep(SEND_EVERY_S)

    async def send_due(self) -> int:
        """Send due notices and return their number. Each notice is sent at most once: it is marked before."""
        if not await self._database.read_async(has_due_mail):
            return 0
        due = await self._writer.run(lambda c: claim_mail(c, BATCH))
        shop = self._catalog.shop
        for notice, email, language in due:
            lang = language if language in LANGUAGES else shop.language
            letter = compose(notice, email, lang, shop, self._address())
            if letter is not None:
                await self._mailer.send(letter)
        return len(due)
