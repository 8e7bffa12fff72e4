"""Usage: what was used by day, model and key, drawn and in numbers; the last requests; all of it as CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from litestar.handlers import HTTPRouteHandler

from minitoolai.billing.usage import together
from minitoolai.core.clock import MS_PER_DAY, generation_name
from minitoolai.core.models import UsageCell
from minitoolai.core.money import format_dollars
from minitoolai.portal.charts import Column, columns, plain, rows, sheet
from minitoolai.portal.i18n import N_
from minitoolai.portal.request import Answer, PageRequest
from minitoolai.portal.routing import page
from minitoolai.storage import accounts
from minitoolai.storage.database import Connection
from minitoolai.storage.reports import recent_requests

PERIODS = (7, 30, 90)
LAST = 100
MOST_BARS = 8
KINDS = {"chat": N_("Text"), "image": N_("Images"), "speech": N_("Speech")}
STATES = {
    "queued": N_("waiting"),
    "running": N_("under way"),
    "succeeded": N_("done"),
    "failed": N_("failed"),
    "cancelled": N_("cancelled"),
}
COLUMNS = ("day", "kind", "model", "key_id", "key_name", "requests", "input_units", "output_units", "cost", "currency")


@page("/usage", needs="user")
async def usage(visit: PageRequest) -> Answer:
    """Charts and tables of some days."""
    days = _days(visit)
    cells = await visit.site.usage.cells(visit.member.account_id, days)
    names = await _key_names(visit)
    pages = await _page_keys(visit)
    by_model = _grouped(cells, lambda cell: (cell.model, cell.kind))
    # The keys that the studio makes for itself are one line: each lives for minutes.
    studio = visit.gettext("Studio")
    by_key = _grouped(cells, lambda cell: (studio if cell.key_id in pages else cell.key_id, cell.kind))
    by_day = _grouped(cells, lambda cell: (cell.day, cell.kind))
    totals = _grouped(cells, lambda cell: (cell.kind,))
    money, number = visit.writing.money, visit.writing.number
    models = _ranked(by_model)
    return visit.render(
        "usage/usage.html",
        days=days,
        periods=PERIODS,
        kinds=KINDS,
        totals={cell.kind: cell for cell in totals},
        cost=sum(cell.cost for cell in totals),
        requests=sum(cell.requests for cell in totals),
        by_day=_days_of(by_day),
        by_model=sorted(by_model, key=_most_first),
        by_key=sorted(by_key, key=_most_first),
        names=names,
        ms_per_day=MS_PER_DAY,
        cost_chart=columns(_daily(visit, by_day, days, lambda cell: cell.cost), money),
        request_chart=columns(_daily(visit, by_day, days, lambda cell: cell.requests), number),
        model_chart=rows(models, money),
    )


@page("/usage/usage.csv", needs="user")
async def usage_csv(visit: PageRequest) -> Answer:
    """A line for each day, model and key."""
    cells = await visit.site.usage.cells(visit.member.account_id, _days(visit))
    names = await _key_names(visit)
    lines = (
        (_date(cell.day), cell.kind, plain(cell.model), cell.key_id, plain(names.get(cell.key_id)), cell.requests,
         cell.input_units, cell.output_units, format_dollars(cell.cost), "USD")
        for cell in cells
    )  # fmt: skip
    return visit.file(sheet(COLUMNS, lines), "text/csv", "usage.csv")


@page("/usage/requests", needs="user")
async def requests(visit: PageRequest) -> Answer:
    """The last hundred requests: what each cost, how long it took, how it ended."""
    found = await visit.site.database.read_async(recent_requests, visit.member.account_id, LAST)
    return visit.render(
        "usage/requests.html", rows=found, most=LAST, names=await _key_names(visit), kinds=KINDS, states=STATES,
        generation_name=generation_name,
    )  # fmt: skip


async def _key_names(visit: PageRequest) -> dict[str, str]:
    keys = await visit.site.database.read_async(accounts.keys_of, visit.member.account_id)
    return {key.id: key.name for key in keys} | dict.fromkeys(await _page_keys(visit), visit.gettext("Studio"))


async def _page_keys(visit: PageRequest) -> set[str]:
    def read(connection: Connection) -> set[str]:
        return {key.id for key in accounts.keys_of(connection, visit.member.account_id, for_pages=True)}

    return await visit.site.database.read_async(read)


def _days(visit: PageRequest) -> int:
    wanted = visit.query.get("days", "")
    return int(wanted) if wanted in map(str, PERIODS) else 30


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * MS_PER_DAY / 1000, UTC).date().isoformat()


def _grouped(cells: Iterable[UsageCell], by: Callable[[UsageCell], tuple[object, ...]]) -> list[UsageCell]:
    groups: dict[tuple[object, ...], list[UsageCell]] = {}
    for cell in cells:
        groups.setdefault(by(cell), []).append(cell)
    return [together(group) for group in groups.values()]


def _most_first(cell: UsageCell) -> tuple[int, int]:
    return -cell.cost, -cell.requests


def _daily(visit: PageRequest, cells: list[UsageCell], days: int, amount: Callable[[UsageCell], int]) -> list[Column]:
    """A column for each day, also for those on which nothing was."""
    amounts: dict[tuple[int, str], int] = {(cell.day, cell.kind): amount(cell) for cell in cells}
    today = visit.site.clock.now_ms() // MS_PER_DAY
    return [
        Column(visit.writing.short_day(day * MS_PER_DAY), tuple((kind, amounts.get((day, kind), 0)) for kind in KINDS))
        for day in range(today - days + 1, today + 1)
    ]


def _days_of(cells: list[UsageCell]) -> list[tuple[int, int, dict[str, int]]]:
    """(day, requests, cost by kind) of each day on which something was used, the newest first."""
    found: dict[int, tuple[int, int, dict[str, int]]] = {}
    for cell in cells:
        _, requests, costs = found.get(cell.day, (cell.day, 0, {}))
        found[cell.day] = (cell.day, requests + cell.requests, costs | {cell.kind: cell.cost})
    return [found[day] for day in sorted(found, reverse=True)]


def _ranked(cells: list[UsageCell]) -> list[Column]:
    """The models that cost most."""
    return [Column(cell.model, ((cell.kind, cell.cost),)) for cell in sorted(cells, key=_most_first)[:MOST_BARS]]


HANDLERS: list[HTTPRouteHandler] = [usage, usage_csv, requests]
