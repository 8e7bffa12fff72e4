"""What programs read: public pages as Markdown, llms.txt, the whole guide as one text, and a skill for agents."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from minitoolai.core.catalog.shop import Shop
from minitoolai.http.routing import Endpoint, reads
from minitoolai.portal.i18n import DEFAULT, LANGUAGES, translations
from minitoolai.portal.pages.public import changelog as changes
from minitoolai.portal.pages.public.changelog import changelog
from minitoolai.portal.pages.public.check import check
from minitoolai.portal.pages.public.docs import errors, guide, prices
from minitoolai.portal.pages.public.home import home
from minitoolai.portal.pages.public.limits import limits
from minitoolai.portal.pages.public.models import models, status
from minitoolai.portal.pages.public.reference import operation, reference
from minitoolai.portal.rendering.highlight import agent_models, plain_example
from minitoolai.portal.request import MARKDOWN, MARKDOWN_PATHS, MarkdownRequest
from minitoolai.portal.routing import Handler, PageHandler, check_host, path_language

#: First segments of the paths below that have no language.
PATHS = ("llms.txt", "llms-full.txt", "SKILL.md")
PLAIN = "text/plain"
#: Page → its title and its purpose.
PAGES = {
    "/docs": ("Guide", "every endpoint and field of the API, with examples, errors, limits and agent setup"),
    "/docs/errors": ("All error codes", "every error code with its HTTP status and how to resolve it"),
    "/limits": ("Rate limits", "how many requests an account may send, the headers, and what to do on 429"),
    "/reference": ("API reference", "every endpoint with a page of its own: fields, limits, defaults and responses"),
    "/models": ("Models", "the context, measured speed and uptime of each model"),
    "/prices": ("Prices", "what each model costs"),
    "/status": ("Status", "which models are available now, and the uptime of each day"),
    "/check": ("Check an image", "check whether an image was generated here"),
    "/changelog": ("Changelog", "what changed, newest first"),
    "/": ("Overview", "what this service offers"),
}


def markdown_request(request: Request, path: str) -> MarkdownRequest:
    """Make the request for the Markdown of a page, in the language of its path."""
    check_host(request)
    return MarkdownRequest(request.app.state.site, request, path_language(request), path)


def markdown_version(page: PageHandler) -> Endpoint:
    """Return the handler of the Markdown version of a page."""

    async def version(request: Request) -> Response:
        return await page.function(markdown_request(request, page.path))

    return version


@reads("/llms.txt")
async def llms(request: Request) -> Response:
    """List the pages for language models, as llmstxt.org describes it."""
    page = markdown_request(request, "/")
    return page.text(llms_text(page.site.shop, page.origin), PLAIN)


def llms_text(shop: Shop, origin: str) -> str:
    """Return the title, a summary, and links to the Markdown of every page."""
    has_changes = bool(changes.text_of(shop, DEFAULT))
    pages = {path: about for path, about in PAGES.items() if path != "/changelog" or has_changes}
    lines = [
        f"# {shop.name}",
        "",
        "> Chat, text to image and speech over HTTP, with one API key.",
        "",
        f"OpenAI clients use the base URL `{origin}/v1`, Anthropic clients `{origin}`. Requests need",
        f"an API key in the header `Authorization: Bearer sk-…`; create one at {origin}/en/keys.",
        "",
        "## Pages",
        "",
    ]
    for path, (title, purpose) in pages.items():
        lines.append(f"- [{title}]({_markdown_url(origin, DEFAULT, path)}): {purpose}")
    lines += [
        "",
        "## For agents",
        "",
        f"- [Skill]({origin}/SKILL.md): how an agent calls this API",
        f"- [Guide as one file]({origin}/llms-full.txt): the same text as the guide above",
        f"- [OpenAPI]({origin}/openapi.json): every endpoint and field in machine-readable form",
        "",
        "## Optional",
        "",
    ]
    for lang in LANGUAGES:
        if lang != DEFAULT:
            gettext = translations(lang).gettext
            lines += [
                f"- [{gettext(title)}]({_markdown_url(origin, lang, path)}): {LANGUAGES[lang]}"
                for path, (title, _) in pages.items()
                if path != "/"
            ]
    return "\n".join(lines) + "\n"


def _markdown_url(origin: str, lang: str, path: str) -> str:
    return f"{origin}/{lang}{MARKDOWN_PATHS[path]}"


@reads("/llms-full.txt")
async def llms_full(request: Request) -> Response:
    """Return the whole guide in English."""
    response = await guide.function(markdown_request(request, guide.path))
    response.headers["content-type"] = f"{PLAIN}; charset=utf-8"
    return response


@reads("/SKILL.md")
async def skill(request: Request) -> Response:
    """Return the skill with which an agent calls this API (agentskills.io)."""
    page = markdown_request(request, "/")
    reports = page.site.reports
    catalog = reports.catalog

    def code(name: str) -> str:
        return plain_example(name, page.origin, agent_models(reports), page.site.shop)

    text = page.fill(
        "guide/skill.md",
        code=code,
        chat_models=list(catalog.chat),
        image_models=list(catalog.images),
        speech_models=list(catalog.speech),
    )
    return page.text(text, MARKDOWN)


@reads("/{lang:lang}/reference/{operation}.md")
async def operation_markdown(request: Request) -> Response:
    """Return the reference of one operation as Markdown."""
    return await operation.function(markdown_request(request, f"/reference/{request.path_params['operation']}"))


HANDLERS: list[Handler] = [
    *(
        reads(f"/{{lang:lang}}{MARKDOWN_PATHS[page.path]}")(markdown_version(page))
        for page in (home, guide, errors, limits, reference, models, prices, status, check, changelog)
    ),
    operation_markdown,
    llms,
    llms_full,
    skill,
]
