"""The chat of the playground. Its script streams; the form works without it, with the whole answer on the page."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from markupsafe import Markup
from starlette.responses import Response

from minitoolai.availability import Offer
from minitoolai.chat.request import check_chat
from minitoolai.core.catalog.catalog import ChatModel
from minitoolai.core.errors import ServiceError
from minitoolai.core.inference import Usage
from minitoolai.core.models import Caller
from minitoolai.http.errors import status_of
from minitoolai.http.streaming import run_and_charge, watch_disconnect
from minitoolai.portal.error_words import REMEDIES, WORDS
from minitoolai.portal.pages.studio.playground import KEY_LIMIT, offers_of, page_caller, render_studio
from minitoolai.portal.pages.studio.prompts import fill_form, find_prompt
from minitoolai.portal.rendering.prose import render_answer
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, form, page, too_many_requests

#: What the form shows at first.
USUAL = {"temperature": "1", "limit": "300"}


class ChatAnswer(msgspec.Struct, frozen=True):
    """The answer of a model, or the words of its refusal (`fault`) with where to do something about it."""

    model: str
    html: Markup = Markup("")
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    took_ms: int = 0
    fault: str = ""
    remedy: tuple[str, str] | None = None
    status: int = 200


class ModelCost(msgspec.Struct, frozen=True):
    """What a model charges per token in pico-dollars, and for the prompt on the page in nano-dollars, if answered."""

    model: str
    input: int
    output: int
    cost: int | None


@page("/studio", access="user", action="use")
async def chat(page: PageRequest) -> Response:
    """Show the form, filled with a saved prompt if the address names one."""
    page.form.values |= USUAL
    if number := page.query.get("prompt", ""):
        prompt = await find_prompt(page, number)
        if prompt is not None:
            page.form.values |= dict.fromkeys(USUAL, "")
            fill_form(page, prompt)
    elif "model" in page.query:
        page.form.values["model"] = page.query["model"][:200]
    return _render(page, [])


@form("/studio/chat", access="user", action="use")
async def send(page: PageRequest) -> Response:
    """Answer a form that was sent without JavaScript: by one model, or by two for a comparison."""
    names = list(dict.fromkeys(filter(None, (page.form["model"], page.form["model2"]))))
    if not page.form["message"] or not names:
        page.form.add_error("message", page.gettext("Write a message."))
        return _render(page, [], 422)
    if wait_s := await page.site.throttle.wait(f"studio:{page.member.user_id}", KEY_LIMIT):
        return too_many_requests(page, wait_s)
    caller = await page_caller(page)
    answers = await asyncio.gather(*(_answer(page, caller, name) for name in names))
    status = 200 if any(not answer.fault for answer in answers) else answers[0].status
    return _render(page, answers, status)


def _body(page: PageRequest, model: str) -> dict[str, Any]:
    """Return the request of the form. Fields that are no numbers go on as they are, to be refused by the API."""
    messages = [{"role": "user", "content": page.form["message"]}]
    if page.form["developer"]:
        messages.insert(0, {"role": "developer", "content": page.form["developer"]})
    body: dict[str, Any] = {"model": model, "messages": messages}
    for field, name in (("temperature", "temperature"), ("top_p", "top_p")):
        if text := page.form[field]:
            body[name] = _number(text, float)
    for field, name in (("limit", "max_completion_tokens"), ("seed", "seed")):
        if text := page.form[field]:
            body[name] = _number(text, int)
    return body


def _number(text: str, kind: type[int] | type[float]) -> float | str:
    try:
        return kind(text)
    except ValueError:
        return text[:100]


async def _answer(page: PageRequest, caller: Caller, model: str) -> ChatAnswer:
    """Run one chat and charge for it."""
    clock = page.site.clock
    began_s = clock.steady_s()
    try:
        run = await page.site.chats.begin(caller, check_chat(_body(page, model), "openai"))
    except ServiceError as error:
        return _refused(page, model, error)
    run.cancellation.arm()
    watcher = watch_disconnect(run, page.request.receive)
    try:
        result = await run_and_charge(run, run.read_whole)
    finally:
        watcher.cancel()
    if not isinstance(result, bytes):
        return _refused(page, model, result or ServiceError("the request was stopped"))
    text = msgspec.json.decode(result)["choices"][0]["message"].get("content") or ""
    usage = run.usage_so_far()
    took_ms = round((clock.steady_s() - began_s) * 1000)
    return ChatAnswer(
        model, render_answer(text), usage.prompt_tokens, usage.completion_tokens, run.cost_so_far(), took_ms
    )


def _refused(page: PageRequest, model: str, error: ServiceError) -> ChatAnswer:
    words = page.gettext(WORDS.get(error.code, WORDS["internal_error"]))
    fault = f"{words} ({error.param})" if error.param else words
    return ChatAnswer(model, fault=fault, remedy=REMEDIES.get(error.code), status=status_of(error))


def _render(page: PageRequest, answers: list[ChatAnswer], status: int = 200) -> Response:
    offers = offers_of(page, page.catalog.chat)
    answered = next((answer for answer in answers if not answer.fault), None)
    return render_studio(
        page, "studio/chat.html", offers, status, answers=answers,
        costs=[_cost(offer, answered) for offer in offers if offer.engine],
    )  # fmt: skip


def _cost(offer: Offer, answered: ChatAnswer | None) -> ModelCost:
    model = offer.charged_model
    assert isinstance(model, ChatModel), "offers of chat models"
    cost = None
    if answered is not None:
        cost = model.prices.cost(Usage(answered.input_tokens, answered.output_tokens))
    return ModelCost(model.name, model.prices.input, model.prices.output, cost)


HANDLERS: list[Handler] = [chat, send]
