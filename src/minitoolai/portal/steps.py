"""The first steps of a new customer: which are done, as the rows say, and a quick start with a new key filled in."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from markupsafe import Markup

from minitoolai.accounts.keys import NewKey
from minitoolai.availability import Reports
from minitoolai.core.catalog.shop import Shop
from minitoolai.portal.forms import YEAR_S
from minitoolai.portal.rendering.highlight import QUICK_MODEL, example
from minitoolai.portal.request import PageRequest
from minitoolai.storage.tables.reports import last_usage

#: Cookie with the account whose first steps are hidden in this browser.
COOKIE = "steps"
#: The tabs of the quick start.
QUICK_TABS = {"curl": "curl", "python": "Python", "javascript": "JavaScript"}


class FirstSteps(msgspec.Struct, frozen=True):
    """Which of the first steps are done."""

    key: bool
    call: bool
    credit: bool


async def first_steps(page: PageRequest, has_key: bool) -> FirstSteps | None:
    """Return the steps to show, or None if all are done or the customer has hidden them."""
    account_id = page.member.account_id
    if page.cookie(COOKIE) == str(account_id):
        return None
    called = bool(await page.site.database.read_async(last_usage, account_id, 1))
    # Every transfer follows a credit.
    credited = page.member.available > 0 or bool(
        await page.site.reports.archive.statement_page(
            account_id, below=None, before_ms=page.site.clock.now_ms() + 60_000, rows_wanted=1
        )
    )
    steps = FirstSteps(has_key, called, credited)
    return None if steps.key and steps.call and steps.credit else steps


def hide_steps(page: PageRequest) -> None:
    """Hide the steps of this account in this browser."""
    page.set_cookie(COOKIE, str(page.member.account_id), max_age_s=YEAR_S)


def quick_start(reports: Reports, key: NewKey) -> dict[str, Any]:
    """Return what the macro `programs` needs to show a first call with this key. Its text is in the page alone."""
    allowed = key.row.rules.models or reports.catalog.chat
    offers = [reports.offer(model) for name, model in reports.catalog.chat.items() if name in allowed]
    ready = [offer.model.name for offer in offers if offer.engine] or [offer.model.name for offer in offers]
    models = {} if QUICK_MODEL in ready or not ready else {QUICK_MODEL: ready[0]}
    return {
        "example": partial(_with_key, key.text, models, reports.catalog.shop),
        "tabs_of": lambda _: QUICK_TABS if ready else {},
    }


def _with_key(key: str, models: dict[str, str], shop: Shop, name: str, origin: str) -> Markup:
    # A key has letters, digits and hyphens.
    return Markup(example(name, origin, models, shop).replace("sk-…", key))  # noqa: S704
