"""Passkeys: register, rename and remove them, and sign in with one."""

from __future__ import annotations

import hashlib

import msgspec
from starlette.responses import Response

from minitoolai.accounts.factors.passkeys import MAX_NAME_LENGTH, PasskeyProof
from minitoolai.accounts.rate_limits import Limit, network_of
from minitoolai.portal.pages.access.auth import email_composer
from minitoolai.portal.proofs import prove, report_refusal, ways_to_prove, wrong_passkey
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import PASSKEYS_PATH, Handler, form, not_found, page, too_many_requests
from minitoolai.storage.tables.passkeys import Passkey

#: Per network: challenges, which are written to the database, and answers.
CHALLENGES = Limit(60, 900.0)
CREDENTIAL = "credential"


def passkey_mark(passkey: Passkey) -> str:
    """Return what stands for a passkey in paths: its own ID may be a thousand characters long."""
    return hashlib.sha256(passkey.credential_id).hexdigest()[:24]


async def _wait_s(page: PageRequest) -> int:
    return await page.site.throttle.wait(f"passkey {network_of(page.client_ip)}", CHALLENGES)


# ── signing in ────────────────────────────────────────────────────────────────────────────────────────────


def _challenged_user(page: PageRequest) -> int | None:
    """Return the user of the password that this browser has proved, in the second step of a sign-in. None: any user."""
    challenge = page.challenge() if page.form["step"] == "code" else None
    return challenge.account_id if challenge else None


@form("/signin/passkey/begin")
async def begin_sign_in(page: PageRequest) -> Response:
    """Return the options with which a script asks the browser for a passkey."""
    if page.site.passkeys.relying_party is None:
        return not_found(page)
    if wait_s := await _wait_s(page):
        return too_many_requests(page, wait_s)
    options = await page.site.passkeys.begin("sign_in", page.browser_id, _challenged_user(page))
    return page.json(msgspec.Raw(options.encode()))


@form("/signin/passkey")
async def sign_in(page: PageRequest) -> Response:
    """Start a session, if a passkey has signed the challenge of this browser."""
    if page.site.passkeys.relying_party is None:
        return not_found(page)
    if wait_s := await _wait_s(page):
        return too_many_requests(page, wait_s)
    credential, user_id = page.form.pop_password(CREDENTIAL), _challenged_user(page)
    proof = await page.site.passkeys.verify("sign_in", page.browser_id, credential, user_id)
    if not isinstance(proof, PasskeyProof):
        await report_refusal(page, *proof)
        return _refused(page)
    visitor = await page.site.users.sign_in_with(proof, proof.user_id, page.device)
    if visitor is None:
        return _refused(page)
    if page.session_secret:
        await page.site.users.sign_out(page.session_secret)
    page.discard_challenge()
    page.sign_in(visitor)
    return page.redirect_to_url(page.next_url("/keys"))


def _refused(page: PageRequest) -> Response:
    page.form.add_error("", wrong_passkey(page))
    if page.form["step"] == "code" and page.challenge() is not None:
        return page.render("access/code.html", 422, next=page.next_url("/keys"), can_use_passkey=True)
    return page.render("access/signin.html", 422, next=page.next_url("/keys"))


# ── the account's passkeys ────────────────────────────────────────────────────────────────────────────────


@page(PASSKEYS_PATH, access="user", action="self")
async def list_passkeys(page: PageRequest) -> Response:
    """List the passkeys of the user, with a form to add one."""
    return await _render_list(page)


async def _render_list(page: PageRequest, status: int = 200) -> Response:
    return page.render(
        "account/passkeys.html", status, passkeys=await page.site.passkeys.of_user(page.member), mark=passkey_mark,
        is_possible=page.site.passkeys.relying_party is not None, longest=MAX_NAME_LENGTH,
        ways=await ways_to_prove(page),
    )  # fmt: skip


@form(f"{PASSKEYS_PATH}/begin", access="user", action="self")
async def begin(page: PageRequest) -> Response:
    """Ask the browser to make a passkey, if the user proves who they are."""
    party = page.site.passkeys.relying_party
    if party is None:
        return not_found(page)
    name = page.form["name"]
    evidence = await prove(page, "password_passkey", "code_passkey")
    if isinstance(evidence, Response):
        return evidence
    if evidence is None or not await page.site.users.consume(evidence):
        return await _render_list(page, 422)
    options = await page.site.passkeys.begin_registration(page.member, page.browser_id, page.site.shop.name)
    if options is None:
        message = page.gettext("You have as many passkeys as possible. Remove one first.")
        return page.redirect(PASSKEYS_PATH, flash=message, kind="bad")
    return page.render("account/passkey_add.html", options=options, name=name, origin=party.origin)


