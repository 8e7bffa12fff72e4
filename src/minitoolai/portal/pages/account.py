"""The user's account: change the password, delete the account, the balance and the statement."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.responses import Response

from minitoolai.core.clock import generation_name
from minitoolai.core.models import StatementRow
from minitoolai.core.money import format_dollars
from minitoolai.http.exports import Parts, csv_lines
from minitoolai.portal.charts import escape_formula
from minitoolai.portal.i18n import N_
from minitoolai.portal.pages.auth import GUESSES, email_composer, read_new_password
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, form, page, too_many_requests
from minitoolai.storage.database import Connection
from minitoolai.storage.payments import payments_owing
from minitoolai.storage.reports import StatementPlace, statement_page, statement_part


@page("/account", access="user")
async def account_page(page: PageRequest) -> Response:
    """Show the account with its forms."""
    return page.render("account/account.html")


@form("/account/password", access="user")
async def change_password(page: PageRequest) -> Response:
    """Set a new password, if the old one is right."""
    old, new = page.form.pop_password("password_old"), page.form.pop_password("password")
    if wait_s := _wait_s(page):
        return too_many_requests(page, wait_s)
    read_new_password(page, new)
    if page.form.is_valid and not await page.site.users.verify_password(page.member, old):
        page.form.add_error("password_old", page.gettext("This is not your password."))
    if not page.form.is_valid:
        return page.render("account/account.html", 422)
    compose = email_composer(page, page.member.email)
    visitor = await page.site.users.change_password(page.member, new, compose)
    if visitor:
        page.sign_in(visitor)
    return page.redirect("/account", flash=page.gettext("Your new password is set; other browsers are signed out."))


@form("/account/leave", access="user")
async def leave(page: PageRequest) -> Response:
    """Delete the user, if the password is right."""
    password = page.form.pop_password("password_leave")
    if wait_s := _wait_s(page):
        return too_many_requests(page, wait_s)
    if not await page.site.users.verify_password(page.member, password):
        page.form.add_error("password_leave", page.gettext("This is not your password."))
        return page.render("account/account.html", 422)
    if not await page.site.users.delete_account(page.member):
        message = page.gettext("Requests of this account are still running. Try again in a minute.")
        return page.redirect("/account", flash=message, kind="bad")
    page.sign_out()
    return page.redirect("/", flash=page.gettext("Your account is deleted. Goodbye!"))


def _wait_s(page: PageRequest) -> int:
    # By the account alone: a session is needed, so no other client can use this up.
    return page.site.throttle.wait_s(f"password {page.member.account_id}", GUESSES)


# ── balance and statement ─────────────────────────────────────────────────────────────────────────────────

PAGE_SIZE = 50
#: Names of the kinds of transfers. Usage shows its model instead.
TRANSFER_NAMES = {
    "grant": N_("Credit"),
    "voucher": N_("Voucher"),
    "payment": N_("Payment by card"),
    "refund": N_("Taken back"),
    "usage": N_("Usage"),
}
WORK_NAMES = {"chat": N_("Chat"), "image": N_("Image"), "speech": N_("Speech")}
COLUMNS = (
    "number", "time", "kind", "amount", "balance", "currency", "note", "generation", "work", "model", "key",
    "input_units", "output_units", "estimated", "cached_input_units",
)  # fmt: skip


@page("/balance", access="user")
async def balance(page: PageRequest) -> Response:
    """Show the balance and a page of the statement (keyset pagination: rows below a number, before a time)."""
    below, before_ms = page.query_number("below"), page.query_number("until")
    account_id = page.member.account_id

    def read(connection: Connection) -> tuple[list[StatementRow], int]:
        rows = statement_page(
            connection,
            account_id,
            below=below,
            before_ms=before_ms or page.site.clock.now_ms() + 60_000,
            rows=PAGE_SIZE + 1,
        )
        return rows, sum(payment.owed for payment in payments_owing(connection, account_id))

    rows, owed = await page.report(read)
    older = rows[PAGE_SIZE - 1] if len(rows) > PAGE_SIZE else None
    return page.render(
        "balance/balance.html", rows=rows[:PAGE_SIZE], older=older, newer=below is not None, owed=owed,
        kinds=TRANSFER_NAMES, work=WORK_NAMES, generation_name=generation_name,
    )  # fmt: skip


@page("/balance/statement.csv", access="user")
async def statement(page: PageRequest) -> Response:
    """Download the whole statement as CSV."""
    return await page.export(_statement_csv(page), "text/csv", "statement.csv")


async def _statement_csv(page: PageRequest) -> Parts:
    """Yield one CSV line per transfer, in UTC and exact dollars. Each part is a short report of its own."""

    def read(connection: Connection, place: StatementPlace) -> tuple[bytes, StatementPlace | None]:
        rows, following = statement_part(connection, page.member.account_id, place)
        return csv_lines(map(statement_line, rows)), following

    header = csv_lines([COLUMNS])
    place: StatementPlace | None = StatementPlace()
    while place is not None:
        lines, following = await page.report(read, place)
        yield header + lines
        header = b""
        place = following


def statement_line(row: StatementRow) -> tuple[object, ...]:
    """Return the cells of one transfer, as COLUMNS names them."""
    moment = datetime.fromtimestamp(row.at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    head = (row.version, moment, row.kind, format_dollars(row.amount), format_dollars(row.balance_after), "USD")
    name = "" if row.generation_id is None else generation_name(row.generation_id)
    tail = (
        escape_formula(row.reason),
        name,
        row.work or "",
        escape_formula(row.model),
        row.key_id or "",
        row.input_units,
    )
    return *head, *tail, row.output_units, int(row.estimated), row.cached_units


HANDLERS: list[Handler] = [account_page, change_password, leave, balance, statement]
