"""One request of one visitor: who it is, in which language, what was sent, and how to answer."""

from __future__ import annotations

import gzip
import hmac
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
from litestar import Request, Response
from litestar.datastructures import Cookie, State
from markupsafe import Markup

from minitoolai.accounts.users import SESSION_MS, Visitor
from minitoolai.core.clock import random_text
from minitoolai.core.models import User
from minitoolai.portal.forms import YEAR_S, FormData, is_loopback, read_cookies
from minitoolai.portal.i18n import LANGUAGES, texts, writing
from minitoolai.portal.site import Entry, Site

if TYPE_CHECKING:
    pass  # merged

# (merged from borders) Where an answer may lead, and what every answer of the portal forbids browsers.


def is_local(path: str) -> bool:
    """Whether an address leads to a page of ours and nowhere else, however a browser may read it."""
    if not path.startswith("/") or "\\" in path or any(ord(c) <= 32 or ord(c) == 127 for c in path):
        return False
    return path.split("/")[1].split("?", maxsplit=1)[0] in LANGUAGES


def security_headers(*, secure: bool, form_action: str = "") -> dict[str, str]:
    """What every answer of the portal forbids browsers."""
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
        "permissions-policy": "camera=(), microphone=(), geolocation=()",
    }
    if secure:
        headers["strict-transport-security"] = "max-age=31536000"
    return headers


Answer = Response[bytes]
HTML = "text/html"
FLASH_S = 60
SMALLEST_PACKED = 1000
LONGEST_COOKIE = 2000


