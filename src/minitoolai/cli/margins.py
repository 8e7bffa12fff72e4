"""`minitoolai margin`: what was sold, and what the upstreams charge for it."""

from __future__ import annotations

import argparse

from minitoolai.cli.common import CLOCK, read, say
from minitoolai.cli.listing import percent
from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.models import MarginRow
from minitoolai.core.money import format_dollars
from minitoolai.settings import Settings
from minitoolai.storage import generations


def margin(settings: Settings, options: argparse.Namespace) -> None:
    """margin [--days N]: a line for each model and engine, then the sum."""
    if not 1 <= options.days <= 36_500:
        raise InvalidRequest("--days must be from 1 to 36500", param="days")
    rows = read(settings, lambda c: generations.margins(c, CLOCK.now_ms() - options.days * MS_PER_DAY))
    say(f"{'model':<20} {'engine':<14} {'requests':>9} {'sold':>16} {'bought':>16} {'margin':>16}")
    for row in rows:
        say(_line(row.model, row.engine, row))
    sums = (sum(getattr(row, name) for row in rows) for name in ("requests", "sold", "bought", "sold_of_known"))
    say(_line("all", "", MarginRow("", "", *sums)))


def _line(model: str, engine: str, row: MarginRow) -> str:
    """Of work whose purchase price the catalog does not give, nothing is known: it counts as sold, not as margin."""
    bought, left = "-", "-"
    if row.sold_of_known or row.bought:
        bought, earned = format_dollars(row.bought), row.sold_of_known - row.bought
        left = f"{format_dollars(earned)} {percent(earned, row.sold_of_known)}"
    return f"{model:<20} {engine:<14} {row.requests:>9} {format_dollars(row.sold):>16} {bought:>16} {left:>16}".rstrip()
