"""Sign up, confirm, sign in, sign out, reset the password; and the e-mails with their links.

No response reveals whether an e-mail address has an account.
"""

from __future__ import annotations

from starlette.responses import Response

from minitoolai.accounts.addresses import check_email, email_forms
from minitoolai.accounts.keys import revoke_page_keys
from minitoolai.accounts.mail import Letter
from minitoolai.accounts.passwords import MAX_PASSWORD_LENGTH, MIN_PASSWORD_LENGTH, TRUSTED_S
from minitoolai.accounts.rate_limits import Limit, network_of
from minitoolai.accounts.users import Compose, Purpose
from minitoolai.core.errors import InvalidRequest
from minitoolai.portal.request import PageRequest
from minitoolai.portal.routing import Handler, form, not_found, page, too_many_requests

#: Per network (an IPv4 address or a /64), which many people may share.
SIGNINS = Limit(30, 900.0)
#: Per network and account: too slow to guess a password. Also per browser that has signed in to the account before,
#: to which no other limit applies: it is never locked out by the guesses of others.
GUESSES = Limit(10, 900.0)
#: Per account from all addresses: too slow for a botnet, too.
GUESSES_ANYWHERE = Limit(100, 3600.0)
EMAILS = Limit(10, 3600.0)
EMAILS_PER_ADDRESS = Limit(3, 3600.0)


@page("/signup")
async def signup_page(page: PageRequest) -> Response:
    """Show the sign-up form."""
    if not page.site.is_signup_open:
        return not_found(page)
    return page.redirect("/keys") if page.user else page.render("access/signup.html")


@form("/signup")
async def signup(page: PageRequest) -> Response:
    """Send the confirmation link. The response is the same for every address."""
    if not page.site.is_signup_open:
        return not_found(page)
    password = page.form.pop_password("password")
    email = read_email(page)
    read_new_password(page, password)
    if not page.form.is_valid:
        return page.render("access/signup.html", 422)
    if wait_s := _wait_for_email_s(page, email):
        return too_many_requests(page, wait_s)
    delay_s = page.site.failures.delay_s(page.client_ip, "")
    await page.site.users.sign_up(email, password, page.browser_id, email_composer(page, email), delay_s)
    return page.render("access/sent.html", purpose="signup", email=email)


@page("/confirm")
async def confirm_page(page: PageRequest) -> Response:
    """Show a button: opening a link must change nothing, mail scanners open links."""
    secret = page.query.get("link", "")
    link = await page.site.users.link(secret)
    if link is None or link.purpose != "signup":
        return page.render("access/spent.html", 410, back="/signup")
    is_same_browser = page.site.users.is_same_browser(link, page.browser_id)
    return page.render("access/confirm.html", link=secret, email=link.email, is_same_browser=is_same_browser)


@form("/confirm")
async def confirm(page: PageRequest) -> Response:
    """Create the account and sign in."""
    password, secret = page.form.pop_password("password"), page.form["link"]
    link = await page.site.users.link(secret)
    if link is None or link.purpose != "signup":
        return page.render("access/spent.html", 410, back="/signup")
    if wait_s := _wait_to_guess_s(page, link.email):
        return too_many_requests(page, wait_s)
    visitor = await page.site.users.confirm(secret, page.browser_id, password, page.lang)
    if visitor is None:
        page.form.add_error("password", page.gettext("This is not the password that you chose when you signed up."))
        return page.render("access/confirm.html", 422, link=secret, email=link.email, is_same_browser=False)
    page.sign_in(visitor)
    return page.redirect("/keys", flash=page.gettext("Welcome! Your account is open. Make your first key here."))


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
    email = email_forms(page.form["email"])[0]
    if wait_s := _wait_to_guess_s(page, email):
        return too_many_requests(page, wait_s)
    is_known = bool(page.device_id(email))
    delay_s = TRUSTED_S if is_known else page.site.failures.begin(page.client_ip, email)
    visitor = await page.site.users.sign_in(page.form["email"], password, delay_s)
    if visitor is None:
        page.form.add_error("", page.gettext("This address and this password do not belong together."))
        return page.render("access/signin.html", 422, next=page.next_url("/keys"))
    page.site.throttle.reset(_guess_key(page, email))
    if not is_known:
        page.site.failures.succeed(page.client_ip, email)
    if page.session_secret:
        await page.site.users.sign_out(page.session_secret)
    page.sign_in(visitor)
    return page.redirect_to_url(page.next_url("/keys"))


