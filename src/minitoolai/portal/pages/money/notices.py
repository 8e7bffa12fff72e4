"""What a customer is notified of, by mail and webhook."""

from __future__ import annotations

from starlette.responses import Response

from minitoolai.core.errors import InvalidRequest
from minitoolai.httpclient.guarded import check_url
from minitoolai.portal.amounts import amount_text, read_amount
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, form, page
from minitoolai.storage.database import Connection
from minitoolai.storage.selling import notices
from minitoolai.storage.selling.notices import NoticeSettings
from minitoolai.storage.tables import accounts

LISTED = 20
FIELDS = ("low_balance", "webhook_url", "by_mail", "budgets")


@page("/account/notices", access="user", action="pay")
async def notice_page(page: PageRequest) -> Response:
    """Show the form, and the last notices."""
    found = await page.site.database.read_async(notices.find_settings, page.member.account_id)
    settings = found or NoticeSettings(page.member.account_id)
    shown = {
        "low_balance": "" if settings.low_balance is None else amount_text(settings.low_balance),
        "webhook_url": settings.webhook_url or "",
        "by_mail": "on" if settings.by_mail else "",
        "budgets": "on" if found and settings.budgets else "",
    }
    for name, value in shown.items():
        page.form.values.setdefault(name, value)
    return await _render(page)


async def _render(page: PageRequest, status: int = 200) -> Response:
    rows = await page.site.database.read_async(notices.notices_of, page.member.account_id, LISTED)
    return page.render("money/notices.html", status, rows=rows)


@form("/account/notices/save", access="user", action="pay", draft_fields=FIELDS)
async def save(page: PageRequest) -> Response:
    """Save the form. A balance that is already below the threshold is not notified: the customer knows."""
    low_balance = read_amount(page, "low_balance")
    url = page.form["webhook_url"]
    if url:
        try:
            check_url(url, field="webhook_url", insecure=page.site.allows_insecure_webhooks)
        except InvalidRequest:
            page.form.add_error("webhook_url", page.gettext("Enter a public address that begins with https://."))
    if not page.form.is_valid:
        return await _render(page, 422)
    account_id = page.member.account_id
    by_mail, budgets = bool(page.form["by_mail"]), bool(page.form["budgets"])

    def change(connection: Connection) -> None:
        is_low = low_balance is not None and accounts.balance_of(connection, account_id).posted < low_balance
        settings = NoticeSettings(account_id, by_mail, url or None, low_balance, is_low, budgets)
        notices.save_settings(connection, settings)
        page.log_action(connection, "notices")

    await page.site.writer.run(change)
    return page.redirect("/account/notices", flash=page.gettext("Saved."))


HANDLERS: list[Handler] = [notice_page, save]
