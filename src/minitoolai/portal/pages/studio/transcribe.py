"""The part of the playground that turns recordings into text. Its form works without JavaScript, too."""

from __future__ import annotations

from babel import Locale
from starlette.responses import Response

from minitoolai.core.errors import ServiceError
from minitoolai.http.bodies.uploads import Form
from minitoolai.http.errors import status_of
from minitoolai.http.streaming import run_and_charge, watch_disconnect
from minitoolai.portal.error_words import WORDS
from minitoolai.portal.forms import FormData
from minitoolai.portal.i18n import LANGUAGES
from minitoolai.portal.pages.studio.playground import KEY_LIMIT, offers_of, page_caller, render_studio
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, PageHandler, page, too_many_requests
from minitoolai.transcription.formats import FinishedTranscript
from minitoolai.transcription.request import parse_transcription

#: Languages to choose from; the model knows more, and finds them out.
SPOKEN = (*LANGUAGES, "it", "nl", "pl", "ru", "uk", "ar", "hi", "zh", "ja", "ko")


@page("/studio/transcribe", access="user", action="use")
async def transcribe(page: PageRequest) -> Response:
    """Show the form."""
    return _show(page)


async def _transcribe_file(page: PageRequest) -> Response:
    """Transcribe the file of a form that was sent without JavaScript."""
    if not page.is_same_origin:
        return page.redirect("/studio/transcribe")
    if wait_s := await page.site.throttle.wait(f"studio:{page.member.user_id}", KEY_LIMIT):
        return too_many_requests(page, wait_s)
    account_id, request = page.member.account_id, page.request
    try:
        async with page.site.transcription.forms.received(account_id, request.scope, request.receive) as form:
            page.form = FormData({name: values[0] for name, values in form.fields.items() if name in _FIELDS})
            if not page.has_valid_token():
                return page.redirect("/studio/transcribe")
            return await _transcribe(page, form)
    except ServiceError as error:
        return _show(page, fault=error)


_FIELDS = ("csrf", "task", "language", "model")


async def _transcribe(page: PageRequest, form: Form) -> Response:
    for name in ("csrf", "task"):
        form.fields.pop(name, None)
    request = parse_transcription(form, "translate" if page.form["task"] == "translate" else "transcribe")
    service = page.site.transcription.service
    run = await service.begin(await page_caller(page), request)
    run.cancellation.arm()
    watcher = watch_disconnect(run, page.request.receive)
    try:
        result = await run_and_charge(run, run.collect)
    finally:
        watcher.cancel()
    if isinstance(result, FinishedTranscript):
        return _show(page, text=result.text, cost=run.cost_so_far())
    return _show(page, fault=result)


def _show(
    page: PageRequest, *, text: str | None = None, cost: int | None = None, fault: ServiceError | None = None
) -> Response:
    names, translate = Locale(page.lang).languages, page.gettext
    words = "" if fault is None else WORDS.get(fault.code, WORDS["internal_error"])
    return render_studio(
        page,
        "studio/transcribe.html",
        offers_of(page, page.catalog.transcription),
        200 if fault is None else status_of(fault),
        spoken={code: names.get(code, code) for code in SPOKEN},
        upload_mb=page.site.transcription.forms.max_mb,
        text=text,
        cost=cost,
        fault=words and translate(words),
        chosen_language=page.form["language"],
        chosen_task=page.form["task"],
    )


HANDLERS: list[Handler] = [
    transcribe,
    PageHandler("/studio/transcribe", ("POST",), "user", _transcribe_file, action="use"),
]
