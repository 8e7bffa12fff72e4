"""The models: a list with measured speed and uptime, a page for each, and the status page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from starlette.responses import Response

from minitoolai.availability import Offer
from minitoolai.core.catalog.catalog import ChatModel, EmbeddingModel, ImageModel, SpeechModel
from minitoolai.core.catalog.transcription import TranscriptionModel
from minitoolai.portal.i18n import N_
from minitoolai.portal.measurements import (
    DAYS,
    FIGURE_DAYS,
    Measured,
    add_days,
    measured,
    strip_of,
)
from minitoolai.portal.pages.public.docs import price_list
from minitoolai.portal.rendering.highlight import SAMPLE_MODELS, SAMPLE_VOICE, example
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, not_found, page
from minitoolai.storage.insight.traffic import Traffic, add_up

#: Kind → the title, the type of its models, its sample, the page of the reference and that of the studio.
KINDS: dict[str, tuple[str, type, str, str, str]] = {
    "chat": (N_("Chat"), ChatModel, "chat.curl", "/reference/post-v1-chat-completions", "/studio"),
    "embeddings": (N_("Embeddings"), EmbeddingModel, "embeddings.curl", "/reference/post-v1-embeddings", ""),
    "image": (N_("Images"), ImageModel, "image.curl", "/reference/post-api-texttoimage", "/studio/image"),
    "speech": (N_("Speech"), SpeechModel, "speech.curl", "/reference/post-v1-audio-speech", "/studio/speech"),
    "transcription": (
        N_("Transcription"),
        TranscriptionModel,
        "transcribe.curl",
        "/reference/post-v1-audio-transcriptions",
        "/studio/transcribe",
    ),
}


#: What the price in the list is for.
UNITS = {
    "embeddings": N_("Input"),
    "image": N_("Per image"),
    "speech": N_("Per million characters"),
    "transcription": N_("Per minute"),
}


class ModelRow(msgspec.Struct, frozen=True):
    """A model with its traffic by day, and the sum of the last days."""

    offer: Offer
    days: Mapping[int, Traffic]
    sums: Traffic

    @property
    def name(self) -> str:
        return self.offer.model.name

    @property
    def measured(self) -> Measured:
        return measured(self.sums)


def kind_of(offer: Offer) -> str:
    """Return the kind of a model. An embedding model is a kind of chat model to the catalog."""
    if isinstance(offer.model, EmbeddingModel):
        return "embeddings"
    return next(kind for kind, entry in KINDS.items() if isinstance(offer.model, entry[1]))


async def _measure(page: PageRequest, offers: Iterable[Offer]) -> list[ModelRow]:
    """Return these models with what was measured."""
    by_model, from_day = await page.site.measurements.by_model(), page.site.measurements.today - FIGURE_DAYS + 1
    own = ((offer, by_model.get(offer.model.name, {})) for offer in offers)
    return [ModelRow(offer, days, add_days(days, from_day)) for offer, days in own]


async def _by_kind(page: PageRequest) -> dict[str, list[ModelRow]]:
    """Return the models by kind, those that are available first."""
    offers = sorted(page.site.reports.offers(page.price_group), key=lambda offer: offer.engine is None)
    rows: dict[str, list[ModelRow]] = {kind: [] for kind in KINDS}
    for row in await _measure(page, offers):
        rows[kind_of(row.offer)].append(row)
    return {kind: members for kind, members in rows.items() if members}


@page("/models")
async def models(page: PageRequest) -> Response:
    """List the models by kind."""
    return page.render("models/list.html", rows=await _by_kind(page), kinds=KINDS, units=UNITS, days=FIGURE_DAYS)


@page("/models/{name:path}")
async def model(page: PageRequest) -> Response:
    """Show one model: price, what it can do, what was measured here, and a sample."""
    found = {offer.model.name: offer for offer in page.site.reports.offers(page.price_group)}
    offer = found.get(page.path_params["name"])
    if offer is None:
        return not_found(page)
    kind = kind_of(offer)
    [row] = await _measure(page, [offer])
    _, _, sample, operation, studio = KINDS[kind]
    renamed = {SAMPLE_MODELS[kind]: offer.model.name}
    if isinstance(offer.model, SpeechModel):
        renamed[SAMPLE_VOICE] = offer.model.default_voice
    return page.render(
        "models/model.html",
        offer=offer,
        model=offer.model,
        kind=kind,
        kinds=KINDS,
        offered=price_list(page.site.reports, page.price_group, only=offer.model.name),
        measured=row.measured,
        strip_of=strip_of(row.days, page.site.measurements.today, DAYS),
        days=DAYS,
        figure_days=FIGURE_DAYS,
        sample=example(sample, page.origin, renamed, page.site.shop),
        operation=operation,
        studio=studio,
    )


@page("/status")
async def status(page: PageRequest) -> Response:
    """Show which models are available now, and the uptime of each day."""
    rows, today = await _by_kind(page), page.site.measurements.today
    shown = [row for members in rows.values() for row in members]
    return page.render(
        "models/status.html",
        rows=rows,
        kinds=KINDS,
        days=FIGURE_DAYS,
        strips={row.name: strip_of(row.days, today, FIGURE_DAYS) for row in shown},
        whole=measured(add_up(row.sums for row in shown)),
        unavailable=[row.name for row in shown if row.offer.engine is None],
    )


HANDLERS: list[Handler] = [models, model, status]
