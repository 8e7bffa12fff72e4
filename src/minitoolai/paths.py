"""Locate the catalog, the database and the secret key. Every command uses this, so it imports nothing heavy."""

from __future__ import annotations

import fcntl
import os
from importlib.resources import files
from pathlib import Path

from minitoolai.core.clock import random_bytes
from minitoolai.core.errors import SettingsError
from minitoolai.core.signing import SecretKeys
from minitoolai.settings import Settings
from minitoolai.storage.opening import POSTGRES, SQLITE


def catalog_path(settings: Settings) -> Path:
    """Return the path of the operator's catalog, or of the bundled one."""
    return Path(settings.catalog) if settings.catalog else Path(str(files("minitoolai") / "catalog.toml"))


def database_url(settings: Settings) -> str:
    """Return the address of the database: PostgreSQL if configured, else the SQLite file in the data folder.

    Create the data folder. Raise SettingsError if that fails or the address is invalid.
    """
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"cannot create the data folder {settings.data_dir}: {error.strerror}") from error
    url = str(settings.database_url)
    if not url:
        return f"{SQLITE}{settings.data_dir / 'minitoolai.db'}"
    if not url.startswith(POSTGRES):
        raise SettingsError(
            "MINITOOLAI_DATABASE_URL is not a PostgreSQL address; write it like "
            "postgresql://user:password@host:5432/minitoolai, or unset it to use a file in MINITOOLAI_DATA_DIR"
        )
    return url


def load_secret_keys(settings: Settings) -> SecretKeys:
    """Return the key ring that hashes API keys and signs links: from the settings, or created once in the data folder.

    Previous keys come from MINITOOLAI_SECRET_KEY_PREVIOUS and from the files secret-ID.key.
    """
    configured = [text.strip().encode() for text in settings.secret_key_previous.split(",") if text.strip()]
    stored = [path.read_bytes() for path in sorted(settings.data_dir.glob("secret-*.key"))]
    if settings.secret_key:
        # Also accept the key in the file from before the setting was made.
        first = settings.data_dir / "secret.key"
        return SecretKeys(
            settings.secret_key.encode(), [*configured, *stored, *([first.read_bytes()] if first.exists() else [])]
        )
    return SecretKeys(_load_or_create_secret(settings.data_dir / "secret.key"), [*configured, *stored])


def _load_or_create_secret(path: Path) -> bytes:
    """Return the secret in a file, creating it if missing. Processes that start together get the same one.

    Raise SettingsError if the file is empty.
    """
    if not path.exists():
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if not path.exists():
                _create_secret(path)
                os.fsync(folder)
        finally:
            os.close(folder)
    secret = path.read_bytes()
    if not secret:
        raise SettingsError(f"{path} is empty: restore it from a backup, or delete it and create new API keys")
    return secret


def _create_secret(path: Path) -> None:
    """Write a new secret atomically: the file is complete and on disk, or missing."""
    draft = path.with_name("secret.key.draft")
    draft.unlink(missing_ok=True)
    with open(draft, "xb", opener=lambda text, flags: os.open(text, flags, 0o600)) as file:
        file.write(random_bytes(32))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
