"""The user's account: password, sessions, deletion, the balance and the statement."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

from starlette.responses import Response

from minitoolai.accounts.users import digest
from minitoolai.core.clock import generation_name
from minitoolai.core.models import Device, StatementRow
from minitoolai.core.money import format_dollars
from minitoolai.core.threads import EXPORTS
from minitoolai.http.exports import Parts, csv_lines
from minitoolai.portal.i18n import N_
from minitoolai.portal.pages.access.auth import email_composer, read_new_password
from minitoolai.portal.proofs import confirm_password, wait_to_prove_s, ways_to_prove
from minitoolai.portal.rendering.charts import escape_formula
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, form, not_found, page, too_many_requests
from minitoolai.storage.tables.payments import payments_owing
from minitoolai.storage.tables.reports import StatementPlace


@page("/account", access="user", action="self")
async def account_page(page: PageRequest) -> Response:
    """Show the account with its forms."""
    return await render_account(page)


async def render_account(page: PageRequest, status: int = 200) -> Response:
    """Return the account page, with its sessions and the errors of a form."""
    site, secret_hash = page.site, digest(page.session_secret)
    sessions = await site.users.sessions(page.member)
    return page.render(
        "account/account.html", status, sessions=sessions, current=secret_hash, device_name=partial(device_name, page),
        email_change=await site.email_changes.pending(page.member),
        identities=await site.external.of_user(page.member),
        connect_token=site.signer.pack("connect", page.connect_mark),
        passkeys=await site.passkeys.of_user(page.member), ways=await ways_to_prove(page),
    )  # fmt: skip


def device_name(page: PageRequest, device: Device) -> str:
    """Return the browser of a session in words."""
    if device.browser and device.system:
        names = {"browser": device.browser, "system": device.system}
        return page.gettext("%(browser)s on %(system)s") % names
    return device.browser or device.system or page.gettext("Unknown browser")


@form("/account/password", access="user", action="self")
async def change_password(page: PageRequest) -> Response:
    """Set a new password, if the old one is right."""
    old, new = page.form.pop_password("password_old"), page.form.pop_password("password")
    if wait_s := await wait_to_prove_s(page):
        return too_many_requests(page, wait_s)
    read_new_password(page, new)
    if page.form.is_valid and not await page.site.users.verify_password(page.member, old):
        page.form.add_error("password_old", page.gettext("Wrong password."))
    if not page.form.is_valid:
        return await render_account(page, 422)
    compose = email_composer(page, page.member.email)
    visitor = await page.site.users.change_password(page.member, new, compose, page.device)
    if visitor:
        page.sign_in(visitor)
    return page.redirect("/account", flash=page.gettext("Your new password is set; other browsers are signed out."))


#: Why an account cannot be deleted now.
UNDELETED = {
    "busy": N_("Requests of this account are still running. Try again in a minute."),
    "has_members": N_("Your account has other members. Remove them, or make one of them the owner, then try again."),
    "last_owner": N_("You are the last owner of another account. Make another member its owner, then try again."),
}


@form("/account/leave", access="user", action="self")
async def leave(page: PageRequest) -> Response:
    """Delete the user, if the password is right."""
    if (wait := await confirm_password(page, "password_leave")) is not None:
        return wait
    if not page.form.is_valid:
        return await render_account(page, 422)
    result = await page.site.users.delete_account(page.member)
    if result != "done":
        return page.redirect("/account", flash=page.gettext(UNDELETED[result]), kind="bad")
    page.sign_out()
    return page.redirect("/", flash=page.gettext("Your account is deleted. Goodbye!"))


# ── sessions ──────────────────────────────────────────────────────────────────────────────────────────────


@form("/account/sessions/end", access="user", action="self")
async def end_session(page: PageRequest) -> Response:
    """End one session of this account."""
    try:
        secret_hash = bytes.fromhex(page.form["session"])
    except ValueError:
        return not_found(page)
    if secret_hash == digest(page.session_secret):
        await page.site.users.sign_out(page.session_secret)
        page.sign_out()
        return page.redirect("/", flash=page.gettext("You are signed out."))
    # If the session has ended meanwhile, there is nothing left to do.
    await page.site.users.end_session(page.member, secret_hash)
    return page.redirect("/account", flash=page.gettext("That browser is signed out."))


@form("/account/sessions/end-others", access="user", action="self")
async def end_other_sessions(page: PageRequest) -> Response:
    """End all sessions of this account but the present one."""
    await page.site.users.end_other_sessions(page.member, page.session_secret)
    return page.redirect("/account", flash=page.gettext("All other browsers are signed out."))


# ── balance and statement ─────────────────────────────────────────────────────────────────────────────────

PAGE_SIZE = 50
#: Names of the kinds of transfers. Usage shows its model instead.
TRANSFER_NAMES = {
    "grant": N_("Credit"),
    "coupon": N_("Coupon"),
    "signup": N_("Credit for signing up"),
    "plan": N_("Plan"),
    "plan_refund": N_("Unused part of a plan"),
    "plan_credit": N_("Credit of a plan"),
    "plan_expiry": N_("Expired credit"),
    "voucher": N_("Voucher"),
    "payment": N_("Payment"),
    "refund": N_("Refunded"),
    "reversal": N_("Credit taken back"),
    "usage_refund": N_("Refund of usage"),
    "usage": N_("Usage"),
}
WORK_NAMES = {"chat": N_("Chat"), "image": N_("Image"), "speech": N_("Speech"), "transcription": N_("Transcription")}
COLUMNS = (
    "number", "time", "kind", "amount", "balance", "currency", "note", "generation", "work", "model", "key",
    "input_units", "output_units", "estimated", "cached_input_units",
)  # fmt: skip


@page("/balance", access="user", action="read")
async def balance(page: PageRequest) -> Response:
    """Show the balance and a page of the statement (keyset pagination: rows below a number, before a time)."""
    below, before_ms = page.query_number("below"), page.query_number("until")
    account_id = page.member.account_id

    rows = await page.site.reports.archive.statement_page(
        account_id,
        below=below,
        before_ms=before_ms or page.site.clock.now_ms() + 60_000,
        rows_wanted=PAGE_SIZE + 1,
    )
    owed = sum(payment.owed for payment in await page.site.database.read_async(payments_owing, account_id))
    older = rows[PAGE_SIZE - 1] if len(rows) > PAGE_SIZE else None
    return page.render(
        "balance/balance.html", rows=rows[:PAGE_SIZE], older=older, newer=below is not None, owed=owed,
        kinds=TRANSFER_NAMES, work=WORK_NAMES, generation_name=generation_name,
    )  # fmt: skip


@page("/balance/statement.csv", access="user", action="read")
async def statement(page: PageRequest) -> Response:
    """Download the whole statement as CSV."""
    return await page.export(_statement_csv(page), "text/csv", "statement.csv")


async def _statement_csv(page: PageRequest) -> Parts:
    """Yield one CSV line per transfer, in UTC and exact dollars. Each part is a short report of its own."""
    header = csv_lines([COLUMNS])
    place: StatementPlace | None = StatementPlace()
    while place is not None:
        rows, following = await page.site.reports.archive.statement_part(page.member.account_id, place)
        yield header + await EXPORTS.run(_encode, rows)
        header = b""
        place = following


def _encode(rows: list[StatementRow]) -> bytes:
    return csv_lines(map(statement_line, rows))


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


HANDLERS: list[Handler] = [
    account_page, change_password, leave, end_session, end_other_sessions, balance, statement,
]  # fmt: skip
