"""Pages for admins that stop and undo: suspend an account, take credit back, refund a charge, cancel vouchers.

Each change takes two steps that need no script: a form, and a page that says what will happen, with the button that
does it. The second page carries a random `once`, so that the same form sent twice acts once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.responses import Response

from minitoolai.billing import corrections
from minitoolai.billing.corrections import MAX_REASON_LENGTH, Cancelled
from minitoolai.core.clock import parse_generation_name, random_text
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.models import User, Voucher
from minitoolai.portal.amounts import read_amount
from minitoolai.portal.i18n import N_
from minitoolai.portal.request import PageRequest, restore_draft
from minitoolai.portal.routing import Handler, form, not_found, page
from minitoolai.storage.database import Connection
from minitoolai.storage.tables import accounts, payments, refunds, reports
from minitoolai.storage.tables.payments import VoucherPlace

MAX_VOUCHERS = 50


class Correction(msgspec.Struct, frozen=True):
    """A correction of an account: its title, button, explanation and fields."""

    title: str
    button: str
    about: str
    fields: tuple[str, ...] = ("note",)
    required: tuple[str, ...] = ("note",)


CORRECTIONS = {
    "suspend": Correction(
        N_("Suspend account"),
        N_("Suspend"),
        N_(
            "All API keys are refused within a second. Running responses end, and what was delivered is charged. Queued"
            " jobs fail, and nothing is charged for them. The customer can still sign in to read the reason, the"
            " statement and the usage."
        ),
    ),
    "unsuspend": Correction(
        N_("End suspension"), N_("End suspension"), N_("The API keys of the account work again."), required=()
    ),
    "reverse": Correction(
        N_("Take credit back"),
        N_("Take back"),
        N_("At most what is available is taken: nothing that is held for requests in progress, and never below zero."),
        ("amount", "note"),
        ("amount", "note"),
    ),
    "refund": Correction(
        N_("Refund a charge"),
        N_("Refund"),
        N_("The charge of a request is given back, or a part of it. The refunds of a request never exceed its charge."),
        ("generation", "amount", "note"),
        ("generation", "note"),
    ),
}


# ── accounts ──────────────────────────────────────────────────────────────────────────────────────────────


@page("/admin/accounts/{number}/correct/{kind}", access="admin")
async def correction(page: PageRequest) -> Response:
    """Show the form of a correction."""
    user = await _user(page)
    if user is None or page.path_params["kind"] not in CORRECTIONS:
        return not_found(page)
    restore_draft(page, page.path)
    page.form.values.setdefault("generation", page.query.get("generation", "")[:40])
    return _render(page, user)


@form("/admin/accounts/{number}/correct/{kind}", access="admin", draft_fields=("generation", "amount", "note"))
async def correct(page: PageRequest) -> Response:
    """Show what the correction will do or, at the second step, do it."""
    user, kind = await _user(page), page.path_params["kind"]
    if user is None or kind not in CORRECTIONS:
        return not_found(page)
    amount, generation_id = _read_fields(page, kind)
    facts = await _facts(page, user, kind, amount, generation_id) if page.form.is_valid else []
    if not page.form.is_valid:
        return _render(page, user, 422)
    if not page.form["once"]:
        return _render(page, user, facts=facts, once=random_text(20))
    return await _apply(page, user, kind, amount, generation_id)


async def _user(page: PageRequest) -> User | None:
    number: str = page.path_params["number"]
    account_id = int(number) if number.isascii() and number.isdigit() and len(number) < 19 else -1
    return await page.report(reports.find_customer, account_id)


def _read_fields(page: PageRequest, kind: str) -> tuple[int | None, int | None]:
    """Return the amount and the generation of the form, and record its errors."""
    _, wanted, amount, generation_id = page.gettext, CORRECTIONS[kind], None, None
    if "amount" in wanted.fields:
        amount = read_amount(page, "amount")
        if amount is None and "amount" in wanted.required:
            page.form.add_error("amount", _("Enter an amount in dollars, such as 5.00."))
    if "generation" in wanted.fields:
        generation_id = parse_generation_name(page.form["generation"])
        if generation_id is None:
            page.form.add_error("generation", _("Write the ID of a request, like gen-0Bf3cQ8d1aX."))
    _check_note(page, is_required="note" in wanted.required)
    return amount, generation_id


def _check_note(page: PageRequest, *, is_required: bool) -> None:
    note = page.form["note"]
    if is_required and not note:
        page.form.add_error("note", page.gettext("Give a reason. It is kept in the audit log."))
    elif len(note) > MAX_REASON_LENGTH or not note.isprintable():
        page.form.add_error("note", page.gettext("That is too long."))


async def _facts(
    page: PageRequest, user: User, kind: str, amount: int | None, generation_id: int | None
) -> list[tuple[str, str]]:
    """Return what will happen, as names and values, or record why it cannot."""
    _, money = page.gettext, page.formatter.money
    if kind == "suspend":
        if user.account_id == page.member.user_id:
            page.form.add_error("", _("You cannot suspend your own account."))
        jobs = await page.report(accounts.unfinished_jobs_of, user.account_id)
        return [
            (_("Held for requests in progress"), money(user.held)),
            (_("Jobs that will end"), page.formatter.number(len(jobs))),
        ]
    if kind == "reverse":
        taken = min(amount or 0, user.available)
        if not taken:
            page.form.add_error("amount", _("Nothing is available to take back."))
        return [
            (_("Available"), money(user.available)),
            (_("Will be taken back"), money(taken)),
            (_("Available afterwards"), money(user.available - taken)),
        ]
    if kind == "refund":
        return await _refund_facts(page, user, amount, generation_id)
    return []


async def _refund_facts(
    page: PageRequest, user: User, amount: int | None, generation_id: int | None
) -> list[tuple[str, str]]:
    _, money = page.gettext, page.formatter.money
    charge = await page.report(refunds.find_charge, generation_id)
    if charge is None or charge.account_id != user.account_id:
        page.form.add_error("generation", _("This account has no such request, or it is archived."))
        return []
    if charge.is_pending:
        page.form.add_error("generation", _("This request is still running, so nothing was charged yet."))
    elif not charge.left:
        page.form.add_error("generation", _("Nothing of this charge is left to give back."))
    elif amount is not None and amount > charge.left:
        message = _("At most %(most)s can still be given back.") % {"most": money(charge.left)}
        page.form.add_error("amount", message)
    given = charge.left if amount is None else amount
    return [
        (_("Model"), charge.model),
        (_("Charged"), money(charge.cost)),
        (_("Given back before"), money(charge.refunded)),
        (_("Will be given back"), money(given)),
    ]


async def _apply(page: PageRequest, user: User, kind: str, amount: int | None, generation_id: int | None) -> Response:
    clock, admin_id, account_id = page.site.clock, page.member.user_id, user.account_id
    source = page.client_ip
    note, once, money = page.form["note"], page.form["once"][:40], page.formatter.money

    def change(connection: Connection) -> str | InvalidRequest:
        # An error is returned: nothing was written, and the writer would log an exception as a fault.
        try:
            if kind == "suspend":
                corrections.suspend(connection, clock, admin_id, account_id, note, source=source)
                return page.gettext("The account is suspended.")
            if kind == "unsuspend":
                corrections.unsuspend(connection, clock, admin_id, account_id, note, source=source)
                return page.gettext("The account is active again.")
            if kind == "reverse":
                assert amount is not None, "the form was checked"
                taken = corrections.reverse_credit(
                    connection, clock, admin_id, account_id, amount, reason=note, once=once, source=source
                )
                if taken.repeated:
                    return page.gettext("This was done already; nothing changed.")
                return page.gettext("%(amount)s were taken back.") % {"amount": money(taken.taken)}
            assert generation_id is not None, "the form was checked"
            given = corrections.refund_charge(
                connection, clock, admin_id, generation_id, amount, reason=note, once=once, source=source
            )
            if given.repeated:
                return page.gettext("This was done already; nothing changed.")
            return page.gettext("%(amount)s were given back.") % {"amount": money(given.amount)}
        except InvalidRequest as error:
            return error

    done = await page.site.writer.run(change)
    if isinstance(done, InvalidRequest):
        # Something changed between the two steps. The first step says what.
        page.form.values.pop("once")
        await _facts(page, user, kind, amount, generation_id)
        page.form.add_error("", page.gettext("This is not possible any more. Nothing was changed."))
        return _render(page, user, 422)
    page.site.keys.invalidate(f"{accounts.ACCOUNT_PREFIX}{account_id}")
    return page.redirect(f"/admin/accounts/{account_id}", flash=done)


def _render(
    page: PageRequest, user: User, status: int = 200, *, facts: list[tuple[str, str]] | None = None, once: str = ""
) -> Response:
    wanted = CORRECTIONS[page.path_params["kind"]]
    return page.render(
        "admin/correction.html",
        status,
        person=user,
        wanted=wanted,
        facts=facts or [],
        once=once,
        most=MAX_REASON_LENGTH,
    )


# ── vouchers ──────────────────────────────────────────────────────────────────────────────────────────────


@page("/admin/vouchers", access="admin")
async def vouchers(page: PageRequest) -> Response:
    """Show the vouchers, of all batches or of one, newest first (keyset pagination)."""
    batch = page.query.get("batch", "")[:40].replace("\0", "").strip()
    before = _voucher_place(page.query.get("before", ""))
    found, place = await page.report(payments.voucher_page, MAX_VOUCHERS, before, batch or None)
    older = "" if place is None else f"{place[0]}-{place[1].hex()}"
    return page.render(
        "admin/vouchers.html", found=found, batch=batch, older=older, newer=before is not None,
        now_ms=page.site.clock.now_ms(),
    )  # fmt: skip


def _voucher_place(text: str) -> VoucherPlace | None:
    at_ms, _, key = text.partition("-")
    try:
        return int(at_ms[:18]), bytes.fromhex(key[:128])
    except ValueError:
        return None


@page("/admin/vouchers/cancel", access="admin")
async def cancel_page(page: PageRequest) -> Response:
    """Show what cancelling a voucher or a batch would do."""
    return await _render_cancel(page, page.query.get("voucher", ""), page.query.get("batch", ""))


@form("/admin/vouchers/cancel", access="admin", draft_fields=("note",))
async def cancel(page: PageRequest) -> Response:
    """Cancel a voucher or a batch. Redeemed vouchers stay as they are."""
    clock, admin_id, source = page.site.clock, page.member.user_id, page.client_ip
    key, batch, note = _key(page.form["voucher"]), page.form["batch"], page.form["note"]
    _check_note(page, is_required=True)
    if not page.form.is_valid:
        return await _render_cancel(page, page.form["voucher"], batch, 422)

    def change(connection: Connection) -> Cancelled | None:
        try:
            if key is not None:
                return corrections.cancel_voucher(connection, clock, admin_id, key, note, source=source)
            return corrections.cancel_batch(connection, clock, admin_id, batch, note, source=source)
        except InvalidRequest:
            return None

    done = await page.site.writer.run(change)
    if done is None:
        return not_found(page)
    n_ = page.ngettext
    message = n_("%(num)d voucher was cancelled.", "%(num)d vouchers were cancelled.", done.count) % {"num": done.count}
    if done.redeemed:
        kept = n_("%(num)d was redeemed before.", "%(num)d were redeemed before.", done.redeemed)
        message = f"{message} {kept % {'num': done.redeemed}}"
    return page.redirect("/admin/vouchers", flash=message, kind="good" if done.count else "warn")


async def _render_cancel(page: PageRequest, voucher: str, batch: str, status: int = 200) -> Response:
    key = _key(voucher)
    read: Callable[[Connection], list[Voucher]]
    if key is not None:
        read = lambda c: [found] if (found := payments.find_voucher(c, key)) is not None else []  # noqa: E731
    else:
        read = lambda c: [one for _, one in payments.vouchers_of_batch(c, batch[:40])]  # noqa: E731
    found = await page.report(read)
    if not found:
        return not_found(page)
    open_ones = [one for one in found if one.redeemed_ms is None and one.cancelled_ms is None]
    context: dict[str, Any] = {
        "voucher": voucher if key is not None else "",
        "batch": "" if key is not None else batch,
        "name": f"…-{found[0].hint}" if key is not None else batch,
        "count": len(open_ones),
        "value": sum(one.amount for one in open_ones),
        "redeemed": sum(one.redeemed_ms is not None for one in found),
        "most": MAX_REASON_LENGTH,
    }
    return page.render("admin/cancel.html", status, **context)


def _key(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text[:128]) or None
    except ValueError:
        return None


HANDLERS: list[Handler] = [correction, correct, vouchers, cancel_page, cancel]
