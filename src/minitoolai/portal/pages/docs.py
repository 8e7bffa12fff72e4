"""The guide and the prices. The guide shows the address of this site, and the reader's own keys and usage."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import get_args

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from minitoolai.core.catalog import Catalog, ChatModel, EmbeddingModel, SpeechModel
from minitoolai.core.inference import AudioFormat, Usage
from minitoolai.core.models import KeyRow, UsageRow
from minitoolai.core.prices import INPUT_BUCKETS, OUTPUT_BUCKETS, Prices
from minitoolai.engines.sampling import SCHEDULERS
from minitoolai.http.routing import reads
from minitoolai.portal.highlight import agent_models, example, tabs_of
from minitoolai.portal.i18n import N_
from minitoolai.portal.pages.home import language_of
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, new_page_request, page
from minitoolai.storage.accounts import keys_of
from minitoolai.storage.database import Connection
from minitoolai.storage.reports import last_usage

#: The example on the page of prices: input and output tokens of a chat, and the number of chats.
READ, WRITTEN, CHATS = 300, 200, 1000


class PriceRow(msgspec.Struct, frozen=True):
    """Line of the table of chat prices: nano-dollars per million tokens, or None for an empty cell.

    `label` is what the prices are for, if not for all tokens of the model; `above` the length of the prompts that they
    are for.
    """

    model: str
    label: str | None
    above: int | None
    read: int | None
    written: int | None


#: What the tokens of a bucket are, as the table of prices says it. `request` is a fee for a whole request.
BUCKET_NAMES = {
    "cached_input": N_("read from the cache"),
    "cache_write": N_("written to the cache"),
    "cache_write_1h": N_("written to the cache for an hour"),
    "audio_input": N_("audio"),
    "image_input": N_("images"),
    "reasoning": N_("reasoning"),
    "audio_output": N_("audio"),
}


def price_rows(model: ChatModel) -> Iterator[PriceRow]:
    """Yield a line for input and output, one per bucket with a price of its own, and the same for each tier."""
    yield from _tier_rows(model.name, None, model.prices)
    for tier in model.prices.tiers:
        yield from _tier_rows(model.name, tier.above, tier.prices)


def _tier_rows(model: str, above: int | None, prices: Prices) -> Iterator[PriceRow]:
    yield PriceRow(model, None, above, prices.input * 1000, prices.output * 1000)
    for bucket in INPUT_BUCKETS[1:]:
        if (price := getattr(prices, bucket)) != prices.input:
            yield PriceRow(model, BUCKET_NAMES[bucket], above, price * 1000, None)
    for bucket in OUTPUT_BUCKETS[1:]:
        if (price := getattr(prices, bucket)) != prices.output:
            yield PriceRow(model, BUCKET_NAMES[bucket], above, None, price * 1000)


class PriceList(msgspec.Struct, frozen=True):
    """The catalog by kind, as the pages show it. Prices are nano-dollars per image or character."""

    chat: list[ChatModel]
    chat_rows: list[PriceRow]
    embeddings: list[EmbeddingModel]
    #: Price of an image → the models with this price, the cheapest first.
    images: dict[int, list[str]]
    speech: list[SpeechModel]


def price_list(catalog: Catalog) -> PriceList:
    """Return the models of the catalog by kind."""
    by_price: dict[int, list[str]] = {}
    for model in sorted(catalog.images.values(), key=lambda model: model.price):
        by_price.setdefault(model.price, []).append(model.name)
    chat = list(catalog.chat.values())
    return PriceList(
        chat,
        [row for model in chat for row in price_rows(model)],
        list(catalog.embeddings.values()),
        by_price,
        list(catalog.speech.values()),
    )


@page("/prices")
async def prices(page: PageRequest) -> Response:
    """Show every price, with an example."""
    shown = price_list(page.site.reports.catalog)
    chat = shown.chat[0] if shown.chat else None
    cost = CHATS * chat.prices.cost(Usage(READ, WRITTEN)) if chat else 0
    return page.render(
        "prices/prices.html", offered=shown, example_chat=chat, example_chat_cost=cost, read=READ, written=WRITTEN,
        chats=CHATS,
    )  # fmt: skip


#: Anchor → title, in the order of the page.
SECTIONS = {
    "introduction": N_("Introduction"),
    "key": N_("Create an API key"),
    "top-up": N_("Top up"),
    "authorization": N_("Authorization"),
    "chat": N_("Chat"),
    "stream": N_("The streamed answer"),
    "image-input": N_("Image input"),
    "agents": N_("Coding agents"),
    "text-to-image": N_("Text to image"),
    "jobs": N_("Jobs"),
    "speech": N_("Speech"),
    "prices": N_("Prices"),
    "errors": N_("Errors"),
    "limits": N_("Idempotency and limits"),
    "usage": N_("API usage"),
}
ERRORS = (
    (400, "invalid_request", N_("A field is missing or wrong. Mend it as the message says.")),
    (401, "invalid_api_key", N_("The key is missing, wrong or revoked.")),
    (402, "insufficient_balance", N_("The balance does not cover the request. Top up.")),
    (402, "budget_exceeded", N_("The key may spend no more. Raise its limit.")),
    (403, "key_forbids", N_("The key is not meant for this model, or not for this address.")),
    (404, "model_not_found", N_("There is no such model. The message lists the nearest names.")),
    (409, "idempotency_in_flight", N_("The first request with this key is still at work. Ask again.")),
    (413, "body_too_large", N_("The request is larger than 4 MB, or than 20 MB with pictures as data URLs.")),
    (415, "unsupported_media_type", N_("Send JSON, with the header <code>Content-Type: application/json</code>.")),
    (422, "idempotency_mismatch", N_("This Idempotency-Key belongs to another request. Take a new one.")),
    (429, "rate_limit_exceeded", N_("Too many requests. Wait as long as <code>Retry-After</code> says.")),
    (502, "upstream_error", N_("The engine behind the model failed. Try again.")),
    (503, "overloaded", N_("Much is going on. Wait as long as <code>Retry-After</code> says.")),
    (504, "upstream_timeout", N_("The engine behind the model took too long. Try again.")),
)
#: Kind, its title, and the names of its input and output units.
KINDS = (
    ("chat", N_("Text"), N_("Tokens read"), N_("Tokens written")),
    ("image", N_("Images"), None, N_("Pictures")),
    ("speech", N_("Speech"), N_("Characters"), None),
)
#: Number of requests that the tables of the reader's usage add up.
LAST_REQUESTS = 1000
MAX_KEYS = 5


@page("/docs")
async def guide(page: PageRequest) -> Response:
    """Show the guide."""
    return await render_guide(page)


@page("/api-documentation")
async def guide_alias(page: PageRequest) -> Response:
    """Show the guide under the path that the original service uses."""
    return await render_guide(page)


@reads("/api-documentation")
async def guide_without_language(request: Request) -> Response:
    """Show the guide in the visitor's language."""
    page = new_page_request(request, language_of(request))
    await page.load_session()
    response = await render_guide(page)
    response.headers["vary"] = "accept-language, cookie, accept-encoding"
    return response


