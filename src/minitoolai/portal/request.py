"""One page request of one browser: its session, language and form; render pages, redirect, set cookies.

Also the security headers of every response, and form recovery: restore the fields of a form that was sent after the
session had ended.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from minitoolai.accounts.addresses import email_forms
from minitoolai.accounts.devices import describe_device
from minitoolai.accounts.external.protocol import ExternalIdentity
from minitoolai.accounts.teams import Actor, log_member_action
from minitoolai.accounts.users import CHALLENGE_MS, SESSION_MS, Challenge, Visitor
from minitoolai.core.catalog.catalog import Catalog
from minitoolai.core.clock import random_text
from minitoolai.core.models import Device, User
from minitoolai.core.roles import Action, may
from minitoolai.http.exports import CSV, Parts, export_response, with_byte_order_mark
from minitoolai.portal.forms import YEAR_S, FormData, is_loopback, read_cookies
from minitoolai.portal.i18n import LANGUAGES, formatter, translations
from minitoolai.portal.rendering.markdown import page_to_markdown
from minitoolai.portal.role_names import ROLE_NAMES
from minitoolai.portal.site import NavigationEntry, Site
from minitoolai.storage.database import Connection
from minitoolai.storage.tables.reports import find_customer

T = TypeVar("T")
HTML = "text/html"
MARKDOWN = "text/markdown"
#: Public page → the path of its version in Markdown. The forms to sign in and sign up have none: nothing to read.
MARKDOWN_PATHS = {
    "/": "/index.md",
    "/docs": "/docs.md",
    "/docs/errors": "/docs/errors.md",
    "/limits": "/limits.md",
    "/reference": "/reference.md",
    "/models": "/models.md",
    "/prices": "/prices.md",
    "/status": "/status.md",
    "/check": "/check.md",
    "/changelog": "/changelog.md",
}
#: Pages of this kind all have one.
MARKDOWN_FOLDER = "/reference/"
FLASH_S = 60
MIN_GZIP_BYTES = 1000
MAX_COOKIE_LENGTH = 2000
DEVICE_COOKIE = "device"
CHALLENGE_COOKIE = "second"
PENDING_COOKIE = "pending"
#: Accounts for which one browser is remembered.
MAX_DEVICES = 5
VIEW_COOKIE = "viewing"
#: A view of an account as its customer sees it ends by itself after this long.
VIEW_S = 3600
_find_post_form = re.compile(r'<form\b(?=[^>]*\bmethod="post")')
_find_hidden_field = re.compile(r'<input type="hidden"[^>]*>')


class PageRequest:
    """The argument of every page function. Its methods make the response."""

    def __init__(self, site: Site, request: Request, lang: str) -> None:
        self.site = site
        self.request = request
        self.lang = lang
        #: The path after the language: "/" or "/keys".
        self.path = request.scope["path"].removeprefix(f"/{lang}").rstrip("/") or "/"
        self.path_params: dict[str, Any] = request.path_params
        self.query = request.query_params
        self.form = FormData()
        #: A message at the top of this page: its kind ("good", "warn", "bad") and its text.
        self.notice: list[str] | None = None
        self.user: User | None = None
        #: The customer whose pages this admin views; and the admin, on a page that is shown as the customer sees it.
        self.viewed: User | None = None
        self.viewer: User | None = None
        self.session_secret = ""
        self.host = request.headers.get("host", "")
        self.is_secure = site.public_url.startswith("https:") if site.public_url else not is_loopback(self.host)
        self._cookies = read_cookies(request.headers.get("cookie", ""))
        #: Name → value and seconds to live of the cookies that the response sets.
        self._new_cookies: dict[str, tuple[str, int]] = {}
        self.browser_id = self.cookie("browser")
        self.theme = self._cookies.get("theme", "")
        self.gettext = translations(lang).gettext
        self.ngettext = translations(lang).ngettext
        self.formatter = formatter(lang)

    async def load_session(self) -> None:
        """Load the user of the session cookie. Set the cookies that a new browser lacks."""
        self.session_secret = self.cookie("session")
        if self.session_secret:
            self.user = await self.site.users.session_user(self.session_secret, self.device)
            if self.user is None:
                self.session_secret = ""
                self.set_cookie("session", "", max_age_s=0)
        if self.user is not None and self.user.is_admin:
            await self._load_view()
        if not self.browser_id:
            self._renew_browser_id()
        if self._cookies.get("lang") != self.lang:
            self.set_preference("lang", self.lang)

    def query_number(self, name: str, *, longest: int = 15) -> int | None:
        """Return a number of the query with at most `longest` digits, or None for anything else."""
        text = self.query.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= longest else None

    async def report(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a report for this user, `function(connection, *arguments)`, apart from the reads of requests."""
        return await self.site.database.report(self.member.account_id, function, *arguments)

    # ── user and session ──────────────────────────────────────────────────────────────────────────────────

    @property
    def member(self) -> User:
        """The signed-in user of a page that requires one."""
        assert self.user is not None, "the page says access='user'"
        return self.user

    @property
    def connect_mark(self) -> list[object]:
        """What a link of the account page signs, so that no other page can connect an identity to this user."""
        return [self.member.user_id, self._session_mark()]

    def pending_identity(self) -> ExternalIdentity | None:
        """Return the identity that this browser has proved at a provider and may connect after a sign-in."""
        packed = self.cookie(PENDING_COOKIE)
        value = self.site.signer.unpack(PENDING_COOKIE, packed) if packed else None
        if value is None:
            return None
        identity, until_ms = msgspec.convert(value, tuple[ExternalIdentity, int])
        return identity if until_ms > self.site.clock.now_ms() else None

    def may(self, action: Action) -> bool:
        """Return True if the role of the signed-in user allows this in the account where they work."""
        return self.user is not None and may(self.user.role, action)

    @property
    def actor(self) -> Actor:
        """The signed-in user and their address, for the team's log."""
        return Actor(self.member, self.client_ip)

    def log_action(self, connection: Connection, action: str, subject: str | None = None, note: str = "") -> None:
        """Append to the team's log, in the transaction of the action."""
        log_member_action(connection, self.site.clock, self.actor, action, subject, note)

    async def record_action(self, action: str, note: str = "") -> None:
        """Append to the team's log what a service has just done in a transaction of its own."""
        await self.site.writer.run(lambda connection: self.log_action(connection, action, note=note))

    @property
    def price_group(self) -> str | None:
        """The price group of the signed-in user. None: the list prices."""
        return None if self.user is None else self.user.price_group

    @property
    def catalog(self) -> Catalog:
        """The catalog with the prices of the signed-in user."""
        return self.site.reports.catalog.of_group(self.price_group)

    @property
    def client_ip(self) -> str:
        """The network address that rate limits count by."""
        peer = self.request.client.host if self.request.client else ""
        policy = self.site.keys.policy
        return policy.client_address(peer, self.request.headers.get("x-forwarded-for", "")) if policy else peer

    @property
    def origin(self) -> str:
        """The address at which this browser reaches the site, for examples and links: `https://ai.example.com`."""
        return self.site.public_url or f"{self.request.scope.get('scheme', 'http')}://{self.host}"

    def sign_in(self, visitor: Visitor) -> None:
        """Keep a new session in the browser. Replace the browser ID too, against session fixation."""
        self.user, self.session_secret = visitor.user, visitor.secret
        discard_draft_of_others(self, visitor.user.user_id)
        self.set_cookie("session", visitor.secret, max_age_s=SESSION_MS // 1000)
        self._renew_browser_id()
        self._remember_device(visitor.user.email)

    @property
    def device(self) -> Device:
        """The browser, as the list of sessions shows it."""
        return describe_device(self.client_ip, self.request.headers.get("user-agent", ""))

    # ── the view of an account as its customer sees it ────────────────────────────────────────────────────
    #
    # A signed cookie names the account, this admin's session, and the end. Pages of customers are then rendered for
    # that account, without hidden fields and with forms that cannot be used; routing.py refuses everything that would
    # change something. The admin pages stay those of the admin.

    def begin_view(self, account_id: int) -> None:
        """Show the pages of customers for this account from now on, in this browser and this session."""
        value = [account_id, self._session_mark(), self.site.clock.now_ms() + VIEW_S * 1000]
        self.set_cookie(VIEW_COOKIE, self.site.signer.pack(VIEW_COOKIE, value), max_age_s=VIEW_S)

    def end_view(self) -> None:
        """Show the admin's own pages again."""
        self.viewed = None
        self.set_cookie(VIEW_COOKIE, "", max_age_s=0)

    def show_as_customer(self) -> None:
        """Render this page for the customer that the admin views."""
        self.viewer, self.user = self.user, self.viewed

    async def _load_view(self) -> None:
        packed = self.cookie(VIEW_COOKIE)
        value = self.site.signer.unpack(VIEW_COOKIE, packed) if packed else None
        if value is None:
            return
        account_id, mark, until_ms = msgspec.convert(value, tuple[int, str, int])
        if mark == self._session_mark() and until_ms > self.site.clock.now_ms():
            self.viewed = await self.site.database.read_async(find_customer, account_id)
        if self.viewed is None:
            self.end_view()

    def _session_mark(self) -> str:
        return hashlib.sha256(b"view:" + self.session_secret.encode()).hexdigest()[:32]

    # ── second factor ─────────────────────────────────────────────────────────────────────────────────────

    def keep_challenge(self, challenge: Challenge) -> None:
        """Remember in a signed cookie that this browser has proved the password."""
        value = [msgspec.to_builtins(challenge), self.browser_id]
        self.set_cookie(
            CHALLENGE_COOKIE, self.site.signer.pack(CHALLENGE_COOKIE, value), max_age_s=CHALLENGE_MS // 1000
        )

    def challenge(self) -> Challenge | None:
        """Return the challenge that this browser has to answer, or None."""
        packed = self.cookie(CHALLENGE_COOKIE)
        value = self.site.signer.unpack(CHALLENGE_COOKIE, packed) if packed else None
        if value is None:
            return None
        challenge, browser_id = msgspec.convert(value, tuple[Challenge, str])
        is_valid = browser_id == self.browser_id and challenge.until_ms > self.site.clock.now_ms()
        return challenge if is_valid else None

    def discard_challenge(self) -> None:
        """Remove the challenge from the browser."""
        self.set_cookie(CHALLENGE_COOKIE, "", max_age_s=0)

    @property
    def lacks_second_factor(self) -> bool:
        """Whether this user must set up a second factor before anything else."""
        return self.user is not None and self.site.requires_second_factor(self.user) and not self.user.has_second_factor

    # ── known browsers ────────────────────────────────────────────────────────────────────────────────────

    def device_id(self, email: str) -> str:
        """Return the ID of this browser if it has signed in to this account before, or "".

        It is in a signed cookie (OWASP's device cookie): guesses of other browsers never lock this one out.
        """
        return dict(self._devices()).get(_mailbox_digest(email), "")

    def _devices(self) -> list[tuple[str, str]]:
        packed = self.cookie(DEVICE_COOKIE)
        value = self.site.signer.unpack(DEVICE_COOKIE, packed) if packed else None
        return [] if value is None else msgspec.convert(value, list[tuple[str, str]])

    def _remember_device(self, email: str) -> None:
        """Remember that this browser has signed in to this account. The last accounts are kept."""
        mailbox = _mailbox_digest(email)
        others = [entry for entry in self._devices() if entry[0] != mailbox]
        devices = [*others, (mailbox, self.device_id(email) or random_text(16))][-MAX_DEVICES:]
        self.set_cookie(DEVICE_COOKIE, self.site.signer.pack(DEVICE_COOKIE, devices), max_age_s=YEAR_S)

    def sign_out(self) -> None:
        """Remove the session from the browser."""
        self.user, self.session_secret = None, ""
        discard_draft(self)
        self.set_cookie("session", "", max_age_s=0)
        self._renew_browser_id()

    def _renew_browser_id(self) -> None:
        self.browser_id = random_text(24)
        self.set_cookie("browser", self.browser_id, max_age_s=YEAR_S)

    # ── cookies and CSRF tokens ───────────────────────────────────────────────────────────────────────────

    def _cookie_name(self, name: str) -> str:
        return f"__Host-{name}" if self.is_secure else name

    def cookie(self, name: str, max_length: int = MAX_COOKIE_LENGTH) -> str:
        """Return the value of a cookie that no other host may set, or ""."""
        value = self._cookies.get(self._cookie_name(name), "")
        return value if len(value) <= max_length and value.isascii() else ""

    def set_cookie(self, name: str, value: str, *, max_age_s: int) -> None:
        """Set a cookie with the response. The last value of a name wins."""
        self._new_cookies[self._cookie_name(name)] = value, max_age_s

    def set_preference(self, name: str, value: str) -> None:
        """Remember the language or the theme. These cookies need no protection, and every page reads them."""
        self._new_cookies[name] = value, YEAR_S

    def csrf(self, *, recoverable: bool = False) -> Markup:
        """Return the hidden field with the CSRF token.

        `recoverable`: also name the owner of the form, so that it can be restored after a sign-in.
        """
        if self.viewer is not None:
            return Markup("")
        field = Markup('<input type="hidden" name="{}" value="{}">')
        token = field.format("csrf", self.site.signer.form_token(self._token_secret()))
        return token + field.format(OWNER_FIELD, owner_mark(self)) if recoverable else token

    @property
    def is_same_origin(self) -> bool:
        """Whether the request came from a page of this site, as far as the browser says."""
        origin = self.request.headers.get("origin")
        if self.request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        return origin is None or origin.partition("://")[2] in (self.host, self.origin.partition("://")[2])

    def has_valid_token(self) -> bool:
        """Return True if the form has the CSRF token of this browser and this session."""
        return self.is_same_origin and self.site.signer.is_form_token(self.form["csrf"], self._token_secret())

    def _token_secret(self) -> str:
        return f"{self.browser_id}.{self.session_secret}"

    # ── addresses ─────────────────────────────────────────────────────────────────────────────────────────

    def url(self, path: str, lang: str = "") -> str:
        """Return the address of a page: `/keys` → `/de/keys`."""
        return f"/{lang or self.lang}{path}"

    def next_url(self, default: str) -> str:
        """Return where to go next, as the form or the query says; only ever a page of this site, in this language."""
        wanted = self.form["next"] or self.query.get("next", "")
        return self.url(wanted[len("/xx") :]) if is_local(wanted) else self.url(default)

    @property
    def full_path(self) -> str:
        """The address of this page with its query, to come back to it."""
        return f"/{self.lang}{self._path_and_query}"

    @property
    def _path_and_query(self) -> str:
        query = self.request.scope["query_string"].decode("latin-1")
        is_plain = query.isascii() and query.isprintable() and " " not in query and "\\" not in query
        return quote(self.path) + (f"?{query}" if query and is_plain else "")

    # ── responses ─────────────────────────────────────────────────────────────────────────────────────────

    def render(self, template: str, status: int = 200, *, form_action: str = "", **context: object) -> Response:
        """Return a page. `form_action`: another host that its form may submit to."""
        headers = security_headers(secure=self.is_secure, form_action=form_action)
        headers["cache-control"] = "no-store" if self.user else "private, no-cache"
        headers["vary"] = "cookie, accept-encoding"
        html = self.fill(template, **context)
        if self.viewer is not None:
            html = _find_hidden_field.sub("", _find_post_form.sub("<form inert", html))
        return self._finish(self._text(html, status, headers, HTML))

    def fill(self, template: str, **context: object) -> str:
        """Return a template filled with this context and that of every page."""
        return self.site.environment(self.lang).get_template(template).render(self._context() | context)

    def _text(self, text: str, status: int, headers: dict[str, str], media_type: str) -> Response:
        body = text.encode()
        headers["content-language"] = self.lang
        if len(body) > MIN_GZIP_BYTES and "gzip" in self.request.headers.get("accept-encoding", ""):
            body = gzip.compress(body, 5, mtime=0)
            headers["content-encoding"] = "gzip"
        return Response(body, status, headers, media_type)

    def redirect(self, to: str, *, flash: str = "", kind: str = "good") -> Response:
        """Redirect to a page (a path after the language), which shows the message `flash` once."""
        return self.redirect_to_url(self.url(to), flash=flash, kind=kind)

    def redirect_to_url(self, url: str, *, flash: str = "", kind: str = "good") -> Response:
        """Redirect to a whole URL: one that `next_url` has checked, or another host's on purpose."""
        if flash:
            self.set_cookie("flash", self.site.signer.pack("flash", [kind, flash]), max_age_s=FLASH_S)
        headers = security_headers(secure=self.is_secure) | {"location": url, "cache-control": "no-store"}
        return self._finish(Response(b"", 303, headers, HTML))

    async def export(self, parts: Parts, media_type: str, name: str) -> Response:
        """Return a file to save under a plain ASCII name, sent while it is made."""
        headers = security_headers(secure=self.is_secure)
        headers |= {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
        is_head = self.request.method == "HEAD"
        if media_type == CSV:
            parts = with_byte_order_mark(parts)
        return self._finish(await export_response(parts, headers, media_type, is_head=is_head))

    def error_page(self, status: int, title: str, message: str, *, can_reload: bool = False) -> Response:
        """Return a page that says what went wrong. `can_reload`: offer to load the requested page again."""
        return self.render("frame/error.html", status, title=title, words=message, status_code=status, again=can_reload)

    def json(self, value: object, status: int = 200) -> Response:
        """Return JSON for a script of the portal."""
        headers = security_headers(secure=self.is_secure) | {"cache-control": "no-store"}
        return self._finish(Response(msgspec.json.encode(value), status, headers, "application/json"))

    def _finish(self, response: Response) -> Response:
        for name, (value, max_age_s) in self._new_cookies.items():
            response.set_cookie(name, value, max_age_s, secure=self.is_secure, httponly=True, samesite="lax")
        return response

    def _context(self) -> dict[str, object]:
        return {
            "page": self,
            "user": self.user,
            "form": self.form,
            "csrf": self.csrf,
            "may": self.may,
            "role_names": ROLE_NAMES,
            "url": self.url,
            "theme": self.theme if self.theme in ("light", "dark") else "",
            "flash": self._flash(),
            "is_shown": self._is_shown,
            "shop": self.site.shop,
            "logo": self.site.logo_url,
            "is_stand_in": self.site.reports.stand_ins.is_stand_in,
            "colours": self.site.colours_url,
            "siblings": {code: f"/{code}{quote(self.path)}" for code in LANGUAGES},
            "markdown": self.url(markdown) if (markdown := markdown_path(self.path)) else "",
            "others": {code: f"/{code}{self._path_and_query}" for code in LANGUAGES},
        }

    def _is_shown(self, entry: NavigationEntry) -> bool:
        if self.user is None:
            return entry.access == "public"
        if entry.access == "user":
            return entry.action is None or self.may(entry.action)
        return entry.access != "admin" or self.user.is_admin

    def _flash(self) -> object:
        if self.notice:
            return self.notice
        packed = self.cookie("flash")
        if not packed:
            return None
        self.set_cookie("flash", "", max_age_s=0)
        return self.site.signer.unpack("flash", packed)


def markdown_path(path: str) -> str:
    """Return the path of a page's version in Markdown; "" if it has none."""
    return f"{path}.md" if path.startswith(MARKDOWN_FOLDER) else MARKDOWN_PATHS.get(path, "")


class MarkdownRequest(PageRequest):
    """A request for the Markdown of a page, as visitors see it. It reads and sets no cookie."""

    def __init__(self, site: Site, request: Request, lang: str, path: str = "/") -> None:
        super().__init__(site, request, lang)
        self.path = path
        self._cookies = {}

    def render(self, template: str, status: int = 200, *, form_action: str = "", **context: object) -> Response:
        """Return the main part of a page as Markdown."""
        html = self.fill(template, **context)
        return self.text(page_to_markdown(html, self.origin + self.url(self.path)), MARKDOWN, status)

    def text(self, text: str, media_type: str, status: int = 200) -> Response:
        """Return a text that is the same for everybody, and that caches keep only to ask whether it has changed."""
        headers = security_headers(secure=self.is_secure)
        headers |= {"cache-control": "no-cache", "vary": "accept-encoding"}
        return self._text(text, status, headers, media_type)


def _mailbox_digest(email: str) -> str:
    return hashlib.sha256(email_forms(email)[0].encode()).hexdigest()[:32]


def is_local(path: str) -> bool:
    """Return True if an address can only lead to a page of this site, however a browser reads it."""
    if not path.startswith("/") or "\\" in path or any(ord(c) <= 32 or ord(c) == 127 for c in path):
        return False
    return path.split("/")[1].split("?", maxsplit=1)[0] in LANGUAGES


def security_headers(*, secure: bool, form_action: str = "") -> dict[str, str]:
    """Return the headers with which every response of the portal restricts the browser."""
    actions = f"'self' {form_action}".strip()
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
        f"font-src 'self'; connect-src 'self'; form-action {actions}; "
        "frame-ancestors 'none'; base-uri 'none'"
    )
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "permissions-policy": "camera=(), microphone=(self), geolocation=()",
    }
    if secure:
        headers["strict-transport-security"] = "max-age=31536000"
    return headers


