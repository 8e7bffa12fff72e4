"""Settings to the portal's site: who carries letters, who takes cards."""

from __future__ import annotations

from minitoolai.accounts.keys import KeyVerifier
from minitoolai.accounts.mail import LogMailer, Mailer, SmtpMailer
from minitoolai.accounts.users import Passwords, Users
from minitoolai.availability import Reports
from minitoolai.billing.audit import Auditor
from minitoolai.billing.stripe import Checkout
from minitoolai.core.clock import Clock
from minitoolai.core.errors import SettingsError
from minitoolai.portal.site import Site
from minitoolai.settings import Settings
from minitoolai.storage.database import Database
from minitoolai.storage.writer import Writer


def make_site(
    settings: Settings,
    database: Database,
    writer: Writer,
    clock: Clock,
    keys: KeyVerifier,
    reports: Reports,
    auditor: Auditor,
    secret_key: bytes,
) -> Site:
    """Everything behind the pages. SettingsError where the mail is set up halfway."""
    return Site(
        database=database,
        writer=writer,
        clock=clock,
        users=Users(database, writer, Passwords(), make_mailer(settings), clock),
        keys=keys,
        reports=reports,
        auditor=auditor,
        checkout=make_checkout(settings, database, writer, clock),
        secret_key=secret_key,
        public_url=settings.public_url.rstrip("/"),
        open_to_all=settings.signup,
        requests_per_minute=settings.requests_per_minute,
        waiting_pictures=settings.image_queue,
        tries_factor=settings.tries_factor,
    )


def make_mailer(settings: Settings) -> Mailer:
    """Who carries letters. SettingsError where links in them would depend on what a stranger's request says."""
    if not settings.smtp_url:
        return LogMailer()
    if not settings.public_url:
        raise SettingsError("MINITOOLAI_SMTP_URL needs MINITOOLAI_PUBLIC_URL: links in letters begin with it")
    return SmtpMailer(settings.smtp_url, settings.mail_from)


def make_checkout(settings: Settings, database: Database, writer: Writer, clock: Clock) -> Checkout | None:
    """Payments by card, where a key is set."""
    if not settings.stripe_secret_key:
        return None
    return Checkout(
        database,
        writer,
        clock,
        key=settings.stripe_secret_key,
        webhook_secret=settings.stripe_webhook_secret,
        api_url=settings.stripe_api_url,
    )
