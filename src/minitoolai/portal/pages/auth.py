"""Sign up, confirm, sign in, sign out, a new password. No answer tells whether an address is known here."""

from __future__ import annotations

from litestar.handlers import HTTPRouteHandler

from minitoolai.accounts.keys import check_email, revoke_page_keys
from minitoolai.accounts.mail import Letter
from minitoolai.accounts.rate_limits import Limit
from minitoolai.accounts.users import LONGEST, SHORTEST, Compose, Purpose
from minitoolai.core.errors import InvalidRequest
from minitoolai.portal.request import Answer, PageRequest
from minitoolai.portal.routing import form, nothing_here, page, too_often

# (merged from letters) The letters that the portal sends, in the language of whoever asked.


def composer(visit: PageRequest, email: str) -> Compose:
    """Writes letters to this address while the visit is over already."""
    _ = visit.gettext
    site = visit.origin

    def address(path: str) -> str:
        return site + visit.url(path)

    def compose(purpose: Purpose, secret: str) -> Letter:
        if purpose == "signup":
            subject = _("Confirm your e-mail address")
            words = _("Welcome! Follow this link to open your account. It is good for two days:")
            link = address(f"/confirm?link={secret}")
            end = _("If it was not you who signed up, do nothing: without this link there is no account.")
        elif purpose == "known":
            subject = _("You have an account already")
            words = _("Somebody signed up with this address, which has an account already. Sign in here:")
            link = address("/signin")
            end = _("If you forgot the password, the same page leads to a new one. If it was not you, do nothing.")
        elif purpose == "reset":
            subject = _("A new password")
            words = _("Follow this link to set a new password. It is good for one hour:")
            link = address(f"/reset/new?link={secret}")
            end = _("If it was not you who asked, do nothing: your password stays as it is.")
        else:
            subject = _("Your password was changed")
            words = _(
                "Your password was changed, and every other browser was signed out. If it was not you, go here now:"
            )
            link = address("/reset")
            end = ""
        return Letter(email, subject, f"{words}\n\n{link}\n\n{end}\n".rstrip() + "\n")

    return compose


#: By network address: many people may share one.
SIGNINS = Limit(30, 900.0)
#: By network address and account: a password cannot be guessed at this pace.
GUESSES = Limit(10, 900.0)
#: By account, from wherever: a botnet cannot either.
GUESSES_ANYWHERE = Limit(100, 3600.0)
LETTERS = Limit(10, 3600.0)
LETTERS_TO_ONE = Limit(3, 3600.0)


@page("/signup")
async def signup_page(visit: PageRequest) -> Answer:
    """The form for newcomers."""
    if not visit.site.open_to_all:
        return nothing_here(visit)
    return visit.redirect("/keys") if visit.user else visit.render("access/signup.html")


@form("/signup")
async def signup(visit: PageRequest) -> Answer:
    """Send the link; the answer is the same for every address."""
    if not visit.site.open_to_all:
        return nothing_here(visit)
    password = visit.form.secret("password")
    email = read_email(visit)
    read_new_password(visit, password)
    if not visit.form.is_good:
        return visit.render("access/signup.html", 422)
    if wait_s := _wait_for_letter(visit, email):
        return too_often(visit, wait_s)
    await visit.site.users.sign_up(email, password, visit.browser, composer(visit, email))
    return visit.render("access/sent.html", purpose="signup", email=email)


@page("/confirm")
async def confirm_page(visit: PageRequest) -> Answer:
    """A button, because looking at a link must change nothing."""
    secret = visit.query.get("link", "")
    link = await visit.site.users.link(secret)
    if link is None or link.purpose != "signup":
        return visit.render("access/spent.html", 410, back="/signup")
    asked_here = visit.site.users.asked_here(link, visit.browser)
    return visit.render("access/confirm.html", link=secret, email=link.email, asked_here=asked_here)


@form("/confirm")
async def confirm(visit: PageRequest) -> Answer:
    """Make the account and sign in."""
    password, secret = visit.form.secret("password"), visit.form["link"]
    link = await visit.site.users.link(secret)
    if link is None or link.purpose != "signup":
        return visit.render("access/spent.html", 410, back="/signup")
    if wait_s := _wait_to_guess(visit, link.email):
        return too_often(visit, wait_s)
    visitor = await visit.site.users.confirm(secret, visit.browser, password, visit.lang)
    if visitor is None:
        visit.form.refuse("password", visit.gettext("This is not the password that you chose when you signed up."))
        return visit.render("access/confirm.html", 422, link=secret, email=link.email, asked_here=False)
    visit.sign_in(visitor)
    return visit.redirect("/keys", said=visit.gettext("Welcome! Your account is open. Make your first key here."))


