"""`minitoolai migrate`."""

from __future__ import annotations

import argparse

from minitoolai.cli.common import Commands, add_command, prepare, say
from minitoolai.paths import database_url
from minitoolai.settings import Settings
from minitoolai.storage.opening import migrate


def add_migrate(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `migrate`."""
    add_command(commands, "migrate", "bring the database to the newest schema", migrate_database, "migrate")


def migrate_database(settings: Settings, _: argparse.Namespace) -> None:
    """Run the migrations that have not run, and print both revisions."""
    before, after = migrate(database_url(settings))
    prepare(settings)
    say(f"already at {after}" if before == after else f"migrated from {before or 'nothing'} to {after}")
