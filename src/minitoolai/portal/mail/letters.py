"""Texts of the e-mails to users, in the language of the page or of the user."""

from __future__ import annotations

from email.utils import formataddr, parseaddr

import msgspec

from minitoolai.accounts.mail import Letter
from minitoolai.accounts.users import Compose, Purpose
from minitoolai.core.catalog.shop import Shop
from minitoolai.portal.i18n import N_, translations

#: What a user does who did not do what the e-mail reports, and where: with and without passwords.
ALARM, ALARM_PATH = N_("If this was not you, reset your password now and contact the operator:"), "/reset"
ALARM_WITHOUT_PASSWORDS = N_("If this was not you, sign out all other browsers here and contact the operator:")
BROWSERS_PATH = "/account"


class Text(msgspec.Struct, frozen=True):
    """Subject, first paragraph, path of the link and last paragraph of an e-mail, in English.

    `alarm`: after the first paragraph, what a user does who did not do it; it has a link of its own. `%(email)s`
    stands for the address that the e-mail is about, `{secret}` in the path for the secret of the link.
    """

    subject: str
    words: str
    path: str = ""
    end: str = ""
    alarm: str = ""


TEXTS: dict[Purpose, Text] = {
    "signup": Text(
        N_("Confirm your e-mail address"),
        N_("Welcome! Open this link to activate your account. It is valid for two days:"),
        "/confirm?link={secret}",
        N_("If you did not sign up, ignore this email. Without this link, no account is created."),
    ),
    "known": Text(
        N_("You already have an account"),
        N_("Someone tried to sign up with this address, but it already has an account. Sign in here:"),
        "/signin",
        N_("If you forgot your password, you can reset it there. If this was not you, ignore this email."),
    ),
    "reset": Text(
        N_("Reset your password"),
        N_("Open this link to set a new password. It is valid for one hour:"),
        "/reset/new?link={secret}",
        N_("If you did not ask for this, ignore this email. Your password stays the same."),
    ),
    "changed": Text(
        N_("Your password was changed"),
        N_("Your password was changed, and all other browsers were signed out."),
        alarm=ALARM,
    ),
    "factor_on": Text(
        N_("Your second factor is on"),
        N_("Signing in to your account now requires a code from your authenticator app. All other browsers were "
           "signed out."),
        alarm=ALARM,
    ),
    "factor_off": Text(
        N_("Your second factor was removed"),
        N_("The authenticator app was removed from your account as a second factor."),
        alarm=ALARM,
    ),
    "recovery_codes": Text(
        N_("You have new recovery codes"),
        N_("New recovery codes were created for your account, and the old ones are no longer valid."),
        alarm=ALARM,
    ),
    "recovery_used": Text(
        N_("A recovery code was used"),
        N_("Someone signed in to your account with your password and a recovery code."),
        alarm=ALARM,
    ),
    "passkey_added": Text(
        N_("A passkey was added"),
        N_("A new passkey can sign in to your account from now on. All other browsers were signed out. If this was not "
           "you, remove it here and set a new password:"),
        "/account/passkeys",
    ),
    "passkey_removed": Text(
        N_("A passkey was removed"),
        N_("A passkey was removed from your account, and all other browsers were signed out. If this was not you, "
           "check your second factors here and set a new password:"),
        "/account/second-factor",
    ),
    "passkey_blocked": Text(
        N_("A passkey was blocked"),
        N_("A sign-in to your account was refused, because the counter of a passkey went backwards. There may be a "
           "copy of it. The passkey no longer works. Remove it here, and register your device again:"),
        "/account/passkeys",
    ),
    "reset_asked": Text(
        N_("Remove your second factor?"),
        N_("Someone who knows your password asked to remove all second factors from your account. Open this link to "
           "confirm or cancel. It is valid for one day:"),
        "/signin/recover?link={secret}",
        N_("Nothing changes without your confirmation. If you did not ask for this, cancel and set a new password."),
    ),
    "reset_waiting": Text(
        N_("Your second factor will be removed"),
        N_("All second factors will be removed from your account after a waiting period, as confirmed from this inbox. "
           "If you did not ask for this, stop it here now:"),
        "/signin/recover?link={secret}",
        N_("If you find your device or a recovery code, just sign in with it: that stops the removal, too. We repeat "
           "this email every day."),
    ),
    "reset_ready": Text(
        N_("You can remove your second factor now"),
        N_("The waiting period is over. Open this link within seven days to remove all second factors, or to stop it:"),
        "/signin/recover?link={secret}",
    ),
    "reset_stopped": Text(
        N_("Your second factor stays"),
        N_("The removal of your second factors was stopped."),
        alarm=N_("If this was not you, or if you did not ask for the removal, someone knows your password. Set a new "
                 "one here:"),
    ),
    "factors_reset": Text(
        N_("Your second factors were removed"),
        N_("All second factors were removed from your account, and all browsers were signed out. Sign in and set up a "
           "new one."),
        alarm=ALARM,
    ),
    "email_new": Text(
        N_("Confirm your new e-mail address"),
        N_("Open this link to confirm this as the new e-mail address of your account. It is valid for one day:"),
        "/account/email/confirm?link={secret}",
        N_("The address changes once you have confirmed it from both your new and your old inbox. If you did not "
           "ask for this, ignore this email."),
    ),
    "email_old": Text(
        N_("Confirm the change of your e-mail address"),
        N_("Someone asked to change the e-mail address of your account to %(email)s. Open this link to confirm or "
           "cancel the change. It is valid for one day:"),
        "/account/email/confirm?link={secret}",
        N_("Nothing changes without your confirmation. If you did not ask for this, someone knows your password: "
           "cancel the change and set a new password."),
    ),
    "email_known": Text(
        N_("This address already has an account"),
        N_("Someone tried to use this address for another account, but it already has an account. Sign in here:"),
        "/signin",
        N_("If this was not you, ignore this email."),
    ),
    "invitation": Text(
        N_("You are invited to join an account"),
        N_("%(email)s invites you to join their account. Open this link to accept. It is valid for seven days:"),
        "/invitation?link={secret}",
        N_("If you do not know the sender, ignore this email. Nothing happens without your consent."),
    ),
    "email_changed": Text(
        N_("Your e-mail address was changed"),
        N_("The e-mail address of your account is now %(email)s. If you did not make this change, contact the "
           "operator."),
    ),
}  # fmt: skip


