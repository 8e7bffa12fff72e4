"""Sign up, confirm, sign in with password and second factor, sign out, reset the password.

No response reveals whether an e-mail address has an account.
"""

from __future__ import annotations

from urllib.parse import quote

from starlette.responses import Response

from minitoolai.accounts.addresses import check_email, email_forms
from minitoolai.accounts.keys import revoke_page_keys
from minitoolai.accounts.passwords import MAX_PASSWORD_LENGTH, MIN_PASSWORD_LENGTH, TRUSTED_S
from minitoolai.accounts.rate_limits import Limit, network_of
from minitoolai.accounts.users import Challenge, Compose, SignIn
from minitoolai.core.errors import InvalidRequest
from minitoolai.portal.mail.letters import letter_composer
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import SECOND_FACTOR_PATH, Handler, form, not_found, page, too_many_requests

#: Per network (an IPv4 address or a /64), which many people may share.
SIGNINS = Limit(30, 900.0)
#: Per network and account: too slow to guess a password. Also per browser that has signed in to the account before,
#: to which no other limit applies: it is never locked out by the guesses of others.
GUESSES = Limit(10, 900.0)
#: Per account from all addresses: too slow for a botnet, too.
GUESSES_ANYWHERE = Limit(100, 3600.0)
#: Codes of a second factor per account, after the right password, from all browsers that have not signed in before.
CODES_ANYWHERE = Limit(10, 3600.0)
EMAILS = Limit(10, 3600.0)
EMAILS_PER_ADDRESS = Limit(3, 3600.0)


@page("/signup")
async def signup_page(page: PageRequest) -> Response:
    """Show the sign-up form."""
    if not page.site.is_signup_open or not page.site.is_password_open:
        return not_found(page)
    return page.redirect("/keys") if page.user else page.render("access/signup.html")


@form("/signup")
async def signup(page: PageRequest) -> Response:
    """Send the confirmation link. The response is the same for every address."""
    if not page.site.is_signup_open or not page.site.is_password_open:
        return not_found(page)
    password = page.form.pop_password("password")
    email = read_email(page)
    read_new_password(page, password)
    if not page.form.is_valid:
        return page.render("access/signup.html", 422)
    if wait_s := await wait_for_email_s(page, email):
        return too_many_requests(page, wait_s)
    if not await can_mail(page, email):
        return page.render("access/signup.html", 503)
    delay_s = page.site.failures.delay_s(page.client_ip, "")
    await page.site.users.sign_up(email, password, page.browser_id, email_composer(page, email), delay_s)
    return page.render("access/sent.html", purpose="signup", email=email, is_sent=page.site.users.is_mail_configured)


@page("/confirm")
async def confirm_page(page: PageRequest) -> Response:
    """Show a button: opening a link must change nothing, mail scanners open links."""
    if not page.site.is_password_open:
        return not_found(page)
    secret = page.query.get("link", "")
    link = await page.site.users.link(secret)
    if link is None or link.purpose != "signup":
        return page.render("access/spent.html", 410, back="/signup")
    is_same_browser = page.site.users.is_same_browser(link, page.browser_id)
    return page.render("access/confirm.html", link=secret, email=link.email, is_same_browser=is_same_browser)


@form("/confirm")
async def confirm(page: PageRequest) -> Response:
    """Create the account and sign in."""
    if not page.site.is_password_open:
        return not_found(page)
    password, secret = page.form.pop_password("password"), page.form["link"]
    link = await page.site.users.link(secret)
    if link is None or link.purpose != "signup":
        return page.render("access/spent.html", 410, back="/signup")
    if wait_s := await _wait_to_guess_s(page, link.email):
        return too_many_requests(page, wait_s)
    visitor = await page.site.users.confirm(secret, page.browser_id, password, page.lang, page.device)
    if visitor is None:
        page.form.add_error("password", page.gettext("This is not the password you signed up with."))
        return page.render("access/confirm.html", 422, link=secret, email=link.email, is_same_browser=False)
    page.sign_in(visitor)
    return page.redirect("/keys", flash=page.gettext("Welcome! Your account is ready."))


@page("/signin")
async def signin_page(page: PageRequest) -> Response:
    """Show the sign-in form."""
    if page.user:
        return page.redirect_to_url(page.next_url("/keys"))
    return page.render("access/signin.html", next=page.next_url("/keys"))


