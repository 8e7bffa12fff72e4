"""Send e-mails to users: by SMTP if configured, otherwise into the server's log for the operator."""

from __future__ import annotations

import logging
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate, make_msgid, parseaddr
from typing import Protocol
from urllib.parse import unquote, urlsplit

import msgspec

from minitoolai.accounts.addresses import ascii_email
from minitoolai.core.catalog.shop import Shop
from minitoolai.core.errors import InvalidRequest, SettingsError
from minitoolai.core.threads import MAIL
from minitoolai.settings import Settings

log = logging.getLogger(__name__)
TIMEOUT_S = 20.0
#: A visitor waits for the question whether an address is accepted.
ASK_TIMEOUT_S = 8.0


class Letter(msgspec.Struct, frozen=True):
    """One e-mail in plain text."""

    to: str
    subject: str
    text: str
    #: The shop's own sender; "" for that of the settings.
    sender: str = ""


class Mailer(Protocol):
    """Sends e-mails."""

    @property
    def is_configured(self) -> bool:
        """Return False if e-mails only reach the operator."""

    async def accepts(self, email: str) -> bool:
        """Return False if an e-mail to this address would be refused now. Sends none."""

    async def send(self, letter: Letter) -> None:
        """Send the e-mail. Failures are logged, never raised: no caller waits for delivery."""


class LogMailer:
    """Write e-mails to the log. Used if no SMTP server is set."""

    is_configured = False

    async def accepts(self, email: str) -> bool:
        return True

    async def send(self, letter: Letter) -> None:
        log.warning("MINITOOLAI_SMTP_URL is not set, so this e-mail is only written here:\nTo: %s\n%s\n\n%s",
                    letter.to, letter.subject, letter.text)  # fmt: skip


class SmtpMailer:
    """`smtp://user:password@host:587` (STARTTLS required), `smtps://…:465`, or `smtp+plain://…:25`."""

    is_configured = True

    def __init__(self, url: str, sender: str) -> None:
        parts = urlsplit(url)
        ports = {"smtp": 587, "smtps": 465, "smtp+plain": 25}
        if parts.scheme not in ports or not parts.hostname:
            raise SettingsError(
                "MINITOOLAI_SMTP_URL is wrong: use the form smtp://user:password@mail.example.com:587 "
                "(smtps:// for TLS from the start, smtp+plain:// for none)"
            )
        if "@" not in sender:
            raise SettingsError(
                "MINITOOLAI_MAIL_FROM must be the sender's address, like: MiniToolAI <hello@example.com>"
            )
        self._scheme, self._host = parts.scheme, parts.hostname
        self._port = parts.port or ports[parts.scheme]
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        self._sender = sender

    async def send(self, letter: Letter) -> None:
        try:
            await MAIL.run(self._send, letter)
        except (OSError, smtplib.SMTPException) as error:
            log.error("sending an e-mail through %s:%s failed: %s", self._host, self._port, error)

    async def accepts(self, email: str) -> bool:
        try:
            await MAIL.run(self._offer, email)
        except (OSError, smtplib.SMTPException) as error:
            log.error("%s:%s refuses an e-mail: %s", self._host, self._port, error)
            return False
        return True

    def _offer(self, email: str) -> None:
        """Name sender and recipient to the server, without a message. Raises SMTPResponseException if it refuses."""
        with self._connect(ASK_TIMEOUT_S) as server:
            self._sign_in(server)
            server.ehlo_or_helo_if_needed()
            answers = (server.mail(parseaddr(self._sender)[1]), server.rcpt(_recipient(email)))
            for code, text in answers:
                if code not in (250, 251):
                    raise smtplib.SMTPResponseException(code, text)
            server.rset()

    def _send(self, letter: Letter) -> None:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = (
            letter.sender or self._sender,
            _recipient(letter.to),
            letter.subject,
        )
        message["Date"] = formatdate()
        # The sender's domain: the default would be the name of this machine.
        message["Message-ID"] = make_msgid(domain=parseaddr(message["From"])[1].rpartition("@")[2] or "localhost")
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(letter.text)
        with self._connect() as server:
            self._sign_in(server)
            server.send_message(message)

    def check(self) -> str:
        """Connect and sign in without sending anything, and return the server's address. Raises SettingsError."""
        where = f"{self._host}:{self._port}"
        try:
            with self._connect() as server:
                self._sign_in(server)
        except (OSError, smtplib.SMTPException) as error:
            remedy = "correct MINITOOLAI_SMTP_URL"
            if isinstance(error, smtplib.SMTPNotSupportedError) and self._scheme == "smtp":
                remedy += " (smtps:// for TLS from the start, smtp+plain:// for none)"
            raise SettingsError(f"{where} accepts no e-mail: {str(error).rstrip('.')}; {remedy}") from error
        return where

    def _connect(self, timeout_s: float = TIMEOUT_S) -> smtplib.SMTP:
        if self._scheme == "smtps":
            tls = ssl.create_default_context()
            return smtplib.SMTP_SSL(self._host, self._port, timeout=timeout_s, context=tls)
        return smtplib.SMTP(self._host, self._port, timeout=timeout_s)

    def _sign_in(self, server: smtplib.SMTP) -> None:
        if self._scheme == "smtp":
            server.starttls(context=ssl.create_default_context())
        if self._user:
            server.login(self._user, self._password)


def _recipient(email: str) -> str:
    """Return the address for the envelope. One that an older version accepted is used as it is."""
    try:
        return ascii_email(email)
    except InvalidRequest:
        return email


def build_mailer(settings: Settings, shop: Shop) -> Mailer:
    """Return the mailer that the settings describe, with the shop's sender if they name none.

    Raises SettingsError if SMTP is set without a public URL: the links in e-mails would then begin with the address
    listened on, which their readers usually cannot reach.
    """
    if not settings.smtp_url:
        return LogMailer()
    if not settings.public_url and not shop.public_url:
        raise SettingsError(
            "MINITOOLAI_SMTP_URL also needs MINITOOLAI_PUBLIC_URL or the domain of [shop] in the catalog, because "
            "links in e-mails begin with it"
        )
    return SmtpMailer(settings.smtp_url, settings.mail_from or shop.mail_from)
