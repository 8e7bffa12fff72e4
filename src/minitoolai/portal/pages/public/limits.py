"""The rate limits: those of every account, how to keep within them, and what the reader's account has left now."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from minitoolai.accounts.keys import is_active
from minitoolai.accounts.rate_limits import LimitState
from minitoolai.core.models import KeyRow, RateLimits
from minitoolai.portal.i18n import N_
from minitoolai.portal.pages.account.keys import SPENT_PERIODS
from minitoolai.portal.rendering.highlight import example
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, page
from minitoolai.storage.database import Connection
from minitoolai.storage.tables.accounts import keys_of
from minitoolai.storage.tables.ledger import budget_spent
from minitoolai.storage.tables.shared_limits import full_us_of, slots_of

#: Names of the limits. Dollars are shown as amounts, the others as numbers.
NAMES = {
    "requests": N_("Requests a minute"),
    "tokens": N_("Tokens a minute"),
    "dollars": N_("Dollars a minute"),
    "streams": N_("Concurrent responses"),
    "budget_daily": N_("Dollars a day"),
    "budget_monthly": N_("Dollars a month"),
    "budget_total": N_("Dollars in total"),
}
#: Header → its meaning.
HEADERS = {
    "x-ratelimit-limit-requests": N_("Requests per minute that the key or its account may send."),
    "x-ratelimit-remaining-requests": N_("How many of them are left now."),
    "x-ratelimit-reset-requests": N_("Time until all of them are available again, like 60ms, 1.5s or 6m0s."),
    "x-ratelimit-limit-tokens": N_("The same for tokens, where tokens are limited; also remaining and reset."),
    "retry-after": N_("With status 429 or 503: the seconds to wait before the next try."),
}
#: Keys with limits of their own that the page lists.
MAX_KEYS = 50


class KeyLimits(msgspec.Struct, frozen=True):
    """A key with limits of its own. `budgets`: (name of the limit, limit, rest of it)."""

    row: KeyRow
    states: list[LimitState]
    budgets: list[tuple[str, int, int]]


@page("/limits")
async def limits(page: PageRequest) -> Response:
    """Show the limits. A member also sees those of the account and its keys, with the units left."""
    policy = page.site.keys.policy
    general = RateLimits() if policy is None else policy.limits.of_accounts
    account: list[LimitState] = []
    keys: list[KeyLimits] = []
    if policy is not None and page.user is not None and page.may("read"):
        account_id, now_ms, rates = page.user.account_id, page.site.clock.now_ms(), policy.limits
        name, is_shared = f"account {account_id}", policy.shared_buckets is not None
        lease_ms = page.site.clock.lease_ms()

        def read(
            connection: Connection,
        ) -> tuple[list[KeyRow], dict[str, dict[str, int]], dict[str, int], dict[str, int]]:
            rows = [row for row in keys_of(connection, account_id) if is_active(row, now_ms) and _has_limits(row)]
            rows = sorted(rows, key=lambda row: -row.created_ms)[:MAX_KEYS]
            spent = {row.id: budget_spent(connection, _family(row), now_ms) for row in rows if _budgets(row)}
            names = [name, *(f"key {_family(row)}" for row in rows)]
            buckets = [f"{each}/{unit}" for each in names for unit in ("requests", "tokens", "dollars")]
            if not is_shared:
                return rows, spent, {}, {}
            streams = [f"{each}/streams" for each in names]
            return rows, spent, full_us_of(connection, buckets), slots_of(connection, streams, lease_ms)

        rows, spent, full_us, slots = await page.report(read)
        account = rates.states(name, general, full_us, slots)
        keys = [
            KeyLimits(
                row,
                rates.states(f"key {_family(row)}", row.rules.rate, full_us, slots),
                [
                    (budget, limit, max(0, limit - spent[row.id].get(SPENT_PERIODS[budget[7:]], 0)))
                    for budget, limit in _budgets(row)
                ],
            )
            for row in rows
        ]
    return page.render(
        "guide/limits.html", general=general, account=account, keys=keys, names=NAMES, headers=HEADERS,
        queued=page.site.max_queued_images, upload_mb=page.site.transcription.forms.max_mb, example=example,
    )  # fmt: skip


def _family(row: KeyRow) -> str:
    """Return what the limits and budgets of a key are counted under. A rotated key shares them with its successor."""
    return row.rotation_group or row.id


def _budgets(row: KeyRow) -> list[tuple[str, int]]:
    budgets = [(name, getattr(row.rules, name)) for name in NAMES if name.startswith("budget_")]
    return [(name, limit) for name, limit in budgets if limit is not None]


def _has_limits(row: KeyRow) -> bool:
    return row.rules.rate != RateLimits() or bool(_budgets(row))


HANDLERS: list[Handler] = [limits]
