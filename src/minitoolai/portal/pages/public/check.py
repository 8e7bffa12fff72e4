"""The page that says from an uploaded image who generated it, when and with which model."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.responses import Response

from minitoolai.accounts.rate_limits import Limit
from minitoolai.core.errors import BodyTooLarge
from minitoolai.images.provenance.check import MAX_FILE_BYTES, CheckReport
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, PageHandler, page, too_many_requests
from minitoolai.portal.uploads import received_file

#: Checks of one network address.
CHECK_LIMIT = Limit(20, 600)


@page("/check")
async def check(page: PageRequest) -> Response:
    """Show the form."""
    return _show(page, None)


async def _check_file(page: PageRequest) -> Response:
    """Check an uploaded file. It changes nothing, so it needs no CSRF token, but has a limit by address."""
    if not page.is_same_origin:
        return page.redirect("/check")
    if wait_s := await page.site.throttle.wait(f"check:{page.client_ip}", CHECK_LIMIT):
        return too_many_requests(page, wait_s)
    try:
        async with received_file(page.request, MAX_FILE_BYTES) as path:
            report = await page.site.checker.check(path)
    except BodyTooLarge:
        return _show(page, CheckReport(fault="too_many_bytes"), 413)
    if report.kind == "sound":
        # This page is about images; `minitoolai mark check` reads recordings as well.
        report = CheckReport(fault="not_an_image")
    return _show(page, report)


def _show(page: PageRequest, report: CheckReport | None, status: int = 200) -> Response:
    manifest_ms = None
    if report is not None and report.manifest is not None:
        manifest_ms = _milliseconds(report.manifest.created)
    return page.render(
        "check/check.html", status, report=report, manifest_ms=manifest_ms, operator=page.origin.partition("://")[2]
    )


def _milliseconds(text: str) -> int | None:
    """Return the time of a manifest in milliseconds since 1970, or None if it has none that can be read."""
    try:
        return int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


HANDLERS: list[Handler] = [check, PageHandler("/check/file", ("POST",), "public", _check_file)]
