"""`minitoolai secret …`: a new secret for what is made from now on; what was made before goes on working."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from minitoolai.cli.common import say
from minitoolai.core.clock import random_bytes
from minitoolai.core.errors import NotFound, SettingsError
from minitoolai.core.signing import secret_id
from minitoolai.paths import database_url, pepper
from minitoolai.settings import Settings


def keep_secret(path: Path, secret: bytes) -> None:
    """Write a secret that only its owner may read, durably; one that is there already stays."""
    try:
        with open(path, "xb", opener=lambda text, flags: os.open(text, flags, 0o600)) as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return


def rotate(settings: Settings, _: argparse.Namespace) -> None:
    """secret rotate: the file's secret is kept as a previous one, and a new one takes its place."""
    if settings.secret_key:
        raise SettingsError(
            "the secret is MINITOOLAI_SECRET_KEY: set it to a new one, and put the old one before what is in "
            "MINITOOLAI_SECRET_KEY_PREVIOUS, with a comma"
        )
    database_url(settings)
    old, path = pepper(settings), settings.data_dir / "secret.key"
    # Kept first: a crash in between leaves one secret under two names.
    keep_secret(settings.data_dir / f"secret-{secret_id(old)}.key", old)
    new, draft = random_bytes(32), path.with_name("secret.key.new")
    draft.unlink(missing_ok=True)
    keep_secret(draft, new)
    draft.replace(path)
    say(f"{secret_id(new)} signs from now on; {secret_id(old)} is still known. Restart every server and worker")


def list_(settings: Settings, _: argparse.Namespace) -> None:
    """secret list: names of secrets, never the secrets."""
    ring = pepper(settings)
    say(f"{secret_id(ring)}  signs")
    for secret in ring.previous:
        say(f"{secret_id(secret)}  still known")


def forget(settings: Settings, options: argparse.Namespace) -> None:
    """secret forget ID: keys, vouchers and links made under it work no longer."""
    path = settings.data_dir / f"secret-{options.id}.key"
    if path.name not in {found.name for found in settings.data_dir.glob("secret-*.key")}:
        raise NotFound(f"there is no previous secret {options.id}; minitoolai secret list says which there are")
    path.unlink()
    say(f"{options.id} is forgotten; restart every server and worker")