@form(f"{PASSKEYS_PATH}/add", access="user", action="self")
async def add(page: PageRequest) -> Response:
    """Store the passkey that the browser has made. Show recovery codes if it is the first second factor."""
    if page.site.passkeys.relying_party is None:
        return not_found(page)
    credential = page.form.pop_password(CREDENTIAL)
    added = await page.site.passkeys.finish_registration(
        page.member, page.browser_id, page.form["name"], credential, page.session_secret
    )
    if added is None:
        message = page.gettext("The passkey could not be added. Try again.")
        return page.redirect(PASSKEYS_PATH, flash=message, kind="bad")
    page.site.users.send(email_composer(page, page.member.email)("passkey_added", ""))
    if added.codes:
        return page.render("account/recovery_codes.html", codes=added.codes, is_new=True)
    return page.redirect(PASSKEYS_PATH, flash=page.gettext("The passkey was added."))


@form(f"{PASSKEYS_PATH}/challenge", access="user", action="self")
async def confirm_challenge(page: PageRequest) -> Response:
    """Return the options with which a script asks the browser to confirm an action with a passkey."""
    if page.site.passkeys.relying_party is None:
        return not_found(page)
    if wait_s := await _wait_s(page):
        return too_many_requests(page, wait_s)
    options = await page.site.passkeys.begin("confirm", page.browser_id, page.member.user_id)
    return page.json(msgspec.Raw(options.encode()))


async def _find(page: PageRequest) -> Passkey | None:
    known = await page.site.passkeys.of_user(page.member)
    return next((one for one in known if passkey_mark(one) == page.path_params["passkey"]), None)


@page(f"{PASSKEYS_PATH}/{{passkey}}", access="user", action="self")
async def show(page: PageRequest) -> Response:
    """Show one passkey, with forms to rename and remove it."""
    passkey = await _find(page)
    return not_found(page) if passkey is None else await _render(page, passkey)


async def _render(page: PageRequest, passkey: Passkey, status: int = 200) -> Response:
    return page.render(
        "account/passkey.html", status, passkey=passkey, mark=passkey_mark(passkey), longest=MAX_NAME_LENGTH,
        ways=await ways_to_prove(page),
    )  # fmt: skip


@form(f"{PASSKEYS_PATH}/{{passkey}}/rename", access="user", action="self")
async def rename(page: PageRequest) -> Response:
    """Rename a passkey."""
    passkey = await _find(page)
    if passkey is None or not await page.site.passkeys.rename(page.member, passkey.credential_id, page.form["name"]):
        return not_found(page)
    return page.redirect(PASSKEYS_PATH, flash=page.gettext("The passkey was renamed."))


@form(f"{PASSKEYS_PATH}/{{passkey}}/remove", access="user", action="self")
async def remove(page: PageRequest) -> Response:
    """Remove a passkey, if the user proves who they are."""
    passkey = await _find(page)
    if passkey is None:
        return not_found(page)
    is_last = len(await page.site.passkeys.of_user(page.member)) == 1
    has_app = await page.site.factors.find(page.member.user_id) is not None
    if is_last and not has_app and page.site.requires_second_factor(page.member):
        page.form.add_error("", page.gettext("You must have a second factor, so the last one cannot be removed."))
        return await _render(page, passkey, 422)
    evidence = await prove(page, "password_remove", "code_remove")
    if isinstance(evidence, Response):
        return evidence
    compose = email_composer(page, page.member.email)
    if evidence is None or not await page.site.users.remove_passkey(
        page.member, passkey.credential_id, evidence, page.session_secret, compose
    ):
        return await _render(page, passkey, 422)
    return page.redirect(PASSKEYS_PATH, flash=page.gettext("The passkey was removed."))


HANDLERS: list[Handler] = [
    begin_sign_in, sign_in, list_passkeys, begin, add, confirm_challenge, show, rename, remove,
]  # fmt: skip
