"""A crawl of everything that a customer of a shop with its own name receives.

It finds no name of a supplier, no setting of the operator and no name of this program: in answers, headers, errors,
pages, e-mails, webhooks, downloads, the export of a customer's data and the metadata of images and speech.
"""

from __future__ import annotations

import io
import json
import re
import socket
import socketserver
import threading
import wave
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
import requests

from minitoolai.accounts.factors import totp
from minitoolai.api.openapi import describe
from minitoolai.core.catalog.shop import Shop
from minitoolai.portal.i18n import LANGUAGES
from minitoolai.portal.mail.letters import TEXTS, letter_composer
from tests.api.test_key_rules import EXAMPLES, FORMS_WITH_FILES
from tests.support import suppliers
from tests.support.browse import PASSWORD, Visitor
from tests.support.crowd import CLOSED
from tests.support.house import OPEN
from tests.support.server import Account, ServerProcess
from tests.support.stripe import KEY, SECRET, Stripe
from tests.support.upstream import Exchange, Upstream
from tests.support.waiting import eventually

FORBIDDEN = re.compile(
    r"mini-?_?tool|glorp|zorp|vexlabs|quaxvoice|https?://127\.0\.0\.1:(?:{ports})/v1|smollm|llama\.cpp", re.IGNORECASE
)
SHOP = """
[shop]
name = "Acme AI"
logo = "logo.svg"
accent = "#0b6e4f"
accent_dark = "#5fd4a8"
support = "help@acme.example"
mail_from = "hello@acme.example"
terms = { en = "terms.md", de = "agb.md" }
privacy = "terms.md"
imprint = "terms.md"
footer = "Acme Ltd, 1 High Street"
powered_by = false
"""
HOW = ("400", "401", "403", "404", "429", "500", "503", "504", "later", "rubbish", "cut")
MODELS = {"*": "gpt-4o", "vectors-*": "vectors"}


class Findings:
    """Looks at everything that is given to it."""

    def __init__(self, forbidden: re.Pattern[str]) -> None:
        self._forbidden = forbidden
        self.looked_at = 0
        self.found: dict[str, str] = {}

    def look(self, where: str, *parts: str | bytes) -> None:
        """Search texts and bytes, also the compressed parts of an image."""
        self.looked_at += 1
        for part in parts:
            text = part if isinstance(part, str) else "\n".join(_texts_of(part))
            if (match := self._forbidden.search(text)) is not None:
                self.found.setdefault(where, text[max(0, match.start() - 60) : match.end() + 60])

    def answer(self, where: str, answer: requests.Response) -> requests.Response:
        """Search status line, headers and body of an answer."""
        headers = "\n".join(f"{name}: {value}" for name, value in answer.headers.items())
        self.look(f"{where} → {answer.status_code}", answer.reason, headers, answer.content)
        return answer


def _texts_of(data: bytes) -> Iterator[str]:
    yield data.decode("utf-8", "replace")
    yield data.decode("utf-16-le", "replace")
    at = 8
    while data.startswith(b"\x89PNG") and at < len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind in (b"zTXt", b"iTXt"):
            for start in range(at + 8, at + 8 + min(length, 200)):
                try:
                    yield zlib.decompress(data[start : at + 8 + length]).decode("utf-8", "replace")
                except zlib.error:
                    continue
        at += length + 12


class Postman(socketserver.StreamRequestHandler):
    """Receive e-mails by SMTP."""

    def handle(self) -> None:
        self.wfile.write(b"220 hello\r\n")
        while line := self.rfile.readline().decode():
            word = line[:4].upper().strip()
            if word == "DATA":
                self.wfile.write(b"354 go on\r\n")
                text = ""
                while (part := self.rfile.readline().decode()) != ".\r\n":
                    text += part
                self.server.mails.append(text)  # type: ignore[attr-defined]
            self.wfile.write(b"221 bye\r\n" if word == "QUIT" else b"250 ok\r\n")


