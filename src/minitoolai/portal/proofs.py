"""Ask a signed-in user to prove again who they are: by password and second factor, or by a passkey alone."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from minitoolai.accounts.factors.passkeys import PasskeyProof
from minitoolai.accounts.factors.second_factors import Evidence, PasswordEvidence
from minitoolai.accounts.users import digest
from minitoolai.portal.pages.access.auth import GUESSES, email_composer, wrong_code
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import too_many_requests

#: A user without password proves nothing more for this long after a sign-in with another provider.
FRESH_MS = 600 * 1000
#: The field that a script fills with the signature of a passkey.
PASSKEY_FIELD = "passkey"


async def prove(page: PageRequest, password_field: str, code_field: str) -> Evidence | Response | None:
    """Return what the form proves, for the caller to consume. None: the errors are in the form. A response: too often.

    A user with a second factor proves it, too. A passkey proves everything.
    """
    password, code = page.form.pop_password(password_field), page.form.pop_password(code_field)
    if wait_s := await wait_to_prove_s(page):
        return too_many_requests(page, wait_s)
    if page.form[PASSKEY_FIELD] and page.site.passkeys.relying_party is not None:
        proof = await verify_passkey(page, page.form.pop_password(PASSKEY_FIELD))
        if proof is None:
            page.form.add_error(code_field if page.member.has_second_factor else password_field, wrong_passkey(page))
        return proof
    if await page.site.users.has_password(page.member):
        if not await page.site.users.verify_password(page.member, password):
            page.form.add_error(password_field, page.gettext("Wrong password."))
            return None
    elif not page.member.has_second_factor and not await is_fresh(page):
        page.form.add_error(
            "", page.gettext("For your safety, sign in again first. Then come back within ten minutes.")
        )
        return None
    if not page.member.has_second_factor:
        return PasswordEvidence()
    code_proof = await page.site.factors.verify(page.member.user_id, code)
    if code_proof is None:
        page.form.add_error(code_field, wrong_code(page))
    return code_proof


async def verify_passkey(page: PageRequest, credential: str) -> PasskeyProof | None:
    """Return the proof that the signed-in user has just used a passkey of their own."""
    user_id = page.member.user_id
    outcome = await page.site.passkeys.verify("confirm", page.browser_id, credential, user_id)
    if isinstance(outcome, PasskeyProof):
        return outcome
    await report_refusal(page, *outcome)
    return None


async def report_refusal(page: PageRequest, refusal: str, user_id: int) -> None:
    """Tell the user of a passkey that it was blocked, because there may be a copy of it."""
    if refusal != "cloned":
        return
    user = await page.site.users.find(user_id)
    if user is not None:
        page.site.users.send(email_composer(page, user.email)("passkey_blocked", ""))


def wrong_passkey(page: PageRequest) -> str:
    """Return the message for a passkey that is not accepted."""
    return page.gettext("This passkey was not accepted. Try again, or use another way.")


async def is_fresh(page: PageRequest) -> bool:
    """Return True if this session began a few minutes ago."""
    own, since_ms = digest(page.session_secret), page.site.clock.now_ms() - FRESH_MS
    sessions = await page.site.users.sessions(page.member)
    return any(one.secret_hash == own and one.created_ms > since_ms for one in sessions)


async def wait_to_prove_s(page: PageRequest) -> int:
    """Return the seconds to wait before another try of the password or of a code, and count the try."""
    # By the account alone: a session is needed, so no other client can use this up.
    return await page.site.throttle.wait(f"password {page.member.user_id}", GUESSES)


async def confirm_password(page: PageRequest, field: str) -> Response | None:
    """Check that a field of the form is the user's password; a wrong one is an error of the form.

    Return a response only if the user has tried too often.
    """
    password = page.form.pop_password(field)
    if wait_s := await wait_to_prove_s(page):
        return too_many_requests(page, wait_s)
    if not await page.site.users.verify_password(page.member, password):
        page.form.add_error(field, page.gettext("Wrong password."))
    return None


class Ways(msgspec.Struct, frozen=True):
    """The ways in which a user can prove who they are, for the template `account/proof.html`."""

    has_password: bool
    can_use_passkey: bool


async def ways_to_prove(page: PageRequest) -> Ways:
    """Return the ways of the signed-in user."""
    user = page.member
    has_password = await page.site.users.has_password(user)
    return Ways(has_password, await page.site.passkeys.can_answer(user.user_id))
