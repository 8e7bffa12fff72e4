"""The API reference: a list of all operations, and a page for each, made from the OpenAPI description."""

from __future__ import annotations

import re
from typing import cast

from markupsafe import Markup, escape
from starlette.responses import Response

from minitoolai.availability import Reports
from minitoolai.core.catalog.catalog import ChatModel, EmbeddingModel, ImageModel, SpeechModel
from minitoolai.core.catalog.transcription import TranscriptionModel
from minitoolai.portal.reference import MODEL, Operation, Reference, group_of
from minitoolai.portal.rendering.highlight import EXAMPLE_ORIGIN, highlight
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, not_found, page

#: Group → the models that its examples may name. The other groups are of chats.
_MODELS: dict[str, type] = {
    "Embeddings": EmbeddingModel,
    "Images": ImageModel,
    "Speech": SpeechModel,
    "Transcription": TranscriptionModel,
}
_CODE = re.compile(r"`([^`]+)`")


def reference_of(page: PageRequest) -> Reference:
    """Return what these pages show."""
    return cast(Reference, page.request.app.state.reference)


@page("/reference")
async def reference(page: PageRequest) -> Response:
    """List every operation by subject."""
    return page.render("reference/list.html", groups=reference_of(page).groups, prose=with_code)


@page("/reference/{operation}")
async def operation(page: PageRequest) -> Response:
    """Show one operation: its parameters, the fields of its body, and its responses."""
    shown = reference_of(page).operations.get(page.path_params["operation"])
    if shown is None:
        return not_found(page)
    code = highlight(shown.example, "curl").replace(EXAMPLE_ORIGIN, str(escape(page.origin)))
    return page.render(
        "reference/operation.html",
        operation=shown,
        group=group_of(shown.path),
        groups=reference_of(page).groups,
        prose=with_code,
        example=Markup(code.replace(MODEL, str(escape(example_model(page.site.reports, shown))))),  # noqa: S704 - escaped
    )


def example_model(reports: Reports, operation: Operation) -> str:
    """Return a model that serves this operation now, the first of the catalog if none does, or MODEL."""
    kind = _MODELS.get(group_of(operation.path), ChatModel)
    offers = [offer for offer in reports.offers() if isinstance(offer.model, kind)]
    ready = [offer for offer in offers if offer.engine] or offers
    return ready[0].model.name if ready else MODEL


def with_code(text: str) -> Markup:
    """Return a text of the description as HTML. Only its code is marked up."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped


HANDLERS: list[Handler] = [reference, operation]
