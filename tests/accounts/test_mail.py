"""Letters by SMTP: they arrive whole, links in them begin with the public address, and a deaf server delays nobody."""

from __future__ import annotations

import asyncio
import socketserver
import threading
from collections.abc import Iterator
from email import message_from_bytes, policy

import pytest

from minitoolai.accounts.mail import Letter, LogMailer, SmtpMailer, build_mailer
from minitoolai.core.errors import SettingsError
from minitoolai.settings import load_settings

LETTER = Letter(
    "ann@example.com", "Bestätigen Sie Ihre E-Mail-Adresse", "Grüße\n\nhttps://ai.example.com/de/confirm?link=x\n"
)
HOME = {"MINITOOLAI_PUBLIC_URL": "https://ai.example.com", "MINITOOLAI_MAIL_FROM": "MiniToolAI <hello@example.com>"}


class Postman(socketserver.StreamRequestHandler):
    """As much of RFC 5321 as a sender needs."""

    def handle(self) -> None:
        self.wfile.write(b"220 hello\r\n")
        while line := self.rfile.readline().decode():
            word = line[:4].upper().strip()
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


def test_a_letter_arrives_as_it_was_written(postman: tuple[str, list[str]]) -> None:
    url, got = postman
    mailer = build_mailer(load_settings({"MINITOOLAI_SMTP_URL": url, **HOME}))
    asyncio.run(mailer.send(LETTER))
    (text,) = got
    message = message_from_bytes(text.encode(), policy=policy.default)
    assert (message["to"], message["subject"]) == (LETTER.to, LETTER.subject)
    assert message["from"] == "MiniToolAI <hello@example.com>"
    assert message.get_content().replace("\r\n", "\n") == LETTER.text


def test_a_server_that_is_not_there_is_logged_and_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(SmtpMailer("smtp+plain://127.0.0.1:1", "a@example.com").send(LETTER))
    assert "sending an e-mail through 127.0.0.1:1 failed" in caplog.text
    assert "link=x" not in caplog.text


def test_a_server_without_tls_gets_no_letter_unless_that_was_said(
    postman: tuple[str, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    url, got = postman
    asyncio.run(SmtpMailer(url.replace("smtp+plain", "smtp"), "a@example.com").send(LETTER))
    assert got == []
    assert "sending an e-mail through" in caplog.text


def test_without_smtp_letters_go_to_the_log() -> None:
    assert isinstance(build_mailer(load_settings({})), LogMailer)


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
def test_mail_that_is_set_up_halfway_is_refused_with_a_remedy(settings: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        build_mailer(load_settings(settings))
