"""The log of requests of all accounts, and one request. Neither shows prompts or responses."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import msgspec
from starlette.responses import Response

from minitoolai.core.catalog.prices import decode_parts, nano_of
from minitoolai.core.clock import generation_name, parse_generation_name
from minitoolai.core.models import EngineAttempt
from minitoolai.portal.pages.account.usage import KINDS, STATES
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, not_found, page
from minitoolai.storage.database import Connection
from minitoolai.storage.insight.requests import WINDOW, LogFilter, LogPage, find_request, list_requests
from minitoolai.storage.tables.refunds import refunded
from minitoolai.storage.tables.users import find_user

MAX_ROWS = 50
REFRESH_S = 5
_decode_attempts = msgspec.json.Decoder(list[EngineAttempt]).decode


@page("/admin/requests", access="admin")
async def requests(page: PageRequest) -> Response:
    """Show the newest requests that fit the filters (keyset pagination: before a time and an ID)."""
    typed = {
        name: page.query.get(name, "")[:200].replace("\0", "").strip()
        for name in ("account", "model", "state", "kind", "error")
    }
    until_ms, below = page.query_number("until"), page.query_number("below", longest=19)
    before = None if until_ms is None or below is None else (until_ms, min(below, 2**63 - 1))

    def read(connection: Connection) -> LogPage | None:
        account_id = None
        if typed["account"]:
            account_id = _account(connection, typed["account"])
            if account_id is None:
                return None
        only = LogFilter(
            account_id, typed["kind"] or None, typed["model"] or None, typed["state"] or None, typed["error"] or None
        )
        return list_requests(connection, only, MAX_ROWS, before)

    found = await page.report(read)
    older = found.older if found else None
    query = urlencode({name: value for name, value in typed.items() if value})
    return page.render(
        "admin/requests.html", rows=found.rows if found else [], typed=typed, has_account=found is not None,
        newer=before is not None, query=query, states=STATES, kinds=KINDS, generation_name=generation_name,
        models=sorted(page.site.reports.models()), refresh_s=REFRESH_S, window=WINDOW,
        older=None if older is None else urlencode({"until": older[0], "below": older[1]}),
    )  # fmt: skip


def _account(connection: Connection, text: str) -> int | None:
    """Return the account with this number or e-mail address."""
    if text.isascii() and text.isdigit() and len(text) < 16:
        return int(text)
    found = find_user(connection, text.lower())
    return None if found is None else found[0].account_id


@page("/admin/requests/{name}", access="admin")
async def request(page: PageRequest) -> Response:
    """Show one request: its times, its cost by part, and the engines that were tried."""
    generation_id = parse_generation_name(page.path_params["name"])
    found = None
    if generation_id is not None:
        found = await page.report(find_request, generation_id)
    if found is None:
        return not_found(page)
    given_back = await page.report(refunded, found.row.id)
    parts: list[Any] = [] if found.price_split is None else decode_parts(found.price_split)
    return page.render(
        "admin/request.html", request=found, row=found.row, name=generation_name(found.row.id), states=STATES,
        kinds=KINDS, attempts=[] if found.attempts is None else _decode_attempts(found.attempts),
        parts=[(part, nano_of(part)) for part in parts], given_back=given_back,
    )  # fmt: skip


HANDLERS: list[Handler] = [requests, request]
