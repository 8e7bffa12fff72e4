"""`minitoolai account export` and `account delete`: what a customer may ask of whoever runs this."""

from __future__ import annotations

import argparse

import msgspec

from minitoolai.accounts import keys as account_service
from minitoolai.accounts import persons
from minitoolai.cli.common import CLOCK, read, say, write
from minitoolai.core.errors import InvalidRequest
from minitoolai.settings import Settings
from minitoolai.storage.persons import everything_of


def export(settings: Settings, options: argparse.Namespace) -> None:
    """account export EMAIL: one JSON object on standard output."""
    account_id = read(settings, lambda c: account_service.require_account(c, options.email))
    found = read(settings, lambda c: everything_of(c, account_id))
    say(msgspec.json.format(msgspec.json.encode(found), indent=1).decode())


def delete(settings: Settings, options: argparse.Namespace) -> None:
    """account delete EMAIL --yes: InvalidRequest where it is not confirmed, or work is under way."""
    account_id = read(settings, lambda c: account_service.require_account(c, options.email))
    if not options.yes:
        raise InvalidRequest("this cannot be taken back; export the account first, then add --yes", param="--yes")
    if not write(settings, lambda c: persons.forget(c, account_id, CLOCK.now_ms())):
        raise InvalidRequest("requests of this account are under way; try again in a minute", param="email")
    say(f"account {account_id}: the person is forgotten, the books stay")