@form("/signin")
async def signin(page: PageRequest) -> Response:
    """Start a new session, and end the one there was."""
    password = page.form.pop_password("password")
    if not page.site.is_password_open and page.pending_identity() is None:
        return not_found(page)
    email = email_forms(page.form["email"])[0]
    if wait_s := await _wait_to_guess_s(page, email):
        return too_many_requests(page, wait_s)
    is_known = bool(page.device_id(email))
    delay_s = TRUSTED_S if is_known else page.site.failures.begin(page.client_ip, email)
    outcome = await page.site.users.sign_in(page.form["email"], password, delay_s, page.device)
    if outcome is None:
        page.form.add_error(
            "", page.gettext("Wrong email or password. If you have just signed up, open the link in our email first.")
        )
        return page.render("access/signin.html", 422, next=page.next_url("/keys"))
    await page.site.throttle.forgive(_guess_key(page, email))
    if not is_known:
        page.site.failures.succeed(page.client_ip, email)
    if page.session_secret:
        await page.site.users.sign_out(page.session_secret)
    return admit_visitor(page, outcome, page.next_url("/keys"))


def admit_visitor(page: PageRequest, outcome: SignIn, next_url: str, *, flash: str = "") -> Response:
    """Start the session, or ask for the second factor first."""
    if isinstance(outcome, Challenge):
        page.keep_challenge(outcome)
        return page.redirect(f"/signin/code?next={quote(next_url)}")
    page.sign_in(outcome)
    return page.redirect_to_url(next_url, flash=flash)


@page("/signin/code")
async def code_page(page: PageRequest) -> Response:
    """Show the form for the code of the second factor."""
    if page.challenge() is None:
        return page.redirect("/signin")
    return await _render_code(page)


async def _render_code(page: PageRequest, status: int = 200) -> Response:
    challenge = page.challenge()
    can_use_passkey = challenge is not None and await page.site.passkeys.can_answer(challenge.account_id)
    return page.render("access/code.html", status, next=page.next_url("/keys"), can_use_passkey=can_use_passkey)


@form("/signin/code")
async def code(page: PageRequest) -> Response:
    """Start the session, if the code is right."""
    challenge = page.challenge()
    if challenge is None:
        message = page.gettext("That took too long. Enter your password again.")
        return page.redirect(f"/signin?next={quote(page.next_url('/keys'))}", flash=message, kind="warn")
    if wait_s := await _wait_for_code_s(page, challenge):
        return too_many_requests(page, wait_s)
    compose = email_composer(page, challenge.email)
    visitor = await page.site.users.answer(challenge, page.form.pop_password("code"), page.device, compose)
    if visitor is None:
        page.form.add_error("code", wrong_code(page))
        return await _render_code(page, 422)
    await page.site.throttle.forgive(_code_key(page, challenge))
    page.discard_challenge()
    page.sign_in(visitor)
    if visitor.has_used_recovery_code:
        message = page.gettext(
            "You used a recovery code. If you have lost your device, remove it here and set up a new one."
        )
        return page.redirect(SECOND_FACTOR_PATH, flash=message, kind="warn")
    return page.redirect_to_url(page.next_url("/keys"))


def wrong_code(page: PageRequest) -> str:
    """Return the message for a code that is not accepted."""
    return page.gettext("This code is wrong or has already been used. Wait for the next one.")


@form("/signout")
async def signout(page: PageRequest) -> Response:
    """End the session on the server and in the browser, and revoke the keys of the playground."""
    if page.session_secret:
        await page.site.users.sign_out(page.session_secret)
    if page.user is not None:
        now_ms, user_id = page.site.clock.now_ms(), page.user.user_id
        await page.site.writer.run(lambda connection: revoke_page_keys(connection, user_id, now_ms))
    page.sign_out()
    return page.redirect("/", flash=page.gettext("You are signed out."))


@page("/reset")
async def reset_page(page: PageRequest) -> Response:
    """Show the form that asks for the e-mail address."""
    if not page.site.is_password_open:
        return not_found(page)
    return page.render("access/reset.html")


@form("/reset")
async def reset(page: PageRequest) -> Response:
    """Send the reset link, if the address has an account. The response is the same if not."""
    if not page.site.is_password_open:
        return not_found(page)
    email = read_email(page)
    if not page.form.is_valid:
        return page.render("access/reset.html", 422)
    if wait_s := await wait_for_email_s(page, email):
        return too_many_requests(page, wait_s)
    if not await can_mail(page, email):
        return page.render("access/reset.html", 503)
    page.site.users.request_reset(email, email_composer(page, email))
    return page.render("access/sent.html", purpose="reset", email=email, is_sent=page.site.users.is_mail_configured)


@page("/reset/new")
async def reset_new_page(page: PageRequest) -> Response:
    """Show the form for the new password."""
    if not page.site.is_password_open:
        return not_found(page)
    secret = page.query.get("link", "")
    link = await page.site.users.link(secret)
    if link is None or link.purpose != "reset":
        return page.render("access/spent.html", 410, back="/reset")
    return page.render("access/reset_new.html", link=secret, email=link.email)


