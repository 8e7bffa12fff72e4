"""The models: a list with measured speed and uptime, a page for each, and the status page."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from minitoolai.availability import Offer
from minitoolai.core.catalog.catalog import ChatModel, EmbeddingModel, ImageModel, SpeechModel
from minitoolai.core.catalog.transcription import TranscriptionModel
from minitoolai.portal.highlight import SAMPLE_MODELS, SAMPLE_VOICE, example
from minitoolai.portal.i18n import N_
from minitoolai.portal.measurements import (
    DAYS,
    FIGURE_DAYS,
    Measured,
    Strip,
    add_days,
    add_traffic,
    measured,
    strip_of,
)
from minitoolai.portal.pages.docs import price_list
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, not_found, page

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


class ModelRow(msgspec.Struct, frozen=True):
    """A model with what was measured."""

    offer: Offer
    measured: Measured
    strip: Strip

    @property
    def name(self) -> str:
        return self.offer.model.name


def kind_of(offer: Offer) -> str:
    """Return the kind of a model. An embedding model is a kind of chat model to the catalog."""
    if isinstance(offer.model, EmbeddingModel):
        return "embeddings"
    return next(kind for kind, entry in KINDS.items() if isinstance(offer.model, entry[1]))


async def _rows(page: PageRequest, days: int) -> dict[str, list[ModelRow]]:
    """Return the models by kind, those that are available first, each with its last `days` days."""
    measurements = page.site.measurements
    by_model, today = await measurements.by_model(), measurements.today
    rows: dict[str, list[ModelRow]] = {kind: [] for kind in KINDS}
    for offer in sorted(page.site.reports.offers(page.price_group), key=lambda offer: offer.engine is None):
        own = by_model.get(offer.model.name, {})
        sums = measured(add_days(own, today - FIGURE_DAYS + 1))
        rows[kind_of(offer)].append(ModelRow(offer, sums, strip_of(own, today, days)))
    return {kind: members for kind, members in rows.items() if members}


@page("/models")
async def models(page: PageRequest) -> Response:
    """List the models by kind."""
    rows = await _rows(page, FIGURE_DAYS)
    return page.render("models/list.html", rows=rows, kinds=KINDS, days=FIGURE_DAYS)


@page("/models/{name:path}")
async def model(page: PageRequest) -> Response:
    """Show one model: price, what it can do, what was measured here, and a sample."""
    found = {offer.model.name: offer for offer in page.site.reports.offers(page.price_group)}
    offer = found.get(page.path_params["name"])
    if offer is None:
        return not_found(page)
    kind = kind_of(offer)
    measurements = page.site.measurements
    own, today = (await measurements.by_model()).get(offer.model.name, {}), measurements.today
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
        measured=measured(add_days(own, today - FIGURE_DAYS + 1)),
        strip_of=strip_of(own, today, DAYS),
        days=DAYS,
        figure_days=FIGURE_DAYS,
        sample=example(sample, page.origin, renamed, page.site.shop),
        operation=operation,
        studio=studio,
    )


@page("/status")
async def status(page: PageRequest) -> Response:
    """Show which models are available now, and the uptime of each day."""
    rows = await _rows(page, FIGURE_DAYS)
    measurements = page.site.measurements
    by_model, today = await measurements.by_model(), measurements.today
    shown = {row.name for members in rows.values() for row in members}
    sums = [add_days(days, today - FIGURE_DAYS + 1) for name, days in by_model.items() if name in shown]
    unavailable = [row.name for members in rows.values() for row in members if row.offer.engine is None]
    return page.render(
        "models/status.html",
        rows=rows,
        kinds=KINDS,
        days=FIGURE_DAYS,
        whole=measured(add_traffic(sums)),
        unavailable=unavailable,
    )


HANDLERS: list[Handler] = [models, model, status]
