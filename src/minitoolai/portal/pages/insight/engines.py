"""The health of every engine, as this process sees it, and the queue of image jobs."""

from __future__ import annotations

from starlette.responses import Response

from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, page
from minitoolai.storage.insight.requests import image_work


@page("/admin/engines", access="admin")
async def engines(page: PageRequest) -> Response:
    """Show which engines are ready, their circuit breakers, queues and last errors; stand-ins are marked."""
    reports = page.site.reports
    work = await page.report(image_work)
    found = reports.engines()
    return page.render(
        "admin/engines.html", engines=found, running=work.running, offers=reports.offers(),
        queued={engine.name: sum(work.queued.get(model, 0) for model in engine.used_by) for engine in found},
        images={name for model in reports.catalog.images.values() for name in model.engines},
        is_shared=page.site.database.is_shared,
    )  # fmt: skip


HANDLERS: list[Handler] = [engines]