class PageRequest:
    """What a page's function is given. `render` and `redirect` make its answer."""

    def __init__(self, site: Site, request: Request[Any, Any, State], lang: str) -> None:
        self.site = site
        self.request = request
        self.lang = lang
        #: The path after the language: "/" or "/keys".
        self.path = request.scope["path"].removeprefix(f"/{lang}").rstrip("/") or "/"
        self.params: dict[str, Any] = request.path_params
        self.query = request.query_params
        self.form = FormData()
        #: What this page says on top: how ("good", "warn", "bad"), and the words.
        self.notice: list[str] | None = None
        self.user: User | None = None
        self.secret = ""
        self.host = request.headers.get("host", "")
        self.is_secure = site.public_url.startswith("https:") if site.public_url else not is_loopback(self.host)
        self._cookies = read_cookies(request.headers.get("cookie", ""))
        self._set: dict[str, Cookie] = {}
        self.browser = self.cookie("browser")
        self.theme = self._cookies.get("theme", "")
        texts_of = texts(lang)
        self.gettext = texts_of.gettext
        self.ngettext = texts_of.ngettext
        self.writing = writing(lang)

    async def begin(self) -> PageRequest:
        """Find out who it is."""
        self.secret = self.cookie("session")
        if self.secret:
            self.user = await self.site.users.who(self.secret)
            if self.user is None:
                self.secret = ""
                self.set_cookie("session", "", max_age_s=0)
        if not self.browser:
            self._new_browser()
        if self._cookies.get("lang") != self.lang:
            self.remember("lang", self.lang)
        return self

    # ── who ───────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def member(self) -> User:
        """The user of a page that needs one."""
        assert self.user is not None, "the page says needs='user'"
        return self.user

    @property
    def address(self) -> str:
        """The network address that limits count by."""
        peer = self.request.client.host if self.request.client else ""
        admission = self.site.keys.admission
        return admission.origin(peer, self.request.headers.get("x-forwarded-for", "")) if admission else peer

    @property
    def origin(self) -> str:
        """How this visitor reaches us, for examples and links: `https://ai.example.com`."""
        return self.site.public_url or f"{self.request.scope.get('scheme', 'http')}://{self.host}"

    def sign_in(self, visitor: Visitor) -> None:
        """Keep a new session in the browser. Nothing that was there before the sign-in is worth anything after it."""
        self.user, self.secret = visitor.user, visitor.secret
        leave_to(self, visitor.user.account_id)
        self.set_cookie("session", visitor.secret, max_age_s=SESSION_MS // 1000)
        self._new_browser()

    def sign_out(self) -> None:
        """Forget the session in the browser."""
        self.user, self.secret = None, ""
        drop(self)
        self.set_cookie("session", "", max_age_s=0)
        self._new_browser()

    def _new_browser(self) -> None:
        self.browser = random_text(24)
        self.set_cookie("browser", self.browser, max_age_s=YEAR_S)

    # ── cookies and forms ─────────────────────────────────────────────────────────────────────────────────

    def _cookie_name(self, name: str) -> str:
        return f"__Host-{name}" if self.is_secure else name

    def cookie(self, name: str, longest: int = LONGEST_COOKIE) -> str:
        """The value of a cookie of ours that nobody else may set."""
        value = self._cookies.get(self._cookie_name(name), "")
        return value if len(value) <= longest and value.isascii() else ""

    def set_cookie(self, name: str, value: str, *, max_age_s: int | None) -> None:
        """Set it with the next answer; the last one of a name counts."""
        self._put(self._cookie_name(name), value, max_age_s)

    def remember(self, name: str, value: str) -> None:
        """A choice of the visitor's (language, theme): worth nothing to a thief, read by every page."""
        self._put(name, value, YEAR_S)

    def _put(self, name: str, value: str, max_age_s: int | None) -> None:
        self._set[name] = Cookie(
            key=name, value=value, path="/", max_age=max_age_s, httponly=True, secure=self.is_secure, samesite="lax"
        )

    def csrf(self, *, keeps: bool = False) -> Markup:
        """The hidden field that every form carries; `keeps`: and whose it is, so that a sign-in may lie in between."""
        field = Markup('<input type="hidden" name="{}" value="{}">')
        token = field.format("csrf", self.site.signer.form_token(self._token_secret()))
        return token + field.format(MARK_FIELD, mark(self)) if keeps else token

    @property
    def is_from_here(self) -> bool:
        """Whether a page of ours asked, as far as the browser says."""
        origin = self.request.headers.get("origin")
        if self.request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        return origin is None or origin.partition("://")[2] in (self.host, self.origin.partition("://")[2])

    def is_own_form(self) -> bool:
        """Whether the form was made by us for this browser and this session."""
        return self.is_from_here and self.site.signer.is_form_token(self.form["csrf"], self._token_secret())

    def _token_secret(self) -> str:
        return f"{self.browser}.{self.secret}"

    def next(self, default: str) -> str:
        """Where to go after this, as the form or the address says; only ever to a page of ours, in this language."""
        wanted = self.form["next"] or self.query.get("next", "")
        return self.url(wanted[len("/xx") :]) if is_local(wanted) else self.url(default)

    @property
    def here(self) -> str:
        """The address of this page, with its questions: for coming back to it."""
        return f"/{self.lang}{self._rest}"

    @property
    def _rest(self) -> str:
        asked = self.request.scope["query_string"].decode("latin-1")
        is_plain = asked.isascii() and asked.isprintable() and " " not in asked and "\\" not in asked
        return quote(self.path) + (f"?{asked}" if asked and is_plain else "")

    # ── answers ───────────────────────────────────────────────────────────────────────────────────────────

    def url(self, path: str, lang: str = "") -> str:
        """A page's address: `/keys` → `/de/keys`."""
        return f"/{lang or self.lang}{path}"

    def render(self, template: str, status: int = 200, *, form_action: str = "", **context: object) -> Answer:
        """A page. `form_action`: another host to which its form may lead."""
        page = self.site.environment(self.lang).get_template(template)
        body = page.render(self._context() | context).encode()
        headers = security_headers(secure=self.is_secure, form_action=form_action)
        headers["cache-control"] = "no-store" if self.user else "private, no-cache"
        headers["vary"] = "cookie, accept-encoding"
        headers["content-language"] = self.lang
        if len(body) > SMALLEST_PACKED and "gzip" in self.request.headers.get("accept-encoding", ""):
            body = gzip.compress(body, 5, mtime=0)
            headers["content-encoding"] = "gzip"
        return self._finish(Response(body, status_code=status, media_type=HTML, headers=headers))

    def redirect(self, to: str, *, said: str = "", kind: str = "good") -> Answer:
        """Go to a page (a path after the language) by GET, where `said` is shown once."""
        if said:
            self.set_cookie("flash", self.site.signer.pack("flash", [kind, said]), max_age_s=FLASH_S)
        return self.send_to(self.url(to))

    def send_to(self, address: str) -> Answer:
        """Go to a whole address by GET: one that `next` has checked, or another host's on purpose."""
        headers = security_headers(secure=self.is_secure) | {"location": address, "cache-control": "no-store"}
        return self._finish(Response(b"", status_code=303, media_type=HTML, headers=headers))

    def file(self, body: bytes, media_type: str, name: str) -> Answer:
        """Something to download, under a name of plain letters."""
        headers = security_headers(secure=self.is_secure)
        headers |= {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
        return self._finish(Response(body, status_code=200, media_type=media_type, headers=headers))

    def fail(self, status: int, title: str, words: str, *, again: bool = False) -> Answer:
        """A page that says what went wrong; `again`: with a way to load anew what was asked for."""
        return self.render("frame/error.html", status, title=title, words=words, status_code=status, again=again)

    def data(self, value: object, status: int = 200) -> Answer:
        """JSON for a script of ours."""
        headers = security_headers(secure=self.is_secure) | {"cache-control": "no-store"}
        return self._finish(
            Response(msgspec.json.encode(value), status_code=status, media_type="application/json", headers=headers)
        )

    def _finish(self, answer: Answer) -> Answer:
        answer.cookies.extend(self._set.values())
        return answer

    def _context(self) -> dict[str, object]:
        return {
            "visit": self,
            "user": self.user,
            "form": self.form,
            "csrf": self.csrf,
            "url": self.url,
            "theme": self.theme if self.theme in ("light", "dark") else "",
            "said": self._said(),
            "shown": self._shown,
            "siblings": {code: f"/{code}{quote(self.path)}" for code in LANGUAGES},
            "others": {code: f"/{code}{self._rest}" for code in LANGUAGES},
        }

    def _shown(self, entry: Entry) -> bool:
        if self.user is None:
            return entry.needs == "nobody"
        return not entry.visitors_only and (entry.needs != "admin" or self.user.is_admin)

    def _said(self) -> object:
        if self.notice:
            return self.notice
        packed = self.cookie("flash")
        if not packed:
            return None
        self.set_cookie("flash", "", max_age_s=0)
        return self.site.signer.unpack("flash", packed)


# (merged from drafts) What was typed into a form whose session had ended: kept by the browser until its owner has signed in.
# (merged from drafts)
# (merged from drafts) A form that keeps something carries the mark of its member, signed for this browser. Where it arrives without a
# (merged from drafts) session, the fields that it names go into a signed cookie: for minutes, for that member, for that form. The page of the
# (merged from drafts) form fills them in once. Nothing is sent by itself, and whoever else signs in here never sees any of it.

COOKIE = "draft"
KEPT_S = 15 * 60
#: Characters of the cookie; browsers take 4,096 with its name. What is larger is not kept.
LARGEST = 3000
MARK_FIELD = "whose"


class Draft(msgspec.Struct, frozen=True):
    """What was typed, by whom, into which form (a path after the language), and until when it is good."""

    account_id: int
    path: str
    fields: dict[str, list[str]]
    until_ms: int


def mark(visit: PageRequest) -> str:
    """Whose form this is, for its hidden field."""
    return _mark(visit, str(visit.member.account_id))


def _mark(visit: PageRequest, number: str) -> str:
    return f"{number}.{visit.site.signer.mac('whose form', f'{number}.{visit.browser}').hex()[:32]}"


def _owner(visit: PageRequest) -> int | None:
    shown = visit.form[MARK_FIELD]
    number = shown.partition(".")[0]
    is_ours = hmac.compare_digest(shown.encode(), _mark(visit, number).encode())
    return int(number) if is_ours else None


def keep(visit: PageRequest, names: Iterable[str]) -> None:
    """Keep these fields of a form that came without a session, where it is known whose it was."""
    fields = {name: visit.form.all(name) for name in names}
    owner = _owner(visit)
    if owner is None or not any(text for texts in fields.values() for text in texts):
        return
    until_ms = visit.site.clock.now_ms() + KEPT_S * 1000
    draft = Draft(owner, visit.path, fields, until_ms)
    packed = visit.site.signer.pack(COOKIE, msgspec.to_builtins(draft))
    if len(packed) <= LARGEST:
        visit.set_cookie(COOKIE, packed, max_age_s=KEPT_S)


def refill(visit: PageRequest, *paths: str) -> None:
    """Fill the form with what this member typed into one of these forms, once, and say so."""
    draft = _find(visit)
    if draft is None or draft.path not in paths or visit.request.method != "GET":
        return
    drop(visit)
    if draft.account_id != visit.member.account_id:
        return
    for name, typed in draft.fields.items():
        visit.form.values[name] = typed[0] if typed else ""
        visit.form.lists[name] = typed
    visit.form.is_refilled = True
    words = visit.gettext("What you typed before the sign-in stands here again. Look it over, and send it.")
    visit.notice = ["good", words]


def leave_to(visit: PageRequest, account_id: int) -> None:
    """Somebody signs in: what another one typed here is thrown away."""
    draft = _find(visit)
    if draft is None or draft.account_id != account_id:
        drop(visit)


def drop(visit: PageRequest) -> None:
    """Forget it."""
    if visit.cookie(COOKIE, LARGEST):
        visit.set_cookie(COOKIE, "", max_age_s=0)


def _find(visit: PageRequest) -> Draft | None:
    packed = visit.cookie(COOKIE, LARGEST)
    value = visit.site.signer.unpack(COOKIE, packed) if packed else None
    draft = msgspec.convert(value, Draft) if value is not None else None
    return draft if draft is not None and draft.until_ms > visit.site.clock.now_ms() else None
