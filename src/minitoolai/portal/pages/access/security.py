"""The second factor of the user: set it up with a QR code, renew its recovery codes, remove it."""

from __future__ import annotations

import base64
import binascii
import io

import msgspec
from markupsafe import Markup
from starlette.responses import Response

from minitoolai.accounts.factors import totp
from minitoolai.portal.pages.access.auth import email_composer, wrong_code
from minitoolai.portal.proofs import prove, ways_to_prove
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import SECOND_FACTOR_PATH, Handler, form, page
from minitoolai.storage.tables import second_factors

#: How long a secret that was shown may be confirmed.
SETUP_MS = 3600 * 1000
SETUP = "second factor setup"


class Setup(msgspec.Struct, frozen=True):
    """A secret that is shown but not confirmed yet. It travels in the form, signed, and is stored nowhere."""

    account_id: int
    secret: str
    until_ms: int


class ShownSecret(msgspec.Struct, frozen=True):
    """A new secret as the page shows it: in groups of letters, as a QR code, and signed for the form."""

    groups: list[str]
    qr_code: Markup
    packed: str


@page(SECOND_FACTOR_PATH, access="user", action="self")
async def second_factor(page: PageRequest) -> Response:
    """Show the state of the second factor, or a new secret to set it up."""
    return await _render(page)


async def _render(page: PageRequest, status: int = 200, secret: bytes | None = None) -> Response:
    site, user_id = page.site, page.member.user_id
    factor = await site.factors.find(user_id)
    if factor is None:
        secret = secret or totp.new_secret()
    return page.render(
        "account/second_factor.html", status, factor=factor, setup=_setup(page, secret) if secret else None,
        left=await site.database.read_async(second_factors.count_recovery_codes, user_id),
        passkeys=await site.passkeys.of_user(page.member), reset=await site.factor_resets.of_user(page.member),
        ways=await ways_to_prove(page),
    )  # fmt: skip


def _setup(page: PageRequest, secret: bytes) -> ShownSecret:
    setup = Setup(page.member.user_id, base64.b64encode(secret).decode(), page.site.clock.now_ms() + SETUP_MS)
    text = totp.secret_text(secret)
    return ShownSecret(
        [text[i : i + 4] for i in range(0, len(text), 4)],
        qr_code(totp.provisioning_url(secret, page.member.email, page.site.shop.name)),
        page.site.signer.pack(SETUP, msgspec.to_builtins(setup)),
    )


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
    code, secret = page.form.pop_password("code_on"), _secret_of(page)
    if secret is None:
        message = page.gettext("That took too long. Scan this new code.")
        return page.redirect(SECOND_FACTOR_PATH, flash=message, kind="warn")
    evidence = await prove(page, "password_on", "code_proof")
    if isinstance(evidence, Response):
        return evidence
    if evidence is None:
        return await _render(page, 422, secret)
    compose = email_composer(page, page.member.email)
    codes = await page.site.users.add_second_factor(page.member, secret, code, page.session_secret, compose, evidence)
    if codes is None:
        page.form.add_error("code_on", wrong_code(page))
        return await _render(page, 422, secret)
    return page.render("account/recovery_codes.html", codes=codes, is_new=True)


@form(f"{SECOND_FACTOR_PATH}/off", access="user", action="self")
async def turn_off(page: PageRequest) -> Response:
    """Remove the authenticator app, if the user proves who they are."""
    if page.site.requires_second_factor(page.member) and not await page.site.passkeys.of_user(page.member):
        page.form.add_error("", page.gettext("You must have a second factor, so the last one cannot be removed."))
        return await _render(page, 422)
    evidence = await prove(page, "password_factor", "code")
    if isinstance(evidence, Response):
        return evidence
    compose = email_composer(page, page.member.email)
    if evidence is None or not await page.site.users.remove_second_factor(page.member, evidence, compose):
        if page.form.is_valid:
            page.form.add_error("code", wrong_code(page))
        return await _render(page, 422)
    return page.redirect("/account", flash=page.gettext("The second factor was removed."))


@form(f"{SECOND_FACTOR_PATH}/codes", access="user", action="self")
async def renew_codes(page: PageRequest) -> Response:
    """Replace the recovery codes, if the user proves who they are, and show them once."""
    if not page.member.has_second_factor:
        return page.redirect(SECOND_FACTOR_PATH)
    evidence = await prove(page, "password_factor", "code")
    if isinstance(evidence, Response):
        return evidence
    compose = email_composer(page, page.member.email)
    codes = evidence and await page.site.users.renew_recovery_codes(page.member, evidence, compose)
    if not codes:
        if page.form.is_valid:
            page.form.add_error("code", wrong_code(page))
        return await _render(page, 422)
    return page.render("account/recovery_codes.html", codes=codes, is_new=False)


HANDLERS: list[Handler] = [second_factor, turn_on, turn_off, renew_codes]
