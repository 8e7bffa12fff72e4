"""Texts of the e-mails to users, in the language of the page or of the user."""

from __future__ import annotations

import msgspec

from minitoolai.accounts.mail import Letter
from minitoolai.accounts.users import Compose, Purpose
from minitoolai.portal.i18n import N_, translations


class Text(msgspec.Struct, frozen=True):
    """Subject, first paragraph, path of the link and last paragraph of an e-mail, in English.

    `%(email)s` stands for the address that the e-mail is about, `{secret}` in the path for the secret of the link.
    """

    subject: str
    words: str
    path: str = ""
    end: str = ""


TEXTS: dict[Purpose, Text] = {
    "signup": Text(
        N_("Confirm your e-mail address"),
        N_("Welcome! Follow this link to open your account. It is good for two days:"),
        "/confirm?link={secret}",
        N_("If it was not you who signed up, do nothing: without this link there is no account."),
    ),
    "known": Text(
        N_("You have an account already"),
        N_("Somebody signed up with this address, which has an account already. Sign in here:"),
        "/signin",
        N_("If you forgot the password, the same page leads to a new one. If it was not you, do nothing."),
    ),
    "reset": Text(
        N_("A new password"),
        N_("Follow this link to set a new password. It is good for one hour:"),
        "/reset/new?link={secret}",
        N_("If it was not you who asked, do nothing: your password stays as it is."),
    ),
    "changed": Text(
        N_("Your password was changed"),
        N_("Your password was changed, and every other browser was signed out. If it was not you, go here now:"),
        "/reset",
    ),
    "factor_on": Text(
        N_("Your second factor is on"),
        N_("From now on, signing in to your account needs a code of your authenticator app. Every other browser was "
           "signed out. If it was not you, set a new password here and write to the operator:"),
        "/reset",
    ),
    "factor_off": Text(
        N_("Your second factor was removed"),
        N_("The second factor of your account was removed: signing in needs the password only. If it was not you, go "
           "here now:"),
        "/reset",
    ),
    "recovery_codes": Text(
        N_("You have new recovery codes"),
        N_("New recovery codes were made for your account, and the old ones are no longer valid. If it was not you, go "
           "here now:"),
        "/reset",
    ),
    "recovery_used": Text(
        N_("A recovery code was used"),
        N_("Somebody signed in to your account with the password and a recovery code. If it was not you, go here now:"),
        "/reset",
    ),
    "email_new": Text(
        N_("Confirm your new e-mail address"),
        N_("This address is to become the one of your account. Follow this link to confirm it. "
           "It is good for one day:"),
        "/account/email/confirm?link={secret}",
        N_("The address changes once you have confirmed it here and in your old mailbox. If it was not you who asked, "
           "do nothing."),
    ),
    "email_old": Text(
        N_("Your e-mail address is to be changed"),
        N_("The address of your account is to be changed to %(email)s. Follow this link to confirm it or to stop it. "
           "It is good for one day:"),
        "/account/email/confirm?link={secret}",
        N_("Without your confirmation nothing changes. If it was not you who asked, somebody knows your password: stop "
           "it, and set a new password."),
    ),
    "email_known": Text(
        N_("This address has an account already"),
        N_("Somebody wants to use this address for another account, but it has an account of its own. Sign in here:"),
        "/signin",
        N_("If it was not you, do nothing."),
    ),
    "email_changed": Text(
        N_("Your e-mail address was changed"),
        N_("Your account has the address %(email)s from now on. If that is not right, write to the operator."),
    ),
}  # fmt: skip


def letter_composer(site: str, lang: str, to: str, about: str = "") -> Compose:
    """Return what writes e-mails to this address. `site`: the server's address; `about`: the address in the text."""
    translate = translations(lang).gettext

    def compose(purpose: Purpose, secret: str) -> Letter:
        text = TEXTS[purpose]
        paragraphs = [translate(text.words) % {"email": about} if "%(email)s" in text.words else translate(text.words)]
        if text.path:
            paragraphs.append(f"{site}/{lang}{text.path.format(secret=secret)}")
        if text.end:
            paragraphs.append(translate(text.end))
        return Letter(to, translate(text.subject), "\n\n".join(paragraphs) + "\n")

    return compose
