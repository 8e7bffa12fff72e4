"""The guide and the prices. The guide shows the address of this site, and the reader's own keys and usage."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import get_args

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from minitoolai.availability import Reports
from minitoolai.core.catalog.catalog import Catalog, ChatModel, EmbeddingModel, ImageModel, SpeechModel
from minitoolai.core.catalog.prices import INPUT_BUCKETS, OUTPUT_BUCKETS, Prices
from minitoolai.core.catalog.transcription import TranscriptionModel
from minitoolai.core.inference import AudioFormat, Usage
from minitoolai.core.models import KeyRow, UsageRow
from minitoolai.core.transcription import TRANSCRIPT_FORMATS
from minitoolai.engines.sampling import SCHEDULERS
from minitoolai.http.routing import reads
from minitoolai.portal.error_words import customer_codes
from minitoolai.portal.i18n import N_
from minitoolai.portal.pages.public.home import language_of
from minitoolai.portal.rendering.highlight import agent_models, example, tabs_of
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, new_page_request, page
from minitoolai.storage.database import Connection
from minitoolai.storage.tables.accounts import keys_of
from minitoolai.storage.tables.reports import last_usage

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
    "cached_input": N_("cache read"),
    "cache_write": N_("cache write"),
    "cache_write_1h": N_("cache write, 1 hour"),
    "audio_input": N_("audio"),
    "image_input": N_("images"),
    "reasoning": N_("reasoning"),
    "audio_output": N_("audio"),
    "request": N_("fee per request"),
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
    """The catalog by kind, as the pages show it. Prices are nano-dollars per image, character or second."""

    chat: list[ChatModel]
    chat_rows: list[PriceRow]
    embeddings: list[EmbeddingModel]
    #: Price of an image → the models with this price, the cheapest first.
    images: dict[int, list[str]]
    speech: list[SpeechModel]
    transcription: list[TranscriptionModel]
    #: Models with prices by size and quality.
    sized_images: list[ImageModel]
    #: Model → the stand-in that serves it now; "" if nothing serves it. Other models are left out.
    states: dict[str, str]

    @property
    def contexts(self) -> dict[str, int]:
        """Return the context of each chat model, in tokens."""
        return {model.name: model.context for model in self.chat}

    def have_one_state(self, models: list[str]) -> bool:
        """Return True if the state of all these models is the same."""
        return len({self.states.get(name) for name in models}) == 1


def price_list(reports: Reports, price_group: str | None = None, only: str | None = None) -> PriceList:
    """Return the models of the catalog by kind, with the prices that a group pays now. Available ones come first.

    `only`: no other model than this.
    """
    offers = [offer for offer in reports.offers(price_group) if only in (None, offer.model.name)]
    offers.sort(key=lambda offer: offer.engine is None)
    states = {offer.model.name: offer.stand_in or "" for offer in offers if offer.stand_in or not offer.engine}
    catalog = Catalog({}, {}, {}, {}, {}, {})
    for offer in offers:
        model = offer.charged_model
        if isinstance(model, EmbeddingModel):
            catalog.embeddings[model.name] = model
        elif isinstance(model, ChatModel):
            catalog.chat[model.name] = model
        elif isinstance(model, ImageModel):
            catalog.images[model.name] = model
        elif isinstance(model, TranscriptionModel):
            catalog.transcription[model.name] = model
        else:
            catalog.speech[model.name] = model
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
        list(catalog.transcription.values()),
        [model for model in catalog.images.values() if model.prices],
        states,
    )


@page("/prices")
async def prices(page: PageRequest) -> Response:
    """Show every price, with an example."""
    shown = price_list(page.site.reports, page.price_group)
    plans = [plan for plan in page.site.reports.catalog.plans.values() if not plan.is_closed]
    chat = shown.chat[0] if shown.chat else None
    cost = CHATS * chat.prices.cost(Usage(READ, WRITTEN)) if chat else 0
    return page.render(
        "prices/prices.html", offered=shown, example_chat=chat, example_chat_cost=cost, read=READ, written=WRITTEN,
        chats=CHATS, plans=plans,
    )  # fmt: skip


#: Anchor → title, in the order of the page.
SECTIONS = {
    "introduction": N_("Introduction"),
    "key": N_("Create an API key"),
    "top-up": N_("Top up"),
    "authorization": N_("Authorization"),
    "chat": N_("Chat"),
    "stream": N_("Streaming"),
    "image-input": N_("Image input"),
    "agents": N_("Coding agents"),
    "text-to-image": N_("Text to image"),
    "jobs": N_("Jobs"),
    "speech": N_("Speech"),
    "transcription": N_("Transcription"),
    "prices": N_("Prices"),
    "errors": N_("Errors"),
    "limits": N_("Idempotency and limits"),
    "usage": N_("API usage"),
}
#: The errors that the guide itself explains: the most frequent, each of a status. A page of its own lists all codes.
ERRORS = (
    (400, "invalid_request", N_("A field is missing or invalid. The message says how to fix it.")),
    (401, "invalid_api_key", N_("The API key is missing, invalid or revoked.")),
    (402, "insufficient_balance", N_("The balance does not cover the request. Top up.")),
    (402, "budget_exceeded", N_("The key has reached its budget. Raise the budget or use another key.")),
    (403, "model_not_allowed", N_("The key is not allowed to use this model. Use another key, or change its limits.")),
    (404, "model_not_found", N_("This model does not exist. The message lists similar names.")),
    (
        409,
        "idempotency_in_flight",
        N_("The first request with this Idempotency-Key is still running. Try again in a moment."),
    ),
    (413, "body_too_large", N_("The request is larger than 4 MB, or 20 MB with images as data URLs.")),
    (415, "unsupported_media_type", N_("Send JSON, with the header <code>Content-Type: application/json</code>.")),
    (422, "idempotency_mismatch", N_("This Idempotency-Key belongs to another request. Use a new one.")),
    (429, "rate_limit_exceeded", N_("Too many requests. Wait for the number of seconds in <code>Retry-After</code>.")),
    (502, "upstream_error", N_("The model failed. Try again.")),
    (503, "overloaded", N_("The server is overloaded. Wait for the number of seconds in <code>Retry-After</code>.")),
    (504, "upstream_timeout", N_("The model took too long to respond. Try again.")),
)
#: Kind, its title, and the names of its input and output units.
KINDS = (
    ("chat", N_("Text"), N_("Input tokens"), N_("Output tokens")),
    ("image", N_("Images"), None, N_("Images")),
    ("speech", N_("Speech"), N_("Characters"), None),
    ("transcription", N_("Transcription"), N_("Seconds"), None),
)
#: Number of requests that the tables of the reader's usage add up.
LAST_REQUESTS = 1000
MAX_KEYS = 5


@page("/docs")
async def guide(page: PageRequest) -> Response:
    """Show the guide."""
    return await render_guide(page)


@page("/docs/errors")
async def errors(page: PageRequest) -> Response:
    """Show every error code that a customer can meet."""
    return page.render("guide/errors.html", codes=customer_codes())


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
        example=partial(example, models=agent_models(reports), shop=page.site.shop),
        tabs_of=tabs_of,
        offered=price_list(reports, page.price_group),
        chat_models=list(catalog.chat),
        seeing_models=[model.name for model in catalog.chat.values() if reports.offer(model).sees],
        image_models=list(catalog.images),
        speech_models=list(catalog.speech),
        transcription_models=list(catalog.transcription),
        transcript_formats=TRANSCRIPT_FORMATS,
        upload_mb=page.site.transcription.forms.max_mb,
        schedulers=SCHEDULERS,
        formats=get_args(AudioFormat),
        voices=[voice.id for voice in reports.voices()],
        default_voice=next((model.default_voice for model in catalog.speech.values()), ""),
    )


async def _own_keys_and_usage(page: PageRequest) -> tuple[list[KeyRow], list[UsageRow]]:
    """Return the reader's newest keys and last usage."""
    if page.user is None or not page.may("read"):
        return [], []
    account_id = page.user.account_id

    def read(connection: Connection) -> tuple[list[KeyRow], list[UsageRow]]:
        keys = [key for key in keys_of(connection, account_id) if key.revoked_ms is None]
        newest = sorted(keys, key=lambda key: -key.created_ms)[:MAX_KEYS]
        return newest, last_usage(connection, account_id, LAST_REQUESTS)

    return await page.report(read)


HANDLERS: list[Handler] = [guide, errors, guide_alias, guide_without_language, prices]
