"""The redirect from `/`, the front page, the theme, static files, and the page for paths that do not exist."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from minitoolai.http.routing import reads
from minitoolai.portal.forms import read_cookies
from minitoolai.portal.highlight import example
from minitoolai.portal.i18n import preferred_language
from minitoolai.portal.request import PageRequest, security_headers
from minitoolai.portal.routing import Handler, any_method, form, not_found_page, page
from minitoolai.portal.site import Site

CACHE_FOR_A_YEAR = "public, max-age=31536000, immutable"


@reads("/")
async def root(request: Request) -> Response:
    """Redirect to the front page in the visitor's language. Agents send HEAD to see if the server is there."""
    if request.method == "HEAD":
        return Response(b"", 200, security_headers(secure=False))
    lang = language_of(request)
    headers = {"location": f"/{lang}/", "vary": "accept-language, cookie", "cache-control": "private, no-cache"}
    return Response(b"", 302, headers | security_headers(secure=False))


def language_of(request: Request) -> str:
    """Return the language for a path without one: from the cookie or from Accept-Language."""
    cookies = read_cookies(request.headers.get("cookie", ""))
    return preferred_language(request.headers.get("accept-language", ""), cookies.get("lang", ""))


@page("/")
async def home(page: PageRequest) -> Response:
    """Show the front page."""
    return page.render("pages/home.html", example=example)


@form("/theme")
async def theme(page: PageRequest) -> Response:
    """Remember the theme: dark, light, or as the system says."""
    chosen = page.form["theme"]
    page.set_preference("theme", chosen if chosen in ("light", "dark") else "")
    return page.redirect_to_url(page.next_url("/"))


@reads("/static/{path:path}")
async def static(request: Request) -> Response:
    """Return a static file. It may be cached for a year, because its URL changes with its content."""
    site: Site = request.app.state.site
    file = site.static_files.find(request.path_params["path"])
    if file is None:
        return Response(b"", 404)
    headers = {"cache-control": CACHE_FOR_A_YEAR, "x-content-type-options": "nosniff", "vary": "accept-encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.gzipped, 200, headers | {"content-encoding": "gzip"}, file.media_type)
    return Response(file.body, 200, headers, file.media_type)


@reads("/favicon.ico")
async def favicon(request: Request) -> Response:
    """Redirect to the icon: browsers request this path by default."""
    site: Site = request.app.state.site
    return Response(b"", 302, {"location": site.static_files.url("mark.svg")})


@reads("/robots.txt")
async def robots(request: Request) -> Response:
    """Let search engines index the public pages."""
    return PlainTextResponse("User-agent: *\nDisallow: /*/signin\nDisallow: /*/reset\n")


HANDLERS: list[Handler] = [root, home, theme, static, favicon, robots, any_method("/{rest:path}")(not_found_page)]
