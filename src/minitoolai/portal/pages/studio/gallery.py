"""The gallery of the playground: a member's own images with their settings, newest first."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec
from starlette.responses import Response

from minitoolai.core.clock import generation_name
from minitoolai.core.inference import ImageJobRequest, decode_image_job_request
from minitoolai.portal.pages.studio.playground import TABS
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, page
from minitoolai.storage.tables.gallery import GalleryImage, images_of

PAGE_SIZE = 24


class ShownImage(msgspec.Struct, frozen=True):
    """An image as the page shows it. `path` is "" once the image was removed, `request` None once its prompt was."""

    row: GalleryImage
    path: str
    request: ImageJobRequest | None
    model: str
    generation: str

    @property
    def file_name(self) -> str:
        """Return the name to save it under."""
        return f"{self.generation}.{self.path.partition('?')[0].rpartition('.')[2]}"


@page("/studio/images", access="user", action="use")
async def gallery(page: PageRequest) -> Response:
    """Show a page of the member's images (keyset pagination)."""
    below, until = page.query_number("below", longest=19), page.query_number("until")
    before = None if below is None or until is None else (until, below)
    member = page.member
    found = await page.report(images_of, member.account_id, member.user_id, PAGE_SIZE, before)
    older = f"until={found.older[0]}&below={found.older[1]}" if found.older else None
    return page.render(
        "studio/images.html", places=TABS, images=[_shown(page, row) for row in found.images], older=older,
        newer=before is not None,
    )  # fmt: skip


def _shown(page: PageRequest, row: GalleryImage) -> ShownImage:
    request = None if row.request is None else decode_image_job_request(row.request)
    path = ""
    if row.object is not None:
        link = urlsplit(page.site.image_links.link(row.id, "png" if request is None else request.output_format))
        # The link names the host that the server knows itself by; the reader may be on another.
        path = f"{link.path}?{link.query}"
    served = row.served_model or row.model
    model = page.site.reports.stand_ins.shown_model(row.model, row.engine, served)
    return ShownImage(row, path, request, model, generation_name(row.id))


HANDLERS: list[Handler] = [gallery]
