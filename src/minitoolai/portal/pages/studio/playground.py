"""The playground ("Studio"): try images and speech. Chat, transcription and the gallery have modules of their own.

Its scripts call the public API with a key that lives for minutes, so a request here has the same checks, prices and
accounting as one of a program.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from minitoolai.accounts.keys import NewKey, make_key, renew_page_key
from minitoolai.accounts.rate_limits import Limit
from minitoolai.availability import Offer
from minitoolai.core.catalog.catalog import Model
from minitoolai.core.inference import ImageJobRequest, decode_image_job_request
from minitoolai.core.models import Caller, KeyRules
from minitoolai.engines.sampling import SCHEDULERS
from minitoolai.portal.error_words import REMEDIES, WORDS
from minitoolai.portal.i18n import N_
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, form, page
from minitoolai.storage.tables.gallery import find_image

TABS = {
    "/studio": N_("Chat"),
    "/studio/image": N_("Image"),
    "/studio/speech": N_("Speech"),
    "/studio/transcribe": N_("Transcribe"),
    "/studio/images": N_("Gallery"),
    "/studio/prompts": N_("Saved prompts"),
}
KEY_MS = 15 * 60_000
KEY_LIMIT = Limit(60, 3600)
FORMATS = ("mp3", "wav", "flac", "opus")


def offers_of(page: PageRequest, models: Mapping[str, Model]) -> list[Offer]:
    """Return the models with what serves them now: those that answer come first."""
    offers = [page.site.reports.offer(model) for model in models.values()]
    return sorted(offers, key=lambda offer: offer.engine is None)


@page("/studio/image", access="user", action="use")
async def image(page: PageRequest) -> Response:
    """Show the form for images, with every parameter."""
    models = offers_of(page, page.catalog.images)
    return render_studio(
        page, "studio/image.html", models, schedulers=SCHEDULERS, settings=await _settings_of_image(page)
    )


async def _settings_of_image(page: PageRequest) -> ImageJobRequest:
    """Return what the form shows: the settings of an earlier image of this member, or the usual ones."""
    job_id = page.query_number("from", longest=16)
    if job_id is not None:
        account_id, user_id = page.member.account_id, page.member.user_id
        image = await page.site.database.read_async(find_image, account_id, user_id, job_id)
        if image is not None and image.request is not None:
            return msgspec.structs.replace(decode_image_job_request(image.request), seed=image.seed)
    return ImageJobRequest(model="", prompt="", width=512, height=512)


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


async def page_caller(page: PageRequest) -> Caller:
    """Return the caller of a request that this page sends itself, with a key of its own as the scripts have."""
    now_ms = page.site.clock.now_ms()
    made = new_page_key(page, KeyRules(expires_ms=now_ms + KEY_MS, for_pages=True))
    await page.site.writer.run(lambda connection: renew_page_key(connection, made.row, now_ms))
    return await page.site.keys.verify(made.text)


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


HANDLERS: list[Handler] = [image, speech, key]
