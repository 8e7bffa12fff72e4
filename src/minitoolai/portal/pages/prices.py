"""What everything costs, from the catalog: on a page of its own and in the guide."""

from __future__ import annotations

import msgspec
from litestar.handlers import HTTPRouteHandler

from minitoolai.core.catalog import Catalog, ChatModel, EmbeddingModel
from minitoolai.core.voices import SpeechModel
from minitoolai.portal.request import Answer, Visit
from minitoolai.portal.routing import page

#: Tokens read and written in the chat that the page reckons with, and how many such chats.
READ, WRITTEN, CHATS = 300, 200, 1000


class Offered(msgspec.Struct, frozen=True):
    """The catalog as it is shown. Prices are nano-dollars: a token, a picture, a character."""

    chat: list[ChatModel]
    embeddings: list[EmbeddingModel]
    #: Price of a picture → the models that draw for it, the cheapest first.
    images: dict[int, list[str]]
    speech: list[SpeechModel]


def offered(catalog: Catalog) -> Offered:
    """What is on offer, by kind."""
    by_price: dict[int, list[str]] = {}
    for model in sorted(catalog.images.values(), key=lambda model: model.price):
        by_price.setdefault(model.price, []).append(model.name)
    return Offered(
        list(catalog.chat.values()), list(catalog.embeddings.values()), by_price, list(catalog.speech.values())
    )


@page("/prices")
async def prices(visit: Visit) -> Answer:
    """Every price, and what one gets for it."""
    shown = offered(visit.site.reports.catalog)
    chat = shown.chat[0] if shown.chat else None
    cost = CHATS * (READ * chat.price_input + WRITTEN * chat.price_output) if chat else 0
    return visit.render(
        "prices/prices.html", offered=shown, example_chat=chat, example_chat_cost=cost, read=READ, written=WRITTEN,
        chats=CHATS,
    )  # fmt: skip


HANDLERS: list[HTTPRouteHandler] = [prices]
