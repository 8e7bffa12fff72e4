"""The playground ("Studio"): try chat, images and speech.

Its scripts call the public API with a key that lives for minutes, so a request here has the same checks, prices and
accounting as one of a program.
"""

from __future__ import annotations

from starlette.responses import Response

from minitoolai.accounts.keys import make_key, renew_page_key
from minitoolai.accounts.rate_limits import Limit
from minitoolai.core.catalog import ImageModel, SpeechModel
from minitoolai.core.models import KeyRules
from minitoolai.engines.sampling import SCHEDULERS
from minitoolai.portal.i18n import N_
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, form, page

TABS = {"/studio": N_("Chat"), "/studio/image": N_("Image"), "/studio/speech": N_("Speech")}
KEY_MS = 15 * 60_000
KEY_LIMIT = Limit(60, 3600)
FORMATS = ("mp3", "wav", "flac", "opus")
SIZES = (256, 512, 768, 1024, 1344)


@page("/studio", access="user")
async def chat(page: PageRequest) -> Response:
    """Show the form for a chat."""
    reports = page.site.reports
    models = [(model, reports.offer(model).engine) for model in reports.catalog.chat.values()]
    return page.render("studio/chat.html", places=TABS, models=models)


@page("/studio/image", access="user")
async def image(page: PageRequest) -> Response:
    """Show the form for images, with every parameter."""
    reports = page.site.reports
    models = [(m, reports.offer(m).engine) for m in reports.models().values() if isinstance(m, ImageModel)]
    return page.render("studio/image.html", places=TABS, models=models, schedulers=SCHEDULERS, sizes=SIZES)


@page("/studio/speech", access="user")
async def speech(page: PageRequest) -> Response:
    """Show the form for speech."""
    reports = page.site.reports
    models = [(m, reports.offer(m).engine) for m in reports.models().values() if isinstance(m, SpeechModel)]
    return page.render("studio/speech.html", places=TABS, models=models, voices=reports.voices(), formats=FORMATS)


@form("/studio/key", access="user")
async def key(page: PageRequest) -> Response:
    """Make a key for the script of this page. It expires within minutes or at the sign-out, and no page lists it."""
    wait_s = page.site.throttle.wait_s(f"studio:{page.member.account_id}", KEY_LIMIT)
    if wait_s:
        return page.json({"wait_s": wait_s}, 429)
    now_ms = page.site.clock.now_ms()
    rules = KeyRules(expires_ms=now_ms + KEY_MS, for_pages=True)
    made = make_key(page.member.account_id, "Studio", page.site.secret_keys, page.site.clock, rules)
    await page.site.writer.run(lambda connection: renew_page_key(connection, made.row, now_ms))
    return page.json({"key": made.text, "seconds": KEY_MS // 1000})


HANDLERS: list[Handler] = [chat, image, speech, key]
