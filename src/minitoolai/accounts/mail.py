"""Letters to users: by SMTP where it is set up, else into the server's log for its operator to read."""

from __future__ import annotations

import asyncio
import logging
import smtplib
import ssl
from email.message import EmailMessage
from typing import Protocol
from urllib.parse import unquote, urlsplit

import msgspec

from minitoolai.core.errors import SettingsError

log = logging.getLogger(__name__)
TIMEOUT_S = 20.0


class Letter(msgspec.Struct, frozen=True):
    """One mail in plain text."""

    to: str
    subject: str
    text: str


class Mailer(Protocol):
    """Whoever carries letters."""

    async def send(self, letter: Letter) -> None:
        """Hand the letter over; what fails is logged, never raised: nobody waits for it."""


class LogMailer:
    """No SMTP: the operator finds the letter in the log."""

    async def send(self, letter: Letter) -> None:
        log.warning("no MINITOOLAI_SMTP_URL is set, so this letter goes nowhere but here:\nTo: %s\n%s\n\n%s",
                    letter.to, letter.subject, letter.text)  # fmt: skip


class SmtpMailer:
    """`smtp://user:password@host:587` (STARTTLS required), `smtps://…:465`, or `smtp+plain://…:25`."""

    def __init__(self, url: str, sender: str) -> None:
        parts = urlsplit(url)
        ports = {"smtp": 587, "smtps": 465, "smtp+plain": 25}
        if parts.scheme not in ports or not parts.hostname:
            raise SettingsError(
                "MINITOOLAI_SMTP_URL is wrong: write it like smtp://user:password@mail.example.com:587 "
                "(smtps:// for TLS from the start, smtp+plain:// for none)"
            )
        if "@" not in sender:
            raise SettingsError("MINITOOLAI_MAIL_FROM must say who writes, like: MiniToolAI <hello@example.com>")
        self._scheme, self._host = parts.scheme, parts.hostname
        self._port = parts.port or ports[parts.scheme]
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        self._sender = sender

    async def send(self, letter: Letter) -> None:
        try:
            await asyncio.to_thread(self._send, letter)
        except (OSError, smtplib.SMTPException) as error:
            log.error("a letter could not be sent through %s:%s: %s", self._host, self._port, error)

    def _send(self, letter: Letter) -> None:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self._sender, letter.to, letter.subject
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
