"""Dashboards: revenue, margin, requests, failures and times by day, model, engine and customer; each as CSV too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar, cast
from urllib.parse import urlencode

from starlette.responses import Response

from minitoolai.core.clock import MS_PER_DAY, date_of
from minitoolai.core.money import format_dollars
from minitoolai.core.threads import EXPORTS
from minitoolai.http.exports import Parts, csv_lines
from minitoolai.portal.i18n import N_
from minitoolai.portal.rendering.charts import Column, column_chart, escape_formula, row_chart
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, page
from minitoolai.portal.site import MAX_RANKED
from minitoolai.storage.database import Connection
from minitoolai.storage.insight.traffic import (
    Dimension,
    Filter,
    RefundSums,
    Traffic,
    add_up,
    emails_of,
    refunds_since,
    traffic_by,
    traffic_by_account,
    traffic_by_day,
    traffic_of_days,
)

PERIODS = (1, 7, 30, 90)
DEFAULT_PERIOD = 30
#: `by` of the address → column of the table, and the heading.
DIMENSIONS: dict[str, tuple[Dimension, str]] = {
    "model": ("model", N_("Model")),
    "engine": ("engine", N_("Engine")),
    "customer": ("account_id", N_("Customer")),
}
Key = TypeVar("Key")
#: Day, name and sums of a line of a file.
DayLine = tuple[int, str | int, Traffic]
#: Bars of a column, from the bottom up.
Amounts = tuple[tuple[str, int], ...]
#: Lines of the table, and bars of its chart. The file has all lines.
MAX_ROWS, MAX_BARS = MAX_RANKED, 8
#: Lines of a page of all customers by number.
PAGE_ROWS = 25
#: Lines of a file in one read, and days, unless they have more lines.
FILE_ROWS, FILE_DAYS = 1_000, 30
COLUMNS = (
    "day", "by", "name", "requests", "failed", "revenue", "upstream_cost", "margin", "currency", "mean_duration_ms",
    "mean_first_token_ms", "refunded", "revenue_with_known_cost",
)  # fmt: skip


@page("/admin/dashboard", access="admin")
async def dashboard(page: PageRequest) -> Response:
    """Show charts by day, and a table by model, engine or customer."""
    days, by, only = _period(page), _by(page), _filter(page)
    today = page.site.clock.now_ms() // MS_PER_DAY
    from_day, dimension = today - days + 1, DIMENSIONS[by][0]

    # All customers together: their number has no bound, so the best are added up in the background, and the others
    # listed page by page.
    is_ranked = by == "customer" and only.account_id is None
    after = page.query_number("after") if is_ranked else None
    ranking = await page.site.rankings.top(from_day, only) if is_ranked and after is None else None
    older: int | None = None

    def read(connection: Connection) -> tuple[dict[int, Traffic], list[tuple[str | int, Traffic]], dict[int, str]]:
        nonlocal older
        if after is not None:
            lines, older = traffic_by_account(connection, from_day, only, after, PAGE_ROWS)
        elif is_ranked:
            lines = list(ranking.lines) if ranking is not None else []
        else:
            lines = traffic_by(connection, dimension, from_day, only, MAX_ROWS)
        accounts = {name for name, _ in lines if isinstance(name, int)} | {only.account_id or 0}
        refunds = refunds_since(connection, dimension, from_day, only)
        by_day = deduct(traffic_by_day(connection, from_day, only), ((key[0], one) for key, one in refunds.items()))
        by_line = deduct(dict(lines), ((key[1], one) for key, one in refunds.items()))
        return by_day, list(by_line.items()), emails_of(connection, sorted(accounts))

    by_day, lines, emails = await page.report(read)
    if after is None:
        lines.sort(key=lambda line: -line[1].cost)
    named = [(name, emails.get(cast(int, name), str(name)), sums) for name, sums in lines]
    money, number = page.formatter.money, page.formatter.number
    total = add_up(by_day.values())
    series = [(day, by_day.get(day, Traffic())) for day in range(from_day, today + 1)]

    def chart(amounts: Callable[[Traffic], Amounts]) -> list[Column]:
        return [Column(page.formatter.short_day(day * MS_PER_DAY), amounts(sums)) for day, sums in series]

    return page.render(
        "admin/dashboard.html",
        days=days, periods=PERIODS, by=by, dimensions=DIMENSIONS, only=only, total=total, lines=named,
        customer=emails.get(only.account_id or 0, only.account_id), ms_per_day=MS_PER_DAY,
        by_day=[(day, sums) for day, sums in reversed(series) if sums.requests],
        address=_address(page, days, by, only), counted_until_ms=page.site.traffic.counted_until_ms,
        money_chart=column_chart(chart(_money), money), request_chart=column_chart(chart(_results), number),
        time_chart=column_chart(chart(_times), lambda ms: number(ms) + " ms"),
        line_chart=row_chart([Column(name, _money(sums)) for _, name, sums in named[:MAX_BARS]], money),
        is_ranked=is_ranked, ranking=ranking, after=after, older=older, most=MAX_ROWS,
    )  # fmt: skip


def deduct(sums: dict[Key, Traffic], refunds: Iterable[tuple[Key, RefundSums]]) -> dict[Key, Traffic]:
    """Return the sums after these refunds. Those of requests that are not counted yet are left out with them."""
    for key, refund in refunds:
        if key in sums:
            sums[key] = sums[key].less(refund)
    return sums


def _money(sums: Traffic) -> Amounts:
    """Return what together is the revenue, unless there is a loss: margin, upstream cost, and that without a cost."""
    return (("margin", max(sums.margin or 0, 0)), ("bought", sums.purchase), ("unknown", max(sums.unknown, 0)))


def _results(sums: Traffic) -> Amounts:
    return (("fine", sums.requests - sums.failures), ("failed", sums.failures))


def _times(sums: Traffic) -> Amounts:
    """Return the mean time to the first token, and the mean time from there to the end."""
    whole, first = sums.mean_ms or 0, min(sums.mean_first_ms or 0, sums.mean_ms or 0)
    return (("first", first), ("rest", whole - first))


@page("/admin/dashboard/report.csv", access="admin")
async def report(page: PageRequest) -> Response:
    """Download one CSV line per day and model, engine or customer."""
    return await page.export(_lines(page), "text/csv", f"{_by(page)}s.csv")


async def _lines(page: PageRequest) -> Parts:
    """Yield the lines of each day. A part is a short report of its own, so a file of any length needs no memory."""
    days, by, only = _period(page), _by(page), _filter(page)
    today, dimension = page.site.clock.now_ms() // MS_PER_DAY, DIMENSIONS[by][0]
    refunds = await page.report(refunds_since, dimension, today - days + 1, only)
    yield csv_lines([COLUMNS])
    day, together, after = today - days + 1, FILE_DAYS, None
    while day <= today:
        part = range(day, min(day + together, today + 1))
        rows, emails = await page.report(_part_of_days, part, dimension, only, after)
        if len(rows) == FILE_ROWS and together > 1:
            # Too many lines for one part: go on with one day at a time.
            together = 1
            continue
        if rows:
            yield await EXPORTS.run(_encode, by, rows, refunds, emails)
        if len(rows) == FILE_ROWS:
            after = rows[-1][1]
        else:
            day, after = part.stop, None


def _part_of_days(
    connection: Connection, days: range, dimension: Dimension, only: Filter, after: str | int | None
) -> tuple[list[DayLine], dict[int, str]]:
    rows = traffic_of_days(connection, days, dimension, only, after, FILE_ROWS)
    return rows, emails_of(connection, [name for _, name, _ in rows if isinstance(name, int)])


def _encode(
    by: str, rows: list[DayLine], refunds: dict[tuple[int, str | int], RefundSums], emails: dict[int, str]
) -> bytes:
    def lines() -> Iterator[tuple[object, ...]]:
        for day, name, before in rows:
            sums = before.less(refunds[day, name]) if (day, name) in refunds else before
            yield (
                date_of(day), by,
                escape_formula(emails.get(cast(int, name), str(name))), sums.requests, sums.failures,
                format_dollars(sums.cost), format_dollars(sums.purchase),
                "" if sums.margin is None else format_dollars(sums.margin), "USD",
                "" if sums.mean_ms is None else sums.mean_ms, "" if sums.mean_first_ms is None else sums.mean_first_ms,
                format_dollars(sums.refunded), format_dollars(sums.known),
            )  # fmt: skip

    return csv_lines(lines())


# ── the address ───────────────────────────────────────────────────────────────────────────────────────────


def _period(page: PageRequest) -> int:
    wanted = page.query.get("days", "")
    return int(wanted) if wanted in map(str, PERIODS) else DEFAULT_PERIOD


def _by(page: PageRequest) -> str:
    wanted = page.query.get("by", "")
    return wanted if wanted in DIMENSIONS else "model"


def _filter(page: PageRequest) -> Filter:
    texts = {name: page.query.get(name, "")[:200].replace("\0", "") or None for name in ("model", "engine")}
    return Filter(page.query_number("customer"), **texts)


def _address(page: PageRequest, days: int, by: str, only: Filter) -> Callable[..., str]:
    """Return a function that returns the query of this page with some parameters replaced; None leaves one out."""
    now = {"days": days, "by": by, "customer": only.account_id, "model": only.model, "engine": only.engine}

    def address(**changed: object) -> str:
        return "?" + urlencode({name: value for name, value in (now | changed).items() if value is not None})

    return address


HANDLERS: list[Handler] = [dashboard, report]