class Shopping:
    """A shop with four suppliers, and everything around it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.upstreams = {name: stack.enter_context(Upstream(suppliers.serve)) for name in suppliers.NAMES}
        suppliers.PORTS.update({name: one.port for name, one in self.upstreams.items()})
        self.receiver = stack.enter_context(Upstream(_receive))
        self.stripe = stack.enter_context(Stripe())
        mail = stack.enter_context(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Postman))
        mail.daemon_threads = True
        self.mails: list[str] = []
        mail.mails = self.mails  # type: ignore[attr-defined]
        threading.Thread(target=mail.serve_forever, daemon=True).start()
        stack.callback(mail.shutdown)
        (folder / "logo.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
        (folder / "terms.md").write_text("# Terms\n\nOf **Acme**.\n")
        (folder / "agb.md").write_text("# AGB\n\nVon Acme.\n")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        catalog = suppliers.catalog({name: one.base_url for name, one in self.upstreams.items()}) + SHOP
        env = {
            "MINITOOLAI_STAND_INS": "demo",
            "MINITOOLAI_PUBLIC_URL": f"http://127.0.0.1:{port}",
            "MINITOOLAI_SMTP_URL": f"smtp+plain://127.0.0.1:{mail.server_address[1]}",
            "MINITOOLAI_WEBHOOK_INSECURE": "1",
            "MINITOOLAI_TRIES_FACTOR": "1000",
            "MINITOOLAI_STRIPE_SECRET_KEY": KEY,
            "MINITOOLAI_STRIPE_WEBHOOK_SECRET": SECRET,
            "MINITOOLAI_STRIPE_API_URL": self.stripe.url,
        }
        self.server = ServerProcess(folder, catalog=catalog, env=env)
        self.server.port = port
        stack.enter_context(self.server)
        ports = "|".join(str(one.port) for one in self.upstreams.values())
        self.findings = Findings(re.compile(FORBIDDEN.pattern.replace("{ports}", ports), re.IGNORECASE))

    def mail_link(self, email: str, after: int) -> str:
        """Return the path of the link in the newest e-mail to this address."""
        eventually(lambda: len(self._mails_to(email)) > after)
        body = message_from_bytes(self._mails_to(email)[-1].encode(), policy=policy.default).get_content()
        found = re.search(r"https?://[^/\s]+(/\S+)", body)
        assert found, body
        return found[1]

    def _mails_to(self, email: str) -> list[str]:
        return [mail for mail in self.mails if f"To: {email}" in mail]


async def _receive(exchange: Exchange) -> None:
    exchange.answer(200, b"")


@pytest.fixture
def shopping(tmp_path: Path) -> Iterator[Shopping]:
    with ExitStack() as stack:
        yield Shopping(tmp_path, stack)


def silence() -> bytes:
    """Return a second of silence as WAV."""
    file = io.BytesIO()
    with wave.open(file, "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(16_000)
        recording.writeframes(bytes(32_000))
    return file.getvalue()


# ── the API ───────────────────────────────────────────────────────────────────────────────────────────────


def call_everything(shop: Shopping, account: Account) -> None:
    """Call every route with good and with bad input, and have every supplier fail in every way."""
    url, look, headers = shop.server.url, shop.findings.answer, account.headers
    for path, field in FORMS_WITH_FILES.items():
        for name, recording in (("good.wav", silence()), ("bad.wav", b"no sound"), ("empty.wav", b"")):
            for model in ("hearer", "gpt-4o", "nothing-of-that-name"):
                for kind in ("json", "text", "verbose_json", "nonsense"):
                    sent, file = {"model": model, "response_format": kind}, {field: (name, recording)}
                    answer = requests.post(url + path, data=sent, files=file, headers=headers, timeout=60)
                    look(f"{path} {name} {model} {kind}", answer)
    for path, example in EXAMPLES.items():
        if path in FORMS_WITH_FILES:
            continue
        body = example | {"model": MODELS.get(example["model"], example["model"])}
        if "painter" in body.values():
            body |= {"webhook_url": shop.receiver.base_url + "/hook"} if path.startswith("/api") else {}
        models = [body["model"], "nothing-of-that-name", 7]
        models += ["claude-sonnet", "plain", "lacking"] if body["model"] == "gpt-4o" else []
        for model in models:
            for more in ({}, {"stream": True}, {"stream": False}):
                one = body | {"model": model} | more
                answer = requests.post(url + path, json=one, headers=headers, timeout=60)
                look(f"{path} {model} {more}", answer)
                generation = answer.headers.get("x-generation-id")
                if generation and "," not in generation:
                    shown = requests.get(f"{url}/v1/generations/{generation}", headers=headers, timeout=20)
                    look(f"generation of {path} {model}", shown)
        # A failed image is tried again and again, and its worker rests in between.
        for how in ("400",) if "image" in path else HOW:
            told = json.loads(json.dumps(body).replace('"hi"', f'"do:{how}"'))
            for model in (body["model"], *(("claude-sonnet",) if body["model"] == "gpt-4o" else ())):
                for more in ({}, {"stream": True}, {"stream": False}):
                    one = told | {"model": model} | more
                    look(f"{path} {model} {how}", requests.post(url + path, json=one, headers=headers, timeout=60))
        preferred = body | {"provider": {"order": ["nobody"], "ignore": ["glorpnet"]}}
        look(f"{path} preferences", requests.post(url + path, json=preferred, headers=headers, timeout=60))
        for name, bad in (("empty", b""), ("garbage", b"{{{"), ("list", b"[]"), ("nothing", b"{}")):
            look(f"{path} {name}", requests.post(url + path, data=bad, headers=headers, timeout=20))
        for field in body:
            one = body | {field: {"glass": [1]}}
            look(f"{path} bad {field}", requests.post(url + path, json=one, headers=headers, timeout=20))
        look(f"{path} without a key", requests.post(url + path, json=body, timeout=20))
        look(f"{path} wrong key", requests.post(url + path, json=body, headers={"x-api-key": "sk-mt-x"}, timeout=20))
    for path, operations in describe()["paths"].items():
        for method in (*operations, "put"):
            filled = re.sub(r"\{\w+\}", "unknown", path)
            for sent in (headers, {}, headers | {"anthropic-version": "2023-06-01"}):
                look(f"{method} {filled}", requests.request(method, url + filled, headers=sent, timeout=20))
    for model in ("gpt-4o", "lacking", "painter", "teller", "vectors"):
        look(model, requests.get(f"{url}/v1/models/{model}", headers=headers, timeout=20))
    for path in ("/api/usage/?format=csv&group_by=model", "/api/usage/?group_by=nobody", "/v1/nowhere", "/metrics"):
        look(path, requests.get(url + path, headers=headers, timeout=20))


def see_pictures_and_speech(shop: Shopping, account: Account) -> None:
    """Look at the metadata of an image and of speech in every format, and have an image checked."""
    url, look = shop.server.url, shop.findings.answer
    body = EXAMPLES["/api/texttoimage/"] | {"webhook_url": shop.receiver.base_url + "/hook"}
    job = requests.post(f"{url}/api/texttoimage/", json=body, headers=account.headers, timeout=20).json()
    poll: dict[str, Any] = {}

    def has_ended() -> bool:
        sent = {"jobid": job["jobid"], "signature": job["signature"]}
        poll.update(look("poll", requests.post(f"{url}/api/texttoimage/jobs/", json=sent, timeout=20)).json())
        return poll["status"] not in ("queued", "processing")

    eventually(has_ended, within_s=60)
    assert (poll["status"], poll["model"]) == ("success", "painter"), poll
    picture = look("image", requests.get(poll["image_url"], timeout=20)).content
    assert b"Acme AI" in picture
    assert b"trainedAlgorithmicMedia" in picture
    checked = Visitor(shop.server).post(f"{url}/en/check/file", files={"file": ("x.png", picture)}, timeout=60)
    assert "painter" in look("checked", checked).text
    for kind in ("mp3", "wav", "flac", "opus", "pcm"):
        one = EXAMPLES["/v1/audio/speech"] | {"response_format": kind}
        spoken = requests.post(f"{url}/v1/audio/speech", json=one, headers=account.headers, timeout=60)
        assert look(f"speech {kind}", spoken).status_code == 200
    eventually(lambda: bool(shop.receiver.seen), within_s=60)
    for call in shop.receiver.seen:
        shop.findings.look("webhook", json.dumps(call.headers), call.raw)


# ── the portal ────────────────────────────────────────────────────────────────────────────────────────────


def open_everything(shop: Shopping, member: Visitor) -> None:
    """Open every page in every language as a visitor and as a customer, and every file that they name."""
    look, files = shop.findings.answer, set[str]()
    closed = [path for path in CLOSED if "admin" not in path and "KEY" not in path and "below" not in path]
    for lang in LANGUAGES:
        for path in (*OPEN, "/terms", "/privacy", "/imprint", "/nothing", *closed):
            for who, browser in (("visitor", Visitor(shop.server)), ("customer", member)):
                text = look(f"{who} {lang}{path}", browser.get(f"{shop.server.url}/{lang}{path}", timeout=60)).text
                files |= set(re.findall(r'(?:href|src)="(/static/[^"]+)"', text))
        for path in ("/index.md", "/docs.md", "/prices.md", "/check.md", "/api-documentation"):
            look(f"{lang}{path}", requests.get(f"{shop.server.url}/{lang}{path}", timeout=20))
        look(f"{lang} form", requests.post(f"{shop.server.url}/{lang}/signin", data={"email": "x"}, timeout=20))
    others = ("/", "/llms.txt", "/llms-full.txt", "/SKILL.md", "/robots.txt", "/favicon.ico", "/openapi.json")
    for path in (*files, *others, "/api-documentation", "/sitemap.xml", "/webhooks/stripe"):
        look(path, requests.get(shop.server.url + path, timeout=20))
    look("stripe", requests.post(f"{shop.server.url}/webhooks/stripe", data="{}", timeout=20))


def run_errands(shop: Shopping, email: str) -> tuple[Visitor, str]:
    """Sign up, create a key, change what an account has, and top up: every step sends pages or e-mails."""
    member, look = Visitor(shop.server), shop.findings.answer

    def step(path: str, action: str, **values: str) -> None:
        look(f"page {path}", member.open(path))
        look(f"form {action}", member.submit(action, **values))

    step("/signup", "/signup", email=email, password=PASSWORD)
    look("link", member.open(shop.mail_link(email, 0)))
    look("confirmed", member.submit("/confirm"))
    step("/keys", "/keys", name="laptop")
    key = re.search(r"sk-mt-[0-9A-Za-z-]+", member.page.text)
    assert key
    stranger = Visitor(shop.server)
    stranger.open("/signup")
    stranger.submit("/signup", email=email, password=PASSWORD)
    shop.mail_link(email, 1)
    step("/account/second-factor", "/account/second-factor/on", password_on="wrong", code_on="000000")
    page = member.open("/account/second-factor").text
    assert "<svg" in page
    secret = "".join(re.findall(r"[A-Z2-7]{4}", re.sub(r"<[^>]+>", " ", page))[:8])
    assert len(secret) == 32
    named = totp.provisioning_url(b"x" * 20, email, "Acme AI")
    shop.findings.look("otpauth", named)
    look("page /topup", member.open("/topup"))
    look("form /topup/card", member.submit("/topup/card", follow=False, amount="10.00"))
    step("/topup", "/topup/voucher", code="no such code")
    shop.findings.look("stripe", *(json.dumps(form) for _, _, form in shop.stripe.calls))
    assert any("Acme AI" in json.dumps(form) for _, _, form in shop.stripe.calls)
    asker = Visitor(shop.server)
    asker.open("/reset")
    asker.submit("/reset", email=email)
    look("new password", asker.open(shop.mail_link(email, 2)))
    return member, key[0]


def read_mails(shop: Shopping) -> None:
    """Look at the e-mails that were sent, and at the text of every e-mail in every language."""
    assert len(shop.mails) >= 3
    for mail in shop.mails:
        message = message_from_bytes(mail.encode(), policy=policy.default)
        assert message["from"] == "Acme AI <hello@acme.example>"
        assert message["subject"].startswith("Acme AI: ")
        shop.findings.look("e-mail", mail, message.get_content())
    own = Shop(name="Acme AI", mail_from="hello@acme.example")
    for lang in LANGUAGES:
        for purpose in TEXTS:
            compose = letter_composer(own, "https://ai.example.com", lang, "a@example.com", "b@example.com")
            letter = compose(purpose, "x")
            shop.findings.look(f"{lang} {purpose}", letter.subject, letter.text, letter.sender)


def test_customers_see_the_shop_and_nothing_behind_it(shopping: Shopping) -> None:
    email, server = "ann@example.com", shopping.server
    member, key = run_errands(shopping, email)
    number = server.read(lambda c: c.execute("SELECT account_id FROM users WHERE email = ?", (email,)))[0][0]
    assert server.command("credit", "grant", email, "100").returncode == 0
    account = Account(server, number, email, key)
    call_everything(shopping, account)
    see_pictures_and_speech(shopping, account)
    open_everything(shopping, member)
    for path in ("/usage/usage.csv?days=30", "/balance/statement.csv", "/usage/requests", "/balance"):
        assert re.search("gpt-4o|teller|painter", shopping.findings.answer(path, member.open(path)).text)
    exported = server.command("account", "export", email)
    assert exported.returncode == 0, exported.stderr
    assert '"gpt-4o"' in exported.stdout
    shopping.findings.look("export", exported.stdout)
    read_mails(shopping)
    print(f"{shopping.findings.looked_at} answers, pages, e-mails and files; {len(shopping.findings.found)} findings")
    assert not shopping.findings.found, "\n".join(
        f"{where}: {text!r}" for where, text in shopping.findings.found.items()
    )


def test_the_crawl_sees_a_name_wherever_it_is() -> None:
    findings = Findings(re.compile("glorp"))
    text = suppliers.PngImagePlugin.PngInfo()
    text.add_itxt("Comment", "made by glorp", zip=True)
    file = io.BytesIO()
    suppliers.Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=text)
    findings.look("image", file.getvalue())
    findings.look("text", "GLORP is not it", "but glorp is")
    findings.look("clean", "nothing", b"\x89PNG nothing")
    assert set(findings.found) == {"image", "text"}
