"""The playground ("Studio"): try chat, images and speech. Transcription has a module of its own.

Its scripts call the public API with a key that lives for minutes, so a request here has the same checks, prices and
accounting as one of a program.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from minitoolai.accounts.keys import NewKey, make_key, renew_page_key
from minitoolai.accounts.rate_limits import Limit
from minitoolai.availability import Offer
from minitoolai.core.catalog.catalog import Model
from minitoolai.core.models import KeyRules
from minitoolai.engines.sampling import SCHEDULERS
from minitoolai.portal.error_words import REMEDIES, WORDS
from minitoolai.portal.i18n import N_
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, form, page

TABS = {
    "/studio": N_("Chat"),
    "/studio/image": N_("Image"),
    "/studio/speech": N_("Speech"),
    "/studio/transcribe": N_("Transcribe"),
}
KEY_MS = 15 * 60_000
KEY_LIMIT = Limit(60, 3600)
FORMATS = ("mp3", "wav", "flac", "opus")
SIZES = (256, 512, 768, 1024, 1344)


def offers_of(page: PageRequest, models: Mapping[str, Model]) -> list[Offer]:
    """Return the models with what serves them now: those that answer come first."""
    offers = [page.site.reports.offer(model) for model in models.values()]
    return sorted(offers, key=lambda offer: offer.engine is None)


@page("/studio", access="user", action="use")
async def chat(page: PageRequest) -> Response:
    """Show the form for a chat."""
    models = offers_of(page, page.catalog.chat)
    return render_studio(page, "studio/chat.html", models)


@page("/studio/image", access="user", action="use")
async def image(page: PageRequest) -> Response:
    """Show the form for images, with every parameter."""
    models = offers_of(page, page.catalog.images)
    return render_studio(page, "studio/image.html", models, schedulers=SCHEDULERS, sizes=SIZES)


@page("/studio/speech", access="user", action="use")
async def speech(page: PageRequest) -> Response:
    """Show the form for speech."""
    reports = page.site.reports
    models = offers_of(page, page.catalog.speech)
    return render_studio(page, "studio/speech.html", models, voices=reports.voices(), formats=FORMATS)


def render_studio(page: PageRequest, template: str, models: list[Offer], status: int = 200, **context: Any) -> Response:
    """Return a page of the studio. Its script explains each refusal of the API in the language of the page."""
    return page.render(template, status, places=TABS, models=models, refusals=WORDS, remedies=REMEDIES, **context)


def new_page_key(page: PageRequest, rules: KeyRules) -> NewKey:
    """Return a key of the signed-in member for the requests of a page."""
    member, site = page.member, page.site
    return make_key(member.account_id, "Studio", site.secret_keys, site.clock, rules, member_id=member.user_id)


@form("/studio/key", access="user", action="use")
async def key(page: PageRequest) -> Response:
    """Make a key for the script of this page. It expires within minutes or at the sign-out, and no page lists it."""
    if "text/html" in page.request.headers.get("accept", ""):
        # The browser itself sent the form, without a script: it would show the key as a page.
        message = page.gettext("The studio needs JavaScript. The guide shows the same requests as code.")
        return page.redirect("/studio", flash=message, kind="warn")
    wait_s = await page.site.throttle.wait(f"studio:{page.member.user_id}", KEY_LIMIT)
    if wait_s:
        return page.json({"wait_s": wait_s}, 429)
    now_ms = page.site.clock.now_ms()
    rules = KeyRules(expires_ms=now_ms + KEY_MS, for_pages=True)
    made = new_page_key(page, rules)
    await page.site.writer.run(lambda connection: renew_page_key(connection, made.row, now_ms))
    return page.json({"key": made.text, "seconds": KEY_MS // 1000})


HANDLERS: list[Handler] = [chat, image, speech, key]