# ── form recovery ─────────────────────────────────────────────────────────────────────────────────────────
#
# A form with draft fields carries its owner, signed for this browser. If it arrives after the session has ended, those
# fields go into a signed cookie: for minutes, for that user, for that form. After the sign-in, the page of the form
# fills them in once. Nothing is submitted automatically, and other users who sign in here never see any of it.

DRAFT_COOKIE = "draft"
DRAFT_S = 15 * 60
#: Browsers accept 4,096 characters with the name. A larger draft is not kept.
MAX_DRAFT_LENGTH = 3000
OWNER_FIELD = "whose"


class Draft(msgspec.Struct, frozen=True):
    """The fields typed by one user into one form (a path after the language), and when they expire."""

    user_id: int
    path: str
    fields: dict[str, list[str]]
    until_ms: int


def owner_mark(page: PageRequest) -> str:
    """Return the value of the hidden field that names the owner of a form."""
    return page.site.signer.pack("form owner", [page.member.user_id, page.browser_id])


def _owner(page: PageRequest) -> int | None:
    signed = page.site.signer.unpack("form owner", page.form[OWNER_FIELD])
    if signed is None:
        return None
    user_id, browser_id = msgspec.convert(signed, tuple[int, str])
    return user_id if browser_id == page.browser_id else None