def alarm_path(*, is_password_open: bool) -> str:
    """Return the path of the page that secures an account."""
    return ALARM_PATH if is_password_open else BROWSERS_PATH


def letter_composer(
    shop: Shop, site: str, lang: str, to: str, about: str = "", *, is_password_open: bool = True
) -> Compose:
    """Return what writes e-mails to this address. `site`: the server's address; `about`: the address in the text.

    Where only other providers sign in, there is no password to reset: an alarm leads to the browsers of the account.
    """
    translate = translations(lang).gettext

    def compose(purpose: Purpose, secret: str) -> Letter:
        text = TEXTS[purpose]
        words, path = translate(text.words), text.path
        if "%(email)s" in words:
            words %= {"email": about}
        if text.alarm:
            alarm = text.alarm if is_password_open else ALARM_WITHOUT_PASSWORDS
            words = f"{words} {translate(alarm)}"
            path = alarm_path(is_password_open=is_password_open)
        paragraphs = [words]
        if path:
            paragraphs.append(f"{site}/{lang}{path.format(secret=secret)}")
        if text.end:
            paragraphs.append(translate(text.end))
        subject, paragraphs = signed(shop, site, translate(text.subject), paragraphs)
        return Letter(to, subject, "\n\n".join(paragraphs) + "\n", sender_of(shop))

    return compose


def signed(shop: Shop, site: str, subject: str, paragraphs: list[str]) -> tuple[str, list[str]]:
    """Return subject and paragraphs with the shop's name and its signature, if it has a name of its own."""
    if not shop.is_own:
        return subject, paragraphs
    return f"{shop.name}: {subject}", [*paragraphs, f"-- \n{shop.name}\n{shop.support or site}"]


def sender_of(shop: Shop) -> str:
    """Return the shop's sender with a name; "" if the catalog names none."""
    name, address = parseaddr(shop.mail_from)
    return formataddr((name or shop.name, address)) if address else ""
