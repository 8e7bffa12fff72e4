"""Browse the portal without JavaScript: keep cookies, read forms, fill them in, submit them."""

from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import requests

from minitoolai.accounts.factors import totp
from minitoolai.accounts.factors.second_factors import SecretCipher
from minitoolai.accounts.passwords import hash_password
from minitoolai.accounts.users import SESSION_MS, digest
from minitoolai.core.clock import SystemClock, random_text
from minitoolai.core.models import SecondFactor
from minitoolai.paths import load_secret_keys
from minitoolai.storage.database import Connection
from minitoolai.storage.tables import accounts, second_factors, users
from tests.support.server import ServerProcess
from tests.support.waiting import eventually

PASSWORD = "correct horse"


class Forms(HTMLParser):
    """Collect the forms of a page: action and the fields that would be sent."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        a = dict(attrs)
        if tag == "form":
            self.found.append((a.get("action") or "", {}))
        elif tag == "input" and self.found and a.get("name") and a.get("type") not in ("checkbox", "radio"):
            self.found[-1][1][a["name"] or ""] = a.get("value") or ""


class Visitor(requests.Session):
    """One browser. `page` is the current page."""

    def __init__(self, server: ServerProcess, lang: str = "en") -> None:
        super().__init__()
        self.server = server
        self.lang = lang
        self.page = requests.Response()

    def url(self, path: str) -> str:
        """Return the path in the visitor's language; a path with a language, or the root, is unchanged."""
        return self.server.url + (
            path if path == "/" or re.match(r"/(\w\w(/|$)|static|webhooks)", path) else f"/{self.lang}{path}"
        )

    def open(self, path: str, **options: object) -> requests.Response:
        """Go to a page."""
        self.page = self.get(self.url(path), timeout=20, **options)  # type: ignore[arg-type]
        return self.page

    def fields(self, action: str) -> dict[str, str]:
        """Return what the form with this action would send."""
        for where, values in Forms(self.page.text).found:
            if where.split("?")[0].endswith(action):
                return dict(values)
        raise AssertionError(f"no form {action} among {[where for where, _ in Forms(self.page.text).found]}")

    def submit(self, action: str, follow: bool = True, **values: str) -> requests.Response:
        """Fill in the form with this action and submit it, as a browser would."""
        sent = self.fields(action) | values
        target = urljoin(
            self.page.url, next(w for w, _ in Forms(self.page.text).found if w.split("?")[0].endswith(action))
        )
        parts = urlsplit(self.server.url)
        headers = {"origin": f"{parts.scheme}://{parts.netloc}", "sec-fetch-site": "same-origin"}
        self.page = self.post(target, data=sent, headers=headers, allow_redirects=follow, timeout=20)
        return self.page

    # ── errands ───────────────────────────────────────────────────────────────────────────────────────────

    def sign_up(self, email: str, password: str = PASSWORD) -> Visitor:
        """Sign up, up to the keys page."""
        before = len(letters(self.server, email))
        self.open("/signup")
        self.submit("/signup", email=email, password=password)
        assert self.page.status_code == 200, self.page.text
        self.open(last_link(self.server, email, after=before))
        self.submit("/confirm")
        assert self.page.url.endswith("/keys"), self.page.url
        return self

    def sign_in(self, email: str, password: str = PASSWORD) -> Visitor:
        """Sign in, up to the keys page or the page that the sign-in redirects to."""
        self.open("/signin")
        self.submit("/signin", email=email, password=password)
        return self


def new_user(server: ServerProcess, email: str, *, is_admin: bool = False, lands_on: str = "/en/keys") -> Visitor:
    """A browser with the session of a new user on the keys page, as after `sign_up`.

    Both are written to the database, which spares each test a sign-up with its e-mail and its hash.
    """
    secret, now_ms = random_text(32), SystemClock().now_ms()

    def change(connection: Connection) -> None:
        account_id = accounts.create_account(connection, email, _password_hash(), now_ms)
        users.set_language(connection, account_id, "en")
        users.set_admin(connection, account_id, is_admin)
        users.insert_session(connection, digest(secret), account_id, now_ms, now_ms + SESSION_MS)

    server.write(change)
    visitor = Visitor(server)
    visitor.cookies.set("session", secret, domain="127.0.0.1", path="/")
    visitor.open("/keys")
    assert visitor.page.url.endswith(lands_on), visitor.page.url
    return visitor


@cache
def _password_hash() -> str:
    return hash_password(PASSWORD)


def add_second_factor(server: ServerProcess, email: str) -> bytes:
    """Give this user a second factor whose codes of the last minute count as used, and return its secret."""
    secret, now_ms = totp.new_secret(), SystemClock().now_ms()
    cipher = SecretCipher(load_secret_keys(server.settings))

    def change(connection: Connection) -> None:
        found = users.find_user(connection, email)
        assert found is not None
        account_id = found[0].account_id
        step = totp.step_at(now_ms) - 2
        factor = SecondFactor(account_id, cipher.encrypt(account_id, secret), step, now_ms)
        assert second_factors.insert(connection, factor)

    server.write(change)
    return secret


def code_now(secret: bytes, offset: int = 0) -> str:
    """Return the code that an authenticator app shows now, or so many steps later."""
    return totp.code_of_step(secret, totp.step_at(SystemClock().now_ms()) + offset)


def letters(server: ServerProcess, email: str) -> list[str]:
    """Return the e-mails to this address, oldest first; without SMTP they are in the server's log."""
    parts = re.split(r"this e-mail is only written here:\nTo: ", server.log.read_text())
    return [part for part in parts[1:] if part.startswith(email + "\n")]


def last_link(server: ServerProcess, email: str, after: int = 0) -> str:
    """Return the path of the link in the newest e-mail; `after`: how many e-mails there were before."""
    eventually(lambda: len(letters(server, email)) > after)
    found = re.search(r"https?://[^/\s]+(/\S+)", letters(server, email)[-1])
    assert found
    return found[1]
