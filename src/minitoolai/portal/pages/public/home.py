"""The redirect from `/`, the front page, the theme, static files, and the page for paths that do not exist."""

from __future__ import annotations

from functools import partial
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from minitoolai.http.routing import reads
from minitoolai.portal.forms import read_cookies
from minitoolai.portal.i18n import DEFAULT, LANGUAGES, preferred_language
from minitoolai.portal.pages.public.changelog import text_of
from minitoolai.portal.rendering.highlight import example
from minitoolai.portal.request import PageRequest, security_headers
from minitoolai.portal.routing import Handler, any_method, form, new_page_request, not_found_page, page
from minitoolai.portal.site import Site

#: Pages for search engines.
SITEMAP_PATHS = ("/", "/docs", "/docs/errors", "/limits", "/models", "/prices", "/status", "/check", "/changelog")
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
    return page.render("pages/home.html", example=partial(example, shop=page.site.shop))


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
    path = request.path_params["path"]
    file = site.static_files.find(path) or site.shop_files.find(path)
    if file is None:
        return Response(b"", 404)
    headers = {"cache-control": CACHE_FOR_A_YEAR, "x-content-type-options": "nosniff", "vary": "accept-encoding"}
    # A logo in SVG that is opened by itself runs no scripts.
    headers["content-security-policy"] = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.gzipped, 200, headers | {"content-encoding": "gzip"}, file.media_type)
    return Response(file.body, 200, headers, file.media_type)


@reads("/favicon.ico")
async def favicon(request: Request) -> Response:
    """Redirect to the icon: browsers request this path by default."""
    site: Site = request.app.state.site
    return Response(b"", 302, {"location": site.logo_url})


@reads("/robots.txt")
async def robots(request: Request) -> Response:
    """Let search engines index the public pages."""
    page = new_page_request(request)
    return PlainTextResponse(
        f"User-agent: *\nDisallow: /*/signin\nDisallow: /*/reset\nSitemap: {page.origin}/sitemap.xml\n"
    )


@reads("/sitemap.xml")
async def sitemap(request: Request) -> Response:
    """List the public pages with their versions in all languages (sitemaps.org)."""
    page = new_page_request(request)
    paths = [path for path in SITEMAP_PATHS if path != "/changelog" or text_of(page.site.shop, DEFAULT)]
    if page.site.is_signup_open:
        paths.append("/signup")
    lines = []
    for path in paths:
        versions = {lang: escape(page.origin + page.url(path, lang)) for lang in LANGUAGES}
        links = "".join(
            f'<xhtml:link rel="alternate" hreflang="{lang}" href="{url}"/>' for lang, url in versions.items()
        )
        lines += [f"<url><loc>{url}</loc>{links}</url>" for url in versions.values()]
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'
        ' xmlns:xhtml="http://www.w3.org/1999/xhtml">\n' + "\n".join(lines) + "\n</urlset>\n"
    )
    return Response(text, 200, security_headers(secure=page.is_secure), "application/xml")


HANDLERS: list[Handler] = [
    root,
    home,
    theme,
    static,
    favicon,
    robots,
    sitemap,
    any_method("/{rest:path}")(not_found_page),
]
