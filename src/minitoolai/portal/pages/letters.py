"""The letters that the portal sends, in the language of whoever asked."""

from __future__ import annotations

from minitoolai.accounts.mail import Letter
from minitoolai.accounts.users import Compose, Purpose
from minitoolai.portal.request import Visit


def composer(visit: Visit, email: str) -> Compose:
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