def save_draft(page: PageRequest, names: Iterable[str]) -> None:
    """Keep these fields of a form that arrived without a session, if its owner is known."""
    fields = {name: page.form.get_all(name) for name in names}
    if not any(text for texts in fields.values() for text in texts):
        return
    owner = _owner(page)
    if owner is None:
        return
    draft = Draft(owner, page.path, fields, page.site.clock.now_ms() + DRAFT_S * 1000)
    packed = page.site.signer.pack(DRAFT_COOKIE, msgspec.to_builtins(draft))
    if len(packed) <= MAX_DRAFT_LENGTH:
        page.set_cookie(DRAFT_COOKIE, packed, max_age_s=DRAFT_S)


def restore_draft(page: PageRequest, *paths: str) -> None:
    """Fill the form with what this user typed into one of these forms, once, with a notice."""
    draft = _load_draft(page)
    if draft is None or draft.path not in paths or page.request.method != "GET":
        return
    discard_draft(page)
    if draft.user_id != page.member.user_id:
        return
    for name, typed in draft.fields.items():
        page.form.values[name] = typed[0] if typed else ""
        page.form.lists[name] = typed
    page.form.is_restored = True
    message = page.gettext("Your input from before you signed in has been restored. Check it and submit the form.")
    page.notice = ["good", message]


def discard_draft_of_others(page: PageRequest, user_id: int) -> None:
    """Discard the draft at a sign-in, unless it belongs to this user."""
    draft = _load_draft(page)
    if draft is None or draft.user_id != user_id:
        discard_draft(page)


def discard_draft(page: PageRequest) -> None:
    """Remove the draft from the browser."""
    if page.cookie(DRAFT_COOKIE, MAX_DRAFT_LENGTH):
        page.set_cookie(DRAFT_COOKIE, "", max_age_s=0)


def _load_draft(page: PageRequest) -> Draft | None:
    packed = page.cookie(DRAFT_COOKIE, MAX_DRAFT_LENGTH)
    value = page.site.signer.unpack(DRAFT_COOKIE, packed) if packed else None
    draft = msgspec.convert(value, Draft) if value is not None else None
    return draft if draft is not None and draft.until_ms > page.site.clock.now_ms() else None
