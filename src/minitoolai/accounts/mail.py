"""Send e-mails to users: by SMTP if configured, otherwise into the server's log for the operator."""

from __future__ import annotations

import logging
import smtplib
import ssl
from email.message import EmailMessage
from typing import Protocol
from urllib.parse import unquote, urlsplit

import msgspec

from minitoolai.accounts.addresses import ascii_email
from minitoolai.core.errors import InvalidRequest, SettingsError
from minitoolai.core.threads import MAIL
from minitoolai.settings import Settings

log = logging.getLogger(__name__)
TIMEOUT_S = 20.0


class Letter(msgspec.Struct, frozen=True):
    """One e-mail in plain text."""

    to: str
    subject: str
    text: str


class Mailer(Protocol):
    """Sends e-mails."""

    async def send(self, letter: Letter) -> None:
        """Send the e-mail. Failures are logged, never raised: no caller waits for delivery."""


class LogMailer:
    """Write e-mails to the log. Used if no SMTP server is set."""

    async def send(self, letter: Letter) -> None:
        log.warning("MINITOOLAI_SMTP_URL is not set, so this e-mail is only written here:\nTo: %s\n%s\n\n%s",
                    letter.to, letter.subject, letter.text)  # fmt: skip


class SmtpMailer:
    """`smtp://user:password@host:587` (STARTTLS required), `smtps://…:465`, or `smtp+plain://…:25`."""

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

    def _send(self, letter: Letter) -> None:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self._sender, _recipient(letter.to), letter.subject
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(letter.text)
        tls = ssl.create_default_context()
        if self._scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(self._host, self._port, timeout=TIMEOUT_S, context=tls)
        else:
            server = smtplib.SMTP(self._host, self._port, timeout=TIMEOUT_S)
        with server:
            if self._scheme == "smtp":
                server.starttls(context=tls)
            if self._user:
                server.login(self._user, self._password)
            server.send_message(message)


def _recipient(email: str) -> str:
    """Return the address for the envelope. One that an older version accepted is used as it is."""
    try:
        return ascii_email(email)
    except InvalidRequest:
        return email


def build_mailer(settings: Settings) -> Mailer:
    """Return the mailer that the settings describe.

    Raises SettingsError if SMTP is set without a public URL: the links in e-mails would then begin with the address
    listened on, which their readers usually cannot reach.
    """
    if not settings.smtp_url:
        return LogMailer()
    if not settings.public_url:
        raise SettingsError(
            "MINITOOLAI_SMTP_URL also needs MINITOOLAI_PUBLIC_URL, because links in e-mails begin with it"
        )
    return SmtpMailer(settings.smtp_url, settings.mail_from)
