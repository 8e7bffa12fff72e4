"""The studio: try a chat, a picture, a voice. Its scripts call the public API with a key that lives for minutes.

What happens here is thereby exactly what a program would see: the same checks, the same prices, the same books.
"""

from __future__ import annotations

from litestar.handlers import HTTPRouteHandler

from minitoolai.accounts.keys import make_key, renew_page_key
from minitoolai.accounts.rate_limits import Limit
from minitoolai.core.catalog import ImageModel, SpeechModel
from minitoolai.core.models import KeyRules
from minitoolai.engines.sampling import SCHEDULERS
from minitoolai.portal.i18n import N_
from minitoolai.portal.request import Answer, PageRequest
from minitoolai.portal.routing import form, page

PLACES = {"/studio": N_("Chat"), "/studio/image": N_("Image"), "/studio/speech": N_("Speech")}
KEY_MS = 15 * 60_000
KEYS = Limit(60, 3600)
FORMATS = ("mp3", "wav", "flac", "opus")
SIZES = (256, 512, 768, 1024, 1344)


@page("/studio", needs="user")
async def chat(visit: PageRequest) -> Answer:
    """Messages with a model."""
    reports = visit.site.reports
    models = [(model, reports.offer(model).engine) for model in reports.catalog.chat.values()]
    return visit.render("studio/chat.html", places=PLACES, models=models)


@page("/studio/image", needs="user")
async def image(visit: PageRequest) -> Answer:
    """Pictures with every parameter."""
    reports = visit.site.reports
    models = [(m, reports.offer(m).engine) for m in reports.models().values() if isinstance(m, ImageModel)]
    return visit.render("studio/image.html", places=PLACES, models=models, schedulers=SCHEDULERS, sizes=SIZES)


@page("/studio/speech", needs="user")
async def speech(visit: PageRequest) -> Answer:
    """Text to voice."""
    reports = visit.site.reports
    models = [(m, reports.offer(m).engine) for m in reports.models().values() if isinstance(m, SpeechModel)]
    return visit.render("studio/speech.html", places=PLACES, models=models, voices=reports.voices(), formats=FORMATS)


@form("/studio/key", needs="user")
async def key(visit: PageRequest) -> Answer:
    """A key for this page's script: for minutes, and gone with the sign-out. Shown nowhere, listed nowhere."""
    wait_s = visit.site.attempts.wait_s(f"studio:{visit.member.account_id}", KEYS)
    if wait_s:
        return visit.data({"wait_s": wait_s}, 429)
    now_ms = visit.site.clock.now_ms()
    rules = KeyRules(expires_ms=now_ms + KEY_MS, for_pages=True)
    made = make_key(visit.member.account_id, "Studio", visit.site.secret_key, visit.site.clock, rules)
    await visit.site.writer.run(lambda connection: renew_page_key(connection, made.row, now_ms))
    return visit.data({"key": made.text, "seconds": KEY_MS // 1000})


HANDLERS: list[HTTPRouteHandler] = [chat, image, speech, key]
