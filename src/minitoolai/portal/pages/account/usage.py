"""Usage by day, model and key as charts, tables and CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.responses import Response

from minitoolai.billing.usage import LAST_COLUMNS, last_values
from minitoolai.core.catalog.prices import OUTPUT_BUCKETS
from minitoolai.core.clock import MS_PER_DAY, date_of
from minitoolai.core.models import UsageCell, sum_cells
from minitoolai.core.money import format_dollars
from minitoolai.http.exports import csv_parts
from minitoolai.portal.i18n import N_
from minitoolai.portal.pages.public.docs import BUCKET_NAMES
from minitoolai.portal.rendering.charts import Column, column_chart, escape_formula, row_chart
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, page
from minitoolai.storage.database import Connection
from minitoolai.storage.tables import accounts

PERIODS = (7, 30, 90)
MAX_BARS = 8
#: Periods of plans that are named beside requests.
MAX_PURSES = 200
KINDS = {"chat": N_("Text"), "image": N_("Images"), "speech": N_("Speech"), "transcription": N_("Transcription")}
STATES = {
    "queued": N_("queued"),
    "running": N_("in progress"),
    "succeeded": N_("completed"),
    "failed": N_("failed"),
    "cancelled": N_("cancelled"),
}
COLUMNS = ("day", "kind", "model", "key_id", "key_name", "requests", "input_units", "output_units", "cost", "currency",
           *LAST_COLUMNS)  # fmt: skip


@page("/usage", access="user", action="read")
async def usage(page: PageRequest) -> Response:
    """Show charts and tables of a number of days."""
    days = _period_days(page)
    cells = await page.site.usage.cells(page.member.account_id, days)
    names, playground_keys = await key_names(page)
    by_model = group_cells(cells, lambda cell: (cell.model, cell.kind))
    # All keys of the playground are one line, because each lives for minutes.
    studio = page.gettext("Studio")
    by_key = group_cells(cells, lambda cell: (studio if cell.key_id in playground_keys else cell.key_id, cell.kind))
    by_day = group_cells(cells, lambda cell: (cell.day, cell.kind))
    totals = group_cells(cells, lambda cell: (cell.kind,))
    money, number = page.formatter.money, page.formatter.number
    models = _model_columns(by_model)
    return page.render(
        "usage/usage.html",
        days=days,
        periods=PERIODS,
        kinds=KINDS,
        totals={cell.kind: cell for cell in totals},
        cost=sum(cell.cost for cell in totals),
        refunded=sum(cell.refunded for cell in totals),
        requests=sum(cell.requests for cell in totals),
        by_day=_daily_costs(by_day),
        by_model=sorted(by_model, key=by_cost),
        by_key=sorted(by_key, key=by_cost),
        bucket_names=BUCKET_NAMES,
        output_buckets=OUTPUT_BUCKETS,
        names=names,
        ms_per_day=MS_PER_DAY,
        cost_chart=column_chart(daily_columns(page, by_day, days, lambda cell: cell.cost), money),
        request_chart=column_chart(daily_columns(page, by_day, days, lambda cell: cell.requests), number),
        model_chart=row_chart(models, money),
    )


@page("/usage/usage.csv", access="user", action="read")
async def usage_csv(page: PageRequest) -> Response:
    """Download one CSV line per day, model and key."""
    cells = await page.site.usage.cells(page.member.account_id, _period_days(page))
    names, _ = await key_names(page)
    lines = (
        (
            date_of(cell.day), cell.kind, escape_formula(cell.model), cell.key_id,
            escape_formula(names.get(cell.key_id)), cell.requests, cell.input_units, cell.output_units,
            format_dollars(cell.cost), "USD", *last_values(cell),
        )
        for cell in cells
    )  # fmt: skip
    return await page.export(csv_parts(COLUMNS, lines), "text/csv", "usage.csv")


async def key_names(page: PageRequest) -> tuple[dict[str, str], set[str]]:
    """Return the name of each key, and the keys of the playground, which share one name."""

    def read(connection: Connection) -> tuple[dict[str, str], set[str]]:
        own = accounts.keys_of(connection, page.member.account_id)
        return {key.id: key.name for key in own}, {
            key.id for key in accounts.keys_of(connection, page.member.account_id, for_pages=True)
        }

    names, playground_keys = await page.report(read)
    return names | dict.fromkeys(playground_keys, page.gettext("Studio")), playground_keys


def _period_days(page: PageRequest) -> int:
    wanted = page.query.get("days", "")
    return int(wanted) if wanted in map(str, PERIODS) else 30


def group_cells(cells: Iterable[UsageCell], by: Callable[[UsageCell], tuple[object, ...]]) -> list[UsageCell]:
    """Return the sums of the cells with the same key."""
    groups: dict[tuple[object, ...], list[UsageCell]] = {}
    for cell in cells:
        groups.setdefault(by(cell), []).append(cell)
    return [sum_cells(group) for group in groups.values()]


def by_cost(cell: UsageCell) -> tuple[int, int]:
    """Return a sort key: the highest cost first."""
    return -cell.cost, -cell.requests


def daily_columns(
    page: PageRequest, cells: list[UsageCell], days: int, amount: Callable[[UsageCell], int]
) -> list[Column]:
    """Return a column for each day, also for days without usage."""
    amounts: dict[tuple[int, str], int] = {(cell.day, cell.kind): amount(cell) for cell in cells}
    today = page.site.clock.now_ms() // MS_PER_DAY
    return [
        Column(page.formatter.short_day(day * MS_PER_DAY), tuple((kind, amounts.get((day, kind), 0)) for kind in KINDS))
        for day in range(today - days + 1, today + 1)
    ]


def _daily_costs(cells: list[UsageCell]) -> list[tuple[int, int, dict[str, int]]]:
    """Return (day, requests, cost by kind) of each day with usage, newest first."""
    days: dict[int, tuple[int, int, dict[str, int]]] = {}
    for cell in cells:
        _, requests, costs = days.get(cell.day, (cell.day, 0, {}))
        days[cell.day] = (cell.day, requests + cell.requests, costs | {cell.kind: cell.cost})
    return [days[day] for day in sorted(days, reverse=True)]


def _model_columns(cells: list[UsageCell]) -> list[Column]:
    """Return the models with the highest costs."""
    return [Column(cell.model, ((cell.kind, cell.cost),)) for cell in sorted(cells, key=by_cost)[:MAX_BARS]]


HANDLERS: list[Handler] = [usage, usage_csv]
