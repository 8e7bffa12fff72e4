"""E-mail by SMTP: messages arrive complete, and failures are logged and delay no caller."""

from __future__ import annotations

import asyncio
import socketserver
import threading
import time
from collections.abc import Iterator
from email import message_from_bytes, policy

import pytest

from minitoolai.accounts.mail import Letter, LogMailer, SmtpMailer, build_mailer
from minitoolai.core.catalog.shop import UNNAMED
from minitoolai.core.errors import SettingsError
from minitoolai.settings import load_settings

LETTER = Letter(
    "ann@example.com", "Bestätigen Sie Ihre E-Mail-Adresse", "Grüße\n\nhttps://ai.example.com/de/confirm?link=x\n"
)
HOME = {"MINITOOLAI_PUBLIC_URL": "https://ai.example.com", "MINITOOLAI_MAIL_FROM": "MiniToolAI <hello@example.com>"}


class Postman(socketserver.StreamRequestHandler):
    """Speaks the part of RFC 5321 that a sender needs."""

    def handle(self) -> None:
        self.wfile.write(b"220 hello\r\n")
        while line := self.rfile.readline().decode():
            word = line[:4].upper().strip()
            if word == "RCPT" and "refused@" in line:
                self.wfile.write(b"550 no such mailbox\r\n")
                continue
            if word == "DATA":
                self.wfile.write(b"354 go on\r\n")
                text = ""
                while (part := self.rfile.readline().decode()) != ".\r\n":
                    text += part
                self.server.got.append(text)  # type: ignore[attr-defined]
            self.wfile.write(b"221 bye\r\n" if word == "QUIT" else b"250 ok\r\n")


@pytest.fixture
def postman() -> Iterator[tuple[str, list[str]]]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Postman) as server:
        server.daemon_threads = True
        server.got = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"smtp+plain://127.0.0.1:{server.server_address[1]}", server.got  # type: ignore[attr-defined]
        server.shutdown()


def test_a_mail_server_is_asked_whether_it_accepts_an_address(
    postman: tuple[str, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    url, got = postman
    mailer = build_mailer(load_settings({"MINITOOLAI_SMTP_URL": url, **HOME}), UNNAMED)
    assert asyncio.run(mailer.accepts("ann@example.com"))
    assert not asyncio.run(mailer.accepts("refused@example.com"))
    assert "no such mailbox" in caplog.text
    # Nothing was sent.
    assert got == []
    away = build_mailer(load_settings({"MINITOOLAI_SMTP_URL": "smtp+plain://127.0.0.1:9", **HOME}), UNNAMED)
    assert not asyncio.run(away.accepts("ann@example.com"))
    assert asyncio.run(LogMailer().accepts("ann@example.com"))
    assert (mailer.is_configured, LogMailer().is_configured) == (True, False)


def test_an_email_arrives_as_it_was_written(postman: tuple[str, list[str]]) -> None:
    url, got = postman
    mailer = build_mailer(load_settings({"MINITOOLAI_SMTP_URL": url, **HOME}), UNNAMED)
    asyncio.run(mailer.send(LETTER))
    (text,) = got
    message = message_from_bytes(text.encode(), policy=policy.default)
    assert (message["to"], message["subject"]) == (LETTER.to, LETTER.subject)
    assert message["from"] == "MiniToolAI <hello@example.com>"
    # Both are required (RFC 5322) or expected by spam filters; no name of this machine is in them.
    assert abs(message["date"].datetime.timestamp() - time.time()) < 60
    assert message["message-id"].endswith("@example.com>")
    assert message.get_content().replace("\r\n", "\n") == LETTER.text


def test_an_unreachable_server_is_logged_and_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(SmtpMailer("smtp+plain://127.0.0.1:1", "a@example.com").send(LETTER))
    assert "sending an e-mail through 127.0.0.1:1 failed" in caplog.text
    assert "link=x" not in caplog.text


def test_a_server_without_tls_gets_no_email_unless_configured(
    postman: tuple[str, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    url, got = postman
    asyncio.run(SmtpMailer(url.replace("smtp+plain", "smtp"), "a@example.com").send(LETTER))
    assert got == []
    assert "sending an e-mail through" in caplog.text


def test_a_check_signs_in_sends_nothing_and_names_the_remedy(postman: tuple[str, list[str]]) -> None:
    url, got = postman
    host = url.removeprefix("smtp+plain://")
    assert SmtpMailer(url, "a@example.com").check() == host
    with pytest.raises(SettingsError, match=r"accepts no e-mail: STARTTLS .*smtp\+plain:// for none"):
        SmtpMailer(f"smtp://{host}", "a@example.com").check()
    with pytest.raises(SettingsError, match=r"AUTH .*correct MINITOOLAI_SMTP_URL"):
        SmtpMailer(f"smtp+plain://ann:secret@{host}", "a@example.com").check()
    with pytest.raises(SettingsError, match=r"127\.0\.0\.1:1 accepts no e-mail"):
        SmtpMailer("smtp+plain://127.0.0.1:1", "a@example.com").check()
    assert got == []


def test_without_smtp_emails_are_logged() -> None:
    assert isinstance(build_mailer(load_settings({}), UNNAMED), LogMailer)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"MINITOOLAI_SMTP_URL": "smtp://h"}, "also needs MINITOOLAI_PUBLIC_URL"),
        (
            {"MINITOOLAI_SMTP_URL": "mail.example.com", **HOME},
            "use the form smtp://user:password@mail.example.com:587",
        ),
        ({"MINITOOLAI_SMTP_URL": "smtp://h", **HOME, "MINITOOLAI_MAIL_FROM": ""}, "MINITOOLAI_MAIL_FROM must be"),
    ],
)
def test_incomplete_mail_settings_are_refused_with_a_remedy(settings: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        build_mailer(load_settings(settings), UNNAMED)