@page("/signin")
async def signin_page(visit: PageRequest) -> Answer:
    """The form for those who were here before."""
    if visit.user:
        return visit.send_to(visit.next("/keys"))
    return visit.render("access/signin.html", next=visit.next("/keys"))


@form("/signin")
async def signin(visit: PageRequest) -> Answer:
    """A new session, whatever session there was."""
    password = visit.form.secret("password")
    email = visit.form["email"].lower()
    if wait_s := _wait_to_guess(visit, email):
        return too_often(visit, wait_s)
    visitor = await visit.site.users.sign_in(email, password)
    if visitor is None:
        visit.form.refuse("", visit.gettext("This address and this password do not belong together."))
        return visit.render("access/signin.html", 422, next=visit.next("/keys"))
    visit.site.attempts.forgive(f"guess {visit.address} {email}")
    if visit.secret:
        await visit.site.users.sign_out(visit.secret)
    visit.sign_in(visitor)
    return visit.send_to(visit.next("/keys"))


@form("/signout")
async def signout(visit: PageRequest) -> Answer:
    """End the session here and in the browser."""
    if visit.secret:
        await visit.site.users.sign_out(visit.secret)
    if visit.user is not None:
        now_ms, account_id = visit.site.clock.now_ms(), visit.user.account_id
        await visit.site.writer.run(lambda connection: revoke_page_keys(connection, account_id, now_ms))
    visit.sign_out()
    return visit.redirect("/", said=visit.gettext("You are signed out."))


@page("/reset")
async def reset_page(visit: PageRequest) -> Answer:
    """Where should the link go?"""
    return visit.render("access/reset.html")


@form("/reset")
async def reset(visit: PageRequest) -> Answer:
    """Send the link, if there is anybody to send it to; the answer is the same."""
    email = read_email(visit)
    if not visit.form.is_good:
        return visit.render("access/reset.html", 422)
    if wait_s := _wait_for_letter(visit, email):
        return too_often(visit, wait_s)
    visit.site.users.ask_reset(email, composer(visit, email))
    return visit.render("access/sent.html", purpose="reset", email=email)


@page("/reset/new")
async def reset_new_page(visit: PageRequest) -> Answer:
    """The form for the new password."""
    secret = visit.query.get("link", "")
    link = await visit.site.users.link(secret)
    if link is None or link.purpose != "reset":
        return visit.render("access/spent.html", 410, back="/reset")
    return visit.render("access/reset_new.html", link=secret, email=link.email)


@form("/reset/new")
async def reset_new(visit: PageRequest) -> Answer:
    """Set it, end all sessions, and sign in."""
    password, secret = visit.form.secret("password"), visit.form["link"]
    link = await visit.site.users.link(secret)
    if link is None or link.purpose != "reset":
        return visit.render("access/spent.html", 410, back="/reset")
    read_new_password(visit, password)
    if not visit.form.is_good:
        return visit.render("access/reset_new.html", 422, link=secret, email=link.email)
    visitor = await visit.site.users.reset(secret, password)
    if visitor is None:
        return visit.render("access/spent.html", 410, back="/reset")
    visit.sign_in(visitor)
    return visit.redirect("/keys", said=visit.gettext("Your new password is set."))


def read_email(visit: PageRequest) -> str:
    """The address of the form; what is wrong with it stands next to its field."""
    try:
        return check_email(visit.form["email"])
    except InvalidRequest:
        visit.form.refuse("email", visit.gettext("Write an e-mail address like ann@example.com."))
        return ""


def read_new_password(visit: PageRequest, password: str) -> None:
    """Check the length; what is wrong stands next to the field."""
    n_ = visit.ngettext
    if len(password) < SHORTEST:
        words = n_("It needs at least %(num)d character.", "It needs at least %(num)d characters.", SHORTEST)
        visit.form.refuse("password", words % {"num": SHORTEST})
    elif len(password) > LONGEST:
        words = n_("It has at most %(num)d character.", "It has at most %(num)d characters.", LONGEST)
        visit.form.refuse("password", words % {"num": LONGEST})


def _wait_to_guess(visit: PageRequest, email: str) -> int:
    attempts = visit.site.attempts
    return (
        attempts.wait_s(f"signin {visit.address}", SIGNINS)
        or attempts.wait_s(f"guess {visit.address} {email}", GUESSES)
        or attempts.wait_s(f"guess {email}", GUESSES_ANYWHERE)
    )


def _wait_for_letter(visit: PageRequest, email: str) -> int:
    attempts = visit.site.attempts
    return attempts.wait_s(f"letter {visit.address}", LETTERS) or attempts.wait_s(f"letter {email}", LETTERS_TO_ONE)


HANDLERS: list[HTTPRouteHandler] = [
    signup_page, signup, confirm_page, confirm, signin_page, signin, signout,
    reset_page, reset, reset_new_page, reset_new,
]  # fmt: skip
