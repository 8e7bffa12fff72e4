"""`minitoolai secret`: rotate the secret under which keys are hashed and links are signed.

Keys, vouchers and links made under a previous secret stay valid until that secret is forgotten.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from minitoolai.accounts.factors.second_factors import encrypt_anew
from minitoolai.accounts.request_bodies import wrap_anew
from minitoolai.cli.common import Commands, add_command, add_group, say, write
from minitoolai.core.clock import random_bytes
from minitoolai.core.errors import NotFound, SettingsError
from minitoolai.core.private_files import private_opener
from minitoolai.core.signing import secret_id
from minitoolai.paths import accept_secret, existing_secret_keys, load_secret_keys
from minitoolai.settings import Settings


def add_secret(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add `secret rotate`, `list`, `forget` and `accept`."""
    about = "change the secret under which keys are hashed and links are signed"
    group = add_group(commands, "secret", about, "rotate")
    about = "create a new secret; what was made under the old one stays valid"
    add_command(group, "rotate", about, rotate, "secret rotate")
    add_command(group, "list", "list the IDs of the secrets, never the secrets", list_secrets, "secret list")
    about = "forget a previous secret; keys, vouchers and links made under it become invalid"
    parser = add_command(group, "forget", about, forget_secret, "secret forget 0a1b2c3d")
    parser.add_argument("id", help="ID of the secret, as printed by secret list")
    about = "serve without a secret that is lost; keys, vouchers and links made under it stay invalid"
    parser = add_command(group, "accept", about, accept_lost_secret, "secret accept 0a1b2c3d")
    parser.add_argument("id", help="ID of the lost secret, as the refusal of serve names it")


def rotate(settings: Settings, _: argparse.Namespace) -> None:
    """Keep the current secret as a previous one, and put a new one in its place."""
    if settings.secret_key:
        raise SettingsError(
            "the secret is MINITOOLAI_SECRET_KEY: set it to a new value, and prepend the old value and a comma to "
            "MINITOOLAI_SECRET_KEY_PREVIOUS"
        )
    old, path = load_secret_keys(settings), settings.data_dir / "secret.key"
    # Stored first: a crash in between leaves one secret under two names, never none.
    write_secret(settings.data_dir / f"secret-{secret_id(old)}.key", old)
    new, draft = random_bytes(32), path.with_name("secret.key.new")
    draft.unlink(missing_ok=True)
    write_secret(draft, new)
    draft.replace(path)
    # The database remembers the new one before the old one can be forgotten.
    load_secret_keys(settings)
    say(f"{secret_id(new)} signs from now on; {secret_id(old)} stays valid. Restart every server and worker.")


def list_secrets(settings: Settings, _: argparse.Namespace) -> None:
    """Print the IDs of the current and the previous secrets. Works without the secret that the database misses."""
    secrets = existing_secret_keys(settings)
    if secrets is None:
        raise NotFound(f"there is no secret in {settings.data_dir}; minitoolai serve creates one")
    say(f"{secret_id(secrets)}  current")
    for secret in secrets.previous:
        say(f"{secret_id(secret)}  previous")


def forget_secret(settings: Settings, options: argparse.Namespace) -> None:
    """Delete a previous secret."""
    path = settings.data_dir / f"secret-{options.id}.key"
    if path.name not in {found.name for found in settings.data_dir.glob("secret-*.key")}:
        raise NotFound(f"there is no previous secret {options.id}; see minitoolai secret list")
    # Imported here: the pages take a while to import, and few commands need them.
    from minitoolai.portal.log_export import encrypt_secrets_anew

    # Nothing that is encrypted may need the secret that is deleted.
    secrets = load_secret_keys(settings)
    renewals = (encrypt_anew, wrap_anew, encrypt_secrets_anew)
    write(settings, lambda connection: [renew(connection, secrets) for renew in renewals])
    path.unlink()
    say(f"{options.id} is forgotten. Restart every server and worker.")


def accept_lost_secret(settings: Settings, options: argparse.Namespace) -> None:
    """Serve under the present secret from now on, although the one that the database remembers is lost."""
    secrets = accept_secret(settings, options.id)
    say(
        f"{secret_id(secrets)} signs from now on. Every API key, unused voucher, link to an image and webhook "
        f"secret made under {options.id} is invalid: create new ones. Restart every server and worker."
    )


def write_secret(path: Path, secret: bytes) -> None:
    """Write a secret durably, readable by its owner only. An existing file is left as it is."""
    try:
        with open(path, "xb", opener=private_opener) as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return