@form("/signout")
async def signout(page: PageRequest) -> Response:
    """End the session on the server and in the browser, and revoke the keys of the playground."""
    if page.session_secret:
        await page.site.users.sign_out(page.session_secret)
    if page.user is not None:
        now_ms, account_id = page.site.clock.now_ms(), page.user.account_id
        await page.site.writer.run(lambda connection: revoke_page_keys(connection, account_id, now_ms))
    page.sign_out()
    return page.redirect("/", flash=page.gettext("You are signed out."))


@page("/reset")
async def reset_page(page: PageRequest) -> Response:
    """Show the form that asks for the e-mail address."""
    return page.render("access/reset.html")


@form("/reset")
async def reset(page: PageRequest) -> Response:
    """Send the reset link, if the address has an account. The response is the same if not."""
    email = read_email(page)
    if not page.form.is_valid:
        return page.render("access/reset.html", 422)
    if wait_s := _wait_for_email_s(page, email):
        return too_many_requests(page, wait_s)
    page.site.users.request_reset(email, email_composer(page, email))
    return page.render("access/sent.html", purpose="reset", email=email)


@page("/reset/new")
async def reset_new_page(page: PageRequest) -> Response:
    """Show the form for the new password."""
    secret = page.query.get("link", "")
    link = await page.site.users.link(secret)
    if link is None or link.purpose != "reset":
        return page.render("access/spent.html", 410, back="/reset")
    return page.render("access/reset_new.html", link=secret, email=link.email)


@form("/reset/new")
async def reset_new(page: PageRequest) -> Response:
    """Set the new password, end all sessions, and sign in."""
    password, secret = page.form.pop_password("password"), page.form["link"]
    link = await page.site.users.link(secret)
    if link is None or link.purpose != "reset":
        return page.render("access/spent.html", 410, back="/reset")
    read_new_password(page, password)
    if not page.form.is_valid:
        return page.render("access/reset_new.html", 422, link=secret, email=link.email)
    visitor = await page.site.users.reset(secret, password)
    if visitor is None:
        return page.render("access/spent.html", 410, back="/reset")
    page.sign_in(visitor)
    return page.redirect("/keys", flash=page.gettext("Your new password is set."))


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


def _wait_to_guess_s(page: PageRequest, email: str) -> int:
    attempts = page.site.throttle
    if page.device_id(email):
        return attempts.wait_s(_guess_key(page, email), GUESSES)
    return (
        attempts.wait_s(f"signin {network_of(page.client_ip)}", SIGNINS)
        or attempts.wait_s(_guess_key(page, email), GUESSES)
        or attempts.wait_s(f"guess {email}", GUESSES_ANYWHERE)
    )


def _guess_key(page: PageRequest, email: str) -> str:
    device = page.device_id(email)
    return f"device {device}" if device else f"guess {network_of(page.client_ip)} {email}"


def _wait_for_email_s(page: PageRequest, email: str) -> int:
    attempts = page.site.throttle
    return attempts.wait_s(f"letter {network_of(page.client_ip)}", EMAILS) or attempts.wait_s(
        f"letter {email}", EMAILS_PER_ADDRESS
    )


# ── e-mails ───────────────────────────────────────────────────────────────────────────────────────────────


def email_composer(page: PageRequest, email: str) -> Compose:
    """Return what writes e-mails to this address in the language of the page, also after the request has ended."""
    _ = page.gettext
    # Never from the Host header: the client that asks for the letter would choose where its link leads.
    site = page.site.address()

    def url(path: str) -> str:
        return site + page.url(path)

    def compose(purpose: Purpose, secret: str) -> Letter:
        if purpose == "signup":
            subject = _("Confirm your e-mail address")
            words = _("Welcome! Follow this link to open your account. It is good for two days:")
            link = url(f"/confirm?link={secret}")
            end = _("If it was not you who signed up, do nothing: without this link there is no account.")
        elif purpose == "known":
            subject = _("You have an account already")
            words = _("Somebody signed up with this address, which has an account already. Sign in here:")
            link = url("/signin")
            end = _("If you forgot the password, the same page leads to a new one. If it was not you, do nothing.")
        elif purpose == "reset":
            subject = _("A new password")
            words = _("Follow this link to set a new password. It is good for one hour:")
            link = url(f"/reset/new?link={secret}")
            end = _("If it was not you who asked, do nothing: your password stays as it is.")
        else:
            subject = _("Your password was changed")
            words = _(
                "Your password was changed, and every other browser was signed out. If it was not you, go here now:"
            )
            link = url("/reset")
            end = ""
        return Letter(email, subject, f"{words}\n\n{link}\n\n{end}\n".rstrip() + "\n")

    return compose


HANDLERS: list[Handler] = [
    signup_page, signup, confirm_page, confirm, signin_page, signin, signout,
    reset_page, reset, reset_new_page, reset_new,
]  # fmt: skip
