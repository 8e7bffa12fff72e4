"""A customer's log of requests: filters, one page for each request, and CSV. Without prompts and responses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import msgspec
from starlette.responses import Response

from minitoolai.accounts.request_bodies import StoredBodies
from minitoolai.core.catalog.prices import decode_parts, nano_of
from minitoolai.core.clock import MS_PER_DAY, generation_name, parse_generation_name
from minitoolai.core.models import EngineAttempt, Generation, RecentRequest
from minitoolai.core.money import format_dollars
from minitoolai.core.threads import EXPORTS
from minitoolai.http.exports import Parts, csv_lines
from minitoolai.portal.error_words import REMEDIES, WORDS
from minitoolai.portal.pages.account.usage import KINDS, MAX_PURSES, STATES, key_names
from minitoolai.portal.pages.public.docs import BUCKET_NAMES
from minitoolai.portal.rendering.charts import escape_formula
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, not_found, page
from minitoolai.storage.insight.requests import LogFilter, LogPlace
from minitoolai.storage.selling import purses
from minitoolai.storage.tables.reports import find_generation

MAX_REQUESTS = 80
CSV_ROWS = 500
FILTERS = ("model", "state", "kind", "key", "from", "to")
COLUMNS = (
    "id", "time", "kind", "model", "key_id", "key_name", "state", "error_code", "input_units", "output_units",
    "cached_input_units", "duration_ms", "cost", "refunded", "currency",
)  # fmt: skip
_decode_attempts = msgspec.json.Decoder(list[EngineAttempt]).decode


def _typed(page: PageRequest) -> dict[str, str]:
    return {name: page.query.get(name, "")[:200].replace("\0", "").strip() for name in FILTERS}


def _day_ms(text: str) -> int | None:
    """Return the beginning of a day such as 2026-11-30 (UTC), or None for anything else."""
    try:
        return int(datetime.strptime(f"{text} +0000", "%Y-%m-%d %z").timestamp()) * 1000
    except ValueError:
        return None


def _filter(page: PageRequest, typed: dict[str, str]) -> LogFilter:
    to_ms = _day_ms(typed["to"])
    return LogFilter(
        page.member.account_id, typed["kind"] or None, typed["model"] or None, typed["state"] or None,
        key_id=typed["key"] or None, from_ms=_day_ms(typed["from"]),
        until_ms=None if to_ms is None else to_ms + MS_PER_DAY,
    )  # fmt: skip


async def _next_rows(
    page: PageRequest, typed: dict[str, str], limit: int, before: LogPlace | None
) -> tuple[list[RecentRequest], LogPlace | None]:
    """Return up to `limit` requests, also of archived days."""
    if any(typed.values()):
        return await page.site.reports.archive.matching_requests(_filter(page, typed), limit, before)
    rows = await page.site.reports.archive.recent_requests(page.member.account_id, limit + 1, before)
    last = rows[limit - 1] if len(rows) > limit else None
    return rows[:limit], None if last is None else (last.created_ms, last.id)


@page("/usage/requests", access="user", action="read")
async def requests(page: PageRequest) -> Response:
    """Show the newest requests that fit the filters (keyset pagination: before a time and an ID)."""
    until_ms, below = page.query_number("until"), page.query_number("below", longest=19)
    before = None if until_ms is None or below is None else (until_ms, min(below, 2**63 - 1))
    typed = _typed(page)
    rows, older = await _next_rows(page, typed, MAX_REQUESTS, before)
    names, _ = await key_names(page)
    owned = await page.site.database.read_async(purses.purses_of, page.member.account_id, MAX_PURSES)
    titles = page.site.reports.catalog.plans
    chosen = {name: value for name, value in typed.items() if value}
    query = urlencode(chosen)
    return page.render(
        "usage/requests.html", rows=rows, typed=typed, query=query, newer=before is not None, most=MAX_REQUESTS,
        older=None if older is None else urlencode({**chosen, "until": older[0], "below": older[1]}),
        names=names, kinds=KINDS, states=STATES, models=sorted(page.site.reports.models()),
        plans={purse.id: titles[purse.plan].title if purse.plan in titles else purse.plan for purse in owned},
        generation_name=generation_name, is_filtered=bool(chosen),
    )  # fmt: skip


@page("/usage/requests.csv", access="user", action="read")
async def requests_csv(page: PageRequest) -> Response:
    """Download all requests that fit the filters, newest first."""
    names, _ = await key_names(page)
    return await page.export(_csv(page, names), "text/csv", "requests.csv")


async def _csv(page: PageRequest, names: dict[str, str]) -> Parts:
    """Yield one line per request. Each part is a short report of its own."""
    yield csv_lines([COLUMNS])
    async for rows in _all_rows(page):
        yield await EXPORTS.run(_encode, rows, names)


async def _all_rows(page: PageRequest) -> AsyncIterator[list[RecentRequest]]:
    typed, place = _typed(page), None
    while True:
        rows, place = await _next_rows(page, typed, CSV_ROWS, place)
        if rows:
            yield rows
        if place is None:
            return


def _encode(rows: list[RecentRequest], names: dict[str, str]) -> bytes:
    return csv_lines(_line(row, names) for row in rows)


def _line(row: RecentRequest, names: dict[str, str]) -> tuple[object, ...]:
    moment = datetime.fromtimestamp(row.created_ms / 1000, UTC).isoformat(timespec="milliseconds")
    took_ms = "" if row.finished_ms is None else max(row.finished_ms - row.created_ms, 0)
    head = (generation_name(row.id), moment, row.kind, escape_formula(row.model), row.key_id)
    middle = (escape_formula(names.get(row.key_id)), row.state, row.error_code or "", row.input_units)
    cost = "" if row.is_pending else format_dollars(row.cost)
    return (*head, *middle, row.output_units, row.cached_units, took_ms, cost, format_dollars(row.refunded), "USD")


@page("/usage/requests/{name}", access="user", action="read")
async def request(page: PageRequest) -> Response:
    """Show one request of the account: cost by bucket, times, attempts, and an error with its remedy."""
    generation_id = parse_generation_name(page.path_params["name"])
    found = None if generation_id is None else await _find(page, generation_id)
    if found is None:
        return not_found(page)
    parts: list[Any] = [] if found.price_split is None else decode_parts(found.price_split)
    names, _ = await key_names(page)
    code = found.error_code or ""
    return page.render(
        "usage/request.html", row=found, name=generation_name(found.id), states=STATES, kinds=KINDS, names=names,
        is_pending=found.state in ("queued", "running"), parts=[(part, nano_of(part)) for part in parts],
        bucket_names=BUCKET_NAMES, attempts=[] if found.attempts is None else _decode_attempts(found.attempts),
        explanation=WORDS.get(code, ""), remedy=REMEDIES.get(code), bodies=await _bodies(page, found.id),
    )  # fmt: skip


async def _bodies(page: PageRequest, generation_id: int) -> StoredBodies | None:
    """Return the stored bodies of a request, for members who may use keys. The operator's view never shows it."""
    keeper = page.site.keys.bodies
    if keeper is None or page.viewer is not None or not page.may("use"):
        return None
    return await keeper.find(page.member.account_id, generation_id)


async def _find(page: PageRequest, generation_id: int) -> Generation | None:
    account_id = page.member.account_id
    found = await page.report(find_generation, generation_id, account_id)
    return found or await page.site.reports.archive.find_generation(generation_id, account_id)


HANDLERS: list[Handler] = [requests, requests_csv, request]
