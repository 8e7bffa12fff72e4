"""The second factor of the user: set it up with a QR code, renew its recovery codes, remove it."""

from __future__ import annotations

import base64
import binascii
import io

import msgspec
from markupsafe import Markup
from starlette.responses import Response

from minitoolai.accounts import totp
from minitoolai.portal.pages.account import wait_to_prove_s
from minitoolai.portal.pages.auth import email_composer, wrong_code
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import SECOND_FACTOR_PATH, Handler, form, page, too_many_requests
from minitoolai.storage.tables import second_factors

#: How long a secret that was shown may be confirmed.
SETUP_MS = 3600 * 1000
SETUP = "second factor setup"


class Setup(msgspec.Struct, frozen=True):
    """A secret that is shown but not confirmed yet. It travels in the form, signed, and is stored nowhere."""

    account_id: int
    secret: str
    until_ms: int


@page(SECOND_FACTOR_PATH, access="user", action="self")
async def second_factor(page: PageRequest) -> Response:
    """Show the state of the second factor, or a new secret to set it up."""
    return await _render(page)


async def _render(page: PageRequest, status: int = 200, secret: bytes | None = None) -> Response:
    factor = await page.site.factors.find(page.member.user_id)
    if factor is not None:
        left = await page.site.database.read_async(second_factors.count_recovery_codes, factor.account_id)
        return page.render("account/second_factor.html", status, factor=factor, left=left)
    secret = secret or totp.new_secret()
    until_ms = page.site.clock.now_ms() + SETUP_MS
    setup = Setup(page.member.user_id, base64.b64encode(secret).decode(), until_ms)
    text = totp.secret_text(secret)
    return page.render(
        "account/second_factor.html", status, factor=None, groups=[text[i : i + 4] for i in range(0, len(text), 4)],
        qr_code=qr_code(totp.provisioning_url(secret, page.member.email, page.site.shop.name)),
        setup=page.site.signer.pack(SETUP, msgspec.to_builtins(setup)),
    )  # fmt: skip


def qr_code(text: str) -> Markup:
    """Return a QR code as SVG, dark on white in any theme, because cameras expect that."""
    import segno  # 20 ms that only this page pays

    drawing = io.BytesIO()
    segno.make(text, error="m", micro=False).save(
        drawing, kind="svg", scale=5, dark="#000", light="#fff", xmldecl=False, svgns=False, nl=False, svgclass="qr",
        lineclass=None,
    )  # fmt: skip
    return Markup(drawing.getvalue().decode())  # noqa: S704 - drawn here, of numbers only


def _secret_of(page: PageRequest) -> bytes | None:
    """Return the secret of the form, if this user was shown it within the last hour."""
    value = page.site.signer.unpack(SETUP, page.form["setup"])
    if value is None:
        return None
    setup = msgspec.convert(value, Setup)
    if setup.account_id != page.member.user_id or setup.until_ms <= page.site.clock.now_ms():
        return None
    try:
        return base64.b64decode(setup.secret)
    except binascii.Error:
        return None


@form(f"{SECOND_FACTOR_PATH}/on", access="user", action="self")
async def turn_on(page: PageRequest) -> Response:
    """Store the second factor, if a code proves that the app knows the secret, and show the recovery codes once."""
    password, code = page.form.pop_password("password_on"), page.form.pop_password("code_on")
    secret = _secret_of(page)
    if secret is None:
        message = page.gettext("That took too long. Scan this new code.")
        return page.redirect(SECOND_FACTOR_PATH, flash=message, kind="warn")
    if wait_s := await wait_to_prove_s(page):
        return too_many_requests(page, wait_s)
    if not await page.site.users.verify_password(page.member, password):
        page.form.add_error("password_on", page.gettext("Wrong password."))
        return await _render(page, 422, secret)
    compose = email_composer(page, page.member.email)
    codes = await page.site.users.add_second_factor(page.member, secret, code, page.session_secret, compose)
    if codes is None:
        page.form.add_error("code_on", wrong_code(page))
        return await _render(page, 422, secret)
    return page.render("account/recovery_codes.html", codes=codes, is_new=True)


@form(f"{SECOND_FACTOR_PATH}/off", access="user", action="self")
async def turn_off(page: PageRequest) -> Response:
    """Remove the second factor, if password and code are right."""
    if page.site.is_second_factor_required and page.member.is_admin:
        page.form.add_error("", page.gettext("Admins must use a second factor, so it cannot be removed."))
        return await _render(page, 422)
    refusal, code = await _check_password(page)
    if refusal is not None:
        return refusal
    if not await page.site.users.remove_second_factor(page.member, code, email_composer(page, page.member.email)):
        page.form.add_error("code", wrong_code(page))
        return await _render(page, 422)
    return page.redirect("/account", flash=page.gettext("The second factor was removed."))


@form(f"{SECOND_FACTOR_PATH}/codes", access="user", action="self")
async def renew_codes(page: PageRequest) -> Response:
    """Replace the recovery codes, if password and code are right, and show them once."""
    refusal, code = await _check_password(page)
    if refusal is not None:
        return refusal
    codes = await page.site.users.renew_recovery_codes(page.member, code, email_composer(page, page.member.email))
    if codes is None:
        page.form.add_error("code", wrong_code(page))
        return await _render(page, 422)
    return page.render("account/recovery_codes.html", codes=codes, is_new=False)


async def _check_password(page: PageRequest) -> tuple[Response | None, str]:
    """Return the code of the form, and the response instead if the password is wrong or was tried too often."""
    password, code = page.form.pop_password("password_factor"), page.form.pop_password("code")
    if wait_s := await wait_to_prove_s(page):
        return too_many_requests(page, wait_s), code
    if await page.site.users.verify_password(page.member, password):
        return None, code
    page.form.add_error("password_factor", page.gettext("Wrong password."))
    return await _render(page, 422), code


HANDLERS: list[Handler] = [second_factor, turn_on, turn_off, renew_codes]