async def render_guide(page: PageRequest) -> Response:
    """Return the guide. Its links name the same page under every path."""
    page.path = "/docs"
    reports = page.site.reports
    catalog = reports.catalog
    keys, usage = await _own_keys_and_usage(page)
    return page.render(
        "guide/guide.html",
        parts=SECTIONS,
        errors=ERRORS,
        kinds=KINDS,
        last=LAST_REQUESTS,
        keys=keys,
        usage={kind: [row for row in usage if row.kind == kind] for kind, *_ in KINDS},
        example=partial(example, models=agent_models(catalog)),
        tabs_of=tabs_of,
        offered=price_list(catalog),
        chat_models=list(catalog.chat),
        seeing_models=[model.name for model in catalog.chat.values() if reports.offer(model).sees],
        image_models=list(catalog.images),
        speech_models=list(catalog.speech),
        schedulers=SCHEDULERS,
        formats=get_args(AudioFormat),
        voices=[voice.id for voice in reports.voices()],
        default_voice=next((model.default_voice for model in catalog.speech.values()), ""),
    )


async def _own_keys_and_usage(page: PageRequest) -> tuple[list[KeyRow], list[UsageRow]]:
    """Return the reader's newest keys and last usage."""
    if page.user is None:
        return [], []
    account_id = page.user.account_id

    def read(connection: Connection) -> tuple[list[KeyRow], list[UsageRow]]:
        keys = [key for key in keys_of(connection, account_id) if key.revoked_ms is None]
        newest = sorted(keys, key=lambda key: -key.created_ms)[:MAX_KEYS]
        return newest, last_usage(connection, account_id, LAST_REQUESTS)

    return await page.report(read)


HANDLERS: list[Handler] = [guide, guide_alias, guide_without_language, prices]
