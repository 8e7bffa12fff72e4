"""The user's own page: password, and leaving."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime

from litestar.handlers import HTTPRouteHandler

from minitoolai.core.clock import generation_name
from minitoolai.core.models import StatementRow
from minitoolai.core.money import format_dollars
from minitoolai.portal.charts import plain
from minitoolai.portal.i18n import N_
from minitoolai.portal.pages.auth import GUESSES, composer, read_new_password
from minitoolai.portal.request import Answer, PageRequest
from minitoolai.portal.routing import form, page, too_often
from minitoolai.storage.database import Connection
from minitoolai.storage.payments import payments_owing
from minitoolai.storage.reports import full_statement, statement_page


@page("/account", needs="user")
async def account_page(visit: PageRequest) -> Answer:
    """What we know of the user, and the forms."""
    return visit.render("account/account.html")


@form("/account/password", needs="user")
async def change_password(visit: PageRequest) -> Answer:
    """A new password, for whoever knows the old one."""
    old, new = visit.form.secret("password_old"), visit.form.secret("password")
    if wait_s := _wait(visit):
        return too_often(visit, wait_s)
    read_new_password(visit, new)
    if visit.form.is_good and not await visit.site.users.knows_password(visit.member, old):
        visit.form.refuse("password_old", visit.gettext("This is not your password."))
    if not visit.form.is_good:
        return visit.render("account/account.html", 422)
    write = composer(visit, visit.member.email)
    visitor = await visit.site.users.change_password(visit.member, new, write)
    if visitor:
        visit.sign_in(visitor)
    return visit.redirect("/account", said=visit.gettext("Your new password is set; other browsers are signed out."))


@form("/account/leave", needs="user")
async def leave(visit: PageRequest) -> Answer:
    """Delete the user, for whoever knows the password and says so."""
    password = visit.form.secret("password_leave")
    if wait_s := _wait(visit):
        return too_often(visit, wait_s)
    if not await visit.site.users.knows_password(visit.member, password):
        visit.form.refuse("password_leave", visit.gettext("This is not your password."))
        return visit.render("account/account.html", 422)
    if not await visit.site.users.leave(visit.member):
        said = visit.gettext("Requests of this account are still running. Try again in a minute.")
        return visit.redirect("/account", said=said, kind="bad")
    visit.sign_out()
    return visit.redirect("/", said=visit.gettext("Your account is deleted. Goodbye!"))


def _wait(visit: PageRequest) -> int:
    return visit.site.attempts.wait_s(f"guess {visit.address} {visit.member.email}", GUESSES)


# (merged from balance) The balance and the statement: every movement of the account, with what it paid for.

ROWS = 50
#: What kinds of movements are called. Usage is called by its model.
KINDS = {
    "grant": N_("Credit"),
    "voucher": N_("Voucher"),
    "payment": N_("Payment by card"),
    "refund": N_("Taken back"),
    "usage": N_("Usage"),
}
WORK = {"chat": N_("Chat"), "image": N_("Image"), "speech": N_("Speech")}
COLUMNS = (
    "number", "time", "kind", "amount", "balance", "currency", "note", "generation", "work", "model", "key",
    "input_units", "output_units", "estimated",
)  # fmt: skip


@page("/balance", needs="user")
async def balance(visit: PageRequest) -> Answer:
    """What there is, and where it came from and went."""
    below, before_ms = _number(visit, "below"), _number(visit, "until")
    account_id = visit.member.account_id

    def read(connection: Connection) -> tuple[list[StatementRow], int]:
        rows = statement_page(
            connection,
            account_id,
            below=below,
            before_ms=before_ms or visit.site.clock.now_ms() + 60_000,
            rows=ROWS + 1,
        )
        return rows, sum(payment.owed for payment in payments_owing(connection, account_id))

    rows, owed = await visit.site.database.read_async(read)
    older = rows[ROWS - 1] if len(rows) > ROWS else None
    return visit.render(
        "balance/balance.html", rows=rows[:ROWS], older=older, newer=below is not None, owed=owed,
        kinds=KINDS, work=WORK, generation_name=generation_name,
    )  # fmt: skip


@page("/balance/statement.csv", needs="user")
async def statement(visit: PageRequest) -> Answer:
    """The whole statement as a file."""
    rows = await visit.site.database.read_async(full_statement, visit.member.account_id)
    return visit.file(as_csv(rows), "text/csv", "statement.csv")


def as_csv(rows: list[StatementRow]) -> bytes:
    """One line a movement, in UTC and exact dollars."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row in rows:
        moment = datetime.fromtimestamp(row.at_ms / 1000, UTC).isoformat(timespec="milliseconds")
        head = (row.version, moment, row.kind, format_dollars(row.amount), format_dollars(row.balance_after), "USD")
        name = "" if row.generation_id is None else generation_name(row.generation_id)
        tail = (plain(row.reason), name, row.work or "", plain(row.model), row.key_id or "", row.input_units)
        writer.writerow((*head, *tail, row.output_units, int(row.estimated)))
    return text.getvalue().encode()


def _number(visit: PageRequest, name: str) -> int | None:
    text = visit.query.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


HANDLERS: list[HTTPRouteHandler] = [account_page, change_password, leave, balance, statement]