@form("/reset/new")
async def reset_new(page: PageRequest) -> Response:
    """Set the new password, end all sessions, and sign in."""
    if not page.site.is_password_open:
        return not_found(page)
    password, secret = page.form.pop_password("password"), page.form["link"]
    link = await page.site.users.link(secret)
    if link is None or link.purpose != "reset":
        return page.render("access/spent.html", 410, back="/reset")
    read_new_password(page, password)
    if not page.form.is_valid:
        return page.render("access/reset_new.html", 422, link=secret, email=link.email)
    outcome = await page.site.users.reset(secret, password, page.device)
    if outcome is None:
        return page.render("access/spent.html", 410, back="/reset")
    return admit_visitor(page, outcome, page.url("/keys"), flash=page.gettext("Your new password is set."))


def read_email(page: PageRequest) -> str:
    """Return the e-mail address of the form, or record the error of its field and return ""."""
    try:
        return check_email(page.form["email"])
    except InvalidRequest:
        page.form.add_error("email", page.gettext("Write an e-mail address like ann@example.com."))
        return ""


def read_new_password(page: PageRequest, password: str) -> None:
    """Check the length of a new password, and record the error of its field."""
    n_ = page.ngettext
    if len(password) < MIN_PASSWORD_LENGTH:
        message = n_(
            "It needs at least %(num)d character.", "It needs at least %(num)d characters.", MIN_PASSWORD_LENGTH
        )
        page.form.add_error("password", message % {"num": MIN_PASSWORD_LENGTH})
    elif len(password) > MAX_PASSWORD_LENGTH:
        message = n_("It has at most %(num)d character.", "It has at most %(num)d characters.", MAX_PASSWORD_LENGTH)
        page.form.add_error("password", message % {"num": MAX_PASSWORD_LENGTH})


async def _wait_to_guess_s(page: PageRequest, email: str) -> int:
    attempts = page.site.throttle
    if page.device_id(email):
        return await attempts.wait(_guess_key(page, email), GUESSES)
    return (
        await attempts.wait(f"signin {network_of(page.client_ip)}", SIGNINS)
        or await attempts.wait(_guess_key(page, email), GUESSES)
        or await attempts.wait(f"guess {email}", GUESSES_ANYWHERE)
    )


def _guess_key(page: PageRequest, email: str) -> str:
    device = page.device_id(email)
    return f"device {device}" if device else f"guess {network_of(page.client_ip)} {email}"


async def _wait_for_code_s(page: PageRequest, challenge: Challenge) -> int:
    """Return the seconds to wait before another code. Fewer tries than for a password: a code has six digits."""
    attempts = page.site.throttle
    if page.device_id(challenge.email):
        return await attempts.wait(_code_key(page, challenge), GUESSES)
    return await attempts.wait(f"code {network_of(page.client_ip)}", SIGNINS) or await attempts.wait(
        _code_key(page, challenge), CODES_ANYWHERE
    )


def _code_key(page: PageRequest, challenge: Challenge) -> str:
    device = page.device_id(challenge.email)
    return f"code device {device}" if device else f"code {challenge.account_id}"


async def wait_for_email_s(page: PageRequest, email: str) -> int:
    """Return the seconds to wait before another e-mail to this address, and count it."""
    attempts = page.site.throttle
    return await attempts.wait(f"letter {network_of(page.client_ip)}", EMAILS) or await attempts.wait(
        f"letter {email}", EMAILS_PER_ADDRESS
    )


async def can_mail(page: PageRequest, email: str) -> bool:
    """Return True if the mail server accepts this address now, or else record the error of its field.

    Asked before anything depends on the account, so that the response is the same for every address.
    """
    if await page.site.users.accepts_mail(email):
        return True
    page.form.add_error(
        "email",
        page.gettext("We cannot send email to this address right now. Check it, or try again in a few minutes."),
    )
    return False


# ── e-mails ───────────────────────────────────────────────────────────────────────────────────────────────


def email_composer(page: PageRequest, email: str, about: str = "") -> Compose:
    """Return what writes e-mails to this address in the language of the page, also after the request has ended."""
    # Never from the Host header: the client that asks for the letter would choose where its link leads.
    site = page.site
    is_open = site.is_password_open
    return letter_composer(site.shop, site.address(), page.lang, email, about, is_password_open=is_open)


HANDLERS: list[Handler] = [
    signup_page, signup, confirm_page, confirm, signin_page, signin, code_page, code, signout,
    reset_page, reset, reset_new_page, reset_new,
]  # fmt: skip
